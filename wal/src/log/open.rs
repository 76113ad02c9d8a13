//! Opening: recovering what is there, making it durable, and starting a fresh segment.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::sync::Arc;

use super::commit::Writer;
use super::core::{Core, Metrics};
use super::keeper::is_full;
use super::recover::{Recovered, RecoveredSegment, recover};
use super::recycle::remove_leftover;
use super::room::{Room, Spare};
use super::scan::{Chain, read_range, segment_name};
use super::state::{Instance, Pending, Segment, State, ThreadState};
use super::thread::Patience;
use crate::codec::len64;
use crate::error::OpenError;
use crate::format::frame::{Position, next_start};
use crate::format::head::Head;
use crate::options::{LogEnd, LogOptions, OpenReport};
use crate::storage::Storage;
use crate::sync::{Condvar, Mutex};
use crate::words::InstanceId;

pub(super) fn open(
    storage: Arc<dyn Storage>,
    options: LogOptions,
) -> Result<(Core, OpenReport), OpenError> {
    options.validate()?;
    let recovered = recover(&*storage)?;
    let report = OpenReport {
        tail: recovered.tail,
        records: recovered.records,
        frames: recovered.frames,
        segments: len64(recovered.segments.len()),
        bytes: recovered.segments.iter().map(|s| s.chain.end).sum(),
        instances: len64(recovered.instances.len()),
    };
    if let LogEnd::Torn {
        segment,
        offset,
        bytes_cut,
    } = recovered.tail
    {
        tracing::warn!(segment, offset, bytes_cut, "cut the torn tail of the log");
    }
    if let Some(last) = recovered.segments.last() {
        settle(last, recovered.synced).map_err(|source| OpenError::Io {
            op: "making the tail durable",
            file: segment_name(last.id),
            source,
        })?;
    }
    for &id in &recovered.stray {
        storage
            .remove(&segment_name(id))
            .or_else(ignore_missing)
            .map_err(|source| OpenError::Io {
                op: "remove",
                file: segment_name(id),
                source,
            })?;
    }
    remove_leftover(&*storage).map_err(|(file, source)| OpenError::Io {
        op: "remove",
        file,
        source,
    })?;
    let core = start(storage, options, recovered)?;
    Ok((core, report))
}

fn ignore_missing(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound {
        return Ok(());
    }
    Err(error)
}

/// Makes durable what was read back but never promised: the process before may have died, or failed, before its
/// sync. The same bytes are written once more, as after a failed sync the kernel takes pages for clean that
/// never reached the device.
fn settle(last: &RecoveredSegment, synced: Position) -> io::Result<()> {
    let promised = if synced.segment == last.id {
        synced.offset
    } else {
        0
    };
    // Blocks that hold promised bytes are never written again; what came after them starts at the next.
    let start = next_start(promised, promised);
    if start < last.chain.end {
        let bytes = read_range(&*last.file, start..last.chain.end)?;
        last.file.write_at(start, &bytes)?;
    }
    last.file.sync()
}

/// Starts a fresh segment: one that may have been cut is never appended to again.
fn start(
    storage: Arc<dyn Storage>,
    options: LogOptions,
    recovered: Recovered,
) -> Result<Core, OpenError> {
    let id = recovered.max_id + 1;
    let mut by_id = HashMap::new();
    let mut instances = Vec::new();
    for (instance_id, found) in recovered.instances {
        by_id.insert(instance_id, instances.len());
        instances.push(Some(Instance::recovered(found)));
    }
    let roster = instances
        .iter()
        .flatten()
        .map(Instance::roster_entry)
        .collect();
    let before = recovered.segments.last().map(|last| last.chain);
    let first_segment = recovered.first_segment.max(1);
    let mut head = Head {
        file_len: 0,
        predecessor: before.map(|chain| crate::format::head::Predecessor {
            segment: chain.segment,
            end: chain.end,
            checksum: chain.checksum,
            nonce: chain.nonce,
        }),
        first_segment: recovered.segments.first().map_or(id, |_| first_segment),
        roster,
    };
    let spare = first_spare(&*storage, &options, id, &head)?;
    head.file_len = spare.len;
    let metrics = Metrics::default();
    let writer = first_writer(&spare, &head, before, &metrics)?;
    let mut segments = kept_segments(recovered.segments, &by_id);
    segments.insert(
        id,
        Segment {
            file: spare.file,
            nonce: writer.nonce,
            len: spare.len,
            max: HashMap::new(),
        },
    );
    let room = Room {
        current: spare.len - writer.end,
        next_id: id + 1,
        wanted: 1,
        reserve: reserve(&options),
        ..Room::default()
    };
    let mut state = State::new(instances, by_id, writer, segments, head.first_segment, room);
    state.room.head_bytes = state.head_bound();
    state.plan_room();
    Ok(Core {
        storage,
        options,
        state: Mutex::new(state),
        work: Condvar::new(),
        keeper: Condvar::new(),
        prepared: Condvar::new(),
        metrics,
    })
}

