//! Submitting: the gate, the Seq and the queue in one hold of the mutex, and who leads the commit.

use std::sync::Arc;

use bytes::Bytes;

use super::core::Core;
use super::room::{Room, Use};
use super::state::{Entry, InstanceIndex, State, ThreadState, What};
use crate::codec::len64;
use crate::completion::{Completer, Completion};
use crate::error::LogError;
use crate::format::payload::Stored;
use crate::record::{Record, RecordKind, StartBody};
use crate::seqset::SeqRange;
use crate::sync::MutexGuard;
use crate::words::{Durability, Seq, Term};

/// Frames of others' buffered writes that a lead goes on with: each costs its own write a few microseconds.
const LEAD_MORE: usize = 8;

/// Whether a submit may hand the commit to its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inline {
    /// With the log idle the caller gets a [`Lead`]: no thread switch for a lone writer.
    Allowed,
    /// The log thread commits.
    Never,
}

/// A write that has its Seq and waits for its frame.
#[derive(Debug)]
#[must_use = "the error of a write is in its completion"]
pub struct Submitted {
    /// The term it was written in.
    pub term: Term,
    /// Its Seq; of `append_at` the highest.
    pub seq: Seq,
    /// Resolves when it is committed.
    pub done: Completion,
    /// The right to commit it on this thread, if the log was idle.
    pub lead: Option<Lead>,
}

impl Submitted {
    /// Commits the lead, if there is one, then blocks until the write is committed.
    ///
    /// # Errors
    /// As the write ended.
    pub fn wait(self) -> Result<Seq, LogError> {
        if let Some(lead) = self.lead {
            lead.commit();
        }
        self.done.wait()?;
        Ok(self.seq)
    }
}

/// The right to commit what was submitted on the submitting thread.
///
/// It is no duty: dropped, it hands the frame to the log thread; leaked, the log thread takes the frame when
/// the next write comes or `buffered_sync_every` has passed.
#[derive(Debug)]
pub struct Lead {
    core: Arc<Core>,
    instance: InstanceIndex,
    /// Pending writes taken when it was given: once they are taken, the lead is void.
    taken: u64,
    used: bool,
}

impl Lead {
    /// Writes and syncs the frame, unless the log thread took it first. Take no lock across this that a sink
    /// takes too.
    pub fn commit(mut self) {
        self.used = true;
        let mut state = self.core.lock();
        if state.taken == self.taken {
            state = self.core.commit_pending(state, Some(self.instance));
            // What came meanwhile and asks for no sync is written sooner than the log thread wakes up.
            for _ in 0..LEAD_MORE {
                if !state.is_quick() {
                    break;
                }
                state = self.core.commit_pending(state, Some(self.instance));
            }
            // The rest is the log thread's.
            if !state.pending.entries.is_empty() || state.closing {
                self.core.work.notify_one();
            }
        }
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        if self.used {
            return;
        }
        let state = self.core.lock();
        if state.taken == self.taken {
            self.core.work.notify_one();
        }
    }
}

impl Core {
    /// See [`crate::InstanceLog::submit`].
    pub(super) fn submit(
        self: &Arc<Self>,
        at: InstanceIndex,
        kind: RecordKind,
        body: Bytes,
        durability: Durability,
        inline: Inline,
    ) -> Result<Submitted, LogError> {
        self.check_body(&body)?;
        let stored = Stored::new(&body, self.options.compress_from_bytes);
        let (done, completer) = Completion::single();
        let mut entry = Entry {
            what: What::Record {
                instance: at,
                term: Term::default(),
                seq: Seq::ZERO,
                kind,
                body,
                stored,
                record: None,
            },
            durability,
            done: Some(completer),
        };
        let mut state = self.admit(&[Room::cost(&entry)])?;
        let instance = state.instance_mut(at)?;
        let Some(owner) = instance.owner.filter(|_| instance.gate_open) else {
            return Err(LogError::GateClosed);
        };
        let next = instance.assigned.next();
        instance.assigned = next;
        if let What::Record { term, seq, .. } = &mut entry.what {
            (*term, *seq) = (owner, next);
        }
        let lead = self.queue(&mut state, at, entry, inline);
        Ok(Submitted {
            term: owner,
            seq: next,
            done,
            lead,
        })
    }

    fn check_body(&self, body: &Bytes) -> Result<(), LogError> {
        let max = self.options.max_body_bytes;
        if body.len() > max {
            return Err(LogError::TooLarge {
                len: body.len(),
                max,
            });
        }
        Ok(())
    }

