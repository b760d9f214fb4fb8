use alloy_primitives::{Address, B256};

use super::*;
use crate::channel::channel_state;
use crate::id::ChainId;
use crate::signature::testing::Key;
use crate::x402::VoucherState;

const NOW: Timestamp = Timestamp(1_000_000);

fn amount(units: u128) -> Amount {
    Amount::new(units)
}

struct Wallet {
    key: Key,
    domain: SettlementDomain,
    channel: PayerChannel,
}

impl Wallet {
    fn with_balance(balance: u128) -> Self {
        let key = Key::new(7);
        let domain = SettlementDomain::new(ChainId(31337));
        let config = ChannelConfig {
            payer: Address::repeat_byte(1),
            payer_authorizer: key.address(),
            receiver: Address::repeat_byte(3),
            receiver_authorizer: Address::repeat_byte(4),
            token: Address::repeat_byte(5),
            withdraw_delay: 900,
            salt: B256::ZERO,
        };
        let mut record = PayerRecord::new(config);
        record.balance = amount(balance);
        let channel = PayerChannel::new(domain.channel_id(&config), record);
        Self {
            key,
            domain,
            channel,
        }
    }

    fn pay(&mut self, ceiling: u128) -> Promise {
        let promise = self.channel.prepare(amount(ceiling), Amount::ZERO).unwrap();
        let digest = self
            .domain
            .voucher_digest(self.channel.id(), promise.max_claimable);
        let signature = self.key.sign(digest);
        self.channel.sign(
            NOW,
            Voucher {
                max_claimable: promise.max_claimable,
                signature,
            },
        );
        promise
    }

    fn statement(&self, charged: u128, sum: u128, balance: u128) -> Outcome {
        let onchain = OnchainState {
            balance: amount(balance),
            ..OnchainState::default()
        };
        Outcome::Stated(Box::new(ChargeStatement {
            charged_amount: Some(amount(charged)),
            charged_total: None,
            channel_state: Some(channel_state(
                self.channel.id(),
                &onchain,
                Some(amount(sum)),
            )),
        }))
    }

    fn correction(&self, charged: u128, signed: u128, signer: &Key) -> BatchExtra {
        let digest = self
            .domain
            .voucher_digest(self.channel.id(), amount(signed));
        BatchExtra {
            receiver_authorizer: Address::repeat_byte(4),
            withdraw_delay: 900,
            name: "T".into(),
            version: "1".into(),
            asset_transfer_method: None,
            min_deposit: None,
            channel_state: Some(channel_state(
                self.channel.id(),
                &OnchainState::default(),
                Some(amount(charged)),
            )),
            voucher_state: Some(VoucherState {
                signed_max_claimable: amount(signed),
                signature: signer.sign(digest),
            }),
        }
    }
}

#[test]
fn a_channel_is_funded_when_it_must_be_and_paid_from_when_it_can() {
    let mut wallet = Wallet::with_balance(0);
    let promise = wallet
        .channel
        .prepare(amount(1_000), amount(5_000))
        .unwrap();
    assert_eq!(promise.deposit, Some(amount(5_000)));
    wallet
        .channel
        .finish(wallet.statement(1_000, 1_000, 5_000))
        .unwrap();
    assert_eq!(wallet.channel.record().deposited, amount(5_000));
    for _ in 0..4 {
        let promise = wallet.pay(1_000);
        assert_eq!(promise.deposit, None);
        let sum = promise.max_claimable.units();
        wallet
            .channel
            .finish(wallet.statement(1_000, sum, 5_000))
            .unwrap();
    }
    let promise = wallet.channel.prepare(amount(1_000), amount(200)).unwrap();
    assert_eq!(
        promise.deposit,
        Some(amount(1_000)),
        "raised to what is missing"
    );
}

#[test]
fn a_deposit_whose_reply_was_lost_is_in_doubt_until_the_chain_or_a_reply_tells() {
    let mut wallet = Wallet::with_balance(0);
    assert!(wallet.pay(1_000).deposit.is_some());
    assert!(wallet.channel.record().deposit_in_doubt, "before it leaves");
    wallet.channel.finish(Outcome::NotCharged).unwrap();
    assert!(
        wallet.channel.record().deposit_in_doubt,
        "work failed after it, perhaps"
    );
    wallet.channel.observe(&OnchainState {
        balance: amount(1_000),
        ..OnchainState::default()
    });
    let record = wallet.channel.record();
    assert_eq!(
        (record.balance, record.deposited),
        (amount(1_000), amount(1_000))
    );
    assert!(!record.deposit_in_doubt);
    assert_eq!(wallet.pay(1_000).deposit, None);
    wallet
        .channel
        .finish(wallet.statement(1_000, 1_000, 1_000))
        .unwrap();
    assert!(wallet.pay(1_000).deposit.is_some());
    wallet
        .channel
        .finish(wallet.statement(1_000, 2_000, 2_000))
        .unwrap();
    assert!(!wallet.channel.record().deposit_in_doubt);
}

