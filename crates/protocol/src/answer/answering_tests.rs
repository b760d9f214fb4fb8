use alloy_primitives::Address;

use super::*;
use crate::answer::request::AnswerId;
use crate::answer::spec::{BackendClass, KvType, Sampling};
use crate::channel::{Voucher, provider};
use crate::eip712::{ChannelConfig, SettlementDomain};
use crate::signature::testing::Key;
use crate::x402::{
    BatchPayload, ChargeStatement, Extensions, PaymentPayload, PaymentRequirements, Version,
};

const NOW: Timestamp = Timestamp(1_000_000);
const PROMPT: u32 = 5;
const OUTPUT_TOKENS: u32 = 40;

fn asset() -> AcceptedAsset {
    AcceptedAsset {
        asset: AssetId {
            chain: ChainId(1),
            token: Address::repeat_byte(1),
        },
        name: "Test".to_owned(),
        version: "1".to_owned(),
        receiver: Address::repeat_byte(2),
        receiver_authorizer: Key::new(3).address(),
        withdraw_delay: 86_400,
        deposit_ceilings: 1,
        batch: true,
        exact: false,
    }
}

fn price() -> Price {
    Price {
        asset: asset().asset,
        per_million_prompt: Amount::new(1_000_000),
        per_million_output: Amount::new(2_000_000),
        floor: Amount::ZERO,
    }
}

fn cost(output_tokens: u32) -> Amount {
    price().cost(PROMPT, output_tokens)
}

fn serving() -> Serving {
    Serving {
        adapter: None,
        backend: BackendClass::CpuAvx2,
        engine: "test".to_owned(),
        flash_attention: false,
        kv_type: KvType::F16,
        micro_batch_tokens: 512,
        template: ContentHash([1; 32]),
        weights: ContentHash([9; 32]),
    }
}

fn request() -> AnswerRequest {
    let sampling = Sampling::default();
    let serving = serving();
    AnswerRequest {
        id: AnswerId([1; 16]),
        weights: serving.weights,
        spec: Spec {
            sampling: sampling.clone(),
            serving,
        }
        .hash(),
        noise_spec: ContentHash::default(),
        ids: (0..PROMPT).collect(),
        answered_tokens: 0,
        sampling,
        grammar: None,
        output_tokens_max: OUTPUT_TOKENS,
        seed: [2; 32],
        logprobs: None,
    }
}

fn config() -> ChannelConfig {
    let asset = asset();
    ChannelConfig {
        payer: Address::repeat_byte(7),
        payer_authorizer: Key::new(8).address(),
        receiver: asset.receiver,
        receiver_authorizer: asset.receiver_authorizer,
        token: asset.asset.token,
        withdraw_delay: asset.withdraw_delay,
        salt: B256::ZERO,
    }
}

fn pay(accepted: PaymentRequirements, payload: BatchPayload) -> PaymentJson {
    PaymentJson::from(&PaymentPayload {
        x402_version: Version,
        resource: None,
        accepted,
        payload,
        extensions: Extensions::new(),
    })
}

/// A payment of `amount` in all, on a channel that had been charged nothing before, for so much more.
fn promise(total: Amount, amount: Amount) -> PaymentJson {
    let domain = SettlementDomain::new(ChainId(1));
    let channel = domain.channel_id(&config());
    let signature = Key::new(8).sign(domain.voucher_digest(channel, total));
    let voucher = Voucher {
        max_claimable: total,
        signature,
    };
    let mut accepted = asset().batch_requirements(crate::accepted::RequestPrice::fixed(amount));
    accepted.amount = amount;
    pay(
        accepted,
        BatchPayload::Voucher {
            channel_config: config(),
            voucher: voucher.on_channel(channel),
        },
    )
}

fn refund() -> PaymentJson {
    let domain = SettlementDomain::new(ChainId(1));
    let channel = domain.channel_id(&config());
    let signature = Key::new(8).sign(domain.voucher_digest(channel, Amount::ZERO));
    let voucher = Voucher {
        max_claimable: Amount::ZERO,
        signature,
    };
    pay(
        asset().batch_requirements(crate::accepted::RequestPrice::fixed(Amount::ZERO)),
        BatchPayload::Refund {
            channel_config: config(),
            voucher: voucher.on_channel(channel),
            amount: None,
        },
    )
}

