//! What drivers ask of the roles: mostly as the placement says, now and then with a number that is off.

use bytes::Bytes;
use watershed_migration::messages::{Envelope, Manifest, Request};
use watershed_migration::{Attempt, DriverTerm, MigrationConfig, MigrationId, Revision};
use watershed_wal::{Epoch, InstanceId, LogDigest, Seq, ShardId};

use super::scene::Scene;
use crate::input::Input;

/// A number, or one beside it.
fn near(number: u64, by: u8) -> u64 {
    match by % 16 {
        1 => number.wrapping_add(1),
        2 => number.saturating_sub(1),
        3 => u64::MAX,
        4 => 0,
        _ => number,
    }
}

impl Scene {
    /// The envelope of the migration that the placement names, but for what the byte sets off.
    fn envelope(&self, off: u8) -> Envelope {
        let m = self.truth().migration.as_ref();
        let term = m.map_or(1, |m| m.driver_term.0);
        let attempt = m.map_or(0, |m| u64::from(m.attempt.0));
        let (in_term, in_attempt) = match off % 8 {
            6 => (off / 8, 0),
            7 => (0, off / 8),
            _ => (0, 0),
        };
        let off_id = u128::from(off == 0xff);
        Envelope {
            shard: ShardId(1 + u64::from(off == 0xfe)),
            migration: MigrationId(m.map_or(1, |m| m.id.0) + off_id),
            attempt: Attempt(u32::try_from(near(attempt, in_attempt)).unwrap_or(u32::MAX)),
            driver_term: DriverTerm(near(term, in_term)),
        }
    }

    pub(super) fn ask_source(&mut self, input: &mut Input<'_>) -> Option<()> {
        let (kind, off, more) = (input.byte()?, input.byte()?, input.byte()?);
        let env = self.envelope(off);
        let record = self.truth();
        let request = match kind % 16 {
            0 => Request::Prepare {
                env,
                target: self.target.at.node.clone(),
                config: MigrationConfig::default(),
            },
            1 => Request::StartForward {
                env,
                target_instance: self.target.at.instance,
            },
            2..=4 => Request::Quiesce {
                env,
                revision: Revision(near(record.revision.0, more)),
                pause_max_ms: u64::from(more) * 4,
            },
            5 | 6 => Request::Drain { env },
            7 => Request::Reopen { env },
            8..=10 => {
                // Only reports that were given, but any of them.
                let source = pick(&self.drained, more)?;
                let target = pick(&self.verified, more.rotate_left(4))?;
                let (source, target) = (Box::new(source), Box::new(target));
                Request::Activate {
                    env,
                    source,
                    target,
                }
            }
            11 => Request::Release {
                env,
                epoch: Epoch(near(record.epoch.0, more)),
                owner: record.owner.clone(),
            },
            12 | 13 => Request::Retire {
                env,
                instance: InstanceId(self.source.at.instance.0 + u128::from(more == 0xff)),
            },
            14 => Request::AbortSource { env },
            _ => self.other_request(env, more),
        };
        self.tell_source(request);
        Some(())
    }

    pub(super) fn ask_target(&mut self, input: &mut Input<'_>) -> Option<()> {
        let (kind, off, more) = (input.byte()?, input.byte()?, input.byte()?);
        let env = self.envelope(off);
        let record = self.truth();
        let request = match kind % 16 {
            0..=2 => Request::BeginTarget {
                env,
                source: record.owner.clone(),
                source_instance: record.instance,
                epoch: Epoch(near(record.epoch.0, more)),
                config: MigrationConfig::default(),
            },
            3 => Request::Pull {
                env,
                manifest: Manifest {
                    base: Seq(1),
                    digest: LogDigest::default(),
                    files: Vec::new(),
                    terms: Vec::new(),
                },
            },
            4..=8 => Request::Verify {
                env,
                f: Seq(near(self.assigned, more).min(u64::MAX - 1)),
            },
            9..=11 => Request::BecomeOwner {
                env,
                epoch: Epoch(near(record.epoch.0, more).min(u64::MAX - 1)),
            },
            12 | 13 => Request::DiscardTarget { env },
            _ => self.other_request(env, more),
        };
        self.tell_target(request);
        Some(())
    }

    /// What either may be asked, or is not for it at all.
    fn other_request(&self, env: Envelope, more: u8) -> Request {
        match more % 8 {
            0 => Request::SourceStatus { env },
            1 => Request::TargetStatus { env },
            2 => Request::Checkpoint { env },
            3 => Request::Missing {
                env,
                through: Seq(self.assigned),
            },
            4 => Request::ComparePage {
                env,
                after: None,
                limit: 10,
            },
            5 => Request::Get {
                shard: ShardId(1),
                keys: Vec::new(),
            },
            6 => Request::Ship {
                env,
                ranges: Vec::new(),
                max_bytes: 1,
            },
            _ => Request::Records {
                env,
                from_instance: self.source.at.instance,
                delta: false,
                records: Bytes::new(),
            },
        }
    }
}

/// The newest mostly.
fn pick<T: Clone>(reports: &[T], which: u8) -> Option<T> {
    let back = usize::from(which % 8).min(reports.len().checked_sub(1)?);
    reports.get(reports.len() - 1 - back).cloned()
}
