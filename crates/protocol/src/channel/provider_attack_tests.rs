//! Strangers who have every voucher and refund that was ever public, against one channel.
//!
//! A stranger has no key: it can only present what others signed. Whatever happens on the channel,
//! it is served nothing, moves nothing on chain, and changes no figure; and the payer, which signs
//! anew, is served and refunded all the same.

use super::*;

/// What the channel holds at first.
const FUNDS: u128 = 1_000_000_000;

/// What is done with a voucher that somebody else signed.
#[derive(Debug, Clone)]
enum Use {
    Pay { ceiling: prop::sample::Index },
    PayAfterDeposit,
    Refund { amount: Option<u128> },
}

#[derive(Debug, Clone)]
enum Step {
    /// The payer asks so many times at once, with a ceiling of so many needs.
    Ask {
        at_once: u8,
        room: u8,
    },
    Finish(prop::sample::Index, u128),
    Fail(prop::sample::Index),
    /// The provider claims; or it is killed after it noted that it would.
    Claim {
        killed: bool,
    },
    /// A claim is handed to a watchtower.
    HandOver,
    Refund {
        amount: Option<u128>,
    },
    Crash,
    Later {
        ms: u64,
    },
    Attack(prop::sample::Index, Use),
}

fn using() -> impl Strategy<Value = Use> {
    prop_oneof![
        3 => any::<prop::sample::Index>().prop_map(|ceiling| Use::Pay { ceiling }),
        1 => Just(Use::PayAfterDeposit),
        2 => prop::option::of(1_u128..500).prop_map(|amount| Use::Refund { amount }),
    ]
}

fn steps() -> impl Strategy<Value = Step> {
    let pick = any::<prop::sample::Index>;
    prop_oneof![
        6 => (1_u8..5, 1_u8..6).prop_map(|(at_once, room)| Step::Ask { at_once, room }),
        6 => (pick(), 0..=NEED).prop_map(|(index, cost)| Step::Finish(index, cost)),
        1 => pick().prop_map(Step::Fail),
        2 => any::<bool>().prop_map(|killed| Step::Claim { killed }),
        1 => Just(Step::HandOver),
        1 => prop::option::of(1_u128..500).prop_map(|amount| Step::Refund { amount }),
        1 => Just(Step::Crash),
        1 => (0..2 * TRANSIT_MS_MAX).prop_map(|ms| Step::Later { ms }),
        6 => (pick(), using()).prop_map(|(index, using)| Step::Attack(index, using)),
    ]
}

struct World {
    desk: Desk,
    chain: OnchainState,
    /// What the payer believes that it was charged, and what it paid for in truth.
    view: u128,
    owed: u128,
    working: Vec<RequestId>,
    strangers: BTreeSet<RequestId>,
    public: BTreeSet<u128>,
}

impl World {
    fn new() -> Self {
        Self {
            desk: Desk::funded(FUNDS),
            chain: onchain(FUNDS, 0),
            view: 0,
            owed: 0,
            working: Vec::new(),
            strangers: BTreeSet::new(),
            public: BTreeSet::new(),
        }
    }

    /// Looks at what the provider does, and answers it.
    fn heed(&mut self, out: Vec<ChannelEffect>) -> Vec<ChannelEffect> {
        let mut all = Vec::new();
        let mut pending = VecDeque::from(out);
        while let Some(effect) = pending.pop_front() {
            match &effect {
                ChannelEffect::ReadChain => pending.extend(self.desk.read(self.chain)),
                ChannelEffect::Admit { request } => {
                    assert!(!self.strangers.contains(request), "a stranger was admitted");
                    self.working.push(*request);
                }
                ChannelEffect::SendDeposit { .. } => panic!("gas was spent on a deposit"),
                ChannelEffect::SendRefund {
                    request,
                    claim,
                    amount: returned,
                    ..
                } => {
                    assert!(!self.strangers.contains(request), "a stranger's refund");
                    if let Some(row) = claim {
                        self.chain.total_claimed = row.total_claimed;
                        self.public.insert(row.voucher.max_claimable_amount.units());
                    }
                    self.chain.balance = self.chain.balance.saturating_sub(*returned);
                    let done = self.desk.done("0xcd", returned.units(), self.chain);
                    let (request, outcome) = (*request, Ok(done));
                    let done = self.desk.handle(ChannelEvent::Done { request, outcome });
                    pending.extend(done);
                }
                ChannelEffect::Charged { statement, .. } => {
                    let charged = statement.charge.charged_amount.unwrap().units();
                    self.view += charged;
                }
                _ => {}
            }
            all.push(effect);
        }
        all
    }

