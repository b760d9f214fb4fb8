//! The forms of parameters, method by method, as the specification of Ethereum's JSON-RPC has them.
//!
//! Libraries that parse are lenient: they take numbers with leading zeros, bytes without `0x`, and more parameters
//! than a method has. A client that is wrong in such a way meets a public client one day that means something else,
//! so it is told here. Each method has its list; a method without one is left to [`super::dispatch`].

use alloy_primitives::U256;
use serde_json::Value;

use crate::embedded::RpcError;

/// The most characters of a value that an error repeats.
const SHOWN_CHARS_MAX: usize = 80;

/// What a parameter is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// Bytes of any number.
    Data,
    /// So many bytes.
    Bytes(usize),
    /// A number of at most 256 bits.
    Quantity,
    /// A number of at most 64 bits.
    Index,
    /// A number of at most 64 bits, which may be a number of JSON.
    Count,
    /// At most 32 bytes, as bytes or as a number.
    Slot,
    /// A tag, a number, a hash, or an object of EIP-1898.
    Block,
    /// A tag or a number.
    BlockNumber,
    Transaction,
    Overrides,
    Filter,
    /// Addresses with slots.
    AccessList,
    /// Lists of 32 bytes.
    Hashes,
    /// Signed by accounts that take on code.
    Authorizations,
    /// 32 bytes by 32 bytes.
    Slots,
    Bool,
    /// Whatever the method makes of it.
    Any,
}

/// The parameters of a method; nothing for one that is not known here.
fn forms(method: &str) -> Option<&'static [Form]> {
    use Form as F;
    Some(match method {
        "web3_clientVersion"
        | "net_version"
        | "net_listening"
        | "net_peerCount"
        | "eth_gasPrice"
        | "eth_maxPriorityFeePerGas"
        | "eth_blobBaseFee"
        | "eth_chainId"
        | "eth_syncing"
        | "eth_accounts"
        | "eth_blockNumber"
        | "eth_newBlockFilter" => &[],
        // Some clients ask for whole transactions, which are not sent; they see hashes.
        "eth_newPendingTransactionFilter" => &[F::Any],
        "web3_sha3" | "eth_sendRawTransaction" => &[F::Data],
        "eth_feeHistory" => &[F::Count, F::BlockNumber, F::Any],
        "eth_getBalance" | "eth_getTransactionCount" | "eth_getCode" => &[F::Bytes(20), F::Block],
        "eth_getStorageAt" => &[F::Bytes(20), F::Slot, F::Block],
        // The fourth, overrides of the block, is refused by the method in words of its own.
        "eth_call" | "eth_estimateGas" => &[F::Transaction, F::Block, F::Overrides, F::Any],
        "eth_createAccessList" => &[F::Transaction, F::Block],
        "eth_getTransactionByHash" | "eth_getTransactionReceipt" => &[F::Bytes(32)],
        "eth_getTransactionByBlockNumberAndIndex" => &[F::BlockNumber, F::Index],
        "eth_getTransactionByBlockHashAndIndex" => &[F::Bytes(32), F::Index],
        "eth_getBlockReceipts" => &[F::Block],
        "eth_getBlockByNumber" => &[F::BlockNumber, F::Bool],
        "eth_getBlockByHash" => &[F::Bytes(32), F::Bool],
        "eth_getBlockTransactionCountByNumber" | "eth_getUncleCountByBlockNumber" => {
            &[F::BlockNumber]
        }
        "eth_getBlockTransactionCountByHash" | "eth_getUncleCountByBlockHash" => &[F::Bytes(32)],
        "eth_getLogs" | "eth_newFilter" => &[F::Filter],
        "eth_getFilterChanges" | "eth_getFilterLogs" | "eth_uninstallFilter" => &[F::Quantity],
        _ => return None,
    })
}

/// Checks the parameters of a method.
///
/// # Errors
/// [`RpcError::INVALID_PARAMS`] with the first that is wrong.
pub(super) fn check(method: &str, params: &[Value]) -> Result<(), RpcError> {
    let Some(forms) = forms(method) else {
        return Ok(());
    };
    if params.len() > forms.len() {
        return Err(RpcError::invalid_params(format!(
            "too many arguments, want at most {}",
            forms.len()
        )));
    }
    for (index, (form, value)) in forms.iter().zip(params).enumerate() {
        form.check(value).map_err(|reason| {
            RpcError::invalid_params(format!("invalid argument {index}: {reason}"))
        })?;
    }
    Ok(())
}

