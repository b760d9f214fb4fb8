//! How long receipts of answers are kept, and the sums that stay when they go.
//!
//! A receipt is kept for [`KEPT_MS`], and of each side at most [`RECEIPTS_MAX`], the newest. What goes
//! is added to the sum of its model and token in the same write that removes it, so that the sums
//! over everything are right at any moment, also after a crash.

use std::collections::BTreeMap;
use std::time::Duration;

use hearth_payments::store::{Batch, Store, StoreError, Table};
use hearth_protocol::answer::Receipt;
use hearth_protocol::content::ContentHash;
use hearth_protocol::id::AssetId;
use hearth_protocol::money::Amount;
use hearth_protocol::time::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::payer::{BOUGHT, StoredPurchase};
use super::provider::{SALES, StoredSale};

/// What sales came to whose receipts are gone, by model and token.
const SOLD_SUMS: Table<Sum> = Table::new("sold_sums");
/// What purchases came to whose receipts are gone, by model and token.
const BOUGHT_SUMS: Table<Sum> = Table::new("bought_sums");
/// How long a receipt is kept, in milliseconds: 90 days.
pub const KEPT_MS: u64 = 90 * 24 * 60 * 60 * 1_000;
/// The most receipts that are kept of one side.
pub const RECEIPTS_MAX: usize = 100_000;
/// How often old receipts are looked for.
pub const PRUNE_EVERY: Duration = Duration::from_secs(60 * 60);
/// However many there are, a receipt is kept for so long, in milliseconds: its answer may go on.
const UNFINISHED_MS: u64 = 60 * 60 * 1_000;
/// Receipts that go in one write.
const BATCH_MAX: usize = 1_000;

/// What answers of one model came to, paid in one token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sum {
    /// The model's name.
    pub model: String,
    /// The token; nothing for answers that were free.
    pub asset: Option<AssetId>,
    /// How many answers, counting each provider of an answer.
    pub answers: u64,
    /// Their output tokens.
    pub output_tokens: u64,
    /// What they cost together, in atomic units.
    pub charge: Amount,
}

impl Sum {
    fn add(&mut self, other: &Self) {
        self.answers = self.answers.saturating_add(other.answers);
        self.output_tokens = self.output_tokens.saturating_add(other.output_tokens);
        self.charge = self.charge.saturating_add(other.charge);
    }

    /// What one answer came to.
    fn of(model: &str, asset: Option<AssetId>, receipt: &Receipt) -> Self {
        Self {
            model: model.to_owned(),
            asset,
            answers: 1,
            output_tokens: receipt.output_tokens.into(),
            charge: receipt.charge,
        }
    }

    fn key(&self) -> (String, Option<AssetId>) {
        (self.model.clone(), self.asset)
    }
}

/// A receipt that is kept for a while.
pub trait Kept: DeserializeOwned {
    /// Where it stands.
    const TABLE: Table<Self>;
    /// Where the sums of those stand that are gone.
    const SUMS: Table<Sum>;
    /// When its answer ended.
    fn ended_at(&self) -> Timestamp;
    /// What it came to.
    fn sum(&self) -> Sum;
}

impl Kept for StoredSale {
    const TABLE: Table<Self> = SALES;
    const SUMS: Table<Sum> = SOLD_SUMS;

    fn ended_at(&self) -> Timestamp {
        self.receipt.receipt.ended_at
    }

    fn sum(&self) -> Sum {
        Sum::of(&self.model, Some(self.asset), &self.receipt.receipt)
    }
}

impl Kept for StoredPurchase {
    const TABLE: Table<Self> = BOUGHT;
    const SUMS: Table<Sum> = BOUGHT_SUMS;

    fn ended_at(&self) -> Timestamp {
        self.receipt.receipt.ended_at
    }

    fn sum(&self) -> Sum {
        Sum::of(&self.model, self.asset, &self.receipt.receipt)
    }
}

type Sums = BTreeMap<(String, Option<AssetId>), Sum>;

fn add(sums: &mut Sums, one: Sum) {
    match sums.get_mut(&one.key()) {
        Some(sum) => sum.add(&one),
        None => {
            sums.insert(one.key(), one);
        }
    }
}

/// What all answers came to that were ever kept, by model and token.
///
/// # Errors
/// When the store cannot be read.
pub fn sums<T: Kept>(store: &Store) -> Result<Vec<Sum>, StoreError> {
    let mut sums = Sums::new();
    // One view, so that a receipt that goes meanwhile is counted once.
    let view = store.view()?;
    view.each(T::SUMS, |_, gone: Sum| add(&mut sums, gone))?;
    view.each(T::TABLE, |_, kept: T| add(&mut sums, kept.sum()))?;
    Ok(sums.into_values().collect())
}

