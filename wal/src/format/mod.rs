//! The bytes of a segment file, as drawn in `FORMAT.md`: frame headers, payloads, heads and notes.
//!
//! Pure encoding and decoding; which frames count, and what is done about damage, is decided in `log/recover`.

pub(crate) mod frame;
pub(crate) mod head;
pub(crate) mod notes;
pub(crate) mod payload;
