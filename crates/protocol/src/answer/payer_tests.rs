use std::collections::BTreeMap;

use alloy_primitives::B256;
use proptest::prelude::*;

use super::*;
use crate::answer::request::AnswerId;
use crate::answer::spec::Sampling;
use crate::id::{AssetId, ChainId, ChannelId};
use crate::signature::testing::Key;

const PROMPT: [u32; 5] = [11, 12, 13, 14, 15];
const OUTPUT_TOKENS: u32 = 40;
/// Longer than any patience.
const LONG_MS: u64 = 600_000;

/// The whole answer, from any provider: the noise is the same everywhere.
fn token(position: usize) -> u32 {
    1_000 + u32::try_from(position).unwrap()
}

fn question() -> AnswerRequest {
    AnswerRequest {
        id: AnswerId([1; 16]),
        spec: ContentHash::default(),
        noise_spec: ContentHash::default(),
        weights: ContentHash([9; 32]),
        ids: PROMPT.to_vec(),
        answered_tokens: 0,
        sampling: Sampling::default(),
        grammar: None,
        output_tokens_max: OUTPUT_TOKENS,
        seed: [2; 32],
        logprobs: None,
    }
}

fn price() -> Price {
    Price {
        asset: AssetId {
            chain: ChainId(1),
            token: alloy_primitives::Address::repeat_byte(1),
        },
        per_million_prompt: Amount::new(1_000_000),
        per_million_output: Amount::new(3_000_000),
        floor: Amount::new(10),
    }
}

fn candidate(number: u8) -> Candidate {
    Candidate {
        device: Some(DeviceId([number; 32])),
        spec: ContentHash([number; 32]),
        session_key: Key::new(number).address(),
        price: Some(price()),
        prompt_tokens_per_s: 1_000,
    }
}

fn patience() -> Patience {
    Patience {
        window_tokens: 16,
        ..Patience::default()
    }
}

/// What a provider does, at a number of delivered tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Nature {
    Honest,
    Unreachable,
    Refuses,
    FallsSilent(u32),
    Vanishes(u32),
    BreaksOff(u32),
    SendsGarbage(u32),
    SkipsToken(u32),
    RepeatsToken(u32),
    Overcharges,
    SignsWithAnotherKey,
    MiscountsReceipt,
    ForgetsTheNoise,
    EndsEarly(u32),
    OwnerReturns(u32),
    NeverReadsThePrompt,
    RepeatsProgress,
    /// Says so many times, once a second, that it works, and then answers.
    IsBusyFor(u32),
}

/// A provider at work on one stream.
struct Provider {
    nature: Nature,
    asked: AnswerRequest,
    delivered: Vec<u32>,
    charged: Amount,
    covered_tokens: u32,
    /// When a deposit is final, and the output tokens that are covered then.
    deposit: Option<(Timestamp, u32)>,
    /// Output tokens that were covered when it charged last and asked for more.
    renewed: u32,
    /// How often it said that it works.
    beats: u32,
}

impl Provider {
    /// How long it takes to do what it does next, in milliseconds.
    fn pace_ms(&self, now: Timestamp) -> u64 {
        if let Some((at, _)) = self.deposit
            && self.covered_tokens == count(self.delivered.len())
        {
            return at.ms_since(now);
        }
        match self.nature {
            Nature::IsBusyFor(beats) if self.beats <= beats && self.delivered.is_empty() => 1_000,
            _ => 10,
        }
    }

