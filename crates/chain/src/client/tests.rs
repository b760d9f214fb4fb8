//! The client against an endpoint that is slow, wrong, busy or broken.

use alloy_primitives::Address;

use super::*;
use crate::bindings::Settlement;
use crate::scripted::{HostileServer, Reply, ScriptedChain, TestEnvironment};

const CHAIN_ID: u64 = 31_337;
const CHAIN: ChainId = ChainId(CHAIN_ID);

struct Scene {
    server: HostileServer,
    environment: Arc<TestEnvironment>,
    client: ChainClient,
}

async fn scene_with(options: HttpOptions) -> Scene {
    let server = HostileServer::start(ScriptedChain::new(CHAIN_ID)).await;
    let environment = Arc::new(TestEnvironment::default());
    let client = ChainClient::http_in(
        vec![server.url.clone()],
        CHAIN,
        options,
        Arc::<TestEnvironment>::clone(&environment),
    )
    .unwrap();
    Scene {
        server,
        environment,
        client,
    }
}

async fn scene() -> Scene {
    scene_with(HttpOptions::default()).await
}

#[tokio::test]
async fn a_good_endpoint_is_asked_for_its_chain_once() {
    let scene = scene().await;
    scene.server.chain.mine_empty();
    for _ in 0..3 {
        assert_eq!(scene.client.head().await.unwrap().number, 1);
    }
    assert_eq!(scene.server.calls("eth_chainId"), 1);
    assert!(scene.environment.waits().is_empty());
}

#[tokio::test]
async fn a_wrong_chain_is_refused_and_said() {
    let scene = scene().await;
    scene.server.chain.set_chain_id(1);
    let error = scene.client.head().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WrongChain);
    assert!(
        error.to_string().contains("eip155:1,") && error.to_string().contains("eip155:31337"),
        "{error}"
    );
    assert_eq!(
        scene.server.calls("eth_getBlockByNumber"),
        0,
        "nothing else may be asked"
    );

    scene.server.chain.set_chain_id(CHAIN_ID);
    scene
        .client
        .head()
        .await
        .expect("a corrected endpoint works without a restart");
}

#[tokio::test]
async fn an_endpoint_that_changes_chains_is_found_out_after_a_failure() {
    let scene = scene().await;
    scene.client.head().await.unwrap();
    scene.server.chain.set_chain_id(1);
    scene.server.then("eth_getBlockByNumber", Reply::Garbage);
    assert_eq!(
        scene.client.head().await.unwrap_err().kind(),
        ErrorKind::Malformed
    );
    assert_eq!(
        scene.client.head().await.unwrap_err().kind(),
        ErrorKind::WrongChain
    );
}

#[tokio::test]
async fn a_busy_endpoint_is_left_alone_as_long_as_it_asks() {
    let scene = scene().await;
    scene.server.then("", Reply::Status(429, Some(7)));
    scene.client.head().await.unwrap();
    let waits = scene.environment.waits();
    assert_eq!(waits.len(), 1);
    assert!(waits[0] >= Duration::from_secs(7), "{waits:?}");
}

#[tokio::test]
async fn a_retry_after_beyond_patience_ends_the_call() {
    let scene = scene().await;
    scene.server.then("", Reply::Status(429, Some(86_400)));
    let error = scene.client.head().await.unwrap_err();
    assert!(error.is_retryable());
    assert!(
        matches!(
            error,
            ChainError::Unavailable {
                attempts: 1,
                retry_after: Some(_),
                ..
            }
        ),
        "{error}"
    );
    assert!(scene.environment.waits().is_empty());
}

#[tokio::test]
async fn what_may_pass_is_retried() {
    for reply in [
        Reply::Status(503, None),
        Reply::Status(500, None),
        Reply::Truncated,
        Reply::Error(-32005, "limit exceeded"),
        Reply::Error(429, "slow down"),
    ] {
        let scene = scene().await;
        scene.server.then("", reply.clone());
        scene.server.then("eth_getBlockByNumber", reply.clone());
        scene
            .client
            .head()
            .await
            .unwrap_or_else(|error| panic!("{reply:?}: {error}"));
        assert_eq!(scene.environment.waits().len(), 2, "{reply:?}");
    }
}

#[tokio::test]
async fn a_slow_endpoint_is_given_up_after_bounded_tries() {
    let retry = RetryPolicy {
        max_attempts: 3,
        ..RetryPolicy::default()
    };
    let options = HttpOptions {
        timeout: Duration::from_millis(50),
        retry,
        ..HttpOptions::default()
    };
    let scene = scene_with(options).await;
    for _ in 0..3 {
        scene.server.then("", Reply::Silence);
    }
    let error = scene.client.head().await.unwrap_err();
    assert!(
        matches!(error, ChainError::Unavailable { attempts: 3, .. }),
        "{error}"
    );
    assert!(error.to_string().contains("timed out"), "{error}");
}

