//! Devices that talk to each other on loopback: answers, offers, tickets.
//!
//! Each wait is bounded and says what it waited for.

#![allow(clippy::unwrap_used)]

use std::future::Future;
use std::time::{Duration, Instant};

use hearth_net::{
    IncomingAnswers, Network, NetworkOptions, OfferChange, OfferChanges, PayerStream,
    ProviderStream,
};
use hearth_protocol::answer::frame::TokenLogprobs;
use hearth_protocol::answer::request::AnswerId;
use hearth_protocol::answer::{
    AnswerRequest, BackendClass, KvType, PayerFrame, ProviderFrame, Sampling, Serving, Tokens,
};
use hearth_protocol::content::ContentHash;
use hearth_protocol::offer::{DeviceId, Offer, OfferedModel};
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

    async fn with(seed: u8, change: impl FnOnce(&mut NetworkOptions)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut options = NetworkOptions::loopback([seed; 32], folder.path().join("blobs"));
        change(&mut options);
        let (network, incoming) = Network::open(options).await.unwrap();
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
        context_tokens: 8_192,
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
        payment: Some(b"{}".to_vec()),
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