type Checked = Result<(), String>;

impl Form {
    /// `null` stands for a value that is left out.
    fn check(self, value: &Value) -> Checked {
        match (self, value) {
            (_, Value::Null) | (Self::Any, _) => Ok(()),
            (Self::Data, _) => data(value, None),
            (Self::Bytes(length), _) => data(value, Some(length)),
            (Self::Quantity, _) => quantity(value, 256),
            (Self::Index, _) => quantity(value, 64),
            (Self::Count, Value::Number(number)) if number.is_u64() => Ok(()),
            (Self::Count, _) => quantity(value, 64),
            (Self::Slot, _) => slot(value),
            (Self::Block, Value::Object(fields)) => {
                each(fields, |name| match name {
                    "blockNumber" => Some(Self::BlockNumber),
                    "blockHash" => Some(Self::Bytes(32)),
                    "requireCanonical" => Some(Self::Bool),
                    _ => None,
                })?;
                let is_one = fields.contains_key("blockNumber") != fields.contains_key("blockHash");
                is_one
                    .then_some(())
                    .ok_or_else(|| "name either blockNumber or blockHash".to_owned())
            }
            (Self::Block, Value::String(text)) if text.len() == 66 => data(value, Some(32)),
            (Self::Block | Self::BlockNumber, _) => block_number(value),
            (Self::Transaction, Value::Object(fields)) => each(fields, transaction_field),
            (Self::Overrides, Value::Object(accounts)) => overrides(accounts),
            (Self::Filter, Value::Object(fields)) => filter(fields),
            (Self::AccessList, Value::Array(items)) => items
                .iter()
                .try_for_each(|item| whole(item, &ACCESS_LIST_ITEM)),
            (Self::Authorizations, Value::Array(items)) => items
                .iter()
                .try_for_each(|item| whole(item, &AUTHORIZATION)),
            (Self::Slots, Value::Object(slots)) => slots.iter().try_for_each(|(key, value)| {
                data(&Value::String(key.clone()), Some(32))?;
                data(value, Some(32))
            }),
            (Self::Hashes, Value::Array(hashes)) => {
                hashes.iter().try_for_each(|hash| data(hash, Some(32)))
            }
            (Self::AccessList | Self::Authorizations | Self::Hashes, _) => {
                Err(format!("a list is expected, not {}", shown(value)))
            }
            (Self::Transaction | Self::Overrides | Self::Filter | Self::Slots, _) => {
                Err(format!("an object is expected, not {}", shown(value)))
            }
            (Self::Bool, Value::Bool(_)) => Ok(()),
            (Self::Bool, _) => Err(format!("true or false is expected, not {}", shown(value))),
        }
    }
}

type Fields = serde_json::Map<String, Value>;

fn each(fields: &Fields, form: impl Fn(&str) -> Option<Form>) -> Checked {
    for (name, value) in fields {
        if let Some(form) = form(name) {
            let told = |reason| format!("{}: {reason}", short(name));
            form.check(value).map_err(told)?;
        }
    }
    Ok(())
}

/// The fields of an item of an access list.
const ACCESS_LIST_ITEM: [(&str, Form); 2] =
    [("address", Form::Bytes(20)), ("storageKeys", Form::Hashes)];

/// The fields of an authorization of EIP-7702.
const AUTHORIZATION: [(&str, Form); 6] = [
    ("chainId", Form::Quantity),
    ("address", Form::Bytes(20)),
    ("nonce", Form::Index),
    ("yParity", Form::Quantity),
    ("r", Form::Quantity),
    ("s", Form::Quantity),
];

/// Checks an object that must have all of these fields.
fn whole(value: &Value, fields: &[(&str, Form)]) -> Checked {
    let Value::Object(object) = value else {
        return Err(format!("an object is expected, not {}", shown(value)));
    };
    for (name, form) in fields {
        let value = object.get(*name).unwrap_or(&Value::Null);
        if value.is_null() {
            return Err(format!("{name} is missing"));
        }
        let told = |reason| format!("{name}: {reason}");
        form.check(value).map_err(told)?;
    }
    Ok(())
}

