//! How a placement record may change: each change checks what it needs and gives the next record.
//!
//! Pure functions of the record: whoever stores the result swaps it in against the revision it came from, so two
//! changes of one record never both win. Each change of a migration names the migration and the driver term, and
//! is refused where the record knows a higher one. Only [`PlacementRecord::activate`] changes the owner.

use thiserror::Error;
use watershed_wal::{InstanceId, Seq, ShardId};

use crate::certificate::Certificate;
use crate::evidence::Evidence;
use crate::gate::Refusal;
use crate::placement::{Frozen, MigrationRecord, PlacementRecord, Proof};
use crate::wishes::Asked;
use crate::words::{Attempt, DriverTerm, MigrationId, NodeId, Phase};

/// The reason of an abort that gave none: nobody should read an empty one.
pub(crate) const NO_REASON: &str = "no reason was given";

/// On whose behalf a migration's record is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Claim {
    /// The migration.
    pub migration: MigrationId,
    /// The driver's term.
    pub driver_term: DriverTerm,
}

/// A phase that a driver enters by a swap, with what the record learns there.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PhaseChange {
    /// From Plan: the prechecks passed and the target hosts this copy.
    BulkCopy {
        /// The target's copy.
        target_instance: InstanceId,
    },
    /// From BulkCopy: the target holds the checkpoint, proven.
    DualWrite {
        /// B.
        base: Seq,
    },
    /// From Activate: the target serves.
    Cleanup {
        /// What certifies it.
        certificate: Box<Certificate>,
    },
}

/// Why a record may not change so.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PlacementError {
    /// A migration is under way.
    #[error("shard {shard} is in migration {migration} ({phase}): wait for its end, or abort it")]
    Migrating {
        /// The shard.
        shard: ShardId,
        /// The migration.
        migration: MigrationId,
        /// Where it is.
        phase: Phase,
    },
    /// The record speaks of another migration, or of none.
    #[error("shard {shard} is not in migration {wanted}: read its placement again")]
    OtherMigration {
        /// The shard.
        shard: ShardId,
        /// The migration asked for.
        wanted: MigrationId,
        /// The one it is in, or was in last.
        found: Option<MigrationId>,
    },
    /// Another driver has taken over.
    #[error(
        "driver term {found} has taken over migration {migration} from {given}: leave it to that driver"
    )]
    StaleDriver {
        /// The migration.
        migration: MigrationId,
        /// The term given.
        given: DriverTerm,
        /// The record's term.
        found: DriverTerm,
    },
    /// Not from this phase.
    #[error("migration {migration} is in phase {found}: {change} is not possible from there")]
    WrongPhase {
        /// The migration.
        migration: MigrationId,
        /// Where it is.
        found: Phase,
        /// What was to be done.
        change: &'static str,
    },
    /// An operator paused it.
    #[error("migration {migration} is paused: resume it before {change}")]
    Paused {
        /// The migration.
        migration: MigrationId,
        /// What was to be done.
        change: &'static str,
    },
    /// The new migration does not fit the record.
    #[error("shard {shard} can't begin this migration: {what}")]
    Unfit {
        /// The shard.
        shard: ShardId,
        /// What does not fit, and what to do.
        what: &'static str,
    },
    /// The evidence is not of this record's quiesce.
    #[error(
        "the evidence names another {what} than the placement record of shard {shard}: quiesce again"
    )]
    Evidence {
        /// The shard.
        shard: ShardId,
        /// In what it differs.
        what: &'static str,
    },
    /// The gate refused the record's configuration.
    #[error("migration {migration}: {refusal}")]
    Unsafe {
        /// The migration.
        migration: MigrationId,
        /// Why.
        refusal: Refusal,
    },
    /// A number is at its end.
    #[error(
        "a number in the placement record of shard {shard} is at its end: the record is damaged"
    )]
    Exhausted {
        /// The shard.
        shard: ShardId,
    },
}

