use watershed_migration::{Evidence, SourceMarks, TargetMarks};

fn forge(source: SourceMarks, target: TargetMarks) -> Evidence {
    Evidence {
        records: source.digest,
        source,
        target,
    }
}

fn main() {
    let _ = forge;
}