#[tokio::test]
async fn an_endpoint_that_is_gone_is_retryable_and_says_so() {
    let scene = scene().await;
    let (server, client) = (scene.server, scene.client);
    drop(server);
    let error = client.head().await.unwrap_err();
    assert!(error.is_retryable(), "{error}");
    assert!(
        error.to_string().contains("check that it is running"),
        "{error}"
    );
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_at_once() {
    let options = HttpOptions {
        max_response_bytes: 64 << 10,
        ..HttpOptions::default()
    };
    for reply in [
        Reply::Garbage,
        Reply::Endless,
        Reply::Result(json!("not a block")),
        Reply::Result(json!({ "number": "0x1", "hash": "0x12" })),
    ] {
        let scene = scene_with(options).await;
        scene.server.then("eth_getBlockByNumber", reply.clone());
        let error = scene.client.head().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Malformed, "{reply:?}: {error}");
        assert!(scene.environment.waits().is_empty(), "{reply:?}");
    }
}

#[tokio::test]
async fn a_refusal_is_passed_on_with_its_words() {
    let scene = scene().await;
    let address = Address::repeat_byte(7);
    scene.server.chain.revert_calls_to(address);
    let error = scene
        .client
        .call(address, Bytes::new(), BlockAt::Latest)
        .await
        .unwrap_err();
    assert!(
        matches!(&error, ChainError::Reverted { revert, .. } if revert.to_string() == "not today"),
        "{error}"
    );
    assert_eq!(error.kind(), ErrorKind::Refused);

    scene
        .server
        .then("eth_getBlockByNumber", Reply::Status(302, None));
    let error = scene.client.head().await.unwrap_err();
    assert!(error.to_string().contains("redirects"), "{error}");
}

#[tokio::test]
async fn a_receipt_of_another_transaction_is_not_believed() {
    let scene = scene().await;
    let receipt = json!({
        "transactionHash": B256::repeat_byte(1), "blockNumber": "0x1", "blockHash": B256::repeat_byte(2),
        "status": "0x1", "gasUsed": "0x1", "contractAddress": null, "logs": [],
    });
    scene
        .server
        .then("eth_getTransactionReceipt", Reply::Result(receipt));
    let error = scene
        .client
        .receipt(B256::repeat_byte(9))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Malformed);
    assert_eq!(
        scene.client.receipt(B256::repeat_byte(9)).await.unwrap(),
        None,
        "a null receipt is no receipt"
    );
}

#[tokio::test]
async fn no_answer_carries_the_address_of_the_endpoint() {
    let server = HostileServer::start(ScriptedChain::new(CHAIN_ID)).await;
    let mut url = server.url.clone();
    url.set_path("/secret-key");
    let client = ChainClient::http(url, CHAIN, HttpOptions::default()).unwrap();
    let refused = client.head().await.unwrap_err();
    assert!(!refused.to_string().contains("secret-key"), "{refused}");
}

#[tokio::test]
async fn another_endpoint_is_asked_when_one_fails_and_not_before_it_named_its_chain() {
    let first = HostileServer::start(ScriptedChain::new(CHAIN_ID)).await;
    let second = HostileServer::start(ScriptedChain::new(CHAIN_ID)).await;
    second.chain.mine_empty();
    let urls = vec![first.url.clone(), second.url.clone()];
    let environment = Arc::new(TestEnvironment::default());
    let client = ChainClient::http_in(urls, CHAIN, HttpOptions::default(), environment).unwrap();
    assert_eq!(client.head().await.unwrap().number, 0);
    first.then("", Reply::Status(503, None));
    assert_eq!(client.head().await.unwrap().number, 1);

    second.then("", Reply::Status(503, None));
    second.chain.set_chain_id(1);
    assert_eq!(client.head().await.unwrap().number, 0);
    first.then("", Reply::Status(503, None));
    assert_eq!(
        client.head().await.unwrap_err().kind(),
        ErrorKind::WrongChain
    );
}

/// What `eth_call` must answer for the settlement contract's `eip712Domain`.
fn domain(name: &str, chain_id: u64) -> Value {
    use alloy_sol_types::SolCall;
    let domain = Settlement::eip712DomainReturn {
        fields: alloy_primitives::FixedBytes([0x0f]),
        name: name.to_owned(),
        version: "1".to_owned(),
        chainId: alloy_primitives::U256::from(chain_id),
        verifyingContract: crate::bindings::SETTLEMENT_ADDRESS,
        salt: B256::ZERO,
        extensions: Vec::new(),
    };
    let bytes = Settlement::eip712DomainCall::abi_encode_returns(&domain);
    json!(Bytes::from(bytes))
}

