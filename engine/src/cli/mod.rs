//! The command line: parses, runs one command, prints one result, and gives the exit status.
//!
//! With `--json` standard output carries exactly one JSON document, also when the command fails or its flags are
//! wrong; progress and warnings go to standard error. Exit status: 0 done, 1 failed or refused, 2 wrong usage.
//!
//! It uses the public API of this crate only, and leaves every decision to it.

mod args;
mod bench;
mod certificate;
mod certs;
mod data;
mod demo;
mod documents;
mod failure;
mod latency;
mod load;
mod node;
mod output;
mod place;
mod progress;
mod random;
mod shards;
mod status;
mod wal;

use std::process::ExitCode;

use clap::Parser;

use args::{Args, CertificateCommand, CertsCommand, Command, WalCommand};
use failure::Failure;
use output::{Answer, Output};

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => return wrong_usage(&error),
    };
    // A node says itself how its log lines look.
    if !matches!(args.command, Command::Node(_)) {
        log_to_stderr();
    }
    let output = Output::new(args.json);
    match run(args.command, &output) {
        Ok(answer) => output.answer(&answer),
        Err(failure) => output.failure(&failure),
    }
}

fn run(command: Command, output: &Output) -> Result<Answer, Failure> {
    match command {
        Command::Demo(options) => demo::run(&options, output),
        Command::Bench(options) => bench::run(&options, output),
        Command::BenchOpen(options) => bench::open_child(&options),
        Command::Load(options) => load::run(&options, output),
        Command::Put(options) => data::put(&options),
        Command::Get(options) => data::get(&options),
        Command::Delete(options) => data::delete(&options),
        Command::Scan(options) => data::scan(&options, output),
        Command::Status(options) => status::run(&options),
        Command::Shard(command) => shards::run(&command, output),
        Command::Rebalance(options) => shards::rebalance(&options, output),
        Command::Drain(options) => shards::drain(&options, output),
        Command::Node(options) => node::run(&options, output),
        Command::Certificate(CertificateCommand::Verify { file }) => certificate::verify(&file),
        Command::Certs(CertsCommand::Init(options)) => certs::init(&options),
        Command::Certs(CertsCommand::Issue(options)) => certs::issue(&options),
        Command::Wal(WalCommand::Verify { dir }) => wal::verify(&dir),
        Command::Wal(WalCommand::Dump { dir }) => wal::dump(&dir, output),
        Command::Wal(WalCommand::Repair { dry_run, dir }) => wal::repair(&dir, dry_run, output),
    }
}

/// Help and version are answers; anything else is wrong usage, in JSON where that was asked for.
fn wrong_usage(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        // Help that can't be printed has nobody to read it.
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    if std::env::args_os().any(|arg| arg == "--json") {
        let text = error.render().to_string();
        let message = text.trim().trim_start_matches("error: ");
        return Output::new(true).failure(&Failure::usage(message));
    }
    let _ = error.print();
    ExitCode::from(output::WRONG_USAGE)
}

/// Warnings of the engine, such as a torn tail that was cut, go to standard error; `RUST_LOG` asks for more.
fn log_to_stderr() {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    // A second subscriber can only mean that the embedding process set its own: that one stays.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .try_init();
}
