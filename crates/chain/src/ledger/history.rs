//! What a ledger recorded, read from its events in pages: rounds of a run, and records of epochs.
//!
//! The contracts keep the last state only. What a page says is of the blocks it names; whether those are final is the
//! reader's to decide.

use std::collections::BTreeMap;

use alloy_primitives::{Address, B256};
use alloy_rpc_types_eth::{Filter, Log};
use alloy_sol_types::SolEvent;
use hearth_protocol::content::ContentHash;
use hearth_protocol::ledger::statement::{EpochStatement, RoundStatement};
use hearth_protocol::money::Amount;

use super::{Ledger, LedgerError};
use crate::bindings::{Rewards, Runs};
use crate::client::{BlockHeader, ChainError};

/// Blocks that are asked for at once; fewer where the endpoint wants that.
pub const HISTORY_PAGE_BLOCKS: u64 = 2_000;
/// Events that one page may have.
const PAGE_EVENTS_MAX: usize = 10_000;
/// How often a page is read again because blocks changed meanwhile.
const TRIES_MAX: u32 = 4;

/// A round that validators recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordedRound {
    /// What they signed.
    pub statement: RoundStatement,
    /// The epoch whose set signed.
    pub epoch: u64,
    /// The seats that signed.
    pub mask: u32,
    /// The block that it is in.
    pub block: BlockHeader,
}

/// What validators recorded of an epoch in one asset. It may have been revoked since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordedEpoch {
    /// What they signed.
    pub statement: EpochStatement,
    /// The seats that signed, of the set of the epoch after it.
    pub mask: u32,
    /// The block that it is in.
    pub block: BlockHeader,
}

/// Parts of a run's pledges that were released, to be earned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReleasedPledges {
    /// How many checkpoints have been released with it.
    pub checkpoints: u32,
    /// What left `Runs`.
    pub amount: Amount,
    /// What of it was counted by `Rewards`: less where the token takes a fee.
    pub arrived: Amount,
    /// The block that it is in.
    pub block: BlockHeader,
}

/// An event about money on its way from `Runs` to `Rewards`.
#[derive(Debug, Clone, Copy)]
enum Moved {
    Released {
        run: B256,
        checkpoints: u32,
        amount: Amount,
    },
    Counted {
        asset: Address,
        amount: Amount,
    },
}

/// What a ledger recorded in some blocks, in the order of the chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryPage<T> {
    /// What was recorded.
    pub items: Vec<T>,
    /// The block from which the next page begins.
    pub next_block: u64,
    /// The newest block when this page was read. Once `next_block` is above it, everything was read.
    pub head: BlockHeader,
}

impl<T> HistoryPage<T> {
    /// Whether nothing is left to read for now.
    #[must_use]
    pub fn is_last(&self) -> bool {
        self.next_block > self.head.number
    }
}

impl Ledger {
    /// Rounds of a run that were recorded in the blocks from `from_block` on: the first page of them.
    ///
    /// # Errors
    /// [`LedgerError::Chain`].
    pub async fn rounds(
        &self,
        run: B256,
        from_block: u64,
    ) -> Result<HistoryPage<RecordedRound>, LedgerError> {
        let filter = Filter::new()
            .address(self.addresses.runs)
            .event_signature(Runs::RoundRecorded::SIGNATURE_HASH)
            .topic1(run);
        let read = |log: &Log, block| {
            let event = Runs::RoundRecorded::decode_log(&log.inner).map_err(unreadable)?;
            if event.address != self.addresses.runs || event.run != run {
                return Err(unasked());
            }
            Ok(RecordedRound {
                statement: RoundStatement {
                    run,
                    round: event.round,
                    parent: event.parent,
                    contributions: event.contributions,
                    next: event.next,
                },
                epoch: event.epoch,
                mask: event.mask,
                block,
            })
        };
        self.page(filter, from_block, read).await
    }

