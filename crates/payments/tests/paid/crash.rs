//! The provider and the payer are killed at every write to their stores, in turn.
//!
//! The chain stays up. A disk that stops at its n-th operation ends the process that owns it: all
//! of its tasks and connections go, it starts again from what the disk kept, and the payer goes on
//! as a real one would. After each point the books of both sides and the chain must agree to the
//! atomic unit. `HEARTH_CRASH_POINT=provider:17` (or `payer:17`) runs one point alone.

mod exact;
mod provider;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use alloy_primitives::{B256, U256};
use alloy_signer_local::PrivateKeySigner;
use axum::body::Bytes;
use hearth_chain::client::ChainClient;
use hearth_chain::embedded::{Embedded, EmbeddedConfig, Genesis, TEST_DOLLAR_ADDRESS};
use hearth_chain::fault::{FaultyBackend, Unsynced};
use hearth_chain::sender::SenderConfig;
use hearth_environment::SystemEnvironment;
use hearth_payments::desk::{PROVIDER_CHANNELS, StoredChannel};
use hearth_payments::purse::{PayerKeys, Purchase, Purse};
use hearth_payments::store::Store;
use hearth_payments::till::{ChainAccess, Tasks, TillKeys, open_escrows};
use hearth_protocol::channel::OnchainState;
use hearth_protocol::id::{ChainId, ChannelId};
use hearth_protocol::money::Amount;
use hearth_protocol::spending::{AssetLimit, Spending};
use hearth_protocol::x402::SettleResponse;
use http::{HeaderMap, Method};
use redb::Database;
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::world::{CHAIN, amount, asset};
use provider::Provider;

/// What a request costs at most.
const CEILING: Amount = amount(100);
/// What the payer deposits at a time.
const DEPOSIT: Amount = amount(150);
/// What each payer has at first.
const TOKENS: Amount = amount(10_000);
/// Points for which there are accounts.
const POINTS_MAX: u64 = 1_000;
/// How often a step may be tried: once, once more after the crash, and once more where that one
/// was met by what the first had left under way.
const TRIES_MAX: u32 = 3;
/// Points that are worked on at once.
const THREADS: usize = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Provider,
    Payer,
}

