//! Devices that talk to each other on loopback: answers, offers, tickets.
//!
//! Each wait is bounded and says what it waited for.

#![allow(clippy::unwrap_used)]

mod chain;
mod files;
mod hostile;
mod places;
mod runs;

use std::future::Future;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use hearth_net::{
    ExchangeError, FetchError, IncomingAnswers, JoinError, Membership, Network, NetworkOptions,
    OfferChange, OfferChanges, OpenError, PayerStream, PeerAddress, ProviderStream, Relay,
    RelayOptions, ShareError,
};
use hearth_protocol::answer::frame::TokenLogprobs;
use hearth_protocol::answer::request::AnswerId;
use hearth_protocol::answer::{
    AnswerRequest, BackendClass, KvType, PayerFrame, ProviderFrame, Sampling, Serving, Tokens,
};
use hearth_protocol::content::ContentHash;
use hearth_protocol::offer::{Audience, DeviceId, Offer, OfferedModel};
use hearth_protocol::time::Timestamp;
use tempfile::TempDir;

/// How long anything that should happen may take.
const SOON: Duration = Duration::from_secs(20);

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(SOON, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what} did not happen within {SOON:?}"),
    }
}

/// A device on loopback.
struct Device {
    network: Network,
    incoming: IncomingAnswers,
    _folder: TempDir,
}

impl Device {
    async fn new(seed: u8) -> Self {
        Self::with(seed, |_| ()).await
    }

    async fn with(seed: u8, change: impl Fn(&mut NetworkOptions)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let open = async || {
            let mut options = NetworkOptions::loopback([seed; 32], folder.path().join("blobs"));
            change(&mut options);
            Network::open(options).await
        };
        // A device that restarts waits until the system has freed its port.
        let freed = async || loop {
            match open().await {
                Err(OpenError::Bind(_)) => tokio::time::sleep(Duration::from_millis(20)).await,
                opened => return opened.unwrap(),
            }
        };
        let (network, incoming) = soon("opening", freed()).await;
        Self {
            network,
            incoming,
            _folder: folder,
        }
    }

    async fn join(&self, other: &Self) {
        let ticket = other.network.ticket(Vec::new());
        soon("joining", self.network.join(&ticket)).await.unwrap();
    }

    /// A stream to `other`, and its other end.
    async fn ask(&self, other: &mut Self) -> (PayerStream, ProviderStream) {
        let hint = other.network.address();
        let asked = self.network.ask(other.network.device(), Some(&hint));
        let mut payer = soon("asking", asked).await.unwrap();
        // QUIC tells the other side of a stream when something is said on it.
        payer.send(&PayerFrame::Cancel).await.unwrap();
        let arrived = soon("the question", other.incoming.next()).await.unwrap();
        assert_eq!(arrived.device, self.network.device());
        let mut provider = arrived.stream;
        let first = soon("the first frame", provider.recv()).await.unwrap();
        assert_eq!(first, Some(PayerFrame::Cancel));
        (payer, provider)
    }
}

fn model(name: &str) -> OfferedModel {
    OfferedModel {
        name: name.to_owned(),
        serving: Serving {
            adapter: None,
            backend: BackendClass::CpuAvx2,
            engine: "llama.cpp".to_owned(),
            flash_attention: false,
            kv_type: KvType::F16,
            micro_batch_tokens: 512,
            template: ContentHash([4; 32]),
            weights: ContentHash([5; 32]),
        },
        weights_bytes: 98_362_432,
        head_bytes: 1_700_000,
        context_tokens: 8_192,
        audience: Audience::Everyone,
        prices: Vec::new(),
        slots: 4,
        free_slots: 4,
        output_tokens_per_s: 80,
        prompt_tokens_per_s: 270,
    }
}

fn offer(name: &str) -> Offer {
    Offer {
        device: DeviceId([0; 32]),
        household: Default::default(),
        session_key: Default::default(),
        withdraw_delay_s: 86_400,
        issued_at: Timestamp(0),
        expires_at: Timestamp(0),
        models: vec![model(name)],
    }
}