    fn receipt(&self, stop: StopReason, charge: Amount) -> Box<SignedReceipt> {
        let mut receipt = Receipt {
            answer: self.asked.id,
            spec: self.asked.spec,
            noise_spec: self.asked.noise_spec,
            seed: self.asked.seed,
            prompt: ContentHash::of_ids(&self.asked.ids),
            output: ContentHash::of_ids(&self.delivered),
            prompt_tokens: count(self.asked.ids.len()),
            answered_tokens: self.asked.answered_tokens,
            output_tokens: count(self.delivered.len()),
            stop,
            channel: ChannelId(B256::ZERO),
            charge,
            started_at: Timestamp(0),
            ended_at: Timestamp(1),
        };
        if self.nature == Nature::MiscountsReceipt {
            receipt.output_tokens += 1;
        }
        if self.nature == Nature::ForgetsTheNoise {
            receipt.noise_spec = ContentHash([77; 32]);
        }
        let key = if self.nature == Nature::SignsWithAnotherKey {
            Key::new(200)
        } else {
            Key::new(self.asked.spec.0[0])
        };
        let signature = key.sign(receipt.digest());
        Box::new(SignedReceipt { receipt, signature })
    }

    fn charge(&mut self, stop: StopReason) -> AskingEvent {
        let mut charge = price().cost(count(self.asked.ids.len()), count(self.delivered.len()));
        if self.delivered.is_empty() {
            charge = Amount::ZERO;
        }
        if self.nature == Nature::Overcharges {
            charge = charge.saturating_add(Amount::new(1));
        }
        self.charged = charge;
        frame(ProviderFrame::Charged {
            receipt: self.receipt(stop, charge),
            settlement: None,
        })
    }

    fn take_promise(&mut self, deposit_at: Option<Timestamp>) {
        let covered_tokens = count(self.delivered.len()) + 16;
        match deposit_at {
            None => self.covered_tokens = covered_tokens,
            Some(at) => self.deposit = Some((at, covered_tokens)),
        }
    }

    fn note_deposit(&mut self, now: Timestamp) {
        if let Some((_, covered_tokens)) = self.deposit.take_if(|(at, _)| *at <= now) {
            self.covered_tokens = covered_tokens;
        }
    }

    fn next_tokens(&mut self) -> AskingEvent {
        let position = self.asked.answered_tokens as usize + self.delivered.len();
        self.delivered.push(token(position));
        tokens(position, vec![token(position)])
    }

    /// What it does next, if anything.
    fn act(&mut self) -> Option<AskingEvent> {
        let delivered = count(self.delivered.len());
        match self.nature {
            Nature::FallsSilent(at) if delivered >= at => return None,
            Nature::BreaksOff(at) if delivered >= at => {
                return Some(AskingEvent::Closed { garbage: false });
            }
            Nature::SendsGarbage(at) if delivered >= at => {
                return Some(AskingEvent::Closed { garbage: true });
            }
            Nature::Vanishes(at) if delivered >= at => return Some(AskingEvent::Unheard),
            Nature::SkipsToken(at) if delivered >= at => {
                let position = self.asked.answered_tokens as usize + self.delivered.len() + 1;
                return Some(tokens(position, vec![5]));
            }
            Nature::RepeatsToken(at) if delivered >= at && at > 0 => {
                let position = self.asked.answered_tokens as usize + self.delivered.len() - 1;
                return Some(tokens(position, vec![5]));
            }
            Nature::EndsEarly(at) if delivered >= at => {
                return Some(self.charge(StopReason::Cancelled));
            }
            Nature::OwnerReturns(at) if delivered >= at => {
                return Some(self.charge(StopReason::Failed));
            }
            Nature::NeverReadsThePrompt => return None,
            Nature::RepeatsProgress => {
                return Some(frame(ProviderFrame::Working { prompt_tokens: 1 }));
            }
            Nature::IsBusyFor(beats) if self.beats < beats => {
                self.beats += 1;
                return Some(frame(ProviderFrame::Working { prompt_tokens: 0 }));
            }
            _ => {}
        }
        if delivered == self.asked.output_tokens_max {
            return Some(self.charge(StopReason::Length));
        }
        if delivered == self.covered_tokens {
            let (_, covered_tokens) = self.deposit.take()?;
            self.covered_tokens = covered_tokens;
        }
        Some(self.next_tokens())
    }
}

fn frame(frame: ProviderFrame) -> AskingEvent {
    AskingEvent::Frame(Box::new(frame))
}

