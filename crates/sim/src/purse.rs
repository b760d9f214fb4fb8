//! What the payer pays from: its channels, its limits, and one tab for each answer that is being paid.
//!
//! Everything that is signed is durable at once here: a payer that is killed finds its channels as they
//! were signed, and knows nothing of what was under way.

use std::collections::BTreeMap;

use alloy_primitives::{Address, B256, Bytes, U256};
use hearth_protocol::answer::Price;
use hearth_protocol::channel::Voucher;
use hearth_protocol::channel::payer::{Outcome, PayerChannel, PayerRecord, Promise, Status};
use hearth_protocol::eip712::{ChannelConfig, SettlementDomain, deposit_nonce};
use hearth_protocol::id::{AssetId, ChannelId};
use hearth_protocol::money::Amount;
use hearth_protocol::offer::Offer;
use hearth_protocol::spending::{AssetLimit, Outlays, Promised, SeenChannel, Spending};
use hearth_protocol::time::Timestamp;
use hearth_protocol::x402::{
    BatchExtra, BatchPayload, ChargeStatement, Deposit, DepositAuthorization, Erc3009Authorization,
    PaymentJson, PaymentPayload, PaymentRequirements, RequirementsJson, Scheme, SettlementJson,
    Version,
};

use crate::chain::{TOKEN_NAME, TOKEN_VERSION};
use crate::key::Key;
use crate::outside::{Outside, SellerNumber};

/// Deposits are made for so many promises.
const DEPOSIT_PROMISES: u128 = 3;
/// How long a deposit may take to reach the chain, in seconds.
pub(crate) const DEPOSIT_VALID_S: u64 = 600;

/// The payer's money.
#[derive(Debug)]
pub(crate) struct Purse {
    household: Address,
    session: Key,
    asset: AssetId,
    limit: AssetLimit,
    pub(crate) spending: Spending,
    pub(crate) outlays: Outlays,
    pub(crate) channels: BTreeMap<ChannelId, Held>,
    salts: u64,
}

/// A channel, and whom it is with.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) machine: PayerChannel,
    pub(crate) seller: SellerNumber,
    /// An answer is being paid from it.
    taken: bool,
}

/// What one attempt of an answer is paid from.
#[derive(Debug)]
pub(crate) struct Tab {
    pub(crate) channel: ChannelId,
    requirements: PaymentRequirements,
    charged: Amount,
    promised_before: Amount,
    /// The most that this attempt can come to, by what it promised.
    pub(crate) risked: Amount,
    corrected: bool,
    /// A promise is out whose end was not stated.
    pub(crate) is_promised: bool,
    /// What the answer may cost, other attempts taken off.
    most: Amount,
}

impl Purse {
    pub(crate) fn new(household: Address, session: Key, asset: AssetId, limit: AssetLimit) -> Self {
        Self {
            household,
            session,
            asset,
            limit,
            spending: Spending([(asset, limit)].into()),
            outlays: Outlays::default(),
            channels: BTreeMap::new(),
            salts: 0,
        }
    }

    /// What counts as spent today.
    pub(crate) fn spent_today(&mut self, now: Timestamp) -> Amount {
        self.outlays.spent_today(self.asset, now)
    }

    /// Opens a tab with a provider; `risked` is what earlier attempts of the answer can cost.
    pub(crate) fn open_tab(
        &mut self,
        seller: SellerNumber,
        offer: &Offer,
        price: &Price,
        risked: Amount,
    ) -> Tab {
        let requirements = requirements(offer, price);
        let is_free =
            |held: &&Held| held.seller == seller && !held.taken && held.machine.is_ready();
        let known = self
            .channels
            .values()
            .find(is_free)
            .map(|held| held.machine.id());
        let channel = known.unwrap_or_else(|| self.new_channel(seller, offer));
        let held = self
            .channels
            .get_mut(&channel)
            .expect("it was just found or made");
        held.taken = true;
        Tab {
            channel,
            requirements,
            charged: Amount::ZERO,
            promised_before: held.machine.record().promised(),
            risked: Amount::ZERO,
            corrected: false,
            is_promised: false,
            most: self.limit.per_payment.saturating_sub(risked),
        }
    }