    fn send(&mut self, payment: CheckedPayment, ceiling: u128) -> (RequestId, Vec<ChannelEffect>) {
        let (request, out) = self.desk.send(payment, ceiling, NEED.min(ceiling));
        (request, self.heed(out))
    }

    fn ask(&mut self, at_once: u8, room: u8) {
        let ceiling = NEED * u128::from(room);
        let max = self.view + ceiling;
        if self.chain.balance < amount(2 * max) {
            // Everything was returned: the payer deposits once more, by a transaction of its own.
            self.chain.balance = self.chain.balance.saturating_add(amount(FUNDS));
        }
        for _ in 0..at_once {
            let (request, out) = self.send(payment(max, PaymentKind::Voucher), ceiling);
            if admits(&out, request) || refusal(&out).is_none() {
                continue;
            }
            // A client that can read the chain follows a correction once.
            self.correct(&out);
            let max = self.view + ceiling;
            let (request, out) = self.send(payment(max, PaymentKind::Voucher), ceiling);
            let is_served = admits(&out, request) || refusal(&out).is_none();
            assert!(is_served, "the payer is shut out: {out:?}");
        }
    }

    fn correct(&mut self, out: &[ChannelEffect]) {
        let Some(ChannelEffect::Refuse {
            correction: Some(correction),
            ..
        }) = out.last()
        else {
            panic!("{out:?}")
        };
        let figure = correction.channel.charged_cumulative_amount;
        self.view = figure.unwrap().units();
        let promised = correction.voucher.as_ref();
        let promised = promised.map_or(0, |voucher| voucher.signed_max_claimable.units());
        assert!(
            self.view <= promised,
            "a correction that no client believes"
        );
    }

    fn finish(&mut self, index: &prop::sample::Index, cost: Option<u128>) {
        if self.working.is_empty() {
            return;
        }
        let request = self.working.swap_remove(index.index(self.working.len()));
        let event = match cost {
            Some(cost) => ChannelEvent::Charge {
                request,
                amount: amount(cost),
            },
            None => ChannelEvent::Abort { request },
        };
        self.owed += cost.unwrap_or(0);
        let out = self.desk.handle(event);
        self.heed(out);
    }

    fn claim(&mut self, lands: bool) {
        let Some(row) = self.desk.durable.claim_row() else {
            return;
        };
        let max_claimable = row.voucher.max_claimable_amount;
        let out = self.desk.handle(ChannelEvent::Publish { max_claimable });
        self.heed(out);
        self.public.insert(max_claimable.units());
        if lands {
            self.chain.total_claimed = row.total_claimed;
            let out = self.desk.read(self.chain);
            self.heed(out);
        }
    }

    fn refund(&mut self, wanted: Option<u128>) {
        if !self.working.is_empty() {
            return;
        }
        let kind = PaymentKind::Refund(wanted.map(amount));
        for _ in 0..2 {
            let max = self.view;
            let (_, out) = self.send(payment(max, kind.clone()), 0);
            match refusal(&out) {
                None => {
                    self.public.insert(max);
                    return;
                }
                Some(ErrorCode::CumulativeMismatch) => self.correct_refund(&out),
                Some(ErrorCode::ChannelBusy | ErrorCode::RefundNoBalance) => return,
                Some(code) => panic!("{code}"),
            }
        }
    }

    fn correct_refund(&mut self, out: &[ChannelEffect]) {
        let correction = out.iter().find_map(|effect| match effect {
            ChannelEffect::Refuse { correction, .. } => correction.clone(),
            _ => None,
        });
        let figure = correction.unwrap().channel.charged_cumulative_amount;
        self.view = figure.unwrap().units();
    }

    fn crash(&mut self) {
        self.working.clear();
        self.desk.crash();
    }

