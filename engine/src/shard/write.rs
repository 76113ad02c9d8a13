//! The way of a write, from waiting for room to its acknowledgement.
//!
//! Room is bounded (backpressure, not memory growth). Conditions and the Seq are decided in one short section; the
//! commit runs outside it. From the moment a write has a Seq nothing waits for its caller: a dropped future leaves a
//! write that commits whole.

use bytes::Bytes;
use tokio::sync::SemaphorePermit;
use tokio::time::Instant;
use watershed_migration::NodeId;
use watershed_wal::{
    Appended, Completion, Durability, Epoch, Inline, LogError, RecordKind, Submitted,
};

use super::conditions::{Assign, Decision};
use super::direct::{Turn, lock_soon};
use super::once::{Entry, SessionUse, Standing};
use super::serving::Serving;
use super::sessions::Outcome;
use super::{Condition, Hosted, ROOM_UNITS, Role};
use crate::Error;
use crate::store::Version;
use crate::sync::lock;

/// One write, encoded and checked.
#[derive(Debug, Clone)]
pub(crate) struct WriteRequest {
    pub(crate) body: Bytes,
    pub(crate) conditions: Vec<Condition>,
    pub(crate) durability: Durability,
    /// Until when it may be taken; after that it fails as not applied.
    pub(crate) deadline: Option<Instant>,
    /// What it is to a session, where it may be sent again.
    pub(crate) session: Option<SessionUse>,
}

/// What became of a write that met no error.
#[derive(Debug)]
pub(crate) enum Written {
    /// Acknowledged, with this version.
    Done(Version),
    /// Not taken: the shard belongs to another node.
    Elsewhere {
        /// Who owns it.
        owner: NodeId,
        /// Since which epoch.
        epoch: Epoch,
    },
}

enum Attempt {
    Assigned(Submitted, Taken),
    Appended(Version, Turn, Taken),
    /// It was, before.
    Known(Version, Outcome),
    Decided(Decision),
    Refused(Serving),
}

/// What got a Seq.
struct Taken {
    /// Of the shard's room.
    units: usize,
    outcome: Outcome,
}

/// What is to get one.
struct Taking {
    body: Bytes,
    entry: Option<Entry>,
    outcome: Outcome,
}

/// What a body of `len` bytes takes of a shard's room.
pub(super) fn units(len: usize) -> usize {
    (1 + len / 1024).min(ROOM_UNITS)
}

/// Keeps what a record takes of the room until the store has applied it, and gives back the rest.
fn keep_room(room: Option<SemaphorePermit<'_>>, units: usize) {
    if let Some(kept) = room.and_then(|mut room| room.split(units)) {
        kept.forget();
    }
}

impl WriteRequest {
    /// The longest that its record's body may be; a condition that fails makes it short.
    fn record_len(&self) -> usize {
        let entry = self.session.map_or(0, SessionUse::entry_len);
        self.body.len() + entry
    }

    /// Its body with room for a session's entry.
    fn copy(&self) -> Vec<u8> {
        let mut copy = Vec::with_capacity(self.record_len());
        copy.extend_from_slice(&self.body);
        copy
    }
}

impl Taking {
    /// Notes that it has its Seq.
    fn taken(self, assign: &mut Assign, version: Version) -> Taken {
        assign.assigned(version.term, version.seq, &self.body);
        if let Some(entry) = self.entry {
            entry.taken(assign, version, self.outcome);
        }
        Taken {
            units: units(self.body.len()),
            outcome: self.outcome,
        }
    }
}

