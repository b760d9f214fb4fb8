//! Files of models between devices whose links and processes break, and the limit of what is sent.

use std::path::Path;
use std::time::{Duration, Instant};

use hearth_net::limits::SMALL_FILE_BYTES_MAX;
use hearth_net::{FetchError, PeerAddress, ProviderError, SharedFile};
use hearth_protocol::content::ContentHash;
use tempfile::TempDir;
use tokio::sync::watch;

use super::{Device, file, soon};

/// What the sharing device sends of files, in bytes per second.
const UPLOAD_BYTES_PER_S: u64 = 3_000_000;
const FILE_BYTES: usize = SMALL_FILE_BYTES_MAX as usize + 1_000_001;

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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_file_comes_from_the_second_device_when_the_first_fails() {
    let folder: TempDir = tempfile::tempdir().unwrap();
    let (path, content) = file(&folder, "contribution", 200_000);
    let (a, b, c) = (
        Device::new(45).await,
        Device::new(46).await,
        Device::new(47).await,
    );
    let wanted = c.network.share_of_run(&path, None).await.unwrap();
    // The first is not there at all, the second does not have it, the third does.
    let gone = Device::new(48).await;
    let gone_address = gone.network.address();
    gone.network.shutdown().await;
    let from = [gone_address, b.network.address(), c.network.address()];
    let to = folder.path().join("fetched");
    let fetched = a
        .network
        .fetch(wanted.hash, wanted.bytes, &from, &to, |_| ());
    soon("the file", fetched).await.unwrap();
    assert_eq!(std::fs::read(&to).unwrap(), content);

    // Whoever says that a file has another length, or gives other bytes, is passed over.
    let fetched = a
        .network
        .fetch(wanted.hash, wanted.bytes + 1, &from[1..], &to, |_| ());
    let failed = soon("the refusal", fetched).await.unwrap_err();
    let FetchError::AllFailed { failures, .. } = &failed else {
        panic!("{failed:?}");
    };
    assert_eq!(failures.len(), 2, "{failed:?}");
    let honest = |(_, error): &(_, ProviderError)| !error.is_misbehaviour();
    assert!(failures.iter().all(honest), "{failed:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_files_of_a_run_are_fetched_at_once_and_let_go_of_together() {
    let folder: TempDir = tempfile::tempdir().unwrap();
    let (a, b) = (Device::new(49).await, Device::new(50).await);
    let mut shared = Vec::new();
    for n in 0..40_usize {
        let path = folder.path().join(format!("contribution-{n}"));
        std::fs::write(&path, vec![n as u8; 200_000 + n]).unwrap();
        shared.push(b.network.share_of_run(&path, None).await.unwrap());
    }
    let model = b.network.share(&shared[0].path, None).await.unwrap();
    assert_eq!(model.hash, shared[0].hash);
    let from = [b.network.address()];
    let fetch = async |one: &SharedFile| {
        let to = folder.path().join(one.hash.to_string());
        let (network, from) = (&a.network, &from[..] as &[PeerAddress]);
        let fetched = network.fetch(one.hash, one.bytes, from, &to, |_| ()).await;
        fetched.map(|()| std::fs::read(&to).unwrap())
    };
    let began = Instant::now();
    let first = soon("the first file", fetch(&shared[0])).await.unwrap();
    println!("the first small file: {:?}", began.elapsed());
    assert_eq!(ContentHash::of(&first), shared[0].hash);
    let began = Instant::now();
    let second = soon("the second file", fetch(&shared[1])).await.unwrap();
    println!("the second, on the same connection: {:?}", began.elapsed());
    assert_eq!(ContentHash::of(&second), shared[1].hash);
    let began = Instant::now();
    let all = futures::future::join_all(shared.iter().map(&fetch));
    for (got, one) in soon("all files", all).await.into_iter().zip(&shared) {
        assert_eq!(ContentHash::of(&got.unwrap()), one.hash);
    }
    println!("forty at once: {:?}", began.elapsed());

    let hashes: Vec<_> = shared.iter().map(|one| one.hash).collect();
    // One of them is shared as a model too, and stays.
    assert_eq!(b.network.unshare_of_runs(&hashes).await, 39);
    assert_eq!(b.network.shared().len(), 1);
    let refused = soon("the refusal", fetch(&shared[1])).await.unwrap_err();
    assert!(refused.is_retryable(), "{refused:?}");
    soon("what stays", fetch(&shared[0])).await.unwrap();
    // A file that was let go of may be shared again.
    let again = b
        .network
        .share_of_run(&shared[1].path, Some(hashes[1]))
        .await;
    again.unwrap();
    soon("what came back", fetch(&shared[1])).await.unwrap();
}