/// Removes the receipts that are old, or too many, and adds them to the sums. Gives how many went.
/// Blocks on the disk while it looks.
///
/// # Errors
/// When the store fails.
pub async fn prune<T: Kept>(store: &Store, now: Timestamp) -> Result<usize, StoreError> {
    prune_beyond::<T>(store, now, RECEIPTS_MAX).await
}

async fn prune_beyond<T: Kept>(
    store: &Store,
    now: Timestamp,
    most: usize,
) -> Result<usize, StoreError> {
    let mut all = Vec::new();
    store.each(T::TABLE, |key, kept: T| {
        all.push((kept.ended_at(), key.to_vec()));
    })?;
    all.sort();
    let beyond = all.len().saturating_sub(most);
    let goes = |(place, (ended_at, _)): &(usize, (Timestamp, Vec<u8>))| {
        let age_ms = now.ms_since(*ended_at);
        age_ms > KEPT_MS || (*place < beyond && age_ms > UNFINISHED_MS)
    };
    let going: Vec<_> = all.into_iter().enumerate().take_while(goes).collect();
    for part in going.chunks(BATCH_MAX) {
        let mut gone = Sums::new();
        let mut batch = Batch::default();
        for (_, (_, key)) in part {
            if let Some(kept) = store.get::<T>(T::TABLE, key)? {
                add(&mut gone, kept.sum());
                batch.remove(T::TABLE, key);
            }
        }
        for mut sum in gone.into_values() {
            let name = postcard::to_stdvec(&sum.key()).map_err(|_| StoreError::Format)?;
            let key = ContentHash::of(&name).0;
            if let Some(before) = store.get::<Sum>(T::SUMS, &key)? {
                sum.add(&before);
            }
            batch.put(T::SUMS, &key, &sum)?;
        }
        store.commit(batch).await?;
    }
    Ok(going.len())
}

#[cfg(test)]
mod tests {
    use hearth_environment::SystemEnvironment;

    use super::*;

    const NOW: Timestamp = Timestamp(1_800_000_000_000);

    /// A receipt of this test: when it ended, its token, and what it cost.
    #[derive(Serialize, Deserialize)]
    struct Slip(Timestamp, Option<AssetId>, u64);

    impl Kept for Slip {
        const TABLE: Table<Self> = Table::new("slips");
        const SUMS: Table<Sum> = Table::new("slip_sums");

        fn ended_at(&self) -> Timestamp {
            self.0
        }

        fn sum(&self) -> Sum {
            Sum {
                model: "a model".to_owned(),
                asset: self.1,
                answers: 1,
                output_tokens: 10,
                charge: Amount::new(self.2.into()),
            }
        }
    }

    async fn put(store: &Store, number: u64, slip: &Slip) {
        let mut batch = Batch::default();
        batch.put(Slip::TABLE, &number.to_be_bytes(), slip).unwrap();
        store.commit(batch).await.unwrap();
    }

    fn rows(store: &Store) -> usize {
        let mut rows = 0;
        store.each(Slip::TABLE, |_, _: Slip| rows += 1).unwrap();
        rows
    }

    #[tokio::test]
    async fn what_goes_stays_in_the_sums() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store"), &SystemEnvironment).unwrap();
        let token: AssetId = "eip155:1/erc20:0x569b35Ed675C9cA42dbD1B6dd75bDC2965d5ec8E"
            .parse()
            .unwrap();
        for number in 0..20 {
            // Days 0, 5, 10 … 95 before now; every other one was free.
            let ended_at = Timestamp(NOW.0 - number * 5 * 24 * 60 * 60 * 1_000);
            let asset = (number % 2 == 0).then_some(token);
            put(&store, number, &Slip(ended_at, asset, number)).await;
        }
        let before = sums::<Slip>(&store).unwrap();
        assert_eq!(before.len(), 2);
        assert_eq!(prune::<Slip>(&store, NOW).await.unwrap(), 1, "day 95");
        assert_eq!(
            (rows(&store), sums::<Slip>(&store).unwrap()),
            (19, before.clone())
        );
        // Too many: the oldest go, but never one whose answer may go on.
        assert_eq!(prune_beyond::<Slip>(&store, NOW, 4).await.unwrap(), 15);
        assert_eq!(
            (rows(&store), sums::<Slip>(&store).unwrap()),
            (4, before.clone())
        );
        assert_eq!(prune_beyond::<Slip>(&store, NOW, 0).await.unwrap(), 3);
        assert_eq!(
            (rows(&store), sums::<Slip>(&store).unwrap()),
            (1, before.clone())
        );
        assert_eq!(prune_beyond::<Slip>(&store, NOW, 0).await.unwrap(), 0);
        let charge = before.iter().map(|sum| sum.charge.units()).sum::<u128>();
        assert_eq!(charge, (0..20).sum::<u128>());
    }
}
