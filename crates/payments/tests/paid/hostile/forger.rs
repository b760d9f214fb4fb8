//! A payer that signs whatever it likes, and can also be honest.

use alloy_primitives::{Address, B256, U256};
use alloy_signer_local::PrivateKeySigner;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hearth_payments::offer::{AcceptedAsset, Price};
use hearth_payments::signing::sign;
use hearth_protocol::channel::{Voucher, deposit_message};
use hearth_protocol::eip712::{ChannelConfig, SettlementDomain};
use hearth_protocol::exact::transfer_message;
use hearth_protocol::id::ChainId;
use hearth_protocol::x402::{
    Authorization, Erc3009Authorization, PAYMENT_REQUIRED, PAYMENT_RESPONSE, PAYMENT_SIGNATURE,
    PaymentRequired, SettleResponse, decode_header,
};
use http::StatusCode;
use serde_json::{Value, json};

use crate::world::{CHAIN, POOR, Shop, World, accepted, amount, fee_token, key};

/// What the honest payer deposits.
const DEPOSIT: u128 = 100_000;

/// A channel whose next payments can be forged.
pub(super) struct Forger<'a> {
    pub(super) world: &'a World,
    pub(super) shop: &'a Shop,
    pub(super) asset: AcceptedAsset,
    pub(super) config: ChannelConfig,
    /// What this payer was charged.
    pub(super) charged: u128,
    http: reqwest::Client,
}

/// What came back.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: StatusCode,
    /// Of the error; empty if there is none.
    pub(super) code: String,
    pub(super) message: String,
    pub(super) body: String,
    pub(super) settled: Option<SettleResponse>,
}

impl<'a> Forger<'a> {
    /// A forger with a channel on which it has paid once.
    pub(super) async fn new(world: &'a World, shop: &'a Shop) -> Self {
        let asset = accepted(shop.receiver, key(4).address());
        let config = config_for(&asset);
        let http = hearth_payments::http::client().unwrap();
        let mut forger = Self {
            world,
            shop,
            asset,
            config,
            charged: 0,
            http,
        };
        let payment = forger.deposit_payment(&forger.authorization(DEPOSIT, 7), DEPOSIT);
        let reply = forger.send("/hello", &payment).await;
        assert_eq!(reply.status, 200, "{reply:?}");
        forger.charged = 100;
        forger
    }

    /// The same payer at another shop, with the same channel.
    pub(super) fn at(
        world: &'a World,
        shop: &'a Shop,
        charged: u128,
        asset: AcceptedAsset,
    ) -> Self {
        Self {
            world,
            shop,
            config: config_for(&asset),
            asset,
            charged,
            http: hearth_payments::http::client().unwrap(),
        }
    }

    /// A forger without a channel.
    pub(super) fn beside(world: &'a World, shop: &'a Shop) -> Self {
        let asset = accepted(shop.receiver, key(4).address());
        Self {
            config: config_for(&asset),
            world,
            shop,
            asset,
            charged: 0,
            http: hearth_payments::http::client().unwrap(),
        }
    }

    /// A one-off payment by an account that has enough for one.
    pub(super) fn poor_payment(&self, nonce: u8) -> Value {
        let mut authorization = self.exact(nonce);
        authorization.from = key(POOR).address();
        self.exact_payment(&authorization, &key(POOR))
    }

    pub(super) fn domain(&self) -> SettlementDomain {
        SettlementDomain::new(ChainId(CHAIN))
    }

    /// The honest next request must be served, and charged at its price.
    pub(super) async fn buy_honestly(&mut self) {
        let reply = self.send("/hello", &self.voucher_payment(100)).await;
        assert_eq!(reply.status, 200, "the next honest request: {reply:?}");
        let settled = reply.settled.unwrap();
        assert_eq!(settled.extra["chargedAmount"], "100");
        self.charged += 100;
    }

    pub(super) fn voucher(
        &self,
        config: &ChannelConfig,
        max: u128,
        by: &PrivateKeySigner,
    ) -> Value {
        self.voucher_in(&self.domain(), config, max, by)
    }

