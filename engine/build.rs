//! Compiles the protocol of nodes on a network, without an installed `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    #[cfg(feature = "net")]
    {
        let files = protox::compile(
            [
                "watershed/client/v1/client.proto",
                "watershed/placement/v1/placement.proto",
            ],
            ["proto"],
        )?;
        tonic_prost_build::configure()
            .build_transport(false)
            .compile_fds(files)?;
    }
    Ok(())
}