    fn attack(&mut self, index: &prop::sample::Index, using: &Use) {
        if self.public.is_empty() {
            return;
        }
        let max = *self
            .public
            .iter()
            .nth(index.index(self.public.len()))
            .unwrap();
        let charged = self.desk.channel.record.charged;
        let (ceiling, kind) = match using {
            Use::Pay { ceiling } => (
                ceiling.index(max as usize + 1) as u128,
                PaymentKind::Voucher,
            ),
            Use::PayAfterDeposit => (max.min(NEED), deposit(5_000)),
            Use::Refund { amount: wanted } => (0, PaymentKind::Refund(wanted.map(amount))),
        };
        self.strangers.insert(RequestId(self.desk.next + 1));
        let (_, out) = self.send(payment(max, kind), ceiling);
        let refused = refusal(&out);
        assert!(refused.is_some(), "{using:?} of {max}: {out:?}");
        assert_eq!(self.desk.channel.record.charged, charged);
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Ask { at_once, room } => self.ask(*at_once, *room),
            Step::Finish(index, cost) => self.finish(index, Some(*cost)),
            Step::Fail(index) => self.finish(index, None),
            Step::Claim { killed } => {
                self.claim(!killed);
                if *killed {
                    self.crash();
                }
            }
            Step::HandOver => self.claim(false),
            Step::Refund { amount } => self.refund(*amount),
            Step::Crash => self.crash(),
            Step::Later { ms } => {
                self.desk.now = self.desk.now.plus_ms(*ms);
                let out = self.desk.handle(ChannelEvent::Tick);
                self.heed(out);
            }
            Step::Attack(index, using) => self.attack(index, using),
        }
    }

    fn check(&self) {
        let record = &self.desk.durable;
        let is_noted = |max: &u128| record.spread.public.contains(amount(*max));
        assert!(self.public.iter().all(is_noted), "what is public is noted");
        let charged = self.desk.channel.record.charged;
        assert_eq!(charged, amount(self.owed), "the payer pays for its own");
    }
}

proptest! {
    #[test]
    fn strangers_with_all_that_is_public_gain_nothing_and_change_nothing(
        steps in prop::collection::vec(steps(), 1..150),
    ) {
        let mut world = World::new();
        for step in &steps {
            world.take(step);
            world.check();
        }
    }
}

#[test]
fn a_voucher_from_a_claim_starts_nothing_though_it_has_room() {
    let mut desk = Desk::funded(100_000);
    let (request, _) = desk.pay(1_000, 1_000, 100);
    desk.charge(request, 100);
    let row = desk.durable.claim_row().unwrap();
    let max_claimable = row.voucher.max_claimable_amount;
    let out = desk.handle(ChannelEvent::Publish { max_claimable });
    assert!(
        matches!(out.as_slice(), [ChannelEffect::Persist(_)]),
        "{out:?}"
    );
    // Whatever ceiling the stranger names, at once or later, before or after a crash.
    for round in 0..3 {
        for ceiling in [1_000, 900, 500, 100] {
            let (_, out) = desk.pay(1_000, ceiling, 100);
            let code = Some(ErrorCode::CumulativeMismatch);
            assert_eq!(refusal(&out), code, "round {round}, ceiling {ceiling}");
        }
        let (_, out) = desk.send(payment(1_000, deposit(5_000)), 1_000, 100);
        assert_eq!(
            refusal(&out),
            Some(ErrorCode::CumulativeMismatch),
            "{out:?}"
        );
        match round {
            0 => desk.now = desk.now.plus_ms(WAIT_MS_MAX),
            _ => desk.crash(),
        }
    }
    let (request, out) = desk.pay(1_100, 1_000, 100);
    assert!(admits(&out, request), "the payer signs anew: {out:?}");
}

#[test]
fn requests_that_wait_when_their_voucher_is_claimed_are_served() {
    let mut desk = Desk::funded(100_000);
    let requests: Vec<_> = (0..3).map(|_| desk.pay(1_000, 1_000, 400)).collect();
    let (third, out) = &requests[2];
    assert!(!admits(out, *third) && refusal(out).is_none(), "{out:?}");
    let max_claimable = amount(1_000);
    desk.handle(ChannelEvent::Publish { max_claimable });
    let out = desk.handle(ChannelEvent::Charge {
        request: requests[0].0,
        amount: amount(100),
    });
    assert!(admits(&out, *third), "{out:?}");
}

