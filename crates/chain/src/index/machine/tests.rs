//! The index's decisions, case by case and in random worlds.

use alloy_primitives::{Address, Bytes, keccak256};
use proptest::prelude::*;

use super::*;

const ADDRESS: Address = Address::repeat_byte(5);
const KEEP: usize = 8;

fn config() -> IndexConfig {
    IndexConfig {
        keep_blocks: KEEP,
        max_range: 10,
        ..IndexConfig::default()
    }
}

/// A chain of blocks whose hashes depend on the branch.
#[derive(Clone, Debug, Default)]
struct Branch {
    blocks: Vec<(BlockHeader, Vec<IndexedLog>)>,
}

impl Branch {
    fn grow(&mut self, salt: u64, logs: u64) {
        let number = self.blocks.len() as u64;
        let parent_hash = self
            .blocks
            .last()
            .map_or(B256::ZERO, |(header, _)| header.hash);
        let hash = keccak256(format!("{parent_hash} {number} {salt}"));
        let header = BlockHeader {
            number,
            hash,
            parent_hash,
            timestamp_s: number,
            base_fee_per_gas: None,
        };
        let log = |log_index| IndexedLog {
            address: ADDRESS,
            topics: vec![hash],
            data: Bytes::new(),
            block_number: number,
            block_hash: hash,
            transaction_hash: hash,
            log_index,
        };
        self.blocks.push((header, (0..logs).map(log).collect()));
    }

    fn of(length: u64) -> Self {
        let mut branch = Self::default();
        (0..length).for_each(|_| branch.grow(0, 1));
        branch
    }

    fn header(&self, height: u64) -> Option<BlockHeader> {
        self.blocks.get(height as usize).map(|(header, _)| *header)
    }

    fn logs(&self) -> Vec<IndexedLog> {
        self.blocks
            .iter()
            .flat_map(|(_, logs)| logs.clone())
            .collect()
    }

    fn answer(&self, machine: &IndexMachine, question: &Question) -> Answer {
        match question {
            Question::View => Answer::View {
                head: self.blocks.last().unwrap().0,
                at_tip: machine.tip().and_then(|tip| self.header(tip.number)),
            },
            Question::Remembered(heights) => {
                Answer::Remembered(heights.iter().map(|height| self.header(*height)).collect())
            }
            Question::Range { first, last } => {
                let logs = self
                    .logs()
                    .into_iter()
                    .filter(|log| (*first..=*last).contains(&log.block_number));
                Answer::Range {
                    logs: logs.collect(),
                    first: self.header(*first),
                    last: self.header(*last),
                }
            }
            Question::Near { first, last } => {
                let blocks = self
                    .blocks
                    .iter()
                    .filter(|(header, _)| (*first..=*last).contains(&header.number));
                Answer::Near(blocks.cloned().collect())
            }
        }
    }
}

/// What a consumer has after the steps so far.
#[derive(Debug, Default)]
struct Ledger {
    logs: Vec<IndexedLog>,
}

impl Ledger {
    fn commit(&mut self, machine: &mut IndexMachine, batch: &Batch) {
        if let Some(height) = batch.roll_back_to {
            self.logs.retain(|log| log.block_number <= height);
        }
        self.logs.extend(batch.applied.clone());
        machine.committed(batch);
    }

    /// Asks `branch` until it has nothing new.
    fn catch_up(&mut self, machine: &mut IndexMachine, branch: &Branch) {
        let mut question = Question::View;
        for _ in 0..10_000 {
            match machine.handle(branch.answer(machine, &question)).unwrap() {
                Step::Ask(next) => question = next,
                Step::Commit(batch) => {
                    self.commit(machine, &batch);
                    question = Question::View;
                }
                Step::Wait(None) => return,
                Step::Wait(Some(notice)) => {
                    panic!("an honest endpoint is not the cause of {notice:?}")
                }
            }
        }
        panic!("the index does not come to rest");
    }
}

fn caught_up(branch: &Branch) -> (IndexMachine, Ledger) {
    let mut machine = IndexMachine::restore(config(), VecDeque::new());
    let mut ledger = Ledger::default();
    ledger.catch_up(&mut machine, branch);
    (machine, ledger)
}

