//! What holds after any sequence of calls: random calls by several payers and receivers, with jumps in time, against a
//! model of who holds what.
//!
//! After every call: no token was created or lost; the contract holds exactly what its books say; totals only grow; no
//! promise that was claimed is ever taken back. Sequences are drawn by proptest, which prints the seed of a failure and
//! shrinks it.

use std::collections::BTreeMap;

use alloy_primitives::Address;
use hearth_chain::bindings::SETTLEMENT_ADDRESS;
use hearth_chain::bindings::Settlement::{self, ChannelConfig};
use proptest::prelude::*;

use crate::chain::Receipt;
use crate::world::{Books, DELAY_S, PAYER_FUNDS, Role, World};

/// Channels that the calls are spread over.
const CHANNELS: usize = 4;

/// Sequences that a run tries, and calls in the longest of them.
const SEQUENCES: u32 = 64;
const MAX_CALLS: usize = 60;

/// One call, or a jump in time. Amounts are small, so that limits are met often.
#[derive(Clone, Debug)]
enum Step {
    Deposit {
        channel: usize,
        amount: u128,
    },
    Claim {
        channel: usize,
        by: Role,
        ceiling: u128,
        total: u128,
    },
    ClaimSigned {
        rows: Vec<(usize, u128)>,
        signer: Role,
    },
    Settle {
        channel: usize,
    },
    Initiate {
        channel: usize,
        by: Role,
        amount: u128,
    },
    Finalize {
        channel: usize,
        by: Role,
    },
    Refund {
        channel: usize,
        by: Role,
        amount: u128,
    },
    RefundSigned {
        channel: usize,
        nonce: u64,
        amount: u128,
    },
    Wait {
        seconds: u64,
    },
}

fn role() -> impl Strategy<Value = Role> {
    prop::sample::select(vec![
        Role::Payer,
        Role::PayerAuthorizer,
        Role::Receiver,
        Role::ReceiverAuthorizer,
        Role::Stranger,
    ])
}

fn payer_side() -> impl Strategy<Value = Role> {
    prop_oneof![3 => Just(Role::Payer), 2 => Just(Role::PayerAuthorizer), 1 => role()]
}

fn receiver_side() -> impl Strategy<Value = Role> {
    prop_oneof![3 => Just(Role::Receiver), 2 => Just(Role::ReceiverAuthorizer), 1 => role()]
}

fn step() -> impl Strategy<Value = Step> {
    let channel = 0..CHANNELS;
    let amount = prop_oneof![4 => 0_u128..150, 1 => Just(u128::MAX)];
    prop_oneof![
        3 => (channel.clone(), 0_u128..100).prop_map(|(channel, amount)| Step::Deposit { channel, amount }),
        3 => (channel.clone(), receiver_side(), amount.clone(), 0_u128..150)
            .prop_map(|(channel, by, ceiling, total)| Step::Claim { channel, by, ceiling, total }),
        2 => (prop::collection::vec((channel.clone(), 0_u128..150), 0..4), receiver_side())
            .prop_map(|(rows, signer)| Step::ClaimSigned { rows, signer }),
        1 => channel.clone().prop_map(|channel| Step::Settle { channel }),
        2 => (channel.clone(), payer_side(), amount.clone())
            .prop_map(|(channel, by, amount)| Step::Initiate { channel, by, amount }),
        2 => (channel.clone(), payer_side()).prop_map(|(channel, by)| Step::Finalize { channel, by }),
        1 => (channel.clone(), receiver_side(), amount.clone())
            .prop_map(|(channel, by, amount)| Step::Refund { channel, by, amount }),
        1 => (channel, 0_u64..3, amount)
            .prop_map(|(channel, nonce, amount)| Step::RefundSigned { channel, nonce, amount }),
        2 => (0..DELAY_S).prop_map(|seconds| Step::Wait { seconds }),
        1 => Just(Step::Wait { seconds: DELAY_S }),
    ]
}

/// Two payers and two receivers, each pair with a channel. A payer's tokens are one pool over its channels.
struct Town {
    world: World,
    channels: Vec<ChannelConfig>,
    /// Everything minted at the start; nothing mints later.
    supply: u128,
    /// Paid out to each receiver so far, by the model.
    paid: BTreeMap<Address, u128>,
}

/// Where all the money is.
#[derive(Clone, Debug, PartialEq)]
struct Money {
    books: Vec<Books>,
    earned: Vec<(u128, u128)>,
    held: u128,
}

