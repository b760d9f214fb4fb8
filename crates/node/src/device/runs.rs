//! Training runs while this device is up: they begin once the ledger of the chain that it uses is found.

use std::sync::Arc;
use std::time::Duration;

use hearth_causes::WithCauses;
use hearth_net::Network;
use hearth_payments::escrow::Escrow;
use hearth_payments::store::Store;
use hearth_protocol::audience::Openness;
use hearth_workshop::Limits;
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{debug, info, warn};

use super::{Building, UpOptions};
use crate::home::Config;
use crate::ledger::{self, LedgerSigner, RegistrationKeys};
use crate::machine;
use crate::roles::provider::Provider;
use crate::runs::{BasePlaces, KeptWeights, Parts, RoundTrainer, Runs, RunsSlot};
use crate::shared_chain::line::ChainLine;

/// How long to wait before the ledger is looked for again.
const AGAIN: Duration = Duration::from_secs(5);

/// What runs are started with.
struct Beginning {
    slot: RunsSlot,
    escrow: Arc<Escrow>,
    network: Network,
    config: Config,
    keys: RegistrationKeys,
    store: Store,
    opened: watch::Receiver<Openness>,
    trainer: Arc<dyn RoundTrainer>,
    folder: std::path::PathBuf,
    models: std::path::PathBuf,
    confirmations: u64,
}

impl Building<'_> {
    /// Follows the ledger of the network's chain, or else of the first configured one that has one.
    pub(super) fn runs(
        &mut self,
        line: &ChainLine,
        network: &Network,
        provider: &Provider,
        store: Store,
        options: &UpOptions,
    ) -> RunsSlot {
        let slot = RunsSlot::default();
        let used = line.used().map(|used| used.network().id());
        let named = self.config.chains.iter();
        let mut named = named.filter(|(_, chain)| chain.ledger.is_some());
        let chain = used.or_else(|| named.next().map(|(id, _)| *id));
        let Some(escrow) = chain.and_then(|chain| self.escrows.get(chain)) else {
            return slot;
        };
        let confirmations = chain.and_then(|chain| self.config.chains.get(&chain));
        let beginning = Beginning {
            slot: Arc::clone(&slot),
            escrow,
            network: network.clone(),
            config: self.config.clone(),
            keys: RegistrationKeys::of(self.keys, self.config.device.index),
            store,
            opened: provider.opened(),
            trainer: Arc::clone(&options.trainer),
            folder: self.home.training_folder(),
            models: self.home.models_folder(),
            confirmations: confirmations.map_or(0, |chain| chain.confirmations),
        };
        self.tasks.spawn(async move {
            beginning.follow().await;
            "training runs"
        });
        slot
    }
}

impl Beginning {
    async fn follow(mut self) {
        let mut is_said = false;
        let ledger = loop {
            let client = self.escrow.client().clone();
            match ledger::find(&self.config, client).await {
                Ok(ledger) => break ledger,
                Err(error) if is_said => debug!(error = %error.with_causes(), "still no ledger"),
                Err(error) => {
                    is_said = true;
                    info!(error = %error.with_causes(), "no ledger is followed yet, so nothing is trained");
                }
            }
            sleep(AGAIN).await;
        };
        let (needs, paused) = watch::channel(is_needed(*self.opened.borrow()));
        let signer = LedgerSigner::new(self.keys.session.clone(), &ledger, self.store.clone());
        let found = machine::detect(&self.folder);
        let parts = Parts {
            network: self.network.clone(),
            sender: self.escrow.sender().clone(),
            signer: Arc::new(signer),
            account: self.keys.household.address(),
            environment: crate::terms::environment(),
            limits: Limits {
                // The rest is for models, programs and the system.
                memory_bytes: found.memory_bytes / 2,
                threads: std::thread::available_parallelism().map_or(1, usize::from),
            },
            trainer: Arc::clone(&self.trainer),
            datasets: self.folder.join("datasets"),
            bases: BasePlaces {
                bases: self.folder.join("bases"),
                models: self.models.clone(),
            },
            kept_weights: KeptWeights::default(),
            assets: self.config.assets.clone(),
            confirmations: self.confirmations,
            paused,
            heavy: Arc::default(),
            ledger,
        };
        let runs = match Runs::open(parts, self.folder.clone()) {
            Ok(runs) => runs,
            Err(error) => {
                warn!(error = %error.with_causes(), "no run is taken part in");
                return std::future::pending().await;
            }
        };
        let settling = runs.settle(self.keys.clone());
        if self.slot.set(runs).is_err() {
            return;
        }
        while self.opened.changed().await.is_ok() {
            let open = *self.opened.borrow_and_update();
            needs.send_replace(is_needed(open));
        }
        settling.abort();
        std::future::pending::<()>().await;
    }
}

/// Whether the owner needs the machine: others may not use it then.
fn is_needed(open: Openness) -> bool {
    open != Openness::Everyone
}
