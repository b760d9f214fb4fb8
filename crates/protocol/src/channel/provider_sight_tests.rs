//! What a provider can lose on a chain that it does not always see.
//!
//! The payer takes its money back whenever the contract lets it. The endpoint goes dead, or stands
//! still and shows what was; the follower falls silent; the provider is killed. As long as an endpoint
//! is not away for half of the withdraw delay, everything that was charged is claimed: nothing is
//! served unpaid. And whatever happens, nothing is admitted [`HEARD_MS_MAX`] after the chain was last
//! seen.

use super::*;

const DELAY_MS: u64 = 900_000;
/// How often claims are looked at.
const SETTLE_MS: u64 = 20_000;
/// For how long an endpoint is away at most: what is left of half the delay pays for the claim.
const AWAY_MS_MAX: u64 = DELAY_MS / 2 - 2 * SETTLE_MS;
const FUNDS: u128 = 1_000_000;
const PRICE: u128 = 100;

#[derive(Debug, Clone)]
enum Step {
    /// A request; its work takes a while where it is not finished at once.
    Ask {
        finishes: bool,
    },
    Finish,
    Withdraw {
        amount: u128,
    },
    Finalize,
    Deposit,
    Pass {
        ms: u64,
    },
    /// The follower is level with what the endpoint shows.
    Follow,
    GoDead,
    GoStuck,
    Heal,
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => any::<bool>().prop_map(|finishes| Step::Ask { finishes }),
        2 => Just(Step::Finish),
        2 => (1..=FUNDS).prop_map(|amount| Step::Withdraw { amount }),
        2 => Just(Step::Finalize),
        1 => Just(Step::Deposit),
        6 => (1..60_000_u64).prop_map(|ms| Step::Pass { ms }),
        4 => Just(Step::Follow),
        1 => Just(Step::GoDead),
        1 => Just(Step::GoStuck),
        2 => Just(Step::Heal),
        1 => Just(Step::Crash),
    ]
}

/// What the endpoint does.
#[derive(Clone, Copy)]
enum Endpoint {
    Works,
    Dead,
    /// It shows what was then.
    Stuck(OnchainState, Timestamp),
}

struct World {
    desk: Desk,
    chain: OnchainState,
    endpoint: Endpoint,
    /// Since when it does not work.
    away_since: Timestamp,
    heard: Option<Sight>,
    /// When the chain was last seen as it was.
    seen_at: Timestamp,
    working: Vec<RequestId>,
    charged: u128,
    settled_at: Timestamp,
}

impl World {
    fn new() -> Self {
        let desk = Desk::funded(FUNDS);
        Self {
            chain: onchain(FUNDS, 0),
            endpoint: Endpoint::Works,
            away_since: desk.now,
            heard: None,
            seen_at: desk.now,
            working: Vec::new(),
            charged: 0,
            settled_at: desk.now,
            desk,
        }
    }

    /// What the endpoint shows now, if it answers.
    fn look(&mut self) -> Option<(OnchainState, Sight)> {
        let asked_at = self.desk.now;
        let (state, block_at) = match self.endpoint {
            Endpoint::Works => {
                self.seen_at = asked_at;
                (self.chain, asked_at)
            }
            Endpoint::Dead => return None,
            Endpoint::Stuck(state, block_at) => (state, block_at),
        };
        let block_at = Some(block_at);
        Some((state, Sight { asked_at, block_at }))
    }

    fn handle(&mut self, event: ChannelEvent) -> Vec<ChannelEffect> {
        let (now, heard) = (self.desk.now, self.heard);
        let mut out = VecDeque::from(self.desk.handle_at(Moment { now, heard }, event));
        let mut all = Vec::new();
        while let Some(effect) = out.pop_front() {
            if effect == ChannelEffect::ReadChain {
                let event = match self.look() {
                    Some((state, sight)) => ChannelEvent::Onchain { state, sight },
                    None => ChannelEvent::ReadFailed,
                };
                out.extend(self.desk.handle_at(Moment { now, heard }, event));
            }
            all.push(effect);
        }
        all
    }

