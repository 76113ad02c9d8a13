//! The log's public calls.
#![allow(missing_docs, clippy::todo, unused_variables, clippy::missing_errors_doc)]
use std::sync::Arc;
use std::time::Duration;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use bytes::Bytes;
use crate::*;

#[derive(Clone, Debug)]
pub struct Log { inner: Arc<()> }
impl Log {
    pub fn open(storage: Arc<dyn Storage>, options: LogOptions) -> Result<(Log, OpenReport), OpenError> { todo!() }
    pub fn host(&self, shard: ShardId, instance: InstanceId, base: Seq, terms: Vec<TermStart>) -> Result<InstanceLog, LogError> { todo!() }
    pub fn instance(&self, id: InstanceId) -> Option<InstanceLog> { todo!() }
    pub fn instances(&self) -> Vec<InstanceLog> { todo!() }
    pub fn forget(&self, id: InstanceId) -> Result<(), LogError> { todo!() }
    pub fn sync(&self) -> Result<(), LogError> { todo!() }
    pub fn status(&self) -> LogStatus { todo!() }
    pub fn sync_latency_us(&self) -> u64 { todo!() }
    pub fn pinning(&self) -> Option<(InstanceId, Seq)> { todo!() }
    pub fn close(&self) -> Result<(), LogError> { todo!() }
}
#[derive(Clone, Debug)]
pub struct InstanceLog { inner: Arc<()> }
impl InstanceLog {
    pub fn shard(&self) -> ShardId { todo!() }
    pub fn id(&self) -> InstanceId { todo!() }
    pub fn base(&self) -> Seq { todo!() }
    pub fn terms(&self) -> Vec<TermStart> { todo!() }
    pub fn term(&self) -> Option<Term> { todo!() }
    pub fn set_sink(&self, sink: Option<Arc<dyn CommitSink>>) { todo!() }
    pub fn start_term(&self, term: Term, at_least: Seq) -> Result<Submitted, LogError> { todo!() }
    pub fn submit(&self, kind: RecordKind, body: Bytes, durability: Durability, inline: Inline) -> Result<Submitted, LogError> { todo!() }
    pub fn close_gate(&self) -> Result<Seq, LogError> { todo!() }
    pub fn open_gate(&self) -> Result<(), LogError> { todo!() }
    pub fn gate_is_open(&self) -> bool { todo!() }
    pub fn append_at(&self, records: Vec<Record>) -> Result<Submitted, LogError> { todo!() }
    pub fn has(&self) -> SeqSet { todo!() }
    pub fn watermarks(&self) -> Watermarks { todo!() }
    pub fn durable_past(&self, seq: Seq) -> DurablePast { todo!() }
    pub fn read(&self, range: SeqRange) -> RecordReader { todo!() }
    pub fn read_batch(&self, range: SeqRange, max_bytes: usize) -> Result<Vec<Record>, LogError> { todo!() }
    pub fn tail(&self, from: Seq) -> Tail { todo!() }
    pub fn set_flushed(&self, seq: Seq) { todo!() }
    pub fn flushed(&self) -> Seq { todo!() }
    pub fn hold(&self, name: &str, from: Seq, budget: HoldBudget) -> Result<(), LogError> { todo!() }
    pub fn release_hold(&self, name: &str) -> Result<(), LogError> { todo!() }
    pub fn holds(&self) -> Vec<HoldInfo> { todo!() }
    pub fn put_note(&self, key: &str, value: Bytes) -> Result<Submitted, LogError> { todo!() }
    pub fn note(&self, key: &str) -> Option<Bytes> { todo!() }
    pub fn digest(&self, range: SeqRange) -> Result<LogDigest, LogError> { todo!() }
}
#[derive(Debug)]
pub struct Submitted { pub term: Term, pub seq: Seq, pub done: Completion, pub lead: Option<Lead> }
impl Submitted {
    pub fn wait(self) -> Result<Seq, LogError> { todo!() }
}
#[derive(Debug)]
pub struct Lead { inner: Arc<()> }
impl Lead { pub fn commit(self) { todo!() } }
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inline { Allowed, Never }
#[derive(Debug)]
pub struct Committed { pub record: Record, pub durability: Durability, pub done: Completer }
pub trait CommitSink: Send + Sync {
    fn committed(&self, batch: Vec<Committed>, inline: bool);
    fn failed(&self, error: &LogError);
}
#[derive(Debug)]
pub struct DurablePast { inner: Arc<()> }
impl DurablePast { pub fn wait_timeout(self, timeout: Duration) -> Result<Option<Seq>, LogError> { todo!() } }
impl Future for DurablePast {
    type Output = Result<Seq, LogError>;
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> { todo!() }
}
#[derive(Debug)]
pub struct RecordReader { inner: Arc<()> }
impl Iterator for RecordReader { type Item = Result<Record, LogError>; fn next(&mut self) -> Option<Self::Item> { todo!() } }
#[derive(Debug)]
pub struct Tail { inner: Arc<()> }
impl Tail {
    pub async fn next(&mut self, max_bytes: usize) -> Result<Vec<Record>, LogError> { todo!() }
    pub fn next_timeout(&mut self, max_bytes: usize, timeout: Duration) -> Result<Option<Vec<Record>>, LogError> { todo!() }
}
#[derive(Debug)]
pub struct LogView { inner: Arc<()> }
#[derive(Clone, Debug)]
pub struct InstanceView { pub shard: ShardId, pub id: InstanceId, pub base: Seq, pub flushed: Seq, pub terms: Vec<TermStart>, pub has: SeqSet, pub notes: std::collections::BTreeMap<String, Bytes>, pub holds: Vec<HoldInfo> }
#[derive(Clone, Debug, serde::Serialize)]
#[non_exhaustive]
pub struct DumpLine { pub segment: u64, pub offset: u64, pub kind: String, pub shard: Option<ShardId>, pub instance: Option<InstanceId>, pub term: Option<Term>, pub seq: Option<Seq>, pub len: u64, pub detail: Option<String> }
impl LogView {
    pub fn open(storage: Arc<dyn Storage>) -> Result<(LogView, VerifyReport), OpenError> { todo!() }
    pub fn instances(&self) -> Vec<InstanceView> { todo!() }
    pub fn read(&self, id: InstanceId, range: SeqRange) -> impl Iterator<Item = Result<Record, LogError>> { std::iter::empty() }
    pub fn dump(&self) -> impl Iterator<Item = DumpLine> { std::iter::empty() }
}
pub fn verify(storage: Arc<dyn Storage>) -> Result<VerifyReport, OpenError> { todo!() }
