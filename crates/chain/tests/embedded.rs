//! The embedded chain as its users see it: alloy in process, and JSON-RPC over HTTP.
#![cfg(feature = "evm")]
#![allow(
    clippy::unwrap_used,
    reason = "a test that meets the unexpected should fail there"
)]

#[path = "embedded/specification.rs"]
mod specification;

use std::sync::Arc;
use std::time::Duration;

use alloy_network::{EthereumWallet, TransactionBuilder};
use alloy_primitives::{Address, B256, Bytes, U256, address};
use alloy_provider::{Provider, ProviderBuilder};
use alloy_rpc_client::RpcClient;
use alloy_rpc_types_eth::{BlockNumberOrTag, Filter, TransactionRequest};
use alloy_signer_local::PrivateKeySigner;
use alloy_sol_types::{SolCall, SolEvent};
use hearth_chain::bindings::{
    COLLECTOR_ADDRESS, Ember, SETTLEMENT_ADDRESS, Settlement, TestDollar,
};
use hearth_chain::embedded::{
    Budget, EMBER_ADDRESS, Embedded, EmbeddedConfig, Genesis, Listener, Mining, RpcError,
    TEST_DOLLAR_ADDRESS, limits,
};
use hearth_environment::ManualEnvironment;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

const CHAIN_ID: u64 = 31_402;
/// 2026-01-01T00:00:00Z.
const START_S: u64 = 1_767_225_600;
/// How long any single wait of these tests may take.
const PATIENCE: Duration = Duration::from_secs(60);
const STRANGER: Address = address!("0x00000000000000000000000000000000000000aa");

fn key(index: u8) -> PrivateKeySigner {
    PrivateKeySigner::from_bytes(&B256::repeat_byte(index + 1)).unwrap()
}

fn config() -> (EmbeddedConfig, ManualEnvironment) {
    let clock = ManualEnvironment::new(START_S * 1_000);
    let genesis =
        Genesis::standard(key(9).address()).with_test_dollars(key(0).address(), U256::from(1_000));
    let config = EmbeddedConfig {
        chain_id: CHAIN_ID,
        environment: Arc::new(clock.clone()),
        ..EmbeddedConfig::new(genesis)
    };
    (config, clock)
}

fn open() -> Embedded {
    Embedded::in_memory(config().0).unwrap()
}

fn provider(chain: &Embedded, signer: PrivateKeySigner) -> impl Provider + use<> {
    ProviderBuilder::new()
        .wallet(EthereumWallet::from(signer))
        .connect_client(RpcClient::new(chain.transport(), true))
}

fn call_to(to: Address, call: impl SolCall) -> TransactionRequest {
    TransactionRequest::default()
        .with_to(to)
        .with_input(call.abi_encode())
}

fn transfer(to: Address, value: u64) -> TransactionRequest {
    call_to(
        TEST_DOLLAR_ADDRESS,
        TestDollar::transferCall {
            to,
            value: U256::from(value),
        },
    )
}

async fn dollars(provider: &impl Provider, account: Address, block: BlockNumberOrTag) -> U256 {
    let call = call_to(TEST_DOLLAR_ADDRESS, TestDollar::balanceOfCall { account });
    let output = provider.call(call).block(block.into()).await.unwrap();
    TestDollar::balanceOfCall::abi_decode_returns(&output).unwrap()
}

#[tokio::test]
async fn the_payment_contracts_stand_and_know_each_other() {
    let provider = provider(&open(), key(0));
    for address in [
        SETTLEMENT_ADDRESS,
        COLLECTOR_ADDRESS,
        EMBER_ADDRESS,
        TEST_DOLLAR_ADDRESS,
    ] {
        assert!(
            !provider.get_code_at(address).await.unwrap().is_empty(),
            "{address}"
        );
    }
    let collector = provider.get_code_at(COLLECTOR_ADDRESS).await.unwrap();
    assert_eq!(
        collector,
        hearth_chain::bindings::collector_runtime(SETTLEMENT_ADDRESS)
    );
    let output = provider
        .call(call_to(EMBER_ADDRESS, Ember::minterCall {}))
        .await
        .unwrap();
    assert_eq!(
        Ember::minterCall::abi_decode_returns(&output).unwrap(),
        key(9).address()
    );
    let output = provider
        .call(call_to(SETTLEMENT_ADDRESS, Settlement::eip712DomainCall {}))
        .await
        .unwrap();
    let domain = Settlement::eip712DomainCall::abi_decode_returns(&output).unwrap();
    assert_eq!(domain.verifyingContract, SETTLEMENT_ADDRESS);
    assert_eq!(domain.chainId, U256::from(CHAIN_ID));
}

