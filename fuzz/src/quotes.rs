//! What a seller answers a purse with: a quote, a correction, a statement (spec: payments, sections 6 and 10).
//!
//! Whatever a 402 says, what is signed for it stays within the limits, for a time that is bounded, and a seller that
//! refuses a payment is promised no more than was agreed.

use alloy_primitives::{Address, B256};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hearth_protocol::channel::payer::{Outcome, PayerChannel, PayerRecord};
use hearth_protocol::channel::{OnchainState, Voucher};
use hearth_protocol::eip712::{ChannelConfig, SettlementDomain};
use hearth_protocol::id::{AssetId, ChainId, ChannelId};
use hearth_protocol::money::Amount;
use hearth_protocol::signature::Signature;
use hearth_protocol::spending::{
    AssetLimit, Outlays, Promised, Spending, TIMEOUT_S_MAX, asset_of, valid_before_s,
};
use hearth_protocol::time::Timestamp;
use hearth_protocol::x402::{
    BatchExtra, ChargeStatement, PaymentRequired, PaymentRequirements, QuotedEntries, Scheme,
    SettleResponse, decode_header,
};
use serde::Deserialize;
use serde_json::Value;

/// The time at which quotes are read: any will do, as long as it does not move.
const NOW: Timestamp = Timestamp(1_800_000_000_000);
/// What may be spent at once, and in a day.
const PER_PAYMENT: Amount = Amount::new(1_000);
const PER_DAY: Amount = Amount::new(2_500);

/// A quote as JSON: it is read as the header of a 402, weighed, and paid as far as the limits allow; then read as a
/// correction and as a statement of what was paid.
pub fn quotes(input: &[u8]) -> bool {
    let header = STANDARD.encode(input);
    let Ok(required) = decode_header::<PaymentRequired>(header.as_bytes()) else {
        return state(&header);
    };
    let spending = spending(&required);
    let mut outlays = Outlays::default();
    for way in &required.accepts {
        let spent = outlays.spent_today(asset_of(way), NOW);
        let Ok(limit) = spending.allows(way, spent) else {
            continue;
        };
        assert!(way.amount <= PER_PAYMENT, "{way:?}");
        assert!(way.max_timeout_seconds <= TIMEOUT_S_MAX, "{way:?}");
        let until = valid_before_s(NOW, way.max_timeout_seconds);
        assert!(until <= NOW.as_secs() + TIMEOUT_S_MAX, "{way:?}");
        let entries = decode_header::<QuotedEntries>(header.as_bytes());
        assert!(entries.is_ok_and(|entries| entries.of(way).is_some()));
        pay(way, &limit, &required, &mut outlays);
        let spent = outlays.spent_today(asset_of(way), NOW);
        assert!(spent <= PER_DAY, "{spent} are spent");
    }
    true
}

/// The limits of a household that spends the first token that is asked for.
fn spending(required: &PaymentRequired) -> Spending {
    let limit = AssetLimit::new(PER_PAYMENT, PER_PAYMENT, PER_DAY);
    let listed = required.accepts.first().map(asset_of);
    Spending(
        listed
            .map(|asset: AssetId| (asset, limit))
            .into_iter()
            .collect(),
    )
}

