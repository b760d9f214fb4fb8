//! Files of models between devices whose links and processes break, and the limit of what is sent.

use std::path::Path;
use std::time::{Duration, Instant};

use hearth_net::{FetchError, SharedFile};
use tempfile::TempDir;
use tokio::sync::watch;

use super::{Device, file, soon};

/// What the sharing device sends of files, in bytes per second.
const UPLOAD_BYTES_PER_S: u64 = 3_000_000;
const FILE_BYTES: usize = 9_000_001;

async fn sharing(seed: u8, bind: Vec<std::net::SocketAddr>) -> Device {
    Device::with(seed, |options| {
        options.upload_bytes_per_s = Some(UPLOAD_BYTES_PER_S);
        options.bind = bind.clone();
    })
    .await
}

/// Fetches until `enough` bytes are there, and then does `cut`; gives what was there at first, and what
/// became of the fetch if it ended.
async fn fetch_until(
    by: &Device,
    from: &Device,
    wanted: &SharedFile,
    to: &Path,
    enough: u64,
    cut: impl AsyncFnOnce(),
) -> (u64, Option<Result<(), FetchError>>) {
    let (told, mut reached) = watch::channel(None);
    let providers = [from.network.address()];
    let fetching = by
        .network
        .fetch(wanted.hash, wanted.bytes, &providers, to, |bytes| {
            told.send_if_modified(|seen: &mut Option<(u64, u64)>| {
                let first = seen.map_or(bytes, |(first, _)| first);
                *seen = Some((first, bytes));
                true
            });
        });
    let mut fetching = std::pin::pin!(fetching);
    let is_enough = |seen: &Option<(u64, u64)>| seen.is_some_and(|(_, bytes)| bytes >= enough);
    let ended = tokio::select! {
        ended = &mut fetching => Some(ended),
        _ = soon("enough of the file", reached.wait_for(is_enough)) => None,
    };
    let first = reached.borrow().map_or(0, |(first, _)| first);
    if ended.is_some() {
        return (first, ended);
    }
    cut().await;
    let ended = tokio::time::timeout(Duration::from_millis(200), fetching).await;
    (first, ended.ok())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fetch_goes_on_where_the_link_or_the_process_broke() {
    let folder = tempfile::tempdir().unwrap();
    let (path, content) = file(&folder, "model", FILE_BYTES);
    let to = folder.path().join("fetched");
    let kept = folder.path().join("kept");
    let fetching = async || Device::with(40, |options| options.blobs_folder = kept.clone()).await;

    let b = sharing(41, Vec::new()).await;
    let wanted = b.network.share(&path, None).await.unwrap();
    let address = b.network.address().direct;
    let a = fetching().await;
    // The other device goes away in the middle: the fetch fails, and says that it may be tried again.
    let gone = async || b.network.shutdown().await;
    let (first, ended) = fetch_until(&a, &b, &wanted, &to, 2_000_000, gone).await;
    assert!(first < 1_000_000, "nothing was there: {first}");
    if let Some(Err(error)) = ended {
        assert!(error.is_retryable(), "{error:?}");
    }
    drop(b);

    let b = sharing(41, address).await;
    b.network.share(&path, Some(wanted.hash)).await.unwrap();
    let (first, ended) = fetch_until(&a, &b, &wanted, &to, 5_000_000, async || ()).await;
    assert!(first >= 1_500_000, "it began again: {first}, {ended:?}");
    assert!(!to.exists());
    // The next try follows one that was dropped at once.
    let (first, ended) = fetch_until(&a, &b, &wanted, &to, 5_500_000, async || ()).await;
    assert!(first >= 4_000_000, "it began again: {first}, {ended:?}");
    // This device ends in the middle.
    a.network.shutdown().await;
    drop(a);

    let a = fetching().await;
    let (first, ended) = fetch_until(&a, &b, &wanted, &to, u64::MAX, async || ()).await;
    assert!(first >= 4_500_000, "it began again: {first}, {ended:?}");
    ended.expect("it ends").unwrap();
    assert_eq!(std::fs::read(&to).unwrap(), content);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everybody_together_is_sent_no_more_than_the_limit() {
    let folder: TempDir = tempfile::tempdir().unwrap();
    let (path, content) = file(&folder, "model", 3_000_000);
    let b = sharing(42, Vec::new()).await;
    let wanted = b.network.share(&path, None).await.unwrap();
    let from = [b.network.address()];
    let (a, c) = (Device::new(43).await, Device::new(44).await);
    let began = Instant::now();
    let [to_a, to_c] = ["a", "c"].map(|name| folder.path().join(name));
    let fetches = [(&a, &to_a), (&c, &to_c)].map(|(device, to)| {
        let network = &device.network;
        network.fetch(wanted.hash, wanted.bytes, &from, to, |_| ())
    });
    let [first, second] = fetches;
    let (first, second) = soon("both files", async { tokio::join!(first, second) }).await;
    first.unwrap();
    second.unwrap();
    let least = Duration::from_millis(2 * 3_000_000 * 1_000 / UPLOAD_BYTES_PER_S * 9 / 10);
    assert!(began.elapsed() >= least, "{:?}", began.elapsed());
    for to in [&to_a, &to_c] {
        assert_eq!(std::fs::read(to).unwrap(), content);
    }
}
