//! `certificate verify`: whether a certificate of a migration says what one must say, each field agreeing with the others.

use std::path::Path;

use serde_json::json;

use super::failure::{Failure, Kind};
use super::output::{Answer, thousands};
use crate::migration::{Certificate, CertificateError};

pub(super) fn verify(file: &Path) -> Result<Answer, Failure> {
    let bytes = std::fs::read(file).map_err(|error| Failure::file("read", file, &error))?;
    let certificate = Certificate::from_json(&bytes).map_err(|error| failed(file, &error))?;
    let records = certificate.f.0 - certificate.base.0;
    let pause = certificate.pause_us.map_or_else(
        || "a pause that a restart cut off".to_owned(),
        |us| format!("a pause of {}.{:03} ms", us / 1000, us % 1000),
    );
    let text = format!(
        "shard {} went from {} (epoch {}) to {} (epoch {}) whole: {} records after its checkpoint, none missing, equal digests, {pause}",
        certificate.shard,
        certificate.source.node,
        certificate.source.epoch,
        certificate.target.node,
        certificate.target.epoch,
        thousands(records),
    );
    Ok(Answer::new(
        text,
        json!({ "valid": true, "certificate": certificate }),
    ))
}

fn failed(file: &Path, error: &CertificateError) -> Failure {
    match error {
        CertificateError::Unreadable { line, .. } => {
            Failure::line(file, u64::try_from(*line).unwrap_or(u64::MAX), error)
        }
        CertificateError::Newer { .. } => Failure::about(Kind::NewerFormat, file, error),
        _ => Failure::about(Kind::BadInput, file, error),
    }
}
