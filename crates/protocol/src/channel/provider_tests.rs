use std::collections::BTreeSet;

use alloy_primitives::{Address, B256};
use proptest::prelude::*;

use super::*;
use crate::eip712::ChannelConfig;
use crate::signature::Signature;
use crate::x402::Erc3009Authorization;

const NOW: Timestamp = Timestamp(1_000_000);

fn amount(units: u128) -> Amount {
    Amount::new(units)
}

fn config() -> ChannelConfig {
    ChannelConfig {
        payer: Address::repeat_byte(1),
        payer_authorizer: Address::repeat_byte(2),
        receiver: Address::repeat_byte(3),
        receiver_authorizer: Address::repeat_byte(4),
        token: Address::repeat_byte(5),
        withdraw_delay: 900,
        salt: B256::ZERO,
    }
}

/// A signature that is well formed; the machine gets payments whose signatures were checked.
fn signature() -> Signature {
    let mut bytes = [1; 65];
    bytes[64] = 27;
    Signature::from_bytes(&bytes).unwrap()
}

fn payment(max: u128, kind: PaymentKind) -> CheckedPayment {
    CheckedPayment {
        channel: ChannelId(B256::ZERO),
        config: config(),
        voucher: Voucher {
            max_claimable: amount(max),
            signature: signature(),
        },
        kind,
    }
}

fn deposit(units: u128) -> PaymentKind {
    PaymentKind::Deposit(CheckedDeposit {
        amount: amount(units),
        authorization: Erc3009Authorization {
            valid_after: 0,
            valid_before: u64::MAX,
            salt: U256::ZERO,
            signature: signature().as_bytes().to_vec().into(),
        },
    })
}

fn onchain(balance: u128, claimed: u128) -> OnchainState {
    OnchainState {
        balance: amount(balance),
        total_claimed: amount(claimed),
        ..OnchainState::default()
    }
}

/// A channel with a ledger of what was done, and the record that would survive a crash now.
struct Desk {
    channel: ProviderChannel,
    durable: ProviderRecord,
    next: u64,
    now: Timestamp,
}

impl Desk {
    fn funded(balance: u128) -> Self {
        let mut record = ProviderRecord::new(config());
        record.onchain = Some(onchain(balance, 0));
        Self::with(record)
    }

    /// A desk that starts with this record, and reads the chain once where it knows the channel.
    fn with(record: ProviderRecord) -> Self {
        let id = ChannelId(B256::ZERO);
        let known = record.onchain;
        let mut desk = Self {
            channel: ProviderChannel::restored(id, record.clone()),
            durable: record,
            next: 0,
            now: NOW,
        };
        if let Some(state) = known {
            desk.read(state);
        }
        desk
    }

    /// What the chain has now.
    fn sight(&self) -> Sight {
        Sight {
            asked_at: self.now,
            block_at: Some(self.now),
        }
    }

    fn read(&mut self, state: OnchainState) -> Vec<ChannelEffect> {
        let sight = self.sight();
        self.handle(ChannelEvent::Onchain { state, sight })
    }

    fn done(&self, transaction: &str, units: u128, onchain: OnchainState) -> Transacted {
        Transacted {
            transaction: transaction.to_owned(),
            amount: amount(units),
            onchain,
            sight: self.sight(),
        }
    }

    /// Handles an event while a follower is at the newest block.
    fn handle(&mut self, event: ChannelEvent) -> Vec<ChannelEffect> {
        let heard = Some(self.sight());
        self.handle_at(
            Moment {
                now: self.now,
                heard,
            },
            event,
        )
    }

    fn handle_at(&mut self, at: Moment, event: ChannelEvent) -> Vec<ChannelEffect> {
        let mut out = Vec::new();
        self.channel.handle(at, event, &mut out);
        for effect in &out {
            if let ChannelEffect::Persist(record) = effect {
                self.durable = (**record).clone();
            }
        }
        assert!(self.channel.record.charged <= self.channel.record.told);
        out
    }

    fn pay(&mut self, max: u128, ceiling: u128, need: u128) -> (RequestId, Vec<ChannelEffect>) {
        self.send(payment(max, PaymentKind::Voucher), ceiling, need)
    }