#[test]
fn headroom_ends_when_nothing_is_in_flight_any_more() {
    let mut desk = Desk::funded(100_000);
    let (first, _) = desk.pay(1_000, 1_000, 100);
    let (second, out) = desk.pay(1_000, 1_000, 100);
    assert!(admits(&out, second));
    desk.charge(first, 100);
    desk.now = desk.now.plus_ms(10 * TRANSIT_MS_MAX);
    let (third, out) = desk.pay(1_000, 1_000, 100);
    assert!(admits(&out, third), "the second is still worked on");
    desk.charge(second, 100);
    desk.charge(third, 100);
    let (fourth, out) = desk.pay(1_000, 1_000, 100);
    assert!(admits(&out, fourth), "its reply may still be on its way");
    desk.charge(fourth, 100);
    desk.now = desk.now.plus_ms(TRANSIT_MS_MAX);
    let (_, out) = desk.pay(1_000, 1_000, 100);
    assert_eq!(refusal(&out), Some(ErrorCode::CumulativeMismatch));
    // A payer that forgot everything signs a deposit, which nobody else can.
    let (again, out) = desk.send(payment(1_000, deposit(5_000)), 1_000, 100);
    assert!(
        matches!(out.as_slice(), [ChannelEffect::SendDeposit { .. }]),
        "{out:?}"
    );
    let done = desk.done("0xab", 5_000, onchain(105_000, 0));
    let out = desk.handle(ChannelEvent::Done {
        request: again,
        outcome: Ok(done),
    });
    assert!(admits(&out, again), "{out:?}");
}

#[test]
fn a_claim_gives_away_the_lowest_voucher_that_covers_it_and_no_second_one() {
    let mut desk = Desk::funded(100_000);
    for (max, ceiling, cost) in [(3_000, 3_000, 10), (110, 100, 10), (1_020, 1_000, 10)] {
        let (request, out) = desk.pay(max, ceiling, 100);
        assert!(admits(&out, request), "{max}: {out:?}");
        desk.charge(request, cost);
    }
    let claimed_with = |desk: &Desk| {
        let row = desk.durable.claim_row().unwrap();
        (row.voucher.max_claimable_amount, row.total_claimed)
    };
    assert_eq!(claimed_with(&desk), (amount(110), amount(30)));
    let max_claimable = amount(110);
    desk.handle(ChannelEvent::Publish { max_claimable });
    let (request, _) = desk.pay(130, 100, 100);
    desk.charge(request, 70);
    assert_eq!(
        claimed_with(&desk),
        (amount(110), amount(100)),
        "public anyway"
    );
    let (request, _) = desk.pay(200, 100, 100);
    desk.charge(request, 20);
    assert_eq!(claimed_with(&desk), (amount(130), amount(120)));
}

#[test]
fn a_refund_is_signed_for_exactly_what_was_charged_and_serves_once() {
    let mut desk = Desk::funded(10_000);
    let (request, _) = desk.pay(1_000, 1_000, 500);
    desk.charge(request, 500);
    for max in [0, 1, 499, 501, 1_000] {
        desk.send(payment(max, PaymentKind::Refund(None)), 0, 0);
        let out = desk.read(onchain(10_000, 0));
        assert_eq!(refusal(&out), Some(ErrorCode::CumulativeMismatch), "{max}");
    }
    let part = PaymentKind::Refund(Some(amount(100)));
    let (refund, _) = desk.send(payment(500, part.clone()), 0, 0);
    let out = desk.read(onchain(10_000, 0));
    let is_sent = |effect: &ChannelEffect| matches!(effect, ChannelEffect::SendRefund { .. });
    assert!(out.iter().any(is_sent), "{out:?}");
    let done = desk.done("0xcd", 100, onchain(9_900, 500));
    desk.handle(ChannelEvent::Done {
        request: refund,
        outcome: Ok(done),
    });
    desk.crash();
    for kind in [part, PaymentKind::Refund(None)] {
        let (_, out) = desk.send(payment(500, kind), 0, 0);
        assert_eq!(
            refusal(&out),
            Some(ErrorCode::CumulativeMismatch),
            "{out:?}"
        );
    }
    // The correction names a figure that only the payer can sign.
    let (_, out) = desk.send(payment(500, PaymentKind::Refund(None)), 0, 0);
    let Some(ChannelEffect::Refuse {
        correction: Some(correction),
        ..
    }) = out.last()
    else {
        panic!("{out:?}")
    };
    let figure = correction.channel.charged_cumulative_amount.unwrap();
    assert_eq!(figure, amount(501));
    desk.send(payment(501, PaymentKind::Refund(None)), 0, 0);
    let out = desk.read(onchain(9_900, 500));
    let Some(ChannelEffect::SendRefund { amount: left, .. }) = out.last() else {
        panic!("{out:?}")
    };
    assert_eq!(
        *left,
        amount(9_400),
        "it pays for nothing more than was charged"
    );
}