fn promised(deposits: bool) -> AskingEvent {
    let payment = vec![2].into();
    AskingEvent::Promised { payment, deposits }
}

fn tokens(first: usize, ids: Vec<u32>) -> AskingEvent {
    frame(ProviderFrame::Tokens(Tokens {
        first: count(first),
        ids,
        logprobs: Vec::new(),
    }))
}

/// An answer between providers of different natures, and the books of the payer.
struct World {
    answer: Asking,
    natures: BTreeMap<u8, Nature>,
    at: Option<Provider>,
    now: Timestamp,
    delivered: Vec<u32>,
    /// What each provider's last receipt charged, and the tokens it delivered.
    settled: BTreeMap<u8, (Amount, u32)>,
    left: Vec<(u8, Departure)>,
    end: Option<End>,
    effects: Vec<AskingEffect>,
    waits: u64,
    /// How long the deposit takes that goes with each further promise, if one does.
    deposit_ms: Option<u64>,
}

impl World {
    fn new(natures: &[Nature]) -> Self {
        let numbers = 1..=u8::try_from(natures.len()).unwrap();
        let candidates = numbers.clone().map(candidate).collect();
        let mut answer = Asking::new(question(), candidates, patience());
        let mut effects = Vec::new();
        answer.start(Timestamp(0), &mut effects);
        Self {
            answer,
            natures: numbers.zip(natures.iter().copied()).collect(),
            at: None,
            now: Timestamp(0),
            delivered: Vec::new(),
            settled: BTreeMap::new(),
            left: Vec::new(),
            end: None,
            effects,
            waits: 0,
            deposit_ms: None,
        }
    }

    fn tell(&mut self, event: AskingEvent) {
        self.answer.handle(self.now, event, &mut self.effects);
    }

    fn perform(&mut self, effect: AskingEffect) {
        match effect {
            AskingEffect::Open { candidate, promise } => {
                let number = candidate.device.unwrap().0[0];
                let nature = self.natures[&number];
                if nature == Nature::Unreachable {
                    return self.tell(AskingEvent::NotOpened);
                }
                assert!(
                    promise.unwrap() <= price().cost(500, 16),
                    "one window at most"
                );
                let payment = Some(vec![1].into());
                let deposits = false;
                self.tell(AskingEvent::Opened { payment, deposits });
            }
            AskingEffect::Send(PayerFrame::Ask { request, .. }) => self.ask(*request),
            AskingEffect::Send(PayerFrame::Pay(_)) => {
                let deposit_at = self.deposit_ms.map(|ms| self.now.plus_ms(ms));
                self.at.as_mut().unwrap().take_promise(deposit_at);
            }
            AskingEffect::Send(PayerFrame::Cancel) => {
                let event = self.at.as_mut().unwrap().charge(StopReason::Cancelled);
                self.tell(event);
            }
            AskingEffect::Promise(amount) => {
                assert!(amount <= price().cost(0, 16), "one window at most");
                self.tell(promised(self.deposit_ms.is_some()));
            }
            AskingEffect::Settle { receipt, .. } => self.settle(&receipt.receipt),
            AskingEffect::Deliver(tokens) => {
                assert_eq!(tokens.first as usize, self.delivered.len());
                self.delivered.extend(tokens.ids);
            }
            AskingEffect::Leave { candidate, why } => {
                self.at = None;
                self.left.push((candidate.device.unwrap().0[0], why));
            }
            AskingEffect::Prepare(candidate) => self.expect_next(&candidate),
            AskingEffect::Ended(end) => self.end = Some(end),
            AskingEffect::Make(_)
            | AskingEffect::Correct { .. }
            | AskingEffect::Send(PayerFrame::Refund(_)) => {
                panic!("not in this world")
            }
        }
    }

