//! Which blocks to ask for next, what to believe of the answers, and when to roll back: without I/O.
//!
//! Far below the head, ranges of blocks are read by height and only the last block of each range is remembered: so
//! deep a chain does not change. The first block of a range must still name our tip as its parent. Near the head every block is read by its hash and must name the one before as its
//! parent, so that what is applied is always one unbroken branch, whichever of an endpoint's machines answered.
//!
//! A branch is given up only when the endpoint shows *another* block at a height that is remembered. A block that is
//! missing proves nothing: the endpoint may lag. (spec: 06-chain, section 4)

use std::collections::VecDeque;

use alloy_primitives::B256;
use serde::{Deserialize, Serialize};

use super::event::{IndexedLog, LogFilter};
use crate::client::BlockHeader;

/// The most blocks that are read one by one in a step.
pub const MAX_NEAR_BLOCKS: u64 = 16;

/// The most events that one step may bring; more from an endpoint is refused.
pub const MAX_LOGS_PER_STEP: usize = 50_000;

/// What is followed, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexConfig {
    /// What is followed.
    pub filters: Vec<LogFilter>,
    /// The first block that can matter, such as the one in which the contract was deployed.
    pub start_block: u64,
    /// How many blocks must follow one before its events are applied; 0 applies them at once.
    pub blocks_on_top: u64,
    /// The most blocks that are asked for in one range.
    pub max_range: u64,
    /// How many blocks are remembered, so how deep a reorganisation can be rolled back; at least 1.
    pub keep_blocks: usize,
    /// How often a followed chain is looked at once everything is read.
    pub poll_interval_ms: u64,
}

impl Default for IndexConfig {
    fn default() -> Self {
        Self {
            filters: Vec::new(),
            start_block: 0,
            blocks_on_top: 0,
            max_range: 2_000,
            keep_blocks: 128,
            poll_interval_ms: 1_000,
        }
    }
}

/// A block that is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockRef {
    /// Height.
    pub number: u64,
    /// Hash.
    pub hash: B256,
}

impl From<&BlockHeader> for BlockRef {
    fn from(header: &BlockHeader) -> Self {
        Self {
            number: header.number,
            hash: header.hash,
        }
    }
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// To [`Question::View`]: the newest block, and the block at the height of our tip.
    View {
        /// The newest block.
        head: BlockHeader,
        /// The block at the height of [`IndexMachine::tip`], if there is a tip and the endpoint has it.
        at_tip: Option<BlockHeader>,
    },
    /// To [`Question::Remembered`]: what the endpoint has at each height, in the order asked.
    Remembered(Vec<Option<BlockHeader>>),
    /// To [`Question::Range`]: its events and its ends, all from one moment of one machine of the endpoint.
    Range {
        /// The first block of the range, if the endpoint has it.
        first: Option<BlockHeader>,
        /// The events.
        logs: Vec<IndexedLog>,
        /// The last block of the range, if the endpoint has it.
        last: Option<BlockHeader>,
    },
    /// To [`Question::Range`]: too much at once.
    TooMuch,
    /// To [`Question::Near`]: consecutive blocks with their events, as many as the endpoint had.
    Near(Vec<(BlockHeader, Vec<IndexedLog>)>),
}

/// What the driver does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// Look at the newest block and at the height of the tip.
    View,
    /// Look at these heights.
    Remembered(Vec<u64>),
    /// Read the events of these blocks by height.
    Range {
        /// First height.
        first: u64,
        /// Last height.
        last: u64,
    },
    /// Read these blocks and, by hash, their events.
    Near {
        /// First height.
        first: u64,
        /// Last height.
        last: u64,
    },
}

/// What follows from an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Ask.
    Ask(Question),
    /// Make this durable, all or nothing, then call [`IndexMachine::committed`] and go on with [`Question::View`].
    Commit(Batch),
    /// Nothing to do until the chain moves.
    Wait(Option<Notice>),
}

/// Why nothing was done although something may have been expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The endpoint does not have our tip: it lags. Nothing is rolled back for that.
    Behind {
        /// Its newest block.
        head: u64,
        /// Our tip.
        tip: u64,
    },
    /// The answers were of different branches; the next look decides.
    Moved,
}

/// One durable change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Blocks above this height are undone first.
    pub roll_back_to: Option<u64>,
    /// Then these events are applied, in order.
    pub applied: Vec<IndexedLog>,
    /// The blocks that are remembered afterwards, oldest first; the last one is the tip.
    pub remembered: VecDeque<BlockRef>,
}

