//! A cluster as a program uses it that has no engine of its own: the same requests as [`Engine`](crate::Engine)'s, over the
//! network.
//!
//! A client knows who owns which shard, learns it anew when a shard has moved, and sends again what is safe to send
//! again, so that its program sees latency where a shard moves or a node restarts, and no errors.
//!
//! ```text
//! map.rs      who owns what, as last heard      remote.rs   requests, sent to owners until one answers
//! sessions.rs what makes writes happen once
//! ```

mod map;
mod remote;
mod sessions;

use std::fmt;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::runtime::Runtime;
use watershed_wal::ShardId;

use crate::backend::Backend;
use crate::engine::apart;
use crate::net::Security;
use crate::request::{Read, Write};
use crate::scan::Scan;
use crate::store::{ScanOptions, Version};
use crate::sync::lock;
use crate::{Batch, Error};

pub(crate) use remote::Remote;

/// A cluster over the network.
///
/// Clones are handles on the same connections; the last one dropped closes them.
///
/// ```no_run
/// use watershed::Client;
/// use watershed::net::{Security, TlsFiles};
///
/// # fn main() -> Result<(), watershed::Error> {
/// let client = Client::connect(
///     ["10.0.0.1:7400", "10.0.0.2:7400"],
///     Security::Mutual(TlsFiles {
///         authority: "watershed-certs/ca.pem".into(),
///         certificate: "watershed-certs/client-billing.pem".into(),
///         key: "watershed-certs/client-billing.key".into(),
///     }),
/// )?;
/// let version = client.put("invoice/1", "paid").wait()?;
/// client.put("invoice/1", "sent").if_version("invoice/1", version).wait()?;
/// assert_eq!(client.get("invoice/1").wait()?.as_deref(), Some(&b"sent"[..]));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    open: Mutex<Option<(Remote, Runtime)>>,
}

impl Client {
    /// Connects to the cluster of which some nodes are at these addresses (HOST:PORT); the others it learns of.
    ///
    /// # Errors
    /// [`Error::Net`] when the certificates are no use, [`Error::Unreachable`] when no node answers.
    pub fn connect(
        addresses: impl IntoIterator<Item = impl Into<String>>,
        security: Security,
    ) -> Result<Self, Error> {
        let seeds: Vec<String> = addresses.into_iter().map(Into::into).collect();
        let open = Remote::start(seeds, security)?;
        Ok(Self(Arc::new(Inner {
            open: Mutex::new(Some(open)),
        })))
    }

    fn backend(&self) -> Result<Backend, Error> {
        let open = lock(&self.0.open);
        let (remote, _) = open.as_ref().ok_or(Error::Closed)?;
        Ok(Backend::Remote(remote.clone()))
    }

    /// Sets `key` to `value`.
    pub fn put(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Write {
        Write::put(self.backend(), key.as_ref(), value.as_ref())
    }

    /// Removes `key`; removing an absent key is no error.
    pub fn delete(&self, key: impl AsRef<[u8]>) -> Write {
        Write::delete(self.backend(), key.as_ref())
    }

    /// Writes a batch of keys of one shard, atomically.
    pub fn write(&self, batch: Batch) -> Write {
        Write::batch(self.backend(), batch)
    }

    /// The value of `key`.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Read<Option<Bytes>> {
        Read::value(self.backend(), key.as_ref())
    }

    /// The value of `key` with its version.
    pub fn get_versioned(&self, key: impl AsRef<[u8]>) -> Read<Option<(Bytes, Version)>> {
        Read::versioned(self.backend(), key.as_ref())
    }

    /// The values of several keys of any shards, in the keys' order. Each shard is read at one moment, not all at the
    /// same.
    pub fn multi_get(
        &self,
        keys: impl IntoIterator<Item = impl AsRef<[u8]>>,
    ) -> Read<Vec<Option<(Bytes, Version)>>> {
        Read::several(self.backend(), keys)
    }

    /// The entries of all shards in key order, read page by page.
    #[must_use]
    pub fn scan(&self, options: ScanOptions) -> Scan {
        Scan::of_all(self.backend(), options)
    }

    /// The entries of one shard in key order, read page by page.
    #[must_use]
    pub fn scan_shard(&self, shard: ShardId, options: ScanOptions) -> Scan {
        Scan::of_one(self.backend(), shard, options)
    }

    /// The shard that `key` belongs to.
    ///
    /// # Errors
    /// [`Error::Closed`].
    pub fn shard_of(&self, key: impl AsRef<[u8]>) -> Result<ShardId, Error> {
        Ok(self.backend()?.shard_of(key.as_ref()))
    }

    /// Closes the connections; requests of other handles end with [`Error::Closed`]. Closing twice is no error.
    pub fn close(&self) {
        self.0.close();
    }
}

impl Inner {
    fn close(&self) {
        if let Some((remote, runtime)) = lock(&self.open).take() {
            remote.retire();
            apart(|| drop(runtime));
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.close();
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Client").finish_non_exhaustive()
    }
}