    fn ask(&mut self, request: AnswerRequest) {
        request.check().unwrap();
        let number = request.spec.0[0];
        let nature = self.natures[&number];
        self.at = Some(Provider {
            nature,
            covered_tokens: request.output_tokens_max.min(16),
            asked: request,
            delivered: Vec::new(),
            charged: Amount::ZERO,
            deposit: None,
            renewed: 0,
            beats: 0,
        });
        if nature == Nature::Refuses {
            self.tell(frame(ProviderFrame::Refused(Refusal {
                code: crate::answer::frame::RefusalCode::Busy,
                field: None,
                retry_after_ms: None,
                message: String::new(),
            })));
        } else {
            self.tell(frame(ProviderFrame::Accepted { waiting: 0 }));
        }
    }

    fn settle(&mut self, receipt: &Receipt) {
        let figures = (receipt.charge, receipt.output_tokens);
        self.settled.insert(receipt.spec.0[0], figures);
    }

    fn expect_next(&self, candidate: &Candidate) {
        let number = candidate.device.unwrap().0[0];
        let asked = self.at.as_ref().unwrap().asked.spec.0[0];
        assert_eq!(number, asked + 1, "the next one, while this one answers");
    }

    /// Half of what is covered is used up: the provider charges, and asks for more.
    fn renew(&mut self) -> Option<AskingEvent> {
        let provider = self.at.as_mut()?;
        let more = provider.covered_tokens < provider.asked.output_tokens_max;
        let half = count(provider.delivered.len()) + 8 >= provider.covered_tokens;
        let first = provider.renewed < provider.covered_tokens;
        (more && half && first).then(|| {
            provider.renewed = provider.covered_tokens;
            provider.charge(StopReason::Unfinished)
        })
    }

    fn run(&mut self) -> End {
        for _ in 0..10_000 {
            if !self.effects.is_empty() {
                let effect = self.effects.remove(0);
                self.perform(effect);
                continue;
            }
            if let Some(end) = self.end.take() {
                return end;
            }
            if let Some(provider) = &mut self.at {
                provider.note_deposit(self.now);
            }
            let pace_ms = self.at.as_ref().map_or(10, |at| at.pace_ms(self.now));
            let acted = self.at.as_mut().and_then(Provider::act);
            match acted {
                Some(event) => {
                    self.now = self.now.plus_ms(pace_ms);
                    if self.answer.wake_at().is_some_and(|until| self.now >= until) {
                        self.tell(AskingEvent::Tick);
                        continue;
                    }
                    self.tell(event);
                    if self
                        .effects
                        .iter()
                        .all(|e| matches!(e, AskingEffect::Deliver(_) | AskingEffect::Prepare(_)))
                        && let Some(event) = self.renew()
                    {
                        self.tell(event);
                    }
                }
                None => {
                    let until = self.answer.wake_at().expect("something is waited for");
                    self.waits += until.ms_since(self.now);
                    assert!(self.waits < LONG_MS, "it waits for ever");
                    self.now = until;
                    self.tell(AskingEvent::Tick);
                }
            }
        }
        panic!("the answer never ends");
    }

    /// Everything that must hold, however it went.
    fn holds(&self, seen: &str) {
        let right: Vec<_> = (0..self.delivered.len()).map(token).collect();
        assert_eq!(self.delivered, right, "{seen}");
        for (number, (charge, tokens)) in &self.settled {
            let prompt = PROMPT.len() as u32 + OUTPUT_TOKENS;
            assert!(*charge <= price().cost(prompt, *tokens), "{seen}: {number}");
        }
    }
}

#[test]
fn an_honest_provider_answers_in_parts_and_is_paid_for_all_of_them() {
    let mut world = World::new(&[Nature::Honest]);
    assert_eq!(world.run(), End::Stopped(StopReason::Length));
    world.holds("honest");
    assert_eq!(world.delivered.len(), OUTPUT_TOKENS as usize);
    let cost = price().cost(count(PROMPT.len()), OUTPUT_TOKENS);
    assert_eq!(world.settled[&1], (cost, OUTPUT_TOKENS));
}

