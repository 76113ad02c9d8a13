//! What the service says when it can't do as it was asked: each error of the engine as a status, with a body that tells
//! what to do.
//!
//! | what happened | status | what a client does |
//! |---|---|---|
//! | a condition does not hold | 412, the version found as `ETag` | reads and decides again |
//! | the owner can't be asked from here | 307 to the owner | follows it |
//! | not taken by the deadline; no room, busy, closing | 503, `Retry-After` | sends it again: nothing happened |
//! | a write whose outcome is not known | 504 | reads before it writes again, or repeats a conditional write |
//! | a bad key, value or header | 400, 413 | changes it |
//! | anything else | 500 | tells an operator |

use axum::Json;
use axum::http::header::{ETAG, HeaderName, LOCATION, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use watershed::{Error, Retry, Version};

/// When to send again what was not taken: a cutover is over long before, so is a restart's worst part.
const RETRY_AFTER_S: &str = "1";

/// Whether it matters that something may have happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    Read,
    Write,
}

/// An answer that is not what was asked for.
#[derive(Debug)]
pub(crate) struct Problem {
    status: StatusCode,
    /// For programs.
    error: &'static str,
    /// For people.
    message: String,
    header: Option<(HeaderName, String)>,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, error: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            error,
            message: message.into(),
            header: None,
        }
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad-request", message)
    }

    /// The owner answers there. Method and body stay, which only 307 and 308 promise; and not for ever, so not 308.
    pub(crate) fn moved(location: String) -> Self {
        let message = format!("another node owns this key: {location}");
        Self {
            header: Some((LOCATION, location)),
            ..Self::new(StatusCode::TEMPORARY_REDIRECT, "moved", message)
        }
    }

    pub(crate) fn of(error: &Error, asked: Asked) -> Self {
        let message = error.to_string();
        let named = match error {
            Error::ConditionFailed { found, .. } => {
                return Self {
                    header: found.map(|version| (ETAG, etag(version))),
                    ..Self::new(StatusCode::PRECONDITION_FAILED, "condition-failed", message)
                };
            }
            Error::KeyLength { .. } | Error::Options { .. } => {
                Some((StatusCode::BAD_REQUEST, "bad-request"))
            }
            Error::ValueLength { .. } => Some((StatusCode::PAYLOAD_TOO_LARGE, "too-large")),
            Error::NoShard { .. } => Some((StatusCode::NOT_FOUND, "no-shard")),
            Error::MigrationAborted { .. } => Some((StatusCode::CONFLICT, "not-moved")),
            _ => None,
        };
        if let Some((status, error)) = named {
            return Self::new(status, error, message);
        }
        match (error.retry(), asked) {
            (Retry::Unknown, Asked::Write) => {
                Self::new(StatusCode::GATEWAY_TIMEOUT, "outcome-unknown", message)
            }
            // A read that came to nothing is simply asked again.
            (Retry::Now | Retry::Elsewhere, _) | (Retry::Unknown, Asked::Read) => Self {
                header: Some((RETRY_AFTER, RETRY_AFTER_S.to_owned())),
                ..Self::new(StatusCode::SERVICE_UNAVAILABLE, "not-applied", message)
            },
            (Retry::Never, _) => Self::new(StatusCode::INTERNAL_SERVER_ERROR, "failed", message),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = serde_json::json!({ "error": self.error, "message": self.message });
        let mut response = (self.status, Json(body)).into_response();
        if let Some((name, value)) = self.header
            && let Ok(value) = HeaderValue::from_str(&value)
        {
            response.headers_mut().insert(name, value);
        }
        response
    }
}

/// A version as an entity tag.
pub(crate) fn etag(version: Version) -> String {
    format!("\"{version}\"")
}
