//! Random operations on two shards against a `Vec` of bodies: submit, sync, close or lose power, flush, receive.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use watershed_wal::mem::{MemStorage, Survival};
use watershed_wal::{
    Durability, Epoch, Inline, InstanceId, InstanceLog, Log, LogDigest, LogError, LogOptions,
    Record, RecordKind, Seq, SeqRange, ShardId, Submitted, Term,
};

/// Submits as a blocking caller does: buffered writes directly where the log takes them so.
fn submit(log: &InstanceLog, body: Bytes, durability: Durability) -> Result<Submitted, LogError> {
    match durability {
        Durability::Buffered => Ok(log.append(RecordKind::Batch, body)?.into()),
        _ => log.submit(RecordKind::Batch, body, durability, Inline::Allowed),
    }
}

#[derive(Clone, Debug)]
enum Op {
    Submit {
        shard: usize,
        len: usize,
        sync: bool,
    },
    Sync,
    Close,
    Crash {
        seed: u64,
    },
    Flush {
        shard: usize,
        part: u8,
    },
    Receive {
        shard: usize,
        order: u64,
    },
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        12 => (0..2usize, 0..6000usize, any::<bool>())
            .prop_map(|(shard, len, sync)| Op::Submit { shard, len, sync }),
        1 => Just(Op::Sync),
        1 => Just(Op::Close),
        1 => any::<u64>().prop_map(|seed| Op::Crash { seed }),
        2 => (0..2usize, any::<u8>()).prop_map(|(shard, part)| Op::Flush { shard, part }),
        2 => (0..2usize, any::<u64>()).prop_map(|(shard, order)| Op::Receive { shard, order }),
    ]
}

struct World {
    storage: MemStorage,
    log: Log,
    owners: Vec<InstanceLog>,
    /// What each shard's log holds, by Seq.
    model: [BTreeMap<u64, Record>; 2],
    durable: [u64; 2],
    flushed: [u64; 2],
    openings: u64,
}

fn open(storage: &MemStorage) -> Log {
    let options = LogOptions {
        segment_bytes: 32 << 10,
        limit_bytes: 1 << 30,
        buffered_sync_every: Duration::from_secs(3600),
        recent_bytes: 10_000,
        ..LogOptions::default()
    };
    Log::open(Arc::new(storage.clone()), options).unwrap().0
}

impl World {
    fn new() -> Self {
        let storage = MemStorage::new();
        let log = open(&storage);
        let host = |id: usize| {
            let shard = ShardId(id as u64);
            log.host(shard, InstanceId(id as u128), Seq::ZERO, Vec::new())
                .unwrap();
            log.host(shard, InstanceId(id as u128 + 10), Seq::ZERO, Vec::new())
                .unwrap();
        };
        (0..2).for_each(host);
        let mut world = Self {
            storage,
            log,
            owners: Vec::new(),
            model: Default::default(),
            durable: [0; 2],
            flushed: [0; 2],
            openings: 0,
        };
        world.serve();
        world
    }

    /// After an opening: what must be there is, then the owners start a term.
    fn serve(&mut self) {
        self.openings += 1;
        self.owners.clear();
        for shard in 0..2 {
            let owner = self.log.instance(InstanceId(shard as u128)).unwrap();
            let end = owner.watermarks().durable.0;
            assert!(end >= self.durable[shard], "lost what was durable");
            self.model[shard].retain(|seq, _| *seq <= end);
            let term = Term::new(Epoch(1), self.openings);
            let seq = owner.start_term(term, Seq::ZERO).unwrap().wait().unwrap();
            assert_eq!(seq.0, end + 1);
            let start = owner
                .read_batch(SeqRange::single(seq), 0)
                .unwrap()
                .remove(0);
            self.model[shard].insert(seq.0, start);
            self.durable[shard] = seq.0;
            self.owners.push(owner);
        }
    }

    fn submit(&mut self, shard: usize, len: usize, sync: bool) {
        let body: Bytes = (0..len).map(|i| (i * len) as u8).collect();
        let durability = if sync {
            Durability::Sync
        } else {
            Durability::Buffered
        };
        let owner = &self.owners[shard];
        let submitted = submit(owner, body.clone(), durability).unwrap();
        let term = submitted.term;
        let seq = submitted.wait().unwrap();
        self.model[shard].insert(seq.0, Record::new(term, seq, RecordKind::Batch, body));
        if sync {
            self.durable[shard] = seq.0;
        }
    }