    fn ask(&mut self, finishes: bool) {
        self.desk.next += 1;
        let request = RequestId(self.desk.next);
        let max = self.charged + PRICE * (self.working.len() as u128 + 1);
        let out = self.handle(ChannelEvent::Pay {
            request,
            payment: Box::new(payment(max, PaymentKind::Voucher)),
            quote: Quote {
                ceiling: amount(max - self.charged),
                need: amount(PRICE),
                least_deposit: Amount::ZERO,
            },
        });
        if !admits(&out, request) {
            return;
        }
        let blind_ms = self.desk.now.ms_since(self.seen_at);
        assert!(
            self.is_stuck_lately() || blind_ms < HEARD_MS_MAX,
            "admitted blindly"
        );
        self.working.push(request);
        if finishes {
            self.finish();
        }
    }

    /// An endpoint that stands still is believed for half of the delay: nobody can tell it from a
    /// chain without blocks.
    fn is_stuck_lately(&self) -> bool {
        let since = self.desk.now.ms_since(self.away_since);
        matches!(self.endpoint, Endpoint::Stuck(..)) && since < DELAY_MS / 2
    }

    fn finish(&mut self) {
        let Some(request) = self.working.pop() else {
            return;
        };
        self.charged += PRICE;
        let amount = amount(PRICE);
        self.handle(ChannelEvent::Charge { request, amount });
    }

    /// Claims as settlement does: what is due where a withdrawal is known.
    fn settle(&mut self) {
        self.settled_at = self.desk.now;
        let Some((state, sight)) = self.look() else {
            return;
        };
        self.handle(ChannelEvent::Onchain { state, sight });
        let row = self.desk.durable.claim_row();
        let row = row.filter(|_| state.withdraw_requested_at != 0);
        let (Some(row), Endpoint::Works) = (row, self.endpoint) else {
            return;
        };
        let max_claimable = row.voucher.max_claimable_amount;
        self.handle(ChannelEvent::Publish { max_claimable });
        assert!(
            row.total_claimed <= self.chain.balance,
            "a claim of what is gone"
        );
        self.chain.total_claimed = row.total_claimed;
        let state = self.chain;
        self.handle(ChannelEvent::Onchain { state, sight });
    }

    fn pass(&mut self, ms: u64) {
        self.desk.now = self.desk.now.plus_ms(ms);
        let works = matches!(self.endpoint, Endpoint::Works);
        if !works && self.desk.now.ms_since(self.away_since) >= AWAY_MS_MAX {
            self.heal();
        }
        if self.desk.now.ms_since(self.settled_at) >= SETTLE_MS {
            self.settle_all();
        }
        self.handle(ChannelEvent::Tick);
    }

    /// The endpoint works for long enough that claims are looked at.
    fn heal(&mut self) {
        self.endpoint = Endpoint::Works;
        self.settle_all();
    }

    /// Work does not take for ever: what was admitted is charged before it is claimed.
    fn settle_all(&mut self) {
        while !self.working.is_empty() {
            self.finish();
        }
        self.settle();
    }

