//! Reading a damaged log as far as it can be read: which segments were part of it, and which of their frames.
//!
//! A frame counts only where it is sure that the log went through it: before the end that the successor's head
//! names, or past a break that a later frame of the segment promises to have been durable. What follows a torn
//! tail never comes back: its Seqs may have been given out again.

use std::ops::Range;
use std::sync::Arc;

use crate::codec::{FormatError, len64};
use crate::error::OpenError;
use crate::format::frame::VERSION;
use crate::format::head::{Head, Predecessor};
use crate::format::payload::{Item, PayloadReader};
use crate::log::recover::{io_error, is_damaged_head};
use crate::log::scan::{
    Chain, Frame, Probe, headers_from, nonce_of, probe, promised_past, read_file, segment_name,
};
use crate::record::{RecordKind, StartBody};
use crate::storage::{Storage, StorageFile};

/// A segment file, at a first look.
#[derive(Clone, Debug)]
pub(super) struct Outline {
    pub(super) id: u64,
    pub(super) file: Arc<dyn StorageFile>,
    pub(super) len: u64,
    pub(super) head: Option<Head>,
    /// It holds something, frames or not.
    pub(super) is_written: bool,
    /// It has no head, and shows that it had one.
    pub(super) is_beheaded: bool,
    has_frames: bool,
    /// A frame in it says that something in it was durable.
    is_promised: bool,
}

/// A segment that was part of the log.
#[derive(Clone, Debug)]
pub(super) struct Live {
    pub(super) outline: Outline,
    /// The end that its successor's head names.
    pub(super) until: Option<Predecessor>,
}

/// A segment that a head goes on from, and that is not there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Missing {
    pub(super) segment: u64,
    pub(super) needed_by: u64,
    pub(super) bytes: u64,
}

/// A stretch of a segment.
#[derive(Debug)]
pub(super) enum Piece {
    Frame(Frame),
    /// Frames were here that can't be read.
    Lost(Range<u64>),
}

#[derive(Debug, Default)]
pub(super) struct Walked {
    pub(super) pieces: Vec<Piece>,
    /// Whole frames beyond the end: part of the log or not, nobody knows.
    pub(super) beyond: Vec<Frame>,
}

pub(super) fn newer(segment: u64, found: u16) -> OpenError {
    OpenError::NewerFormat {
        found,
        supported: VERSION,
        segment,
    }
}

/// Looks at every segment file, in the order of their ids.
pub(super) fn outlines(storage: &dyn Storage, ids: &[u64]) -> Result<Vec<Outline>, OpenError> {
    ids.iter().map(|&id| outline(storage, id)).collect()
}

fn outline(storage: &dyn Storage, id: u64) -> Result<Outline, OpenError> {
    let file = storage
        .open(&segment_name(id))
        .map_err(io_error("open", id))?;
    let bytes = read_file(&*file).map_err(io_error("read", id))?;
    let head = match probe(&bytes, 0, id, 0) {
        Probe::Newer(found) => return Err(newer(id, found.version)),
        Probe::Frame(frame) if frame.header.head => Head::decode(&bytes[frame.payload]).ok(),
        _ => None,
    };
    let nonce = nonce_of(&bytes, id);
    let mut headers = headers_from(&bytes, id, nonce, 0);
    Ok(Outline {
        id,
        len: len64(bytes.len()),
        is_beheaded: head.is_none() && is_damaged_head(id, &bytes),
        head,
        is_written: bytes.iter().any(|&byte| byte != 0),
        has_frames: headers.any(|header| whole(&bytes, id, header.offset).is_some()),
        is_promised: promised_past(&bytes, id, nonce, 0).is_some(),
        file,
    })
}

/// Where the walk back stands.
enum Link {
    /// Nothing is chosen yet.
    Nothing,
    /// The head that would name the segment before can't be read.
    Unknown,
    Named(Predecessor),
    /// The first of all.
    First,
}