#[tokio::test]
async fn an_account_without_native_coin_pays_with_a_token() {
    let provider = provider(&open(), key(0));
    assert_eq!(
        provider.get_balance(key(0).address()).await.unwrap(),
        U256::ZERO
    );
    let sent = provider
        .send_transaction(transfer(STRANGER, 30))
        .await
        .unwrap();
    let receipt = sent.get_receipt().await.unwrap();
    assert!(receipt.status());
    assert_eq!(receipt.effective_gas_price, 0);
    assert_eq!(
        dollars(&provider, STRANGER, BlockNumberOrTag::Latest).await,
        U256::from(30)
    );
    assert_eq!(
        dollars(&provider, STRANGER, BlockNumberOrTag::Earliest).await,
        U256::ZERO,
        "an old block answers with its own state"
    );
    let logs = provider
        .get_logs(&Filter::new().address(TEST_DOLLAR_ADDRESS).from_block(1))
        .await
        .unwrap();
    assert_eq!(logs.len(), 1);
    let event = TestDollar::Transfer::decode_log(&logs[0].inner).unwrap();
    assert_eq!((event.to, event.value), (STRANGER, U256::from(30)));
    assert_eq!(logs[0].transaction_hash, Some(receipt.transaction_hash));
}

#[tokio::test]
async fn a_block_says_what_its_parts_say() {
    let provider = provider(&open(), key(0));
    let sent = provider
        .send_transaction(transfer(STRANGER, 1))
        .await
        .unwrap();
    let receipt = sent.get_receipt().await.unwrap();
    let block = provider
        .get_block_by_number(1.into())
        .full()
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        block.header.hash,
        block.header.inner.hash_slow(),
        "the hash is the header's"
    );
    let transactions: Vec<_> = block
        .transactions
        .txns()
        .map(|it| it.inner.inner().clone())
        .collect();
    assert_eq!(
        block.header.transactions_root,
        alloy_consensus::proofs::calculate_transaction_root(&transactions)
    );
    let receipts = provider
        .get_block_receipts(1.into())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(receipts, [receipt]);
    let consensus: Vec<_> = receipts
        .into_iter()
        .map(|it| it.inner.into_primitives_receipt())
        .collect();
    assert_eq!(
        block.header.receipts_root,
        alloy_consensus::proofs::calculate_receipt_root(&consensus)
    );
    assert_eq!(block.header.timestamp, START_S);
    let parent = provider
        .get_block_by_hash(block.header.parent_hash)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(parent.header.number, 0);
}

#[tokio::test]
async fn a_revert_carries_its_data_and_an_estimate_is_enough() {
    let provider = provider(&open(), key(1));
    let error = provider
        .call(transfer(STRANGER, 1).with_from(key(1).address()))
        .await
        .unwrap_err();
    let payload = error.as_error_resp().unwrap();
    assert_eq!(payload.code, RpcError::REVERTED);
    assert!(
        payload.message.starts_with("execution reverted"),
        "{}",
        payload.message
    );
    assert!(payload.as_revert_data().is_some_and(|data| data.len() >= 4));

    let request = transfer(STRANGER, 1).with_from(key(0).address());
    let estimate = provider.estimate_gas(request.clone()).await.unwrap();
    let enough = provider
        .call(request.clone().with_gas_limit(estimate))
        .await;
    assert!(enough.is_ok(), "{enough:?}");
    let short = provider
        .call(request.with_gas_limit(estimate * 9 / 10))
        .await;
    assert!(
        short.is_err(),
        "an estimate is not far above what is needed"
    );
}

