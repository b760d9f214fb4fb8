//! What API keys have spent today, kept over restarts.
//!
//! Whatever a key has spent, and what is set aside for its answers in progress, is written when it has changed: at once where
//! a promise waits for it, else at most once in [`WRITE_EVERY`], and once more when the node stops. Nothing is promised on
//! what is not on disk, so a node that is killed has counted every answer that may cost something with all that it might
//! have cost. The household's own limits are kept elsewhere, in the same way.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hearth_causes::WithCauses;
use hearth_payments::store::{Batch, Store, StoreError, Table};
use hearth_surface::{Spent, Surface};
use tracing::warn;

/// What API keys have spent, by asset and key.
const KEYS_SPENT: Table<Spent> = Table::new("keys_spent");
/// How often it is written at most where nobody waits.
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
        store.each(KEYS_SPENT, |key, spent: Spent| {
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
        let surface = Arc::clone(&self.surface);
        loop {
            tokio::select! {
                () = surface.keeping_asked() => {}
                () = async {
                    surface.spent_changed().await;
                    tokio::time::sleep(WRITE_EVERY).await;
                } => {}
            }
            self.write().await;
        }
    }

    /// Writes what has changed since it was written last.
    pub(super) async fn write(&mut self) {
        let (now, kept) = self.surface.to_keep();
        let rows: Rows = now.into_iter().map(|spent| (row(&spent), spent)).collect();
        if let Err(error) = self.commit(&rows).await {
            warn!(error = %error.with_causes(), "what API keys have spent could not be kept");
            return;
        }
        self.written = rows;
        self.surface.kept(kept);
    }

    async fn commit(&self, rows: &Rows) -> Result<(), StoreError> {
        let mut batch = Batch::default();
        for (key, spent) in rows {
            if self.written.get(key) != Some(spent) {
                batch.put(KEYS_SPENT, key, spent)?;
            }
        }
        for key in self.written.keys().filter(|key| !rows.contains_key(*key)) {
            batch.remove(KEYS_SPENT, key);
        }
        self.store.commit(batch).await
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use axum::body::Body;
    use futures::future::BoxFuture;
    use hearth_environment::{Environment, SystemEnvironment};
    use hearth_protocol::answer::{AnswerId, SignedReceipt};
    use hearth_protocol::money::Amount;
    use hearth_protocol::time::Timestamp;
    use http::Request;
    use tower::ServiceExt as _;

    use super::*;
    use hearth_surface::answers::{
        Answer, Answerer, AskError, Embedded, Input, ModelCard, Question, SchemaFault,
    };
    use hearth_surface::{ApiKey, Cap, Door, KeyTable};

    const KEY: &str = "hearth-key";
    const NAME: &str = "bought";

    /// Keeps the disk as it is when it would promise: as a node that is killed then leaves it.
    struct KilledAsItPromises {
        disk: PathBuf,
        left: PathBuf,
    }

    impl Answerer for KilledAsItPromises {
        fn models(&self) -> BTreeMap<String, ModelCard> {
            BTreeMap::from([(
                NAME.to_owned(),
                ModelCard {
                    name: NAME.to_owned(),
                    weights: "ab".repeat(32),
                    context_tokens: 4_096,
                    here: false,
                    providers: 1,
                    created_s: 1_700_000_000,
                },
            )])
        }

        fn ask(&self, question: Question) -> BoxFuture<'_, Result<Answer, AskError>> {
            Box::pin(async move {
                let now = Timestamp(SystemEnvironment.now_ms());
                question.promised.kept(now).await.unwrap();
                for file in std::fs::read_dir(&self.disk).unwrap().flatten() {
                    std::fs::copy(file.path(), self.left.join(file.file_name())).unwrap();
                }
                Err(AskError::NoModel(question.model))
            })
        }

        fn count_tokens(&self, model: String, _: Input) -> BoxFuture<'_, Result<u32, AskError>> {
            Box::pin(async move { Err(AskError::NoModel(model)) })
        }

        fn check_schema(&self, _: String, _: Duration) -> BoxFuture<'_, Result<(), SchemaFault>> {
            Box::pin(async { Ok(()) })
        }

        fn embed(&self, model: String, _: Vec<Input>) -> BoxFuture<'_, Result<Embedded, AskError>> {
            Box::pin(async move { Err(AskError::NoModel(model)) })
        }

        fn receipts(&self, _: AnswerId) -> BoxFuture<'_, Result<Vec<SignedReceipt>, AskError>> {
            Box::pin(async { Ok(Vec::new()) })
        }
    }

    fn key() -> ApiKey {
        let asset = "eip155:402402/erc20:0x569b35Ed675C9cA42dbD1B6dd75bDC2965d5ec8E";
        let cap = Cap {
            asset: asset.parse().unwrap(),
            symbol: "TUSD".to_owned(),
            decimals: 6,
            per_request: Amount::new(60),
            per_day: Amount::new(100),
        };
        ApiKey {
            caps: vec![cap],
            ..ApiKey::new("phone", KEY)
        }
    }

    fn open(disk: &Path, left: &Path) -> (Arc<Surface>, Ledger) {
        let answerer = Arc::new(KilledAsItPromises {
            disk: disk.to_owned(),
            left: left.to_owned(),
        });
        let surface = Surface::new(answerer, Arc::new(SystemEnvironment));
        surface.set_keys(KeyTable::new([key()]).unwrap());
        // The writer's thread lets go of the file when it sees that the last handle is gone.
        let store = loop {
            match Store::open(&disk.join("payer.redb"), &SystemEnvironment) {
                Ok(store) => break store,
                Err(_) => std::thread::yield_now(),
            }
        };
        let ledger = Ledger::open(store, Arc::clone(&surface)).unwrap();
        (surface, ledger)
    }

    #[tokio::test]
    async fn a_node_that_is_killed_as_it_promises_has_counted_the_promise() {
        let folders: Vec<_> = (0..4).map(|_| tempfile::tempdir().unwrap()).collect();
        for (run, counted) in [60, 100, 100].into_iter().enumerate() {
            let (disk, left) = (folders[run].path(), folders[run + 1].path());
            let (surface, mut ledger) = open(disk, left);
            let address = "127.0.0.1:4040".parse().unwrap();
            let router = surface.router(Door::new(address, None));
            let body =
                format!(r#"{{"model":"{NAME}","messages":[{{"role":"user","content":"x"}}]}}"#);
            let request = Request::post("/v1/chat/completions")
                .header("host", "127.0.0.1:4040")
                .header("authorization", format!("Bearer {KEY}"))
                .header("content-type", "application/json")
                .body(Body::from(body))
                .unwrap();
            tokio::select! {
                reply = router.oneshot(request) => assert_eq!(reply.unwrap().status(), 404),
                () = ledger.run() => {}
            }
            drop((surface, ledger));
            let (after, _ledger) = open(left, disk);
            assert_eq!(after.spent()[0].amount, Amount::new(counted), "run {run}");
        }
    }
}
