//! Fetching a small file: verified in memory, written by a rename.
//!
//! A store on disk, which a large file needs to go on where it broke off, costs more than a small file itself. So a file
//! of at most [`SMALL_FILE_BYTES_MAX`](crate::limits::SMALL_FILE_BYTES_MAX) begins anew with each device that is asked.
//! Devices are asked in order: the next one when one fails, or beside it when it takes long; the first one that gives the
//! file ends it all. Connections are kept for the next file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use hearth_causes::WithCauses;
use hearth_protocol::offer::DeviceId;
use iroh::endpoint::{Connection, VarInt};
use iroh_blobs::get::fsm::{self, ConnectedNext, DecodeError};
use iroh_blobs::protocol::GetRequest;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::debug;

use super::{FetchError, ProviderError, WantedFile, hash_of};
use crate::answers::{ConnectError, connect};
use crate::limits::{
    FILE_HOSTS_MAX, KEEP_ALIVE_INTERVAL, SMALL_FETCH_HEDGE, SMALL_FETCH_PROVIDERS_MAX,
    SMALL_FETCH_TIME_MAX, SMALL_FETCHES_MAX,
};
use crate::offers::driver::Hub;
use crate::peers::PeerAddress;

/// Fetches small files, so many at once.
#[derive(Debug)]
pub(super) struct SmallFiles {
    at_once: Semaphore,
    /// Connections that are kept, and when each was last used.
    kept: Mutex<BTreeMap<DeviceId, (Connection, Instant)>>,
}

impl Default for SmallFiles {
    fn default() -> Self {
        Self {
            at_once: Semaphore::new(SMALL_FETCHES_MAX),
            kept: Mutex::default(),
        }
    }
}

impl SmallFiles {
    fn kept(&self) -> MutexGuard<'_, BTreeMap<DeviceId, (Connection, Instant)>> {
        // A map of handles; a panic elsewhere leaves it usable.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fetches a file into its place, and says how long it is.
    pub(super) async fn fetch(&self, hub: &Hub, wanted: &WantedFile<'_>) -> Result<(), FetchError> {
        // The semaphore is never closed; without a permit, the fetch is only not bounded.
        let _permit = self.at_once.acquire().await.ok();
        let bytes = self.gather(hub, wanted).await?;
        put_in_place(wanted.to, &bytes)
            .await
            .map_err(|source| FetchError::Write {
                path: wanted.to.to_owned(),
                source,
            })
    }

    async fn gather(&self, hub: &Hub, wanted: &WantedFile<'_>) -> Result<Vec<u8>, FetchError> {
        let mut failures = Vec::new();
        let mut providers = wanted.from.iter();
        let mut asked = FuturesUnordered::new();
        loop {
            if asked.len() < SMALL_FETCH_PROVIDERS_MAX
                && let Some(provider) = providers.next()
            {
                asked.push(async move { (provider.device, self.get(hub, provider, wanted).await) });
            }
            let is_alone = asked.len() == 1 && providers.len() > 0;
            let impatient_at = Instant::now() + SMALL_FETCH_HEDGE;
            let ended = tokio::select! {
                ended = asked.next() => ended,
                () = sleep_until(impatient_at), if is_alone => continue,
            };
            match ended {
                Some((_, Ok(bytes))) => return Ok(bytes),
                Some((device, Err(error))) => {
                    debug!(%device, error = %error.with_causes(), "a small file was not given");
                    failures.push((device, error));
                }
                None => return Err(FetchError::of_failures(failures)),
            }
        }
    }

    /// Asks one device for the whole file.
    async fn get(
        &self,
        hub: &Hub,
        provider: &PeerAddress,
        wanted: &WantedFile<'_>,
    ) -> Result<Vec<u8>, ProviderError> {
        let getting = async {
            if let Some(kept) = self.kept_for(provider.device)
                && let Ok(bytes) = read(kept, wanted).await
            {
                return Ok(bytes);
            }
            // There is none, it is dead, or the device fails: a fresh connection says which.
            let connection = self.connected(hub, provider).await?;
            read(connection, wanted).await
        };
        let got = timeout(SMALL_FETCH_TIME_MAX, getting).await;
        got.unwrap_or(Err(ProviderError::Silent))
    }

    fn kept_for(&self, device: DeviceId) -> Option<Connection> {
        let mut kept = self.kept();
        kept.retain(|_, (connection, _)| connection.close_reason().is_none());
        let (connection, used_at) = kept.get_mut(&device)?;
        *used_at = Instant::now();
        Some(connection.clone())
    }

    async fn connected(
        &self,
        hub: &Hub,
        provider: &PeerAddress,
    ) -> Result<Connection, ConnectError> {
        let device = provider.device;
        let address = hub.locate(provider.clone());
        let address = address.ok_or(ConnectError::NoDevice(device))?;
        let alpn = iroh_blobs::ALPN;
        let connection = connect(&hub.endpoint, address, alpn, KEEP_ALIVE_INTERVAL).await?;
        let mut kept = self.kept();
        if kept.len() >= FILE_HOSTS_MAX && !kept.contains_key(&device) {
            let unused = kept.iter().min_by_key(|(_, (_, used_at))| *used_at);
            // Streams that are open on it live on: only its handle is let go.
            let unused = unused.map(|(device, _)| *device);
            unused.map(|device| kept.remove(&device));
        }
        kept.insert(device, (connection.clone(), Instant::now()));
        Ok(connection)
    }

    /// Closes what is kept.
    pub(super) fn close(&self) {
        let kept = std::mem::take(&mut *self.kept());
        for (connection, _) in kept.into_values() {
            connection.close(VarInt::from_u32(0), b"shut down");
        }
    }
}

fn refused(error: &dyn std::error::Error) -> ProviderError {
    ProviderError::Refused(error.with_causes().to_string())
}

/// Reads a whole file, each chunk of which is verified when it comes. Memory is taken as it does.
async fn read(connection: Connection, wanted: &WantedFile<'_>) -> Result<Vec<u8>, ProviderError> {
    let request = GetRequest::blob(hash_of(wanted.hash));
    let begun = fsm::start(connection, request, Default::default());
    let connected = begun.next().await.map_err(|error| refused(&error))?;
    let next = connected.next().await.map_err(|error| refused(&error))?;
    let ConnectedNext::StartRoot(root) = next else {
        return Err(ProviderError::Refused("it ended early".to_owned()));
    };
    let header = root.next().next().await;
    let (content, bytes) = header.map_err(|error| refused(&error))?;
    if bytes != wanted.bytes {
        let why = format!("it says that the file has {bytes} bytes");
        return Err(ProviderError::Refused(why));
    }
    match content.concatenate_into_vec().await {
        Ok((_, bytes)) => Ok(bytes),
        Err(DecodeError::ParentHashMismatch { .. } | DecodeError::LeafHashMismatch { .. }) => {
            Err(ProviderError::WrongBytes)
        }
        Err(error) => Err(refused(&error)),
    }
}

/// Writes a file aside and puts it in place whole.
async fn put_in_place(to: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut aside = to.as_os_str().to_owned();
    aside.push(".part");
    let aside = PathBuf::from(aside);
    let mut file = tokio::fs::File::create(&aside).await?;
    file.write_all(bytes).await?;
    file.sync_all().await?;
    tokio::fs::rename(&aside, to).await
}
