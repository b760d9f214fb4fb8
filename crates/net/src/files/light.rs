//! Small files: verified in memory on the way, without a store in between.
//!
//! What broke off begins anew; for what is small that costs less than a database does.

use std::path::PathBuf;

use hearth_causes::WithCauses;
use iroh::endpoint::Connection;
use iroh_blobs::get::request::{get_blob, get_verified_size};
use tokio::time::timeout;
use tracing::debug;

use super::{FetchError, Files, ProviderError, WantedFile, hash_of};
use crate::answers::{ConnectError, connect};
use crate::limits::{FETCH_SILENCE_MAX, KEEP_ALIVE_INTERVAL};
use crate::offers::driver::Hub;
use crate::peers::PeerAddress;

/// The longest file that is fetched into memory, in bytes.
const LIGHT_BYTES_MAX: u64 = 16 << 20;

/// A small file, or the length of one that is not small.
enum Got {
    Whole(Vec<u8>),
    Long(u64),
}

impl Files {
    /// Fetches a file of at most `wanted.bytes` bytes whose length is not known.
    pub(crate) async fn fetch_within(
        &self,
        hub: &Hub,
        wanted: &WantedFile<'_>,
    ) -> Result<(), FetchError> {
        let mut failures = Vec::new();
        for provider in wanted.from {
            match get(hub, provider, wanted).await {
                Ok(Got::Whole(bytes)) => return self.write(wanted, &bytes).await,
                Ok(Got::Long(bytes)) => {
                    let wanted = WantedFile { bytes, ..*wanted };
                    return self.fetch(hub, &wanted, &mut |_| ()).await;
                }
                Err(error) => {
                    debug!(device = %provider.device, error = %error.with_causes(), "a file was not given");
                    failures.push((provider.device, error));
                }
            }
        }
        match failures.last() {
            None => Err(FetchError::NoProvider),
            Some((_, last)) => Err(FetchError::AllFailed {
                last: last.to_string(),
                failures,
            }),
        }
    }

    /// Writes a file aside and puts it in place whole.
    async fn write(&self, wanted: &WantedFile<'_>, bytes: &[u8]) -> Result<(), FetchError> {
        let _turn = self.turn(wanted.hash).await;
        let mut aside = wanted.to.as_os_str().to_owned();
        aside.push(".part");
        let aside = PathBuf::from(aside);
        let failed = |source| FetchError::Write {
            path: wanted.to.to_owned(),
            source,
        };
        tokio::fs::write(&aside, bytes).await.map_err(failed)?;
        let file = tokio::fs::File::open(&aside).await.map_err(failed)?;
        file.sync_all().await.map_err(failed)?;
        tokio::fs::rename(&aside, wanted.to).await.map_err(failed)
    }
}

async fn get(
    hub: &Hub,
    provider: &PeerAddress,
    wanted: &WantedFile<'_>,
) -> Result<Got, ProviderError> {
    let address = hub.locate(provider.clone());
    let address = address.ok_or(ConnectError::NoDevice(provider.device))?;
    let connecting = connect(&hub.endpoint, address, iroh_blobs::ALPN, KEEP_ALIVE_INTERVAL);
    let connection: Connection = connecting.await?;
    let hash = hash_of(wanted.hash);
    let sized = timeout(FETCH_SILENCE_MAX, get_verified_size(&connection, &hash)).await;
    let sized = sized.map_err(|_| ProviderError::Silent)?;
    let (bytes, _) = sized.map_err(|error| refused(&error.to_string()))?;
    if bytes > wanted.bytes {
        return Err(ProviderError::Refused("the file is too long".to_owned()));
    }
    if bytes > LIGHT_BYTES_MAX {
        return Ok(Got::Long(bytes));
    }
    let got = timeout(FETCH_SILENCE_MAX, get_blob(connection, hash).bytes()).await;
    let got = got.map_err(|_| ProviderError::Silent)?;
    let whole = got.map_err(|error| refused(&error.to_string()))?;
    Ok(Got::Whole(whole.to_vec()))
}

fn refused(text: &str) -> ProviderError {
    match text.contains("hash mismatch") {
        true => ProviderError::WrongBytes,
        false => ProviderError::Refused(text.to_owned()),
    }
}
