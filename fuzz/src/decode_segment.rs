//! Bytes as segment files, and edits of a log that was written well.
//!
//! Laws: no bytes make a reader panic; what is read of an edited log are records that were written, under their
//! own Seqs; and one changed byte of a closed log is found, or harmless.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use watershed_wal::mem::{MemStorage, Survival};
use watershed_wal::{
    Durability, Epoch, Inline, InstanceId, Log, LogOptions, LogView, Record, RecordKind, Seq,
    SeqRange, ShardId, Storage, Submitted, Term, TermStart, single_put, verify,
};

use crate::input::Input;

/// The least segments the log takes, so that an input reaches all of one.
const SEGMENT: u32 = 32 * 1024;
const MAX_EDITS: usize = 16;

type Records = BTreeMap<InstanceId, BTreeMap<Seq, Record>>;

/// Runs one input.
///
/// # Panics
/// On a finding.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    match input.below(4) {
        None => {}
        Some(0) => {
            let storage = MemStorage::new();
            storage.put_file(&segment_name(1), input.rest().to_vec());
            read_everything(&storage);
        }
        Some(1) => {
            let storage = MemStorage::new();
            let rest = input.rest();
            let pieces = rest.chunks(rest.len().div_ceil(3).max(1));
            for (segment, piece) in (1..).zip(pieces) {
                storage.put_file(&segment_name(segment), piece.to_vec());
            }
            read_everything(&storage);
        }
        Some(2) => edit(Sample::closed(), &mut input),
        Some(_) => edit(Sample::crashed(), &mut input),
    }
}

fn segment_name(segment: u64) -> String {
    format!("{segment:016x}.seg")
}

fn options() -> LogOptions {
    LogOptions {
        segment_bytes: SEGMENT,
        limit_bytes: 1 << 20,
        // No background frames: the samples hold what the calls below write.
        buffered_sync_every: Duration::from_secs(3600),
        ..LogOptions::default()
    }
}

/// The files of a log, and what was written to it.
struct Sample {
    files: BTreeMap<String, Vec<u8>>,
    /// How much of each file is worth editing: to its last byte that is not zero, and a bit beyond.
    used: Vec<(String, usize)>,
    records: Records,
    closed: bool,
}

impl Sample {
    fn closed() -> &'static Self {
        static CLOSED: OnceLock<Sample> = OnceLock::new();
        CLOSED.get_or_init(|| Self::write(true))
    }

    fn crashed() -> &'static Self {
        static CRASHED: OnceLock<Sample> = OnceLock::new();
        CRASHED.get_or_init(|| Self::write(false))
    }

    fn write(closed: bool) -> Self {
        let storage = MemStorage::new();
        let (log, _) =
            Log::open(Arc::new(storage.clone()), options()).expect("an empty storage opens");
        let records = write_log(&log);
        let left = if closed {
            log.close().expect("no fault");
            storage
        } else {
            storage.crash(Survival::All)
        };
        let names = left.list().expect("no fault");
        let files: BTreeMap<_, _> = names
            .into_iter()
            .filter_map(|name| left.contents(&name).map(|contents| (name, contents)))
            .collect();
        let used = |contents: &Vec<u8>| {
            let last = contents.iter().rposition(|byte| *byte != 0).unwrap_or(0);
            (last + 64).min(contents.len())
        };
        Self {
            used: files
                .iter()
                .map(|(name, contents)| (name.clone(), used(contents)))
                .collect(),
            files,
            records,
            closed,
        }
    }

    fn storage(&self) -> MemStorage {
        let storage = MemStorage::new();
        for (name, contents) in &self.files {
            storage.put_file(name, contents.clone());
        }
        storage
    }
}