#[test]
fn one_payment_at_a_time() {
    let mut wallet = Wallet::with_balance(5_000);
    wallet.pay(1_000);
    let second = wallet.channel.prepare(amount(1_000), Amount::ZERO);
    assert_eq!(second, Err(PrepareError::InFlight));
}

#[test]
fn what_cannot_be_true_ends_the_channel() {
    let wrong_channel = |wallet: &Wallet| {
        let Outcome::Stated(mut statement) = wallet.statement(10, 10, 5_000) else {
            unreachable!()
        };
        statement.channel_state.as_mut().unwrap().channel_id = ChannelId(B256::ZERO);
        Outcome::Stated(statement)
    };
    type Lie = fn(&Wallet) -> Outcome;
    let cases: [(Lie, ChannelDistrust); 4] = [
        (
            |wallet| wallet.statement(1_001, 1_001, 5_000),
            ChannelDistrust::ChargeAboveCeiling {
                charged: amount(1_001),
                ceiling: amount(1_000),
            },
        ),
        (
            |wallet| wallet.statement(10, 11, 5_000),
            ChannelDistrust::WrongSum {
                stated: amount(11),
                expected: amount(10),
            },
        ),
        (
            |wallet| wallet.statement(10, 10, 4_999),
            ChannelDistrust::BalanceMissing {
                stated: amount(4_999),
                expected: amount(5_000),
            },
        ),
        (wrong_channel, ChannelDistrust::WrongChannel),
    ];
    for (lie, distrust) in cases {
        let mut wallet = Wallet::with_balance(5_000);
        wallet.pay(1_000);
        let outcome = lie(&wallet);
        assert_eq!(wallet.channel.finish(outcome).map(|_| ()), Err(distrust));
        let next = wallet.channel.prepare(amount(1), Amount::ZERO);
        assert_eq!(next, Err(PrepareError::NotOpen));
    }
}

#[test]
fn a_correction_counts_only_with_the_payers_own_signature() {
    let mut wallet = Wallet::with_balance(5_000);
    wallet.pay(1_000);
    wallet.channel.finish(Outcome::Unknown).unwrap();
    let stranger = Key::new(9);
    let own = Key::new(7);
    let domain = wallet.domain.clone();
    let forged = wallet.correction(900, 1_000, &stranger);
    assert_eq!(
        wallet.channel.correct(&forged, &domain, None).map(|_| ()),
        Err(CorrectionError::NotSigned)
    );
    let above = wallet.correction(1_001, 1_000, &own);
    assert_eq!(
        wallet.channel.correct(&above, &domain, None).map(|_| ()),
        Err(CorrectionError::AbovePromise {
            charged: amount(1_001),
            signed: amount(1_000)
        })
    );
    let mut unproved = wallet.correction(900, 1_000, &own);
    unproved.voucher_state = None;
    let claimed = OnchainState {
        total_claimed: amount(100),
        ..OnchainState::default()
    };
    assert_eq!(
        wallet
            .channel
            .correct(&unproved, &domain, Some(&claimed))
            .map(|_| ()),
        Err(CorrectionError::NotOnChain {
            claimed: amount(100)
        })
    );
    assert_eq!(
        wallet.channel.record().charged,
        Amount::ZERO,
        "nothing changed"
    );
    let honest = wallet.correction(900, 1_000, &own);
    wallet.channel.correct(&honest, &domain, None).unwrap();
    assert_eq!(wallet.channel.record().charged, amount(900));
    assert_eq!(wallet.pay(1_000).max_claimable, amount(1_900));
}

#[test]
fn a_lost_reply_keeps_the_promise_in_the_books() {
    let mut wallet = Wallet::with_balance(5_000);
    wallet.pay(1_000);
    wallet.channel.finish(Outcome::Unknown).unwrap();
    assert_eq!(wallet.channel.record().reserved(), amount(1_000));
    let again = PayerChannel::new(wallet.channel.id(), wallet.channel.record().clone());
    assert!(again.is_ready());
}

fn returned(units: u128, balance: Option<u128>) -> Option<Returned> {
    Some(Returned {
        amount: amount(units),
        balance: balance.map(amount),
        charged_total: None,
    })
}