impl PlacementRecord {
    /// Begins a migration in phase Plan.
    ///
    /// # Errors
    /// When another is under way, the gate refuses it, or it does not fit the owner.
    pub fn begin_migration(&self, migration: MigrationRecord) -> Result<Self, PlacementError> {
        if let Some(active) = self.active_migration() {
            return Err(PlacementError::Migrating {
                shard: self.shard,
                migration: active.id,
                phase: active.phase,
            });
        }
        migration
            .safe_config()
            .map_err(|refusal| PlacementError::Unsafe {
                migration: migration.id,
                refusal,
            })?;
        let last = self.migration.as_ref().map(|m| m.id);
        let rules = [
            (
                "its source is not the owner: read the placement again",
                self.is_owned_by(&migration.source, migration.source_instance),
            ),
            (
                "its target owns the shard already: name another node",
                migration.target != self.owner,
            ),
            (
                "its id was used before: make a new one",
                last != Some(migration.id),
            ),
            (
                "its record is not a beginning: make a new one",
                migration.phase == Phase::Plan
                    && migration.attempt == Attempt(0)
                    && migration.target_instance.is_none()
                    && migration.base.is_none()
                    && migration.proof.is_none()
                    && !migration.cutover_asked
                    && !migration.cleanup_asked
                    && !migration.paused,
            ),
            (
                "the old copy of the last one is not deleted: wait for its cleanup",
                self.frozen.is_none(),
            ),
        ];
        if let Some((what, _)) = rules.into_iter().find(|(_, holds)| !holds) {
            return Err(PlacementError::Unfit {
                shard: self.shard,
                what,
            });
        }
        let mut next = self.next()?;
        next.migration = Some(migration);
        Ok(next)
    }

    /// Enters a phase, with what the record learns there.
    ///
    /// # Errors
    /// When the claim is stale, the phase is not the one before, or the migration is paused; from Activate on it goes
    /// on all the same.
    pub fn set_phase(&self, claim: Claim, change: PhaseChange) -> Result<Self, PlacementError> {
        let (mut next, migration) = self.next_for(claim)?;
        let (from, name) = match change {
            PhaseChange::BulkCopy { .. } => (Phase::Plan, "bulk-copy"),
            PhaseChange::DualWrite { .. } => (Phase::BulkCopy, "dual-write"),
            PhaseChange::Cleanup { .. } => (Phase::Activate, "cleanup"),
        };
        let mut migration = in_phase(migration, from, name)?;
        if from.before_activate() {
            not_paused(&migration, name)?;
        }
        match change {
            PhaseChange::BulkCopy { target_instance } => {
                migration.target_instance = Some(target_instance);
                migration.phase = Phase::BulkCopy;
            }
            PhaseChange::DualWrite { base } => {
                migration.base = Some(base);
                migration.phase = Phase::DualWrite;
            }
            PhaseChange::Cleanup { certificate } => {
                migration.certificate = Some(certificate);
                migration.phase = Phase::Cleanup;
            }
        }
        next.migration = Some(migration);
        Ok(next)
    }

    /// Allows one more quiesce; every earlier one is void from here on.
    ///
    /// # Errors
    /// When the claim is stale, or the migration is paused or not in dual-write.
    pub fn raise_attempt(&self, claim: Claim) -> Result<Self, PlacementError> {
        let (mut next, migration) = self.next_for(claim)?;
        let mut migration = in_phase(migration, Phase::DualWrite, "another attempt")?;
        not_paused(&migration, "another attempt")?;
        migration.attempt = migration
            .attempt
            .checked_next()
            .ok_or(PlacementError::Exhausted { shard: self.shard })?;
        next.migration = Some(migration);
        Ok(next)
    }