    fn send(
        &mut self,
        payment: CheckedPayment,
        ceiling: u128,
        need: u128,
    ) -> (RequestId, Vec<ChannelEffect>) {
        self.next += 1;
        let request = RequestId(self.next);
        let quote = Quote {
            ceiling: amount(ceiling),
            need: amount(need),
            least_deposit: Amount::ZERO,
        };
        (
            request,
            self.handle(ChannelEvent::Pay {
                request,
                payment: Box::new(payment),
                quote,
            }),
        )
    }

    fn charge(&mut self, request: RequestId, units: u128) -> (u128, Option<u128>) {
        let out = self.handle(ChannelEvent::Charge {
            request,
            amount: amount(units),
        });
        said(&out)
    }

    fn crash(&mut self) {
        self.channel = ProviderChannel::restored(ChannelId(B256::ZERO), self.durable.clone());
        if let Some(state) = self.durable.onchain {
            self.read(state);
        }
    }
}

/// What the one statement among the effects says: the charge, and the sum if it has one.
fn said(out: &[ChannelEffect]) -> (u128, Option<u128>) {
    let statement = out
        .iter()
        .find_map(|effect| match effect {
            ChannelEffect::Charged { statement, .. }
            | ChannelEffect::StateEarly { statement, .. } => Some(statement.clone()),
            _ => None,
        })
        .expect("a statement");
    let state = statement.charge.channel_state.unwrap();
    let sum = state.charged_cumulative_amount.map(Amount::units);
    (statement.charge.charged_amount.unwrap().units(), sum)
}

/// What the one statement among the effects says was charged in all.
fn total(out: &[ChannelEffect]) -> Option<u128> {
    let total = out.iter().find_map(|effect| match effect {
        ChannelEffect::Charged { statement, .. } | ChannelEffect::StateEarly { statement, .. } => {
            Some(statement.charge.charged_total)
        }
        _ => None,
    });
    total.expect("a statement").map(Amount::units)
}

/// What is said to a request that was alone.
fn stated(out: &[ChannelEffect]) -> (u128, u128) {
    let (charged, sum) = said(out);
    (charged, sum.expect("a lone request is told the sum"))
}

fn admits(out: &[ChannelEffect], request: RequestId) -> bool {
    out.contains(&ChannelEffect::Admit { request })
}

fn refusal(out: &[ChannelEffect]) -> Option<ErrorCode> {
    out.iter().find_map(|effect| match effect {
        ChannelEffect::Refuse { code, .. } => Some(*code),
        _ => None,
    })
}

#[test]
fn charge_and_voucher_are_durable_before_a_statement_and_work_waits_for_no_disk() {
    let mut desk = Desk::funded(10_000);
    let (request, out) = desk.pay(1_000, 1_000, 1_000);
    assert_eq!(out, [ChannelEffect::Admit { request }]);
    let out = desk.handle(ChannelEvent::Charge {
        request,
        amount: amount(137),
    });
    let [
        ChannelEffect::Persist(record),
        ChannelEffect::Charged { .. },
    ] = out.as_slice()
    else {
        panic!("{out:?}")
    };
    assert_eq!(record.voucher.unwrap().max_claimable, amount(1_000));
    assert_eq!(record.charged, amount(137));
    assert_eq!(stated(&out), (137, 137));
}

#[test]
fn what_the_headers_of_a_stream_state_is_durable_before_they_leave() {
    let mut desk = Desk::funded(10_000);
    let (request, _) = desk.pay(1_000, 1_000, 1_000);
    let out = desk.handle(ChannelEvent::StateEarly { request });
    let [
        ChannelEffect::Persist(record),
        ChannelEffect::StateEarly { .. },
    ] = out.as_slice()
    else {
        panic!("{out:?}")
    };
    assert_eq!(record.told, amount(1_000));
    assert_eq!(record.voucher.unwrap().max_claimable, amount(1_000));
}