#[tokio::test]
async fn a_chain_without_the_right_settlement_contract_is_named() {
    let scene = scene().await;
    let mut chains = Chains::default();
    chains.insert(Chain {
        client: scene.client.clone(),
        confirmations: 3,
    });
    let chain = chains.get(CHAIN).unwrap();
    let code = || Reply::Result(json!("0x6001"));
    let cases = [
        (vec![Reply::Result(json!("0x"))], Some("no contract")),
        (
            vec![
                code(),
                Reply::Result(domain("x402 Batch Settlement", CHAIN_ID)),
            ],
            None,
        ),
        (
            vec![code(), Reply::Result(domain("Somebody Else", CHAIN_ID))],
            Some("another contract"),
        ),
        (
            vec![code(), Reply::Result(domain("x402 Batch Settlement", 1))],
            Some("another contract"),
        ),
        (
            vec![code(), Reply::Result(json!("0x"))],
            Some("another contract"),
        ),
    ];
    for (replies, expected) in cases {
        for (method, reply) in ["eth_getCode", "eth_call"].into_iter().zip(replies) {
            scene.server.then(method, reply);
        }
        let outcome = chain.check_settlement().await;
        let said = outcome
            .as_ref()
            .map_or_else(ToString::to_string, |()| String::new());
        match expected {
            None => outcome.unwrap(),
            Some(words) => assert!(said.contains(words), "{words}: {said}"),
        }
    }
    assert!(
        chains
            .get(ChainId(1))
            .is_err_and(|error| error.to_string().contains("eip155:1 "))
    );
}

/// A block as an endpoint writes it.
fn block(number: &str, hash: B256) -> serde_json::Value {
    let (parent, timestamp) = (B256::ZERO, "0x1");
    serde_json::json!({ "number": number, "hash": hash, "parentHash": parent, "timestamp": timestamp })
}

#[tokio::test]
async fn an_answer_about_something_else_than_was_asked_is_not_believed() {
    let asked = B256::repeat_byte(1);
    let other = B256::repeat_byte(2);
    let scene = scene().await;
    let is_malformed =
        |error: ChainError| assert_eq!(error.kind(), ErrorKind::Malformed, "{error}");
    let answers = |method: &'static str, answer: serde_json::Value| {
        scene.server.then(method, Reply::Result(answer));
    };

    answers("eth_getBlockByHash", block("0x5", other));
    is_malformed(scene.client.block(BlockAt::Hash(asked)).await.unwrap_err());
    answers("eth_getBlockByNumber", block("0x6", asked));
    is_malformed(scene.client.block(BlockAt::Number(5)).await.unwrap_err());
    answers("eth_getBlockByNumber", block("0x6", asked));
    is_malformed(scene.client.blocks(&[5]).await.unwrap_err());

    let log = |of: B256| {
        serde_json::json!([{
            "address": Address::ZERO, "topics": [], "data": "0x", "blockNumber": "0x5", "blockHash": of,
            "transactionHash": of, "transactionIndex": "0x0", "logIndex": "0x0", "removed": false,
        }])
    };
    let filter = alloy_rpc_types_eth::Filter::new();
    answers("eth_getLogs", log(other));
    is_malformed(
        scene
            .client
            .logs_of_blocks(&filter, &[asked])
            .await
            .unwrap_err(),
    );
    answers("eth_getLogs", log(asked));
    assert_eq!(
        scene
            .client
            .logs_of_blocks(&filter, &[asked])
            .await
            .unwrap()[0]
            .len(),
        1
    );

    let receipt = |of: B256, log_of: B256| {
        serde_json::json!({
            "transactionHash": of, "blockNumber": "0x5", "blockHash": log_of, "status": "0x1",
            "gasUsed": "0x1", "contractAddress": null, "logs": log(log_of),
        })
    };
    for (of, log_of) in [(other, other), (asked, other)] {
        answers("eth_getTransactionReceipt", receipt(of, log_of));
        is_malformed(scene.client.receipt(asked).await.unwrap_err());
    }
    answers("eth_getTransactionReceipt", receipt(asked, asked));
    assert!(scene.client.receipt(asked).await.unwrap().is_some());
}

#[tokio::test]
async fn numbers_that_no_chain_has_are_refused_and_not_cut() {
    let scene = scene().await;
    let huge = format!("0x{}", "f".repeat(64));
    let wrong = ["0x10000000000000000", &huge, "-0x1", "zz"];
    for number in wrong {
        let answer = block(number, B256::ZERO);
        scene
            .server
            .then("eth_getBlockByNumber", Reply::Result(answer));
        let error = scene.client.head().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Malformed, "{number}: {error}");
        let count = serde_json::json!(number);
        scene
            .server
            .then("eth_getTransactionCount", Reply::Result(count));
        let error = scene
            .client
            .nonce(Address::ZERO, BlockAt::Latest)
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Malformed, "{number}: {error}");
    }
}