fn request() -> AnswerRequest {
    AnswerRequest {
        id: AnswerId([7; 16]),
        spec: ContentHash([1; 32]),
        noise_spec: ContentHash([1; 32]),
        weights: ContentHash([2; 32]),
        ids: (0..5_000).collect(),
        answered_tokens: 0,
        sampling: Sampling::default(),
        grammar: None,
        output_tokens_max: 10,
        seed: [3; 32],
        logprobs: Some(2),
    }
}

/// Waits until `device` offers `name`, as seen by `changes`.
async fn hears(changes: &mut OfferChanges, device: DeviceId, name: &str) {
    loop {
        let change = soon("an offer", changes.next()).await.unwrap();
        if let OfferChange::Added(signed) | OfferChange::Replaced(signed) = change
            && signed.offer.device == device
            && signed.offer.models[0].name == name
        {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_question_is_answered_over_one_stream() {
    let payer = Device::new(1).await;
    let mut provider = Device::new(2).await;
    let (mut asks, mut answers) = payer.ask(&mut provider).await;
    assert_eq!(asks.device(), provider.network.device());

    let ask = PayerFrame::Ask {
        request: Box::new(request()),
        payment: Some(b"{}".to_vec().into()),
    };
    asks.send(&ask).await.unwrap();
    let asked = soon("the question", answers.recv()).await.unwrap();
    assert_eq!(asked, Some(ask));
    let tokens = ProviderFrame::Tokens(Tokens {
        first: 0,
        ids: vec![5, 6],
        logprobs: vec![
            TokenLogprobs {
                chosen: -0.5,
                top: vec![(5, -0.5), (9, f32::NEG_INFINITY)],
            },
            TokenLogprobs {
                chosen: 0.0,
                top: Vec::new(),
            },
        ],
    });
    answers
        .send(&ProviderFrame::Accepted { waiting: 1 })
        .await
        .unwrap();
    answers.send(&tokens).await.unwrap();
    answers.finish();
    let accepted = soon("the admission", asks.recv()).await.unwrap();
    assert_eq!(accepted, Some(ProviderFrame::Accepted { waiting: 1 }));
    assert_eq!(soon("tokens", asks.recv()).await.unwrap(), Some(tokens));
    assert_eq!(soon("the end", asks.recv()).await.unwrap(), None);
    assert_eq!(soon("the end, again", asks.recv()).await.unwrap(), None);
    payer.network.shutdown().await;
    provider.network.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_question_goes_over_the_same_connection() {
    let payer = Device::new(3).await;
    let mut provider = Device::new(4).await;
    let begun = Instant::now();
    let first = payer.ask(&mut provider).await;
    println!("first question: {:?}", begun.elapsed());
    let begun = Instant::now();
    let mut streams = vec![first];
    for _ in 0..20 {
        streams.push(payer.ask(&mut provider).await);
    }
    println!("each of 20 more: {:?}", begun.elapsed() / 20);
    assert_eq!(payer.network.open_connections(), 1);
    assert_eq!(provider.network.open_connections(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_devices_hear_of_each_others_offers() {
    let (a, b, mut c) = (
        Device::new(5).await,
        Device::new(6).await,
        Device::new(7).await,
    );
    let mut heard_by_a = a.network.offer_changes();
    let mut heard_by_c = c.network.offer_changes();
    // The first offer stands before anyone joins, the second comes after: a newcomer gets both.
    b.network.publish(offer("early")).unwrap();
    a.join(&b).await;
    c.join(&b).await;
    hears(&mut heard_by_a, b.network.device(), "early").await;
    hears(&mut heard_by_c, b.network.device(), "early").await;
    c.network.publish(offer("late")).unwrap();
    hears(&mut heard_by_a, c.network.device(), "late").await;
    assert_eq!(a.network.offers().len(), 2);

    // A has met C only through B; the offer says where it is.
    let asked = a.network.ask(c.network.device(), None);
    let mut asks = soon("asking who was never met", asked).await.unwrap();
    asks.send(&PayerFrame::Cancel).await.unwrap();
    soon("its question", c.incoming.next()).await.unwrap();

    c.network.withdraw().unwrap();
    loop {
        let change = soon("the withdrawal", heard_by_a.next()).await.unwrap();
        if change == OfferChange::Withdrawn(c.network.device()) {
            break;
        }
    }
    let left = a.network.offers();
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].offer.device, b.network.device());
    b.network.publish(offer("other")).unwrap();
    hears(&mut heard_by_a, b.network.device(), "other").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_private_network_hears_only_its_own() {
    let private = |options: &mut NetworkOptions| {
        options.membership = Membership::Private { secret: [42; 32] };
    };
    let (a, b) = (
        Device::with(10, private).await,
        Device::with(11, private).await,
    );
    let stranger = Device::new(12).await;
    b.network.publish(offer("private")).unwrap();
    let mut heard_by_a = a.network.offer_changes();
    a.join(&b).await;
    hears(&mut heard_by_a, b.network.device(), "private").await;

    let mut ticket = b.network.ticket(Vec::new());
    let refused = stranger.network.join(&ticket).await;
    assert!(
        matches!(refused, Err(JoinError::OtherNetwork)),
        "{refused:?}"
    );
    // A device that leaves the secret out of the ticket gets no further.
    ticket.network_secret = None;
    let refused = soon("the refusal", stranger.network.join(&ticket)).await;
    let refused = refused.unwrap_err();
    assert!(
        matches!(refused, JoinError::Exchange(ExchangeError::NotAMember)),
        "{refused:?}"
    );
    assert!(stranger.network.offers().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_that_restarts_is_found_again() {
    let folder = tempfile::tempdir().unwrap();
    let peers = folder.path().join("peers");
    let a = Device::with(13, |options| options.peers_file = Some(peers.clone())).await;
    let mut b = Device::new(14).await;
    let address = b.network.address();
    a.join(&b).await;
    let (mut asks, answers) = a.ask(&mut b).await;
    b.network.shutdown().await;
    let broken = soon("the break", asks.recv()).await.unwrap_err();
    assert!(broken.is_retryable(), "{broken:?}");
    drop((b, answers));

    let mut b = Device::with(14, |options| options.bind = address.direct.clone()).await;
    a.ask(&mut b).await;
    // A device that was away for a while is asked for its offers again without a new ticket.
    b.network.publish(offer("again")).unwrap();
    let mut heard = a.network.offer_changes();
    hears(&mut heard, b.network.device(), "again").await;

    // The same after the other side restarts: it remembers its peers.
    a.network.shutdown().await;
    let a = Device::with(13, |options| options.peers_file = Some(peers.clone())).await;
    let mut heard = a.network.offer_changes();
    if a.network.offers().is_empty() {
        hears(&mut heard, b.network.device(), "again").await;
    }
}

/// A file of `bytes` bytes that differ.
fn file(folder: &TempDir, name: &str, bytes: usize) -> (PathBuf, Vec<u8>) {
    let content: Vec<u8> = (0..bytes)
        .map(|n| (n.wrapping_mul(31) >> 3) as u8)
        .collect();
    let path = folder.path().join(name);
    std::fs::write(&path, &content).unwrap();
    (path, content)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_is_fetched_whole_or_its_head_alone() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (Device::new(20).await, Device::new(21).await);
    let (path, content) = file(&folder, "model", 3_000_001);
    let shared = b.network.share(&path, None).await.unwrap();
    assert_eq!(shared.hash, ContentHash::of(&content));
    assert_eq!(shared.bytes, content.len() as u64);
    let again = b.network.share(&path, Some(shared.hash)).await.unwrap();
    assert_eq!(again, shared);
    let other = b.network.share(&path, Some(ContentHash([0; 32]))).await;
    assert!(matches!(other, Err(ShareError::Differs { .. })));

    let from = [b.network.address()];
    let head = folder.path().join("head");
    let wanted = (shared.hash, shared.bytes);
    let fetched = a
        .network
        .fetch_head(wanted.0, wanted.1, 100_000, &from, &head);
    soon("the head", fetched).await.unwrap();
    let got = std::fs::read(&head).unwrap();
    assert_eq!(got.len(), content.len());
    assert_eq!(got[..100_000], content[..100_000]);
    assert!(got[200_000..2_900_000].iter().all(|byte| *byte == 0));

    let whole = folder.path().join("whole");
    let mut told = Vec::new();
    let fetched = a
        .network
        .fetch(wanted.0, wanted.1, &from, &whole, |n| told.push(n));
    soon("the file", fetched).await.unwrap();
    assert_eq!(std::fs::read(&whole).unwrap(), content);
    assert!(told.is_sorted(), "{told:?}");
    assert_eq!(told.last(), Some(&wanted.1));
    // Its owner does with it what they want; the store does not miss it.
    std::fs::remove_file(&whole).unwrap();
    let fetched = a.network.fetch(wanted.0, wanted.1, &from, &whole, |_| ());
    soon("the file again", fetched).await.unwrap();
    let fetched = a
        .network
        .fetch_head(wanted.0, wanted.1, 200_000, &from, &head);
    soon("a longer head", fetched).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_what_is_shared_is_given_and_wrong_bytes_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b, c) = (
        Device::new(22).await,
        Device::new(23).await,
        Device::new(24).await,
    );
    let (path, content) = file(&folder, "model", 500_000);
    let shared = b.network.share(&path, None).await.unwrap();
    let to = folder.path().join("to");
    let fetch = async |from: &[PeerAddress], bytes: u64| {
        let fetched = a.network.fetch(shared.hash, bytes, from, &to, |_| ());
        soon("the file", fetched).await
    };
    // One that does not share it is passed over for one that does.
    assert!(b.network.unshare(shared.hash));
    let from = [b.network.address(), c.network.address()];
    let failed = fetch(&from, shared.bytes).await.unwrap_err();
    assert!(failed.is_retryable(), "{failed:?}");
    assert!(!to.exists());
    assert!(matches!(fetch(&[], 1).await, Err(FetchError::NoProvider)));

    // A file that was changed after it was shared never arrives.
    b.network.share(&path, None).await.unwrap();
    let mut changed = content.clone();
    changed[300_000] ^= 1;
    std::fs::write(&path, &changed).unwrap();
    let failed = fetch(&from, shared.bytes).await.unwrap_err();
    assert!(matches!(failed, FetchError::AllFailed { .. }), "{failed:?}");
    assert!(!to.exists());

    // Another device has the right one; what is there already is not fetched twice.
    let (good, _) = file(&folder, "good", 500_000);
    c.network.share(&good, None).await.unwrap();
    fetch(&from, shared.bytes).await.unwrap();
    assert_eq!(std::fs::read(&to).unwrap(), content);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn devices_that_reach_only_a_relay_talk_through_it() {
    let relay = Relay::start(RelayOptions::new("127.0.0.1:0".parse().unwrap()));
    let relay = soon("the relay", relay).await.unwrap();
    let url = relay.url().unwrap();
    let relayed = |options: &mut NetworkOptions| {
        options.relays = vec![url.clone()];
        options.relay_only = true;
    };
    let (a, mut b) = (
        Device::with(30, relayed).await,
        Device::with(31, relayed).await,
    );
    soon("the way to the relay", a.network.online()).await;
    soon("the way to the relay", b.network.online()).await;
    assert!(b.network.address().direct.is_empty());
    assert_eq!(b.network.address().relays.len(), 1);
    let (mut asks, mut answers) = a.ask(&mut b).await;
    answers
        .send(&ProviderFrame::Accepted { waiting: 0 })
        .await
        .unwrap();
    let accepted = soon("the answer", asks.recv()).await.unwrap();
    assert_eq!(accepted, Some(ProviderFrame::Accepted { waiting: 0 }));
    a.network.shutdown().await;
    b.network.shutdown().await;
    relay.shutdown().await.unwrap();
}