    fn new_channel(&mut self, seller: SellerNumber, offer: &Offer) -> ChannelId {
        self.salts += 1;
        let config = ChannelConfig {
            payer: self.household,
            payer_authorizer: self.session.address(),
            receiver: offer.household,
            receiver_authorizer: offer.session_key,
            token: self.asset.token,
            withdraw_delay: offer.withdraw_delay_s,
            salt: B256::from(U256::from(self.salts)),
        };
        let id = self.domain().channel_id(&config);
        let held = Held {
            machine: PayerChannel::new(id, PayerRecord::new(config)),
            seller,
            taken: false,
        };
        self.channels.insert(id, held);
        id
    }

    fn domain(&self) -> SettlementDomain {
        SettlementDomain::new(self.asset.chain)
    }

    /// Promises an amount for what comes next. Returns the payment, and whether it brings a deposit.
    ///
    /// # Errors
    /// Why nothing may be promised.
    pub(crate) fn promise(
        &mut self,
        outside: &mut Outside,
        tab: &mut Tab,
        amount: Amount,
    ) -> Result<(PaymentJson, bool), String> {
        tab.requirements.amount = amount;
        let held = self
            .channels
            .get_mut(&tab.channel)
            .ok_or("the channel is gone")?;
        let machine = &mut held.machine;
        let max_claimable = machine.record().charged.saturating_add(amount);
        let asked = tab
            .charged
            .saturating_add(amount)
            .max(max_claimable.saturating_sub(tab.promised_before));
        if asked > tab.most {
            return Err(format!("{asked} is more than an answer may cost"));
        }
        if machine.record().deposit_in_doubt && !machine.covers(amount) {
            let (state, _) = outside
                .look(tab.channel)
                .ok_or("the chain cannot be read")?;
            machine.observe(&state);
        }
        let wanted = amount
            .saturating_mul(DEPOSIT_PROMISES)
            .max(machine.record().deposited)
            .min(self.limit.per_deposit);
        let promise = machine
            .prepare(amount, wanted)
            .map_err(|error| error.to_string())?;
        self.reserve(outside.now, tab.channel, promise)?;
        tab.risked = tab.risked.max(asked);
        tab.is_promised = true;
        let payload = self.sign(outside.now, tab.channel, promise);
        let payment = PaymentPayload {
            x402_version: Version,
            resource: None,
            accepted: &tab.requirements,
            payload,
            extensions: Default::default(),
        };
        Ok((PaymentJson::from(&payment), promise.deposit.is_some()))
    }

    fn reserve(
        &mut self,
        now: Timestamp,
        channel: ChannelId,
        promise: Promise,
    ) -> Result<(), String> {
        let held = self
            .channels
            .get_mut(&channel)
            .ok_or("the channel is gone")?;
        let promised = Promised {
            channel,
            asset: self.asset,
            signed: held.machine.record().promised(),
            max_claimable: promise.max_claimable,
            deposit: promise.deposit,
        };
        match self.outlays.reserve_promise(promised, &self.limit, now) {
            Ok(reserved) => {
                self.outlays.promised(reserved, now);
                Ok(())
            }
            Err(declined) => {
                // Nothing was signed, so nothing the provider could state is wrong.
                let _ = held.machine.finish(Outcome::NotCharged);
                Err(declined.to_string())
            }
        }
    }

    fn sign(&mut self, now: Timestamp, channel: ChannelId, promise: Promise) -> BatchPayload {
        let digest = self.domain().voucher_digest(channel, promise.max_claimable);
        let voucher = Voucher {
            max_claimable: promise.max_claimable,
            signature: self.session.sign(digest),
        };
        let machine = &mut self
            .channels
            .get_mut(&channel)
            .expect("it was prepared")
            .machine;
        machine.sign(now, voucher);
        let (locked, channel_config) = (machine.record().refundable(), machine.record().config);
        self.outlays.keep(channel, locked);
        let voucher = voucher.on_channel(channel);
        let Some(amount) = promise.deposit else {
            return BatchPayload::Voucher {
                channel_config,
                voucher,
            };
        };
        self.salts += 1;
        let authorization = Erc3009Authorization {
            valid_after: 0,
            valid_before: now.as_secs() + DEPOSIT_VALID_S,
            salt: U256::from(self.salts),
            // The chain of this simulation knows what the payer signed, and takes nothing else.
            signature: Bytes::from(vec![1; 65]),
        };
        BatchPayload::Deposit {
            channel_config,
            voucher,
            deposit: Deposit {
                amount,
                authorization: DepositAuthorization {
                    erc3009_authorization: Some(authorization),
                    permit2_authorization: None,
                },
            },
        }
    }