#[test]
fn an_unknown_channel_is_read_then_funded_then_served() {
    let mut desk = Desk::with(ProviderRecord::new(config()));
    let (request, out) = desk.send(payment(1_000, deposit(5_000)), 1_000, 1_000);
    assert_eq!(out, [ChannelEffect::ReadChain]);
    let out = desk.read(onchain(0, 0));
    assert!(
        matches!(out.as_slice(), [ChannelEffect::SendDeposit { .. }]),
        "{out:?}"
    );
    let done = desk.done("0xab", 5_000, onchain(5_000, 0));
    let out = desk.handle(ChannelEvent::Done {
        request,
        outcome: Ok(done),
    });
    assert!(admits(&out, request), "{out:?}");
    let out = desk.handle(ChannelEvent::Charge {
        request,
        amount: amount(1_000),
    });
    let Some(ChannelEffect::Charged { statement, .. }) = out.last() else {
        panic!("{out:?}")
    };
    assert_eq!(statement.moved, Some(("0xab".into(), amount(5_000))));
}

#[test]
fn a_deposit_too_small_for_its_voucher_is_not_sent() {
    let mut desk = Desk::funded(100);
    desk.send(payment(1_000, deposit(899)), 1_000, 1_000);
    let out = desk.read(onchain(100, 0));
    assert_eq!(refusal(&out), Some(ErrorCode::CumulativeExceedsBalance));
}

#[test]
fn first_calls_in_parallel_send_one_deposit_where_one_voucher_pays_once() {
    let mut desk = Desk::funded(0);
    let (first, out) = desk.send(payment(1_000, deposit(5_000)), 1_000, 1_000);
    assert!(
        matches!(out.as_slice(), [ChannelEffect::SendDeposit { .. }]),
        "{out:?}"
    );
    let (_, out) = desk.send(payment(1_000, deposit(5_000)), 1_000, 1_000);
    assert_eq!(out, []);
    let done = desk.done("0xab", 5_000, onchain(5_000, 0));
    let out = desk.handle(ChannelEvent::Done {
        request: first,
        outcome: Ok(done),
    });
    assert!(admits(&out, first));
    let out = desk.handle(ChannelEvent::Charge {
        request: first,
        amount: amount(1_000),
    });
    assert_eq!(refusal(&out), Some(ErrorCode::CumulativeMismatch));
    assert!(
        !out.iter()
            .any(|effect| matches!(effect, ChannelEffect::SendDeposit { .. }))
    );
}

#[test]
fn a_failed_deposit_refuses_its_request_and_lets_the_next_one_try() {
    let mut desk = Desk::funded(0);
    let (first, _) = desk.send(payment(1_000, deposit(5_000)), 1_000, 1_000);
    let (second, out) = desk.send(payment(1_000, deposit(5_000)), 1_000, 1_000);
    assert_eq!(out, []);
    let out = desk.handle(ChannelEvent::Done {
        request: first,
        outcome: Err(ErrorCode::DepositSimulation),
    });
    assert_eq!(refusal(&out), Some(ErrorCode::DepositSimulation));
    let tries = |effect: &ChannelEffect| matches!(effect, ChannelEffect::SendDeposit { request, .. } if *request == second);
    assert!(out.iter().any(tries), "{out:?}");
}

#[test]
fn vouchers_that_do_not_fit_are_refused_and_change_nothing() {
    let mut desk = Desk::funded(10_000);
    let (request, _) = desk.pay(1_000, 1_000, 1_000);
    desk.charge(request, 1_000);
    let before = desk.channel.record.clone();
    let cases = [
        (1_999, ErrorCode::CumulativeMismatch, "one below"),
        (2_001, ErrorCode::CumulativeMismatch, "one above"),
        (1_000, ErrorCode::CumulativeMismatch, "replay"),
        (0, ErrorCode::CumulativeMismatch, "nothing"),
        (u128::MAX, ErrorCode::CumulativeMismatch, "everything"),
    ];
    for (max, code, case) in cases {
        let (_, out) = desk.pay(max, 1_000, 1_000);
        assert_eq!(refusal(&out), Some(code), "{case}");
        assert_eq!(desk.channel.record, before, "{case}");
    }
    let (request, out) = desk.pay(2_000, 1_000, 1_000);
    assert!(admits(&out, request), "the right one still fits");
}