fn transaction_field(name: &str) -> Option<Form> {
    Some(match name {
        "from" | "to" => Form::Bytes(20),
        "gas" | "nonce" | "chainId" | "type" => Form::Index,
        "gasPrice" | "maxFeePerGas" | "maxPriorityFeePerGas" | "maxFeePerBlobGas" | "value" => {
            Form::Quantity
        }
        "data" | "input" => Form::Data,
        "accessList" => Form::AccessList,
        "authorizationList" => Form::Authorizations,
        _ => return None,
    })
}

fn overrides(accounts: &Fields) -> Checked {
    for (address, change) in accounts {
        data(&Value::String(address.clone()), Some(20))?;
        let Value::Object(fields) = change else {
            return Err(format!("an object is expected, not {}", shown(change)));
        };
        each(fields, |name| match name {
            "balance" => Some(Form::Quantity),
            "nonce" => Some(Form::Index),
            "code" => Some(Form::Data),
            "state" | "stateDiff" => Some(Form::Slots),
            _ => None,
        })?;
        // What is not known would be left out, and the call would not be the one that was meant.
        let known = [
            "balance",
            "nonce",
            "code",
            "state",
            "stateDiff",
            "movePrecompileToAddress",
        ];
        if let Some(name) = fields.keys().find(|name| !known.contains(&name.as_str())) {
            return Err(format!("{} is not an override of an account", short(name)));
        }
    }
    Ok(())
}

fn filter(fields: &Fields) -> Checked {
    each(fields, |name| match name {
        "fromBlock" | "toBlock" => Some(Form::BlockNumber),
        "blockHash" => Some(Form::Bytes(32)),
        _ => None,
    })?;
    let has = |name: &str| fields.get(name).is_some_and(|value| !value.is_null());
    if has("blockHash") && (has("fromBlock") || has("toBlock")) {
        return Err(
            "cannot specify both blockHash and fromBlock/toBlock, choose one or the other"
                .to_owned(),
        );
    }
    // A topic may be left open within its list; an address may not.
    let one_or_more = |value: &Value, length: usize| match value {
        Value::Array(values) => values.iter().try_for_each(|one| match one {
            Value::Null if length == 32 => Ok(()),
            one => data(one, Some(length)),
        }),
        Value::Null => Ok(()),
        one => data(one, Some(length)),
    };
    one_or_more(fields.get("address").unwrap_or(&Value::Null), 20)?;
    match fields.get("topics") {
        None | Some(Value::Null) => Ok(()),
        Some(Value::Array(topics)) if topics.len() <= 4 => {
            topics.iter().try_for_each(|topic| one_or_more(topic, 32))
        }
        Some(Value::Array(_)) => Err("exceed max topics: a log has at most 4".to_owned()),
        Some(other) => Err(format!("topics: a list is expected, not {}", shown(other))),
    }
}

fn block_number(value: &Value) -> Checked {
    match value.as_str() {
        Some("earliest" | "latest" | "pending" | "safe" | "finalized") => Ok(()),
        _ => quantity(value, 64),
    }
}

/// The hex digits of a value.
fn digits(value: &Value) -> Result<&str, String> {
    let text = value
        .as_str()
        .ok_or_else(|| format!("a hex string is expected, not {}", shown(value)))?;
    let digits = text
        .strip_prefix("0x")
        .ok_or_else(|| format!("hex string without 0x prefix: {}", shown(value)))?;
    if digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        Ok(digits)
    } else {
        Err(format!("invalid hex string: {}", shown(value)))
    }
}

fn quantity(value: &Value, bits_max: usize) -> Checked {
    let digits = digits(value)?;
    if digits.is_empty() {
        return Err("hex string \"0x\" is not a number; zero is \"0x0\"".to_owned());
    }
    if digits.len() > 1 && digits.starts_with('0') {
        return Err(format!(
            "hex number with leading zero digits: {}",
            shown(value)
        ));
    }
    let number = U256::from_str_radix(digits, 16);
    match number {
        Ok(number) if number.bit_len() <= bits_max => Ok(()),
        _ => Err(format!("hex number > {bits_max} bits")),
    }
}

fn data(value: &Value, length: Option<usize>) -> Checked {
    let digits = digits(value)?;
    match length {
        _ if !digits.len().is_multiple_of(2) => {
            Err(format!("hex string of odd length: {}", shown(value)))
        }
        Some(length) if digits.len() != 2 * length => Err(format!(
            "hex string has {} bytes, want {length}",
            digits.len() / 2
        )),
        _ => Ok(()),
    }
}