/// What records leave of the last segment.
fn reserve(options: &LogOptions) -> u64 {
    u64::from(options.segment_bytes) / 4
}

/// Makes the file of the first segment: long enough for its head and as much again.
fn first_spare(
    storage: &dyn Storage,
    options: &LogOptions,
    id: u64,
    head: &Head,
) -> Result<Spare, OpenError> {
    let mut encoded = Vec::new();
    head.encode(&mut encoded);
    let least = len64(encoded.len()) * 2 + reserve(options);
    let len = u64::from(options.segment_bytes).max(least);
    let file = storage
        .create(&segment_name(id), len)
        .and_then(|file| storage.sync_dir().map(|()| file))
        .map_err(|source| create_error(id, len, source))?;
    Ok(Spare {
        id,
        file,
        len,
        is_recycled: false,
    })
}

/// Writes the head, durably: what may have been cut behind `before` is void from then on.
fn first_writer(
    spare: &Spare,
    head: &Head,
    before: Option<Chain>,
    metrics: &Metrics,
) -> Result<Writer, OpenError> {
    let mut writer = Writer {
        segment: spare.id,
        file: Arc::clone(&spare.file),
        nonce: u64::try_from(InstanceId::random().0 >> 64).unwrap_or(spare.id),
        len: spare.len,
        end: 0,
        checksum: before.map_or(0, |chain| chain.checksum),
        synced: before.map_or(Position::default(), |chain| Position {
            segment: chain.segment,
            offset: chain.end,
        }),
        sealed: 0,
        dirty: false,
        is_recycled: false,
        buffer: Vec::new(),
    };
    let started = writer
        .start_segment(spare, head)
        .and_then(|()| writer.sync(metrics));
    started.map_err(|reason| OpenError::Io {
        op: "starting the segment",
        file: segment_name(spare.id),
        source: io::Error::other(reason),
    })?;
    Ok(writer)
}

impl State {
    /// Nothing pending, nothing to deliver; the log's thread and the keeper are about to start.
    fn new(
        instances: Vec<Option<Instance>>,
        by_id: HashMap<InstanceId, usize>,
        writer: Writer,
        segments: BTreeMap<u64, Segment>,
        first_segment: u64,
        room: Room,
    ) -> Self {
        Self {
            instances,
            by_id,
            pending: Pending::default(),
            taken: 0,
            writer: Some(Box::new(writer)),
            syncing: false,
            thread: ThreadState::Running,
            late_close: 0,
            patience: Patience::default(),
            deliveries: VecDeque::new(),
            delivering: false,
            sink_panicked: false,
            unsynced: Vec::new(),
            unsynced_since: None,
            unrecorded_since: None,
            poison: None,
            closing: false,
            closed: false,
            segments,
            first_segment,
            room,
            recent_order: VecDeque::new(),
            recent_bytes: 0,
            truncating: false,
            removable: None,
            endings: Vec::new(),
            keeper_called: true,
        }
    }
}

fn create_error(id: u64, needed: u64, source: io::Error) -> OpenError {
    if is_full(&source) {
        return OpenError::Full { needed };
    }
    OpenError::Io {
        op: "create",
        file: segment_name(id),
        source,
    }
}

fn kept_segments(
    recovered: Vec<RecoveredSegment>,
    by_id: &HashMap<InstanceId, usize>,
) -> BTreeMap<u64, Segment> {
    let keep = |segment: RecoveredSegment| {
        let max = segment.max.iter();
        let max = max.filter_map(|(id, &seq)| Some((*by_id.get(id)?, seq)));
        let kept = Segment {
            max: max.collect(),
            file: segment.file,
            nonce: segment.chain.nonce,
            len: segment.len,
        };
        (segment.id, kept)
    };
    recovered.into_iter().map(keep).collect()
}
