use watershed_migration::Evidence;

fn main() {
    let _: Evidence = serde_json::from_str("{}").unwrap();
}
