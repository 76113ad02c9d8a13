//! The version of a value and the entry a scan yields: the two words of this module that users see.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;
use watershed_wal::{Epoch, Seq, Term};

/// Which write made a value: later writes have greater versions, and no two writes of a shard share one.
///
/// Opaque: compare versions, hand them back as a condition, print them; what is inside may change. The text
/// is three numbers with dots between them, and reads back with [`FromStr`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    pub(crate) term: Term,
    pub(crate) seq: Seq,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.term, self.seq)
    }
}

/// A text that is not a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a version is three numbers with dots between them, as a read shows it")]
pub struct ParseVersionError;

impl FromStr for Version {
    type Err = ParseVersionError;

    fn from_str(text: &str) -> Result<Self, ParseVersionError> {
        let mut numbers = text.split('.').map(|part| {
            let digits = !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
            digits.then(|| part.parse::<u64>().ok()).flatten()
        });
        let mut number = || numbers.next().flatten().ok_or(ParseVersionError);
        let (epoch, opening, seq) = (number()?, number()?, number()?);
        if numbers.next().is_some() {
            return Err(ParseVersionError);
        }
        Self::from_numbers(epoch, opening, seq).ok_or(ParseVersionError)
    }
}

impl Version {
    fn from_numbers(epoch: u64, opening: u64, seq: u64) -> Option<Self> {
        Some(Self {
            term: Term::new(Epoch::try_from(epoch).ok()?, opening),
            seq: Seq::try_from(seq).ok()?,
        })
    }
}

/// The text where people read it, three numbers elsewhere.
impl Serialize for Version {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            (self.term.epoch.0, self.term.opening, self.seq.0).serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for Version {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error as _;
        if deserializer.is_human_readable() {
            let text = String::deserialize(deserializer)?;
            text.parse().map_err(D::Error::custom)
        } else {
            let (epoch, opening, seq) = Deserialize::deserialize(deserializer)?;
            Self::from_numbers(epoch, opening, seq)
                .ok_or_else(|| D::Error::custom(ParseVersionError))
        }
    }
}

/// A key, its value, and the version of the write that made it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Entry {
    /// The key.
    pub key: Bytes,
    /// Its value.
    pub value: Bytes,
    /// Which write made the value.
    pub version: Version,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_reads_back_and_orders_by_term_then_seq() {
        let version = |e, o, s| Version::from_numbers(e, o, s).unwrap();
        let low = version(1, 9, 900);
        let high = version(2, 1, 7);
        assert!(low < high);
        assert_eq!(high.to_string(), "2.1.7");
        assert_eq!("2.1.7".parse(), Ok(high));
        for bad in [
            "",
            "1.2",
            "1.2.3.4",
            "1..2",
            "+1.2.3",
            "1.2.18446744073709551615",
        ] {
            assert_eq!(bad.parse::<Version>(), Err(ParseVersionError), "{bad}");
        }
        let json = serde_json::to_string(&high).unwrap();
        assert_eq!(json, "\"2.1.7\"");
        assert_eq!(serde_json::from_str::<Version>(&json).unwrap(), high);
    }
}
