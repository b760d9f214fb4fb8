//! Follows what the ledger says about a run: rounds with their books, and who validates.

use std::time::Duration;

use alloy_primitives::{Address, B256};
use hearth_causes::WithCauses;
use hearth_chain::ledger::{Ledger, LedgerError, RecordedRound};
use hearth_protocol::content::ContentHash;
use hearth_protocol::run::Head;
use hearth_protocol::run::book::RoundBook;
use hearth_protocol::run::committee::{RunCommittee, RunSeat};
use hearth_protocol::run::pay::PledgeRelease;
use hearth_protocol::time::Timestamp;
use tokio::sync::mpsc;
use tokio::time::sleep;
use tracing::{debug, warn};

use super::depot::Depot;

/// How often the chain is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long to wait after a book that nobody gave.
const BOOK_AGAIN: Duration = Duration::from_secs(2);

/// What the ledger says.
#[derive(Debug)]
pub(crate) enum LedgerNews {
    /// A round was recorded.
    Round {
        /// Where the next one begins.
        head: Head,
        /// The epoch in which it was recorded.
        epoch: u64,
        /// Its book.
        book: Box<RoundBook>,
        /// Whether no later round was recorded when the chain was looked at.
        is_newest: bool,
    },
    /// Parts of the pledges were released.
    Released(PledgeRelease),
    /// These validate from now on.
    Committee(RunCommittee),
    /// Everything that was recorded so far was told.
    Present,
}

/// The committee of a run, as the machines take it.
pub(crate) fn committee_of(drawn: &hearth_chain::ledger::RunCommittee) -> RunCommittee {
    let seats = drawn.seats();
    let holders = seats.holders.iter().map(|holder| RunSeat {
        device: holder.device,
        seat: holder.seat,
    });
    RunCommittee::draw(drawn.epoch(), seats.beacon, drawn.run(), holders.collect())
}

/// What is followed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FollowedRun {
    pub(crate) run: B256,
    /// The token of its pledges; nothing where it takes none.
    pub(crate) token: Option<Address>,
    pub(crate) confirmations: u64,
}

/// Tells what the ledger says about a run until nobody listens.
pub(crate) async fn follow(
    ledger: Ledger,
    followed: FollowedRun,
    depot: Depot,
    news: mpsc::Sender<LedgerNews>,
) {
    let mut place = Place {
        followed,
        from_block: 0,
        releases_from_block: 0,
        index: 0,
        epoch: None,
        is_present: false,
        held: None,
    };
    while !news.is_closed() {
        if let Err(error) = place.look(&ledger, &depot, &news).await {
            debug!(error = %error.with_causes(), "the ledger was not read");
        }
        sleep(LOOK_EVERY).await;
    }
}

struct Place {
    followed: FollowedRun,
    from_block: u64,
    releases_from_block: u64,
    index: u64,
    epoch: Option<u64>,
    is_present: bool,
    /// Read, and not told yet: whether another follows is not known.
    held: Option<RecordedRound>,
}

impl Place {
    async fn look(
        &mut self,
        ledger: &Ledger,
        depot: &Depot,
        news: &mpsc::Sender<LedgerNews>,
    ) -> Result<(), LedgerError> {
        let run = self.followed.run;
        'pages: loop {
            let page = ledger.rounds(run, self.from_block).await?;
            for round in &page.items {
                if !self.is_confirmed(round.block.number, page.head.number) {
                    self.from_block = round.block.number;
                    break 'pages;
                }
                self.tell_held(ledger, depot, news, false).await;
                self.held = Some(*round);
            }
            self.from_block = page.next_block;
            if page.is_last() {
                break;
            }
        }
        self.tell_held(ledger, depot, news, true).await;
        if let Some(token) = self.followed.token {
            self.tell_releases(ledger, token, news).await?;
        }
        self.look_at_validators(ledger, run, news).await?;
        if !self.is_present {
            self.is_present = true;
            // Nobody listens any more: the caller sees it.
            drop(news.send(LedgerNews::Present).await);
        }
        Ok(())
    }

    fn is_confirmed(&self, block: u64, head: u64) -> bool {
        let confirmed_at = block.saturating_add(self.followed.confirmations);
        confirmed_at <= head.saturating_add(1)
    }

    /// Tells of the parts of pledges that were released since.
    async fn tell_releases(
        &mut self,
        ledger: &Ledger,
        token: Address,
        news: &mpsc::Sender<LedgerNews>,
    ) -> Result<(), LedgerError> {
        loop {
            let from = self.releases_from_block;
            let page = ledger.releases(self.followed.run, token, from).await?;
            for release in &page.items {
                if !self.is_confirmed(release.block.number, page.head.number) {
                    self.releases_from_block = release.block.number;
                    return Ok(());
                }
                let epoch = ledger.clock().epoch_at(release.block.timestamp_s);
                let told = LedgerNews::Released(PledgeRelease {
                    epoch: epoch.unwrap_or_default(),
                    checkpoints: release.checkpoints,
                    arrived: release.arrived,
                });
                // Nobody listens any more: the caller sees it.
                drop(news.send(told).await);
            }
            self.releases_from_block = page.next_block;
            if page.is_last() {
                return Ok(());
            }
        }
    }

    /// Tells of the round that was read last, if it was not told yet.
    async fn tell_held(
        &mut self,
        ledger: &Ledger,
        depot: &Depot,
        news: &mpsc::Sender<LedgerNews>,
        is_newest: bool,
    ) {
        let Some(round) = self.held.take() else {
            return;
        };
        let Some(book) = book_of(depot, &round, news).await else {
            return;
        };
        self.index += 1;
        let epoch = ledger.clock().epoch_at(round.block.timestamp_s);
        let told = LedgerNews::Round {
            head: self.head(&round),
            epoch: epoch.unwrap_or_default(),
            book: Box::new(book),
            is_newest,
        };
        // Nobody listens any more: the caller sees it.
        drop(news.send(told).await);
    }

    fn head(&self, round: &RecordedRound) -> Head {
        Head {
            index: self.index,
            next_number: round.statement.round.saturating_add(1),
            state: round.statement.next,
            beacon: round.block.hash,
            opened_at: Timestamp::from_secs(round.block.timestamp_s),
        }
    }

    async fn look_at_validators(
        &mut self,
        ledger: &Ledger,
        run: B256,
        news: &mpsc::Sender<LedgerNews>,
    ) -> Result<(), LedgerError> {
        let in_office = ledger.in_office().await?;
        if let Some(epoch) = in_office.filter(|epoch| self.epoch != Some(*epoch)) {
            let drawn = ledger.committee(epoch, run).await?;
            let told = LedgerNews::Committee(committee_of(&drawn));
            if news.send(told).await.is_ok() {
                self.epoch = Some(epoch);
            }
        }
        Ok(())
    }
}

/// The book of a recorded round: without it nothing after it can be understood, so it is asked for until it is here.
async fn book_of(
    depot: &Depot,
    round: &RecordedRound,
    news: &mpsc::Sender<LedgerNews>,
) -> Option<RoundBook> {
    let name = ContentHash(round.statement.contributions.0);
    let mut is_said = false;
    while !news.is_closed() {
        match depot.book(name).await {
            Ok(book) => return Some(book),
            Err(error) if is_said => {
                debug!(error = %error.with_causes(), "a book is still missing");
            }
            Err(error) => {
                is_said = true;
                warn!(
                    run = %round.statement.run,
                    round = round.statement.round,
                    error = %error.with_causes(),
                    "the book of a recorded round is missing; those who take part are asked again"
                );
            }
        }
        sleep(BOOK_AGAIN).await;
    }
    None
}
