//! Replies against the specification of Ethereum's JSON-RPC (ethereum/execution-apis): the fields that it demands, the forms
//! of numbers, and calls that say two things.

use alloy_consensus::{SignableTransaction, TxEip2930, TxEnvelope};
use alloy_eips::eip2718::Encodable2718;
use alloy_network::NetworkTransactionBuilder;
use alloy_rpc_types_eth::AccessListResult;
use alloy_signer::SignerSync;

use super::*;

/// Fields whose values are numbers, wherever they stand.
const NUMBERS: [&str; 29] = [
    "baseFeePerGas",
    "blobGasUsed",
    "blockNumber",
    "blockTimestamp",
    "chainId",
    "cumulativeGasUsed",
    "effectiveGasPrice",
    "excessBlobGas",
    "gas",
    "gasLimit",
    "gasPrice",
    "gasUsed",
    "logIndex",
    "maxFeePerGas",
    "maxPriorityFeePerGas",
    "number",
    "oldestBlock",
    "r",
    "reward",
    "s",
    "size",
    "status",
    "timestamp",
    "totalDifficulty",
    "transactionIndex",
    "type",
    "v",
    "value",
    "yParity",
];

const BLOCK: &[&str] = &[
    "hash",
    "parentHash",
    "sha3Uncles",
    "miner",
    "stateRoot",
    "transactionsRoot",
    "receiptsRoot",
    "logsBloom",
    "number",
    "gasLimit",
    "gasUsed",
    "timestamp",
    "extraData",
    "mixHash",
    "nonce",
    "size",
    "transactions",
    "uncles",
    "baseFeePerGas",
    "withdrawalsRoot",
    "withdrawals",
    "blobGasUsed",
    "excessBlobGas",
    "parentBeaconBlockRoot",
    "requestsHash",
];
const TRANSACTION: &[&str] = &[
    "blockHash",
    "blockNumber",
    "transactionIndex",
    "hash",
    "from",
    "to",
    "type",
    "nonce",
    "gas",
    "value",
    "input",
    "gasPrice",
    "maxFeePerGas",
    "maxPriorityFeePerGas",
    "accessList",
    "chainId",
    "yParity",
    "r",
    "s",
];
const RECEIPT: &[&str] = &[
    "type",
    "transactionHash",
    "transactionIndex",
    "blockHash",
    "blockNumber",
    "from",
    "to",
    "cumulativeGasUsed",
    "gasUsed",
    "contractAddress",
    "logs",
    "logsBloom",
    "status",
    "effectiveGasPrice",
];
const LOG: &[&str] = &[
    "removed",
    "logIndex",
    "transactionIndex",
    "transactionHash",
    "blockHash",
    "blockNumber",
    "blockTimestamp",
    "address",
    "data",
    "topics",
];

fn is_number(value: &Value) -> bool {
    let digits = value.as_str().and_then(|text| text.strip_prefix("0x"));
    digits.is_some_and(|digits| {
        let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        digits.bytes().all(is_hex)
            && (digits == "0" || !digits.is_empty() && !digits.starts_with('0'))
    })
}

/// Checks every number in a reply. A block's nonce is eight bytes; a transaction's is a number.
fn check_numbers(at: &str, value: &Value) {
    match value {
        Value::Array(values) => values.iter().for_each(|value| check_numbers(at, value)),
        Value::Object(fields) => {
            let is_block = fields.contains_key("mixHash");
            for (name, value) in fields {
                let is_one = NUMBERS.contains(&&**name) || (name == "nonce" && !is_block);
                match value {
                    Value::Array(values) if is_one => values.iter().for_each(|one| {
                        assert!(one.is_array() || is_number(one), "{at}: {name}: {one}")
                    }),
                    Value::Null => {}
                    value if is_one => assert!(is_number(value), "{at}: {name}: {value}"),
                    value => check_numbers(at, value),
                }
            }
        }
        _ => {}
    }
}

fn demand(at: &str, value: &Value, fields: &[&str]) {
    let object = value.as_object().unwrap_or_else(|| panic!("{at}: {value}"));
    for field in fields {
        assert!(object.contains_key(*field), "{at} lacks {field}: {value}");
    }
    check_numbers(at, value);
}

