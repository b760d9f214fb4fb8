//! Peers that break the rules on purpose, against a real provider and a real payer: what each can lose is bounded
//! (spec: answers, section 12).

use hearth_net::{IncomingAnswers, Network, PayerStream, RecvError};
use hearth_node::roles::served::Served;
use hearth_payments::purse::{Purse, Tab};
use hearth_payments::signing::sign;
use hearth_protocol::answer::frame::RefusalCode;
use hearth_protocol::answer::payer::AnswerDistrust;
use hearth_protocol::answer::{
    AnswerId, AnswerRequest, PayerFrame, ProviderFrame, Receipt, Sampling, SignedReceipt, Spec,
    StopReason, Tokens,
};
use hearth_protocol::content::ContentHash;
use hearth_protocol::id::ChannelId;
use hearth_protocol::market::Passed;
use hearth_protocol::money::Amount;
use hearth_protocol::offer::{Audience, DeviceId, Offer, OfferError};
use hearth_protocol::x402::{BatchExtra, PaymentJson, PaymentRequirements, Scheme};
use hearth_surface::answers::{Answerer, AskError, Ending, Field, Tier};

use crate::world::{LONG, MODEL, Shop, World, ask, asset, charges, key, price, question};

/// Output tokens that a payer promises for.
const PROMISED_TOKENS: u32 = 24;
/// Tokens after which a payer breaks off.
const BROKEN_AFTER: u32 = 14;
const PROMPT: std::ops::Range<u32> = 1_000..1_008;

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    let waited = tokio::time::timeout(LONG, future).await;
    waited.unwrap_or_else(|_| panic!("{what} did not happen within {LONG:?}"))
}

/// What `output_tokens` cost after the prompt.
fn cost(output_tokens: u32) -> Amount {
    price().cost(PROMPT.len() as u32, output_tokens)
}

/// A payer that speaks frames as it likes.
struct Robber {
    network: Network,
    purse: Purse,
}

/// One of its questions, on which tokens come.
struct Asked {
    stream: PayerStream,
    tab: Tab,
    payment: PaymentJson,
}

impl Robber {
    async fn new(world: &World) -> Self {
        Self {
            network: world.network(77).await.0,
            purse: world.purse(&world.store("robber")),
        }
    }

    /// A question for so many tokens, which the end of a text does not cut short.
    fn request(number: u8, shop: &Shop, output_tokens: u32) -> AnswerRequest {
        let serving = shop.provider.served()[0].serving.clone();
        let sampling = Sampling {
            logit_bias_millionths: vec![(0, -100_000_000), (2, -100_000_000)],
            ..Sampling::default()
        };
        let weights = serving.weights;
        let spec = Spec {
            sampling: sampling.clone(),
            serving,
        };
        AnswerRequest {
            id: AnswerId([number; 16]),
            spec: spec.hash(),
            noise_spec: spec.hash(),
            weights,
            ids: PROMPT.collect(),
            answered_tokens: 0,
            sampling,
            grammar: None,
            output_tokens_max: output_tokens,
            seed: [number; 32],
            logprobs: None,
        }
    }

    fn requirements(offer: &Offer, amount: Amount) -> PaymentRequirements {
        let extra = BatchExtra {
            receiver_authorizer: offer.session_key,
            withdraw_delay: offer.withdraw_delay_s,
            name: "Test Dollar (worthless)".to_owned(),
            version: "1".to_owned(),
            asset_transfer_method: None,
            min_deposit: None,
            channel_state: None,
            voucher_state: None,
        };
        PaymentRequirements {
            scheme: Scheme::BatchSettlement,
            network: asset().chain,
            amount,
            asset: asset().token,
            pay_to: offer.household,
            max_timeout_seconds: 120,
            extra: extra.into_map(),
        }
    }

    async fn open(&self, shop: &Shop) -> PayerStream {
        let address = shop.network.address();
        let asking = self.network.ask(shop.device(), Some(&address));
        soon("a stream", asking).await.unwrap()
    }

