use watershed_migration::SafeConfig;

fn main() {
    let _: SafeConfig = serde_json::from_str("{}").unwrap();
}