#[tokio::test]
async fn replies_have_every_field_that_is_demanded() {
    let chain = open();
    let provider = provider(&chain, key(0));
    let sent = provider.send_transaction(transfer(STRANGER, 30)).await;
    let receipt = sent.unwrap().get_receipt().await.unwrap();
    let (hash, block) = (receipt.transaction_hash, receipt.block_hash.unwrap());
    let first = |value: Value| value[0].clone();
    let same = |value: Value| value;
    let of_block = |value: Value| value["transactions"][0].clone();
    let log = |value: Value| value["logs"][0].clone();
    type Part = fn(Value) -> Value;
    let cases: [(&str, Value, Part, &[&str]); 14] = [
        ("eth_getBlockByNumber", json!(["0x1", false]), same, BLOCK),
        (
            "eth_getBlockByNumber",
            json!(["earliest", true]),
            same,
            BLOCK,
        ),
        ("eth_getBlockByHash", json!([block, true]), same, BLOCK),
        (
            "eth_getBlockByHash",
            json!([block, true]),
            of_block,
            TRANSACTION,
        ),
        ("eth_getTransactionByHash", json!([hash]), same, TRANSACTION),
        (
            "eth_getTransactionByBlockNumberAndIndex",
            json!(["0x1", "0x0"]),
            same,
            TRANSACTION,
        ),
        (
            "eth_getTransactionByBlockHashAndIndex",
            json!([block, "0x0"]),
            same,
            TRANSACTION,
        ),
        ("eth_getTransactionReceipt", json!([hash]), same, RECEIPT),
        ("eth_getTransactionReceipt", json!([hash]), log, LOG),
        ("eth_getBlockReceipts", json!(["0x1"]), first, RECEIPT),
        ("eth_getLogs", json!([{ "fromBlock": "0x0" }]), first, LOG),
        (
            "eth_feeHistory",
            json!(["0x2", "latest", [50]]),
            same,
            &["oldestBlock", "baseFeePerGas", "gasUsedRatio", "reward"],
        ),
        (
            "eth_feeHistory",
            json!(["0x0", "latest", []]),
            same,
            &["oldestBlock", "baseFeePerGas", "gasUsedRatio"],
        ),
        (
            "eth_createAccessList",
            json!([{ "to": STRANGER }]),
            same,
            &["accessList", "gasUsed"],
        ),
    ];
    for (method, params, part, fields) in cases {
        let reply = chain.request(method, params.clone()).unwrap();
        demand(&format!("{method} {params}"), &part(reply), fields);
    }
}

#[tokio::test]
async fn replies_that_are_a_number_are_one_in_the_form_that_is_demanded() {
    let chain = open();
    let block = chain.request("eth_getBlockByNumber", json!(["earliest", false]));
    let block = block.unwrap()["hash"].clone();
    for (method, params) in [
        ("eth_chainId", json!([])),
        ("eth_blockNumber", json!([])),
        ("eth_gasPrice", json!([])),
        ("eth_maxPriorityFeePerGas", json!([])),
        ("eth_blobBaseFee", json!([])),
        ("eth_getBalance", json!([STRANGER, "latest"])),
        ("eth_getTransactionCount", json!([STRANGER, "latest"])),
        ("eth_estimateGas", json!([{ "to": STRANGER }])),
        ("eth_getBlockTransactionCountByNumber", json!(["0x0"])),
        ("eth_getUncleCountByBlockHash", json!([block])),
        ("eth_newFilter", json!([{}])),
        ("eth_newBlockFilter", json!([])),
    ] {
        let reply = chain.request(method, params).unwrap();
        assert!(is_number(&reply), "{method}: {reply}");
    }
}

#[tokio::test]
async fn a_transaction_that_waits_has_its_place_as_null_and_its_fee_as_price() {
    let chain = open();
    let request = transfer(STRANGER, 30)
        .with_nonce(1)
        .with_chain_id(CHAIN_ID)
        .with_gas_limit(100_000)
        .with_max_fee_per_gas(7)
        .with_max_priority_fee_per_gas(3);
    let wallet = EthereumWallet::from(key(0));
    let raw = request.build(&wallet).await.unwrap().encoded_2718();
    let hash = chain.request("eth_sendRawTransaction", json!([Bytes::from(raw)]));
    let reply = chain.request("eth_getTransactionByHash", json!([hash.unwrap()]));
    let reply = reply.unwrap();
    demand("what waits", &reply, TRANSACTION);
    for field in ["blockHash", "blockNumber", "transactionIndex"] {
        assert_eq!(reply[field], Value::Null, "{field}");
    }
    assert_eq!(
        (&reply["gasPrice"], &reply["maxFeePerGas"]),
        (&json!("0x7"), &json!("0x7"))
    );
}

