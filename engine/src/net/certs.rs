//! A cluster's own certificate authority, for trials and small clusters: its key makes the certificates of all nodes,
//! clients and admins. A larger organisation brings its own, with the same names in them (see [`Identity`]).
//!
//! In a directory: `ca.pem` and `ca.key`, then `ROLE-NAME.pem` and `ROLE-NAME.key` for each that was issued. Keys can be
//! read by their owner's account only. Nothing that exists is written over.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType, string::Ia5String,
};
use time::{Duration, OffsetDateTime};

use super::identity::Identity;

/// The authority's certificate, in its directory.
pub const CA_CERTIFICATE: &str = "ca.pem";
/// The authority's key. Whoever has it can be anybody: keep it off the nodes.
pub const CA_KEY: &str = "ca.key";
/// How long a certificate is good for, unless said otherwise.
pub const DEFAULT_DAYS: u32 = 365;
/// Clocks differ a little between machines.
const BEFORE: Duration = Duration::hours(1);

/// Why no certificate was made. Nothing was left behind.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CertsError {
    /// A file is there already.
    #[error("{} exists: choose another directory or name, or remove it first", .0.display())]
    Exists(PathBuf),
    /// A file operation failed.
    #[error("{op} {}: {source}", path.display())]
    Io {
        /// What was tried.
        op: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The authority's files are not a certificate and its key.
    #[error("{}: {reason}; make an authority with `watershed certs init`", path.display())]
    Authority {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// It can't be made as wished.
    #[error("no certificate can be made: {0}")]
    Refused(String),
}

/// The files of a certificate that was issued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    /// The certificate.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// What a certificate is to be.
#[derive(Debug, Clone)]
pub struct Wish {
    /// For whom.
    pub identity: Identity,
    /// How long it is good for, from now on.
    pub days: u32,
}

/// Makes an authority in `dir`, which is made where it is not there.
///
/// # Errors
/// When there is one already, or the files can't be written.
pub fn init(dir: &Path, days: u32) -> Result<Issued, CertsError> {
    fs::create_dir_all(dir).map_err(|source| io_error("create", dir, source))?;
    let key = KeyPair::generate().map_err(refused)?;
    let mut params = params("Watershed cluster", days)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = params.self_signed(&key).map_err(refused)?;
    let files = Issued {
        certificate: dir.join(CA_CERTIFICATE),
        key: dir.join(CA_KEY),
    };
    write_both(&files, &certificate.pem(), &key.serialize_pem())?;
    Ok(files)
}

/// Makes a certificate, signed by the authority in `authority`, in the directory `into`.
///
/// # Errors
/// When there is no authority, when there is a certificate of this name already, or the files can't be written.
pub fn issue(authority: &Path, into: &Path, wish: &Wish) -> Result<Issued, CertsError> {
    let key_path = authority.join(CA_KEY);
    let key = KeyPair::from_pem(&read(&key_path)?);
    let key = key.map_err(|error| not_ours(&key_path, &error))?;
    let certificate_path = authority.join(CA_CERTIFICATE);
    let issuer = Issuer::from_ca_cert_pem(&read(&certificate_path)?, key);
    let issuer = issuer.map_err(|error| not_ours(&certificate_path, &error))?;

    let identity = &wish.identity;
    let key = KeyPair::generate().map_err(refused)?;
    let mut params = params(identity.name.as_str(), wish.days)?;
    let uri = Ia5String::try_from(identity.to_string()).map_err(refused)?;
    params.subject_alt_names = vec![SanType::URI(uri)];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    // A node answers and asks.
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.use_authority_key_identifier_extension = true;
    let certificate = params.signed_by(&key, &issuer).map_err(refused)?;
    fs::create_dir_all(into).map_err(|source| io_error("create", into, source))?;
    let stem = format!("{}-{}", identity.role, identity.name);
    let files = Issued {
        certificate: into.join(format!("{stem}.pem")),
        key: into.join(format!("{stem}.key")),
    };
    write_both(&files, &certificate.pem(), &key.serialize_pem())?;
    Ok(files)
}

fn params(common_name: &str, days: u32) -> Result<CertificateParams, CertsError> {
    let mut params = CertificateParams::default();
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    params.distinguished_name = name;
    let now = OffsetDateTime::now_utc();
    params.not_before = now - BEFORE;
    let end = now.checked_add(Duration::days(days.into()));
    // The last year that a certificate can name.
    let end = end.filter(|end| end.year() <= 9999);
    params.not_after = end.ok_or_else(|| {
        CertsError::Refused(format!("{days} days from now is after the year 9999"))
    })?;
    Ok(params)
}

/// Writes a certificate and its key, both or none.
fn write_both(files: &Issued, certificate: &str, key: &str) -> Result<(), CertsError> {
    write_new(&files.key, key, 0o600)?;
    write_new(&files.certificate, certificate, 0o644).inspect_err(|_| {
        // Made a moment ago by this call; left behind it would only keep the next one from its name.
        let _ = fs::remove_file(&files.key);
    })
}

fn write_new(path: &Path, contents: &str, mode: u32) -> Result<(), CertsError> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => CertsError::Exists(path.to_owned()),
            _ => io_error("create", path, source),
        })?;
    let written = file
        .write_all(contents.as_bytes())
        .and_then(|()| file.sync_all());
    written.map_err(|source| {
        // Half a file is worse than none, and it is ours.
        let _ = fs::remove_file(path);
        io_error("write", path, source)
    })
}

fn read(path: &Path) -> Result<String, CertsError> {
    fs::read_to_string(path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => not_ours(path, &"it is not there"),
        _ => io_error("read", path, source),
    })
}

fn io_error(op: &'static str, path: &Path, source: io::Error) -> CertsError {
    CertsError::Io {
        op,
        path: path.to_owned(),
        source,
    }
}

fn not_ours(path: &Path, reason: &impl ToString) -> CertsError {
    CertsError::Authority {
        path: path.to_owned(),
        reason: reason.to_string(),
    }
}

fn refused(error: impl ToString) -> CertsError {
    CertsError::Refused(error.to_string())
}