#[test]
fn a_deposit_in_the_middle_is_waited_for_once_all_that_was_covered_is_used_up() {
    let mut world = World::new(&[Nature::Honest]);
    world.deposit_ms = Some(20_000);
    assert_eq!(world.run(), End::Stopped(StopReason::Length));
    world.holds("deposits");
    assert_eq!(world.left, [(1, Departure::Done)]);
    // Three deposits, each of which is asked for when the one before is there.
    assert!((59_000..61_000).contains(&world.now.0), "{:?}", world.now);
}

#[test]
fn a_deposit_excuses_no_silence_while_anything_is_covered() {
    for (silent_at, left_by_ms) in [(12, 4_000), (16, 61_000)] {
        let mut world = World::new(&[Nature::FallsSilent(silent_at)]);
        world.deposit_ms = Some(20_000);
        let last = Some(Departure::Lost);
        assert_eq!(world.run(), End::Broken { last });
        let left_at = world.now.0;
        assert!(left_at < left_by_ms, "{silent_at}: {left_at}");
    }
}

#[test]
fn a_deposit_is_not_waited_for_for_ever() {
    let mut world = World::new(&[Nature::Honest]);
    world.deposit_ms = Some(61_000);
    let last = Some(Departure::Lost);
    assert_eq!(world.run(), End::Broken { last });
}

#[test]
fn another_goes_on_where_one_fell_silent_and_both_are_paid() {
    let mut world = World::new(&[Nature::FallsSilent(20), Nature::Honest]);
    assert_eq!(world.run(), End::Stopped(StopReason::Length));
    world.holds("silent");
    assert_eq!(world.delivered.len(), OUTPUT_TOKENS as usize);
    // The first was charged for its part of 8 and of 16 tokens; what it delivered after that is on
    // the promise that stays on record.
    assert_eq!(world.settled[&1].1, 16);
    assert_eq!(world.settled[&2].1, 20);
    assert_eq!(world.left[0], (1, Departure::Lost));
    assert!(world.waits <= patience().stall_ms, "{} ms", world.waits);
}

#[test]
fn a_busy_provider_that_says_so_is_waited_for_but_not_for_ever() {
    let mut world = World::new(&[Nature::IsBusyFor(12), Nature::Honest]);
    assert_eq!(world.run(), End::Stopped(StopReason::Length));
    world.holds("busy");
    assert_eq!(world.left, [(1, Departure::Done)]);

    let mut world = World::new(&[Nature::IsBusyFor(100), Nature::Honest]);
    assert_eq!(world.run(), End::Stopped(StopReason::Length));
    world.holds("busy for ever");
    assert_eq!(world.left[0], (1, Departure::Lost));
    assert!(
        world.now.0 <= patience().queue_ms + 2_000,
        "{:?}",
        world.now
    );
}

#[test]
fn a_device_that_is_gone_is_left_at_once_where_another_can_go_on() {
    let mut world = World::new(&[Nature::Vanishes(20), Nature::Honest]);
    assert_eq!(world.run(), End::Stopped(StopReason::Length));
    world.holds("gone");
    assert_eq!(world.left[0], (1, Departure::Lost));
    assert_eq!(world.waits, 0);
    // The last one is waited for as long as one that is slow.
    let mut last = World::new(&[Nature::Vanishes(20)]);
    assert!(matches!(last.run(), End::Broken { .. }));
    assert!(last.now.0 >= patience().stall_ms, "{:?}", last.now);
}