    /// Asks, and promises for so many tokens; a correction is taken as an honest payer would.
    async fn ask(&self, world: &World, shop: &Shop, request: AnswerRequest, tokens: u32) -> Asked {
        let mut stream = self.open(shop).await;
        let amount = cost(tokens);
        let requirements = Self::requirements(&world.offer(shop), amount);
        let mut tab = self.purse.open_tab("robbed", requirements).await.unwrap();
        let mut payment = tab.promise(amount).await.unwrap();
        let asked = PayerFrame::Ask {
            request: Box::new(request),
            payment: Some(payment.clone()),
        };
        stream.send(&asked).await.unwrap();
        loop {
            match soon("an admission", stream.recv()).await.unwrap() {
                Some(ProviderFrame::PaymentRequired(required)) => {
                    tab.correct(&required).await.unwrap();
                    payment = tab.promise(amount).await.unwrap();
                    stream
                        .send(&PayerFrame::Pay(payment.clone()))
                        .await
                        .unwrap();
                }
                Some(ProviderFrame::Accepted { .. }) => break,
                other => panic!("{other:?}"),
            }
        }
        Asked {
            stream,
            tab,
            payment,
        }
    }
}

impl Asked {
    /// What comes until the stream ends, or until so many tokens came and something was charged.
    async fn listen(&mut self, tokens_max: u32) -> (u32, Option<Receipt>) {
        let (mut tokens, mut last) = (0, None);
        while tokens < tokens_max || last.is_none() {
            match soon("a frame", self.stream.recv()).await {
                Ok(Some(ProviderFrame::Tokens(more))) => tokens += more.ids.len() as u32,
                Ok(Some(ProviderFrame::Charged {
                    receipt,
                    settlement,
                })) => {
                    if let Some(settlement) = settlement {
                        self.tab.settle(&settlement).await.unwrap();
                    }
                    last = Some(receipt.receipt);
                }
                Ok(Some(ProviderFrame::Working { .. })) => {}
                Ok(None) => break,
                other => panic!("{other:?}"),
            }
        }
        (tokens, last)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payer_that_never_renews_gets_what_it_promised_for_and_no_more() {
    let world = World::scripted().await;
    let shop = world.shop(2, vec![price()]).await;
    let robber = Robber::new(&world).await;
    let request = Robber::request(1, &shop, 200);
    let mut asked = robber.ask(&world, &shop, request, PROMISED_TOKENS).await;
    let (tokens, last) = asked.listen(u32::MAX).await;
    let last = last.expect("a receipt");
    assert_eq!((tokens, last.stop), (PROMISED_TOKENS, StopReason::Unpaid));
    assert_eq!(last.charge, cost(PROMISED_TOKENS));
    assert_eq!(shop.provider.served()[0].generator.load_now().busy, 0);
    shop.till.settlement.claim(true).await.unwrap();
    assert_eq!(world.balance(&shop).await, cost(PROMISED_TOKENS));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payer_that_always_breaks_off_pays_for_what_was_sent() {
    let world = World::scripted().await;
    let shop = world.shop(2, vec![price()]).await;
    let robber = Robber::new(&world).await;
    let (mut least, mut most) = (Amount::ZERO, Amount::ZERO);
    for round in 1..=4 {
        let request = Robber::request(round, &shop, 200);
        let mut asked = robber.ask(&world, &shop, request, PROMISED_TOKENS).await;
        let (tokens, _) = asked.listen(BROKEN_AFTER).await;
        drop(asked.stream);
        asked.tab.lost().await.unwrap();
        least = least.saturating_add(cost(tokens));
        most = most.saturating_add(cost(PROMISED_TOKENS));
    }
    // An honest answer at the end: the provider says then what it charged before.
    let request = Robber::request(9, &shop, 10);
    let mut honest = robber.ask(&world, &shop, request, 10).await;
    let (tokens, last) = honest.listen(u32::MAX).await;
    assert_eq!((tokens, last.unwrap().charge), (10, cost(10)));
    shop.till.settlement.claim(true).await.unwrap();
    let has = world.balance(&shop).await;
    let (least, most) = [least, most].map(|sum| sum.saturating_add(cost(10))).into();
    assert!((least..=most).contains(&has), "{least} <= {has} <= {most}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replayed_voucher_buys_nothing() {
    let world = World::scripted().await;
    let shop = world.shop(2, vec![price()]).await;
    let robber = Robber::new(&world).await;
    let request = Robber::request(1, &shop, 10);
    let mut asked = robber.ask(&world, &shop, request, 10).await;
    let (tokens, _) = asked.listen(u32::MAX).await;
    assert_eq!(tokens, 10);

    let mut again = robber.open(&shop).await;
    let replayed = PayerFrame::Ask {
        request: Box::new(Robber::request(2, &shop, 10)),
        payment: Some(asked.payment.clone()),
    };
    again.send(&replayed).await.unwrap();
    let mut corrections = 0;
    let refusal = loop {
        match soon("a correction", again.recv()).await.unwrap() {
            Some(ProviderFrame::PaymentRequired(_)) => {
                corrections += 1;
                let pay = PayerFrame::Pay(asked.payment.clone());
                again.send(&pay).await.unwrap();
            }
            Some(ProviderFrame::Refused(refusal)) => break refusal,
            other => panic!("{other:?}"),
        }
    };
    assert!(corrections <= 3, "{corrections}");
    assert_eq!(refusal.code, RefusalCode::PaymentRefused, "{refusal:?}");
    shop.till.settlement.claim(true).await.unwrap();
    assert_eq!(world.balance(&shop).await, cost(10));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_gets_nothing_of_a_model_for_the_household() {
    let world = World::scripted().await;
    let shop = world.shop(2, Vec::new()).await;
    let private = Served {
        audience: Audience::Household,
        ..shop.provider.served()[0].clone()
    };
    shop.provider.serve(private);
    // One that asks although the offer says no.
    let robber = Robber::new(&world).await;
    let mut stream = robber.open(&shop).await;
    let request = Box::new(Robber::request(1, &shop, 10));
    let asked = PayerFrame::Ask {
        request,
        payment: None,
    };
    stream.send(&asked).await.unwrap();
    match soon("a refusal", stream.recv()).await.unwrap() {
        Some(ProviderFrame::Refused(refusal)) => {
            assert_eq!(refusal.code, RefusalCode::ModelNotServed, "{refusal:?}");
        }
        other => panic!("{other:?}"),
    }
    // One that heeds the offer is told why nobody answers.
    let payer = world.payer(&[&shop], 32).await;
    assert!(payer.models().is_empty(), "{:?}", payer.models());
    match payer.ask(question("Hello", 8)).await {
        Err(AskError::NoProvider(why)) => assert!(why.contains("its own household"), "{why}"),
        other => panic!("{:?}", other.map(|_| "an answer")),
    }
}

/// What a lying provider does once it has sent a few tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lie {
    /// Nothing, for ever.
    Stalls,
    /// It charges with a receipt that somebody else signed.
    Forges,
    /// It charges more than its price.
    Overcharges,
    /// It sends tokens without end.
    Floods,
}

/// The key that the liar's offer names.
const LIAR: u8 = 60;
const LIES_AFTER: u32 = 3;

/// A provider that is cheaper than any other, and lies.
struct Liar {
    network: Network,
    offer: Offer,
    _task: tokio::task::JoinHandle<()>,
}

impl Liar {
    async fn new(world: &World, like: &Shop, lie: Lie) -> Self {
        let (network, incoming) = world.network(LIAR + lie as u8).await;
        let mut offer = world.offer(like);
        offer.device = network.device();
        offer.household = key(LIAR).address();
        offer.session_key = key(LIAR).address();
        for price in &mut offer.models[0].prices {
            price.per_million_output = Amount::new(1_000);
        }
        let cheap = offer.models[0].prices[0];
        let charge = move |asked: &AnswerRequest| {
            let fair = cheap.cost(asked.ids.len() as u32, LIES_AFTER);
            match lie {
                Lie::Overcharges => fair.saturating_add(Amount::new(1)),
                _ => fair,
            }
        };
        let task = tokio::spawn(async move { Self::lie(incoming, lie, charge).await });
        Self {
            network,
            offer,
            _task: task,
        }
    }

    fn device(&self) -> DeviceId {
        self.network.device()
    }

    async fn lie(
        mut incoming: IncomingAnswers,
        lie: Lie,
        charge: impl Fn(&AnswerRequest) -> Amount,
    ) {
        while let Some(mut arrived) = incoming.next().await {
            let Ok(Some(PayerFrame::Ask { request, .. })) = arrived.stream.recv().await else {
                continue;
            };
            let stream = &mut arrived.stream;
            let mut frames = vec![ProviderFrame::Accepted { waiting: 0 }, tokens(0)];
            let signer = if lie == Lie::Forges { LIAR + 1 } else { LIAR };
            match lie {
                Lie::Stalls => {}
                Lie::Forges | Lie::Overcharges => frames.push(ProviderFrame::Charged {
                    receipt: Box::new(receipt(&request, charge(&request), signer)),
                    settlement: Some(b"{}".to_vec().into()),
                }),
                Lie::Floods => frames.extend((1..1_000).map(|n| tokens(n * LIES_AFTER))),
            }
            for frame in frames {
                if stream.send(&frame).await.is_err() {
                    break;
                }
            }
            // It hangs on as long as the payer lets it.
            while let Ok(Some(_)) | Err(RecvError::Silent) = stream.recv().await {}
        }
    }
}

fn tokens(first: u32) -> ProviderFrame {
    ProviderFrame::Tokens(Tokens {
        first,
        ids: (100..100 + LIES_AFTER).collect(),
        logprobs: Vec::new(),
    })
}

fn receipt(asked: &AnswerRequest, charge: Amount, signer: u8) -> SignedReceipt {
    let output: Vec<u32> = (100..100 + LIES_AFTER).collect();
    let receipt = Receipt {
        answer: asked.id,
        spec: asked.spec,
        noise_spec: asked.noise_spec,
        seed: asked.seed,
        prompt: ContentHash::of_ids(&asked.ids),
        output: ContentHash::of_ids(&output),
        prompt_tokens: asked.ids.len() as u32,
        answered_tokens: 0,
        output_tokens: LIES_AFTER,
        stop: StopReason::Unfinished,
        channel: ChannelId(Default::default()),
        charge,
        started_at: Default::default(),
        ended_at: Default::default(),
    };
    let signature = sign(&key(signer), receipt.digest());
    SignedReceipt { receipt, signature }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_lies_or_stalls_is_left_and_charges_nothing() {
    let world = World::scripted().await;
    let shop = world.shop(2, vec![price()]).await;
    for (lie, distrust) in [
        (Lie::Stalls, None),
        (Lie::Forges, Some(AnswerDistrust::WrongSigner)),
        (Lie::Overcharges, Some(AnswerDistrust::Overcharged)),
        (Lie::Floods, Some(AnswerDistrust::WrongTokens)),
    ] {
        let liar = Liar::new(&world, &shop, lie).await;
        let sellers = [
            (&liar.network, liar.offer.clone()),
            (&shop.network, world.offer(&shop)),
        ];
        let payer = world.payer_of(&format!("{lie:?}"), &sellers, 16).await;
        let heard = ask(&payer, question("Tell me of the sea.", 20), |_| {}).await;
        assert_eq!(
            heard.stop,
            Ending::Model(StopReason::Length),
            "{lie:?}: {heard:?}"
        );
        assert_eq!(
            (heard.usage.output_tokens, heard.sources.len()),
            (20, 2),
            "{lie:?}: {heard:?}"
        );
        let charges = charges(&payer, &heard);
        assert!(
            !charges.contains_key(&liar.device()),
            "{lie:?}: {charges:?}"
        );
        // Another offer does not make it forgotten.
        let offered = payer.market().observe(world.now(), liar.offer.clone());
        offered.unwrap();
        let weighed = payer.weigh(MODEL, Tier::Network).unwrap();
        let of_liar = weighed
            .iter()
            .find(|one| one.device == liar.device())
            .unwrap();
        assert_eq!(of_liar.passed, distrust.map(Passed::Distrusted), "{lie:?}");
        liar.network.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_none_but_a_stalling_provider_the_answer_ends_clearly_and_costs_nothing() {
    let world = World::scripted().await;
    let shop = world.shop(2, vec![price()]).await;
    let liar = Liar::new(&world, &shop, Lie::Stalls).await;
    let sellers = [(&liar.network, liar.offer.clone())];
    let payer = world.payer_of("stalled", &sellers, 16).await;
    let heard = ask(&payer, question("Tell me of the sea.", 20), |_| {}).await;
    assert!(
        matches!(&heard.stop, Ending::Broken(AskError::NoProvider(why)) if why.contains("silent")),
        "{heard:?}"
    );
    assert_eq!(heard.usage.output_tokens, LIES_AFTER);
    assert!(heard.usage.charged.is_empty(), "{heard:?}");
}

/// A string of a model file's head: its length, then its bytes.
fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

/// The beginning of a model file: so many tensors, so many facts.
fn head(tensors: u64, facts: u64) -> Vec<u8> {
    let version = 3_u32.to_le_bytes();
    [
        &b"GGUF"[..],
        &version,
        &tensors.to_le_bytes(),
        &facts.to_le_bytes(),
    ]
    .concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_head_of_a_strangers_file_is_read_defensively() {
    let world = World::scripted().await;
    let shop = world.shop(2, vec![price()]).await;
    let liar = Liar::new(&world, &shop, Lie::Stalls).await;
    let array_of_strings = [
        &9_u32.to_le_bytes()[..],
        &8_u32.to_le_bytes(),
        &u64::MAX.to_le_bytes(),
    ];
    let absurd = [
        head(u64::MAX, u64::MAX),
        head(1 << 62, 0),
        [head(0, 1), (u64::MAX / 2).to_le_bytes().to_vec()].concat(),
        [
            head(0, 1),
            string("tokenizer.ggml.tokens"),
            array_of_strings.concat(),
        ]
        .concat(),
        b"no model at all".to_vec(),
    ];
    for (number, bytes) in absurd.into_iter().enumerate() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("absurd.gguf");
        std::fs::write(&path, &bytes).unwrap();
        let shared = liar.network.share(&path, None).await.unwrap();
        let mut offer = liar.offer.clone();
        offer.models[0].name = format!("absurd {number}");
        offer.models[0].serving.weights = shared.hash;
        offer.models[0].weights_bytes = shared.bytes;
        offer.models[0].head_bytes = shared.bytes;
        let sellers = [(&liar.network, offer.clone())];
        let payer = world
            .payer_of(&format!("reader {number}"), &sellers, 16)
            .await;
        let mut asked = question("Tell me of the sea.", 20);
        asked.model = shared.hash.to_string();
        let refused = soon("a refusal", payer.ask(asked)).await;
        let refused = refused
            .err()
            .unwrap_or_else(|| panic!("file {number} was read"));
        println!("file {number}: {refused}");
        assert!(
            matches!(refused, AskError::NoProvider(_)),
            "{number}: {refused:?}"
        );
    }
    // An offer with a head that would fill the disk is not even taken.
    let payer = world.payer_of("endless", &[], 16).await;
    let mut offer = liar.offer.clone();
    offer.models[0].weights_bytes = u64::MAX;
    offer.models[0].head_bytes = u64::MAX;
    let refused = payer.market().observe(world.now(), offer);
    assert_eq!(refused, Err(OfferError::Senseless));
}

/// The asker hears which field is wrong, before any provider works.
#[tokio::test(flavor = "multi_thread")]
async fn a_bias_for_a_token_that_is_not_there_is_the_askers_fault() {
    let world = World::scripted().await;
    let shop = world.shop(2, Vec::new()).await;
    let payer = world.payer(&[&shop], 16).await;
    for id in [49_152, u32::MAX] {
        let mut biased = question("Name three colours.", 5);
        biased.sampling.logit_bias_millionths = vec![(0, -100_000_000), (id, 1)];
        let Err(AskError::Senseless { field, reason }) = payer.ask(biased).await else {
            panic!("a bias for the token {id} was taken");
        };
        assert_eq!(field, Field::Sampling);
        assert!(reason.contains(&id.to_string()), "{reason}");
    }
    assert_eq!(shop.provider.served()[0].generator.load_now().busy, 0);
}
