//! What being paid costs: vouchers per second, and the time that a payment adds to a request.
//!
//! Prints one JSON object a line, `{"name", "value", "unit", "note"}`. Everything is in this one
//! process: an embedded chain in memory, the provider's store in a file (synced at each commit) or
//! in memory, HTTP over loopback with one connection kept alive. Vouchers are signed before the
//! clock starts: signing is the payer's work. "Per core" divides by the processor time that the
//! process took, so that it says what one core does whatever else the machine is busy with.
//! `--smoke` does the same in its smallest size.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use alloy_primitives::{B256, U256};
use alloy_signer_local::PrivateKeySigner;
use anyhow::{Context, Result, bail, ensure};
use axum::Router;
use axum::routing::get;
use hearth_causes::WithCauses;
use hearth_chain::client::ChainClient;
use hearth_chain::embedded::{
    DEFAULT_CHAIN_ID, Embedded, EmbeddedConfig, Genesis, TEST_DOLLAR_ADDRESS,
};
use hearth_chain::sender::SenderConfig;
use hearth_environment::{Environment, SystemEnvironment};
use hearth_payments::desk::{Admission, Desk};
use hearth_payments::gate::{Gate, PaidLayer};
use hearth_payments::offer::{AcceptedAsset, FixedPrice, Price};
use hearth_payments::signing::sign;
use hearth_payments::store::{Batch, Store, Table};
use hearth_payments::till::{ChainAccess, Tasks, Till, TillKeys, open_escrows};
use hearth_protocol::channel::provider::Quote;
use hearth_protocol::channel::{Terms, Voucher, check, deposit_message};
use hearth_protocol::claim::ClaimPolicy;
use hearth_protocol::eip712::{ChannelConfig, SettlementDomain};
use hearth_protocol::id::{AssetId, ChainId};
use hearth_protocol::money::Amount;
use hearth_protocol::time::Timestamp;
use hearth_protocol::x402::{
    BatchPayload, Deposit, DepositAuthorization, Erc3009Authorization, Extensions,
    PAYMENT_SIGNATURE, PaymentPayload, Version, encode_header,
};
use redb::Database;
use redb::backends::InMemoryBackend;
use serde_json::json;

const CHAIN: ChainId = ChainId(DEFAULT_CHAIN_ID);
/// Records of the length that a channel has, for the store's own figures.
const RECORDS: Table<Vec<u8>> = Table::new("records");
/// What each request costs.
const PRICE: Amount = Amount::new(100);
/// What each channel holds.
const DEPOSIT: Amount = Amount::new(1_000_000_000);
/// The clock ticks of `/proc/self/stat`, the same on every Linux.
const TICKS_PER_S: f64 = 100.0;

/// How much is measured.
struct Size {
    /// Channels that pay at the same time.
    channels: u64,
    /// Vouchers on each.
    vouchers: u64,
    /// Commits for the store's own figures.
    commits: u64,
    /// Requests of each kind for the latencies.
    requests: u64,
}

