//! Where a command's data is: in a directory of this machine, or in a cluster.

use std::path::{Path, PathBuf};

use clap::Args as ClapArgs;

use super::args::DEFAULT_DIR;
use super::failure::{Failure, Kind};
use crate::net::{Security, TlsFiles, certs};
use crate::{Admin, Client, Engine, Read, Scan, ScanOptions, ShardId, Version, Write};

/// Where nodes of the cluster are, for who does not say it with flags.
const CLUSTER: &str = "WATERSHED_CLUSTER";
/// The certificate to show them.
const IDENTITY: &str = "WATERSHED_IDENTITY";

/// A cluster, and who asks it.
#[derive(Debug, Clone, Default, ClapArgs)]
pub(super) struct ClusterArgs {
    /// Nodes of a cluster, of which one must be up [default: $WATERSHED_CLUSTER].
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',')]
    cluster: Vec<String>,
    /// The certificate to show, as PATH.pem beside PATH.key and ca.pem: watershed-certs/admin-NAME [default:
    /// $WATERSHED_IDENTITY].
    #[arg(long, value_name = "PATH")]
    identity: Option<PathBuf>,
    /// Without certificates: for a cluster on this machine's loopback interface.
    #[arg(long, conflicts_with = "identity")]
    insecure: bool,
}

impl ClusterArgs {
    fn addresses(&self) -> Vec<String> {
        if !self.cluster.is_empty() {
            return self.cluster.clone();
        }
        let set = std::env::var(CLUSTER).unwrap_or_default();
        let named = set.split(',').map(str::trim).filter(|one| !one.is_empty());
        named.map(str::to_owned).collect()
    }

    fn security(&self) -> Result<Security, Failure> {
        if self.insecure {
            return Ok(Security::Insecure);
        }
        let identity = self.identity.clone();
        let identity = identity.or_else(|| std::env::var_os(IDENTITY).map(PathBuf::from));
        let Some(identity) = identity else {
            return Err(Failure::usage(format!(
                "name the certificate to show with --identity or ${IDENTITY}, as watershed-certs/admin-NAME; without certificates: --insecure"
            )));
        };
        let with = |ending: &str| {
            let mut path = identity.clone().into_os_string();
            path.push(ending);
            PathBuf::from(path)
        };
        let beside = identity.parent().unwrap_or(Path::new(""));
        Ok(Security::Mutual(TlsFiles {
            authority: beside.join(certs::CA_CERTIFICATE),
            certificate: with(".pem"),
            key: with(".key"),
        }))
    }

    /// Connects as an operator.
    pub(super) fn admin(&self) -> Result<Admin, Failure> {
        let addresses = self.addresses();
        if addresses.is_empty() {
            return Err(Failure::usage(format!(
                "name a node of the cluster with --cluster HOST:PORT or ${CLUSTER}"
            )));
        }
        Ok(Admin::connect(addresses, self.security()?)?)
    }
}

/// Where data is.
#[derive(Debug, Clone, ClapArgs)]
pub(super) struct PlaceArgs {
    /// A local engine's directory, instead of a cluster [default: watershed-data, where no cluster is named].
    #[arg(long, conflicts_with_all = ["cluster", "identity", "insecure"])]
    dir: Option<PathBuf>,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// What a command is to use.
pub(super) enum Place {
    Dir(PathBuf),
    Cluster(Vec<String>, Security),
}

impl PlaceArgs {
    pub(super) fn place(&self) -> Result<Place, Failure> {
        if let Some(dir) = &self.dir {
            return Ok(Place::Dir(dir.clone()));
        }
        let addresses = self.cluster.addresses();
        if addresses.is_empty() {
            if self.cluster.insecure || self.cluster.identity.is_some() {
                return Err(Failure::usage(format!(
                    "name a node of the cluster with --cluster HOST:PORT or ${CLUSTER}"
                )));
            }
            return Ok(Place::Dir(PathBuf::from(DEFAULT_DIR)));
        }
        Ok(Place::Cluster(addresses, self.cluster.security()?))
    }

    /// The cluster's operator, where a cluster is named.
    pub(super) fn admin(&self) -> Result<Option<Admin>, Failure> {
        match self.place()? {
            Place::Dir(_) => Ok(None),
            Place::Cluster(..) => self.cluster.admin().map(Some),
        }
    }
}

/// What an engine and a client have in common.
pub(super) trait Data: Send + Sync {
    fn put(&self, key: &[u8], value: &[u8]) -> Write;
    fn delete(&self, key: &[u8]) -> Write;
    fn get_versioned(&self, key: &[u8]) -> Read<Option<(bytes::Bytes, Version)>>;
    fn multi_get(&self, keys: &[bytes::Bytes]) -> Read<Vec<Option<(bytes::Bytes, Version)>>>;
    fn scan(&self, options: ScanOptions) -> Scan;
    fn shard_of(&self, key: &[u8]) -> ShardId;
    /// Ends its use.
    fn end(&self) -> Result<(), Failure>;
}

macro_rules! data {
    ($of:ty, $shard_of:expr, $end:expr) => {
        impl Data for $of {
            fn put(&self, key: &[u8], value: &[u8]) -> Write {
                self.put(key, value)
            }

            fn delete(&self, key: &[u8]) -> Write {
                self.delete(key)
            }

            fn get_versioned(&self, key: &[u8]) -> Read<Option<(bytes::Bytes, Version)>> {
                self.get_versioned(key)
            }

            fn multi_get(
                &self,
                keys: &[bytes::Bytes],
            ) -> Read<Vec<Option<(bytes::Bytes, Version)>>> {
                self.multi_get(keys)
            }

            fn scan(&self, options: ScanOptions) -> Scan {
                self.scan(options)
            }

            fn shard_of(&self, key: &[u8]) -> ShardId {
                $shard_of(self, key)
            }

            fn end(&self) -> Result<(), Failure> {
                $end(self)
            }
        }
    };
}

data!(
    Engine,
    |engine: &Self, key: &[u8]| engine.shard_of(key),
    |engine: &Self| Ok(engine.close()?)
);
data!(
    Client,
    // A closed client's requests fail by themselves.
    |client: &Self, key: &[u8]| client.shard_of(key).unwrap_or(ShardId(0)),
    |client: &Self| {
        client.close();
        Ok(())
    }
);

impl Place {
    /// Opens it for writing; a directory is made where there is none.
    pub(super) fn open(&self) -> Result<Box<dyn Data>, Failure> {
        Ok(match self {
            Self::Dir(dir) => Box::new(Engine::open(dir)?),
            Self::Cluster(addresses, security) => {
                Box::new(Client::connect(addresses.clone(), security.clone())?)
            }
        })
    }

    /// As people call it.
    pub(super) fn shown(&self) -> String {
        match self {
            Self::Dir(dir) => dir.display().to_string(),
            Self::Cluster(addresses, _) => format!("the cluster of {}", addresses.join(", ")),
        }
    }
}

impl From<crate::AdminError> for Failure {
    fn from(error: crate::AdminError) -> Self {
        match error {
            crate::AdminError::Cluster(error) => error.into(),
            crate::AdminError::Refused { ref kind, .. } => {
                let kind = match kind.as_str() {
                    "refused" => Kind::Refused,
                    "no-shard" | "no-member" => Kind::NotFound,
                    _ => Kind::Engine,
                };
                Self::new(kind, error.to_string())
            }
            _ => Self::new(Kind::Engine, error.to_string()),
        }
    }
}