#[test]
fn a_fault_of_the_question_that_this_device_found_asks_nobody_else() {
    for numbers in [
        vec![None],
        vec![None, Some(2), Some(3)],
        vec![Some(2), None, Some(3)],
    ] {
        let candidates = numbers.iter().map(|number| Candidate {
            device: number.map(|number| DeviceId([number; 32])),
            ..candidate(number.unwrap_or(9))
        });
        let mut answer = Asking::new(question(), candidates.collect(), patience());
        let mut out = Vec::new();
        answer.start(Timestamp(0), &mut out);
        while !matches!(out.last(), Some(AskingEffect::Make(_))) {
            answer.handle(Timestamp(0), AskingEvent::NotOpened, &mut out);
        }
        out.clear();
        let why = "the grammar cannot be compiled".to_owned();
        answer.handle(Timestamp(0), AskingEvent::Faulty(why.clone()), &mut out);
        assert!(answer.has_ended());
        let left = |effect: &AskingEffect| {
            matches!(
                effect,
                AskingEffect::Leave {
                    why: Departure::Faulty(_),
                    ..
                }
            )
        };
        assert!(out.iter().any(left), "{out:?}");
        let last = Some(Departure::Faulty(why));
        assert_eq!(out.last(), Some(&AskingEffect::Ended(End::Broken { last })));
        assert!(
            !out.iter()
                .any(|effect| matches!(effect, AskingEffect::Open { .. }))
        );
    }
}

#[test]
fn a_provider_that_finds_a_fault_with_every_question_is_passed_over() {
    use crate::answer::frame::RefusalCode;
    for code in [
        RefusalCode::BadGrammar,
        RefusalCode::BadRequest,
        RefusalCode::TooLong,
    ] {
        let mut answer = Asking::new(question(), vec![candidate(1), candidate(2)], patience());
        let mut out = Vec::new();
        answer.start(Timestamp(0), &mut out);
        let payment = Some(Vec::new().into());
        let deposits = false;
        answer.handle(
            Timestamp(0),
            AskingEvent::Opened { payment, deposits },
            &mut out,
        );
        let refusal = Refusal {
            code,
            field: None,
            retry_after_ms: None,
            message: "no".to_owned(),
        };
        answer.handle(
            Timestamp(0),
            frame(ProviderFrame::Refused(refusal)),
            &mut out,
        );
        assert!(!answer.has_ended());
        let next = matches!(out.last(), Some(AskingEffect::Open { candidate, .. }) if candidate.device == Some(DeviceId([2; 32])));
        assert!(next, "{code:?}: {out:?}");
    }
}

#[test]
fn with_nobody_left_the_answer_says_so_and_keeps_what_came() {
    let mut world = World::new(&[Nature::BreaksOff(5)]);
    let end = world.run();
    assert_eq!(
        end,
        End::Broken {
            last: Some(Departure::Lost)
        }
    );
    assert_eq!(world.delivered.len(), 5);
    let mut nobody = World::new(&[]);
    assert_eq!(nobody.run(), End::Broken { last: None });
}

#[test]
fn whoever_cancels_pays_for_what_was_delivered() {
    let mut world = World::new(&[Nature::Honest]);
    while world.delivered.len() < 3 {
        let effects = std::mem::take(&mut world.effects);
        effects.into_iter().for_each(|effect| world.perform(effect));
        if world.effects.is_empty() {
            let event = world.at.as_mut().and_then(Provider::act).unwrap();
            world.tell(event);
        }
    }
    world.tell(AskingEvent::Cancel);
    assert_eq!(world.run(), End::Cancelled);
    let delivered = count(world.delivered.len());
    let cost = price().cost(count(PROMPT.len()), delivered);
    assert_eq!(world.settled[&1], (cost, delivered));
    assert_eq!(world.left, [(1, Departure::Cancelled)]);
}

#[test]
fn a_limit_of_the_household_ends_the_answer() {
    let mut world = World::new(&[Nature::Honest, Nature::Honest]);
    while world.delivered.len() < 3 {
        let effects = std::mem::take(&mut world.effects);
        effects.into_iter().for_each(|effect| world.perform(effect));
        if world.effects.is_empty() {
            let event = world.at.as_mut().and_then(Provider::act).unwrap();
            world.tell(event);
        }
    }
    world.tell(AskingEvent::NotPaid("the limit of a day".to_owned()));
    let last = Some(Departure::NotPaid("the limit of a day".to_owned()));
    assert_eq!(world.run(), End::Broken { last });
}

