//! Bytes as the body of a batch record. Law: what decodes, encodes to the same bytes; what does not is refused
//! alike by the reader and the validator.

use bytes::Bytes;
use watershed_wal::{BatchBuilder, BatchReader, FormatError, Op, validate_batch};

/// Runs one input.
///
/// # Panics
/// On a finding.
pub fn run(data: &[u8]) {
    let body = Bytes::copy_from_slice(data);
    match decode_and_encode(&body) {
        Ok((ops, again)) => {
            assert_eq!(validate_batch(&body), Ok(ops));
            assert_eq!(again, body, "one value has two encodings");
        }
        Err(error) => assert_eq!(validate_batch(&body), Err(error)),
    }
}

fn decode_and_encode(body: &Bytes) -> Result<(usize, Bytes), FormatError> {
    let reader = BatchReader::new(body.clone())?;
    let mut builder = reader
        .client()
        .map_or_else(BatchBuilder::new, BatchBuilder::stamped);
    for op in reader {
        let op: Op = op?;
        builder.push(&op);
    }
    Ok((builder.len(), builder.finish()))
}