#[test]
fn the_total_that_is_stated_counts_as_far_as_it_was_promised() {
    let mut wallet = Wallet::with_balance(5_000);
    let with_total = |charged, total| {
        Outcome::Stated(Box::new(ChargeStatement {
            charged_amount: Some(amount(charged)),
            charged_total: Some(amount(total)),
            channel_state: None,
        }))
    };
    wallet.pay(1_000);
    // A reply was lost before: more was charged in all than this payer knew.
    wallet.channel.finish(with_total(100, 340)).unwrap();
    assert_eq!(wallet.channel.record().charged, amount(340));
    wallet.pay(1_000);
    let distrust = wallet.channel.finish(with_total(100, 1_341)).unwrap_err();
    assert!(
        matches!(distrust, ChannelDistrust::TotalAbovePromise { .. }),
        "{distrust}"
    );
    let next = wallet.channel.prepare(amount(1), Amount::ZERO);
    assert_eq!(next, Err(PrepareError::NotOpen));
}

#[test]
fn a_full_refund_closes_a_channel_whose_books_were_behind() {
    let mut wallet = Wallet::with_balance(5_000);
    wallet.pay(1_000);
    wallet.channel.finish(Outcome::Unknown).unwrap();
    assert_eq!(wallet.channel.record().reserved(), amount(1_000));
    wallet.channel.prepare_refund().unwrap();
    wallet.channel.finish_refund(Some(Returned {
        amount: amount(4_600),
        balance: Some(amount(400)),
        charged_total: Some(amount(400)),
    }));
    assert_eq!(wallet.channel.record().status, Status::Closed);
    assert_eq!(wallet.channel.record().charged, amount(400));
    assert_eq!(wallet.channel.record().reserved(), Amount::ZERO);
}

#[test]
fn a_full_refund_closes_the_channel_for_good_and_a_part_does_not() {
    let mut wallet = Wallet::with_balance(5_000);
    assert_eq!(wallet.channel.prepare_refund(), Ok(Amount::ZERO));
    wallet.channel.finish_refund(returned(1_000, None));
    assert_eq!(wallet.channel.record().balance, amount(4_000));
    assert!(wallet.channel.is_ready());
    wallet.channel.prepare_refund().unwrap();
    wallet.channel.finish_refund(None);
    assert!(
        wallet.channel.is_ready(),
        "a refused refund leaves the channel open"
    );
    wallet.channel.prepare_refund().unwrap();
    wallet.channel.finish_refund(returned(4_000, Some(0)));
    assert_eq!(wallet.channel.record().status, Status::Closed);
    assert_eq!(wallet.channel.record().refunded, amount(5_000));
    let next = wallet.channel.prepare(amount(1), Amount::ZERO);
    assert_eq!(next, Err(PrepareError::NotOpen));
}

#[test]
fn nothing_is_asked_back_of_a_provider_that_lied() {
    let mut wallet = Wallet::with_balance(5_000);
    wallet.pay(1_000);
    let lie = wallet.statement(1_001, 1_001, 5_000);
    wallet.channel.finish(lie).unwrap_err();
    // A refusal would open the channel again.
    let asked = wallet.channel.prepare_refund();
    assert_eq!(asked, Err(PrepareError::Distrusted));
    let status = &wallet.channel.record().status;
    assert!(matches!(status, Status::Distrusted(_)), "{status:?}");
}

#[test]
fn a_refund_whose_answer_was_lost_is_found_on_chain() {
    let mut wallet = Wallet::with_balance(5_000);
    wallet.channel.prepare_refund().unwrap();
    let mut channel = PayerChannel::new(wallet.channel.id(), wallet.channel.record().clone());
    let mut onchain = OnchainState {
        balance: amount(5_000),
        ..OnchainState::default()
    };
    assert_eq!(channel.observe(&onchain).status, Status::Refunding);
    onchain.balance = amount(4_000);
    assert_eq!(channel.observe(&onchain).status, Status::Open);
    assert_eq!(channel.record().refunded, amount(1_000));
    channel.prepare_refund().unwrap();
    onchain.balance = Amount::ZERO;
    assert_eq!(channel.observe(&onchain).status, Status::Closed);
    assert_eq!(channel.record().refunded, amount(5_000));
}

#[test]
fn the_end_of_a_stream_brings_the_view_down_but_never_below_what_was_claimed() {
    let mut wallet = Wallet::with_balance(5_000);
    wallet.pay(1_000);
    wallet
        .channel
        .finish(wallet.statement(1_000, 1_000, 5_000))
        .unwrap();
    assert_eq!(
        wallet.channel.correct_down(amount(137)).charged,
        amount(137)
    );
    assert_eq!(
        wallet.channel.correct_down(amount(500)).charged,
        amount(137)
    );
    let claimed = OnchainState {
        balance: amount(5_000),
        total_claimed: amount(137),
        ..OnchainState::default()
    };
    wallet.channel.observe(&claimed);
    assert_eq!(wallet.channel.correct_down(amount(0)).charged, amount(137));
}