#[test]
fn a_correction_carries_the_charge_and_the_proof() {
    let mut desk = Desk::funded(10_000);
    let (request, _) = desk.pay(1_000, 1_000, 1_000);
    desk.charge(request, 300);
    let (_, out) = desk.pay(1_000, 1_000, 1_000);
    let Some(ChannelEffect::Refuse {
        correction: Some(correction),
        ..
    }) = out.last()
    else {
        panic!("{out:?}")
    };
    assert_eq!(
        correction.channel.charged_cumulative_amount,
        Some(amount(300))
    );
    assert_eq!(
        correction.voucher.as_ref().unwrap().signed_max_claimable,
        amount(1_000)
    );
    let (request, out) = desk.pay(1_300, 1_000, 1_000);
    assert!(admits(&out, request));
}

#[test]
fn a_voucher_above_the_balance_reads_the_chain_once_then_is_refused() {
    let mut desk = Desk::funded(500);
    let (_, out) = desk.pay(1_000, 1_000, 1_000);
    assert_eq!(out, [ChannelEffect::ReadChain]);
    let out = desk.read(onchain(500, 0));
    assert_eq!(refusal(&out), Some(ErrorCode::CumulativeExceedsBalance));
}

#[test]
fn money_that_is_being_withdrawn_pays_for_nothing_new() {
    let mut desk = Desk::funded(2_000);
    let state = OnchainState {
        withdraw_amount: amount(1_500),
        withdraw_requested_at: 7,
        ..onchain(2_000, 0)
    };
    desk.read(state);
    let (_, out) = desk.pay(1_000, 1_000, 1_000);
    assert_eq!(out, [ChannelEffect::ReadChain]);
    let out = desk.read(state);
    assert_eq!(refusal(&out), Some(ErrorCode::CumulativeExceedsBalance));
}

#[test]
fn a_stream_states_the_upper_view_and_the_next_vouchers_fit_without_a_correction() {
    let mut desk = Desk::funded(100_000);
    let mut view = 0;
    let mut truly = 0;
    for round in 0..20 {
        let (request, out) = desk.pay(view + 1_000, 1_000, 1_000);
        assert!(admits(&out, request), "round {round}: {out:?}");
        let out = desk.handle(ChannelEvent::StateEarly { request });
        let (charged, sum) = stated(&out);
        assert_eq!(
            sum,
            view + charged,
            "the sum follows from what the payer believes"
        );
        assert!(charged <= 1_000);
        view = sum;
        desk.handle(ChannelEvent::Charge {
            request,
            amount: amount(137),
        });
        truly += 137;
        assert_eq!(desk.channel.record.charged, amount(truly));
        assert!(view - truly <= 1_000, "at most one ceiling ahead");
    }
    let (_, out) = desk.send(payment(view, PaymentKind::Refund(None)), 1_000, 1_000);
    assert_eq!(out, [ChannelEffect::ReadChain]);
    let out = desk.read(onchain(100_000, 0));
    let Some(ChannelEffect::SendRefund {
        amount: returned,
        claim: Some(row),
        ..
    }) = out.last()
    else {
        panic!("{out:?}")
    };
    assert_eq!(*returned, amount(100_000 - truly));
    assert_eq!(row.total_claimed, amount(truly));
}

#[test]
fn parallel_requests_share_one_voucher_as_far_as_it_reaches_and_wait_beyond() {
    let mut desk = Desk::funded(100_000);
    let requests: Vec<_> = (0..10).map(|_| desk.pay(1_000, 1_000, 150)).collect();
    let admitted: Vec<_> = requests
        .iter()
        .filter(|(id, out)| admits(out, *id))
        .map(|(id, _)| *id)
        .collect();
    assert_eq!(admitted.len(), 6);
    assert!(
        requests.iter().all(|(_, out)| refusal(out).is_none()),
        "the others wait"
    );
    // The first charges less than it reserved, which leaves room for one that waits.
    let out = desk.handle(ChannelEvent::Charge {
        request: admitted[0],
        amount: amount(50),
    });
    assert_eq!(said(&out), (50, None));
    assert!(admits(&out, requests[6].0), "{out:?}");
}

