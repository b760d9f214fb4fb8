//! The ledger's contracts on one chain, with types: where they stand, what they hold, and the calls that change them.
//!
//! [`Ledger::find`] begins at one address and follows the contracts' own references, so that contracts of two ledgers are
//! never mixed. Reads are methods of [`Ledger`]; a call is made by a pure function of [`LedgerAddresses`] and sent by
//! [`Ledger::send`] through the account's [`Sender`]. Deliberately absent: keys, and any decision about what is signed.
//! Implements docs/spec/14-ledger.md, section 11.

mod call;
mod clock;
mod committee;
mod error;
mod history;
mod reading;
mod refusal;

use std::num::NonZeroU64;

use alloy_primitives::{Address, B256, U256, keccak256};
use alloy_sol_types::{SolCall, SolValue};
use hearth_protocol::id::ChainId;
use hearth_protocol::ledger::statement::{LedgerDomain, LedgerStatement, subject};

use crate::bindings::{Devices, Rewards, Runs, Validators};
use crate::client::{BlockAt, ChainClient, ChainError, TxRequest};
use crate::deployment::LedgerAddresses;
use crate::sender::{IntentId, Receipt, SendError, Sender, TxIntent};

pub use call::{Again, BondPlace, EpochFault, LedgerCall};
pub use clock::EpochClock;
pub use committee::{EpochSeats, RunCommittee, SeatHolder, SignatureSet};
pub use error::LedgerError;
pub use history::{
    HISTORY_PAGE_BLOCKS, HistoryPage, RecordedEpoch, RecordedRound, ReleasedPledges,
};
pub use reading::{AssetBooks, EpochRecord, RegisteredDevice, RunProgress, StakeHeld};
pub use refusal::LedgerRefusal;

/// Gas that a call may use at most: several times what the dearest one needs.
const GAS_CAP: u64 = 4_000_000;
/// How long a call may wait before it is signed for the first time, in milliseconds.
const SIGN_WITHIN_MS: u64 = 60_000;

/// The ledger on one chain. Clones share the connection.
#[derive(Debug, Clone)]
pub struct Ledger {
    client: ChainClient,
    addresses: LedgerAddresses,
    clock: EpochClock,
    domain: LedgerDomain,
}

impl Ledger {
    /// The ledger whose `Runs` stands at `runs`: that contract names the others.
    ///
    /// # Errors
    /// [`LedgerError::Missing`] and [`LedgerError::Another`] where no ledger stands there; otherwise [`LedgerError::Chain`].
    pub async fn find(client: ChainClient, runs: Address) -> Result<Self, LedgerError> {
        let chain = client.chain();
        if client.code(runs).await?.is_empty() {
            return Err(LedgerError::Missing {
                chain,
                address: runs,
            });
        }
        let place = Place { client, chain };
        let validators = place.ask(runs, &Runs::validatorsCall {}).await?;
        let rewards = place.ask(runs, &Runs::rewardsCall {}).await?;
        let devices = place.ask(rewards, &Rewards::devicesCall {}).await?;
        let addresses = LedgerAddresses {
            devices,
            ember: place.ask(rewards, &Rewards::emberCall {}).await?,
            voice: place.ask(rewards, &Rewards::voiceCall {}).await?,
            validators,
            rewards,
            runs,
        };
        place.check(&addresses).await?;
        let epoch_s = place.ask(validators, &Validators::EPOCH_SCall {}).await?;
        let origin_s = place.ask(validators, &Validators::ORIGINCall {}).await?;
        let window_s = place.ask(rewards, &Rewards::WINDOW_SCall {}).await?;
        let epoch_s = NonZeroU64::new(epoch_s)
            .ok_or_else(|| place.another(validators, "its epochs have no length"))?;
        Ok(Self {
            domain: LedgerDomain::new(chain, devices),
            clock: EpochClock::new(origin_s, epoch_s, window_s),
            client: place.client,
            addresses,
        })
    }

    /// The chain that it is on.
    #[must_use]
    pub fn chain(&self) -> ChainId {
        self.client.chain()
    }

    /// The chain's client.
    #[must_use]
    pub fn client(&self) -> &ChainClient {
        &self.client
    }

    /// Where the contracts stand. Calls are made here.
    #[must_use]
    pub fn addresses(&self) -> &LedgerAddresses {
        &self.addresses
    }

    /// When epochs begin and end.
    #[must_use]
    pub fn clock(&self) -> &EpochClock {
        &self.clock
    }

    /// What statements are signed in.
    #[must_use]
    pub fn domain(&self) -> &LedgerDomain {
        &self.domain
    }