    /// Takes a provider's statement of what it charged.
    ///
    /// # Errors
    /// What cannot be true of it.
    pub(crate) fn settle(
        &mut self,
        tab: &mut Tab,
        settlement: &SettlementJson,
    ) -> Result<(), String> {
        let settled = settlement.read().map_err(|error| error.to_string())?;
        let machine = &mut self
            .channels
            .get_mut(&tab.channel)
            .ok_or("the channel is gone")?
            .machine;
        let before = machine.record().charged;
        let outcome = match statement(settled.success, settled.extra)? {
            Some(statement) => Outcome::Stated(Box::new(statement)),
            None => Outcome::NotCharged,
        };
        tab.is_promised = false;
        machine
            .finish(outcome)
            .map_err(|distrust| distrust.to_string())?;
        let charged = machine.record().charged.saturating_sub(before);
        tab.charged = tab.charged.saturating_add(charged);
        self.outlays
            .keep(tab.channel, machine.record().refundable());
        Ok(())
    }

    /// Takes a provider's correction, once.
    ///
    /// # Errors
    /// Why it is not believed.
    pub(crate) fn correct(
        &mut self,
        outside: &mut Outside,
        tab: &mut Tab,
        required: &RequirementsJson,
    ) -> Result<(), String> {
        let domain = self.domain();
        let machine = &mut self
            .channels
            .get_mut(&tab.channel)
            .ok_or("the channel is gone")?
            .machine;
        machine
            .finish(Outcome::NotCharged)
            .map_err(|distrust| distrust.to_string())?;
        tab.is_promised = false;
        if std::mem::replace(&mut tab.corrected, true) {
            return Err("it corrects again and again".to_owned());
        }
        let required = required.read().map_err(|error| error.to_string())?;
        let extras = required.accepts.into_iter().map(|way| way.extra);
        let extra = extras
            .filter_map(|extra| read::<BatchExtra>(extra).ok())
            .next();
        let extra = extra.ok_or("the correction says nothing")?;
        let onchain = outside.look(tab.channel).map(|(state, _)| state);
        machine
            .correct(&extra, &domain, onchain.as_ref())
            .map_err(|error| error.to_string())?;
        Ok(())
    }

    /// Ends a tab; `is_known` says whether the last promise is known not to have been charged.
    pub(crate) fn close(&mut self, tab: &Tab, is_known: bool) {
        let Some(held) = self.channels.get_mut(&tab.channel) else {
            return;
        };
        held.taken = false;
        if tab.is_promised {
            let outcome = if is_known {
                Outcome::NotCharged
            } else {
                Outcome::Unknown
            };
            // Neither states anything that could be wrong.
            let _ = held.machine.finish(outcome);
        }
    }

    /// Begins a refund of what is left in some channel on which nothing is under way, if there is one.
    pub(crate) fn begin_refund(
        &mut self,
        now: Timestamp,
    ) -> Option<(ChannelId, SellerNumber, PaymentJson)> {
        let domain = self.domain();
        let is_idle = |held: &&mut Held| !held.taken && held.machine.is_ready();
        for held in self.channels.values_mut().filter(is_idle) {
            let Ok(amount) = held.machine.prepare_refund() else {
                continue;
            };
            held.taken = true;
            let channel = held.machine.id();
            return Some((
                channel,
                held.seller,
                self.sign_refund(now, &domain, channel, amount),
            ));
        }
        None
    }

    fn sign_refund(
        &mut self,
        now: Timestamp,
        domain: &SettlementDomain,
        channel: ChannelId,
        amount: Amount,
    ) -> PaymentJson {
        let machine = &mut self
            .channels
            .get_mut(&channel)
            .expect("it was prepared")
            .machine;
        let voucher = Voucher {
            max_claimable: amount,
            signature: self.session.sign(domain.voucher_digest(channel, amount)),
        };
        machine.sign(now, voucher);
        let config = machine.record().config;
        let requirements = PaymentRequirements {
            scheme: Scheme::BatchSettlement,
            network: self.asset.chain,
            amount: Amount::ZERO,
            asset: self.asset.token,
            pay_to: config.receiver,
            max_timeout_seconds: 120,
            extra: Extra::new(),
        };
        PaymentJson::from(&PaymentPayload {
            x402_version: Version,
            resource: None,
            accepted: requirements,
            payload: BatchPayload::Refund {
                channel_config: config,
                voucher: voucher.on_channel(channel),
                amount: None,
            },
            extensions: Extra::new(),
        })
    }

