//! Mutual TLS: each side shows a certificate of the cluster's authority, and learns who the other one is.
//!
//! The files are looked at again before a handshake, so new certificates need no restart: connections made from then on
//! use them, those that are up stay. Files that can't be used are reported once, and those before stay in use.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::client::verify_server_cert_signed_by_trust_anchor;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use tokio_rustls::rustls::{
    self, CertificateError, ClientConfig, DigitallySignedStruct, OtherError, RootCertStore,
    ServerConfig, SignatureScheme,
};

use super::identity::{Identity, IdentityError, Role};
use crate::sync::lock;

/// How often the files are looked at, at the most.
const LOOK_EVERY: Duration = Duration::from_secs(1);
const ALPN: &[u8] = b"h2";

/// Where a certificate, its key and the authority's certificate are, as PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The authority's certificate; several, while one takes over from another.
    pub authority: PathBuf,
    /// This one's certificate, its intermediates behind it.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// Why files are no use for TLS.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file can't be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: Arc<io::Error>,
    },
    /// A file does not hold what it should.
    #[error("{}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The certificate is nobody's.
    #[error("{}: {source}", path.display())]
    Identity {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: IdentityError,
    },
}

/// A certificate in use, and the files that it came from.
pub(crate) struct Tls {
    files: TlsFiles,
    state: Mutex<State>,
}

struct State {
    loaded: Arc<Loaded>,
    looked: Instant,
    stamps: Stamps,
}

/// What the files held.
pub(crate) struct Loaded {
    /// Whom the certificate is for.
    pub(crate) identity: Identity,
    /// For those that connect.
    pub(crate) server: Arc<ServerConfig>,
    provider: Arc<CryptoProvider>,
    roots: Arc<RootCertStore>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

/// By which a changed file is known.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamps([Option<(SystemTime, u64)>; 3]);

impl Tls {
    pub(crate) fn load(files: TlsFiles) -> Result<Self, TlsError> {
        let stamps = Stamps::of(&files);
        let loaded = Arc::new(Loaded::read(&files)?);
        let state = State {
            loaded,
            looked: Instant::now(),
            stamps,
        };
        Ok(Self {
            files,
            state: Mutex::new(state),
        })
    }

    /// What the files hold now, or held when they could last be used. Reads small files, once a second at the most.
    pub(crate) fn current(&self) -> Arc<Loaded> {
        let mut state = lock(&self.state);
        if state.looked.elapsed() >= LOOK_EVERY {
            state.looked = Instant::now();
            let stamps = Stamps::of(&self.files);
            if stamps != state.stamps {
                self.take(&mut state, stamps);
            }
        }
        Arc::clone(&state.loaded)
    }

    fn take(&self, state: &mut State, stamps: Stamps) {
        let loaded = Loaded::read(&self.files).and_then(|loaded| {
            if loaded.identity == state.loaded.identity {
                return Ok(loaded);
            }
            Err(TlsError::File {
                path: self.files.certificate.clone(),
                reason: format!(
                    "it is for {}, the one before was for {}",
                    loaded.identity, state.loaded.identity
                ),
            })
        });
        // Also where they are no use: they are reported once.
        state.stamps = stamps;
        match loaded {
            Ok(loaded) => {
                tracing::info!(identity = %loaded.identity, "certificates read again");
                state.loaded = Arc::new(loaded);
            }
            Err(error) => {
                tracing::error!(%error, "changed certificates can't be used; those before stay in use");
            }
        }
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Tls").field(&self.files).finish()
    }
}

impl Stamps {
    fn of(files: &TlsFiles) -> Self {
        let stamp = |path: &PathBuf| {
            let meta = fs::metadata(path).ok()?;
            Some((meta.modified().ok()?, meta.len()))
        };
        Self([&files.authority, &files.certificate, &files.key].map(stamp))
    }
}

impl Loaded {
    fn read(files: &TlsFiles) -> Result<Self, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let mut roots = RootCertStore::empty();
        for root in certificates(&files.authority)? {
            let added = roots.add(root);
            added.map_err(|error| TlsError::file(&files.authority, error))?;
        }
        let roots = Arc::new(roots);
        let chain = certificates(&files.certificate)?;
        let identity = Identity::of(&chain[0]).map_err(|source| TlsError::Identity {
            path: files.certificate.clone(),
            source,
        })?;
        let bytes = read(&files.key)?;
        let key = PrivateKeyDer::from_pem_slice(&bytes)
            .map_err(|error| TlsError::file(&files.key, format!("it holds no key ({error})")))?;
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
                .build()
                .map_err(|error| TlsError::file(&files.authority, error))?;
        let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| TlsError::file(&files.certificate, error))?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain.clone(), key.clone_key())
            .map_err(|error| {
                TlsError::file(&files.key, format!("not the certificate's ({error})"))
            })?;
        server.alpn_protocols = vec![ALPN.to_vec()];
        Ok(Self {
            identity,
            server: Arc::new(server),
            provider,
            roots,
            chain,
            key,
        })
    }

    /// For a connection to who is `expected`, and nobody else.
    pub(crate) fn client(&self, expected: Expected) -> Result<ClientConfig, rustls::Error> {
        let verifier = ExpectedServer {
            expected,
            roots: Arc::clone(&self.roots),
            provider: Arc::clone(&self.provider),
        };
        let mut client = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_auth_cert(self.chain.clone(), self.key.clone_key())?;
        client.alpn_protocols = vec![ALPN.to_vec()];
        // Who is meant is in the certificates, not in a host's name.
        client.enable_sni = false;
        Ok(client)
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|source| TlsError::Io {
        path: path.to_owned(),
        source: Arc::new(source),
    })
}