    pub(super) fn voucher_in(
        &self,
        domain: &SettlementDomain,
        config: &ChannelConfig,
        max: u128,
        by: &PrivateKeySigner,
    ) -> Value {
        let channel = self.domain().channel_id(config);
        let signature = sign(by, domain.voucher_digest(channel, amount(max)));
        let voucher = Voucher {
            max_claimable: amount(max),
            signature,
        };
        serde_json::to_value(voucher.on_channel(channel)).unwrap()
    }

    /// A payment of `ceiling` that continues what was charged.
    pub(super) fn voucher_payment(&self, ceiling: u128) -> Value {
        self.voucher_payment_of(self.charged + ceiling, ceiling)
    }

    pub(super) fn voucher_payment_of(&self, max: u128, ceiling: u128) -> Value {
        let voucher = self.voucher(&self.config, max, &key(2));
        let mut payment = self.payment(json!({
            "type": "voucher", "channelConfig": self.config, "voucher": voucher,
        }));
        payment["accepted"]["amount"] = json!(ceiling.to_string());
        payment
    }

    /// A payment on another channel, signed as it should be.
    pub(super) fn voucher_payment_on(&self, config: &ChannelConfig) -> Value {
        let voucher = self.voucher(config, self.charged + 100, &key(2));
        self.payment(json!({
            "type": "voucher", "channelConfig": config, "voucher": voucher,
        }))
    }

    pub(super) fn refund_payment(&self, max: u128, amount: Option<Value>) -> Value {
        let voucher = self.voucher(&self.config, max, &key(2));
        let mut payload = json!({
            "type": "refund", "channelConfig": self.config, "voucher": voucher,
        });
        if let Some(amount) = amount {
            payload["amount"] = amount;
        }
        self.payment(payload)
    }

    /// An authorization that the household signed for a deposit of `units`.
    pub(super) fn authorization(&self, units: u128, salt: u64) -> Erc3009Authorization {
        let mut authorization = Erc3009Authorization {
            valid_after: 0,
            valid_before: u64::from(u32::MAX),
            salt: U256::from(salt),
            signature: alloy_primitives::Bytes::new(),
        };
        self.sign_deposit(&mut authorization, units, &self.asset, &self.config);
        authorization
    }

    pub(super) fn sign_deposit(
        &self,
        authorization: &mut Erc3009Authorization,
        units: u128,
        asset: &AcceptedAsset,
        config: &ChannelConfig,
    ) {
        let channel = self.domain().channel_id(config);
        let message = deposit_message(key(1).address(), channel, amount(units), authorization);
        let digest = asset.token_domain().receive_digest(&message);
        authorization.signature = sign(&key(1), digest).as_bytes().to_vec().into();
    }

    pub(super) fn deposit_payment(
        &self,
        authorization: &Erc3009Authorization,
        units: u128,
    ) -> Value {
        let voucher = self.voucher(&self.config, self.charged + 100, &key(2));
        self.payment(json!({
            "type": "deposit", "channelConfig": self.config, "voucher": voucher,
            "deposit": {
                "amount": units.to_string(),
                "authorization": { "erc3009Authorization": authorization },
            },
        }))
    }

    /// A deposit of a token that delivers less than was signed for.
    pub(super) fn fee_token_deposit(&self) -> Value {
        let asset = fee_token(self.shop.receiver, key(4).address());
        let config = config_for(&asset);
        let mut authorization = self.authorization(1_000, 1);
        self.sign_deposit(&mut authorization, 1_000, &asset, &config);
        let accepted = asset.batch_requirements(price());
        let voucher = self.voucher(&config, 100, &key(2));
        json!({
            "x402Version": 2, "accepted": accepted,
            "payload": {
                "type": "deposit", "channelConfig": config, "voucher": voucher,
                "deposit": {
                    "amount": "1000",
                    "authorization": { "erc3009Authorization": authorization },
                },
            },
        })
    }

    /// A one-off payment of 100 from the household.
    pub(super) fn exact(&self, nonce: u8) -> Authorization {
        Authorization {
            from: key(1).address(),
            to: self.shop.receiver,
            value: amount(100),
            valid_after: 0,
            valid_before: u64::from(u32::MAX),
            nonce: B256::repeat_byte(nonce),
        }
    }