impl Town {
    fn new() -> Self {
        let world = World::on_revm("town");
        // The second receiver is the payer itself: one account on both sides must not confuse the books.
        let other = world.address(Role::Payer);
        let to_other = |config: ChannelConfig| ChannelConfig {
            receiver: other,
            ..config
        };
        let self_signed = |config: ChannelConfig| ChannelConfig {
            payerAuthorizer: Address::ZERO,
            ..config
        };
        let channels = vec![
            world.config_n(0),
            self_signed(world.config_n(1)),
            to_other(world.config_n(2)),
            to_other(self_signed(world.config_n(3))),
        ];
        Self {
            world,
            channels,
            supply: PAYER_FUNDS,
            paid: BTreeMap::new(),
        }
    }

    fn money(&mut self) -> Money {
        let channels = self.channels.clone();
        Money {
            books: channels
                .iter()
                .map(|config| self.world.books(config))
                .collect(),
            earned: channels
                .iter()
                .map(|config| self.world.earned(config))
                .collect(),
            held: self.world.balance(self.world.token, SETTLEMENT_ADDRESS),
        }
    }

    fn voucher(&self, channel: usize, ceiling: u128, total: u128) -> Settlement::VoucherClaim {
        let config = &self.channels[channel];
        let signer = if config.payerAuthorizer.is_zero() {
            Role::Payer
        } else {
            Role::PayerAuthorizer
        };
        self.world.row_by(signer, config, ceiling, total)
    }

    /// Does one step, and keeps the model of payouts. A jump in time has no receipt.
    fn perform(&mut self, step: &Step) -> Option<Receipt> {
        if let Step::Wait { seconds } = step {
            self.world.chain.advance(*seconds);
            return None;
        }
        let receipt = self.call(step);
        for settled in receipt.events::<Settlement::Settled>(SETTLEMENT_ADDRESS) {
            *self.paid.entry(settled.receiver).or_default() += settled.amount;
        }
        Some(receipt)
    }

    fn call(&mut self, step: &Step) -> Receipt {
        let config = |channel: &usize| self.channels[*channel].clone();
        match step {
            Step::Deposit { channel, amount } => self.world.deposit(&config(channel), *amount),
            Step::Claim {
                channel,
                by,
                ceiling,
                total,
            } => {
                let row = self.voucher(*channel, *ceiling, *total);
                self.world.claim_rows(*by, vec![row])
            }
            Step::ClaimSigned { rows, signer } => {
                let row = |(channel, total): &(usize, u128)| self.voucher(*channel, *total, *total);
                let call = self
                    .world
                    .signed_claim(*signer, rows.iter().map(row).collect());
                self.world.settlement(Role::Stranger, &call)
            }
            Step::Settle { channel } => self.world.settle(&config(channel)),
            Step::Initiate {
                channel,
                by,
                amount,
            } => {
                let call = Settlement::initiateWithdrawCall {
                    config: config(channel),
                    amount: *amount,
                };
                self.world.settlement(*by, &call)
            }
            Step::Finalize { channel, by } => {
                let call = Settlement::finalizeWithdrawCall {
                    config: config(channel),
                };
                self.world.settlement(*by, &call)
            }
            Step::Refund {
                channel,
                by,
                amount,
            } => {
                let call = Settlement::refundCall {
                    config: config(channel),
                    amount: *amount,
                };
                self.world.settlement(*by, &call)
            }
            Step::RefundSigned {
                channel,
                nonce,
                amount,
            } => {
                let call = self.world.signed_refund(
                    Role::ReceiverAuthorizer,
                    &config(channel),
                    *amount,
                    *nonce,
                );
                self.world.settlement(Role::Stranger, &call)
            }
            Step::Wait { .. } => unreachable!("time is not a call"),
        }
    }

