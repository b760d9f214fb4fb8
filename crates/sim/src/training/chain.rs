//! A chain that takes records as contract `Runs` does, with blocks that are undone until they are final.

use alloy_primitives::{Address, B256};
use hearth_protocol::id::ChainId;
use hearth_protocol::ledger::draw::{self, Seat};
use hearth_protocol::ledger::statement::{LedgerDomain, RoundStatement};
use hearth_protocol::run::Head;
use hearth_protocol::run::committee::{RunCommittee, RunSeat};
use hearth_protocol::signature::Signature;
use hearth_protocol::time::Timestamp;

use crate::random::Random;

/// Numbers that one parent may take.
const ROUND_LEAP: u64 = 1_024;
/// Blocks after which a block stays, its own included.
const FINAL_BLOCKS: usize = 3;
/// Transactions that wait at most.
const POOL_MAX: usize = 256;

/// A record that somebody sent.
#[derive(Debug, Clone)]
pub(super) struct Transaction {
    pub(super) statement: RoundStatement,
    pub(super) epoch: u64,
    pub(super) mask: u32,
    pub(super) signatures: Vec<Signature>,
}

/// Who validates in an epoch.
#[derive(Debug, Clone)]
pub(super) struct Epoch {
    pub(super) number: u64,
    pub(super) beacon: B256,
    pub(super) seats: Vec<RunSeat>,
}

impl Epoch {
    pub(super) fn committee(&self, run: B256) -> RunCommittee {
        RunCommittee::draw(self.number, self.beacon, run, self.seats.clone())
    }

    fn plain(&self) -> Vec<Seat> {
        self.seats.iter().map(|seat| seat.seat).collect()
    }
}

#[derive(Debug, Clone)]
struct Block {
    at: Timestamp,
    hash: B256,
    epoch: u64,
    accepted: Option<RoundStatement>,
}

/// A round that is final: where the next one begins, and what was recorded.
#[derive(Debug, Clone, Copy)]
pub(super) struct Final {
    pub(super) head: Head,
    /// Nothing where the run begins.
    pub(super) record: Option<RoundStatement>,
    /// The epoch in which the record's block was made.
    pub(super) epoch: u64,
}

#[derive(Debug)]
pub(super) struct RunsChain {
    run: B256,
    runs: Address,
    domain: LedgerDomain,
    /// Blocks that may be undone.
    recent: Vec<Block>,
    /// Where the run begins, and all rounds that are final.
    pub(super) finals: Vec<Final>,
    pool: Vec<Transaction>,
    pub(super) epochs: Vec<Epoch>,
    made: u64,
}

impl RunsChain {
    pub(super) fn new(run: B256, state: B256, now: Timestamp) -> Self {
        let head = Head {
            index: 0,
            next_number: 1,
            state,
            beacon: B256::repeat_byte(0xbe),
            opened_at: now,
        };
        Self {
            run,
            runs: Address::repeat_byte(0x52),
            domain: LedgerDomain::new(ChainId(402_402), Address::repeat_byte(0xde)),
            recent: Vec::new(),
            finals: vec![Final {
                head,
                record: None,
                epoch: 0,
            }],
            pool: Vec::new(),
            epochs: Vec::new(),
            made: 0,
        }
    }

    pub(super) fn domain(&self) -> LedgerDomain {
        self.domain
    }

    pub(super) fn runs(&self) -> Address {
        self.runs
    }

    /// Where the newest final round left the run.
    pub(super) fn head(&self) -> Head {
        self.finals[self.finals.len() - 1].head
    }

    pub(super) fn newest_epoch(&self) -> &Epoch {
        &self.epochs[self.epochs.len() - 1]
    }

    pub(super) fn send(&mut self, transaction: Transaction) {
        if self.pool.len() < POOL_MAX {
            self.pool.push(transaction);
        }
    }

    /// What the contract holds after the newest block: the state, and the lowest number that it takes.
    fn newest(&self) -> (B256, u64) {
        let mut accepted = self.recent.iter().rev().filter_map(|block| block.accepted);
        match accepted.next() {
            Some(statement) => (statement.next, statement.round + 1),
            None => (self.head().state, self.head().next_number),
        }
    }

    fn takes(&self, transaction: &Transaction) -> bool {
        let (state, lowest) = self.newest();
        let statement = &transaction.statement;
        let mut in_office = self.epochs.iter().rev().take(2);
        let Some(epoch) = in_office.find(|epoch| epoch.number == transaction.epoch) else {
            return false;
        };
        let numbers = lowest..=lowest + ROUND_LEAP;
        if statement.run != self.run
            || statement.parent != state
            || !numbers.contains(&statement.round)
        {
            return false;
        }
        let seats = epoch.plain();
        let set = draw::committee(epoch.beacon, self.run, &seats);
        let digest = self.domain.statement_digest(&statement.for_runs(self.runs));
        let places = (0..seats.len()).filter(|place| transaction.mask >> place & 1 == 1);
        let places: Vec<usize> = places.collect();
        places.len() == transaction.signatures.len()
            && transaction.mask != 0
            && places
                .iter()
                .zip(&transaction.signatures)
                .all(|(place, one)| one.signer(digest) == Ok(seats[*place].device))
            && set.is_decided_by(transaction.mask, &seats)
    }

    /// Makes a block. Returns rounds that are final since then.
    pub(super) fn mine(&mut self, random: &mut Random, now: Timestamp) -> usize {
        self.made += 1;
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"block");
        hasher.update(&self.made.to_le_bytes());
        hasher.update(&random.number().to_le_bytes());
        let mut accepted = None;
        let waiting = std::mem::take(&mut self.pool);
        let lowest = self.head().next_number;
        for transaction in waiting {
            if accepted.is_none() && self.takes(&transaction) {
                accepted = Some(transaction.statement);
            }
            // What was taken waits as well: its block may be undone.
            if transaction.statement.round >= lowest {
                self.pool.push(transaction);
            }
        }
        self.recent.push(Block {
            at: now,
            hash: (*hasher.finalize().as_bytes()).into(),
            epoch: self.newest_epoch().number,
            accepted,
        });
        let mut finals = 0;
        while self.recent.len() > FINAL_BLOCKS {
            let block = self.recent.remove(0);
            if let Some(record) = block.accepted {
                let head = Head {
                    index: self.head().index + 1,
                    next_number: record.round + 1,
                    state: record.next,
                    beacon: block.hash,
                    opened_at: block.at,
                };
                self.finals.push(Final {
                    head,
                    record: Some(record),
                    epoch: block.epoch,
                });
                finals += 1;
            }
        }
        finals
    }

    /// Undoes the newest blocks that are not final; transactions wait in another order.
    pub(super) fn undo(&mut self, random: &mut Random) {
        let keep = random.index(FINAL_BLOCKS);
        self.recent.truncate(keep);
        if self.pool.len() > 1 {
            let first = random.index(self.pool.len());
            self.pool.rotate_left(first);
        }
    }
}