#[test]
fn replies_of_parallel_requests_add_up_in_any_order() {
    let mut desk = Desk::funded(100_000);
    let (lost, _) = desk.pay(1_000, 1_000, 150);
    desk.charge(lost, 40);
    // The payer never saw that reply: its view is 40 behind.
    let requests: Vec<_> = (0..5).map(|_| desk.pay(1_000, 1_000, 150).0).collect();
    let mut view = 0;
    for request in requests.into_iter().rev() {
        let (charged, sum) = desk.charge(request, 100);
        assert_eq!(sum, None, "a sum would be wrong in another order");
        view += charged;
    }
    assert_eq!(view, 500);
    let (request, out) = desk.pay(view + 1_000, 1_000, 150);
    assert!(admits(&out, request));
    let early = desk.charge(request, 10);
    assert_eq!(early, (10, None), "the lost reply may still be on its way");
    view += early.0;
    desk.now = desk.now.plus_ms(TRANSIT_MS_MAX);
    let (request, _) = desk.pay(view + 1_000, 1_000, 150);
    assert_eq!(desk.charge(request, 10), (50, None), "now it is not");
}

#[test]
fn calls_on_one_voucher_that_come_one_after_the_other_state_their_own_charges() {
    let mut desk = Desk::funded(100_000);
    let mut view = 0;
    for _ in 0..5 {
        // Signed together, but each is answered before the next one arrives.
        let (request, out) = desk.pay(1_000, 1_000, 150);
        assert!(admits(&out, request));
        view += desk.charge(request, 150).0;
    }
    assert_eq!(view, 750);
    let (request, out) = desk.pay(view + 1_000, 1_000, 1_000);
    assert!(admits(&out, request));
}

#[test]
fn every_final_statement_has_the_true_total() {
    let mut desk = Desk::funded(100_000);
    let (stream, _) = desk.pay(1_000, 1_000, 150);
    let out = desk.handle(ChannelEvent::StateEarly { request: stream });
    assert_eq!(total(&out), None, "not yet known");
    let out = desk.handle(ChannelEvent::Charge {
        request: stream,
        amount: amount(20),
    });
    assert_eq!(total(&out), Some(20));
    let (request, _) = desk.pay(1_150, 1_000, 150);
    let out = desk.handle(ChannelEvent::Charge {
        request,
        amount: amount(10),
    });
    assert_eq!(said(&out), (0, None), "the payer is ahead");
    assert_eq!(total(&out), Some(30));
}

#[test]
fn a_queue_is_bounded_and_a_wait_ends() {
    let mut desk = Desk::funded(100_000);
    desk.pay(1_000, 1_000, 1_000);
    for _ in 0..WAITING_MAX {
        let (_, out) = desk.pay(1_000, 1_000, 1_000);
        // The same voucher cannot pay twice, but until the first is charged that is not known.
        assert_eq!(out, []);
    }
    let (_, out) = desk.pay(1_000, 1_000, 1_000);
    assert_eq!(refusal(&out), Some(ErrorCode::ChannelBusy));
    desk.now = desk.now.plus_ms(WAIT_MS_MAX);
    let out = desk.handle(ChannelEvent::Tick);
    assert_eq!(out.len(), WAITING_MAX);
    assert_eq!(refusal(&out), Some(ErrorCode::ChannelBusy));
}

#[test]
fn a_failed_handler_costs_nothing_and_the_same_voucher_is_good_again() {
    let mut desk = Desk::funded(10_000);
    let (request, _) = desk.pay(1_000, 1_000, 1_000);
    desk.handle(ChannelEvent::Abort { request });
    assert_eq!(desk.channel.record.charged, Amount::ZERO);
    let (request, out) = desk.pay(1_000, 1_000, 1_000);
    assert!(admits(&out, request));
}

#[test]
fn a_charge_above_the_ceiling_is_cut_to_what_was_promised() {
    let mut desk = Desk::funded(10_000);
    let (request, _) = desk.pay(1_000, 1_000, 800);
    assert_eq!(desk.charge(request, 5_000), (800, Some(800)));
}

