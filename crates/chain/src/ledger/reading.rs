//! What a ledger holds now.

use alloy_primitives::{Address, B256, U256};
use hearth_protocol::id::DeviceId;
use hearth_protocol::ledger::draw::{Committee, SEATS, Seat};
use hearth_protocol::money::Amount;

use super::call::BondPlace;
use super::committee::{EpochSeats, RunCommittee, SeatHolder};
use super::refusal::LedgerRefusal;
use super::{Ledger, LedgerError};
use crate::bindings::{Devices, IERC20, Rewards, Runs, Validators, Voice};
use crate::client::BlockAt;

/// What `Rewards` has for no base.
const NO_BASE: u64 = u64::MAX;

/// A device that is registered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RegisteredDevice {
    /// How the network knows it.
    pub device: DeviceId,
    /// The account that it works for.
    pub household: Address,
    /// Its household took it out of service.
    pub is_retired: bool,
    /// It was proved to have said two things, or to have signed what a court found false.
    pub is_expelled: bool,
}

/// What stands behind a device in one token before one court.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StakeHeld {
    /// Stays until it is asked back.
    pub bonded: Amount,
    /// Was asked back, and can still be taken by a verdict.
    pub leaving: Amount,
    /// Unix seconds from which on what leaves can be taken; zero where nothing leaves.
    pub leaves_at_s: u64,
}

/// How far a run has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunProgress {
    /// Hash of the weights after the last recorded round; nothing before the first.
    pub state: Option<B256>,
    /// Rounds recorded before the end of the run's terms.
    pub rounds: u64,
    /// The lowest number that the next round can have.
    pub next_round: u64,
    /// Checkpoints whose part was released.
    pub released: u32,
    /// What counts of the pledges.
    pub pledged: Amount,
    /// What of those is still with `Runs`.
    pub unreleased: Amount,
}

/// What was stated about one epoch and asset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpochRecord {
    /// Root of the sum tree.
    pub root: B256,
    /// Its sum.
    pub total: Amount,
    /// What of all that arrived in this asset was needed for it and those it counts from.
    pub used: Amount,
    /// Unix seconds of the block that it is in.
    pub recorded_at_s: u64,
    /// Epoch of the record that it counts from.
    pub base: Option<u64>,
    /// It was proved false.
    pub is_revoked: bool,
}

/// All payments in one asset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AssetBooks {
    /// What arrived to be earned.
    pub funded: Amount,
    /// What was claimed.
    pub paid: Amount,
    /// Highest total of a final record that was claimed from.
    pub payable: Amount,
    /// What is with `Rewards`.
    pub held: Amount,
}

impl Ledger {
    /// The device with this session key, if it is registered.
    ///
    /// # Errors
    /// [`LedgerError::Chain`].
    pub async fn registration(
        &self,
        session_key: Address,
    ) -> Result<Option<RegisteredDevice>, LedgerError> {
        let call = Devices::deviceOfCall {
            sessionKey: session_key,
        };
        let found = self.ask(self.addresses.devices, &call).await?;
        Ok(
            (found.household != Address::ZERO).then_some(RegisteredDevice {
                device: DeviceId(found.endpointKey.0),
                household: found.household,
                is_retired: found.isRetired,
                is_expelled: found.isExpelled,
            }),
        )
    }

    /// What a device has at stake.
    ///
    /// # Errors
    /// [`LedgerError::Chain`].
    pub async fn stake(&self, place: &BondPlace) -> Result<StakeHeld, LedgerError> {
        let call = Devices::stakeOfCall {
            device: place.device,
            court: place.court,
            token: place.token,
        };
        let found = self.ask(self.addresses.devices, &call).await?;
        Ok(StakeHeld {
            bonded: Amount::new(found.bonded),
            leaving: Amount::new(found.leaving),
            leaves_at_s: found.leavesAt,
        })
    }