fn statement() -> PaymentStatement {
    PaymentStatement {
        moved: None,
        charge: ChargeStatement::default(),
    }
}

fn correction() -> PaymentRefusal {
    let channel = SettlementDomain::new(ChainId(1)).channel_id(&config());
    let state = crate::channel::channel_state(channel, &Default::default(), Some(Amount::ZERO));
    PaymentRefusal {
        code: ErrorCode::CumulativeMismatch,
        correction: Some(Box::new(provider::Correction {
            channel: state,
            voucher: None,
        })),
    }
}

/// A stream, and what was to be done since it was looked at last.
struct Stream {
    machine: Answering,
    now: Timestamp,
    done: Vec<AnsweringEffect>,
}

impl Stream {
    fn new(prices: Vec<Price>) -> Self {
        let terms = AnsweringTerms {
            is_household: false,
            openness: Openness::Everyone,
            accepts: Some(vec![asset()]),
        };
        let mut stream = Self {
            machine: Answering::new(terms, NOW),
            now: NOW,
            done: Vec::new(),
        };
        stream.tell(AnsweringEvent::Said(PayerFrame::Ask {
            request: Box::new(request()),
            payment: None,
        }));
        assert_eq!(stream.take(), [AnsweringEffect::Find(serving().weights)]);
        stream.tell(AnsweringEvent::Found(Some(Box::new(Found {
            serving: serving(),
            audience: Audience::Everyone,
            prices,
        }))));
        stream
    }

    /// A stream on which the model works, paid for `tokens` of its output.
    fn paid(tokens: u32) -> Self {
        let mut stream = Self::new(vec![price()]);
        stream.take();
        stream.pay(cost(tokens), cost(tokens));
        assert!(matches!(stream.take()[..], [AnsweringEffect::Admit { .. }]));
        stream.tell(AnsweringEvent::Admitted(Ok(())));
        let done = stream.take();
        let [AnsweringEffect::Submit { allowance, .. }] = done[..] else {
            panic!("{done:?}");
        };
        assert_eq!(allowance, tokens);
        stream
    }

    fn tell(&mut self, event: AnsweringEvent) {
        self.machine.handle(self.now, event, &mut self.done);
    }

    fn take(&mut self) -> Vec<AnsweringEffect> {
        std::mem::take(&mut self.done)
    }

    fn pay(&mut self, total: Amount, amount: Amount) {
        let payment = promise(total, amount);
        self.tell(AnsweringEvent::Said(PayerFrame::Pay(payment)));
    }

    fn make(&mut self, tokens: u32) {
        self.tell(AnsweringEvent::Made {
            ids: vec![7; tokens as usize],
            logprobs: Vec::new(),
        });
    }

    fn wait(&mut self, ms: u64) {
        self.now = self.now.plus_ms(ms);
        self.tell(AnsweringEvent::Tick);
    }

    /// Takes the charge that is to be made, and has it made.
    fn charge(&mut self) -> (Receipt, Vec<Amount>) {
        let done = self.take();
        let charge = done.into_iter().find_map(|effect| match effect {
            AnsweringEffect::Charge {
                receipt, amounts, ..
            } => Some((*receipt, amounts)),
            _ => None,
        });
        let (receipt, amounts) = charge.expect("a charge");
        let signature = Key::new(3).sign(receipt.digest());
        let statement = (!amounts.is_empty()).then(statement);
        self.tell(AnsweringEvent::Charged {
            receipt: Box::new(SignedReceipt {
                receipt: receipt.clone(),
                signature,
            }),
            statement,
        });
        (receipt, amounts)
    }

    fn refusal(&mut self) -> RefusalCode {
        match &self.take()[..] {
            [
                AnsweringEffect::Send(ProviderFrame::Refused(refusal)),
                AnsweringEffect::End(StreamEnd::Finished),
            ] => refusal.code,
            other => panic!("{other:?}"),
        }
    }
}

fn kinds(effects: &[AnsweringEffect]) -> Vec<&'static str> {
    let kind = |effect: &AnsweringEffect| match effect {
        AnsweringEffect::Send(ProviderFrame::PaymentRequired(_)) => "required",
        AnsweringEffect::Send(ProviderFrame::Tokens(_)) => "tokens",
        AnsweringEffect::Send(ProviderFrame::Working { .. }) => "working",
        AnsweringEffect::Send(ProviderFrame::Charged { .. }) => "charged",
        AnsweringEffect::Send(_) => "other frame",
        AnsweringEffect::Charge { .. } => "charge",
        AnsweringEffect::Admit { .. } => "admit",
        AnsweringEffect::Refund { .. } => "refund",
        AnsweringEffect::End(_) => "end",
        _ => "other",
    };
    effects.iter().map(kind).collect()
}

