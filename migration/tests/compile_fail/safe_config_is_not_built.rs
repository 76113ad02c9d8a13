use watershed_migration::{MigrationConfig, SafeConfig};

fn main() {
    let _ = SafeConfig {
        config: MigrationConfig::default(),
    };
}
