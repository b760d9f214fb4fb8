//! What hostile payers try on a channel, and what each of it is answered.

use alloy_primitives::{Address, B256};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use hearth_protocol::eip712::{ChannelConfig, SettlementDomain};
use hearth_protocol::id::ChainId;
use hearth_protocol::x402::{ErrorCode, HEADER_BYTES_MAX};
use http::StatusCode;
use serde_json::{Value, json};

use super::forger::{Forger, address, malleated, with_small_parity};
use super::{MALFORMED, UNPAID, nobody};
use crate::world::{CHAIN, key};

/// A payment that is wrong in one place.
pub(super) struct Attempt {
    pub(super) name: &'static str,
    pub(super) forge: fn(&Forger<'_>) -> Value,
    pub(super) status: StatusCode,
    pub(super) code: ErrorCode,
}

const fn malformed(
    name: &'static str,
    code: ErrorCode,
    forge: fn(&Forger<'_>) -> Value,
) -> Attempt {
    Attempt {
        name,
        forge,
        status: MALFORMED,
        code,
    }
}

const fn unpaid(name: &'static str, code: ErrorCode, forge: fn(&Forger<'_>) -> Value) -> Attempt {
    Attempt {
        name,
        forge,
        status: UNPAID,
        code,
    }
}

/// Headers that hold no payment.
pub(super) fn unreadable_headers(honest: &str) -> Vec<(String, Vec<u8>)> {
    let json = STANDARD.decode(honest).unwrap();
    let text = String::from_utf8(json.clone()).unwrap();
    let encoded = |bytes: &[u8]| STANDARD.encode(bytes).into_bytes();
    let doubled = text.replacen("\"x402Version\"", "\"x402Version\":2,\"x402Version\"", 1);
    [
        ("empty", Vec::new()),
        ("not base64", b"{}{}{}".to_vec()),
        (
            "base64 for addresses",
            URL_SAFE_NO_PAD.encode(&json).into_bytes(),
        ),
        ("bytes above ASCII", vec![0xff; 64]),
        ("too long", vec![b'A'; HEADER_BYTES_MAX + 4]),
        ("not JSON", encode("hello".as_bytes())),
        ("not UTF-8", encoded(&[b'"', 0xff, 0xfe, b'"'])),
        ("half the JSON", encoded(&json[..json.len() / 2])),
        ("JSON and more", encoded(format!("{text}{text}").as_bytes())),
        ("a deep nest", encoded("[".repeat(10_000).as_bytes())),
        ("a field twice", encoded(doubled.as_bytes())),
        ("null", encoded(b"null")),
        ("a list", encoded(b"[]")),
        ("nothing in it", encoded(b"{}")),
        (
            "version 1",
            encoded(
                text.replace("\"x402Version\":2", "\"x402Version\":1")
                    .as_bytes(),
            ),
        ),
        (
            "a negative price",
            encoded(
                text.replace("\"amount\":\"100\"", "\"amount\":\"-1\"")
                    .as_bytes(),
            ),
        ),
        (
            "a price as a number",
            encoded(
                text.replace("\"amount\":\"100\"", "\"amount\":100")
                    .as_bytes(),
            ),
        ),
        (
            "a price beyond 128 bits",
            encoded(
                text.replace(
                    "\"amount\":\"100\"",
                    &format!("\"amount\":\"1{}\"", u128::MAX),
                )
                .as_bytes(),
            ),
        ),
        (
            "another kind of chain",
            encoded(text.replace("eip155:", "solana:").as_bytes()),
        ),
    ]
    .into_iter()
    .map(|(name, header)| (name.to_owned(), header))
    .collect()
}

fn encode(bytes: &[u8]) -> Vec<u8> {
    STANDARD.encode(bytes).into_bytes()
}

/// Every payment that is wrong in one place.
pub(super) fn wrong_payments() -> Vec<Attempt> {
    [accepted(), payloads(), configs(), vouchers(), deposits()]
        .into_iter()
        .flatten()
        .collect()
}

fn edited(forger: &Forger<'_>, pointer: &str, value: Value) -> Value {
    let mut payment = forger.voucher_payment(100);
    *payment.pointer_mut(pointer).unwrap() = value;
    payment
}

/// Wrong in what they accept.
fn accepted() -> Vec<Attempt> {
    use ErrorCode::InvalidRequirements as Code;
    vec![
        unpaid("another chain", Code, |f| {
            edited(f, "/accepted/network", json!("eip155:1"))
        }),
        unpaid("another token", Code, |f| {
            edited(f, "/accepted/asset", address(nobody()))
        }),
        unpaid("another payee", Code, |f| {
            edited(f, "/accepted/payTo", address(nobody()))
        }),
        unpaid("another scheme", Code, |f| {
            edited(f, "/accepted/scheme", json!("upto"))
        }),
        unpaid("a unit less than the price", Code, |f| {
            f.voucher_payment(99)
        }),
    ]
}

/// Wrong in form.
fn payloads() -> Vec<Attempt> {
    use ErrorCode::VoucherPayload as Code;
    vec![
        malformed("no payload", Code, |f| edited(f, "/payload", Value::Null)),
        malformed("an unknown type", Code, |f| {
            edited(f, "/payload/type", json!("gift"))
        }),
        malformed("no voucher", Code, |f| {
            edited(f, "/payload/voucher", Value::Null)
        }),
        malformed("an amount as a number", Code, |f| {
            edited(f, "/payload/voucher/maxClaimableAmount", json!(200))
        }),
        malformed("an amount with a leading zero", Code, |f| {
            edited(f, "/payload/voucher/maxClaimableAmount", json!("0200"))
        }),
        malformed("an address that is too short", Code, |f| {
            edited(f, "/payload/channelConfig/payer", json!("0x1234"))
        }),
        malformed("a short signature", Code, |f| {
            edited(f, "/payload/voucher/signature", json!("0x1234"))
        }),
        malformed("v of 0 or 1", Code, |f| {
            edit_signature(f, with_small_parity)
        }),
        malformed("s in the upper half", Code, |f| {
            edit_signature(f, malleated)
        }),
        malformed("a deposit without an amount", Code, |f| {
            edit_deposit(f, "/payload/deposit/amount", Value::Null)
        }),
    ]
}

fn edit_signature(forger: &Forger<'_>, edit: fn(&str) -> String) -> Value {
    let mut payment = forger.voucher_payment(100);
    let signature = &mut payment["payload"]["voucher"]["signature"];
    *signature = json!(edit(signature.as_str().unwrap()));
    payment
}

fn on(forger: &Forger<'_>, edit: fn(&mut ChannelConfig)) -> Value {
    let mut config = forger.config;
    edit(&mut config);
    forger.voucher_payment_on(&config)
}

/// On channels under other terms.
fn configs() -> Vec<Attempt> {
    vec![
        unpaid(
            "a channel of another token",
            ErrorCode::TokenMismatch,
            |f| on(f, |config| config.token = nobody()),
        ),
        unpaid(
            "a channel for somebody else",
            ErrorCode::ReceiverMismatch,
            |f| on(f, |config| config.receiver = nobody()),
        ),
        unpaid(
            "another receiver authorizer",
            ErrorCode::ReceiverAuthorizerMismatch,
            |f| on(f, |config| config.receiver_authorizer = nobody()),
        ),
        unpaid("another delay", ErrorCode::WithdrawDelayMismatch, |f| {
            on(f, |config| config.withdraw_delay += 1)
        }),
        unpaid(
            "a delay that is too short",
            ErrorCode::WithdrawDelayRange,
            |f| on(f, |config| config.withdraw_delay = 899),
        ),
        unpaid(
            "a delay that is too long",
            ErrorCode::WithdrawDelayRange,
            |f| on(f, |config| config.withdraw_delay = 2_592_001),
        ),
        unpaid("no payer authorizer", ErrorCode::PayerAuthorizer, |f| {
            on(f, |config| config.payer_authorizer = Address::ZERO)
        }),
        unpaid("another channel's id", ErrorCode::ChannelIdMismatch, |f| {
            edited(f, "/payload/voucher/channelId", json!(B256::repeat_byte(1)))
        }),
        unpaid(
            "a channel that holds nothing",
            ErrorCode::CumulativeMismatch,
            |f| on(f, |config| config.salt = B256::repeat_byte(0x77)),
        ),
    ]
}

/// Wrong in what was signed.
fn vouchers() -> Vec<Attempt> {
    use ErrorCode::{CumulativeExceedsBalance, CumulativeMismatch, VoucherSignature};
    vec![
        unpaid("signed by a stranger", VoucherSignature, |f| {
            let max = f.charged + 100;
            edited(f, "/payload/voucher", f.voucher(&f.config, max, &key(0x55)))
        }),
        unpaid(
            "signed by the payer, not its authorizer",
            VoucherSignature,
            |f| {
                let max = f.charged + 100;
                edited(f, "/payload/voucher", f.voucher(&f.config, max, &key(1)))
            },
        ),
        unpaid("signed for another chain", VoucherSignature, |f| {
            let domain = SettlementDomain::new(ChainId(CHAIN + 1));
            let voucher = f.voucher_in(&domain, &f.config, f.charged + 100, &key(2));
            edited(f, "/payload/voucher", voucher)
        }),
        unpaid("a unit more than was signed", VoucherSignature, |f| {
            let max = json!((f.charged + 101).to_string());
            edited(f, "/payload/voucher/maxClaimableAmount", max)
        }),
        unpaid("a unit too little", CumulativeMismatch, |f| {
            f.voucher_payment_of(f.charged + 99, 100)
        }),
        unpaid("a unit too much", CumulativeMismatch, |f| {
            f.voucher_payment_of(f.charged + 101, 100)
        }),
        unpaid("the last voucher again", CumulativeMismatch, |f| {
            f.voucher_payment_of(f.charged, 100)
        }),
        unpaid("less than its own ceiling", CumulativeMismatch, |f| {
            f.voucher_payment_of(50, 100)
        }),
        unpaid("all that can be written", CumulativeMismatch, |f| {
            f.voucher_payment_of(u128::MAX, 100)
        }),
        unpaid(
            "more than the channel holds",
            CumulativeExceedsBalance,
            |f| f.voucher_payment(1_000_000),
        ),
        unpaid(
            "a unit more than the channel holds",
            CumulativeExceedsBalance,
            |f| f.voucher_payment(100_001 - f.charged),
        ),
    ]
}

fn edit_deposit(forger: &Forger<'_>, pointer: &str, value: Value) -> Value {
    let authorization = forger.authorization(1_000, 8);
    let mut payment = forger.deposit_payment(&authorization, 1_000);
    *payment.pointer_mut(pointer).unwrap() = value;
    payment
}

/// A deposit whose times are `after` and `before`, signed with them.
fn timed(forger: &Forger<'_>, after: u64, before: u64) -> Value {
    let mut authorization = forger.authorization(1_000, 8);
    (authorization.valid_after, authorization.valid_before) = (after, before);
    forger.sign_deposit(&mut authorization, 1_000, &forger.asset, &forger.config);
    forger.deposit_payment(&authorization, 1_000)
}

/// Wrong in the deposit.
fn deposits() -> Vec<Attempt> {
    use ErrorCode as Code;
    vec![
        unpaid("expired", Code::DepositValidBefore, |f| timed(f, 0, 1_000)),
        unpaid("not valid yet", Code::DepositValidAfter, |f| {
            timed(f, u64::from(u32::MAX) - 1, u64::from(u32::MAX))
        }),
        unpaid(
            "a unit more than was authorized",
            Code::DepositSignature,
            |f| edit_deposit(f, "/payload/deposit/amount", json!("1001")),
        ),
        unpaid("another salt", Code::DepositSignature, |f| {
            let pointer = "/payload/deposit/authorization/erc3009Authorization/salt";
            edit_deposit(f, pointer, json!(format!("{:#066x}", 9)))
        }),
        unpaid("nothing", Code::DepositPayload, |f| {
            f.deposit_payment(&f.authorization(0, 8), 0)
        }),
        unpaid(
            "no authorization",
            Code::DepositAuthorizationRequired,
            |f| edit_deposit(f, "/payload/deposit/authorization", json!({})),
        ),
        unpaid("more than the payer has", Code::DepositBalance, |f| {
            let units = 100_000_000_000_000;
            f.deposit_payment(&f.authorization(units, 8), units)
        }),
        unpaid("used before", Code::DepositSimulation, |f| {
            f.deposit_payment(&f.authorization(100_000, 7), 100_000)
        }),
        unpaid(
            "a signature of a form that only the token could judge",
            Code::DepositSimulation,
            |f| {
                let pointer = "/payload/deposit/authorization/erc3009Authorization/signature";
                edit_deposit(f, pointer, json!("0x1234"))
            },
        ),
    ]
}