#[test]
fn a_free_answer_is_made_whole_and_its_receipt_charges_nothing() {
    let mut stream = Stream::new(Vec::new());
    let done = stream.take();
    assert!(
        matches!(done[..], [AnsweringEffect::Submit { allowance, .. }] if allowance == OUTPUT_TOKENS)
    );
    stream.make(OUTPUT_TOKENS);
    stream.tell(AnsweringEvent::MadeAll(StopReason::Length));
    let (receipt, amounts) = stream.charge();
    assert_eq!((receipt.charge, amounts), (Amount::ZERO, Vec::new()));
    assert_eq!(receipt.output_tokens, OUTPUT_TOKENS);
    assert_eq!(kinds(&stream.take()), ["charged", "end"]);
}

#[test]
fn tokens_wait_while_a_charge_is_made_durable() {
    let mut stream = Stream::paid(16);
    stream.make(8);
    assert_eq!(kinds(&stream.done), ["tokens", "charge"]);
    stream.make(4);
    let (receipt, amounts) = stream.charge();
    assert_eq!((receipt.output_tokens, amounts), (8, vec![cost(8)]));
    assert_eq!(receipt.stop, StopReason::Unfinished);
    // What was made meanwhile follows the receipt that does not count it.
    assert_eq!(kinds(&stream.take()), ["charged", "tokens"]);
}

#[test]
fn a_payer_that_never_renews_is_left_after_its_time_and_charged_for_what_was_sent() {
    let mut stream = Stream::paid(16);
    stream.make(8);
    stream.charge();
    stream.take();
    stream.make(8);
    stream.charge();
    assert_eq!(kinds(&stream.take()), ["charged"]);
    stream.wait(PAYER_MS_MAX - 1);
    assert_eq!(stream.take(), []);
    stream.wait(1);
    let (receipt, amounts) = stream.charge();
    assert_eq!((receipt.stop, amounts), (StopReason::Unpaid, Vec::new()));
    assert_eq!((receipt.charge, receipt.output_tokens), (cost(16), 16));
    assert_eq!(kinds(&stream.take()), ["charged", "end"]);
}

#[test]
fn a_payer_that_breaks_off_is_charged_for_what_was_sent_and_hears_nothing() {
    let mut stream = Stream::paid(16);
    stream.make(3);
    stream.take();
    stream.tell(AnsweringEvent::Broken);
    let (receipt, amounts) = stream.charge();
    assert_eq!((receipt.charge, amounts), (cost(3), vec![cost(3)]));
    assert_eq!(stream.take(), [AnsweringEffect::End(StreamEnd::Gone)]);
}

#[test]
fn the_time_that_a_deposit_takes_is_not_the_payers() {
    let mut stream = Stream::paid(16);
    stream.make(16);
    // Both halves of the promise are used up.
    stream.charge();
    stream.charge();
    assert_eq!(kinds(&stream.take()), ["charged"]);
    stream.pay(cost(32), cost(32).saturating_sub(cost(8)));
    assert_eq!(kinds(&stream.take()), ["admit"]);
    stream.wait(10 * PAYER_MS_MAX);
    assert_eq!(stream.take(), []);
    stream.tell(AnsweringEvent::Admitted(Ok(())));
    assert_eq!(stream.take(), [AnsweringEffect::Allow(32)]);
}

#[test]
fn a_promise_that_comes_to_nothing_is_corrected_three_times() {
    let mut stream = Stream::new(vec![price()]);
    for _ in 0..CORRECTIONS_MAX {
        assert_eq!(kinds(&stream.take()), ["required"]);
        // Less than the prompt and one token.
        stream.pay(Amount::new(1), Amount::new(1));
    }
    assert_eq!(stream.refusal(), RefusalCode::PaymentRefused);
    let mut stream = Stream::paid(16);
    for _ in 0..CORRECTIONS_MAX {
        stream.pay(cost(32), cost(32));
        assert_eq!(kinds(&stream.take()), ["admit"]);
        stream.tell(AnsweringEvent::Admitted(Err(correction())));
        assert_eq!(kinds(&stream.take()), ["required"]);
    }
    stream.pay(cost(32), cost(32));
    stream.tell(AnsweringEvent::Admitted(Err(correction())));
    assert_eq!(stream.charge().0.stop, StopReason::Unpaid);
}

