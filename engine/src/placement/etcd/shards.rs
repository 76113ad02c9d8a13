//! The cluster and its shards' records.

use etcd_client::{
    Compare, CompareOp, GetOptions, GetResponse, KeyValue, Txn, TxnOp, TxnOpResponse,
};
use watershed_migration::{PlacementRecord, Revision};
use watershed_wal::ShardId;

use super::Shared;
use super::keys::{self, FORMAT, Found, Slot, decode, encode};
use crate::placement::map::{Entry, Removed};
use crate::placement::{ClusterInfo, PlacementError};
use crate::sync::lock;

/// The most bytes of one answer: a list of all records, with certificates in them a few kilobytes each.
pub(super) const MAX_ANSWER_BYTES: usize = 256 << 20;
/// How often a change is tried again whose key was changed at the same moment. Each time somebody else has got on.
pub(super) const ROUNDS: usize = 64;

/// A record as it was seen last: what the next swap compares, without another look.
#[derive(Debug)]
pub(super) struct Known {
    revision: Revision,
    value: Vec<u8>,
}

/// How a transaction on one key ended.
pub(super) enum Ended {
    Done,
    /// The key was not as compared; what it is.
    Not(Option<KeyValue>),
}

impl Shared {
    /// Makes sure that this version understands what is kept there; gives etcd's revision now.
    pub(super) async fn check_format(&self) -> Result<i64, PlacementError> {
        let key = self.keys.format();
        let mut answer = self.get(&key, None).await?;
        if answer.kvs().is_empty() {
            // Whoever is first: looked at again, also to begin to watch behind it.
            self.change(&key, None, encode(&FORMAT)).await?;
            answer = self.get(&key, None).await?;
        }
        let found = match answer.kvs().first() {
            Some(kept) => decode(kept)?,
            None => FORMAT,
        };
        if found > FORMAT {
            return Err(PlacementError::NewerFormat {
                file: keys::path(&key),
                found,
                supported: FORMAT,
            });
        }
        Ok(answer.header().map_or(0, |header| header.revision()))
    }

    pub(super) async fn get(
        &self,
        key: &str,
        options: Option<GetOptions>,
    ) -> Result<GetResponse, PlacementError> {
        let get = self.pool.ask(|client| {
            let (key, options) = (key.to_owned(), options.clone());
            let mut client = client
                .kv_client()
                .max_decoding_message_size(MAX_ANSWER_BYTES);
            async move { client.get(key, options).await }
        });
        get.await
    }

    /// Sets a key if it still has the value `before`, or if there still is none; sent once.
    pub(super) async fn change(
        &self,
        key: &str,
        before: Option<&[u8]>,
        value: Vec<u8>,
    ) -> Result<Ended, PlacementError> {
        let txn = Txn::new()
            .when([is_still(key, before)])
            .and_then([TxnOp::put(key, value, None)])
            .or_else([TxnOp::get(key, None)]);
        self.commit(txn).await
    }

    /// Sends a transaction once, whose only operation otherwise is to get the key.
    pub(super) async fn commit(&self, txn: Txn) -> Result<Ended, PlacementError> {
        let sent = self.pool.send(|client| async move {
            let mut client = client
                .kv_client()
                .max_decoding_message_size(MAX_ANSWER_BYTES);
            client.txn(txn).await
        });
        let answer = sent.await?;
        if answer.succeeded() {
            return Ok(Ended::Done);
        }
        match answer.op_responses().first() {
            Some(TxnOpResponse::Get(found)) => Ok(Ended::Not(found.kvs().first().cloned())),
            _ => Err(PlacementError::Unreachable {
                reason: "etcd's answer to a transaction is not one to it".into(),
            }),
        }
    }

    pub(super) async fn cluster(&self) -> Result<Option<ClusterInfo>, PlacementError> {
        let found = self.get(&self.keys.cluster(), None).await?;
        found.kvs().first().map(decode).transpose()
    }

    pub(super) async fn create_cluster(
        &self,
        info: ClusterInfo,
    ) -> Result<ClusterInfo, PlacementError> {
        match self
            .change(&self.keys.cluster(), None, encode(&info))
            .await?
        {
            Ended::Not(Some(made)) => decode(&made),
            _ => Ok(info),
        }
    }

    pub(super) async fn read(
        &self,
        shard: ShardId,
    ) -> Result<Option<PlacementRecord>, PlacementError> {
        let found = self.find(shard).await?;
        Ok(found.record().cloned())
    }

    async fn find(&self, shard: ShardId) -> Result<Found, PlacementError> {
        let found = self.get(&self.keys.shard(shard), None).await?;
        self.look(shard, found.kvs().first())
    }