#[test]
fn refunds_of_one_channel_are_few_however_well_they_are_signed() {
    let mut desk = Desk::funded(100_000);
    let mut balance = 100_000;
    for round in 0..=REFUNDS_MAX {
        let (request, out) = desk.pay(100 * (round as u128 + 1), 100, 100);
        assert!(admits(&out, request));
        desk.charge(request, 100);
        let charged = 100 * (round as u128 + 1);
        let part = PaymentKind::Refund(Some(amount(1)));
        let (refund, _) = desk.send(payment(charged, part), 0, 0);
        let out = desk.read(onchain(balance, 0));
        if round == REFUNDS_MAX {
            assert_eq!(refusal(&out), Some(ErrorCode::ChannelBusy));
            return;
        }
        balance -= 1;
        let done = desk.done("0xcd", 1, onchain(balance, 0));
        desk.handle(ChannelEvent::Done {
            request: refund,
            outcome: Ok(done),
        });
    }
}

/// A channel of 10,000 of which all that is not charged was asked back; and that request.
fn refunding() -> (Desk, RequestId) {
    let mut desk = Desk::funded(10_000);
    let (request, _) = desk.pay(1_000, 1_000, 1_000);
    desk.charge(request, 1_000);
    let (refund, _) = desk.send(payment(1_000, PaymentKind::Refund(None)), 0, 0);
    let out = desk.read(onchain(10_000, 0));
    let Some(ChannelEffect::SendRefund { amount: left, .. }) = out.last() else {
        panic!("{out:?}")
    };
    assert_eq!(*left, amount(9_000));
    (desk, refund)
}

fn is_short_of_funds(desk: &mut Desk, state: OnchainState) -> bool {
    desk.next += 1;
    let request = RequestId(desk.next);
    let quote = Quote {
        ceiling: amount(100),
        need: amount(100),
        least_deposit: Amount::ZERO,
    };
    let payment = Box::new(payment(1_100, PaymentKind::Voucher));
    let mut out = desk.handle(ChannelEvent::Pay {
        request,
        payment,
        quote,
    });
    if out.contains(&ChannelEffect::ReadChain) {
        out = desk.read(state);
    }
    assert!(admits(&out, request) || refusal(&out).is_some(), "{out:?}");
    refusal(&out) == Some(ErrorCode::CumulativeExceedsBalance)
}

#[test]
fn a_refund_that_was_signed_backs_no_work_after_a_crash() {
    let (mut desk, _) = refunding();
    desk.crash();
    assert!(is_short_of_funds(&mut desk, onchain(10_000, 0)));
    // It is used: what the chain has counts, be it that the payer deposited once more.
    let used = OnchainState {
        refund_nonce: U256::from(1),
        ..onchain(2_000, 1_000)
    };
    desk.read(used);
    assert!(!is_short_of_funds(&mut desk, used));
}

#[test]
fn a_refund_whose_transaction_failed_backs_no_work_and_may_be_asked_for_again() {
    let (mut desk, request) = refunding();
    let outcome = Err(ErrorCode::RefundTransaction);
    let out = desk.handle(ChannelEvent::Done { request, outcome });
    assert!(
        out.contains(&ChannelEffect::ReadChain),
        "its claim may be undone"
    );
    desk.read(onchain(10_000, 0));
    assert!(is_short_of_funds(&mut desk, onchain(10_000, 0)));
    let part = PaymentKind::Refund(Some(amount(9_000)));
    let (_, out) = desk.send(payment(1_000, part.clone()), 0, 0);
    assert_eq!(refusal(&out), Some(ErrorCode::CumulativeMismatch), "public");
    let figure = desk.channel.figure_for_refund().units();
    desk.send(payment(figure, part), 0, 0);
    let out = desk.read(onchain(10_000, 0));
    let is_sent = |effect: &ChannelEffect| matches!(effect, ChannelEffect::SendRefund { .. });
    assert!(out.iter().any(is_sent), "{out:?}");
}

#[test]
fn a_refund_that_never_left_takes_nothing_from_the_channel() {
    for code in [ErrorCode::RefundAmount, ErrorCode::ChannelBusy] {
        let (mut desk, request) = refunding();
        let outcome = Err(code);
        desk.handle(ChannelEvent::Done { request, outcome });
        assert!(!is_short_of_funds(&mut desk, onchain(10_000, 0)), "{code}");
    }
}