fn pay(
    way: &PaymentRequirements,
    limit: &AssetLimit,
    required: &PaymentRequired,
    outlays: &mut Outlays,
) {
    let asset = asset_of(way);
    if way.scheme == Scheme::Exact {
        let reserved = outlays.reserve_authorization(asset, way.amount, limit, NOW);
        if let Ok(reserved) = reserved {
            let nonce = B256::repeat_byte(1);
            let _ = outlays.authorized(reserved, nonce, valid_before_s(NOW, 0), NOW);
        }
        return;
    }
    let Ok(extra) = BatchExtra::deserialize(&way.extra) else {
        return;
    };
    let mut channel = channel(way, &extra);
    let agreed = way.amount;
    promise(&mut channel, asset, agreed, limit, outlays);
    let domain = SettlementDomain::new(ChainId(1));
    let _ = channel.finish(Outcome::NotCharged);
    for entry in &required.accepts {
        let Ok(correction) = BatchExtra::deserialize(&entry.extra) else {
            continue;
        };
        let onchain = OnchainState::default();
        // Nothing here is signed by a real key, so no correction has a proof.
        let corrected = channel
            .correct(&correction, &domain, Some(&onchain))
            .is_ok();
        if corrected {
            promise(&mut channel, asset, agreed, limit, outlays);
        }
        assert!(channel.record().promised() <= agreed, "more than agreed");
    }
}

fn channel(way: &PaymentRequirements, extra: &BatchExtra) -> PayerChannel {
    let config = ChannelConfig {
        payer: Address::repeat_byte(1),
        payer_authorizer: Address::repeat_byte(2),
        receiver: way.pay_to,
        receiver_authorizer: extra.receiver_authorizer,
        token: way.asset,
        withdraw_delay: extra.withdraw_delay,
        salt: B256::ZERO,
    };
    PayerChannel::new(ChannelId(B256::repeat_byte(0xab)), PayerRecord::new(config))
}

fn promise(
    channel: &mut PayerChannel,
    asset: AssetId,
    agreed: Amount,
    limit: &AssetLimit,
    outlays: &mut Outlays,
) {
    let Ok(promise) = channel.prepare(agreed, agreed) else {
        return;
    };
    let promised = Promised {
        channel: channel.id(),
        asset,
        signed: channel.record().promised(),
        max_claimable: promise.max_claimable,
        deposit: promise.deposit,
    };
    let Ok(reserved) = outlays.reserve_promise(promised, limit, NOW) else {
        let _ = channel.finish(Outcome::NotCharged);
        return;
    };
    let voucher = Voucher {
        max_claimable: promise.max_claimable,
        signature: signature(),
    };
    channel.sign(NOW, voucher);
    outlays.promised(reserved, NOW);
}

/// A signature that is well formed, by nobody in particular.
fn signature() -> Signature {
    let mut bytes = [1; 65];
    bytes[64] = 27;
    Signature::from_bytes(&bytes).expect("a signature of this form is read")
}

/// The statement of a payment of 1,000: it is believed as far as it can be true.
fn state(header: &str) -> bool {
    let Ok(settled) = decode_header::<SettleResponse>(header.as_bytes()) else {
        return false;
    };
    let Ok(statement) = ChargeStatement::deserialize(&Value::Object(settled.extra)) else {
        return true;
    };
    let way = PaymentRequirements {
        scheme: Scheme::BatchSettlement,
        network: ChainId(1),
        amount: PER_PAYMENT,
        asset: Address::repeat_byte(5),
        pay_to: Address::repeat_byte(6),
        max_timeout_seconds: 60,
        extra: serde_json::Map::new(),
    };
    let extra = BatchExtra {
        receiver_authorizer: Address::repeat_byte(7),
        withdraw_delay: 900,
        name: String::new(),
        version: String::new(),
        asset_transfer_method: None,
        min_deposit: None,
        channel_state: None,
        voucher_state: None,
    };
    let mut channel = channel(&way, &extra);
    let limit = AssetLimit::new(PER_PAYMENT, PER_PAYMENT, PER_DAY);
    let mut outlays = Outlays::default();
    promise(
        &mut channel,
        asset_of(&way),
        PER_PAYMENT,
        &limit,
        &mut outlays,
    );
    let _ = channel.finish(Outcome::Stated(Box::new(statement)));
    let record = channel.record();
    let spent = outlays.spent_today(asset_of(&way), NOW);
    assert_eq!(spent, PER_PAYMENT, "a statement gives nothing back");
    assert!(record.promised() <= PER_PAYMENT);
    true
}