/// The answers cannot be used, or the chain has changed deeper than can be undone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IndexReject {
    /// None of the remembered blocks is part of the chain any more.
    #[error(
        "the chain was reorganised below block {oldest}, deeper than is remembered; delete the index and build it \
         again from the start block, or check that the endpoint is the right one"
    )]
    TooDeep {
        /// The oldest remembered height.
        oldest: u64,
    },
    /// An event is not of the blocks that were asked for, is out of order, or was withdrawn.
    #[error("the endpoint's events contradict themselves at block {block}; try another endpoint")]
    Contradiction {
        /// The height.
        block: u64,
    },
    /// More events than a step may bring.
    #[error(
        "the endpoint sent more than {MAX_LOGS_PER_STEP} events at once; follow fewer contracts"
    )]
    TooManyLogs,
}

/// The decisions of an index.
#[derive(Clone, Debug)]
pub struct IndexMachine {
    config: IndexConfig,
    remembered: VecDeque<BlockRef>,
    range: u64,
    asked: Option<Question>,
}

impl IndexMachine {
    /// A machine that goes on from what was made durable.
    #[must_use]
    pub fn restore(config: IndexConfig, remembered: VecDeque<BlockRef>) -> Self {
        let range = config.max_range.max(1);
        Self {
            config,
            remembered,
            range,
            asked: None,
        }
    }

    /// The newest block whose events are applied.
    #[must_use]
    pub fn tip(&self) -> Option<BlockRef> {
        self.remembered.back().copied()
    }

    /// Takes what was made durable for the state to go on from.
    pub fn committed(&mut self, batch: &Batch) {
        self.remembered = batch.remembered.clone();
    }

    /// Decides what follows from an answer.
    ///
    /// # Errors
    /// [`IndexReject`] if the answer cannot be used.
    pub fn handle(&mut self, answer: Answer) -> Result<Step, IndexReject> {
        let asked = self.asked.take();
        let step = match (answer, asked) {
            (Answer::View { head, at_tip }, _) => self.view(&head, at_tip.as_ref()),
            (Answer::Remembered(blocks), _) => self.find_fork(&blocks)?,
            (
                Answer::Range { first, logs, last },
                Some(Question::Range {
                    first: low,
                    last: high,
                }),
            ) => {
                let ends = first
                    .zip(last)
                    .filter(|(first, last)| (first.number, last.number) == (low, high));
                self.range(ends, logs)?
            }
            (Answer::TooMuch, Some(Question::Range { first, last })) => self.halve(first, last)?,
            (Answer::Near(blocks), Some(Question::Near { first, .. })) => {
                self.near(first, blocks)?
            }
            (Answer::Range { .. } | Answer::TooMuch | Answer::Near(_), _) => {
                Step::Wait(Some(Notice::Moved))
            }
        };
        if let Step::Ask(question) = &step {
            self.asked = Some(question.clone());
        }
        Ok(step)
    }

    fn view(&self, head: &BlockHeader, at_tip: Option<&BlockHeader>) -> Step {
        if let Some(tip) = self.tip() {
            match at_tip {
                None => {
                    return Step::Wait(Some(Notice::Behind {
                        head: head.number,
                        tip: tip.number,
                    }));
                }
                Some(block) if block.hash != tip.hash => {
                    let heights = self.remembered.iter().map(|block| block.number).collect();
                    return Step::Ask(Question::Remembered(heights));
                }
                Some(_) => {}
            }
        }
        self.next_blocks(head.number)
    }

    fn next_blocks(&self, head: u64) -> Step {
        let first = self
            .tip()
            .map_or(self.config.start_block, |tip| tip.number + 1);
        let Some(target) = head
            .checked_sub(self.config.blocks_on_top)
            .filter(|target| *target >= first)
        else {
            return Step::Wait(None);
        };
        let keep = self.config.keep_blocks.max(1) as u64;
        Step::Ask(
            match target.checked_sub(keep).filter(|last| *last >= first) {
                Some(deep) => Question::Range {
                    first,
                    last: deep.min(first.saturating_add(self.range - 1)),
                },
                None => Question::Near {
                    first,
                    last: target.min(first + MAX_NEAR_BLOCKS - 1),
                },
            },
        )
    }

    /// Finds the newest remembered block that the endpoint still has, and rolls back to it.
    fn find_fork(&self, blocks: &[Option<BlockHeader>]) -> Result<Step, IndexReject> {
        let same = |(ours, theirs): &(&BlockRef, &Option<BlockHeader>)| {
            theirs
                .as_ref()
                .is_some_and(|theirs| theirs.hash == ours.hash)
        };
        let pairs: Vec<_> = self.remembered.iter().zip(blocks).collect();
        let Some(fork) = pairs.iter().rposition(same) else {
            let oldest = self.remembered.front().map_or(0, |block| block.number);
            // A block that is missing proves nothing; only if another one is there has the branch ended.
            return match pairs.iter().all(|(_, theirs)| theirs.is_some()) {
                true => Err(IndexReject::TooDeep { oldest }),
                false => Ok(Step::Wait(Some(Notice::Moved))),
            };
        };
        let another_above = pairs[fork + 1..].iter().any(|(_, theirs)| theirs.is_some());
        if !another_above {
            return Ok(Step::Wait(Some(Notice::Moved)));
        }
        let remembered: VecDeque<BlockRef> =
            self.remembered.iter().take(fork + 1).copied().collect();
        let roll_back_to = remembered.back().map(|block| block.number);
        Ok(Step::Commit(Batch {
            roll_back_to,
            applied: Vec::new(),
            remembered,
        }))
    }

