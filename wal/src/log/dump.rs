//! A segment as lines for people and scripts.

use std::collections::VecDeque;

use serde::Serialize;

use super::recover::RecoveredSegment;
use super::scan::{Chain, Frame, Probe, probe, read_range};
use crate::codec::len64;
use crate::format::head::Head;
use crate::format::payload::{Item, PayloadReader};
use crate::words::{InstanceId, Seq, ShardId, Term};

/// One frame, record or note.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct DumpLine {
    /// The segment.
    pub segment: u64,
    /// Where its frame starts.
    pub offset: u64,
    /// `head`, `frame`, the kind of a record or note, or `unreadable`.
    pub kind: String,
    /// The shard, of a record.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shard: Option<ShardId>,
    /// The instance, of a record or note.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance: Option<InstanceId>,
    /// The term, of a record.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub term: Option<Term>,
    /// The Seq, of a record.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seq: Option<Seq>,
    /// Bytes it takes: of a frame with its header, of a record its stored body.
    pub len: u64,
    /// What else there is to say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

impl DumpLine {
    fn new(segment: u64, offset: u64, kind: impl Into<String>, len: u64) -> Self {
        Self {
            segment,
            offset,
            kind: kind.into(),
            shard: None,
            instance: None,
            term: None,
            seq: None,
            len,
            detail: None,
        }
    }
}

/// The lines of one segment.
pub(super) struct Dump {
    bytes: Vec<u8>,
    chain: Chain,
    end: u64,
    ready: VecDeque<DumpLine>,
}

impl Dump {
    pub(super) fn new(segment: &RecoveredSegment) -> Self {
        let mut dump = Self {
            bytes: Vec::new(),
            chain: segment.chain,
            end: segment.chain.end,
            ready: VecDeque::new(),
        };
        let id = segment.id;
        match read_range(&*segment.file, 0..segment.chain.end) {
            Ok(bytes) => dump.bytes = bytes,
            Err(error) => dump.unreadable(0, &error.to_string()),
        }
        match probe(&dump.bytes, 0, id, 0) {
            Probe::Frame(frame) => {
                dump.chain.advance(&frame);
                dump.head(&frame);
            }
            _ if dump.ready.is_empty() => dump.unreadable(0, "no head"),
            _ => {}
        }
        dump
    }

    fn unreadable(&mut self, offset: u64, why: &str) {
        let mut line = DumpLine::new(self.chain.segment, offset, "unreadable", 0);
        line.detail = Some(why.to_owned());
        self.ready.push_back(line);
        self.chain.end = self.end;
    }

    fn head(&mut self, frame: &Frame) {
        let header = &frame.header;
        let len = header.end() - header.offset;
        let mut line = DumpLine::new(header.segment, header.offset, "head", len);
        line.detail = Some(match Head::decode(&self.bytes[frame.payload.clone()]) {
            Ok(head) => format!(
                "nonce {:016x}, {}, first segment {}, {} instances",
                header.nonce,
                head.predecessor.map_or_else(
                    || "no predecessor".to_owned(),
                    |before| format!("after segment {} at {}", before.segment, before.end)
                ),
                head.first_segment,
                head.roster.len()
            ),
            Err(error) => error.to_string(),
        });
        self.ready.push_back(line);
    }

    fn frame(&mut self, frame: &Frame) {
        let header = &frame.header;
        let (segment, offset) = (header.segment, header.offset);
        let mut line = DumpLine::new(segment, offset, "frame", header.end() - offset);
        line.detail = Some(format!(
            "{} items, durable to segment {} at {}",
            header.records, header.synced.segment, header.synced.offset
        ));
        self.ready.push_back(line);
        let payload = &self.bytes[frame.payload.clone()];
        let mut lines = Vec::new();
        let ended = PayloadReader::new(payload, header.records).and_then(|mut items| {
            while let Some(item) = items.next_item()? {
                lines.push(item_line(segment, offset, &item));
            }
            Ok(())
        });
        self.ready.extend(lines);
        if let Err(error) = ended {
            self.unreadable(offset, &error.to_string());
        }
    }
}

fn item_line(segment: u64, offset: u64, item: &Item) -> DumpLine {
    match item {
        Item::Record(record) => {
            let kind = format!("{:?}", record.kind).to_lowercase();
            let mut line = DumpLine::new(segment, offset, kind, len64(record.body.len()));
            line.shard = Some(record.slot.shard);
            line.instance = Some(record.slot.instance);
            line.term = Some(record.slot.term);
            line.seq = Some(record.seq);
            line.detail = record.raw_len.map(|len| format!("zstd, {len} bytes raw"));
            line
        }
        Item::Note(note) => {
            let mut line = DumpLine::new(segment, offset, note.name(), 0);
            line.instance = note.instance();
            line.detail = Some(format!("{note:?}"));
            line
        }
    }
}

impl Iterator for Dump {
    type Item = DumpLine;

    fn next(&mut self) -> Option<DumpLine> {
        loop {
            if let Some(line) = self.ready.pop_front() {
                return Some(line);
            }
            if self.chain.end >= self.end {
                return None;
            }
            match self.chain.next(&self.bytes) {
                Probe::Frame(frame) => {
                    self.chain.advance(&frame);
                    self.frame(&frame);
                }
                _ => self.unreadable(self.chain.end, "no frame"),
            }
        }
    }
}
