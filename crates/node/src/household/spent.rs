//! What API keys have spent today, kept over restarts.
//!
//! Whatever a key has spent, and what is set aside for its answers in progress, is written as soon as it changes, at most
//! once in [`WRITE_EVERY`], and once more when the node stops. A node that is killed has so counted every answer in progress
//! with all that it might have cost; it has forgotten at most what was begun, or cost more than was set aside, within the
//! last [`WRITE_EVERY`]. The household's own limits are kept elsewhere, and durable before anything is promised.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tracing::warn;

use crate::http::surface::{Spent, Surface};
use crate::store::{Batch, Store, StoreError, Table};

/// How often it is written at most.
const WRITE_EVERY: Duration = Duration::from_secs(1);

/// The rows of the store as they were written last.
type Rows = BTreeMap<Vec<u8>, Spent>;

/// Keeps what keys spend.
#[derive(Debug)]
pub(super) struct Ledger {
    store: Store,
    surface: Arc<Surface>,
    written: Rows,
}

fn row(spent: &Spent) -> Vec<u8> {
    format!("{} {}", spent.asset, spent.key).into_bytes()
}

impl Ledger {
    /// Lets `surface` go on with what `store` has of today.
    pub(super) fn open(store: Store, surface: Arc<Surface>) -> Result<Self, StoreError> {
        let mut written = Rows::new();
        store.each(Table::KeysSpent, |key, spent: Spent| {
            written.insert(key.to_vec(), spent);
        })?;
        surface.restore_spent(written.values().cloned());
        Ok(Self {
            store,
            surface,
            written,
        })
    }

    /// Writes what has changed, for ever. May be given up, and [`Ledger::write`] be called for the last time.
    pub(super) async fn run(&mut self) {
        loop {
            self.surface.spent_changed().await;
            self.write().await;
            tokio::time::sleep(WRITE_EVERY).await;
        }
    }

    /// Writes what has changed since it was written last.
    pub(super) async fn write(&mut self) {
        let now = self.surface.spent();
        let rows: Rows = now.into_iter().map(|spent| (row(&spent), spent)).collect();
        if let Err(error) = self.commit(&rows).await {
            warn!(%error, "what API keys have spent could not be kept");
            return;
        }
        self.written = rows;
    }

    async fn commit(&self, rows: &Rows) -> Result<(), StoreError> {
        let mut batch = Batch::default();
        for (key, spent) in rows {
            if self.written.get(key) != Some(spent) {
                batch.put(Table::KeysSpent, key, spent)?;
            }
        }
        for key in self.written.keys().filter(|key| !rows.contains_key(*key)) {
            batch.remove(Table::KeysSpent, key);
        }
        self.store.commit(batch).await
    }
}