    pub(super) fn exact_payment(
        &self,
        authorization: &Authorization,
        by: &PrivateKeySigner,
    ) -> Value {
        let message = transfer_message(authorization);
        let digest = self.asset.token_domain().transfer_digest(&message);
        let requirements = self.asset.requirements(price()).remove(1);
        json!({
            "x402Version": 2, "accepted": requirements,
            "payload": { "signature": sign(by, digest), "authorization": authorization },
        })
    }

    pub(super) fn payment(&self, payload: Value) -> Value {
        let accepted = self.asset.batch_requirements(price());
        json!({ "x402Version": 2, "accepted": accepted, "payload": payload })
    }

    pub(super) fn header(&self, payment: &Value) -> String {
        STANDARD.encode(payment.to_string())
    }

    pub(super) async fn send(&self, path: &str, payment: &Value) -> Reply {
        let header = self.header(payment).into_bytes();
        self.send_raw(path, &[header]).await
    }

    pub(super) async fn send_raw(&self, path: &str, headers: &[Vec<u8>]) -> Reply {
        let mut request = self.http.get(self.shop.url(path));
        for header in headers {
            let value = http::HeaderValue::from_bytes(header).unwrap();
            request = request.header(PAYMENT_SIGNATURE, value);
        }
        let response = request.send().await.unwrap();
        let status = response.status();
        let headers = response.headers().clone();
        let body = response.text().await.unwrap();
        let error: Value = serde_json::from_str(&body).unwrap_or_default();
        let text = |name: &str| error["error"][name].as_str().unwrap_or_default().to_owned();
        let settled: Option<SettleResponse> = headers
            .get(PAYMENT_RESPONSE)
            .map(|value| decode_header(value.as_bytes()).unwrap());
        let code = text("code");
        if let Some(required) = headers.get(PAYMENT_REQUIRED) {
            let required: PaymentRequired = decode_header(required.as_bytes()).unwrap();
            assert_eq!(
                required.error.as_deref(),
                Some(&*code),
                "body and header agree"
            );
        } else if let Some(settled) = settled.as_ref().filter(|settled| !settled.success) {
            assert_eq!(settled.error_reason.as_deref(), Some(&*code));
        }
        Reply {
            status,
            code,
            message: text("message"),
            body,
            settled,
        }
    }
}

pub(super) fn price() -> Price {
    Price {
        need: amount(100),
        ceiling: amount(100),
    }
}

fn config_for(asset: &AcceptedAsset) -> ChannelConfig {
    ChannelConfig {
        payer: key(1).address(),
        payer_authorizer: key(2).address(),
        receiver: asset.receiver,
        receiver_authorizer: asset.receiver_authorizer,
        token: asset.asset.token,
        withdraw_delay: asset.withdraw_delay,
        salt: B256::repeat_byte(9),
    }
}

/// The same signature with `s` in the upper half of the order: the same key, refused on chain.
pub(super) fn malleated(signature: &str) -> String {
    const ORDER: U256 = U256::from_be_bytes([
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
        0xfe, 0xba, 0xae, 0xdc, 0xe6, 0xaf, 0x48, 0xa0, 0x3b, 0xbf, 0xd2, 0x5e, 0x8c, 0xd0, 0x36,
        0x41, 0x41,
    ]);
    let mut bytes = alloy_primitives::hex::decode(signature).unwrap();
    let s = ORDER - U256::from_be_slice(&bytes[32..64]);
    bytes[32..64].copy_from_slice(&s.to_be_bytes::<32>());
    bytes[64] = 55 - bytes[64];
    alloy_primitives::hex::encode_prefixed(bytes)
}

/// The same signature with `v` of 0 or 1.
pub(super) fn with_small_parity(signature: &str) -> String {
    let mut bytes = alloy_primitives::hex::decode(signature).unwrap();
    bytes[64] -= 27;
    alloy_primitives::hex::encode_prefixed(bytes)
}

pub(super) fn address(value: Address) -> Value {
    serde_json::to_value(value).unwrap()
}