#[tokio::test]
async fn a_state_override_changes_one_call_only() {
    let chain = open();
    // Returns the native balance of the caller.
    let code = "0x333160005260206000f3";
    let call = json!({ "from": key(3).address(), "to": STRANGER });
    let overrides = json!({ STRANGER.to_string(): { "code": code }, key(3).address().to_string(): { "balance": "0x2a" } });
    let output = chain
        .request("eth_call", json!([call, "latest", overrides]))
        .unwrap();
    assert_eq!(output, json!(B256::from(U256::from(42)).to_string()));
    assert_eq!(
        chain.request("eth_getCode", json!([STRANGER])).unwrap(),
        json!("0x")
    );
}

#[tokio::test]
async fn calls_on_the_newest_block_run_at_the_present_time() {
    let (config, clock) = config();
    let chain = Embedded::in_memory(config).unwrap();
    // TIMESTAMP, returned.
    let overrides = json!({ STRANGER.to_string(): { "code": "0x4260005260206000f3" } });
    let time = |block: &str| {
        let output = chain
            .request("eth_call", json!([{ "to": STRANGER }, block, overrides]))
            .unwrap();
        serde_json::from_value::<U256>(output).unwrap().to::<u64>()
    };
    clock.advance_ms(90_000);
    assert_eq!(time("latest"), START_S + 90);
    clock.set_ms(0);
    assert_eq!(
        time("latest"),
        START_S,
        "time never falls behind the newest block"
    );
}

#[tokio::test]
async fn a_timer_mines_what_waits_and_a_restart_forgets_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("chain.redb");
    const NEVER_MS: u64 = 24 * 60 * 60 * 1_000;
    let waiting = EmbeddedConfig {
        mining: Mining::Every {
            interval_ms: NEVER_MS,
        },
        ..config().0
    };
    let chain = Embedded::open(&path, waiting).unwrap();
    let sender = provider(&chain, key(0));
    let hash = *sender
        .send_transaction(transfer(STRANGER, 5))
        .await
        .unwrap()
        .tx_hash();
    assert!(
        sender
            .get_transaction_receipt(hash)
            .await
            .unwrap()
            .is_none()
    );
    assert_eq!(
        sender
            .get_transaction_count(key(0).address())
            .pending()
            .await
            .unwrap(),
        1
    );
    assert_eq!(
        sender
            .get_transaction_count(key(0).address())
            .await
            .unwrap(),
        0
    );
    let pending = sender.get_transaction_by_hash(hash).await.unwrap().unwrap();
    assert_eq!(pending.block_number, None);
    drop(sender);
    drop(chain);

    let quick = EmbeddedConfig {
        mining: Mining::Every { interval_ms: 5 },
        ..config().0
    };
    let chain = Embedded::open(&path, quick).unwrap();
    let reader = provider(&chain, key(0));
    let mined = async {
        while reader
            .get_transaction_receipt(hash)
            .await
            .unwrap()
            .is_none()
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, mined)
        .await
        .expect("the waiting transfer is mined after a restart");
    assert_eq!(
        dollars(&reader, STRANGER, BlockNumberOrTag::Latest).await,
        U256::from(5)
    );
}

#[tokio::test]
async fn filters_report_each_thing_once() {
    let chain = open();
    let sender = provider(&chain, key(0));
    let filter = Filter::new().address(TEST_DOLLAR_ADDRESS);
    let logs = sender.new_filter(&filter).await.unwrap();
    let blocks = sender.new_block_filter().await.unwrap();
    let pending = chain
        .request("eth_newPendingTransactionFilter", json!([]))
        .unwrap();
    let receipt = sender
        .send_transaction(transfer(STRANGER, 5))
        .await
        .unwrap()
        .get_receipt()
        .await
        .unwrap();
    for expected in [1, 0] {
        let found = sender
            .get_filter_changes::<alloy_rpc_types_eth::Log>(logs)
            .await
            .unwrap();
        assert_eq!(found.len(), expected);
        let found = sender.get_filter_changes::<B256>(blocks).await.unwrap();
        assert_eq!(found, vec![receipt.block_hash.unwrap(); expected]);
        let found = chain
            .request("eth_getFilterChanges", json!([pending]))
            .unwrap();
        assert_eq!(found, json!(vec![receipt.transaction_hash; expected]));
    }
    assert_eq!(
        sender.get_filter_logs(logs).await.unwrap().len(),
        1,
        "the newest block alone when none is named"
    );
    assert!(sender.uninstall_filter(logs).await.unwrap());
    let gone = chain
        .request("eth_getFilterChanges", json!([logs]))
        .unwrap_err();
    assert!(
        gone.message.starts_with("filter not found"),
        "{}",
        gone.message
    );
}