fn slot(value: &Value) -> Checked {
    let digits = digits(value)?;
    if (1..=64).contains(&digits.len()) {
        Ok(())
    } else {
        Err("unable to decode storage key: hex string too long, want at most 32 bytes".to_owned())
    }
}

fn shown(value: &Value) -> String {
    short(&value.to_string())
}

fn short(text: &str) -> String {
    let mut short: String = text.chars().take(SHOWN_CHARS_MAX).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedded::Embedded;
    use crate::embedded::testing::config;
    use serde_json::json;

    const ADDRESS: &str = "0x00000000000000000000000000000000000000aa";
    const HASH: &str = "0x00000000000000000000000000000000000000000000000000000000000000aa";

    fn refused(chain: &Embedded, method: &str, params: Value) {
        let outcome = chain.request(method, params.clone());
        let error = outcome.expect_err(&format!("{method} takes {params}"));
        assert_eq!(
            error.code,
            RpcError::INVALID_PARAMS,
            "{method} {params}: {error}"
        );
    }

    fn taken(chain: &Embedded, method: &str, params: Value) {
        if let Err(error) = chain.request(method, params.clone()) {
            panic!("{method} {params}: {error}");
        }
    }

    fn wrong_numbers() -> Vec<Value> {
        vec![
            json!("0x"),
            json!("0x00"),
            json!("0x01"),
            json!("0x0a"),
            json!("1"),
            json!("latest1"),
            json!("0X1"),
            json!("0xg"),
            json!("-0x1"),
            json!("0x-1"),
            json!(" 0x1"),
            json!("0x1 "),
            json!("1e3"),
            json!(true),
            json!([1]),
            json!(""),
            json!("0x10000000000000000"),
            json!("Latest"),
            json!(1.5),
            json!(-1),
        ]
    }

    #[test]
    fn numbers_in_a_form_that_is_forbidden_are_refused_wherever_one_stands() {
        let chain = Embedded::in_memory(config()).unwrap();
        let wrong = wrong_numbers();
        for number in wrong {
            refused(&chain, "eth_getBalance", json!([ADDRESS, number]));
            refused(
                &chain,
                "eth_getBalance",
                json!([ADDRESS, { "blockNumber": number }]),
            );
            refused(&chain, "eth_getTransactionCount", json!([ADDRESS, number]));
            refused(&chain, "eth_getBlockByNumber", json!([number, false]));
            refused(&chain, "eth_getBlockReceipts", json!([number]));
            refused(
                &chain,
                "eth_getTransactionByBlockNumberAndIndex",
                json!(["latest", number]),
            );
            refused(&chain, "eth_feeHistory", json!([number, "latest", []]));
            refused(&chain, "eth_feeHistory", json!(["0x1", number, []]));
            refused(&chain, "eth_getLogs", json!([{ "fromBlock": number }]));
            refused(&chain, "eth_getLogs", json!([{ "toBlock": number }]));
            for field in [
                "gas",
                "nonce",
                "gasPrice",
                "maxFeePerGas",
                "value",
                "chainId",
                "type",
            ] {
                let mut call = json!({ "to": ADDRESS });
                call[field] = number.clone();
                if field == "value" && number == json!("0x10000000000000000") {
                    continue;
                }
                if field.contains("ee") || field == "gasPrice" {
                    // Fees may have 256 bits.
                    if number == json!("0x10000000000000000") {
                        continue;
                    }
                }
                refused(&chain, "eth_call", json!([call, "latest"]));
            }
            let change = json!({ ADDRESS: { "nonce": number } });
            refused(
                &chain,
                "eth_call",
                json!([{ "to": ADDRESS }, "latest", change]),
            );
        }
        for right in ["0x0", "latest", "earliest", "safe", "finalized", "pending"] {
            taken(&chain, "eth_getBalance", json!([ADDRESS, right]));
            taken(&chain, "eth_getBlockByNumber", json!([right, true]));
            taken(&chain, "eth_getBlockReceipts", json!([right]));
            taken(&chain, "eth_getLogs", json!([{ "fromBlock": right }]));
        }
        taken(&chain, "eth_feeHistory", json!([1, "latest", [50.5]]));
    }

    #[test]
    fn bytes_in_a_form_that_is_forbidden_are_refused_wherever_they_stand() {
        let chain = Embedded::in_memory(config()).unwrap();
        for bytes in ["", "0x0", "0xabc", "abcd", "0xzz", "0X12", "0x12 "] {
            refused(&chain, "web3_sha3", json!([bytes]));
            refused(&chain, "eth_sendRawTransaction", json!([bytes]));
            refused(
                &chain,
                "eth_call",
                json!([{ "to": ADDRESS, "data": bytes }]),
            );
            refused(
                &chain,
                "eth_estimateGas",
                json!([{ "to": ADDRESS, "input": bytes }]),
            );
        }
        for address in ["0x", "0xaa", &ADDRESS[2..], &format!("{ADDRESS}00"), HASH] {
            refused(&chain, "eth_getBalance", json!([address, "latest"]));
            refused(&chain, "eth_getCode", json!([address, "latest"]));
            refused(&chain, "eth_call", json!([{ "to": address }, "latest"]));
            refused(&chain, "eth_getLogs", json!([{ "address": address }]));
            refused(
                &chain,
                "eth_getLogs",
                json!([{ "address": [ADDRESS, address] }]),
            );
        }
        for hash in ["0x", "0xaa", ADDRESS, &HASH[2..], &format!("{HASH}00")] {
            refused(&chain, "eth_getTransactionByHash", json!([hash]));
            refused(&chain, "eth_getTransactionReceipt", json!([hash]));
            refused(&chain, "eth_getBlockByHash", json!([hash, false]));
            refused(&chain, "eth_getLogs", json!([{ "blockHash": hash }]));
            refused(&chain, "eth_getLogs", json!([{ "topics": [hash] }]));
            refused(&chain, "eth_getLogs", json!([{ "topics": [[HASH, hash]] }]));
        }
        refused(
            &chain,
            "eth_getStorageAt",
            json!([ADDRESS, format!("{HASH}00"), "latest"]),
        );
        taken(
            &chain,
            "eth_getStorageAt",
            json!([ADDRESS, "0x0", "latest"]),
        );
        taken(&chain, "eth_getStorageAt", json!([ADDRESS, HASH, "latest"]));
        for unknown in ["eth_getTransactionByHash", "eth_getTransactionReceipt"] {
            assert_eq!(chain.request(unknown, json!([HASH])).unwrap(), Value::Null);
        }
    }

    #[test]
    fn more_than_a_method_takes_is_refused_and_not_passed_over() {
        let chain = Embedded::in_memory(config()).unwrap();
        refused(&chain, "eth_chainId", json!([1]));
        refused(&chain, "eth_blockNumber", json!(["latest"]));
        refused(&chain, "eth_getBalance", json!([ADDRESS, "latest", "0x1"]));
        refused(&chain, "eth_getTransactionByHash", json!([HASH, true]));
        refused(&chain, "eth_getLogs", json!([{}, {}]));
        refused(
            &chain,
            "eth_call",
            json!([{ "to": ADDRESS }, "latest", {}, null, 1]),
        );
        let unknown = json!({ ADDRESS: { "ballance": "0x1" } });
        refused(
            &chain,
            "eth_call",
            json!([{ "to": ADDRESS }, "latest", unknown]),
        );
        for full in [json!("true"), json!(1), json!("0x1")] {
            refused(&chain, "eth_getBlockByNumber", json!(["latest", full]));
        }
    }

    #[test]
    fn logs_that_cannot_be_told_are_not_told_as_none() {
        let chain = Embedded::in_memory(config()).unwrap();
        let both = json!({ "blockHash": HASH, "fromBlock": "0x0" });
        refused(&chain, "eth_getLogs", json!([both]));
        refused(
            &chain,
            "eth_getLogs",
            json!([{ "fromBlock": "0x0", "toBlock": "0x9" }]),
        );
        refused(
            &chain,
            "eth_getLogs",
            json!([{ "fromBlock": "0x7", "toBlock": "0x9" }]),
        );
        refused(
            &chain,
            "eth_getLogs",
            json!([{ "topics": [null, null, null, null, null] }]),
        );
        refused(&chain, "eth_getLogs", json!([{ "topics": HASH }]));
        let unknown = chain.request("eth_getLogs", json!([{ "blockHash": HASH }]));
        assert_eq!(unknown.unwrap_err().code, RpcError::REJECTED);
        taken(
            &chain,
            "eth_getLogs",
            json!([{ "topics": [null, [HASH, HASH], HASH] }]),
        );
        let proof = chain.request("eth_getProof", json!([ADDRESS, [], "latest"]));
        assert_eq!(proof.unwrap_err().code, RpcError::METHOD_NOT_FOUND);
    }
}