#[test]
fn a_correction_before_the_question_is_accepted_is_answered_by_another_promise() {
    let mut answer = Asking::new(question(), vec![candidate(1)], patience());
    let mut out = Vec::new();
    answer.start(Timestamp(0), &mut out);
    let opened = AskingEvent::Opened {
        payment: Some(vec![1].into()),
        deposits: false,
    };
    answer.handle(Timestamp(0), opened, &mut out);
    out.clear();
    let corrected = frame(ProviderFrame::PaymentRequired(vec![7].into()));
    answer.handle(Timestamp(1), corrected, &mut out);
    let promise = price().cost(count(PROMPT.len()), 16);
    let required = vec![7].into();
    assert_eq!(out, [AskingEffect::Correct { required, promise }]);
    out.clear();
    answer.handle(Timestamp(2), promised(false), &mut out);
    assert_eq!(out, [AskingEffect::Send(PayerFrame::Pay(vec![2].into()))]);
}

#[test]
fn lies_are_told_from_bad_luck() {
    let cases = [
        (Nature::SendsGarbage(3), AnswerDistrust::Garbage),
        (Nature::SkipsToken(3), AnswerDistrust::WrongTokens),
        (Nature::RepeatsToken(3), AnswerDistrust::WrongTokens),
        (Nature::Overcharges, AnswerDistrust::Overcharged),
        (Nature::SignsWithAnotherKey, AnswerDistrust::WrongSigner),
        (Nature::MiscountsReceipt, AnswerDistrust::WrongReceipt),
        (Nature::ForgetsTheNoise, AnswerDistrust::WrongReceipt),
        (Nature::EndsEarly(3), AnswerDistrust::EndedEarly),
    ];
    for (nature, distrust) in cases {
        let mut world = World::new(&[nature, Nature::Honest]);
        assert_eq!(world.run(), End::Stopped(StopReason::Length), "{nature:?}");
        assert_eq!(
            world.left[0],
            (1, Departure::Distrusted(distrust)),
            "{nature:?}"
        );
        world.holds(&format!("{nature:?}"));
    }
}

fn nature() -> impl Strategy<Value = Nature> {
    let at = 0..OUTPUT_TOKENS;
    prop_oneof![
        Just(Nature::Honest),
        Just(Nature::Unreachable),
        Just(Nature::Refuses),
        at.clone().prop_map(Nature::FallsSilent),
        at.clone().prop_map(Nature::Vanishes),
        at.clone().prop_map(Nature::BreaksOff),
        at.clone().prop_map(Nature::SendsGarbage),
        at.clone().prop_map(Nature::SkipsToken),
        at.clone().prop_map(Nature::RepeatsToken),
        Just(Nature::Overcharges),
        Just(Nature::SignsWithAnotherKey),
        Just(Nature::MiscountsReceipt),
        Just(Nature::ForgetsTheNoise),
        at.clone().prop_map(Nature::EndsEarly),
        at.prop_map(Nature::OwnerReturns),
        Just(Nature::NeverReadsThePrompt),
        Just(Nature::RepeatsProgress),
        (0..30_u32).prop_map(Nature::IsBusyFor),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn whatever_providers_do_the_answer_is_whole_or_says_that_it_is_not(
        natures in prop::collection::vec(nature(), 0..6),
        deposit_ms in prop::option::of(0..50_000_u64),
    ) {
        let mut world = World::new(&natures);
        world.deposit_ms = deposit_ms;
        let end = world.run();
        let seen = format!("{natures:?}");
        world.holds(&seen);
        match end {
            End::Stopped(_) => prop_assert_eq!(world.delivered.len(), OUTPUT_TOKENS as usize),
            End::Broken { .. } => prop_assert!(!natures.contains(&Nature::Honest)),
            End::Cancelled => prop_assert!(false, "nobody cancelled"),
        }
    }
}
