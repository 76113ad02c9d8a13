//! What is wrong within a message, and where: the path of the field grows while the error goes up.

use crate::messages::WireError;

/// What is wrong with a field. Made on the way down, named on the way up by [`Within`].
#[derive(Debug)]
pub(in crate::messages) enum Fault {
    /// It does not hold what it must.
    Damaged { field: String, why: String },
    /// It holds too much.
    Bound {
        list: &'static str,
        found: usize,
        most: usize,
    },
}

impl Fault {
    /// Of the message or value at hand, which has no name yet.
    pub(super) fn here(why: impl Into<String>) -> Self {
        Self::Damaged {
            field: String::new(),
            why: why.into(),
        }
    }

    pub(super) fn missing() -> Self {
        Self::here("missing")
    }

    fn within(self, outer: &str) -> Self {
        match self {
            Self::Damaged { field, why } if field.is_empty() => Self::Damaged {
                field: outer.to_owned(),
                why,
            },
            Self::Damaged { field, why } => {
                // The index of an element follows its list at once.
                let dot = if field.starts_with('[') { "" } else { "." };
                Self::Damaged {
                    field: format!("{outer}{dot}{field}"),
                    why,
                }
            }
            bound @ Self::Bound { .. } => bound,
        }
    }

    /// The error of a whole message; `what` is a request or a response.
    pub(super) fn of_a(self, what: &'static str) -> WireError {
        match self {
            Self::Damaged { field, why } => WireError::Damaged {
                what,
                reason: match field.as_str() {
                    "" => why,
                    field => format!("{field}: {why}"),
                },
            },
            Self::Bound { list, found, most } => WireError::Bound {
                what,
                list,
                found,
                most,
            },
        }
    }
}

/// Names the field, or the element of a list, that a fault is in.
pub(super) trait Within {
    fn within(self, field: &str) -> Self;
    fn at(self, index: usize) -> Self;
}

impl<T> Within for Result<T, Fault> {
    fn within(self, field: &str) -> Self {
        self.map_err(|fault| fault.within(field))
    }

    fn at(self, index: usize) -> Self {
        self.map_err(|fault| fault.within(&format!("[{index}]")))
    }
}
