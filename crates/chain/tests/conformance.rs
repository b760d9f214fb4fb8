//! One suite for every chain that Hearth works with: what the product relies on, done through its own client, sender
//! and index. It runs on the embedded chain always, and on anvil and hardhat where they are installed.
//!
//! Reorganisations are not here: none of the three can be asked for one in the same words. They are tested against a
//! scripted endpoint beside the code.

#![cfg(feature = "evm")]
#![allow(
    clippy::unwrap_used,
    reason = "a test that meets the unexpected should fail there"
)]

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex},
    time::Duration,
};

use alloy_consensus::{SignableTransaction, TxEip1559};
use alloy_eips::eip2718::Encodable2718;
use alloy_network::TxSigner;
use alloy_primitives::{Address, B256, Bytes, TxKind, U256, aliases::U40};
use alloy_signer::SignerSync;
use alloy_signer_local::PrivateKeySigner;
use alloy_sol_types::{SolCall, SolValue};
use hearth_chain::{
    bindings::{
        COLLECTOR_ADDRESS, SETTLEMENT_ADDRESS, Settlement, TestDollar, collector_runtime,
        settlement_runtime, test_dollar_init,
    },
    client::{BlockAt, Chain, ChainClient, ChainError, HttpOptions, OnchainChannel, TxReceipt},
    embedded::{Embedded, EmbeddedConfig, Genesis},
    index::{EventIndex, IndexConfig, IndexConsumer, IndexEvent, LogFilter, SettlementEvent},
    sender::{IntentId, RedbJournal, SendError, Sender, SenderConfig, TxIntent},
};
use hearth_protocol::{
    eip712::{
        ChannelConfig, ReceiveWithAuthorization, SettlementDomain, TokenDomain, deposit_nonce,
    },
    id::ChainId,
    money::Amount,
};
use redb::{Builder, Database, WriteTransaction, backends::InMemoryBackend};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    task::JoinSet,
};

/// The longest that one wait of this suite takes; each says what for.
const PATIENCE: Duration = Duration::from_secs(120);

/// Keys that anvil and hardhat give coin to; they hold nothing anywhere else.
const SENDER_KEY: &str = "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80";
const PAYER_KEY: &str = "0x59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d";
const RECEIVER_KEY: &str = "0x5de4111afa1a4b94908f83103eb1f1706367c2e68ca870fc3fb9a804cdab365a";

const WITHDRAW_DELAY_S: u64 = 900;
const GAS_CAP: u64 = 1_000_000;

/// A chain to run the suite on.
struct Subject {
    client: ChainClient,
    /// The method that puts code at an address; `None` where genesis has done it.
    set_code: Option<&'static str>,
}

/// Everything the suite acts with.
struct World {
    client: ChainClient,
    sender: Sender,
    receiver_sender: Sender,
    payer: PrivateKeySigner,
    receiver: Address,
    token: Address,
    intents: u64,
    _tasks: JoinSet<()>,
}

fn key(text: &str) -> PrivateKeySigner {
    text.parse().unwrap()
}

async fn within<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work)
        .await
        .unwrap_or_else(|_| panic!("no end within {PATIENCE:?}: {what}"))
}

fn database() -> Arc<Database> {
    Arc::new(
        Builder::new()
            .create_with_backend(InMemoryBackend::new())
            .unwrap(),
    )
}

fn start_sender(client: &ChainClient, key: &PrivateKeySigner, tasks: &mut JoinSet<()>) -> Sender {
    let journal = Arc::new(RedbJournal::new(database()).unwrap());
    let config = SenderConfig {
        confirmations: 1,
        poll_interval_ms: 20,
        ..SenderConfig::default()
    };
    let (sender, task) =
        Sender::new(client.clone(), Arc::new(key.clone()), journal, config).unwrap();
    tasks.spawn(async move { task.run().await.unwrap() });
    sender
}

impl World {
    async fn on(subject: &Subject) -> Self {
        let client = subject.client.clone();
        if let Some(method) = subject.set_code {
            let places = [
                (SETTLEMENT_ADDRESS, settlement_runtime()),
                (COLLECTOR_ADDRESS, collector_runtime(SETTLEMENT_ADDRESS)),
            ];
            for (address, code) in places {
                client
                    .request::<Value>(method, json!([address, code]))
                    .await
                    .unwrap();
            }
        }
        let token = deploy(&client, &key(SENDER_KEY), test_dollar_init()).await;
        let mut tasks = JoinSet::new();
        let sender = start_sender(&client, &key(SENDER_KEY), &mut tasks);
        let receiver_sender = start_sender(&client, &key(RECEIVER_KEY), &mut tasks);
        let receiver = key(RECEIVER_KEY).address();
        let payer = key(PAYER_KEY);
        Self {
            client,
            sender,
            receiver_sender,
            payer,
            receiver,
            token,
            intents: 0,
            _tasks: tasks,
        }
    }