    /// Hands the migration to a new driver; the one before is refused everywhere from here on.
    ///
    /// # Errors
    /// When the record speaks of another migration, or this one is over.
    pub fn take_over(&self, id: MigrationId, driver: NodeId) -> Result<Self, PlacementError> {
        let mut migration = self.migration_named(id)?.clone();
        if migration.phase.is_final() {
            return Err(wrong_phase(&migration, "taking over"));
        }
        migration.driver = driver;
        migration.driver_term = migration
            .driver_term
            .checked_next()
            .ok_or(PlacementError::Exhausted { shard: self.shard })?;
        let mut next = self.next()?;
        next.migration = Some(migration);
        Ok(next)
    }

    /// Notes what operators ask for. Anybody may.
    ///
    /// # Errors
    /// When the record speaks of another migration, this one is over, or a limit is out of bounds.
    pub fn note_wishes(&self, id: MigrationId, asked: Asked) -> Result<Self, PlacementError> {
        let mut migration = self.migration_named(id)?.clone();
        if migration.phase.is_final() {
            return Err(wrong_phase(&migration, "noting a wish"));
        }
        let limited = migration
            .safe_config()
            .and_then(|config| config.with_limits(asked.limits))
            .map_err(|refusal| PlacementError::Unsafe {
                migration: id,
                refusal,
            })?;
        migration.config = limited.config().clone();
        migration.cutover_asked |= asked.cutover;
        migration.cleanup_asked |= asked.cleanup;
        migration.paused = asked.paused.unwrap_or(migration.paused);
        let mut next = self.next()?;
        next.migration = Some(migration);
        Ok(next)
    }

    /// Aborts the migration: the source serves on, the target deletes its copy once it has read this. Anybody may.
    ///
    /// # Errors
    /// When the record speaks of another migration, or this one has activated or is over.
    pub fn abort(
        &self,
        id: MigrationId,
        reason: impl Into<String>,
    ) -> Result<Self, PlacementError> {
        let mut migration = self.migration_named(id)?.clone();
        if !migration.phase.before_activate() {
            return Err(wrong_phase(&migration, "aborting"));
        }
        migration.phase = Phase::Aborted;
        let reason = Some(reason.into()).filter(|reason: &String| !reason.trim().is_empty());
        migration.reason = Some(reason.unwrap_or_else(|| NO_REASON.into()));
        let mut next = self.next()?;
        next.migration = Some(migration);
        Ok(next)
    }

    /// Gives the shard away: (E, source) to (E + 1, target), with the source's copy frozen at F.
    ///
    /// Only the source swaps this in, after its durable "sent" note.
    ///
    /// # Errors
    /// When the evidence names another migration, attempt, copy, B or revision than this record, or it is paused.
    pub fn activate(&self, evidence: &Evidence) -> Result<Self, PlacementError> {
        let (source, target) = (evidence.source(), evidence.target());
        let mut migration = self.migration_named(source.migration)?.clone();
        if migration.phase != Phase::DualWrite {
            return Err(wrong_phase(&migration, "activation"));
        }
        not_paused(&migration, "activation")?;
        migration
            .safe_config()
            .map_err(|refusal| PlacementError::Unsafe {
                migration: migration.id,
                refusal,
            })?;
        let rules = [
            ("attempt", source.attempt == migration.attempt),
            (
                "source instance",
                source.instance == migration.source_instance,
            ),
            (
                "owner",
                self.is_owned_by(&migration.source, migration.source_instance),
            ),
            (
                "target instance",
                Some(target.instance) == migration.target_instance,
            ),
            ("B", Some(source.base) == migration.base),
            ("revision", source.revision == self.revision),
        ];
        if let Some((what, _)) = rules.into_iter().find(|(_, same)| !same) {
            return Err(PlacementError::Evidence {
                shard: self.shard,
                what,
            });
        }
        let mut next = self.next()?;
        next.epoch = self.epoch.next();
        next.owner = migration.target.clone();
        next.instance = target.instance;
        next.followers.retain(|node| *node != migration.target);
        next.frozen = Some(Frozen {
            node: migration.source.clone(),
            instance: migration.source_instance,
            f: source.f,
            migration: migration.id,
            retiring: false,
            grace_over_ms: 0,
        });
        migration.phase = Phase::Activate;
        migration.proof = Some(Box::new(Proof {
            source: source.clone(),
            target: target.clone(),
        }));
        next.migration = Some(migration);
        Ok(next)
    }

