//! A write of a session is carried out once, however often it is sent (rule 17).
//!
//! Whether it was taken before is decided where its Seq would be assigned, writes under way included. The decision falls
//! into one of these:
//!
//! | what is found | what is done |
//! |---|---|
//! | the session is not there | refused: nobody can say whether the write was taken |
//! | the number is at or below the session's low-water mark | refused: the client has its answer, or gave it up |
//! | the number's entry, or the write under way | the first answer, once it is as certain as the first would have been |
//! | too many numbers that are not settled | refused |
//! | none of it, and the conditions hold | taken, with its entry in the same record |
//! | none of it, and a condition fails | the entry alone is taken, and says which one failed |
//!
//! The last is a write, too, since a failed condition is an answer that must stay true: the client is told that its write
//! did not happen, while the same write, sent before, may still be on its way here. Were nothing kept, that one could find
//! the condition true a moment later and be carried out. A condition is not decided again for a write that was taken.
//!
//! An error behind the decision is [`Error::OutcomeUnknown`]; one before it says that this request was not carried out,
//! and nothing of the same write sent before: only its client knows of both.
//!
//! The sessions are read from the store when the first write of a session comes to an owner, and kept in memory from then
//! on. Writes without a session pay nothing for them.

use bytes::Bytes;
use tokio::time::Instant;
use watershed_migration::SessionId;
use watershed_migration::messages::SessionMark;
use watershed_wal::{BatchBuilder, Durability, Seq, append_put, appended_put_len};

use super::conditions::Assign;
use super::sessions::{LIMITS, Look, OPENING_LEN, Opening, Outcome, Place, Sessions, WRITTEN_LEN};
use super::{Hosted, WriteRequest, Written};
use crate::Error;
use crate::store::{INTERNAL_KEYSPACE, StoreError, Version};

/// What a write is to a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SessionUse {
    /// It opens one, and does nothing else.
    Open(SessionId),
    /// It is one of its writes.
    Write(SessionMark),
}

/// How a request stands that uses a session.
pub(super) enum Standing {
    /// Ask again once this Seq is applied.
    AfterApplied(Seq),
    /// It was taken before.
    Known(Version, Outcome),
    /// To be taken, with this entry.
    New(Entry),
}

/// The entry that rides in a request's record.
#[derive(Debug, Clone, Copy)]
pub(super) enum Entry {
    Opening(Opening),
    Written(Place),
}

impl SessionUse {
    /// How much its entry adds to a body, where no condition fails.
    pub(super) fn entry_len(self) -> usize {
        let (key, value) = match self {
            Self::Open(_) => OPENING_LEN,
            Self::Write(_) => WRITTEN_LEN,
        };
        appended_put_len(INTERNAL_KEYSPACE, key, value)
    }
}

impl Entry {
    /// The body of the record: what is written and the entry, or the entry alone where a condition failed.
    pub(super) fn ride(self, body: Vec<u8>, outcome: Outcome) -> Bytes {
        let (key, value) = match self {
            Self::Opening(opening) => opening.encode(),
            Self::Written(place) => place.encode(outcome),
        };
        let mut body = match outcome {
            Outcome::Written => body,
            Outcome::Failed { .. } => BatchBuilder::new().finish().into(),
        };
        append_put(&mut body, INTERNAL_KEYSPACE, &key, &value);
        body.into()
    }

    /// Notes that it has its Seq.
    pub(super) fn taken(self, assign: &mut Assign, version: Version, outcome: Outcome) {
        let Some(sessions) = &mut assign.sessions else {
            return;
        };
        match self {
            Self::Opening(opening) => sessions.opened(opening, version),
            Self::Written(place) => sessions.taken(place, version, outcome),
        }
    }
}

