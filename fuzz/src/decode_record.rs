//! Bytes as a message of records, and as a start record's body. Law: what decodes, encodes to the same bytes.
//!
//! The input is tried as it is, and again as the payload under a right version and checksum, which a mutation
//! would hardly ever hit.

use bytes::{BufMut, Bytes, BytesMut};
use watershed_wal::{Record, StartBody};

/// Runs one input.
///
/// # Panics
/// On a finding.
pub fn run(data: &[u8]) {
    decode(&Bytes::copy_from_slice(data));
    decode(&sealed(data));
    if let Ok(start) = StartBody::decode(data) {
        assert_eq!(start.encode(), data, "one start body has two encodings");
    }
}

fn decode(message: &Bytes) {
    let Ok(records) = Record::decode_many(message) else {
        return;
    };
    assert_eq!(
        &Record::encode_many(&records),
        message,
        "one message has two encodings"
    );
    for record in records {
        let (term, seq, kind) = (record.term(), record.seq(), record.kind());
        assert_eq!(record, Record::new(term, seq, kind, record.body().clone()));
        // Whatever a peer sends, counting on from it must not overflow.
        let _ = (seq.next(), term.epoch.next());
    }
}

/// A message of version 1 with this payload and its checksum.
#[must_use]
pub fn sealed(payload: &[u8]) -> Bytes {
    let mut message = BytesMut::with_capacity(payload.len() + 5);
    message.put_u8(1);
    message.put_slice(payload);
    let crc = crc32fast::hash(&message);
    message.put_u32_le(crc);
    message.freeze()
}