#[test]
fn filters_are_bounded_and_expire() {
    let (config, clock) = config();
    let chain = Embedded::in_memory(config).unwrap();
    let install = || chain.request("eth_newBlockFilter", json!([]));
    let first = install().unwrap();
    for _ in 1..limits::MAX_FILTERS {
        install().unwrap();
    }
    assert_eq!(install().unwrap_err().code, RpcError::LIMIT_EXCEEDED);
    clock.advance_ms(limits::FILTER_EXPIRY_MS);
    assert!(
        chain
            .request("eth_getFilterChanges", json!([first]))
            .is_err()
    );
    install().unwrap();
}

#[test]
fn development_methods_are_offered_only_where_asked_for() {
    let chain = open();
    for method in [
        "evm_mine",
        "evm_increaseTime",
        "evm_setNextBlockTimestamp",
        "hardhat_mine",
    ] {
        assert_eq!(
            chain.request(method, json!([1])).unwrap_err().code,
            RpcError::METHOD_NOT_FOUND
        );
    }
    let chain = Embedded::in_memory(EmbeddedConfig {
        dev_rpc: true,
        ..config().0
    })
    .unwrap();
    let newest = |key: &str| {
        let block = chain
            .request("eth_getBlockByNumber", json!(["latest", false]))
            .unwrap();
        serde_json::from_value::<U256>(block[key].clone())
            .unwrap()
            .to::<u64>()
    };
    assert_eq!(
        chain.request("evm_increaseTime", json!([3_600])).unwrap(),
        json!(3_600)
    );
    chain.request("evm_mine", json!([])).unwrap();
    assert_eq!(
        (newest("number"), newest("timestamp")),
        (1, START_S + 3_600)
    );
    chain
        .request("evm_setNextBlockTimestamp", json!([START_S + 9_000]))
        .unwrap();
    chain.request("hardhat_mine", json!(["0x2"])).unwrap();
    assert_eq!(
        (newest("number"), newest("timestamp")),
        (3, START_S + 9_000)
    );
    assert!(
        chain
            .request("evm_setNextBlockTimestamp", json!([START_S]))
            .is_err(),
        "time does not run back"
    );
    assert_eq!(newest("number"), 3);
}

#[test]
fn a_closed_chain_says_so() {
    let chain = open();
    chain.shutdown();
    for method in ["eth_blockNumber", "evm_mine", "eth_getLogs"] {
        assert!(chain.request(method, json!([{}])).is_err(), "{method}");
    }
    assert!(
        chain
            .request("eth_blockNumber", json!([]))
            .unwrap_err()
            .message
            .contains("closed")
    );
}

#[test]
fn bad_parameters_have_their_own_error() {
    let chain = open();
    let cases = [
        ("eth_getBalance", json!([])),
        ("eth_getBalance", json!(["0x12"])),
        ("eth_getBalance", json!([STRANGER, "newest"])),
        ("eth_getBalance", json!({ "address": STRANGER })),
        ("eth_getStorageAt", json!([STRANGER, "zz"])),
        ("eth_call", json!(["hello"])),
        (
            "eth_call",
            json!([{ "to": STRANGER, "gasPrice": "0x1", "maxFeePerGas": "0x1" }]),
        ),
        (
            "eth_call",
            json!([{ "to": STRANGER }, "latest", {}, { "number": "0x1" }]),
        ),
        (
            "eth_call",
            json!([{ "to": STRANGER, "data": "0x01", "input": "0x02" }]),
        ),
        ("eth_sendRawTransaction", json!(["0x"])),
        ("eth_sendRawTransaction", json!(["0x02c0"])),
        ("eth_sendRawTransaction", json!([7])),
        (
            "eth_getLogs",
            json!([{ "fromBlock": "0x5", "toBlock": "0x1" }]),
        ),
        (
            "eth_getLogs",
            json!([{ "address": vec![STRANGER; 1], "topics": [[], [], [], [], []] }]),
        ),
        ("eth_feeHistory", json!(["0x4", "latest", [90.0, 10.0]])),
        ("eth_feeHistory", json!([])),
        ("eth_getLogs", json!([{ "address": [null] }])),
        ("eth_call", json!([{ "to": STRANGER, "chainId": "0x1" }])),
        (
            "eth_call",
            json!([{ "to": STRANGER, "gasPrice": "0x1", "maxPriorityFeePerGas": "0x1" }]),
        ),
        ("eth_getTransactionByBlockNumberAndIndex", json!(["latest"])),
        ("eth_chainId", json!([1, 2, 3, 4, 5, 6, 7, 8, 9])),
    ];
    for (method, params) in cases {
        let error = chain.request(method, params.clone()).unwrap_err();
        assert_eq!(
            error.code,
            RpcError::INVALID_PARAMS,
            "{method} {params}: {error}"
        );
    }
    let error = chain
        .request("eth_getBalance", json!([STRANGER, "0x99"]))
        .unwrap_err();
    assert_eq!(error.code, RpcError::REJECTED, "{error}");
    assert_eq!(
        chain
            .request("eth_getBlockByNumber", json!(["0x99", false]))
            .unwrap(),
        Value::Null
    );
    let error = chain.request("eth_sign", json!([])).unwrap_err();
    assert_eq!(error.code, RpcError::METHOD_NOT_FOUND);
}

