use watershed_migration::SafeConfig;

fn main() {
    let _ = SafeConfig::default();
}