    /// What a shard's key holds; kept in mind.
    fn look(&self, shard: ShardId, key: Option<&KeyValue>) -> Result<Found, PlacementError> {
        let found = Found::read(Some(shard), key)?;
        self.know(shard, found.revision(), found.value.as_deref());
        Ok(found)
    }

    fn know(&self, shard: ShardId, revision: Option<Revision>, value: Option<&[u8]>) {
        let mut known = lock(&self.known);
        match (revision, value) {
            (Some(revision), Some(value)) => {
                let value = value.to_vec();
                known.insert(shard, Known { revision, value });
            }
            _ => {
                known.remove(&shard);
            }
        }
    }

    /// The value of the record of revision `expected`, if it was seen last.
    fn seen(&self, shard: ShardId, expected: Option<Revision>) -> Option<Vec<u8>> {
        let known = lock(&self.known);
        let known = known.get(&shard)?;
        (Some(known.revision) == expected).then(|| known.value.clone())
    }

    pub(super) async fn list(&self) -> Result<Vec<PlacementRecord>, PlacementError> {
        let all = GetOptions::new().with_prefix();
        let found = self.get(&self.keys.shards(), Some(all)).await?;
        let mut records = Vec::new();
        for key in found.kvs() {
            let found = Found::read(None, Some(key))?;
            if let Some(Slot::Record(record)) = found.slot {
                records.push(*record);
            }
        }
        Ok(records)
    }

    pub(super) async fn swap(
        &self,
        expected: Option<Revision>,
        mut record: PlacementRecord,
    ) -> Result<PlacementRecord, PlacementError> {
        let shard = record.shard;
        let goes_on = expected.is_none_or(|expected| record.revision > expected);
        let mut seen = self.seen(shard, expected).filter(|_| goes_on);
        for _ in 0..ROUNDS {
            let before = match seen.take() {
                Some(value) => Some(value),
                None => {
                    let found = self.find(shard).await?;
                    expect(shard, expected, &found)?;
                    check(&record, expected, goes_on)?;
                    if let Some(Slot::Removed(removed)) = &found.slot {
                        removed.go_on(&mut record);
                    }
                    found.value
                }
            };
            let value = encode(&Entry::Record(Box::new(record.clone())));
            let key = self.keys.shard(shard);
            let changed = self.change(&key, before.as_deref(), value.clone());
            match changed.await? {
                Ended::Done => {
                    self.know(shard, Some(record.revision), Some(&value));
                    return Ok(record);
                }
                // Where it is as expected all the same, it was created and removed meanwhile: once more.
                Ended::Not(now) => expect(shard, expected, &self.look(shard, now.as_ref())?)?,
            }
        }
        Err(too_busy(format_args!("shard {shard}")))
    }

    pub(super) async fn remove(
        &self,
        shard: ShardId,
        expected: Revision,
    ) -> Result<(), PlacementError> {
        for _ in 0..ROUNDS {
            let found = self.find(shard).await?;
            expect(shard, Some(expected), &found)?;
            let Some(record) = found.record() else {
                break;
            };
            let value = encode(&Entry::Removed(Removed::of(record)));
            let key = self.keys.shard(shard);
            let changed = self.change(&key, found.value.as_deref(), value);
            match changed.await? {
                Ended::Done => {
                    self.know(shard, None, None);
                    return Ok(());
                }
                Ended::Not(now) => {
                    expect(shard, Some(expected), &self.look(shard, now.as_ref())?)?;
                }
            }
        }
        Err(too_busy(format_args!("shard {shard}")))
    }
}

/// That a key is as it was. By its value, which has the record's revision: etcd's own revisions may come again after it
/// was restored from a backup.
pub(super) fn is_still(key: &str, before: Option<&[u8]>) -> Compare {
    match before {
        Some(value) => Compare::value(key, CompareOp::Equal, value),
        None => Compare::mod_revision(key, CompareOp::Equal, 0),
    }
}

fn check(
    record: &PlacementRecord,
    expected: Option<Revision>,
    goes_on: bool,
) -> Result<(), PlacementError> {
    match expected {
        Some(expected) if !goes_on => Err(PlacementError::Revision {
            shard: record.shard,
            expected,
            offered: record.revision,
        }),
        _ => Ok(()),
    }
}

fn expect(shard: ShardId, expected: Option<Revision>, found: &Found) -> Result<(), PlacementError> {
    if found.revision() == expected {
        return Ok(());
    }
    Err(PlacementError::Conflict {
        shard,
        current: found.record().cloned().map(Box::new),
    })
}

pub(super) fn too_busy(what: impl std::fmt::Display) -> PlacementError {
    PlacementError::Unreachable {
        reason: format!("what etcd has of {what} changes all the time"),
    }
}
