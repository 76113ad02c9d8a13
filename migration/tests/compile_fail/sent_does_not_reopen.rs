use watershed_migration::source::{Quiesced, Sent};
use watershed_migration::{Now, SourceMarks, TargetMarks};

fn skip(quiesced: Quiesced, source: &SourceMarks, target: &TargetMarks) {
    // Not without having drained.
    let _ = quiesced.send(Now(0), source, target);
}

fn back(sent: Sent) -> Quiesced {
    sent.quiesced()
}

fn main() {
    let _ = (skip, back);
}