    fn range(
        &mut self,
        ends: Option<(BlockHeader, BlockHeader)>,
        logs: Vec<IndexedLog>,
    ) -> Result<Step, IndexReject> {
        let parent = self.tip().map(|tip| tip.hash);
        let follows = |first: &BlockHeader| parent.is_none_or(|parent| parent == first.parent_hash);
        let Some((first, last)) = ends.filter(|(first, _)| follows(first)) else {
            return Ok(Step::Wait(Some(Notice::Moved)));
        };
        check_order(&logs, first.number, last.number)?;
        let hash_at = |height: u64| match height {
            _ if height == first.number => Some(first.hash),
            _ if height == last.number => Some(last.hash),
            _ => None,
        };
        let contradicts = |log: &&IndexedLog| {
            hash_at(log.block_number).is_some_and(|hash| hash != log.block_hash)
        };
        if let Some(log) = logs.iter().find(contradicts) {
            return Err(IndexReject::Contradiction {
                block: log.block_number,
            });
        }
        // What worked may be asked for again, and a little more.
        self.range = self
            .range
            .saturating_add(self.range / 4 + 1)
            .min(self.config.max_range.max(1));
        Ok(Step::Commit(self.extend(logs, [BlockRef::from(&last)])))
    }

    fn halve(&mut self, first: u64, last: u64) -> Result<Step, IndexReject> {
        let blocks = last - first + 1;
        if blocks == 1 {
            // One block is all that can be asked for; asking by its hash is the last way.
            return Ok(Step::Ask(Question::Near { first, last }));
        }
        self.range = blocks / 2;
        Ok(Step::Ask(Question::Range {
            first,
            last: first + self.range - 1,
        }))
    }

    fn near(
        &self,
        first: u64,
        blocks: Vec<(BlockHeader, Vec<IndexedLog>)>,
    ) -> Result<Step, IndexReject> {
        let mut parent = self.tip().map(|tip| tip.hash);
        let mut applied = Vec::new();
        let mut new = Vec::new();
        for (number, (header, logs)) in (first..).zip(blocks) {
            // A range far below the head ends without a parent to compare with only at the very first block.
            if header.number != number || parent.is_some_and(|parent| parent != header.parent_hash)
            {
                break;
            }
            check_order(&logs, number, number)?;
            if logs.iter().any(|log| log.block_hash != header.hash) {
                return Err(IndexReject::Contradiction { block: number });
            }
            parent = Some(header.hash);
            applied.extend(logs);
            new.push(BlockRef::from(&header));
        }
        if applied.len() > MAX_LOGS_PER_STEP {
            return Err(IndexReject::TooManyLogs);
        }
        if new.is_empty() {
            return Ok(Step::Wait(Some(Notice::Moved)));
        }
        Ok(Step::Commit(self.extend(applied, new)))
    }

    /// The change that adds blocks to the remembered ones and forgets the oldest beyond the limit.
    fn extend(&self, applied: Vec<IndexedLog>, new: impl IntoIterator<Item = BlockRef>) -> Batch {
        let mut remembered = self.remembered.clone();
        remembered.extend(new);
        while remembered.len() > self.config.keep_blocks.max(1) {
            remembered.pop_front();
        }
        Batch {
            roll_back_to: None,
            applied,
            remembered,
        }
    }
}

/// Events must be of the blocks asked for, in the order of the chain, and not withdrawn.
fn check_order(logs: &[IndexedLog], first: u64, last: u64) -> Result<(), IndexReject> {
    if logs.len() > MAX_LOGS_PER_STEP {
        return Err(IndexReject::TooManyLogs);
    }
    let place = |log: &IndexedLog| (log.block_number, log.log_index);
    if let Some(log) = logs
        .iter()
        .find(|log| !(first..=last).contains(&log.block_number))
    {
        return Err(IndexReject::Contradiction {
            block: log.block_number,
        });
    }
    match logs
        .windows(2)
        .find(|pair| place(&pair[0]) >= place(&pair[1]))
    {
        Some(pair) => Err(IndexReject::Contradiction {
            block: pair[1].block_number,
        }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