    /// Takes the mutex once there is room, on the device and in the queue, for records of these costs.
    fn admit(&self, costs: &[u64]) -> Result<MutexGuard<'_, State>, LogError> {
        let state = self.reserve(Use::Records, costs, 0)?;
        let cost: u64 = costs.iter().sum();
        let (pending, max) = (state.pending.bytes, self.options.max_pending_bytes);
        // A write larger than the bound goes alone.
        if pending > 0 && len64(pending).saturating_add(cost) > len64(max) {
            return Err(LogError::Busy { pending, max });
        }
        Ok(state)
    }

    /// Queues an entry, and says who commits it.
    fn queue(
        self: &Arc<Self>,
        state: &mut State,
        at: InstanceIndex,
        entry: Entry,
        inline: Inline,
    ) -> Option<Lead> {
        let alone = state.pending.entries.is_empty();
        self.enqueue(state, entry);
        if inline == Inline::Never || !alone || !state.can_write() {
            self.call_thread(state);
            return None;
        }
        if state.thread == ThreadState::Deep {
            // So that a lead that leaks is found.
            state.thread = ThreadState::Timed;
            self.work.notify_one();
        }
        Some(Lead {
            core: Arc::clone(self),
            instance: at,
            taken: state.taken,
            used: false,
        })
    }

    /// See [`crate::InstanceLog::start_term`].
    pub(super) fn start_term(
        self: &Arc<Self>,
        at: InstanceIndex,
        term: Term,
        at_least: Seq,
    ) -> Result<Submitted, LogError> {
        let (done, completer) = Completion::single();
        // The body's size is known before its contents are.
        let mut state = self.admit(&[4 * crate::format::frame::BLOCK])?;
        let instance = state.instance_mut(at)?;
        if let Some(current) = instance.last_term().filter(|&current| term <= current) {
            return Err(LogError::StaleTerm {
                shard: instance.shard,
                offered: term,
                current,
            });
        }
        if let Some(lost) = instance.lost().filter(|lost| term.opening <= lost.opening) {
            return Err(LogError::StaleTerm {
                shard: instance.shard,
                offered: term,
                current: Term::new(term.epoch, lost.opening),
            });
        }
        let covered = instance.cover_lost(at_least);
        let (served, end) = instance.end(at_least);
        let seq = end.max(at_least).next();
        let void = SeqRange::after(served, Seq(seq.0 - 1));
        let body = StartBody {
            instance: instance.id,
            void,
        };
        instance.owner = Some(term);
        instance.gate_open = true;
        instance.assigned = seq;
        let body = body.encode();
        let entry = Entry {
            what: What::Record {
                instance: at,
                term,
                seq,
                kind: RecordKind::Start,
                stored: Stored::Raw(body.clone()),
                body,
                record: None,
            },
            durability: Durability::Sync,
            done: Some(completer),
        };
        if let Some(covered) = covered {
            self.enqueue(&mut state, Entry::notes(vec![covered]));
        }
        let lead = self.queue(&mut state, at, entry, Inline::Never);
        Ok(Submitted {
            term,
            seq,
            done,
            lead,
        })
    }

    /// See [`crate::InstanceLog::append_at`].
    pub(super) fn append_at(
        self: &Arc<Self>,
        at: InstanceIndex,
        records: Vec<Record>,
    ) -> Result<Submitted, LogError> {
        let (term, seq) = records
            .iter()
            .map(|record| (record.term(), record.seq()))
            .max_by_key(|&(_, seq)| seq)
            .unwrap_or_default();
        let mut costs = Vec::with_capacity(records.len());
        let mut packed = Vec::with_capacity(records.len());
        for record in records {
            self.check_body(record.body())?;
            let stored = Stored::new(record.body(), self.options.compress_from_bytes);
            let entry = Entry {
                what: What::Record {
                    instance: at,
                    term: record.term(),
                    seq: record.seq(),
                    kind: record.kind(),
                    body: record.body().clone(),
                    stored,
                    record: Some(record),
                },
                durability: Durability::Sync,
                done: None,
            };
            costs.push(Room::cost(&entry));
            packed.push(entry);
        }
        let mut compared = std::collections::HashSet::new();
        loop {
            let mut state = self.admit(&costs)?;
            let (fresh, unseen) = state.classify(at, &packed, &compared)?;
            if unseen.is_empty() {
                let done = self.queue_received(&mut state, at, packed, &fresh)?;
                return Ok(Submitted {
                    term,
                    seq,
                    done,
                    lead: None,
                });
            }
            drop(state);
            // Written before: read off the mutex, and compared.
            for place in unseen {
                if let What::Record {
                    record: Some(record),
                    ..
                } = &packed[place].what
                {
                    self.compare(at, record)?;
                }
                compared.insert(place);
            }
        }
    }

    /// That the record here is the same.
    fn compare(&self, at: InstanceIndex, record: &Record) -> Result<(), LogError> {
        let range = SeqRange::single(record.seq());
        match self.read_some(at, range, 0) {
            Ok((here, _)) if here.iter().all(|here| here == record) => Ok(()),
            // Truncated: it was flushed here, so it was the same once.
            Err(LogError::Gap { .. }) => Ok(()),
            Ok(_) => Err(self.conflict(at, record)),
            Err(error) => Err(error),
        }
    }

    fn conflict(&self, at: InstanceIndex, record: &Record) -> LogError {
        let state = self.lock();
        match state.instance(at) {
            Ok(instance) => LogError::Conflict {
                shard: instance.shard,
                term: record.term(),
                seq: record.seq(),
            },
            Err(error) => error,
        }
    }

    fn queue_received(
        self: &Arc<Self>,
        state: &mut State,
        at: InstanceIndex,
        packed: Vec<Entry>,
        fresh: &[bool],
    ) -> Result<Completion, LogError> {
        let count = fresh.iter().filter(|&&fresh| fresh).count();
        // One more where some are here already: that they are durable too is known once a later frame is.
        let repeated = count < packed.len() || packed.is_empty();
        let (done, mut completers) = Completion::new(count + usize::from(repeated));
        let mut next = || completers.pop();
        for (mut entry, &fresh) in packed.into_iter().zip(fresh) {
            if !fresh {
                continue;
            }
            if let What::Record {
                record: Some(record),
                ..
            } = &entry.what
            {
                let instance = state.instance_mut(at)?;
                instance.arriving.insert(record.seq(), record.hash());
                instance.assigned = instance.assigned.max(record.seq());
            }
            entry.done = next();
            self.enqueue(state, entry);
        }
        if let Some(completer) = next() {
            self.enqueue(state, barrier(completer));
        }
        self.call_thread(state);
        Ok(done)
    }
}

