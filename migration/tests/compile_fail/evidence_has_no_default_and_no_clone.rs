use watershed_migration::Evidence;

fn twice(evidence: &Evidence) -> (Evidence, Evidence) {
    (Evidence::default(), evidence.clone())
}

fn main() {
    let _ = twice;
}