    /// Records of epochs, in any asset, that were made in the blocks from `from_block` on: the first page of them.
    ///
    /// # Errors
    /// [`LedgerError::Chain`].
    pub async fn epoch_records(
        &self,
        from_block: u64,
    ) -> Result<HistoryPage<RecordedEpoch>, LedgerError> {
        let filter = Filter::new()
            .address(self.addresses.rewards)
            .event_signature(Rewards::Recorded::SIGNATURE_HASH);
        let read = |log: &Log, block| {
            let event = Rewards::Recorded::decode_log(&log.inner).map_err(unreadable)?;
            if event.address != self.addresses.rewards {
                return Err(unasked());
            }
            Ok(RecordedEpoch {
                statement: EpochStatement {
                    epoch: event.epoch,
                    asset: event.asset,
                    root: event.root,
                    total: Amount::new(event.total.saturating_to()),
                    data: ContentHash(event.data.data.0),
                },
                mask: event.mask,
                block,
            })
        };
        self.page(filter, from_block, read).await
    }

    /// What was released of the pledges in `token` to a run, in the blocks from `from_block` on: the first page of it.
    ///
    /// # Errors
    /// [`LedgerError::Chain`].
    pub async fn releases(
        &self,
        run: B256,
        token: Address,
        from_block: u64,
    ) -> Result<HistoryPage<ReleasedPledges>, LedgerError> {
        let addresses = self.addresses;
        let filter = Filter::new()
            .address(vec![addresses.runs, addresses.rewards])
            .event_signature(vec![
                Runs::Released::SIGNATURE_HASH,
                Rewards::Funded::SIGNATURE_HASH,
            ]);
        let read = |log: &Log, block| {
            let moved = if log.address() == addresses.runs {
                let event = Runs::Released::decode_log(&log.inner).map_err(unreadable)?;
                Moved::Released {
                    run: event.run,
                    checkpoints: event.checkpoint,
                    amount: Amount::new(event.amount.saturating_to()),
                }
            } else if log.address() == addresses.rewards {
                let event = Rewards::Funded::decode_log(&log.inner).map_err(unreadable)?;
                Moved::Counted {
                    asset: event.asset,
                    amount: Amount::new(event.amount.saturating_to()),
                }
            } else {
                return Err(unasked());
            };
            let transaction = log.transaction_hash.ok_or_else(unasked)?;
            Ok((transaction, moved, block))
        };
        let page = self.page(filter, from_block, read).await?;
        Ok(HistoryPage {
            items: releases_of(&page.items, run, token),
            next_block: page.next_block,
            head: page.head,
        })
    }

    async fn page<T>(
        &self,
        filter: Filter,
        from_block: u64,
        read: impl Fn(&Log, BlockHeader) -> Result<T, ChainError>,
    ) -> Result<HistoryPage<T>, LedgerError> {
        for _ in 0..TRIES_MAX {
            let head = self.client.head().await?;
            if from_block > head.number {
                return Ok(HistoryPage {
                    items: Vec::new(),
                    next_block: from_block,
                    head,
                });
            }
            let (logs, last) = self.logs(&filter, from_block, head.number).await?;
            let Some(blocks) = self.blocks_of(&logs).await? else {
                continue;
            };
            let items = logs.iter().map(|log| {
                let block = log.block_hash.and_then(|hash| blocks.get(&hash));
                read(log, *block.ok_or_else(unasked)?)
            });
            return Ok(HistoryPage {
                items: items.collect::<Result<_, _>>()?,
                next_block: last.saturating_add(1),
                head,
            });
        }
        Err(LedgerError::Chain(ChainError::Unavailable {
            method: "eth_getLogs".to_owned(),
            attempts: TRIES_MAX,
            reason: "blocks change faster than they can be read".to_owned(),
            retry_after: None,
        }))
    }

    /// The events from a block on, in at most a page of blocks, and the last of those.
    async fn logs(
        &self,
        filter: &Filter,
        first: u64,
        head: u64,
    ) -> Result<(Vec<Log>, u64), ChainError> {
        let mut blocks = HISTORY_PAGE_BLOCKS;
        loop {
            let last = first.saturating_add(blocks - 1).min(head);
            let asked = filter.clone().from_block(first).to_block(last);
            let logs = match self.client.logs(&asked).await {
                // It halves, so that this ends.
                Err(ChainError::RangeTooWide { .. }) if blocks > 1 => {
                    blocks /= 2;
                    continue;
                }
                logs => logs?,
            };
            if logs.len() > PAGE_EVENTS_MAX {
                if blocks > 1 {
                    blocks /= 2;
                    continue;
                }
                return Err(unasked());
            }
            let is_in_range = |log: &Log| {
                log.block_number
                    .is_some_and(|number| (first..=last).contains(&number))
            };
            if !logs.iter().all(is_in_range) {
                return Err(unasked());
            }
            return Ok((logs, last));
        }
    }