    fn intent(&self, to: Address, data: Vec<u8>) -> TxIntent {
        TxIntent {
            to,
            data: data.into(),
            value: U256::ZERO,
            gas_cap: GAS_CAP,
            deadline_ms: u64::MAX,
        }
    }

    async fn try_send(
        &mut self,
        sender: &Sender,
        to: Address,
        data: Vec<u8>,
    ) -> Result<TxReceipt, SendError> {
        self.intents += 1;
        let id = IntentId::new(format!("step-{}", self.intents)).unwrap();
        let intent = self.intent(to, data);
        let receipt = within("the transaction is final", sender.submit(id, intent)).await?;
        let whole = self.client.receipt(receipt.transaction_hash).await.unwrap();
        Ok(whole.expect("a final transaction has a receipt"))
    }

    /// Sends from the account that relays, which has no part in any channel.
    async fn relay(&mut self, to: Address, call: impl SolCall) -> Result<TxReceipt, SendError> {
        let sender = self.sender.clone();
        self.try_send(&sender, to, call.abi_encode()).await
    }

    async fn as_receiver(&mut self, call: impl SolCall) -> Result<TxReceipt, SendError> {
        let sender = self.receiver_sender.clone();
        self.try_send(&sender, SETTLEMENT_ADDRESS, call.abi_encode())
            .await
    }

    async fn dollars(&self, account: Address) -> u64 {
        self.client
            .balance_of(self.token, account)
            .await
            .unwrap()
            .to()
    }

    /// The relaying account signs vouchers too, so that it may start withdrawals.
    fn channel(&self, salt: u64) -> ChannelConfig {
        ChannelConfig {
            payer: self.payer.address(),
            payer_authorizer: key(SENDER_KEY).address(),
            receiver: self.receiver,
            receiver_authorizer: self.receiver,
            token: self.token,
            withdraw_delay: WITHDRAW_DELAY_S,
            salt: U256::from(salt).into(),
        }
    }

    async fn deposit(
        &mut self,
        config: &ChannelConfig,
        amount: u128,
        salt: u64,
    ) -> Result<TxReceipt, SendError> {
        let chain = self.client.chain();
        let now_s = self.client.head().await.unwrap().timestamp_s;
        let (salt, valid_before) = (U256::from(salt), U256::from(now_s + 3_600));
        let message = ReceiveWithAuthorization {
            from: config.payer,
            to: COLLECTOR_ADDRESS,
            value: U256::from(amount),
            validAfter: U256::ZERO,
            validBefore: valid_before,
            nonce: deposit_nonce(SettlementDomain::new(chain).channel_id(config), salt),
        };
        let domain = TokenDomain::new(chain, self.token, "Test Dollar (worthless)", "1");
        let signature = sign(&self.payer, domain.receive_digest(&message));
        let call = Settlement::depositCall {
            config: to_abi(config),
            amount,
            collector: COLLECTOR_ADDRESS,
            collectorData: (U256::ZERO, valid_before, salt, signature)
                .abi_encode_params()
                .into(),
        };
        self.relay(SETTLEMENT_ADDRESS, call).await
    }

    fn row(&self, config: &ChannelConfig, ceiling: u128, total: u128) -> Settlement::VoucherClaim {
        let domain = SettlementDomain::new(self.client.chain());
        let digest = domain.voucher_digest(domain.channel_id(config), Amount::new(ceiling));
        Settlement::VoucherClaim {
            voucher: Settlement::Voucher {
                channel: to_abi(config),
                maxClaimableAmount: ceiling,
            },
            signature: sign(&key(SENDER_KEY), digest),
            totalClaimed: total,
        }
    }

    async fn on_chain(&self, config: &ChannelConfig) -> OnchainChannel {
        let id = SettlementDomain::new(self.client.chain()).channel_id(config);
        self.client.channel(id.0).await.unwrap()
    }

    async fn pass(&self, seconds: u64) {
        self.client
            .request::<Value>("evm_increaseTime", json!([seconds]))
            .await
            .unwrap();
        self.client
            .request::<Value>("evm_mine", json!([]))
            .await
            .unwrap();
    }
}

fn sign(key: &PrivateKeySigner, digest: B256) -> Bytes {
    key.sign_hash_sync(&digest).unwrap().as_bytes().into()
}