#[tokio::test]
async fn calls_of_an_unknown_type_or_with_the_fields_of_another_are_refused() {
    let chain = open();
    let list = json!([{ "address": STRANGER, "storageKeys": [B256::ZERO] }]);
    let authorization = json!({
        "chainId": "0x0", "address": STRANGER, "nonce": "0x0", "yParity": "0x0", "r": "0x1", "s": "0x1",
    });
    let without = |field: &str| {
        let mut authorization = authorization.clone();
        authorization.as_object_mut().unwrap().remove(field);
        json!([authorization])
    };
    let with = |field: &str, value: Value| {
        let mut authorization = authorization.clone();
        authorization[field] = value;
        json!([authorization])
    };
    let signed = json!([authorization]);
    for fields in [
        json!({ "type": "0x5" }),
        json!({ "type": "0x3" }),
        json!({ "type": "0x7f" }),
        json!({ "type": "0xff" }),
        json!({ "type": "0x100" }),
        json!({ "type": "0x02" }),
        json!({ "type": "0x0", "maxFeePerGas": "0x1" }),
        json!({ "type": "0x1", "maxPriorityFeePerGas": "0x1" }),
        json!({ "type": "0x2", "gasPrice": "0x1" }),
        json!({ "type": "0x0", "accessList": list }),
        json!({ "type": "0x2", "authorizationList": signed }),
        json!({ "type": "0x4" }),
        json!({ "accessList": {} }),
        json!({ "accessList": [{ "address": STRANGER }] }),
        json!({ "accessList": [{ "storageKeys": [] }] }),
        json!({ "accessList": [{ "address": "0x12", "storageKeys": [] }] }),
        json!({ "accessList": [{ "address": STRANGER, "storageKeys": ["0x1"] }] }),
        json!({ "authorizationList": without("yParity") }),
        json!({ "authorizationList": without("address") }),
        json!({ "authorizationList": with("nonce", json!("0x01")) }),
        json!({ "authorizationList": with("r", json!("1")) }),
    ] {
        let mut call = json!({ "to": STRANGER });
        call.as_object_mut()
            .unwrap()
            .extend(fields.as_object().unwrap().clone());
        for method in ["eth_call", "eth_estimateGas", "eth_createAccessList"] {
            let error = chain.request(method, json!([call, "latest"])).unwrap_err();
            assert_eq!(
                error.code,
                RpcError::INVALID_PARAMS,
                "{method} {fields}: {error}"
            );
        }
    }
    for fields in [
        json!({ "type": "0x0", "gasPrice": "0x1", "accessList": [] }),
        json!({ "type": "0x1", "accessList": list }),
        json!({ "type": "0x2", "maxFeePerGas": "0x1", "accessList": list }),
        json!({ "type": "0x4", "authorizationList": signed }),
        json!({ "authorizationList": signed }),
        json!({ "type": null }),
    ] {
        let mut call = json!({ "to": STRANGER });
        call.as_object_mut()
            .unwrap()
            .extend(fields.as_object().unwrap().clone());
        let reply = chain.request("eth_call", json!([call, "latest"]));
        assert_eq!(reply.unwrap(), json!("0x"), "{fields}");
    }
}

#[tokio::test]
async fn slots_of_a_state_override_have_their_whole_length() {
    let chain = open();
    let word = B256::repeat_byte(1);
    for (kind, slots) in [
        ("state", json!({ "0x1": word })),
        ("stateDiff", json!({ word.to_string(): "0x1" })),
        ("stateDiff", json!({ &word.to_string()[2..]: word })),
        ("state", json!([])),
    ] {
        let change = json!({ STRANGER.to_string(): { kind: slots } });
        let error = chain.request("eth_call", json!([{ "to": STRANGER }, "latest", change]));
        let code = error.unwrap_err().code;
        assert_eq!(code, RpcError::INVALID_PARAMS, "{kind} {slots}");
    }
}

#[tokio::test]
async fn an_access_list_costs_the_gas_that_was_said() {
    let chain = open();
    let call = transfer(STRANGER, 30);
    let input = call.input.input().unwrap().clone();
    let asked = json!([{ "from": key(0).address(), "to": TEST_DOLLAR_ADDRESS, "input": input }]);
    let reply = chain.request("eth_createAccessList", asked).unwrap();
    let made: AccessListResult = serde_json::from_value(reply).unwrap();
    assert_eq!(made.error, None);
    let [token] = &made.access_list.0[..] else {
        panic!("{made:?}")
    };
    assert_eq!(token.address, TEST_DOLLAR_ADDRESS);
    assert_eq!(token.storage_keys.len(), 2, "what both have");
    let transaction = TxEip2930 {
        chain_id: CHAIN_ID,
        gas_limit: 200_000,
        to: TEST_DOLLAR_ADDRESS.into(),
        input,
        access_list: made.access_list.clone(),
        ..TxEip2930::default()
    };
    let signature = key(0)
        .sign_hash_sync(&transaction.signature_hash())
        .unwrap();
    let raw = TxEnvelope::from(transaction.into_signed(signature)).encoded_2718();
    let hash = chain
        .request("eth_sendRawTransaction", json!([Bytes::from(raw)]))
        .unwrap();
    let receipt = chain
        .request("eth_getTransactionReceipt", json!([hash]))
        .unwrap();
    assert_eq!(receipt["status"], json!("0x1"));
    assert_eq!(receipt["gasUsed"], json!(made.gas_used));

    // One that fails says so, and still has a list.
    let call = transfer(STRANGER, 1_000_000);
    let asked = json!([{ "from": key(0).address(), "to": TEST_DOLLAR_ADDRESS, "input": call.input.input() }]);
    let reply = chain.request("eth_createAccessList", asked).unwrap();
    assert_eq!(reply["error"], json!("execution reverted"));
    assert_eq!(
        reply["accessList"][0]["address"],
        json!(TEST_DOLLAR_ADDRESS)
    );
}

#[tokio::test]
async fn what_is_not_there_is_no_proof() {
    let chain = open();
    let error = chain
        .request("eth_getProof", json!([STRANGER, [], "latest"]))
        .unwrap_err();
    assert_eq!(error.code, RpcError::METHOD_NOT_FOUND);
    assert!(error.message.contains("no proofs"), "{error}");
}