impl Hosted {
    /// Takes a write through to its acknowledgement, waiting while the shard is quiesced.
    pub(crate) async fn write(
        &self,
        request: &WriteRequest,
        inline: Inline,
    ) -> Result<Written, Error> {
        let room = self.take_room(request).await?;
        let mut parked = None;
        loop {
            if request.deadline.is_some_and(|end| end <= Instant::now()) {
                return Err(Error::DeadlineNotApplied { shard: self.shard });
            }
            let mut changes = None;
            let mut attempt = self.attempt(request, inline)?;
            if matches!(attempt, Attempt::Refused(Serving::Wait)) {
                // Subscribed before asking once more, so that no change is missed.
                changes = Some(self.changes());
                attempt = self.attempt(request, inline)?;
            }
            if !matches!(attempt, Attempt::Refused(_)) {
                parked = None;
            }
            match attempt {
                Attempt::Assigned(submitted, taken) => {
                    keep_room(room, taken.units);
                    let version = self.finish(submitted, request).await?;
                    return request.told(version, taken.outcome);
                }
                Attempt::Appended(version, turn, taken) => {
                    keep_room(room, taken.units);
                    let version = self.finish_appended(version, turn, request).await?;
                    return request.told(version, taken.outcome);
                }
                Attempt::Known(version, outcome) => {
                    return self.answer_again(request, version, outcome).await;
                }
                Attempt::Refused(Serving::Elsewhere { owner, epoch }) => {
                    return Ok(Written::Elsewhere { owner, epoch });
                }
                Attempt::Refused(_) => {
                    // It waits as one request, however often it asks.
                    parked.get_or_insert_with(|| self.park());
                    if let Some(mut changes) = changes {
                        self.before_deadline(request.deadline, changes.changed())
                            .await?
                            .ok();
                    }
                }
                Attempt::Decided(Decision::AfterApplied(seq)) => {
                    self.before_deadline(request.deadline, self.wait_applied(seq))
                        .await??;
                }
                Attempt::Decided(Decision::Fails {
                    index,
                    found,
                    after,
                }) => {
                    self.before_deadline(request.deadline, self.wait_applied(after))
                        .await??;
                    return Err(request.condition_failed(index, found));
                }
                Attempt::Decided(Decision::Holds) => {}
            }
        }
    }