#[test]
fn one_further_promise_waits_and_a_third_is_out_of_turn() {
    let mut stream = Stream::paid(16);
    stream.pay(cost(24), cost(24));
    stream.pay(cost(32), cost(32));
    assert_eq!(kinds(&stream.take()), ["admit"]);
    stream.tell(AnsweringEvent::Admitted(Ok(())));
    assert_eq!(kinds(&stream.take()), ["other", "admit"]);
    stream.pay(cost(36), cost(36));
    stream.pay(cost(38), cost(38));
    let (receipt, _) = stream.charge();
    assert_eq!(receipt.stop, StopReason::Cancelled);
    assert_eq!(stream.take(), [AnsweringEffect::End(StreamEnd::OutOfTurn)]);
}

#[test]
fn a_payer_that_says_nothing_is_left_and_hears_each_second_that_its_question_is_worked_on() {
    let terms = AnsweringTerms {
        is_household: false,
        openness: Openness::Everyone,
        accepts: None,
    };
    let mut machine = Answering::new(terms, NOW);
    assert_eq!(machine.wake_at(), Some(NOW.plus_ms(PAYER_MS_MAX)));
    let mut out = Vec::new();
    machine.handle(NOW.plus_ms(PAYER_MS_MAX), AnsweringEvent::Tick, &mut out);
    assert_eq!(out, [AnsweringEffect::End(StreamEnd::Silent)]);

    let mut stream = Stream::paid(16);
    for _ in 0..3 {
        stream.wait(WORKING_EVERY_MS);
        assert_eq!(kinds(&stream.take()), ["working"]);
    }
}

#[test]
fn an_owner_who_comes_back_ends_an_answer_and_what_was_sent_is_charged() {
    let mut stream = Stream::paid(16);
    stream.make(2);
    stream.take();
    stream.tell(AnsweringEvent::Openness(Openness::Household));
    let (receipt, amounts) = stream.charge();
    assert_eq!(receipt.stop, StopReason::Failed);
    assert_eq!(amounts, [cost(2)]);

    let mut stream = Stream::new(vec![price()]);
    stream.take();
    stream.tell(AnsweringEvent::Openness(Openness::Nobody));
    assert_eq!(stream.refusal(), RefusalCode::NotNow);
}

#[test]
fn a_refund_is_corrected_twice_and_then_refused() {
    let terms = AnsweringTerms {
        is_household: false,
        openness: Openness::Nobody,
        accepts: Some(vec![asset()]),
    };
    let mut stream = Stream {
        machine: Answering::new(terms, NOW),
        now: NOW,
        done: Vec::new(),
    };
    for round in 1..=CORRECTIONS_MAX {
        stream.tell(AnsweringEvent::Said(PayerFrame::Refund(refund())));
        assert_eq!(
            kinds(&stream.take()),
            ["refund"],
            "whoever may use the device now"
        );
        stream.tell(AnsweringEvent::Refunded(Err(correction())));
        if round < CORRECTIONS_MAX {
            assert_eq!(kinds(&stream.take()), ["required"]);
        }
    }
    assert_eq!(stream.refusal(), RefusalCode::PaymentRefused);
}

#[test]
fn a_model_for_the_household_and_another_spec_are_refused() {
    let found = |audience, serving| {
        let mut stream = Stream::new(Vec::new());
        let terms = stream.machine.terms.clone();
        stream.machine = Answering::new(terms, NOW);
        stream.tell(AnsweringEvent::Said(PayerFrame::Ask {
            request: Box::new(request()),
            payment: None,
        }));
        stream.take();
        stream.tell(AnsweringEvent::Found(Some(Box::new(Found {
            serving,
            audience,
            prices: Vec::new(),
        }))));
        stream.refusal()
    };
    let other = Serving {
        micro_batch_tokens: 1,
        ..serving()
    };
    assert_eq!(
        found(Audience::Household, serving()),
        RefusalCode::ModelNotServed
    );
    assert_eq!(found(Audience::Everyone, other), RefusalCode::SpecDiffers);
}