#[test]
fn a_provider_that_lost_its_memory_adopts_what_the_payer_signed_for() {
    // All of it: nothing but the chain is left.
    let mut desk = Desk::with(ProviderRecord::new(config()));
    desk.pay(15_412, 1_000, 1_000);
    let out = desk.read(onchain(20_000, 14_000));
    assert!(admits(&out, RequestId(1)), "{out:?}");
    assert_eq!(desk.channel.record.charged, amount(14_412));
    // Some of it: an old copy.
    let mut old = ProviderRecord::new(config());
    old.onchain = Some(onchain(20_000, 0));
    old.charged = amount(700);
    old.told = amount(700);
    let mut desk = Desk::with(old);
    let (request, out) = desk.pay(2_000, 1_000, 1_000);
    assert!(admits(&out, request));
    assert_eq!(desk.channel.record.charged, amount(1_000));
    // But not beyond what the channel holds, and not twice.
    let mut desk = Desk::funded(500);
    let (_, out) = desk.pay(1_600, 1_000, 1_000);
    assert_eq!(refusal(&out), Some(ErrorCode::CumulativeMismatch));
}

#[test]
fn a_payer_that_starts_again_below_what_was_claimed_is_told_so() {
    let mut desk = Desk::with(ProviderRecord::new(config()));
    desk.send(payment(1_000, deposit(5_000)), 1_000, 1_000);
    let out = desk.read(onchain(16_412, 16_412));
    assert_eq!(refusal(&out), Some(ErrorCode::CumulativeBelowClaimed));
}

#[test]
fn a_refund_waits_for_work_lets_nothing_pass_and_claims_first() {
    let mut desk = Desk::funded(10_000);
    let (working, _) = desk.pay(1_000, 1_000, 1_000);
    // Signed for what will be charged when it is judged.
    let refund = PaymentKind::Refund(Some(amount(100)));
    let (refund, out) = desk.send(payment(400, refund), 1_000, 1_000);
    assert_eq!(out, []);
    let (late, out) = desk.pay(2_000, 1_000, 500);
    assert_eq!(out, []);
    desk.charge(working, 400);
    let out = desk.read(onchain(10_000, 0));
    let Some(ChannelEffect::SendRefund {
        amount: returned,
        claim: Some(row),
        ..
    }) = out.last()
    else {
        panic!("{out:?}")
    };
    assert_eq!((*returned, row.total_claimed), (amount(100), amount(400)));
    let done = desk.done("0xcd", 100, onchain(9_900, 400));
    let out = desk.handle(ChannelEvent::Done {
        request: refund,
        outcome: Ok(done),
    });
    assert!(admits(&out, late), "{out:?}");
    let refunded = out.iter().find_map(|effect| match effect {
        ChannelEffect::Refunded { statement, .. } => Some(statement),
        _ => None,
    });
    let statement = refunded.expect("the refund is stated");
    assert_eq!(statement.charge.charged_amount, None);
    assert_eq!(
        statement.charge.channel_state.as_ref().unwrap().balance,
        amount(9_900)
    );
}

#[test]
fn refunds_of_nothing_or_of_too_much_are_refused() {
    let mut desk = Desk::funded(1_000);
    for (asked, code) in [
        (Some(0), ErrorCode::RefundAmount),
        (Some(1_001), ErrorCode::RefundAmount),
    ] {
        desk.send(payment(0, PaymentKind::Refund(asked.map(amount))), 0, 0);
        let out = desk.read(onchain(1_000, 0));
        assert_eq!(refusal(&out), Some(code));
    }
    let (request, _) = desk.pay(1_000, 1_000, 1_000);
    desk.charge(request, 1_000);
    desk.send(payment(1_000, PaymentKind::Refund(None)), 0, 0);
    let out = desk.read(onchain(1_000, 0));
    assert_eq!(refusal(&out), Some(ErrorCode::RefundNoBalance));
}

#[test]
fn a_chain_that_cannot_be_read_is_said_to_those_who_wait_for_it() {
    let mut desk = Desk::with(ProviderRecord::new(config()));
    desk.pay(1_000, 1_000, 1_000);
    let out = desk.handle(ChannelEvent::ReadFailed);
    assert_eq!(refusal(&out), Some(ErrorCode::ChannelStateRead));
    assert!(desk.channel.is_idle());
}

/// A client as the published ones are: it believes a statement only if the sum follows from its
/// own view, signs `view + ceiling`, and cannot read the chain.
#[derive(Debug, Default)]
struct BareClient {
    view: u128,
}