/// The segments that were part of the log, oldest first, and those of them that are gone.
pub(super) fn live(outlines: Vec<Outline>) -> (Vec<Live>, Vec<Missing>) {
    let mut live: Vec<Live> = Vec::new();
    let mut missing = Vec::new();
    let mut link = Link::Nothing;
    for outline in outlines.into_iter().rev() {
        let mut until = None;
        match link {
            Link::First => break,
            Link::Named(before) if outline.id > before.segment => continue,
            Link::Named(before) if outline.id == before.segment => until = Some(before),
            Link::Named(before) => {
                missing.extend(gone(&live, before));
                link = Link::Unknown;
            }
            Link::Nothing | Link::Unknown => {}
        }
        let is_part = match link {
            Link::Nothing => outline.head.is_some() || outline.is_promised || outline.is_beheaded,
            Link::Unknown => outline.head.is_some() || outline.has_frames,
            Link::Named(_) | Link::First => true,
        };
        if !is_part {
            continue;
        }
        link = match &outline.head {
            None => Link::Unknown,
            Some(head) => head.predecessor.map_or(Link::First, Link::Named),
        };
        live.push(Live { outline, until });
    }
    if let Link::Named(before) = link
        && live
            .last()
            .is_none_or(|last| last.outline.id > before.segment)
    {
        missing.extend(gone(&live, before));
    }
    live.reverse();
    missing.reverse();
    (live, missing)
}

fn gone(live: &[Live], before: Predecessor) -> Option<Missing> {
    Some(Missing {
        segment: before.segment,
        needed_by: live.last()?.outline.id,
        bytes: before.end,
    })
}

/// The whole frame at `at`, if there is one and its contents decode.
pub(super) fn whole(bytes: &[u8], id: u64, at: u64) -> Option<Frame> {
    let Probe::Frame(frame) = probe(bytes, 0, id, at) else {
        return None;
    };
    let payload = &bytes[frame.payload.clone()];
    let decodes = if frame.header.head {
        at == 0 && Head::decode(payload).is_ok()
    } else {
        at > 0 && items(payload, frame.header.records).is_ok()
    };
    decodes.then_some(frame)
}

/// What is in a frame, decoded to the last byte that recovery looks at.
pub(super) fn items(payload: &[u8], count: u32) -> Result<Vec<Item>, FormatError> {
    let mut reader = PayloadReader::new(payload, count)?;
    let mut items = Vec::new();
    while let Some(item) = reader.next_item()? {
        if let Item::Record(record) = &item
            && record.kind == RecordKind::Start
        {
            StartBody::decode(&record.unpack(payload)?)?;
        }
        items.push(item);
    }
    Ok(items)
}

/// The frames of a segment up to `until`, or where nobody names an end, as far as they go on or are promised.
/// `made`: the length that the file was made with.
pub(super) fn walk(
    bytes: &[u8],
    id: u64,
    named: Option<Predecessor>,
    made: Option<u64>,
) -> Result<Walked, OpenError> {
    // Where it is known, so that a recycled file's old bytes are nobody's frames.
    let nonce = nonce_of(bytes, id).or(named.map(|named| named.nonce));
    let until = named.map(|named| named.end);
    let limit = until.unwrap_or(len64(bytes.len()));
    let mut walked = Walked::default();
    let mut at = 0;
    // Of the frame that ends here, unless that can't be read.
    let mut chain: Option<Chain> = None;
    while at < limit {
        let next = match chain {
            Some(chain) => next_of(chain, bytes)?,
            None => whole(bytes, id, at),
        };
        if let Some(frame) = next.filter(|frame| frame.header.end() <= limit) {
            at = frame.header.end();
            chain = Some(Chain {
                segment: id,
                nonce: frame.header.nonce,
                end: at,
                checksum: frame.checksum,
            });
            walked.pieces.push(Piece::Frame(frame));
            continue;
        }
        let mut later = headers_from(bytes, id, nonce, at)
            .filter_map(|header| whole(bytes, id, header.offset))
            .filter(|frame| frame.header.end() <= limit);
        let promised = until.or_else(|| {
            let promised = promised_past(bytes, id, nonce, at)?;
            Some(if promised.segment > id {
                limit
            } else {
                promised.offset.min(limit)
            })
        });
        let Some(promised) = promised else {
            walked.beyond = later.collect();
            break;
        };
        let next = later.next().map(|frame| frame.header.offset);
        walked
            .pieces
            .push(Piece::Lost(at..next.unwrap_or(promised)));
        let Some(next) = next else { break };
        at = next;
        chain = None;
    }
    let len = len64(bytes.len());
    if let Some(made) = made.filter(|&made| until.is_none() && made > len) {
        // The file was cut: what stood there may have been promised by what stood behind it.
        walked.pieces.push(Piece::Lost(at.min(len)..made));
    }
    Ok(walked)
}

/// The frame that goes on from here, by the rule of recovery.
fn next_of(chain: Chain, bytes: &[u8]) -> Result<Option<Frame>, OpenError> {
    match chain.next(bytes) {
        Probe::Newer(found) => Err(newer(chain.segment, found.version)),
        Probe::Frame(frame) => Ok(whole(bytes, chain.segment, frame.header.offset)),
        Probe::BadPayload(_) | Probe::Absent => Ok(None),
    }
}