    fn finalize(&mut self) {
        let chain = &mut self.chain;
        let ends = Timestamp::from_secs(chain.withdraw_requested_at).plus_ms(DELAY_MS);
        if chain.withdraw_requested_at == 0 || self.desk.now < ends {
            return;
        }
        let unclaimed = chain.balance.saturating_sub(chain.total_claimed);
        let taken = chain.withdraw_amount.min(unclaimed);
        chain.balance = chain.balance.saturating_sub(taken);
        (chain.withdraw_amount, chain.withdraw_requested_at) = (Amount::ZERO, 0);
        let left = chain.balance;
        assert!(
            amount(self.charged) <= left,
            "served unpaid: {} of {left}",
            self.charged
        );
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Ask { finishes } => self.ask(*finishes),
            Step::Finish => self.finish(),
            Step::Withdraw { amount: units } => {
                if self.chain.withdraw_requested_at == 0 {
                    self.chain.withdraw_amount = amount(*units);
                    self.chain.withdraw_requested_at = self.desk.now.as_secs();
                }
            }
            Step::Finalize => self.finalize(),
            Step::Deposit => {
                self.chain.balance = self.chain.balance.saturating_add(amount(PRICE));
            }
            Step::Pass { ms } => self.pass(*ms),
            Step::Follow => self.follow(),
            Step::GoDead => self.go(Endpoint::Dead),
            Step::GoStuck => self.go(Endpoint::Stuck(self.chain, self.desk.now)),
            Step::Heal => self.heal(),
            Step::Crash => {
                self.working.clear();
                self.heard = None;
                let id = ChannelId(B256::ZERO);
                self.desk.channel = ProviderChannel::restored(id, self.desk.durable.clone());
            }
        }
    }

    fn follow(&mut self) {
        if let Some((state, sight)) = self.look() {
            self.handle(ChannelEvent::Onchain { state, sight });
            self.heard = Some(sight);
        }
    }

    fn go(&mut self, endpoint: Endpoint) {
        if matches!(self.endpoint, Endpoint::Works) {
            (self.endpoint, self.away_since) = (endpoint, self.desk.now);
        }
    }
}

/// What a clock may do between two payments, in milliseconds: a correction, a machine that slept, a wrong time zone's hour.
const JUMPS_MS: [i64; 6] = [-1, -15_000, -900_000, 1, 15_000, 3_600_000];

fn jumped(now: Timestamp, ms: i64) -> Timestamp {
    Timestamp(now.0.saturating_add_signed(ms))
}

#[test]
fn a_clock_that_jumps_hides_no_withdrawal() {
    for ms in JUMPS_MS {
        let mut desk = Desk::funded(FUNDS);
        let (request, out) = desk.pay(PRICE, PRICE, PRICE);
        assert!(admits(&out, request));
        desk.charge(request, PRICE);
        desk.now = jumped(desk.now, ms);
        let state = OnchainState {
            withdraw_amount: amount(FUNDS),
            withdraw_requested_at: desk.now.as_secs(),
            ..onchain(FUNDS, 0)
        };
        desk.read(state);
        assert_eq!(desk.durable.onchain, Some(state), "{ms}");
        let (_, mut out) = desk.pay(2 * PRICE, PRICE, PRICE);
        if out == [ChannelEffect::ReadChain] {
            out = desk.read(state);
        }
        let expected = Some(ErrorCode::CumulativeExceedsBalance);
        assert_eq!(refusal(&out), expected, "{ms}");
    }
}

#[test]
fn a_clock_that_jumps_stops_no_sale_where_nothing_is_followed() {
    for ms in JUMPS_MS {
        let mut desk = Desk::funded(FUNDS);
        desk.now = jumped(desk.now, ms);
        desk.next += 1;
        let request = RequestId(desk.next);
        let pay = ChannelEvent::Pay {
            request,
            payment: Box::new(payment(PRICE, PaymentKind::Voucher)),
            quote: Quote {
                ceiling: amount(PRICE),
                need: amount(PRICE),
                least_deposit: Amount::ZERO,
            },
        };
        let at = Moment::from(desk.now);
        assert_eq!(desk.handle_at(at, pay), [ChannelEffect::ReadChain], "{ms}");
        let (state, sight) = (onchain(FUNDS, 0), desk.sight());
        let out = desk.handle_at(at, ChannelEvent::Onchain { state, sight });
        assert!(admits(&out, request), "{ms}: {out:?}");
    }
}

proptest! {
    #[test]
    fn nothing_is_served_unpaid_whatever_the_payer_takes_back(
        steps in prop::collection::vec(step(), 1..200),
    ) {
        let mut world = World::new();
        for step in &steps {
            world.take(step);
        }
        // All that was charged is there to be claimed at the end.
        while !world.working.is_empty() {
            world.finish();
        }
        prop_assert!(amount(world.charged) <= world.chain.balance);
    }
}