impl BareClient {
    /// Whether the statement was believed.
    fn take(&mut self, (charged, sum): (u128, Option<u128>)) -> bool {
        let follows = sum.is_none_or(|sum| sum == self.view + charged);
        if follows {
            self.view += charged;
        }
        follows
    }
}

const CEILING: u128 = 2_000;
const NEED: u128 = 250;

/// A client that asks again before it is answered, a provider, and the network between them.
struct Traffic {
    desk: Desk,
    client: BareClient,
    /// What is worked on, and whether its headers have left.
    working: Vec<(RequestId, bool)>,
    /// Statements on their way, in no order.
    replies: Vec<(u128, Option<u128>)>,
    owed: u128,
    /// Statements that the client never took.
    lost: u128,
    /// What the headers of streams stated above what the streams cost.
    overstated: u128,
    /// The maxima of vouchers on which something was charged.
    spent: BTreeSet<u128>,
    on: BTreeMap<RequestId, u128>,
}

#[derive(Debug, Clone)]
enum Step {
    Send,
    StateEarly(prop::sample::Index),
    Charge(prop::sample::Index, u128),
    Fail(prop::sample::Index),
    Deliver(prop::sample::Index),
    Lose(prop::sample::Index),
    Correct,
    Quiet,
    Crash { delivers: bool },
}

fn step() -> impl Strategy<Value = Step> {
    let pick = any::<prop::sample::Index>;
    prop_oneof![
        8 => Just(Step::Send),
        2 => pick().prop_map(Step::StateEarly),
        6 => (pick(), 0..=NEED).prop_map(|(index, cost)| Step::Charge(index, cost)),
        1 => pick().prop_map(Step::Fail),
        6 => pick().prop_map(Step::Deliver),
        1 => pick().prop_map(Step::Lose),
        1 => Just(Step::Correct),
        1 => Just(Step::Quiet),
        1 => any::<bool>().prop_map(|delivers| Step::Crash { delivers }),
    ]
}

impl Traffic {
    fn new() -> Self {
        Self {
            desk: Desk::funded(1_000_000_000),
            client: BareClient::default(),
            working: Vec::new(),
            replies: Vec::new(),
            owed: 0,
            lost: 0,
            overstated: 0,
            spent: BTreeSet::new(),
            on: BTreeMap::new(),
        }
    }

    /// Asks once more if the voucher reaches so far, as a client without knowledge of that would.
    fn send(&mut self) {
        let reserved = NEED * self.working.len() as u128;
        let max = self.client.view + CEILING;
        if max < self.owed + reserved + NEED {
            return;
        }
        let (request, out) = self.desk.pay(max, CEILING, NEED);
        if !admits(&out, request) {
            // A reply was lost, and the voucher had done its work.
            assert_eq!(
                refusal(&out),
                Some(ErrorCode::CumulativeMismatch),
                "{out:?}"
            );
            assert!(self.spent.contains(&max), "{max} is new: {out:?}");
            self.take_correction(&out);
            return;
        }
        self.on.insert(request, max);
        self.working.push((request, false));
    }

    fn charge(&mut self, index: usize, cost: u128) {
        let (request, stated_early) = self.working.swap_remove(index);
        let said = self.desk.charge(request, cost);
        self.owed += cost;
        if cost > 0 {
            self.spent.insert(self.on[&request]);
        }
        if stated_early {
            self.overstated += NEED - cost;
        } else {
            self.replies.push(said);
        }
    }

    fn deliver(&mut self, index: usize) {
        let reply = self.replies.swap_remove(index);
        if !self.client.take(reply) {
            self.lost += reply.0;
        }
    }

    /// Adopts a correction, as a client would that can read the chain. What is worked on is in
    /// there, and will be added once more.
    fn correct(&mut self) {
        while !self.replies.is_empty() {
            self.deliver(0);
        }
        let (_, out) = self.desk.pay(CEILING - 1, CEILING, NEED);
        self.take_correction(&out);
    }

    fn take_correction(&mut self, out: &[ChannelEffect]) {
        let Some(ChannelEffect::Refuse {
            correction: Some(correction),
            ..
        }) = out.last()
        else {
            panic!("{out:?}")
        };
        let figure = correction.channel.charged_cumulative_amount;
        let figure = figure.expect("a correction says what was charged").units();
        self.overstated += figure.saturating_sub(self.owed);
        self.client.view = figure;
        self.lost = 0;
        self.overstated += NEED * self.working.len() as u128;
    }