    /// The blocks that events are in, by their hashes; nothing where one of them has gone.
    async fn blocks_of(
        &self,
        logs: &[Log],
    ) -> Result<Option<BTreeMap<B256, BlockHeader>>, ChainError> {
        let mut wanted = BTreeMap::new();
        for log in logs {
            if let (Some(number), Some(hash)) = (log.block_number, log.block_hash) {
                wanted.insert(number, hash);
            }
        }
        let heights: Vec<u64> = wanted.keys().copied().collect();
        let headers = self.client.blocks(&heights).await?;
        let mut found = BTreeMap::new();
        for (header, hash) in headers.into_iter().zip(wanted.into_values()) {
            match header {
                Some(header) if header.hash == hash => found.insert(hash, header),
                _ => return Ok(None),
            };
        }
        Ok(Some(found))
    }
}

/// The releases of a run, each with what was counted of its token later in the same transaction.
fn releases_of(
    moved: &[(B256, Moved, BlockHeader)],
    run: B256,
    token: Address,
) -> Vec<ReleasedPledges> {
    let mut releases = Vec::new();
    for (place, (transaction, what, block)) in moved.iter().enumerate() {
        let Moved::Released {
            run: of,
            checkpoints,
            amount,
        } = *what
        else {
            continue;
        };
        if of != run {
            continue;
        }
        let after = moved[place..].iter();
        let after = after.take_while(|(hash, ..)| hash == transaction);
        let mut counted = after.filter_map(|(_, what, _)| match what {
            Moved::Counted { asset, amount } if *asset == token => Some(*amount),
            _ => None,
        });
        releases.push(ReleasedPledges {
            checkpoints,
            amount,
            // What others sent there before is counted with it.
            arrived: counted.next().unwrap_or_default().min(amount),
            block: *block,
        });
    }
    releases
}

fn unreadable(error: alloy_sol_types::Error) -> ChainError {
    ChainError::malformed("eth_getLogs", error.to_string())
}

fn unasked() -> ChainError {
    ChainError::malformed("eth_getLogs", "an event is not one that was asked for")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block() -> BlockHeader {
        BlockHeader {
            number: 1,
            hash: B256::ZERO,
            parent_hash: B256::ZERO,
            timestamp_s: 1,
            base_fee_per_gas: None,
        }
    }

    #[test]
    fn a_release_has_what_was_counted_of_its_token_in_the_same_transaction() {
        let (run, other) = (B256::repeat_byte(1), B256::repeat_byte(2));
        let (token, strange) = (Address::repeat_byte(3), Address::repeat_byte(4));
        let (first, second) = (B256::repeat_byte(5), B256::repeat_byte(6));
        let released = |transaction, run, checkpoints, units| {
            let amount = Amount::new(units);
            let moved = Moved::Released {
                run,
                checkpoints,
                amount,
            };
            (transaction, moved, block())
        };
        let counted = |transaction, asset, units| {
            let amount = Amount::new(units);
            (transaction, Moved::Counted { asset, amount }, block())
        };
        let moved = [
            counted(first, token, 7),
            released(first, run, 1, 100),
            // A token may have anything counted while it moves.
            counted(first, strange, 1_000),
            counted(first, token, 99),
            released(second, other, 9, 50),
            counted(second, token, 50),
            released(second, run, 2, 10),
            counted(second, token, 30),
        ];
        let found = releases_of(&moved, run, token);
        let found: Vec<_> = found
            .iter()
            .map(|one| (one.checkpoints, one.amount.units(), one.arrived.units()))
            .collect();
        assert_eq!(found, [(1, 100, 99), (2, 10, 10)]);
        // What was not counted cannot be earned.
        let lost = releases_of(&moved[4..5], other, token);
        assert_eq!(lost[0].arrived, Amount::ZERO);
    }
}