impl Hosted {
    /// Decides whether a request was taken before, while the section `assign` is held and the store is not healing.
    pub(super) fn standing(
        &self,
        assign: &mut Assign,
        session: SessionUse,
    ) -> Result<Standing, Error> {
        let sessions = match self.sessions(assign)? {
            Ok(sessions) => sessions,
            Err(seq) => return Ok(Standing::AfterApplied(seq)),
        };
        let shard = self.shard;
        let mark = match session {
            SessionUse::Write(mark) => mark,
            SessionUse::Open(session) => {
                let opening = sessions.place_for(session);
                let opening = opening.ok_or(Error::SessionExists { shard, session })?;
                return Ok(Standing::New(Entry::Opening(opening)));
            }
        };
        let session = mark.session;
        match sessions.look(&mark) {
            Look::UnknownSession => Err(Error::UnknownSession { shard, session }),
            Look::Settled { low_water } => Err(Error::Settled {
                shard,
                number: mark.number,
                low_water,
            }),
            Look::Full => Err(Error::SessionFull {
                shard,
                max: LIMITS.in_flight,
            }),
            Look::Known(version, outcome) => Ok(Standing::Known(version, outcome)),
            Look::New(place) => Ok(Standing::New(Entry::Written(place))),
        }
    }

    /// The sessions, read where they are not in memory; or the Seq to wait for before they can be.
    fn sessions<'a>(&self, assign: &'a mut Assign) -> Result<Result<&'a mut Sessions, Seq>, Error> {
        if assign.sessions.is_none() {
            let store = self.store()?;
            // What was assigned here uses no session yet; what came before this term is what must be in the store.
            let terms = self.log.terms();
            let began = terms.last().map_or(Seq::ZERO, |start| start.first);
            if store.applied().seq < began {
                return Ok(Err(began));
            }
            let entries = store.snapshot()?.internal_entries()?;
            let sessions = Sessions::load(LIMITS, entries)
                .map_err(|what| StoreError::damaged(store.dir(), what))?;
            assign.sessions = Some(sessions);
        }
        let sessions = assign.sessions.as_mut();
        Ok(Ok(sessions.expect("it was read a moment ago")))
    }

    /// The first answer to a write that was taken before, once it is committed and applied, and as durable as is asked now.
    pub(super) async fn answer_again(
        &self,
        request: &WriteRequest,
        version: Version,
        outcome: Outcome,
    ) -> Result<Written, Error> {
        let certain = async {
            self.wait_applied(version.seq).await?;
            if request.durability == Durability::Sync {
                let before = Seq(version.seq.0.saturating_sub(1));
                self.log.durable_past(before).await?;
            }
            Ok::<_, Error>(())
        };
        // It has its Seq: whatever goes wrong now says nothing of what becomes of it.
        match self.before_deadline(request.deadline, certain).await {
            Ok(Ok(())) => request.told(version, outcome),
            Ok(Err(error)) => Err(self.taken_but(error.to_string())),
            Err(_) => {
                Err(self.taken_but("its deadline passed while it was being committed".into()))
            }
        }
    }

    fn taken_but(&self, reason: String) -> Error {
        Error::OutcomeUnknown {
            shard: self.shard,
            reason,
        }
    }
}

impl WriteRequest {
    /// A request that opens a session and writes nothing else. It is durable when it is answered, as writes of the session
    /// may be.
    pub(crate) fn opening(session: SessionId, deadline: Option<Instant>) -> Self {
        Self {
            body: BatchBuilder::new().finish(),
            conditions: Vec::new(),
            durability: Durability::Sync,
            deadline,
            session: Some(SessionUse::Open(session)),
        }
    }

    /// What its client is told.
    pub(super) fn told(&self, version: Version, outcome: Outcome) -> Result<Written, Error> {
        match outcome {
            Outcome::Written => Ok(Written::Done(version)),
            Outcome::Failed { index, found } => Err(self.condition_failed(index, found)),
        }
    }

    pub(crate) fn condition_failed(&self, index: u32, found: Option<Version>) -> Error {
        let at = usize::try_from(index).ok();
        let condition = at.and_then(|at| self.conditions.get(at));
        Error::ConditionFailed {
            key: condition.map_or_else(Bytes::new, |condition| condition.key.clone()),
            found,
        }
    }
}