#[test]
fn a_long_chain_is_read_in_ranges_and_its_end_block_by_block() {
    let branch = Branch::of(100);
    let (machine, ledger) = caught_up(&branch);
    assert_eq!(ledger.logs, branch.logs());
    let heights: Vec<u64> = machine
        .remembered
        .iter()
        .map(|block| block.number)
        .collect();
    assert_eq!(heights, (92..100).collect::<Vec<_>>());
}

#[test]
fn only_what_has_enough_blocks_on_top_is_applied() {
    let branch = Branch::of(20);
    let deep = IndexConfig {
        blocks_on_top: 5,
        ..config()
    };
    let mut machine = IndexMachine::restore(deep, VecDeque::new());
    let mut ledger = Ledger::default();
    ledger.catch_up(&mut machine, &branch);
    assert_eq!(machine.tip().unwrap().number, 14);
}

#[test]
fn a_range_is_halved_until_the_endpoint_is_content_and_grows_again() {
    let branch = Branch::of(60);
    let mut machine = IndexMachine::restore(config(), VecDeque::new());
    let mut question = Question::View;
    let mut asked = Vec::new();
    loop {
        let answer = match &question {
            Question::Range { first, last } if last - first + 1 > 3 => Answer::TooMuch,
            other => branch.answer(&machine, other),
        };
        match machine.handle(answer).unwrap() {
            Step::Ask(next) => question = next,
            Step::Commit(batch) => {
                if let Question::Range { first, last } = question {
                    asked.push(last - first + 1);
                }
                machine.committed(&batch);
                question = Question::View;
            }
            Step::Wait(_) => break,
        }
    }
    assert_eq!(machine.tip().unwrap().number, 59);
    assert!(
        asked.contains(&3) && asked.iter().all(|blocks| *blocks <= 3),
        "{asked:?}"
    );
}

#[test]
fn even_one_block_that_is_too_much_is_asked_for_by_hash() {
    let branch = Branch::of(60);
    let mut machine = IndexMachine::restore(config(), VecDeque::new());
    let mut step = machine
        .handle(branch.answer(&machine, &Question::View))
        .unwrap();
    for _ in 0..10 {
        let Step::Ask(Question::Range { .. }) = step else {
            break;
        };
        step = machine.handle(Answer::TooMuch).unwrap();
    }
    assert_eq!(step, Step::Ask(Question::Near { first: 0, last: 0 }));
}

#[test]
fn another_block_at_a_remembered_height_rolls_back_to_the_fork() {
    let mut branch = Branch::of(20);
    let (mut machine, mut ledger) = caught_up(&branch);
    branch.blocks.truncate(16);
    (0..6).for_each(|_| branch.grow(1, 2));
    ledger.catch_up(&mut machine, &branch);
    assert_eq!(ledger.logs, branch.logs());
}

#[test]
fn an_endpoint_that_lags_rolls_nothing_back() {
    let branch = Branch::of(20);
    let (mut machine, ledger) = caught_up(&branch);
    let stale = Branch {
        blocks: branch.blocks[..15].to_vec(),
    };
    let step = machine
        .handle(stale.answer(&machine, &Question::View))
        .unwrap();
    assert_eq!(step, Step::Wait(Some(Notice::Behind { head: 14, tip: 19 })));
    assert_eq!(ledger.logs, branch.logs());
}

#[test]
fn a_reorganisation_beyond_memory_is_an_error_not_a_guess() {
    let branch = Branch::of(20);
    let (mut machine, _) = caught_up(&branch);
    let mut other = Branch::of(5);
    (0..20).for_each(|_| other.grow(9, 1));
    let Step::Ask(question) = machine
        .handle(other.answer(&machine, &Question::View))
        .unwrap()
    else {
        panic!()
    };
    let error = machine
        .handle(other.answer(&machine, &question))
        .unwrap_err();
    assert_eq!(error, IndexReject::TooDeep { oldest: 12 });
}