/// A served chain, and what stops it.
struct Served {
    port: u16,
    stop: oneshot::Sender<()>,
    task: tokio::task::JoinHandle<std::io::Result<()>>,
}

async fn serve() -> Served {
    let listener = Listener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.address().port();
    let (stop, stopped) = oneshot::channel::<()>();
    let chain = open();
    let task = tokio::spawn(async move {
        let budget = Budget::of_process();
        chain
            .serve(listener, budget, async { drop(stopped.await) })
            .await
    });
    Served { port, stop, task }
}

impl Served {
    /// Sends one request as it is and returns the status and body of the reply.
    async fn raw(&self, head: &str, body: &[u8]) -> (u16, String) {
        let exchange = async {
            let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
            let head = format!(
                "{head}content-length: {}\r\nconnection: close\r\n\r\n",
                body.len()
            );
            stream.write_all(head.as_bytes()).await.unwrap();
            // A server that refuses early closes before it has read everything.
            drop(stream.write_all(body).await);
            let mut reply = Vec::new();
            drop(stream.read_to_end(&mut reply).await);
            String::from_utf8(reply).unwrap()
        };
        let reply = tokio::time::timeout(PATIENCE, exchange)
            .await
            .expect("the server answers");
        let (head, body) = reply
            .split_once("\r\n\r\n")
            .unwrap_or_else(|| panic!("not HTTP: {reply:?}"));
        (
            head.split(' ').nth(1).unwrap().parse().unwrap(),
            body.to_owned(),
        )
    }

    async fn post(&self, body: impl AsRef<[u8]>) -> (u16, String) {
        let head = "POST / HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n";
        self.raw(head, body.as_ref()).await
    }

    async fn json(&self, body: impl AsRef<[u8]>) -> Value {
        let (status, body) = self.post(body).await;
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}"))
    }
}