/// An owner and a receiver, notes and a hold, over more than one segment.
fn write_log(log: &Log) -> Records {
    let (owner_id, receiver_id) = (InstanceId(1), InstanceId(2));
    let owner = log
        .host(ShardId(1), owner_id, Seq::ZERO, Vec::new())
        .expect("no fault");
    let term = Term::new(Epoch(1), 1);
    let start = TermStart {
        term,
        first: Seq(11),
    };
    let receiver = log
        .host(ShardId(2), receiver_id, Seq(10), vec![start])
        .expect("no fault");
    owner
        .start_term(term, Seq::ZERO)
        .and_then(Submitted::wait)
        .expect("no fault");
    for n in 0..24u8 {
        let durability = if n % 3 == 0 {
            Durability::Sync
        } else {
            Durability::Buffered
        };
        let body = single_put(
            &[n],
            &vec![n; if n % 8 == 7 { 5000 } else { usize::from(n) * 9 }],
        );
        let submitted = owner.submit(RecordKind::Batch, body, durability, Inline::Allowed);
        submitted.and_then(Submitted::wait).expect("no fault");
        let record = |seq| {
            Record::new(
                term,
                Seq(seq),
                RecordKind::Batch,
                Bytes::from_static(b"received"),
            )
        };
        let appended =
            receiver.append_at(vec![record(60 - u64::from(n)), record(11 + u64::from(n))]);
        appended.and_then(Submitted::wait).expect("no fault");
    }
    owner
        .put_note("key", Bytes::from_static(b"value"))
        .and_then(Submitted::wait)
        .expect("no fault");
    let read = |handle: &watershed_wal::InstanceLog, range| -> BTreeMap<_, _> {
        let found = handle.read(range).filter_map(Result::ok);
        found.map(|record| (record.seq(), record)).collect()
    };
    let mut received = read(&receiver, range(11, 34));
    received.extend(read(&receiver, range(37, 60)));
    [
        (owner_id, read(&owner, range(1, 25))),
        (receiver_id, received),
    ]
    .into()
}

fn range(first: u64, last: u64) -> SeqRange {
    SeqRange::new(Seq(first), Seq(last)).expect("in order")
}

/// Edits are a file, an offset and a byte to flip by; a zero one cuts the file there.
fn edit(sample: &Sample, input: &mut Input<'_>) {
    let storage = sample.storage();
    let (mut edits, mut cuts) = (0, 0);
    while edits + cuts < MAX_EDITS {
        let (Some(file), Some(offset), Some(xor)) = (input.byte(), input.u16(), input.byte())
        else {
            break;
        };
        let (name, used) = &sample.used[usize::from(file) % sample.used.len()];
        let offset = usize::from(offset) % used.max(&1);
        if xor == 0 {
            let mut contents = storage.contents(name).expect("a file of the sample");
            contents.truncate(offset);
            storage.put_file(name, contents);
            cuts += 1;
        } else if storage.corrupt(name, offset as u64, xor).is_ok() {
            edits += 1;
        }
    }
    let whole = sample.closed && edits + cuts <= 1 && cuts == 0;
    for found in read_everything(&storage) {
        for (id, records) in &found {
            for (seq, record) in records {
                let written = sample.records.get(id).and_then(|records| records.get(seq));
                assert_eq!(Some(record), written, "a record that nobody wrote");
            }
        }
        if whole {
            assert_eq!(
                found, sample.records,
                "one changed byte took records, and nobody noticed"
            );
        }
    }
}

/// Reads a storage in each way there is; gives what each that did not refuse it found.
fn read_everything(storage: &MemStorage) -> Vec<Records> {
    let shared: Arc<dyn Storage> = Arc::new(storage.clone());
    let verified = verify(Arc::clone(&shared));
    let mut found = Vec::new();
    let viewed = LogView::open(Arc::clone(&shared));
    assert_eq!(
        verified.is_ok(),
        viewed.is_ok(),
        "verify: {verified:?}, view: {viewed:?}"
    );
    if let Ok((view, _)) = viewed {
        let _ = view.dump().count();
        let records = |id, has: &watershed_wal::SeqSet| {
            let items = has.intervals().flat_map(|range| view.read(id, range));
            let items = items.map(|item| item.expect("the view says it has it"));
            items.map(|record| (record.seq(), record)).collect()
        };
        let instances = view.instances();
        found.push(
            instances
                .iter()
                .map(|seen| (seen.id, records(seen.id, &seen.has)))
                .collect(),
        );
    }
    // Opening writes: last.
    let opened = Log::open(shared, options());
    assert_eq!(
        verified.is_ok(),
        opened.is_ok(),
        "verify: {verified:?}, open: {opened:?}"
    );
    if let Ok((log, _)) = opened {
        let records = |handle: &watershed_wal::InstanceLog| {
            let has = handle.has();
            let items: Vec<_> = has
                .intervals()
                .flat_map(|range| handle.read(range))
                .collect();
            let items = items
                .into_iter()
                .map(|item| item.expect("the log says it has it"));
            items.map(|record| (record.seq(), record)).collect()
        };
        found.push(
            log.instances()
                .iter()
                .map(|handle| (handle.id(), records(handle)))
                .collect(),
        );
        log.close().expect("no fault");
    }
    found
}
