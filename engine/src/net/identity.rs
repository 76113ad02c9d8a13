//! Who a certificate is for: a role and a name, as a URI among its subject's alternative names.
//!
//! ```text
//! watershed://node/a      watershed://client/billing      watershed://admin/alice
//! ```
//!
//! Host names and addresses in a certificate say nothing here: a node is who its certificate says, wherever it runs, and
//! no other node can pass for it.

use std::fmt;
use std::str::FromStr;

use tokio_rustls::rustls::pki_types::CertificateDer;
use watershed_migration::NodeId;
use webpki::EndEntityCert;

const SCHEME: &str = "watershed://";

/// What the holder of a certificate may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Role {
    /// A node of the cluster: it moves shards with other nodes, and may do all that clients may.
    Node,
    /// Reads and writes.
    Client,
    /// An operator: reads, writes, and moves shards.
    Admin,
}

impl Role {
    /// Each role.
    pub const ALL: [Self; 3] = [Self::Node, Self::Client, Self::Admin];

    /// Its name, as in a certificate.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Client => "client",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The role and the name that a certificate is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Identity {
    /// What it may do.
    pub role: Role,
    /// Its name: that of a node is the one in the placement. Letters, digits, `.`, `_` and `-`, 64 at the most.
    pub name: NodeId,
}

/// Why a certificate, or a URI of one, is nobody's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// It can't be read.
    #[error("the certificate can't be read ({0})")]
    Unreadable(String),
    /// It names nobody, or several.
    #[error(
        "the certificate has {0} names of the form watershed://ROLE/NAME, it must have one; make it with `watershed certs issue`"
    )]
    Names(usize),
    /// The URI is not one of ours.
    #[error("{0:?} is not of the form watershed://ROLE/NAME, where ROLE is node, client or admin")]
    Form(String),
}

impl Identity {
    /// A node's.
    #[must_use]
    pub const fn node(name: NodeId) -> Self {
        Self {
            role: Role::Node,
            name,
        }
    }

    /// Whom a certificate is for. Says nothing about whether it is valid.
    ///
    /// # Errors
    /// When it can't be read, or does not name exactly one role and name.
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Self, IdentityError> {
        let parsed = EndEntityCert::try_from(certificate)
            .map_err(|error| IdentityError::Unreadable(error.to_string()))?;
        let ours: Vec<&str> = parsed
            .valid_uri_names()
            .filter(|uri| uri.starts_with(SCHEME))
            .collect();
        match ours[..] {
            [one] => one.parse(),
            _ => Err(IdentityError::Names(ours.len())),
        }
    }
}

impl FromStr for Identity {
    type Err = IdentityError;

    fn from_str(uri: &str) -> Result<Self, IdentityError> {
        let form = || IdentityError::Form(uri.to_owned());
        let rest = uri.strip_prefix(SCHEME).ok_or_else(form)?;
        let (role, name) = rest.split_once('/').ok_or_else(form)?;
        let role = Role::ALL.into_iter().find(|known| known.name() == role);
        Ok(Self {
            role: role.ok_or_else(form)?,
            name: name.parse().map_err(|_| form())?,
        })
    }
}

/// The URI.
impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}/{}", self.role, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_a_role_and_a_name() {
        for role in Role::ALL {
            let uri = format!("watershed://{role}/a-1.b_C");
            let identity: Identity = uri.parse().unwrap();
            assert_eq!((identity.role, identity.name.as_str()), (role, "a-1.b_C"));
            assert_eq!(identity.to_string(), uri);
        }
        let wrong = [
            "",
            "a",
            "watershed://",
            "watershed://node",
            "watershed://node/",
            "watershed://node/a/b",
            "watershed://Node/a",
            "watershed://owner/a",
            "https://node/a",
            "watershed://node/a b",
        ];
        for uri in wrong {
            let error = uri.parse::<Identity>().unwrap_err();
            assert_eq!(error, IdentityError::Form(uri.to_owned()));
        }
    }
}