#[test]
fn a_deposit_below_the_least_is_refused_before_anything_is_asked_of_the_chain() {
    let mut desk = Desk::funded(100);
    desk.next += 1;
    let request = RequestId(desk.next);
    let out = desk.handle(ChannelEvent::Pay {
        request,
        payment: Box::new(payment(1_000, deposit(4_999))),
        quote: Quote {
            ceiling: amount(1_000),
            need: amount(1_000),
            least_deposit: amount(5_000),
        },
    });
    assert_eq!(refusal(&out), Some(ErrorCode::DepositPayload));
    assert_eq!(out.len(), 1, "{out:?}");
}

#[test]
fn the_halves_of_a_request_hold_together_what_the_whole_held() {
    let mut desk = Desk::funded(10_000);
    let (first, _) = desk.pay(1_000, 1_000, 1_000);
    let rest = RequestId(900);
    let out = desk.handle(ChannelEvent::Split {
        request: first,
        rest,
        need: amount(400),
    });
    assert_eq!(out, []);
    desk.handle(ChannelEvent::Publish {
        max_claimable: amount(1_000),
    });
    assert_eq!(desk.charge(first, 1_000).0, 600);
    assert_eq!(desk.charge(rest, 1_000).0, 400);
}

#[test]
fn nothing_is_admitted_on_old_knowledge() {
    let start = || Desk::funded(10_000);
    // A follower that is silent for too long, on a chain that was read long ago.
    let mut desk = start();
    let long_ago = desk.sight();
    desk.now = desk.now.plus_ms(HEARD_MS_MAX);
    let (now, request) = (desk.now, RequestId(1));
    let heard = Some(long_ago);
    let quote = Quote {
        ceiling: amount(100),
        need: amount(100),
        least_deposit: Amount::ZERO,
    };
    let pay = |request| ChannelEvent::Pay {
        request,
        payment: Box::new(payment(100, PaymentKind::Voucher)),
        quote,
    };
    let out = desk.handle_at(Moment { now, heard }, pay(request));
    assert_eq!(out, [ChannelEffect::ReadChain]);
    let out = desk.handle_at(Moment { now, heard }, ChannelEvent::ReadFailed);
    assert_eq!(refusal(&out), Some(ErrorCode::ChannelStateRead));
    // The channel was emptied meanwhile.
    let out = desk.handle_at(Moment { now, heard }, pay(RequestId(2)));
    assert_eq!(out, [ChannelEffect::ReadChain]);
    let sight = desk.sight();
    let state = onchain(0, 0);
    let out = desk.handle_at(
        Moment { now, heard },
        ChannelEvent::Onchain { state, sight },
    );
    assert_eq!(refusal(&out), Some(ErrorCode::CumulativeExceedsBalance));
    // A chain that stands still.
    let mut desk = start();
    desk.now = desk.now.plus_ms(450_000);
    let now = desk.now;
    let still = Sight {
        asked_at: now,
        block_at: Some(long_ago.asked_at),
    };
    let heard = Some(still);
    desk.handle_at(Moment { now, heard }, pay(RequestId(3)));
    let state = onchain(10_000, 0);
    let out = desk.handle_at(
        Moment { now, heard },
        ChannelEvent::Onchain {
            state,
            sight: still,
        },
    );
    assert_eq!(refusal(&out), Some(ErrorCode::ChannelStateRead));
}

#[test]
fn a_record_from_before_this_start_is_read_before_it_counts() {
    let mut record = ProviderRecord::new(config());
    record.onchain = Some(onchain(10_000, 0));
    let mut channel = ProviderChannel::restored(ChannelId(B256::ZERO), record.clone());
    let heard = Some(Sight {
        asked_at: NOW,
        block_at: Some(NOW),
    });
    let pay = ChannelEvent::Pay {
        request: RequestId(1),
        payment: Box::new(payment(100, PaymentKind::Voucher)),
        quote: Quote {
            ceiling: amount(100),
            need: amount(100),
            least_deposit: Amount::ZERO,
        },
    };
    let mut out = Vec::new();
    channel.handle(Moment { now: NOW, heard }, pay.clone(), &mut out);
    assert_eq!(out, [ChannelEffect::ReadChain]);
    // One that this process let go counts as far as its follower heard.
    let mut channel = ProviderChannel::resumed(ChannelId(B256::ZERO), record);
    out.clear();
    channel.handle(Moment { now: NOW, heard }, pay, &mut out);
    assert_eq!(out.len(), 1);
    assert!(matches!(out[0], ChannelEffect::Admit { .. }), "{out:?}");
}