#[tokio::test]
async fn http_answers_requests_batches_and_notifications() {
    let server = serve().await;
    let reply = server
        .json(r#"{"jsonrpc":"2.0","id":"a","method":"eth_chainId"}"#)
        .await;
    assert_eq!(
        reply,
        json!({ "jsonrpc": "2.0", "id": "a", "result": "0x7aaa" })
    );
    let batch = r#"[{"jsonrpc":"2.0","id":1,"method":"eth_blockNumber","params":[]},{"jsonrpc":"2.0","method":"eth_chainId"},
        {"jsonrpc":"2.0","id":2,"method":"nothing"},5]"#;
    let reply = server.json(batch).await;
    let replies = reply.as_array().unwrap();
    assert_eq!(replies.len(), 3, "a notification has no reply: {reply}");
    assert_eq!(replies[0]["result"], "0x0");
    assert_eq!(replies[1]["error"]["code"], RpcError::METHOD_NOT_FOUND);
    assert_eq!(replies[2]["error"]["code"], RpcError::INVALID_REQUEST);
    let (status, body) = server
        .post(r#"{"jsonrpc":"2.0","method":"eth_chainId"}"#)
        .await;
    assert_eq!((status, body.as_str()), (204, ""));
    server.stop.send(()).unwrap();
    let stopped = tokio::time::timeout(PATIENCE, server.task)
        .await
        .expect("the server stops when told");
    stopped.unwrap().unwrap();
}

#[tokio::test]
async fn hostile_bodies_get_an_error_and_nothing_else() {
    let server = serve().await;
    let deep = format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"eth_call","params":{}{}}}"#,
        "[".repeat(50_000),
        "]".repeat(50_000)
    );
    let many = format!("[{}1]", "1,".repeat(limits::MAX_BATCH_REQUESTS));
    let cases: [(&[u8], i64); 12] = [
        (b"", RpcError::PARSE),
        (b"{", RpcError::PARSE),
        (b"\xff\xfe", RpcError::PARSE),
        (b"{} {}", RpcError::PARSE),
        (
            br#"{"jsonrpc":"2.0","id":1,"method":"eth_chai"#,
            RpcError::PARSE,
        ),
        (b"[]", RpcError::INVALID_REQUEST),
        (b"\"eth_chainId\"", RpcError::INVALID_REQUEST),
        (
            br#"{"id":1,"method":"eth_chainId"}"#,
            RpcError::INVALID_REQUEST,
        ),
        (
            br#"{"jsonrpc":"2.0","id":{},"method":"eth_chainId"}"#,
            RpcError::INVALID_REQUEST,
        ),
        (
            br#"{"jsonrpc":"2.0","id":1,"id":2,"method":"eth_chainId"}"#,
            RpcError::INVALID_REQUEST,
        ),
        (deep.as_bytes(), RpcError::INVALID_REQUEST),
        (many.as_bytes(), RpcError::INVALID_REQUEST),
    ];
    for (body, code) in cases {
        let shown = String::from_utf8_lossy(&body[..body.len().min(60)]).into_owned();
        let reply = server.json(body).await;
        assert_eq!(reply["error"]["code"], code, "{shown}: {reply}");
        // Where the fault leaves one id that can be read, the client is told which of its calls failed.
        let has_id = body.starts_with(br#"{"id":1,"#) || body == deep.as_bytes();
        let id = if has_id { json!(1) } else { Value::Null };
        assert_eq!(reply["id"], id, "{shown}");
    }
    let mixed = r#"[{"jsonrpc":"1.0","id":7,"method":"eth_chainId"},{"jsonrpc":"2.0","id":"x"},
        ["2.0",8,"eth_chainId"],{"jsonrpc":"2.0","id":9,"method":5}]"#;
    let replies = server.json(mixed).await;
    for (index, id) in [json!(7), json!("x"), Value::Null, json!(9)]
        .iter()
        .enumerate()
    {
        let reply = &replies[index];
        assert_eq!(reply["id"], *id, "{reply}");
        assert_eq!(reply["error"]["code"], RpcError::INVALID_REQUEST, "{reply}");
    }
    let (status, _) = server.post(vec![b' '; limits::MAX_BODY_BYTES + 1]).await;
    assert_eq!(status, 413);
    let alive = server
        .json(r#"{"jsonrpc":"2.0","id":1,"method":"eth_chainId"}"#)
        .await;
    assert_eq!(alive["result"], "0x7aaa");
}