    /// Takes a provider's correction of a refund. Returns the refund, made otherwise.
    ///
    /// # Errors
    /// Why it is not believed; the refund is over.
    pub(crate) fn correct_refund(
        &mut self,
        outside: &mut Outside,
        channel: ChannelId,
        required: &RequirementsJson,
    ) -> Result<PaymentJson, String> {
        let domain = self.domain();
        let onchain = outside.look(channel).map(|(state, _)| state);
        let machine = &mut self
            .channels
            .get_mut(&channel)
            .ok_or("the channel is gone")?
            .machine;
        let required = required.read().map_err(|error| error.to_string())?;
        let extras = required.accepts.into_iter().map(|way| way.extra);
        let extra = extras
            .filter_map(|extra| read::<BatchExtra>(extra).ok())
            .next();
        let extra = extra.ok_or("the correction says nothing")?;
        machine
            .correct(&extra, &domain, onchain.as_ref())
            .map_err(|error| error.to_string())?;
        let amount = machine
            .prepare_refund()
            .map_err(|error| error.to_string())?;
        Ok(self.sign_refund(outside.now, &domain, channel, amount))
    }

    /// Ends a refund. `returned` says whether the provider says that it was done: the chain then shows it.
    pub(crate) fn end_refund(&mut self, outside: &mut Outside, channel: ChannelId, returned: bool) {
        let onchain = outside.look(channel).map(|(state, _)| state);
        let Some(held) = self.channels.get_mut(&channel) else {
            return;
        };
        held.taken = false;
        match onchain.filter(|_| returned) {
            Some(state) => {
                held.machine.observe(&state);
            }
            None if !returned => {
                held.machine.finish_refund(None);
            }
            // The channel stays marked until the chain can be read.
            None => {}
        }
        self.outlays
            .keep(channel, held.machine.record().refundable());
    }

    /// Starts again from what is durable: nothing is under way any more.
    pub(crate) fn restart(&mut self) {
        for held in self.channels.values_mut() {
            held.machine = PayerChannel::new(held.machine.id(), held.machine.record().clone());
            held.taken = false;
        }
    }

    /// Counts no more of its channels than the chain is sure of.
    pub(crate) fn recount(&mut self, outside: &Outside) {
        for (channel, held) in &self.channels {
            let (state, at) = outside.chain.sure(*channel);
            let seen = SeenChannel {
                balance: state.balance,
                locked: held.machine.record().refundable().min(state.balance),
                at_s: at.as_secs(),
            };
            self.outlays.observe(*channel, seen);
        }
    }

    /// Whether nothing more is signed on some channel because its provider lied.
    pub(crate) fn is_distrusted(&self, seller: SellerNumber) -> bool {
        self.channels.values().any(|held| {
            held.seller == seller && matches!(held.machine.record().status, Status::Distrusted(_))
        })
    }
}

/// The nonce by which a deposit that was signed so can be put on the chain once.
pub(crate) fn nonce_of(channel: ChannelId, authorization: &Erc3009Authorization) -> B256 {
    deposit_nonce(channel, authorization.salt)
}

fn requirements(offer: &Offer, price: &Price) -> PaymentRequirements {
    let extra = BatchExtra {
        receiver_authorizer: offer.session_key,
        withdraw_delay: offer.withdraw_delay_s,
        name: TOKEN_NAME.to_owned(),
        version: TOKEN_VERSION.to_owned(),
        asset_transfer_method: None,
        min_deposit: None,
        channel_state: None,
        voucher_state: None,
    };
    PaymentRequirements {
        scheme: Scheme::BatchSettlement,
        network: price.asset.chain,
        amount: Amount::ZERO,
        asset: price.asset.token,
        pay_to: offer.household,
        max_timeout_seconds: 120,
        extra: extra.into_map(),
    }
}

type Extra = serde_json::Map<String, serde_json::Value>;

fn read<T: serde::de::DeserializeOwned>(extra: Extra) -> Result<T, String> {
    let value = serde_json::Value::Object(extra);
    serde_json::from_value(value).map_err(|error| error.to_string())
}

fn statement(success: bool, extra: Extra) -> Result<Option<ChargeStatement>, String> {
    success.then(|| read(extra)).transpose()
}