    /// Waits for room. `None` where the room is closed: the log or the role then says why.
    async fn take_room(
        &self,
        request: &WriteRequest,
    ) -> Result<Option<SemaphorePermit<'_>>, Error> {
        let units = u32::try_from(units(request.record_len())).unwrap_or(u32::MAX);
        if let Ok(permit) = self.room.try_acquire_many(units) {
            return Ok(Some(permit));
        }
        let permit = self
            .before_deadline(request.deadline, self.room.acquire_many(units))
            .await?;
        Ok(permit.ok())
    }

    pub(super) fn release_room(&self, units: usize) {
        self.room.add_permits(units);
    }

    /// One try to get a Seq.
    fn attempt(&self, request: &WriteRequest, inline: Inline) -> Result<Attempt, Error> {
        let directly = request.durability == Durability::Buffered && inline == Inline::Allowed;
        // Copied before the section: it may be long.
        let copy = request.session.map(|_| request.copy());
        let mut assign = if directly {
            lock_soon(&self.assign)
        } else {
            lock(&self.assign)
        };
        match self.role() {
            Role::Owner { .. } => {}
            Role::Receiver => return Ok(Attempt::Refused(Serving::Wait)),
            Role::Frozen { owner, epoch } => {
                return Ok(Attempt::Refused(Serving::Elsewhere { owner, epoch }));
            }
            Role::Failed { reason } => {
                return Err(Error::ShardFailed {
                    shard: self.shard,
                    reason,
                });
            }
            Role::Closed => return Err(Error::Closed),
        }
        let no_room = self.waits_for_room();
        // Whether the gate is open is said when the Seq is assigned; before that it matters to these only.
        let looks = request.session.is_some() || !request.conditions.is_empty();
        if (no_room.is_some() || looks) && !self.log.gate_is_open() {
            return Ok(Attempt::Refused(Serving::Wait));
        }
        if let Some(error) = no_room {
            return Err(error);
        }
        if looks && Self::is_healing(self.heals()) {
            return Ok(Attempt::Refused(Serving::Wait));
        }
        let taking = match self.look(&mut assign, request, copy)? {
            Ok(taking) => taking,
            Err(not_taken) => return Ok(not_taken),
        };
        let body = taking.body.clone();
        let appended = if directly {
            self.log.append(RecordKind::Batch, body)
        } else {
            let submitted = self
                .log
                .submit(RecordKind::Batch, body, request.durability, inline);
            submitted.map(Appended::Queued)
        };
        match appended {
            Ok(Appended::Queued(submitted)) => {
                let version = Version {
                    term: submitted.term,
                    seq: submitted.seq,
                };
                let taken = taking.taken(&mut assign, version);
                Ok(Attempt::Assigned(submitted, taken))
            }
            Ok(Appended::Written(record)) => {
                let version = Version {
                    term: record.term(),
                    seq: record.seq(),
                };
                let taken = taking.taken(&mut assign, version);
                Ok(Attempt::Appended(version, self.take_turn(record), taken))
            }
            Err(error) => self.refusal(error).map(Attempt::Refused),
        }
    }

    /// What of a request is to be taken now, if anything is. Called while the section `assign` is held.
    fn look(
        &self,
        assign: &mut Assign,
        request: &WriteRequest,
        copy: Option<Vec<u8>>,
    ) -> Result<Result<Taking, Attempt>, Error> {
        let entry = match request.session {
            None => None,
            Some(session) => match self.standing(assign, session)? {
                Standing::AfterApplied(seq) => {
                    return Ok(Err(Attempt::Decided(Decision::AfterApplied(seq))));
                }
                Standing::Known(version, outcome) => {
                    return Ok(Err(Attempt::Known(version, outcome)));
                }
                Standing::New(entry) => Some(entry),
            },
        };
        let mut outcome = Outcome::Written;
        if !request.conditions.is_empty() {
            match self.decide(assign, &request.conditions)? {
                Decision::Holds => {}
                // That it failed is written: an answer which stays.
                Decision::Fails { index, found, .. } if entry.is_some() => {
                    outcome = Outcome::Failed { index, found };
                }
                other => return Ok(Err(Attempt::Decided(other))),
            }
        }
        let body = match (entry, copy) {
            (Some(entry), Some(copy)) => entry.ride(copy, outcome),
            _ => request.body.clone(),
        };
        Ok(Ok(Taking {
            body,
            entry,
            outcome,
        }))
    }

    /// Applies what was appended, or waits until another thread has.
    async fn finish_appended(
        &self,
        version: Version,
        turn: Turn,
        request: &WriteRequest,
    ) -> Result<Version, Error> {
        match turn {
            Turn::Here(record) if self.apply_here(&record) => Ok(version),
            Turn::Here(_) => Err(self.unknown_outcome(&LogError::Closed)),
            Turn::Queued(done) => {
                self.apply_queued();
                self.acknowledged(version, done, request).await
            }
        }
    }

    /// Commits where this thread leads, and waits for the acknowledgement.
    async fn finish(&self, submitted: Submitted, request: &WriteRequest) -> Result<Version, Error> {
        let version = Version {
            term: submitted.term,
            seq: submitted.seq,
        };
        if let Some(lead) = submitted.lead {
            lead.commit();
            self.apply_queued();
        }
        self.acknowledged(version, submitted.done, request).await
    }

    /// Waits for the acknowledgement.
    async fn acknowledged(
        &self,
        version: Version,
        done: Completion,
        request: &WriteRequest,
    ) -> Result<Version, Error> {
        let done = match request.deadline {
            None => done.await,
            Some(deadline) => match tokio::time::timeout_at(deadline, done).await {
                Ok(done) => done,
                Err(_) => {
                    return Err(Error::OutcomeUnknown {
                        shard: self.shard,
                        reason: "its deadline passed while it was being committed".into(),
                    });
                }
            },
        };
        done.map(|()| version)
            .map_err(|error| self.unknown_outcome(&error))
    }

    /// Why a write that has its Seq was not acknowledged.
    fn unknown_outcome(&self, error: &LogError) -> Error {
        if !matches!(error, LogError::Closed) || self.role() == Role::Closed {
            return Error::unknown(self.shard, error);
        }
        // Committed, and applied once the store is healed: who asks meanwhile reads the state before it.
        let reason = self
            .waits_for_room()
            .map(|reason| reason.to_string())
            .unwrap_or_else(|| "it is in the log, and its store could not take it".into());
        Error::OutcomeUnknown {
            shard: self.shard,
            reason,
        }
    }

    /// What `future` gives, unless the deadline comes first: then the request is not applied.
    pub(crate) async fn before_deadline<F: Future>(
        &self,
        deadline: Option<Instant>,
        future: F,
    ) -> Result<F::Output, Error> {
        match deadline {
            None => Ok(future.await),
            Some(deadline) => tokio::time::timeout_at(deadline, future)
                .await
                .map_err(|_| Error::DeadlineNotApplied { shard: self.shard }),
        }
    }
}