fn main() -> Result<()> {
    let smoke = std::env::args().any(|argument| argument == "--smoke");
    let size = if smoke {
        Size {
            channels: 2,
            vouchers: 4,
            commits: 4,
            requests: 8,
        }
    } else {
        Size {
            channels: 256,
            vouchers: 100,
            commits: 500,
            requests: 2_000,
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(measure(&size))
}

async fn measure(size: &Size) -> Result<()> {
    let folder = tempfile::tempdir().context("no temporary folder")?;
    let genesis = Genesis::standard(payer().address())
        .with_test_dollars(payer().address(), U256::from(u64::MAX));
    let chain = Embedded::in_memory(EmbeddedConfig::new(genesis))?;
    let verified = recover(size)?;
    let commit_ms = commits(folder.path(), size).await?;
    let file = Store::open(&folder.path().join("desk.redb"), &SystemEnvironment)?;
    let memory = Database::builder().create_with_backend(InMemoryBackend::new())?;
    let memory = Store::with_database(memory, &SystemEnvironment)?;
    through_the_desk(&chain, memory, 1, ("in memory", verified), size).await?;
    through_the_desk(&chain, file, 2, ("durable", verified), size).await?;
    let store = Store::open(&folder.path().join("latency.redb"), &SystemEnvironment)?;
    let memory = Database::builder().create_with_backend(InMemoryBackend::new())?;
    let memory = Store::with_database(memory, &SystemEnvironment)?;
    latency(&chain, memory, (3, "in memory", 0.0), size).await?;
    latency(&chain, store, (4, "durable", commit_ms), size).await
}

fn print(name: &str, value: f64, unit: &str, note: &str) {
    println!(
        "{}",
        json!({ "name": name, "value": value, "unit": unit, "note": note })
    );
}

fn key(number: u64) -> PrivateKeySigner {
    PrivateKeySigner::from_bytes(&B256::from(U256::from(number)))
        .expect("small numbers other than zero are valid keys")
}

fn payer() -> PrivateKeySigner {
    key(1)
}

fn now() -> Timestamp {
    Timestamp(SystemEnvironment.now_ms())
}

/// Processor time that this process has taken, in seconds.
fn processor_s() -> Result<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").context("needs Linux's /proc")?;
    let (_, fields) = stat.rsplit_once(')').context("no process name")?;
    let fields: Vec<_> = fields.split_whitespace().collect();
    let ticks = |index: usize| -> Result<f64> { Ok(fields[index].parse()?) };
    Ok((ticks(11)? + ticks(12)?) / TICKS_PER_S)
}

/// A stretch of work: its time by the clock and by the processor.
struct Stretch {
    started: Instant,
    processor_s: f64,
}

impl Stretch {
    fn start() -> Result<Self> {
        let processor_s = processor_s()?;
        Ok(Self {
            started: Instant::now(),
            processor_s,
        })
    }

    /// Seconds by the clock, and of one processor (a tick at least).
    fn end(self) -> Result<(f64, f64)> {
        let wall = self.started.elapsed().as_secs_f64();
        let processor = processor_s()? - self.processor_s;
        Ok((wall, processor.max(1.0 / TICKS_PER_S)))
    }
}

fn asset(receiver: u64) -> AcceptedAsset {
    AcceptedAsset {
        asset: AssetId {
            chain: CHAIN,
            token: TEST_DOLLAR_ADDRESS,
        },
        name: "Test Dollar (worthless)".to_owned(),
        version: "1".to_owned(),
        receiver: key(100 + receiver).address(),
        receiver_authorizer: key(3).address(),
        withdraw_delay: 86_400,
        deposit_ceilings: 10,
        batch: true,
        exact: false,
    }
}

fn config(asset: &AcceptedAsset, salt: u64) -> ChannelConfig {
    ChannelConfig {
        payer: payer().address(),
        payer_authorizer: key(2).address(),
        receiver: asset.receiver,
        receiver_authorizer: asset.receiver_authorizer,
        token: TEST_DOLLAR_ADDRESS,
        withdraw_delay: asset.withdraw_delay,
        salt: B256::from(U256::from(salt)),
    }
}

/// The payment that follows `count` others on a channel; the first deposits.
fn payment(asset: &AcceptedAsset, config: ChannelConfig, count: u64) -> BatchPayload {
    let domain = SettlementDomain::new(CHAIN);
    let channel = domain.channel_id(&config);
    let max_claimable = PRICE.saturating_mul(u128::from(count) + 1);
    let signature = sign(&key(2), domain.voucher_digest(channel, max_claimable));
    let voucher = Voucher {
        max_claimable,
        signature,
    };
    let voucher = voucher.on_channel(channel);
    if count > 0 {
        return BatchPayload::Voucher {
            channel_config: config,
            voucher,
        };
    }
    let mut authorization = Erc3009Authorization {
        valid_after: 0,
        valid_before: u64::MAX,
        salt: U256::ZERO,
        signature: alloy_primitives::Bytes::new(),
    };
    let message = deposit_message(payer().address(), channel, DEPOSIT, &authorization);
    let digest = asset.token_domain().receive_digest(&message);
    authorization.signature = sign(&payer(), digest).as_bytes().to_vec().into();
    let authorization = DepositAuthorization {
        erc3009_authorization: Some(authorization),
        permit2_authorization: None,
    };
    BatchPayload::Deposit {
        channel_config: config,
        voucher,
        deposit: Deposit {
            amount: DEPOSIT,
            authorization,
        },
    }
}

/// Vouchers checked one after another: the digest and the signature's recovery, nothing else.
/// Returns how many a core does in a second.
fn recover(size: &Size) -> Result<f64> {
    let asset = asset(0);
    let config = config(&asset, 0);
    let count = size.channels * size.vouchers / 4 + 1;
    let payloads: Vec<_> = (1..=count)
        .map(|number| payment(&asset, config, number))
        .collect();
    let terms = asset.terms();
    let stretch = Stretch::start()?;
    for payload in &payloads {
        let checked = check(payload, &terms, now());
        ensure!(checked.is_ok(), "a voucher must be good: {checked:?}");
    }
    let (_, processor) = stretch.end()?;
    let note = format!("{count} vouchers on one thread: EIP-712 digest and recovery of the signer");
    let rate = count as f64 / processor;
    print("vouchers verified", rate, "vouchers/s/core", &note);
    Ok(rate)
}

/// What the store alone does: one promise a commit, and many. Returns what one commit takes, in
/// milliseconds.
async fn commits(folder: &Path, size: &Size) -> Result<f64> {
    let store = Store::open(&folder.join("commits.redb"), &SystemEnvironment)?;
    let value = vec![7_u8; 400];
    let started = Instant::now();
    for number in 0..size.commits {
        let mut batch = Batch::default();
        batch.put(RECORDS, &number.to_be_bytes(), &value)?;
        store.commit(batch).await?;
    }
    let rate = size.commits as f64 / started.elapsed().as_secs_f64();
    let note = "one record of 400 bytes a commit, each synced to the disk";
    print("commits one by one", rate, "commits/s", note);
    let commit_ms = 1_000.0 / rate;
    let mut tasks = tokio::task::JoinSet::new();
    let started = Instant::now();
    for number in 0..size.commits * 20 {
        let (store, value) = (store.clone(), value.clone());
        tasks.spawn(async move {
            let mut batch = Batch::default();
            let key = (number % 4_096).to_be_bytes();
            batch.put(RECORDS, &key, &value)?;
            store.commit(batch).await
        });
    }
    while let Some(outcome) = tasks.join_next().await {
        outcome??;
    }
    let rate = (size.commits * 20) as f64 / started.elapsed().as_secs_f64();
    let note = "records of 400 bytes that share commits of up to 1,024";
    print("commits together", rate, "records/s", note);
    Ok(commit_ms)
}

async fn open_till(
    chain: &Embedded,
    store: &Store,
    receiver: u64,
    tasks: &mut Tasks,
) -> Result<Till> {
    let client = ChainClient::from_transport(chain.transport(), CHAIN);
    client.connect().await?;
    let sender = SenderConfig {
        confirmations: 1,
        poll_interval_ms: 1,
        ..Default::default()
    };
    let keys = TillKeys {
        account: key(100 + receiver),
        session: key(3),
    };
    let access = vec![ChainAccess { client, sender }];
    let escrows = open_escrows(access, &keys, store, tasks)?;
    let environment: Arc<dyn Environment> = Arc::new(SystemEnvironment);
    let policy = ClaimPolicy {
        gas_price_nano: 0,
        gas_share_ppm: 10_000,
        age_ms_max: u64::MAX,
        amount_min: Amount::MAX,
        withdrawal_margin_s: 900,
    };
    Ok(Till::open(
        store,
        escrows,
        policy,
        None,
        &environment,
        1,
        tasks,
    ))
}

/// Checks a payment, has it admitted, and charges it.
async fn pay(desk: &Desk, terms: &Terms, payload: &BatchPayload) -> Result<()> {
    let checked = match check(payload, terms, now()) {
        Ok(checked) => checked,
        Err(code) => bail!("refused: {code}"),
    };
    let quote = Quote {
        ceiling: PRICE,
        need: PRICE,
        least_deposit: Amount::ZERO,
    };
    match desk.pay(CHAIN, checked, quote).await? {
        Admission::Admitted(ticket) => {
            ticket.charge(PRICE, None).await?;
            Ok(())
        }
        other => bail!("not admitted: {other:?}"),
    }
}

/// Many channels pay at the same time, each one request after another; then all is claimed.
async fn through_the_desk(
    chain: &Embedded,
    store: Store,
    receiver: u64,
    (how, verified): (&str, f64),
    size: &Size,
) -> Result<()> {
    let mut tasks = Tasks::new();
    let till = open_till(chain, &store, receiver, &mut tasks).await?;
    let asset = asset(receiver);
    let terms = Arc::new(asset.terms());
    let mut work = Vec::new();
    for salt in 0..size.channels {
        let config = config(&asset, salt);
        pay(&till.desk, &terms, &payment(&asset, config, 0)).await?;
        let payments = (1..=size.vouchers).map(|count| payment(&asset, config, count));
        work.push(payments.collect::<Vec<_>>());
    }
    let stretch = Stretch::start()?;
    let mut payers = tokio::task::JoinSet::new();
    for payments in work {
        let (desk, terms) = (till.desk.clone(), Arc::clone(&terms));
        payers.spawn(async move {
            for payment in &payments {
                pay(&desk, &terms, payment).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(outcome) = payers.join_next().await {
        outcome??;
    }
    let (wall, processor) = stretch.end()?;
    let vouchers = (size.channels * size.vouchers) as f64;
    let per_core = vouchers / processor;
    let note = format!(
        "target 10,000; {vouchers} vouchers on {} channels, verified, admitted and charged, one \
         record each; limit: {:.0}% of the processor's time recovers signers, the rest passes \
         messages and writes records",
        size.channels,
        100.0 * per_core / verified
    );
    print(
        &format!("vouchers {how}, per core"),
        per_core,
        "vouchers/s/core",
        &note,
    );
    print(
        &format!("vouchers {how}, by the clock"),
        vouchers / wall,
        "vouchers/s",
        &note,
    );
    if how == "durable" {
        claim_gas(&till).await?;
    }
    Ok(())
}

async fn claim_gas(till: &Till) -> Result<()> {
    let reports = till.settlement.claim(true).await?;
    let report = reports.first().context("something is due")?;
    let (transaction, _) = report
        .outcome
        .as_ref()
        .map_err(|error| anyhow::anyhow!("{}", error.with_causes()))?;
    let escrow = till.escrows.get(CHAIN).context("the chain is open")?;
    let receipt = escrow.client().receipt(*transaction).await?;
    let gas = receipt.context("the claim is final")?.gas_used;
    let note = format!(
        "{gas} gas for a claim of {} channels with its transfer to the receiver",
        report.channels
    );
    print(
        "claim",
        gas as f64 / report.channels as f64,
        "gas/channel",
        &note,
    );
    Ok(())
}

/// Serves the same route with and without a price.
async fn serve(
    chain: &Embedded,
    store: &Store,
    receiver: u64,
    tasks: &mut Tasks,
) -> Result<String> {
    let till = open_till(chain, store, receiver, tasks).await?;
    let asset = asset(receiver);
    let price = Price {
        need: PRICE,
        ceiling: PRICE,
    };
    let gate = Gate {
        pricing: Box::new(FixedPrice(vec![(asset.asset, price)])),
        assets: vec![asset],
        desk: till.desk.clone(),
        cashier: till.cashier.clone(),
        replies: till.replies.clone(),
        base_url: None,
        description: None,
        environment: Arc::new(SystemEnvironment),
    };
    let hello = || async { "hello" };
    let router = Router::new()
        .route("/paid", get(hello))
        .layer(PaidLayer(Arc::new(gate)))
        .route("/free", get(hello));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let base = format!("http://{}", listener.local_addr()?);
    tasks.spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            eprintln!("the server stopped: {error}");
        }
        "the server"
    });
    Ok(base)
}

/// The time that a payment adds, over one connection, a paid and a free request in turn.
async fn latency(
    chain: &Embedded,
    store: Store,
    (receiver, how, commit_ms): (u64, &str, f64),
    size: &Size,
) -> Result<()> {
    let mut tasks = Tasks::new();
    let base = serve(chain, &store, receiver, &mut tasks).await?;
    let asset = asset(receiver);
    let config = config(&asset, 0);
    let price = Price {
        need: PRICE,
        ceiling: PRICE,
    };
    let headers: Result<Vec<String>, _> = (0..=size.requests)
        .map(|count| {
            encode_header(&PaymentPayload {
                x402_version: Version,
                resource: None,
                accepted: asset.batch_requirements(price),
                payload: payment(&asset, config, count),
                extensions: Extensions::new(),
            })
        })
        .collect();
    let http = hearth_payments::http::client()?;
    let (mut paid, mut free) = (Vec::new(), Vec::new());
    for (count, header) in headers?.into_iter().enumerate() {
        let request = http
            .get(format!("{base}/paid"))
            .header(PAYMENT_SIGNATURE, header);
        let paid_time = timed(request).await?;
        let free_time = timed(http.get(format!("{base}/free"))).await?;
        // The first deposits and makes the connection.
        if count > 0 {
            paid.push(paid_time);
            free.push(free_time);
        }
    }
    paid.sort();
    free.sort();
    let ms = |times: &[Duration], share: f64| {
        let index = ((times.len() - 1) as f64 * share) as usize;
        times[index].as_secs_f64() * 1_000.0
    };
    let note = format!(
        "{} paid and as many free requests in turn, one connection; target for the median added \
         is under 1 ms; limit: a commit before the statement, {commit_ms:.2} ms when alone, and \
         the wakes of threads around it",
        size.requests
    );
    for (name, share) in [("median", 0.5), ("99th percentile", 0.99)] {
        let (with, without) = (ms(&paid, share), ms(&free, share));
        print(
            &format!("a free request beside {how}, {name}"),
            without,
            "ms",
            &note,
        );
        print(
            &format!("a payment {how} adds, {name}"),
            with - without,
            "ms",
            &note,
        );
    }
    Ok(())
}

async fn timed(request: reqwest::RequestBuilder) -> Result<Duration> {
    let started = Instant::now();
    let response = request.send().await?;
    ensure!(response.status() == 200, "refused: {}", response.status());
    response.bytes().await?;
    Ok(started.elapsed())
}