    /// Notes how much of the grace time is over; it never goes back.
    ///
    /// # Errors
    /// When the claim is stale, the migration is not in cleanup, or the copy is gone.
    pub fn note_grace(&self, claim: Claim, over_ms: u64) -> Result<Self, PlacementError> {
        let (mut next, migration) = self.next_for(claim)?;
        let migration = in_phase(migration, Phase::Cleanup, "counting the grace time")?;
        match next.frozen.as_mut() {
            Some(frozen) => frozen.grace_over_ms = frozen.grace_over_ms.max(over_ms),
            None => return Err(wrong_phase(&migration, "counting the grace time")),
        }
        Ok(next)
    }

    /// Decides the frozen copy's deletion: from here on it can't be promoted, and its node may delete it.
    ///
    /// # Errors
    /// When the claim is stale, the migration is paused or not in cleanup, or the copy is gone.
    pub fn begin_retire(&self, claim: Claim) -> Result<Self, PlacementError> {
        let (mut next, migration) = self.next_for(claim)?;
        let migration = in_phase(migration, Phase::Cleanup, "deleting the old copy")?;
        not_paused(&migration, "deleting the old copy")?;
        match next.frozen.as_mut() {
            Some(frozen) if frozen.instance == migration.source_instance => frozen.retiring = true,
            _ => return Err(wrong_phase(&migration, "deleting the old copy")),
        }
        Ok(next)
    }

    /// Ends the migration: the frozen copy is deleted.
    ///
    /// # Errors
    /// When the claim is stale, the migration is not in cleanup, or the deletion was not decided.
    pub fn finish_cleanup(&self, claim: Claim) -> Result<Self, PlacementError> {
        let (mut next, migration) = self.next_for(claim)?;
        let mut migration = in_phase(migration, Phase::Cleanup, "the end")?;
        if !self.frozen.as_ref().is_some_and(|frozen| frozen.retiring) {
            return Err(wrong_phase(&migration, "the end"));
        }
        migration.phase = Phase::Done;
        next.frozen = None;
        next.migration = Some(migration);
        Ok(next)
    }

    fn next(&self) -> Result<Self, PlacementError> {
        let mut next = self.clone();
        next.revision = self
            .revision
            .checked_next()
            .ok_or(PlacementError::Exhausted { shard: self.shard })?;
        Ok(next)
    }

    fn next_for(&self, claim: Claim) -> Result<(Self, MigrationRecord), PlacementError> {
        let migration = self.migration_named(claim.migration)?;
        if migration.driver_term != claim.driver_term {
            return Err(PlacementError::StaleDriver {
                migration: claim.migration,
                given: claim.driver_term,
                found: migration.driver_term,
            });
        }
        Ok((self.next()?, migration.clone()))
    }

    fn migration_named(&self, id: MigrationId) -> Result<&MigrationRecord, PlacementError> {
        let found = self.migration.as_ref();
        found
            .filter(|m| m.id == id)
            .ok_or_else(|| PlacementError::OtherMigration {
                shard: self.shard,
                wanted: id,
                found: found.map(|m| m.id),
            })
    }
}

fn in_phase(
    migration: MigrationRecord,
    from: Phase,
    change: &'static str,
) -> Result<MigrationRecord, PlacementError> {
    if migration.phase == from {
        return Ok(migration);
    }
    Err(wrong_phase(&migration, change))
}

fn not_paused(migration: &MigrationRecord, change: &'static str) -> Result<(), PlacementError> {
    if migration.paused {
        let migration = migration.id;
        return Err(PlacementError::Paused { migration, change });
    }
    Ok(())
}

fn wrong_phase(migration: &MigrationRecord, change: &'static str) -> PlacementError {
    PlacementError::WrongPhase {
        migration: migration.id,
        found: migration.phase,
        change,
    }
}