    fn quiet(&mut self) {
        while !self.working.is_empty() {
            self.charge(0, NEED / 2);
        }
        while !self.replies.is_empty() {
            self.deliver(0);
        }
        self.desk.now = self.desk.now.plus_ms(TRANSIT_MS_MAX);
    }

    fn take(&mut self, step: &Step) {
        let pick = |index: &prop::sample::Index, len: usize| (len > 0).then(|| index.index(len));
        let (working, replies) = (self.working.len(), self.replies.len());
        match step {
            Step::Send => self.send(),
            Step::StateEarly(index) => {
                if let Some(index) = pick(index, working).filter(|at| !self.working[*at].1) {
                    self.working[index].1 = true;
                    let request = self.working[index].0;
                    let out = self.desk.handle(ChannelEvent::StateEarly { request });
                    self.replies.push(said(&out));
                }
            }
            Step::Charge(index, cost) => {
                if let Some(index) = pick(index, working) {
                    self.charge(index, *cost);
                }
            }
            Step::Fail(index) => {
                if let Some(index) = pick(index, working) {
                    let (request, stated_early) = self.working.swap_remove(index);
                    self.overstated += if stated_early { NEED } else { 0 };
                    self.desk.handle(ChannelEvent::Abort { request });
                }
            }
            Step::Deliver(index) => {
                if let Some(index) = pick(index, replies) {
                    self.deliver(index);
                }
            }
            Step::Lose(index) => {
                if let Some(index) = pick(index, replies) {
                    self.lost += self.replies.swap_remove(index).0;
                }
            }
            Step::Correct => self.correct(),
            Step::Quiet => self.quiet(),
            Step::Crash { delivers } => {
                // Connections break: what was worked on is neither charged nor answered.
                for (_, stated_early) in std::mem::take(&mut self.working) {
                    self.overstated += if stated_early { NEED } else { 0 };
                }
                while *delivers && !self.replies.is_empty() {
                    self.deliver(0);
                }
                for (charged, _) in std::mem::take(&mut self.replies) {
                    self.lost += charged;
                }
                self.desk.crash();
            }
        }
    }

    fn check(&self) {
        let (view, owed) = (self.client.view, self.owed);
        assert_eq!(self.desk.durable.charged, amount(owed));
        assert!(
            amount(view) <= self.desk.durable.told,
            "a view that was told"
        );
        let held = self.desk.durable.voucher;
        let held = held.map_or(0, |voucher| voucher.max_claimable.units());
        assert!(owed <= held, "what is charged can be claimed");
        if self.working.is_empty() && self.replies.is_empty() {
            assert!(view + self.lost >= owed, "behind only by what was lost");
        }
    }
}

proptest! {
    /// Whatever crashes, whichever replies are lost or overtake one another: a client that cannot
    /// read the chain is served as far as its voucher reaches, and is charged what the work cost.
    #[test]
    fn bare_clients_are_served_and_charged_exactly(steps in prop::collection::vec(step(), 1..120)) {
        let mut traffic = Traffic::new();
        for step in &steps {
            traffic.take(step);
            traffic.check();
        }
        traffic.quiet();
        traffic.check();
        if traffic.lost == 0 && traffic.overstated == 0 {
            prop_assert_eq!(traffic.client.view, traffic.owed, "nobody is off by a unit");
        }
        // One request in the open mends what the voucher reaches.
        let (view, owed) = (traffic.client.view, traffic.owed);
        if view < owed && view + CEILING >= owed + NEED {
            traffic.send();
            traffic.send();
            traffic.quiet();
            // Headers that left early stated the most: such a client is ahead, and never behind.
            let (view, owed) = (traffic.client.view, traffic.owed);
            let is_right = view == owed || (view > owed && traffic.overstated > 0);
            prop_assert!(is_right, "the lost replies are made good: {} of {}", view, owed);
        }
    }
}

#[path = "provider_attack_tests.rs"]
mod attacks;

#[path = "provider_sight_tests.rs"]
mod sights;

#[path = "provider_sums_tests.rs"]
mod sums;