    /// Whether a verdict excluded a device from validating.
    ///
    /// # Errors
    /// [`LedgerError::Chain`].
    pub async fn is_excluded(&self, session_key: Address) -> Result<bool, LedgerError> {
        let call = Validators::isExcludedCall {
            device: session_key,
        };
        self.ask(self.addresses.validators, &call).await
    }

    /// The epoch whose set is in office now, by the chain's clock; nothing before the first has one.
    ///
    /// # Errors
    /// [`LedgerError::Chain`].
    pub async fn in_office(&self) -> Result<Option<u64>, LedgerError> {
        let call = Validators::inOfficeCall {};
        match self.ask(self.addresses.validators, &call).await {
            Ok(epoch) => Ok(Some(epoch)),
            Err(LedgerError::Refused(refusal))
                if matches!(*refusal, LedgerRefusal::NotSealed(_)) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// The seats of an epoch that are taken, with the devices that have them. They change until its enrollment ends.
    ///
    /// # Errors
    /// [`LedgerError::Contradiction`] where a seat is of no registered device; otherwise [`LedgerError::Chain`].
    pub async fn seats(&self, epoch: u64) -> Result<EpochSeats, LedgerError> {
        let validators = self.addresses.validators;
        let taken = self
            .ask(validators, &Validators::seatsCall { epoch })
            .await?;
        let beacon = self
            .ask(validators, &Validators::beaconCall { epoch })
            .await?;
        if taken.len() > SEATS {
            return Err(self.contradiction(format!("epoch {epoch} has {} seats", taken.len())));
        }
        let asked: Vec<_> = taken
            .iter()
            .map(|seat| Devices::deviceOfCall {
                sessionKey: seat.device,
            })
            .collect();
        let devices = self
            .client
            .views(self.addresses.devices, &asked, BlockAt::Latest);
        let devices = devices.await?;
        let mut holders = Vec::with_capacity(taken.len());
        for (seat, found) in taken.iter().zip(devices) {
            if found.household != seat.household {
                let difference = format!("the seat of {} is of another household", seat.device);
                return Err(self.contradiction(difference));
            }
            holders.push(SeatHolder {
                seat: Seat {
                    device: seat.device,
                    household: seat.household,
                    weight: seat.weight.to(),
                },
                device: DeviceId(found.endpointKey.0),
            });
        }
        Ok(EpochSeats {
            epoch,
            beacon,
            holders,
        })
    }

    /// The validators of a run in an epoch, or of the whole epoch where `run` is zero: drawn here, and compared with what
    /// the contract seals.
    ///
    /// # Errors
    /// [`LedgerError::Refused`] with [`LedgerRefusal::NotSealed`] before the epoch's enrollment ends, and with
    /// [`LedgerRefusal::NoQuorum`] where it has no set; [`LedgerError::Contradiction`] where the contract draws
    /// otherwise; otherwise [`LedgerError::Chain`].
    pub async fn committee(&self, epoch: u64, run: B256) -> Result<RunCommittee, LedgerError> {
        // This fails before enrollment ends, so that no seat changes between the two questions.
        let call = Validators::sealCall { epoch, run };
        let sealed = self.ask(self.addresses.validators, &call).await?;
        let sealed = Committee {
            mask: sealed.mask,
            cap: sealed.cap.to(),
            total: sealed.total.to(),
        };
        let drawn = self.seats(epoch).await?.committee(run);
        if drawn.set() != sealed {
            let difference =
                format!("the validators of epoch {epoch} for {run} are drawn otherwise");
            return Err(self.contradiction(difference));
        }
        Ok(drawn)
    }

    /// Earned votes of an account, in atomic units of Voice.
    ///
    /// # Errors
    /// [`LedgerError::Chain`].
    pub async fn votes(&self, account: Address) -> Result<U256, LedgerError> {
        let call = Voice::balanceOfCall { account };
        self.ask(self.addresses.voice, &call).await
    }

    /// An account's balance of Ember, in atomic units.
    ///
    /// # Errors
    /// [`LedgerError::Chain`].
    pub async fn embers(&self, account: Address) -> Result<U256, LedgerError> {
        Ok(self
            .client
            .balance_of(self.addresses.ember, account)
            .await?)
    }

    /// How far a run has come; all zero for one that nobody has begun.
    ///
    /// # Errors
    /// [`LedgerError::Chain`].
    pub async fn run_progress(&self, run: B256) -> Result<RunProgress, LedgerError> {
        let found = self
            .ask(self.addresses.runs, &Runs::stateOfCall { run })
            .await?;
        Ok(RunProgress {
            state: (found.nextRound != 0).then_some(found.state),
            rounds: found.rounds,
            next_round: found.nextRound,
            released: found.released,
            pledged: Amount::new(found.pledged),
            unreleased: Amount::new(found.unreleased),
        })
    }

    /// What a funder has pledged to a run and not got back.
    ///
    /// # Errors
    /// [`LedgerError::Chain`].
    pub async fn pledge_of(&self, run: B256, funder: Address) -> Result<Amount, LedgerError> {
        let call = Runs::pledgeOfCall { run, funder };
        Ok(amount(self.ask(self.addresses.runs, &call).await?))
    }

    /// What `Runs` may take of an account's tokens.
    ///
    /// # Errors
    /// [`LedgerError::Chain`].
    pub async fn allowance(&self, token: Address, owner: Address) -> Result<Amount, LedgerError> {
        let spender = self.addresses.runs;
        let call = IERC20::allowanceCall { owner, spender };
        Ok(amount(self.ask(token, &call).await?))
    }

    /// The decimals of a token, as it says.
    ///
    /// # Errors
    /// [`LedgerError::Chain`], also where no contract answers at that address.
    pub async fn decimals(&self, token: Address) -> Result<u8, LedgerError> {
        self.ask(token, &IERC20::decimalsCall {}).await
    }

    /// What was stated about an epoch in an asset, if anything was.
    ///
    /// # Errors
    /// [`LedgerError::Chain`].
    pub async fn epoch_record(
        &self,
        asset: Address,
        epoch: u64,
    ) -> Result<Option<EpochRecord>, LedgerError> {
        let call = Rewards::recordOfCall { asset, epoch };
        let found = self.ask(self.addresses.rewards, &call).await?;
        Ok((found.recordedAt != 0).then_some(EpochRecord {
            root: found.root,
            total: Amount::new(found.total),
            used: Amount::new(found.used),
            recorded_at_s: found.recordedAt,
            base: (found.base != NO_BASE).then_some(found.base),
            is_revoked: found.isRevoked,
        }))
    }

    /// All payments in an asset.
    ///
    /// # Errors
    /// [`LedgerError::Chain`].
    pub async fn asset_books(&self, asset: Address) -> Result<AssetBooks, LedgerError> {
        let call = Rewards::accountOfCall { asset };
        let found = self.ask(self.addresses.rewards, &call).await?;
        Ok(AssetBooks {
            funded: Amount::new(found.funded),
            paid: Amount::new(found.paid),
            payable: Amount::new(found.payable_),
            held: Amount::new(found.held),
        })
    }

    /// What an account has claimed of an asset in all.
    ///
    /// # Errors
    /// [`LedgerError::Chain`].
    pub async fn claimed(&self, account: Address, asset: Address) -> Result<Amount, LedgerError> {
        let call = Rewards::claimedCall { asset, account };
        Ok(amount(self.ask(self.addresses.rewards, &call).await?))
    }

    pub(super) fn contradiction(&self, difference: String) -> LedgerError {
        LedgerError::Contradiction {
            chain: self.chain(),
            difference,
        }
    }

    async fn ask<C: alloy_sol_types::SolCall>(
        &self,
        contract: Address,
        call: &C,
    ) -> Result<C::Return, LedgerError> {
        Ok(self.client.view(contract, call, BlockAt::Latest).await?)
    }
}

/// Sums that the contracts hold in 256 bits and bound by 128.
fn amount(units: U256) -> Amount {
    Amount::new(units.saturating_to())
}