    /// What must be true of any state the contract can be in.
    fn check_state(&mut self, now: &Money) -> Result<(), TestCaseError> {
        // No token created or lost: payer, receiver and contract hold the supply between them.
        let payer = self
            .world
            .balance(self.world.token, self.world.address(Role::Payer));
        let receiver = self
            .world
            .balance(self.world.token, self.world.address(Role::Receiver));
        prop_assert_eq!(payer + receiver + now.held, self.supply);

        // The contract holds what it owes: all escrows, less what was paid out of them.
        let escrowed: u128 = now.books.iter().map(|books| books.balance).sum();
        let paid: u128 = self.paid.values().sum();
        prop_assert_eq!(now.held, escrowed - paid);

        let mut claimed_by: BTreeMap<Address, u128> = BTreeMap::new();
        for (config, books) in self.channels.iter().zip(&now.books) {
            prop_assert!(
                books.claimed <= books.balance,
                "claimed beyond the escrow: {:?}",
                books
            );
            prop_assert_eq!(books.initiated_at == 0, books.pending == 0);
            *claimed_by.entry(config.receiver).or_default() += books.claimed;
        }
        for (config, (claimed, settled)) in self.channels.iter().zip(&now.earned) {
            prop_assert_eq!(Some(claimed), claimed_by.get(&config.receiver));
            prop_assert_eq!(
                *settled,
                self.paid.get(&config.receiver).copied().unwrap_or_default()
            );
            prop_assert!(settled <= claimed);
        }
        Ok(())
    }
}

/// What must be true between the state before a call and the state after it.
fn check_change(before: &Money, after: &Money, receipt: &Receipt) -> Result<(), TestCaseError> {
    if receipt.outcome.is_err() {
        prop_assert_eq!(before, after, "a call that reverted changed something");
    }
    for (old, new) in before.books.iter().zip(&after.books) {
        prop_assert!(new.claimed >= old.claimed, "a claim was taken back");
        prop_assert!(new.refund_nonce >= old.refund_nonce);
    }
    for (old, new) in before.earned.iter().zip(&after.earned) {
        prop_assert!(
            new.0 >= old.0 && new.1 >= old.1,
            "a receiver's total shrank"
        );
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(SEQUENCES))]

    #[test]
    fn no_sequence_of_calls_creates_or_loses_a_token(steps in prop::collection::vec(step(), 1..MAX_CALLS)) {
        let mut town = Town::new();
        let mut before = town.money();
        for step in &steps {
            let Some(receipt) = town.perform(step) else { continue };
            let after = town.money();
            check_change(&before, &after, &receipt)?;
            town.check_state(&after)?;
            before = after;
        }
    }

    /// The provider's rule of the design: claim inside the delay, and every voucher is worth its face.
    #[test]
    fn a_provider_that_claims_inside_the_delay_loses_nothing(
        deposit in 1_u128..1_000,
        promised in 0_u128..=1_000,
        earlier in prop::collection::vec(step(), 0..20),
        noise in prop::collection::vec(step(), 0..20),
        late in 0..DELAY_S,
    ) {
        let mut town = Town::new();
        let config = town.channels[0].clone();
        for step in &earlier {
            town.perform(step);
        }
        town.world.deposit(&config, deposit).succeeded();
        let books = town.world.books(&config);
        // A provider serves up to what the escrow holds beyond a withdrawal that was already announced.
        let (reserved, promised) = match books.pending {
            0 => (0, promised),
            _ => (books.pending, promised),
        };
        let ceiling = books.balance.saturating_sub(reserved).min(books.claimed + promised).max(books.claimed);
        let voucher = town.voucher(0, ceiling, ceiling);

        // The payer's side does what it likes, short of having had a whole delay.
        let deadline = town.world.chain.now() + late;
        for step in noise.iter().filter(|step| is_of_the_payer(step)) {
            if let Step::Wait { seconds } = step && town.world.chain.now() + seconds >= deadline {
                continue;
            }
            town.perform(step);
        }
        town.world.claim_rows(Role::Receiver, vec![voucher]).succeeded();
        prop_assert_eq!(town.world.books(&config).claimed, ceiling);

        // Nothing afterwards takes it away.
        town.world.chain.advance(DELAY_S);
        town.perform(&Step::Finalize { channel: 0, by: Role::Payer });
        town.world.settle(&config).succeeded();
        let (claimed, settled) = town.world.earned(&config);
        prop_assert_eq!(claimed, settled);
        prop_assert!(town.world.balance(config.token, config.receiver) >= ceiling);
    }
}

/// Whether a step needs no consent of the receiver.
fn is_of_the_payer(step: &Step) -> bool {
    match step {
        Step::Deposit { .. } | Step::Settle { .. } | Step::Wait { .. } => true,
        Step::Initiate { by, .. } | Step::Finalize { by, .. } => {
            matches!(by, Role::Payer | Role::PayerAuthorizer)
        }
        Step::Claim { .. }
        | Step::ClaimSigned { .. }
        | Step::Refund { .. }
        | Step::RefundSigned { .. } => false,
    }
}