#[test]
fn events_that_contradict_themselves_are_not_applied() {
    let branch = Branch::of(4);
    let near = Question::Near { first: 0, last: 3 };
    type Damage = fn(&mut Vec<(BlockHeader, Vec<IndexedLog>)>);
    let damages: [Damage; 4] = [
        |blocks| blocks[2].1[0].block_hash = B256::ZERO,
        |blocks| blocks[2].1[0].block_number = 3,
        |blocks| {
            let twice = blocks[2].1[0].clone();
            blocks[2].1.push(twice);
        },
        |blocks| {
            let log = blocks[2].1[0].clone();
            blocks[2].1 = vec![
                IndexedLog {
                    log_index: 1,
                    ..log.clone()
                },
                log,
            ];
        },
    ];
    for (case, damage) in damages.iter().enumerate() {
        let mut machine = IndexMachine::restore(config(), VecDeque::new());
        let step = machine
            .handle(branch.answer(&machine, &Question::View))
            .unwrap();
        assert_eq!(step, Step::Ask(near.clone()));
        let Answer::Near(mut blocks) = branch.answer(&machine, &near) else {
            panic!()
        };
        damage(&mut blocks);
        let outcome = machine.handle(Answer::Near(blocks));
        assert!(
            matches!(outcome, Err(IndexReject::Contradiction { .. })),
            "case {case}: {outcome:?}"
        );
    }
}

#[test]
fn a_branch_that_breaks_off_is_applied_up_to_the_break() {
    let branch = Branch::of(6);
    let mut other = Branch::of(3);
    (0..3).for_each(|_| other.grow(7, 1));
    let mut machine = IndexMachine::restore(config(), VecDeque::new());
    machine
        .handle(branch.answer(&machine, &Question::View))
        .unwrap();
    let mixed = [&branch.blocks[..4], &other.blocks[4..]].concat();
    let Step::Commit(batch) = machine.handle(Answer::Near(mixed)).unwrap() else {
        panic!()
    };
    assert_eq!(batch.remembered.back().unwrap().number, 3);
}

#[derive(Clone, Debug)]
enum Act {
    Grow {
        blocks: u8,
        logs: u8,
    },
    Fork {
        depth: u8,
    },
    /// One question is answered from the state of the chain so many acts ago.
    Ask {
        ago: u8,
    },
    TooMuch,
    Crash,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        3 => (1..6_u8, 0..3_u8).prop_map(|(blocks, logs)| Act::Grow { blocks, logs }),
        2 => (1..KEEP as u8 - 1).prop_map(|depth| Act::Fork { depth }),
        8 => (0..4_u8).prop_map(|ago| Act::Ask { ago }),
        1 => Just(Act::TooMuch),
        1 => Just(Act::Crash),
    ];
    prop::collection::vec(act, 1..120)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_mixture_of_branches_answers_the_ledger_is_that_of_one_branch(acts in acts(), first in 1..60_u64) {
        let mut history = vec![Branch::of(first)];
        let mut machine = IndexMachine::restore(config(), VecDeque::new());
        let mut ledger = Ledger::default();
        let mut question = Question::View;
        for (salt, act) in (1_u64..).zip(acts) {
            let mut branch = history.last().unwrap().clone();
            let answer = match act {
                Act::Grow { blocks, logs } => {
                    (0..blocks).for_each(|_| branch.grow(salt, logs.into()));
                    history.push(branch);
                    continue;
                }
                Act::Fork { depth } => {
                    let length = branch.blocks.len().saturating_sub(depth.into()).max(1);
                    branch.blocks.truncate(length);
                    (0..=depth).for_each(|_| branch.grow(salt, 1));
                    history.push(branch);
                    continue;
                }
                Act::Crash => {
                    machine = IndexMachine::restore(config(), machine.remembered.clone());
                    question = Question::View;
                    continue;
                }
                Act::TooMuch if matches!(question, Question::Range { .. }) => Answer::TooMuch,
                Act::TooMuch => continue,
                Act::Ask { ago } => {
                    let place = history.len().saturating_sub(1 + usize::from(ago));
                    history[place].answer(&machine, &question)
                }
            };
            question = match machine.handle(answer) {
                Ok(Step::Ask(next)) => next,
                Ok(Step::Commit(batch)) => {
                    ledger.commit(&mut machine, &batch);
                    Question::View
                }
                Ok(Step::Wait(_)) | Err(IndexReject::Contradiction { .. }) => Question::View,
                // Old states of the chain may differ from ours by more than any one reorganisation did.
                Err(IndexReject::TooDeep { .. }) => return Ok(()),
                Err(other) => panic!("{other}"),
            };
            let tip = machine.tip();
            let of_one_branch = history.iter().any(|branch| {
                let length = tip.map_or(0, |tip| tip.number as usize + 1).min(branch.blocks.len());
                let part = Branch { blocks: branch.blocks[..length].to_vec() };
                ledger.logs == part.logs()
            });
            prop_assert!(of_one_branch, "tip {tip:?}");
        }
    }
}
