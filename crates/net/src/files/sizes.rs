//! Fetching a file of which only the hash is known: how long it is, its last chunk proves.

use hearth_causes::WithCauses;
use iroh_blobs::get::request::get_verified_size;
use tokio::time::timeout;
use tracing::debug;

use super::{FetchError, Files, ProviderError, WantedFile, hash_of};
use crate::answers::{ConnectError, connect};
use crate::limits::{FETCH_SILENCE_MAX, KEEP_ALIVE_INTERVAL};
use crate::offers::driver::Hub;
use crate::peers::PeerAddress;

impl Files {
    /// Fetches a file of at most `wanted.bytes` bytes.
    pub(crate) async fn fetch_within(
        &self,
        hub: &Hub,
        wanted: &WantedFile<'_>,
    ) -> Result<(), FetchError> {
        let mut failures = Vec::new();
        for provider in wanted.from {
            match size(hub, provider, wanted).await {
                Ok(bytes) => {
                    let wanted = WantedFile { bytes, ..*wanted };
                    return self.fetch(hub, &wanted, &mut |_| ()).await;
                }
                Err(error) => {
                    debug!(device = %provider.device, error = %error.with_causes(), "the length of a file was not given");
                    failures.push((provider.device, error));
                }
            }
        }
        Err(FetchError::of_failures(failures))
    }
}

async fn size(
    hub: &Hub,
    provider: &PeerAddress,
    wanted: &WantedFile<'_>,
) -> Result<u64, ProviderError> {
    let address = hub.locate(provider.clone());
    let address = address.ok_or(ConnectError::NoDevice(provider.device))?;
    let connecting = connect(
        &hub.endpoint,
        address,
        iroh_blobs::ALPN,
        KEEP_ALIVE_INTERVAL,
    );
    let connection = connecting.await?;
    let hash = hash_of(wanted.hash);
    let sized = timeout(FETCH_SILENCE_MAX, get_verified_size(&connection, &hash)).await;
    let sized = sized.map_err(|_| ProviderError::Silent)?;
    let (bytes, _) = sized.map_err(|error| ProviderError::Refused(error.to_string()))?;
    match bytes <= wanted.bytes {
        true => Ok(bytes),
        false => Err(ProviderError::Refused("the file is too long".to_owned())),
    }
}
