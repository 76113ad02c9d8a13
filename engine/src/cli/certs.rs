//! `certs`: the certificates by which nodes, clients and admins know each other.

use serde_json::json;

use super::args::{CertsInitArgs, CertsIssueArgs};
use super::failure::{Failure, Kind};
use super::output::Answer;
use crate::net::certs::{self, CertsError, Issued, Wish};
use crate::net::{Identity, certs::CA_KEY};

pub(super) fn init(options: &CertsInitArgs) -> Result<Answer, Failure> {
    let made = certs::init(&options.dir, options.days)?;
    let text = format!(
        "made the authority {}\nkeep {} where no node can read it: whoever has it can be anybody",
        made.certificate.display(),
        options.dir.join(CA_KEY).display(),
    );
    Ok(Answer::new(text, document(&made)))
}

pub(super) fn issue(options: &CertsIssueArgs) -> Result<Answer, Failure> {
    let wish = Wish {
        identity: Identity {
            role: options.role.into(),
            name: options.name.clone(),
        },
        days: options.days,
    };
    let into = options.out.as_ref().unwrap_or(&options.dir);
    let made = certs::issue(&options.dir, into, &wish)?;
    let text = format!(
        "made {} and {} for {}",
        made.certificate.display(),
        made.key.display(),
        wish.identity,
    );
    let mut document = document(&made);
    document["identity"] = json!(wish.identity.to_string());
    Ok(Answer::new(text, document))
}

fn document(made: &Issued) -> serde_json::Value {
    json!({ "certificate": made.certificate, "key": made.key })
}

impl From<CertsError> for Failure {
    fn from(error: CertsError) -> Self {
        match &error {
            CertsError::Exists(path) => Self::at(Kind::BadDirectory, path, &error),
            CertsError::Io { op, path, source } => Self::file(op, path, source),
            CertsError::Authority { path, .. } => Self::at(Kind::BadInput, path, &error),
            CertsError::Refused(_) => Self::usage(error.to_string()),
        }
    }
}