    /// Whether the ledger would take `call` from `from` now.
    ///
    /// # Errors
    /// [`LedgerError::Refused`] with the contract's reason if it would not; otherwise [`LedgerError::Chain`].
    pub async fn check(&self, from: Address, call: &LedgerCall) -> Result<(), LedgerError> {
        let request = TxRequest {
            from: Some(from),
            to: Some(call.to),
            data: call.data.clone(),
            ..TxRequest::default()
        };
        self.client.simulate(&request, BlockAt::Latest).await?;
        Ok(())
    }

    /// Sends a call from the sender's account and returns when it is final. What the contract would refuse is not sent. A
    /// call that is under way already is waited for, not sent twice; one that means one more each time
    /// ([`Again::More`]) is sent each time.
    ///
    /// # Errors
    /// [`LedgerError::Refused`] with the contract's reason, also where another transaction came first;
    /// [`LedgerError::Send`] where it was not sent or did nothing; otherwise [`LedgerError::Chain`].
    pub async fn send(&self, sender: &Sender, call: &LedgerCall) -> Result<Receipt, LedgerError> {
        let content = keccak256((call.to, call.data.clone()).abi_encode());
        let name = match call.again {
            Again::Same => format!("ledger:{}:{content}", call.what),
            Again::More => {
                let now_ms = self.client.environment().now_ms();
                format!("ledger:{}:{content}:{now_ms}", call.what)
            }
        };
        let name =
            IntentId::new(name).expect("the name of a call is shorter than an intent's may be");
        self.send_named(sender, name, call).await
    }

    /// As [`Ledger::send`], under the caller's own name: until it is final, the same name is never sent twice, also after
    /// a restart.
    ///
    /// # Errors
    /// As [`Ledger::send`].
    pub async fn send_named(
        &self,
        sender: &Sender,
        name: IntentId,
        call: &LedgerCall,
    ) -> Result<Receipt, LedgerError> {
        let from = sender.key().account;
        self.check(from, call).await?;
        let now_ms = self.client.environment().now_ms();
        let intent = TxIntent {
            to: call.to,
            data: call.data.clone(),
            value: U256::ZERO,
            gas_cap: GAS_CAP,
            deadline_ms: now_ms.saturating_add(SIGN_WITHIN_MS),
        };
        let outcome = sender.submit(name.clone(), intent).await;
        if matches!(outcome, Ok(_) | Err(SendError::Reverted { .. })) {
            // Repeating what is done is up to the contract, which refuses it or does nothing.
            sender.forget(name).await?;
        }
        match outcome {
            Ok(receipt) => Ok(receipt),
            Err(error @ (SendError::Reverted { .. } | SendError::WouldFail { .. })) => {
                // Something came first: what it left says why as a type. Where it says nothing, the sender's words do.
                match self.check(from, call).await {
                    Err(refused @ LedgerError::Refused(_)) => Err(refused),
                    _ => Err(error.into()),
                }
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// A chain in which a ledger is looked for.
struct Place {
    client: ChainClient,
    chain: ChainId,
}

impl Place {
    fn another(&self, address: Address, difference: impl Into<String>) -> LedgerError {
        LedgerError::Another {
            chain: self.chain,
            address,
            difference: difference.into(),
        }
    }

    /// Asks a contract what only one of a ledger answers.
    async fn ask<C: SolCall>(&self, address: Address, call: &C) -> Result<C::Return, LedgerError> {
        match self.client.view(address, call, BlockAt::Latest).await {
            Ok(answer) => Ok(answer),
            Err(ChainError::Malformed { .. } | ChainError::Reverted { .. }) => {
                Err(self.another(address, format!("it does not answer {}", C::SIGNATURE)))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Whether the contracts name each other, and `Devices` hashes statements as this program does.
    async fn check(&self, at: &LedgerAddresses) -> Result<(), LedgerError> {
        let validators = self.ask(at.rewards, &Rewards::validatorsCall {}).await?;
        if validators != at.validators {
            return Err(self.another(at.runs, "it has other validators than its rewards"));
        }
        let devices = self.ask(at.validators, &Validators::devicesCall {}).await?;
        let voice = self.ask(at.validators, &Validators::voiceCall {}).await?;
        if (devices, voice) != (at.devices, at.voice) {
            return Err(self.another(at.validators, "it is of another ledger than the rewards"));
        }
        let topic = keccak256("hearth probe");
        let probe = Devices::statementDigestCall {
            court: at.runs,
            topic,
            sequence: 1,
            content: B256::ZERO,
        };
        let statement = LedgerStatement {
            subject: subject(at.runs, topic),
            sequence: 1,
            content: B256::ZERO,
        };
        let ours = LedgerDomain::new(self.chain, at.devices).statement_digest(&statement);
        if self.ask(at.devices, &probe).await? != ours {
            return Err(self.another(at.devices, "it hashes statements in another way"));
        }
        Ok(())
    }
}