    fn flush(&mut self, shard: usize, part: u8) {
        let to = self.durable[shard] * u64::from(part) / 255;
        self.flushed[shard] = self.flushed[shard].max(to);
        self.owners[shard].set_flushed(Seq(to));
    }

    /// A receiver in the same log takes what is durable, in some order.
    fn receive(&mut self, shard: usize, order: u64) {
        let target = self.log.instance(InstanceId(shard as u128 + 10)).unwrap();
        let durable = self.durable[shard];
        let mut records: Vec<Record> = self.model[shard]
            .range(..=durable)
            .map(|(_, record)| record.clone())
            .collect();
        records.sort_by_key(|record| record.seq().0.wrapping_mul(order | 1));
        for chunk in records.chunks(7) {
            target.append_at(chunk.to_vec()).unwrap().wait().unwrap();
        }
        assert_eq!(target.watermarks().durable, Seq(durable));
        let range = SeqRange::new(Seq(1), Seq(durable)).unwrap();
        let mut digest = LogDigest::default();
        records.iter().for_each(|record| digest.add(record.hash()));
        assert_eq!(target.digest(range).unwrap(), digest);
    }

    fn check(&self) {
        for shard in 0..2 {
            let owner = &self.owners[shard];
            let end = owner.watermarks().assigned;
            assert_eq!(self.model[shard].keys().next_back(), Some(&end.0));
            let from = self.flushed[shard];
            let Some(range) = SeqRange::after(Seq(from), end) else {
                continue;
            };
            let here: Vec<Record> = owner.read(range).map(Result::unwrap).collect();
            let expected: Vec<Record> = self.model[shard]
                .range(from + 1..)
                .map(|(_, record)| record.clone())
                .collect();
            assert_eq!(here, expected);
            // What may have gone is the same, or a typed gap.
            for record in SeqRange::new(Seq(1), end)
                .into_iter()
                .flat_map(|all| owner.read(all))
            {
                match record {
                    Ok(record) => assert_eq!(self.model[shard].get(&record.seq().0), Some(&record)),
                    Err(LogError::Gap { missing, .. }) => assert!(missing.last().0 <= from),
                    Err(error) => panic!("{error}"),
                }
            }
        }
    }

    /// One pass over the log gives what reading each instance gives, also of receivers whose records came in any order.
    fn check_sweep(&self) {
        let ranges: Vec<_> = self
            .log
            .instances()
            .into_iter()
            .filter_map(|instance| {
                let owned = self.flushed.get(usize::try_from(instance.id().0).unwrap());
                let from = Seq(owned.copied().unwrap_or(0));
                let end = instance.has().contiguous_after(from);
                Some((instance.id(), SeqRange::after(from, end)?))
            })
            .collect();
        let mut found: BTreeMap<InstanceId, Vec<Record>> = BTreeMap::new();
        for swept in self.log.sweep(ranges.clone()).unwrap() {
            let swept = swept.unwrap();
            let records = found.entry(swept.instance()).or_default();
            records.extend(swept.into_records());
        }
        for (id, range) in ranges {
            let instance = self.log.instance(id).unwrap();
            let read: Vec<Record> = instance.read(range).map(Result::unwrap).collect();
            assert_eq!(found.remove(&id).unwrap_or_default(), read);
        }
        assert!(found.is_empty(), "{found:?}");
    }

    fn step(&mut self, op: &Op) {
        match *op {
            Op::Submit { shard, len, sync } => self.submit(shard, len, sync),
            Op::Sync => {
                self.log.sync().unwrap();
                for shard in 0..2 {
                    self.durable[shard] = self.owners[shard].watermarks().assigned.0;
                }
            }
            Op::Close => {
                self.log.close().unwrap();
                for shard in 0..2 {
                    self.durable[shard] = *self.model[shard].keys().next_back().unwrap();
                }
                self.log = open(&self.storage);
                self.serve();
            }
            Op::Crash { seed } => {
                self.storage = self.storage.crash(Survival::Seeded(seed));
                self.log = open(&self.storage);
                self.serve();
            }
            Op::Flush { shard, part } => self.flush(shard, part),
            Op::Receive { shard, order } => self.receive(shard, order),
        }
        self.check();
        self.check_sweep();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn the_log_is_its_model(ops in proptest::collection::vec(op(), 1..60)) {
        let mut world = World::new();
        for op in &ops {
            world.step(op);
        }
    }
}