fn barrier(done: Completer) -> Entry {
    Entry {
        what: What::Barrier,
        durability: Durability::Sync,
        done: Some(done),
    }
}

impl State {
    /// Whether all that is pending can be written now, without a sync.
    fn is_quick(&self) -> bool {
        let mut pending = self.pending.entries.iter();
        !self.closing
            && self.can_write()
            && !self.pending.entries.is_empty()
            && pending.all(|entry| entry.durability == Durability::Buffered)
    }

    /// Which of the records are new here, and which were written before and are not compared yet.
    ///
    /// Those at or below base and in void ranges are passed over; one on its way must have the same hash; one of
    /// a term that a later one had replaced at its Seq is refused.
    fn classify(
        &self,
        at: InstanceIndex,
        packed: &[Entry],
        compared: &std::collections::HashSet<usize>,
    ) -> Result<(Vec<bool>, Vec<usize>), LogError> {
        let instance = self.instance(at)?;
        if let Some(term) = instance.owner {
            return Err(LogError::OwnsShard {
                shard: instance.shard,
                term,
            });
        }
        let mut seen = std::collections::HashMap::new();
        let mut fresh = vec![false; packed.len()];
        let mut unseen = Vec::new();
        for (place, entry) in packed.iter().enumerate() {
            let What::Record {
                record: Some(record),
                ..
            } = &entry.what
            else {
                continue;
            };
            let (seq, hash) = (record.seq(), record.hash());
            if seq <= instance.base || instance.voids.contains(seq) {
                continue;
            }
            let arriving = instance.arriving.get(&seq).or_else(|| seen.get(&seq));
            if let Some(&other) = arriving {
                if other != hash {
                    return Err(LogError::Conflict {
                        shard: instance.shard,
                        term: record.term(),
                        seq,
                    });
                }
                continue;
            }
            if instance.has.contains(seq) {
                if !compared.contains(&place) {
                    unseen.push(place);
                }
                continue;
            }
            let replaced = instance
                .terms
                .iter()
                .find(|start| start.first <= seq && start.term > record.term());
            if let Some(start) = replaced {
                return Err(LogError::StaleTerm {
                    shard: instance.shard,
                    offered: record.term(),
                    current: start.term,
                });
            }
            seen.insert(seq, hash);
            fresh[place] = true;
        }
        Ok((fresh, unseen))
    }
}