#[tokio::test]
async fn a_web_page_of_another_site_is_kept_out() {
    let server = serve().await;
    let body = br#"{"jsonrpc":"2.0","id":1,"method":"eth_chainId"}"#;
    let cases = [
        (
            "host: evil.example\r\ncontent-type: application/json\r\n",
            403,
        ),
        (
            "host: 127.0.0.1.evil.example\r\ncontent-type: application/json\r\n",
            403,
        ),
        ("content-type: application/json\r\n", 400),
        (
            "host: localhost@evil.example\r\ncontent-type: application/json\r\n",
            400,
        ),
        (
            "host: localhost\r\norigin: https://evil.example\r\ncontent-type: application/json\r\n",
            403,
        ),
        (
            "host: localhost\r\norigin: null\r\ncontent-type: application/json\r\n",
            403,
        ),
        (
            "host: localhost\r\nsec-fetch-site: cross-site\r\ncontent-type: application/json\r\n",
            403,
        ),
        (
            "host: localhost\r\norigin: chrome-extension://wallet\r\nsec-fetch-site: cross-site\r\ncontent-type: application/json\r\n",
            200,
        ),
        (
            "host: localhost\r\ncontent-encoding: br\r\ncontent-type: application/json\r\n",
            415,
        ),
        ("host: localhost\r\ncontent-type: text/plain\r\n", 415),
        ("host: localhost\r\n", 415),
        (
            "host: [::1]:80\r\ncontent-type: application/json; charset=utf-8\r\n",
            200,
        ),
        (
            "host: 127.0.0.1:1234\r\ncontent-type: application/json\r\n",
            200,
        ),
    ];
    for (headers, expected) in cases {
        let (status, reply) = server
            .raw(&format!("POST / HTTP/1.1\r\n{headers}"), body)
            .await;
        assert_eq!(status, expected, "{headers}: {reply}");
    }
    let preflight = "OPTIONS / HTTP/1.1\r\nhost: localhost\r\norigin: https://evil.example\r\naccess-control-request-method: POST\r\n";
    let (status, _) = server.raw(preflight, b"").await;
    assert_eq!(status, 403, "no CORS preflight is answered");
}

#[tokio::test]
async fn only_loopback_is_served() {
    let listener = Listener::bind("0.0.0.0:0").await.unwrap();
    let budget = Budget::of_process();
    let error = open().serve(listener, budget, async {}).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
}

#[tokio::test]
async fn many_senders_share_blocks() {
    const SENDERS: u8 = 16;
    let chain = open();
    let mut tasks = tokio::task::JoinSet::new();
    for index in 20..20 + SENDERS {
        let sender = provider(&chain, key(index));
        tasks.spawn(async move {
            let mint = TestDollar::mintCall {
                to: key(index).address(),
                value: U256::from(index),
            };
            let sent = sender
                .send_transaction(call_to(TEST_DOLLAR_ADDRESS, mint))
                .await
                .unwrap();
            assert!(sent.get_receipt().await.unwrap().status());
        });
    }
    let all = tokio::time::timeout(PATIENCE, async {
        while tasks.join_next().await.transpose().unwrap().is_some() {}
    });
    all.await.expect("every sender gets its receipt");
    let reader = provider(&chain, key(0));
    for index in 20..20 + SENDERS {
        let held = dollars(&reader, key(index).address(), BlockNumberOrTag::Latest).await;
        assert_eq!(held, U256::from(index));
    }
    assert!(chain.block_number().unwrap() <= u64::from(SENDERS));
}

#[test]
fn code_is_the_size_that_was_compiled() {
    let chain = open();
    let code = chain
        .request("eth_getCode", json!([SETTLEMENT_ADDRESS, "latest"]))
        .unwrap();
    let code: Bytes = serde_json::from_value(code).unwrap();
    assert_eq!(code, hearth_chain::bindings::settlement_runtime());
}

#[test]
fn a_log_query_that_is_too_wide_names_a_range_that_is_answered() {
    let config = EmbeddedConfig {
        dev_rpc: true,
        ..config().0
    };
    let chain = Embedded::in_memory(config).unwrap();
    let blocks = limits::MAX_LOG_BLOCKS as u64 + 1;
    for start in (0..blocks).step_by(1_000) {
        let count = (blocks - start).min(1_000);
        chain.request("hardhat_mine", json!([count])).unwrap();
    }
    let logs = |filter: Value| chain.request("eth_getLogs", json!([filter]));
    let error = logs(json!({ "fromBlock": "0x0" })).unwrap_err();
    assert_eq!(error.code, RpcError::LIMIT_EXCEEDED);
    let last = limits::MAX_LOG_BLOCKS - 1;
    let named = format!("fromBlock 0x0 to toBlock {last:#x}");
    assert!(error.message.contains(&named), "{}", error.message);
    let narrower = json!({ "fromBlock": "0x0", "toBlock": format!("{last:#x}") });
    assert_eq!(logs(narrower).unwrap(), json!([]));
    let of_one_contract = json!({ "fromBlock": "0x0", "address": TEST_DOLLAR_ADDRESS });
    assert_eq!(logs(of_one_contract).unwrap(), json!([]));
}
