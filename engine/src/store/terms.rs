//! The term history of a store: which term a Seq was written in. Append-only, shared by cheap clones.

use std::sync::Arc;

use watershed_wal::{Seq, Term, TermStart};

use super::version::Version;

/// Entries ascending in first Seq and in term.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Terms(Arc<Vec<TermStart>>);

impl Terms {
    /// A history as it was stored; `None` if it does not ascend.
    pub(super) fn new(starts: Vec<TermStart>) -> Option<Self> {
        let ascends = starts
            .windows(2)
            .all(|pair| pair[0].first < pair[1].first && pair[0].term < pair[1].term);
        ascends.then(|| Self(Arc::new(starts)))
    }

    /// This history and more.
    pub(super) fn with(&self, more: &[TermStart]) -> Self {
        Self(Arc::new([self.0.as_slice(), more].concat()))
    }

    pub(super) fn last(&self) -> Option<Term> {
        self.0.last().map(|start| start.term)
    }

    pub(super) fn starts(&self) -> &[TermStart] {
        &self.0
    }

    /// The version of what `seq` wrote. Before the first entry: the zero term.
    pub(super) fn version(&self, seq: Seq) -> Version {
        let term = match self.0.last() {
            // Nearly always: what is read was written since this opening, or nothing else ever was.
            Some(last) if last.first <= seq => last.term,
            _ => match self.0.partition_point(|start| start.first <= seq) {
                0 => Term::default(),
                n => self.0[n - 1].term,
            },
        };
        Version { term, seq }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use watershed_wal::Epoch;

    #[test]
    fn a_seq_has_the_term_it_was_written_in() {
        let start = |epoch, first| TermStart {
            term: Term::new(Epoch(epoch), 1),
            first: Seq(first),
        };
        let terms = Terms::new(vec![start(1, 1), start(3, 10)]).unwrap();
        let terms = terms.with(&[start(4, 11)]);
        let epochs: Vec<_> = [0, 1, 9, 10, 11, 900]
            .map(|seq| terms.version(Seq(seq)).term.epoch.0)
            .into();
        assert_eq!(epochs, [0, 1, 1, 3, 4, 4]);
        assert_eq!(Terms::new(vec![start(2, 5), start(1, 9)]), None);
        assert_eq!(Terms::new(vec![start(1, 5), start(2, 5)]), None);
    }
}