/// At least one.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bytes = read(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    match found {
        Ok(found) if found.is_empty() => Err(TlsError::file(path, "it holds no certificate")),
        Ok(found) => Ok(found),
        Err(error) => Err(TlsError::file(
            path,
            format!("it is not in PEM form ({error})"),
        )),
    }
}

impl TlsError {
    fn file(path: &Path, reason: impl ToString) -> Self {
        Self::File {
            path: path.to_owned(),
            reason: reason.to_string(),
        }
    }
}

/// Who a server must be.
#[derive(Debug, Clone)]
pub(crate) enum Expected {
    Exactly(Identity),
    /// Any node of the cluster: for who knows an address and not yet whose it is.
    AnyNode,
}

impl Expected {
    fn is(&self, found: &Identity) -> bool {
        match self {
            Self::Exactly(expected) => found == expected,
            Self::AnyNode => found.role == Role::Node,
        }
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exactly(identity) => identity.fmt(f),
            Self::AnyNode => f.write_str("a node"),
        }
    }
}

/// Takes a server for who it should be by what its certificate says, wherever it runs.
#[derive(Debug)]
struct ExpectedServer {
    expected: Expected,
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
}

/// A server is somebody else, or nobody.
#[derive(Debug, thiserror::Error)]
enum WrongServer {
    #[error("this is {found}, and not {expected}")]
    Other { found: Identity, expected: Expected },
    #[error(transparent)]
    Nobody(IdentityError),
}

impl ServerCertVerifier for ExpectedServer {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let parsed = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &self.roots,
            intermediates,
            now,
            algorithms,
        )?;
        let wrong = match Identity::of(end_entity) {
            Ok(found) if self.expected.is(&found) => return Ok(ServerCertVerified::assertion()),
            Ok(found) => WrongServer::Other {
                found,
                expected: self.expected.clone(),
            },
            Err(error) => WrongServer::Nobody(error),
        };
        Err(CertificateError::Other(OtherError(Arc::new(wrong))).into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// Why a handshake failed, as what is wrong with the other side.
pub(super) fn failed_handshake(error: &io::Error) -> String {
    let inner = error
        .get_ref()
        .and_then(|e| e.downcast_ref::<rustls::Error>());
    match inner {
        Some(rustls::Error::NoCertificatesPresented) => "it shows no certificate".into(),
        Some(rustls::Error::InvalidCertificate(wrong)) => match wrong {
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                "its certificate is not of this cluster's authority".into()
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "its certificate has expired".into()
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "its certificate is not valid yet; compare the clocks".into()
            }
            CertificateError::Other(other) => other.0.to_string(),
            other => format!("its certificate is not valid ({other})"),
        },
        Some(rustls::Error::InvalidMessage(_)) => "it does not speak TLS".into(),
        Some(rustls::Error::AlertReceived(alert)) => {
            format!("it refuses the certificate of this side ({alert:?})")
        }
        Some(other) => format!("the TLS handshake failed ({other})"),
        None => format!("the connection ended in the TLS handshake ({error})"),
    }
}