fn to_abi(config: &ChannelConfig) -> Settlement::ChannelConfig {
    Settlement::ChannelConfig {
        payer: config.payer,
        payerAuthorizer: config.payer_authorizer,
        receiver: config.receiver,
        receiverAuthorizer: config.receiver_authorizer,
        token: config.token,
        withdrawDelay: U40::from(config.withdraw_delay),
        salt: config.salt,
    }
}

/// Creates a contract and returns its address.
async fn deploy(client: &ChainClient, key: &PrivateKeySigner, init: Bytes) -> Address {
    let nonce = client.nonce(key.address(), BlockAt::Latest).await.unwrap();
    let price = client.gas_price().await.unwrap();
    let mut transaction = TxEip1559 {
        chain_id: client.chain().0,
        nonce,
        gas_limit: 5_000_000,
        max_fee_per_gas: price * 2,
        to: TxKind::Create,
        input: init,
        ..TxEip1559::default()
    };
    let signature = key.sign_transaction(&mut transaction).await.unwrap();
    let raw: Bytes = transaction.into_signed(signature).encoded_2718().into();
    let hash = client.send_raw(&raw).await.unwrap();
    assert_eq!(
        client.send_raw(&raw).await.ok().unwrap_or(hash),
        hash,
        "sending the same again is harmless"
    );
    let receipt = within("the contract is deployed", async {
        loop {
            if let Some(receipt) = client.receipt(hash).await.unwrap() {
                return receipt;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert!(receipt.success);
    receipt
        .contract_address
        .expect("a creation names its contract")
}

/// The whole suite on one chain.
async fn conforms(subject: Subject) {
    let mut world = World::on(&subject).await;
    blocks_are_told_alike(&subject).await;
    Chain {
        client: world.client.clone(),
        confirmations: 1,
    }
    .check_settlement()
    .await
    .unwrap();
    tokens_move_and_refusals_have_reasons(&mut world).await;
    a_channel_is_filled_claimed_settled_and_refunded(&mut world).await;
    a_withdrawal_waits_for_its_delay(&mut world).await;
    the_index_tells_what_happened(&world).await;
    deposits_that_may_be_undone_are_not_final(&mut world).await;
}

async fn blocks_are_told_alike(subject: &Subject) {
    let right = subject.client.chain();
    let id: String = subject
        .client
        .request("eth_chainId", json!([]))
        .await
        .unwrap();
    assert_eq!(id, format!("{:#x}", right.0));
    let head = subject.client.head().await.unwrap();
    let same = subject
        .client
        .block(BlockAt::Hash(head.hash))
        .await
        .unwrap();
    assert_eq!(same, Some(head));
    assert_eq!(
        subject
            .client
            .block(BlockAt::Number(head.number + 1_000))
            .await
            .unwrap(),
        None
    );
}

async fn tokens_move_and_refusals_have_reasons(world: &mut World) {
    let (token, payer) = (world.token, world.payer.address());
    world
        .relay(
            token,
            TestDollar::mintCall {
                to: payer,
                value: U256::from(1_000),
            },
        )
        .await
        .unwrap();
    assert_eq!(world.dollars(payer).await, 1_000);

    let receipt = world
        .relay(
            token,
            TestDollar::transferCall {
                to: payer,
                value: U256::ZERO,
            },
        )
        .await
        .unwrap();
    assert_eq!(receipt.logs.len(), 1, "a transfer is logged");

    let too_much = TestDollar::transferCall {
        to: payer,
        value: U256::from(1),
    };
    let error = world.relay(token, too_much).await.unwrap_err();
    assert!(matches!(&error, SendError::WouldFail { .. }), "{error}");

    let nobody = Address::repeat_byte(0x42);
    let error = world.client.balance_of(nobody, payer).await.unwrap_err();
    assert!(matches!(error, ChainError::Malformed { .. }), "{error}");
    assert_eq!(world.client.code(nobody).await.unwrap(), Bytes::new());
}

async fn a_channel_is_filled_claimed_settled_and_refunded(world: &mut World) {
    let config = world.channel(1);
    let (payer, receiver) = (world.payer.address(), world.receiver);
    assert_eq!(world.on_chain(&config).await, OnchainChannel::default());
    world.deposit(&config, 500, 1).await.unwrap();
    assert_eq!(
        (
            world.dollars(payer).await,
            world.on_chain(&config).await.balance
        ),
        (500, 500)
    );

    let error = world.deposit(&config, 500, 1).await.unwrap_err();
    assert!(
        matches!(&error, SendError::WouldFail { .. }),
        "an authorization counts once: {error}"
    );

    let row = world.row(&config, 200, 201);
    let error = world
        .as_receiver(Settlement::claimCall {
            voucherClaims: vec![row],
        })
        .await
        .unwrap_err();
    let said = matches!(&error, SendError::WouldFail { reason } if reason == "ClaimExceedsCeiling");
    assert!(said, "the reason has a name: {error}");

    let row = world.row(&config, 200, 150);
    world
        .as_receiver(Settlement::claimCall {
            voucherClaims: vec![row],
        })
        .await
        .unwrap();
    let token = world.token;
    world
        .relay(
            SETTLEMENT_ADDRESS,
            Settlement::settleCall { receiver, token },
        )
        .await
        .unwrap();
    assert_eq!(world.dollars(receiver).await, 150);

    world
        .as_receiver(Settlement::refundCall {
            config: to_abi(&config),
            amount: 100,
        })
        .await
        .unwrap();
    let expected = OnchainChannel {
        balance: 400,
        total_claimed: 150,
        refund_nonce: U256::from(1),
        ..OnchainChannel::default()
    };
    assert_eq!(world.on_chain(&config).await, expected);
    assert_eq!(world.dollars(payer).await, 600);
}

async fn a_withdrawal_waits_for_its_delay(world: &mut World) {
    let config = world.channel(2);
    let payer = world.payer.address();
    world.deposit(&config, 100, 2).await.unwrap();
    let before = world.dollars(payer).await;
    let start = Settlement::initiateWithdrawCall {
        config: to_abi(&config),
        amount: 60,
    };
    world.relay(SETTLEMENT_ADDRESS, start).await.unwrap();
    let pending = world.on_chain(&config).await;
    assert_eq!(pending.withdraw_amount, 60);
    assert!(pending.withdraw_requested_at > 0);

    let finish = || Settlement::finalizeWithdrawCall {
        config: to_abi(&world.channel(2)),
    };
    let early = finish();
    let late = finish();
    let error = world.relay(SETTLEMENT_ADDRESS, early).await.unwrap_err();
    let said =
        matches!(&error, SendError::WouldFail { reason } if reason == "WithdrawDelayNotElapsed");
    assert!(said, "{error}");

    world.pass(WITHDRAW_DELAY_S + 1).await;
    world.relay(SETTLEMENT_ADDRESS, late).await.unwrap();
    assert_eq!(world.dollars(payer).await, before + 60);
    assert_eq!(world.on_chain(&config).await.balance, 40);
}

async fn deposits_that_may_be_undone_are_not_final(world: &mut World) {
    const CONFIRMATIONS: u64 = 3;
    let config = world.channel(3);
    let id = SettlementDomain::new(world.client.chain()).channel_id(&config);
    // All that is there, and of it what is final.
    let balances = async |world: &World| {
        let reading = world.client.channel_reading(id.0, CONFIRMATIONS).await;
        let reading = reading.unwrap();
        (reading.channel.balance, reading.final_balance)
    };
    let mine = async |world: &World| {
        let mined = world.client.request::<Value>("evm_mine", json!([]));
        mined.await.unwrap();
    };
    world.deposit(&config, 200, 3).await.unwrap();
    mine(world).await;
    assert_eq!(balances(world).await, (200, 0));
    mine(world).await;
    assert_eq!(balances(world).await, (200, 200));
    // A deposit beside a refund: without the deposit only 100 would be there.
    world.deposit(&config, 50, 4).await.unwrap();
    assert_eq!(balances(world).await, (250, 200));
    let refund = Settlement::refundCall {
        config: to_abi(&config),
        amount: 100,
    };
    world.as_receiver(refund).await.unwrap();
    assert_eq!(balances(world).await, (150, 100));
    mine(world).await;
    assert_eq!(balances(world).await, (150, 150));
    // Another channel's deposits are not its own.
    world.deposit(&world.channel(4), 60, 5).await.unwrap();
    assert_eq!(balances(world).await, (150, 150));
}

/// Collects what the index tells.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<SettlementEvent>>>);

impl IndexConsumer for Collector {
    fn apply(
        &mut self,
        _transaction: &WriteTransaction,
        event: &IndexEvent<'_>,
    ) -> Result<(), Box<redb::Error>> {
        if let IndexEvent::Applied(log) = event {
            self.0.lock().unwrap().extend(log.settlement());
        }
        Ok(())
    }
}

async fn the_index_tells_what_happened(world: &World) {
    let told = Collector::default();
    let config = IndexConfig {
        filters: vec![LogFilter::settlement()],
        poll_interval_ms: 20,
        ..IndexConfig::default()
    };
    let index = EventIndex::open(
        world.client.clone(),
        database(),
        config,
        Box::new(told.clone()),
    )
    .unwrap();
    let mut tip = index.tip();
    let head = world.client.head().await.unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { index.run().await.unwrap() });
    let reached = tip.wait_for(|tip| tip.is_some_and(|tip| tip.number >= head.number));
    within("the index reaches the head", reached).await.unwrap();
    drop(tasks);

    let names: Vec<&str> = told.0.lock().unwrap().iter().map(event_name).collect();
    assert_eq!(
        names,
        [
            "created",
            "deposited",
            "claimed",
            "settled",
            "refunded",
            "created",
            "deposited",
            "withdraw initiated",
            "withdraw finalized"
        ]
    );
}

fn event_name(event: &SettlementEvent) -> &'static str {
    match event {
        SettlementEvent::ChannelCreated { .. } => "created",
        SettlementEvent::ChannelClosed { .. } => "closed",
        SettlementEvent::Deposited { .. } => "deposited",
        SettlementEvent::Claimed { .. } => "claimed",
        SettlementEvent::Settled { .. } => "settled",
        SettlementEvent::Refunded { .. } => "refunded",
        SettlementEvent::WithdrawInitiated { .. } => "withdraw initiated",
        SettlementEvent::WithdrawFinalized { .. } => "withdraw finalized",
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_chain_conforms() {
    let genesis = Genesis::standard(Address::repeat_byte(0x11));
    let chain = Embedded::in_memory(EmbeddedConfig {
        dev_rpc: true,
        ..EmbeddedConfig::new(genesis)
    })
    .unwrap();
    let client = ChainClient::from_transport(chain.transport(), ChainId(chain.chain_id()));
    let other = ChainClient::from_transport(chain.transport(), ChainId(1));
    let error = other.head().await.unwrap_err();
    assert!(matches!(error, ChainError::WrongChain { .. }), "{error}");
    conforms(Subject {
        client,
        set_code: None,
    })
    .await;
}

/// Where the outside programs are.
fn outside() -> PathBuf {
    std::env::var_os("HEARTH_OUTSIDE")
        .expect("HEARTH_OUTSIDE is not set: run `cargo xtask test`, which installs the outside programs")
        .into()
}

/// Starts a program and reads its output until `ready` finds what it waits for.
async fn start<T>(mut command: Command, ready: impl Fn(&str) -> Option<T>) -> (Child, T) {
    let mut child = command
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let found = within("the node says that it listens", async {
        loop {
            let line = lines.next_line().await.unwrap().expect("the node runs on");
            if let Some(found) = ready(&line) {
                return found;
            }
        }
    })
    .await;
    // What it prints later is read and dropped, so that it never waits for us.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    (child, found)
}

const OUTSIDE_CHAIN: ChainId = ChainId(31_337);

fn over_http(url: &str) -> ChainClient {
    ChainClient::http(url.parse().unwrap(), OUTSIDE_CHAIN, HttpOptions::default()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs outside programs"]
async fn anvil_conforms() {
    // The program itself and not the wrapper that npm puts before it, so that a kill reaches it.
    let scope = outside().join("node_modules/@foundry-rs");
    let platform = std::fs::read_dir(&scope)
        .unwrap()
        .filter_map(Result::ok)
        .find(|entry| entry.file_name().to_string_lossy().starts_with("anvil-"))
        .expect("anvil is installed for this platform");
    let mut command = Command::new(platform.path().join("bin/anvil"));
    command.args(["--port", "0"]);
    let (_node, address) = start(command, |line| {
        line.strip_prefix("Listening on ").map(str::to_owned)
    })
    .await;
    let client = over_http(&format!("http://{}", address.trim()));
    conforms(Subject {
        client,
        set_code: Some("anvil_setCode"),
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs outside programs"]
async fn hardhat_conforms() {
    let script = Path::new(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../tests/outside/js/hardhat.mjs"
    ));
    let mut command = Command::new("node");
    command
        .arg(script)
        .arg(json!({ "chainId": OUTSIDE_CHAIN.0 }).to_string())
        .env("HEARTH_OUTSIDE", outside());
    let (_node, url) = start(command, |line| {
        let line: Value = serde_json::from_str(line).ok()?;
        Some(line["ready"].as_str()?.to_owned())
    })
    .await;
    conforms(Subject {
        client: over_http(&url),
        set_code: Some("hardhat_setCode"),
    })
    .await;
}
