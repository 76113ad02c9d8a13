//! Where etcd is, and how it knows who asks.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use etcd_client::{Certificate, ConnectOptions, Identity, TlsOptions};

use crate::placement::PlacementError;

const HTTP: &str = "http://";
const HTTPS: &str = "https://";

/// Files for TLS, in PEM. They are read again for each new connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdTls {
    /// The authority that signed etcd's certificates.
    pub authority: PathBuf,
    /// What is shown to etcd, where it asks for certificates of its clients.
    pub certificate: Option<PathBuf>,
    /// The certificate's key.
    pub key: Option<PathBuf>,
}

/// Where an [`EtcdPlacement`](super::EtcdPlacement) is.
#[derive(Clone)]
pub struct EtcdOptions {
    pub(super) endpoints: Vec<String>,
    pub(super) prefix: String,
    user: Option<(String, String)>,
    tls: Option<EtcdTls>,
    pub(super) timeout: Duration,
}

impl EtcdOptions {
    /// The members of an etcd cluster, as `http://HOST:PORT` or `https://HOST:PORT`. One that gives no answer makes way for
    /// the next.
    #[must_use]
    pub fn new<E: Into<String>>(endpoints: impl IntoIterator<Item = E>) -> Self {
        Self {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            prefix: "/watershed/".into(),
            user: None,
            tls: None,
            timeout: Duration::from_secs(5),
        }
    }

    /// What all keys begin with; several clusters may share an etcd under a prefix each. Default `/watershed/`.
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// A user of etcd, where it asks for one.
    #[must_use]
    pub fn user(mut self, name: impl Into<String>, password: impl Into<String>) -> Self {
        self.user = Some((name.into(), password.into()));
        self
    }

    /// What `https` endpoints need.
    #[must_use]
    pub fn tls(mut self, tls: EtcdTls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// How long one request to etcd may take, at least a millisecond. Default 5 s.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout.max(Duration::from_millis(1));
        self
    }

    /// Whether they can be meant.
    pub(super) fn check(&self) -> Result<(), PlacementError> {
        let wrong = |what: String| Err(PlacementError::Options { what });
        if self.endpoints.is_empty() {
            return wrong(
                "etcd without an endpoint: name one, such as http://127.0.0.1:2379".into(),
            );
        }
        if self.prefix.trim_matches('/').is_empty() {
            return wrong(format!(
                "etcd's prefix is {:?}: name one, such as /watershed/",
                self.prefix
            ));
        }
        for endpoint in &self.endpoints {
            let host = endpoint
                .strip_prefix(HTTP)
                .or_else(|| endpoint.strip_prefix(HTTPS));
            let is_host_and_port = host.is_some_and(|host| {
                let port = host.rsplit_once(':').map(|(_, port)| port);
                port.is_some_and(|port| port.parse::<u16>().is_ok())
            });
            if !is_host_and_port || endpoint.parse::<http::Uri>().is_err() {
                return wrong(format!(
                    "{endpoint:?} is no endpoint of etcd: write http://HOST:PORT or https://HOST:PORT"
                ));
            }
            match (&self.tls, endpoint.starts_with(HTTPS)) {
                (None, true) => {
                    return wrong(format!(
                        "{endpoint} needs the certificate of etcd's authority"
                    ));
                }
                (Some(_), false) => {
                    return wrong(format!(
                        "{endpoint} is without TLS, but certificates are given: write https://"
                    ));
                }
                _ => {}
            }
        }
        match &self.tls {
            Some(tls) if tls.certificate.is_some() != tls.key.is_some() => {
                wrong("a certificate for etcd needs its key, and a key its certificate".into())
            }
            Some(_) => self.read_tls().map(drop),
            None => Ok(()),
        }
    }

    fn read_tls(&self) -> Result<Option<TlsOptions>, PlacementError> {
        let Some(tls) = &self.tls else {
            return Ok(None);
        };
        let read =
            |path: &Path| fs::read(path).map_err(|error| PlacementError::io("read", path, error));
        let mut made =
            TlsOptions::new().ca_certificate(Certificate::from_pem(read(&tls.authority)?));
        if let (Some(certificate), Some(key)) = (&tls.certificate, &tls.key) {
            made = made.identity(Identity::from_pem(read(certificate)?, read(key)?));
        }
        Ok(Some(made))
    }

    /// For one connection.
    pub(super) fn for_connection(&self) -> Result<ConnectOptions, PlacementError> {
        let (quiet, silent) = (Duration::from_secs(2), Duration::from_secs(3));
        let mut options = ConnectOptions::new()
            .with_connect_timeout(self.timeout)
            .with_keep_alive(quiet, silent)
            .with_keep_alive_while_idle(true)
            // A member of etcd that is cut off from the others says so, instead of being waited for.
            .with_require_leader(true)
            .with_auto_token_refresh(true);
        if let Some((name, password)) = &self.user {
            options = options.with_user(name, password);
        }
        if let Some(tls) = self.read_tls()? {
            options = options.with_tls(tls);
        }
        Ok(options)
    }
}

impl fmt::Debug for EtcdOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the password.
        f.debug_struct("EtcdOptions")
            .field("endpoints", &self.endpoints)
            .field("prefix", &self.prefix)
            .field("user", &self.user.as_ref().map(|(name, _)| name))
            .field("tls", &self.tls)
            .field("timeout", &self.timeout)
            .finish()
    }
}