#[derive(Debug, Clone, Copy)]
enum Step {
    /// A path, and what it really costs.
    Buy(&'static str, u128),
    Claim,
    Refund(u128),
}

/// Differing charges, a stream, deposits in between, a claim, a partial refund.
const SCRIPT: [Step; 7] = [
    Step::Buy("/job/30", 30),
    Step::Buy("/job/70", 70),
    Step::Buy("/stream", 7),
    Step::Buy("/job/1", 1),
    Step::Claim,
    Step::Refund(40),
    Step::Buy("/job/100", 100),
];

#[test]
fn a_provider_killed_at_any_write_keeps_every_promise() {
    assert!(kill_at_every_point(Victim::Provider, trade) >= 200);
}

#[test]
fn a_payer_killed_at_any_write_keeps_every_promise() {
    assert!(kill_at_every_point(Victim::Payer, trade) >= 50);
}

/// Runs a script once for each point, until one lies behind the end of the script, which says whether anyone was killed.
/// Returns how many points there are.
fn kill_at_every_point(victim: Victim, script: fn(&Case, &Runtime) -> bool) -> u64 {
    let chain = chain();
    if let Some(point) = chosen_point(victim) {
        script(&Case::new(&chain, victim, point), &runtime());
        return u64::MAX;
    }
    let (next, end) = (AtomicU64::new(1), AtomicU64::new(u64::MAX));
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                let runtime = runtime();
                loop {
                    let point = next.fetch_add(1, Ordering::Relaxed);
                    if point >= end.load(Ordering::Relaxed) {
                        return;
                    }
                    let killed = script(&Case::new(&chain, victim, point), &runtime);
                    if !killed {
                        end.fetch_min(point, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let points = end.load(Ordering::Relaxed) - 1;
    println!("{victim:?}: killed at {points} points");
    points
}

/// The point that the environment asks for; a point of the other victim is none at all.
fn chosen_point(victim: Victim) -> Option<u64> {
    let chosen = std::env::var("HEARTH_CRASH_POINT").ok()?;
    let (name, point) = chosen.split_once(':').expect("a point is VICTIM:NUMBER");
    let ours = name == format!("{victim:?}").to_lowercase();
    Some(if ours {
        point.parse().unwrap()
    } else {
        POINTS_MAX - 1
    })
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

fn numbered(number: u64) -> PrivateKeySigner {
    PrivateKeySigner::from_bytes(&B256::from(U256::from(number + 1))).unwrap()
}

/// The keys of a point: each has its own payer and provider, so that points share a chain.
fn household(point: u64) -> PrivateKeySigner {
    numbered(10_000 + point)
}

fn receiver(point: u64) -> PrivateKeySigner {
    numbered(20_000 + point)
}

fn chain() -> Embedded {
    let genesis = Genesis::standard(numbered(0).address());
    let genesis = (0..POINTS_MAX).fold(genesis, |genesis, point| {
        genesis.with_test_dollars(household(point).address(), U256::from(TOKENS.units()))
    });
    Embedded::in_memory(EmbeddedConfig::new(genesis)).unwrap()
}

/// The files of a store.
#[derive(Debug, Clone)]
struct Disk {
    database: FaultyBackend,
    journal: FaultyBackend,
}

impl Disk {
    /// A database that has been made, as the store makes it, whole or not at all, and no journal yet.
    fn new() -> Self {
        let database = FaultyBackend::new();
        let made = Database::builder().create_with_backend(database.clone());
        drop(made.unwrap());
        let journal = database.beside();
        Self { database, journal }
    }

    fn open(&self) -> Option<Store> {
        let database = Database::builder().create_with_backend(self.database.clone());
        Store::with_journal(database.ok()?, self.journal.clone(), &SystemEnvironment).ok()
    }

    fn stopped(&self) -> bool {
        self.database.stopped()
    }

    fn survivor(&self, unsynced: Unsynced) -> Self {
        let database = self.database.survivor(unsynced);
        let journal = self.journal.survivor_beside(&database, unsynced);
        Self { database, journal }
    }
}

async fn access(chain: &Embedded) -> Vec<ChainAccess> {
    let client = ChainClient::from_transport(chain.transport(), ChainId(CHAIN));
    client.connect().await.unwrap();
    let sender = SenderConfig {
        confirmations: 1,
        poll_interval_ms: 2,
        ..Default::default()
    };
    vec![ChainAccess { client, sender }]
}

/// One point.
#[derive(Debug, Clone)]
struct Case {
    chain: Embedded,
    victim: Victim,
    point: u64,
    /// How often the provider worked for a one-off payment.
    worked: Arc<AtomicU64>,
}

impl Drop for Case {
    fn drop(&mut self) {
        if thread::panicking() {
            let victim = format!("{:?}", self.victim).to_lowercase();
            eprintln!("failed at point={victim}:{}", self.point);
        }
    }
}

impl Case {
    fn new(chain: &Embedded, victim: Victim, point: u64) -> Self {
        assert!(
            point < POINTS_MAX,
            "there are accounts for {POINTS_MAX} points"
        );
        Self {
            chain: chain.clone(),
            victim,
            point,
            worked: Arc::default(),
        }
    }

    /// What the disk keeps of the writes that were not synced: all three in turn.
    fn unsynced(&self) -> Unsynced {
        match self.point % 3 {
            0 => Unsynced::Lost,
            1 => Unsynced::Kept,
            _ => Unsynced::Torn(self.point),
        }
    }

    /// A disk that stops at this point, if it is `whose` turn.
    fn disk(&self, whose: Victim) -> Disk {
        let disk = Disk::new();
        if self.victim == whose {
            let made = disk.database.operations();
            disk.database.stop_at(made + self.point);
        }
        disk
    }
}

/// Buys by channel, claims and refunds.
fn trade(case: &Case, runtime: &Runtime) -> bool {
    let mut trade = Trade::open(case, runtime);
    for step in SCRIPT {
        trade.perform(step);
    }
    trade.close();
    trade.crashes > 0
}

/// The payer's process.
struct Payer {
    disk: Disk,
    purse: Purse,
    tasks: Tasks,
}

impl Payer {
    fn open(case: &Case, disk: Disk, runtime: &Runtime) -> Option<Self> {
        let keys = PayerKeys {
            household: household(case.point),
            session: numbered(2),
        };
        let limit = AssetLimit::new(CEILING, DEPOSIT, TOKENS);
        let spending = Spending([(asset(), limit)].into());
        let store = disk.open()?;
        let mut tasks = Tasks::new();
        let purse = runtime.block_on(async {
            let till_keys = TillKeys {
                account: keys.household.clone(),
                session: keys.session.clone(),
            };
            let escrows = open_escrows(access(&case.chain).await, &till_keys, &store, &mut tasks);
            let http = hearth_payments::http::client().unwrap();
            let environment = Arc::new(SystemEnvironment);
            Purse::new(keys, spending, store, escrows.ok()?, http, environment).ok()
        })?;
        Some(Self { disk, purse, tasks })
    }
}

/// A provider and a payer, and what one said to the other.
struct Trade<'a> {
    case: &'a Case,
    runtime: &'a Runtime,
    provider: Option<Provider>,
    payer: Option<Payer>,
    crashes: u32,
    /// The true costs of all requests whose charge was stated for good.
    stated: Amount,
    /// The highest cumulative figure that was stated.
    figure: Amount,
    deposits_approved: Arc<Mutex<u32>>,
    refunds_asked: u32,
}

impl<'a> Trade<'a> {
    fn open(case: &'a Case, runtime: &'a Runtime) -> Self {
        let mut trade = Self::without_payer(case, runtime);
        trade.start_payer(case.disk(Victim::Payer));
        trade
    }

    fn without_payer(case: &'a Case, runtime: &'a Runtime) -> Self {
        let mut trade = Self {
            case,
            runtime,
            provider: None,
            payer: None,
            crashes: 0,
            stated: Amount::ZERO,
            figure: Amount::ZERO,
            deposits_approved: Arc::default(),
            refunds_asked: 0,
        };
        trade.start_provider(case.disk(Victim::Provider));
        trade
    }

    fn start_provider(&mut self, disk: Disk) {
        let run = u64::from(self.crashes);
        self.provider = Provider::open(self.case, disk.clone(), run);
        if self.provider.is_none() {
            assert!(disk.stopped(), "the provider must start");
            self.crashes += 1;
            let survivor = disk.survivor(self.case.unsynced());
            self.provider = Provider::open(self.case, survivor, run + 1);
            assert!(self.provider.is_some(), "the provider must start again");
        }
    }

    fn start_payer(&mut self, disk: Disk) {
        self.payer = Payer::open(self.case, disk.clone(), self.runtime);
        if self.payer.is_none() {
            assert!(disk.stopped(), "the payer must start");
            self.crashes += 1;
            let survivor = disk.survivor(self.case.unsynced());
            self.payer = Payer::open(self.case, survivor, self.runtime);
            assert!(self.payer.is_some(), "the payer must start again");
        }
    }

    fn provider(&self) -> &Provider {
        self.provider.as_ref().unwrap()
    }

    fn purse(&self) -> &Purse {
        &self.payer.as_ref().unwrap().purse
    }

    /// Starts the sides that were killed again, and looks at the books.
    fn revive(&mut self) {
        if self.provider().disk.stopped() {
            self.restart_provider();
        }
        if self
            .payer
            .as_ref()
            .is_some_and(|payer| payer.disk.stopped())
        {
            let dead = self.payer.take().unwrap();
            let Payer {
                disk,
                purse,
                mut tasks,
            } = dead;
            self.runtime.block_on(tasks.shutdown());
            drop(purse);
            self.crashes += 1;
            self.start_payer(disk.survivor(self.case.unsynced()));
        }
        assert!(self.crashes <= 1, "the disk stops once");
        self.check_provider();
    }

    fn restart_provider(&mut self) {
        let dead = self.provider.take().unwrap();
        let disk = dead.kill();
        self.crashes += 1;
        self.start_provider(disk.survivor(self.case.unsynced()));
    }

    /// What must hold of the provider's books at any time.
    fn check_provider(&mut self) {
        let records = self.records();
        let mut charged = Amount::ZERO;
        let mut told = Amount::ZERO;
        for (_, StoredChannel { record, .. }) in &records {
            let held = record
                .voucher
                .map_or(Amount::ZERO, |held| held.max_claimable);
            assert!(record.charged <= held, "charged what was not promised");
            assert!(record.charged <= record.told);
            charged = charged.saturating_add(record.charged);
            told = told.max(record.told);
        }
        assert!(told >= self.figure, "a figure that was stated is forgotten");
        assert!(
            charged >= self.stated,
            "a charge that was stated is forgotten"
        );
        let unanswered = charged.saturating_sub(self.stated);
        assert!(
            unanswered <= CEILING,
            "charged {unanswered} for what was not answered"
        );
        assert!(self.crashes > 0 || unanswered.is_zero());
    }

    /// The provider's books. Its store also writes by itself, so the disk may stop just before they are read.
    fn records(&mut self) -> Vec<(ChannelId, StoredChannel)> {
        loop {
            let mut records = Vec::new();
            let store = &self.provider().store;
            let read = store.each(PROVIDER_CHANNELS, |key, stored| {
                records.push((ChannelId(B256::from_slice(key)), stored));
            });
            match read {
                Ok(()) => return records,
                Err(error) => assert!(self.provider().disk.stopped(), "{error}"),
            }
            self.restart_provider();
        }
    }

    fn perform(&mut self, step: Step) {
        let mut failures = Vec::new();
        for _ in 0..TRIES_MAX {
            let outcome = match step {
                Step::Buy(path, cost) => self.buy(path, amount(cost)),
                Step::Claim => self.claim(),
                Step::Refund(units) => self.refund(Some(amount(units))),
            };
            self.revive();
            match outcome {
                Ok(()) => return,
                Err(failure) => failures.push(failure),
            }
            assert!(self.crashes > 0, "{step:?} failed: {failures:?}");
            if matches!(step, Step::Refund(_)) && self.refunds_on_chain() > 0 {
                return;
            }
        }
        panic!("{step:?} failed again and again: {failures:?}");
    }

    fn buy(&mut self, path: &str, cost: Amount) -> Result<(), String> {
        let purchase = Purchase {
            method: Method::GET,
            url: self.provider().url(path),
            headers: HeaderMap::new(),
            body: Bytes::new(),
            patience_ms: 0,
        };
        let approved = Arc::clone(&self.deposits_approved);
        let (early, last) = self.runtime.block_on(async {
            let approve = |tag: &hearth_payments::purse::PriceTag| {
                *approved.lock().unwrap() += u32::from(tag.deposit.is_some());
                true
            };
            let mut response = self
                .purse()
                .buy(&purchase, approve)
                .await
                .map_err(|error| format!("{path}: {error}"))?;
            if response.status != 200 {
                return Err(format!("{path}: {}", response.status));
            }
            response.bytes().await.map_err(|error| error.to_string())?;
            let receipt = response.receipt.clone().ok_or("no receipt")?;
            let last = response.final_receipt().cloned();
            Ok((receipt, last.ok_or("no receipt")?))
        })?;
        self.figure = self.figure.max(figure(&early)).max(figure(&last));
        if path != "/stream" || last != early {
            self.stated = self.stated.saturating_add(cost);
        }
        Ok(())
    }

    fn claim(&self) -> Result<(), String> {
        let settlement = self.provider().till.settlement.clone();
        let reports = self
            .runtime
            .block_on(
                self.provider()
                    .spawn(async move { settlement.claim(true).await }),
            )
            .map_err(|error| error.to_string())?
            .map_err(|error| error.to_string())?;
        for report in reports {
            report.outcome.map_err(|error| error.to_string())?;
            assert!(report.dropped.is_empty(), "{:?}", report.dropped);
        }
        Ok(())
    }

    /// Asks each channel for `amount`, or for everything.
    fn refund(&mut self, amount: Option<Amount>) -> Result<(), String> {
        let url = self.provider().url("/job/1");
        let purse = self.purse().clone();
        self.refunds_asked += 1;
        self.runtime
            .block_on(purse.refund(&url, None, amount))
            .map(|_| ())
            .map_err(|error| error.to_string())
    }

    fn onchain(&self, channel: ChannelId) -> OnchainState {
        let state = self.runtime.block_on(async {
            let client = &access(&self.case.chain).await[0].client;
            client.channel(channel.0).await.unwrap()
        });
        OnchainState {
            balance: amount(state.balance),
            total_claimed: amount(state.total_claimed),
            withdraw_amount: amount(state.withdraw_amount),
            withdraw_requested_at: state.withdraw_requested_at,
            refund_nonce: state.refund_nonce,
        }
    }

    /// Brings the payer's books up to date with the chain.
    fn look(&mut self) {
        let looked = self.runtime.block_on(self.purse().look());
        self.revive();
        if looked.is_err() {
            self.runtime.block_on(self.purse().look()).unwrap();
        }
    }

    /// Looks, and counts the refunds.
    fn refunds_on_chain(&mut self) -> u64 {
        self.look();
        let views = self.purse().channels().unwrap();
        let refunds = views
            .iter()
            .map(|view| self.onchain(view.channel).refund_nonce);
        refunds.map(|nonce| nonce.to::<u64>()).sum()
    }

    fn balance(&self, account: alloy_primitives::Address) -> Amount {
        self.runtime.block_on(async {
            let client = &access(&self.case.chain).await[0].client;
            let units = client
                .balance_of(TEST_DOLLAR_ADDRESS, account)
                .await
                .unwrap();
            amount(units.to())
        })
    }

    /// Claims and returns everything, and compares all books.
    fn close(&mut self) {
        self.perform(Step::Claim);
        let (charged, deposited) = self.check_sums();
        self.return_everything();
        // What a refund claimed on its way is still to be transferred.
        self.perform(Step::Claim);
        let household = self.balance(household(self.case.point).address());
        let receiver = self.balance(receiver(self.case.point).address());
        assert_eq!(receiver, charged, "the receiver has what was charged");
        assert_eq!(
            household.saturating_add(charged),
            TOKENS,
            "the payer has the rest, of {deposited} that it deposited"
        );
    }

    /// Before the end: both sides and the chain have the same sums. Returns what was charged and
    /// deposited.
    fn check_sums(&mut self) -> (Amount, Amount) {
        self.look();
        let mut charged = Amount::ZERO;
        let mut deposited = Amount::ZERO;
        let mut refunds = 0_u64;
        let records = self.records();
        for view in self.purse().channels().unwrap() {
            let onchain = self.onchain(view.channel);
            let ours = view.stored.record;
            let theirs = records.iter().find(|(id, _)| *id == view.channel);
            let theirs = theirs.map_or(Amount::ZERO, |(_, stored)| stored.record.charged);
            assert_eq!(ours.charged, theirs, "both sides agree on what was charged");
            assert_eq!(onchain.total_claimed, theirs, "and the chain with them");
            assert_eq!(ours.balance, onchain.balance);
            let nonce = onchain.refund_nonce.to::<u64>();
            refunds += nonce;
            let returned = amount(40 * u128::from(nonce));
            charged = charged.saturating_add(theirs);
            deposited = deposited
                .saturating_add(onchain.balance)
                .saturating_add(returned);
        }
        let approved = *self.deposits_approved.lock().unwrap();
        let most = DEPOSIT.saturating_mul(u128::from(approved));
        assert!(deposited <= most, "{deposited} for {approved} deposits");
        assert!((1..=u64::from(self.refunds_asked)).contains(&refunds));
        if self.crashes == 0 {
            // One ceiling at first, as much again, and then as much as there was, up to the limit.
            assert_eq!((deposited, refunds), (amount(350), 1));
        }
        (charged, deposited)
    }

    fn return_everything(&mut self) {
        let channels = self.purse().channels().unwrap().len();
        let mut failures = Vec::new();
        for _ in 0..channels + TRIES_MAX as usize {
            let views = self.purse().channels().unwrap();
            if views
                .iter()
                .all(|view| view.stored.record.refundable().is_zero())
            {
                return;
            }
            let outcome = self.refund(None);
            self.revive();
            if let Err(failure) = outcome {
                assert!(self.crashes > 0, "{failure}");
                failures.push(failure);
                self.refunds_on_chain();
            }
        }
        panic!("something is left: {failures:?}");
    }
}

/// The highest cumulative figure that a receipt states.
fn figure(receipt: &SettleResponse) -> Amount {
    let sums = [
        &receipt.extra["channelState"]["chargedCumulativeAmount"],
        receipt.extra.get("chargedTotal").unwrap_or(&Value::Null),
    ];
    let sums = sums.into_iter().filter_map(Value::as_str);
    sums.map(|sum| sum.parse().unwrap())
        .max()
        .unwrap_or(Amount::ZERO)
}
