//! A whole EVM chain inside the program: revm, blocks and state in redb, JSON-RPC.
//!
//! It lets a household pay and be paid with the network unplugged, and lets tests run the same contracts as
//! a public chain. It is **one sequencer**: the device that runs it orders the transactions and could rewrite its file.
//! It serves one household or development; a network of households uses a public EVM chain by URL. It deliberately
//! has no peers, no reorganisations, no fee market, no blobs, no Merkle proofs and no unlocked accounts.
//! Spec: 05 embedded chain; reasons are in docs/adr/0005-embedded-chain.md.
//!
//! The rules of the chain are pure (`execute`, `pool`, `genesis`, `block`); one thread writes
//! (`sequencer`), readers use snapshots (`store`), and [`Embedded::request`] is the one door through which HTTP
//! and the in-process transport come.

mod block;
mod error;
mod execute;
mod filters;
mod genesis;
mod http;
pub mod limits;
mod pool;
mod rpc;
mod sequencer;
mod shared;
mod store;
mod transport;
mod visitors;

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod flood_tests;
#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod testing;

use std::future::Future;
use std::path::Path;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use alloy_consensus::TxEnvelope;
use alloy_consensus::transaction::Recovered;
use alloy_eips::eip2718::Decodable2718;
use hearth_environment::{Environment, SystemEnvironment};
use redb::{Database, StorageBackend};
use serde_json::Value;

pub use error::{OpenError, RpcError};
pub use genesis::{
    EMBER_ADDRESS, Genesis, GenesisCall, GenesisCode, GenesisError, LEDGER_ADDRESSES,
    TEST_DOLLAR_ADDRESS,
};
pub use hearth_doors::{Budget, Listener};
pub use store::StoreError;
pub use transport::EmbeddedTransport;
pub use visitors::VisitorDoor;

use filters::Filters;
use pool::Pool;
use sequencer::{Command, Sequencer};
use shared::Shared;
use store::Store;

/// The chain id of an embedded chain unless another is chosen; public registries of chain ids do not use it.
pub const DEFAULT_CHAIN_ID: u64 = 402_402;

/// The ids of chains that devices make by themselves, each at random, so that what is signed for one of them holds on
/// no other. Public registries of chain ids have none of these.
pub const OWN_CHAIN_IDS: std::ops::Range<u64> = 402_402_000_000_000..403_402_000_000_000;

/// Whether an id can only be that of an embedded chain: [`DEFAULT_CHAIN_ID`] or one of [`OWN_CHAIN_IDS`].
#[must_use]
pub fn is_embedded_id(chain_id: u64) -> bool {
    chain_id == DEFAULT_CHAIN_ID || OWN_CHAIN_IDS.contains(&chain_id)
}

/// The latest timestamp a block can have, the end of the year 9999: libraries turn timestamps into dates.
const MAX_TIMESTAMP_S: u64 = 253_402_300_799;

/// When blocks are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Mining {
    /// As soon as a transaction can be mined. Transactions that arrive together share a block. The hash of a
    /// transaction is returned when its block is durable.
    #[default]
    OnDemand,
    /// At most once in `interval_ms`, and only if a transaction waits: an idle chain does not grow. The hash of a
    /// transaction is returned when the transaction is durable in the pool.
    Every {
        /// Milliseconds between blocks, at least 1.
        interval_ms: u64,
    },
}

/// What kind of chain to open.
#[derive(Debug, Clone)]
pub struct EmbeddedConfig {
    /// EIP-155 chain id. A store keeps the id it was made with.
    pub chain_id: u64,
    /// Contents of block 0 of a new store; a store that has blocks keeps its own.
    pub genesis: Genesis,
    /// When blocks are made.
    pub mining: Mining,
    /// Whether methods that move time and mine at will are offered. For tests only: with them anyone who reaches the
    /// port decides what time it is, and with it when a withdrawal may be finalised.
    pub dev_rpc: bool,
    /// Where time and the names of filters come from.
    pub environment: Arc<dyn Environment>,
}

impl EmbeddedConfig {
    /// A chain with this genesis, [`DEFAULT_CHAIN_ID`], blocks on demand, the system's clock, no development methods.
    #[must_use]
    pub fn new(genesis: Genesis) -> Self {
        Self {
            chain_id: DEFAULT_CHAIN_ID,
            genesis,
            mining: Mining::OnDemand,
            dev_rpc: false,
            environment: Arc::new(SystemEnvironment),
        }
    }
}

/// A handle on an open chain. Clones share it; it closes when the last is dropped or at [`Embedded::shutdown`].
#[derive(Debug, Clone)]
pub struct Embedded {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    filters: Mutex<Filters>,
    dev_rpc: bool,
    /// Taken at shutdown, so that no command can follow the last one.
    commands: Mutex<Option<SyncSender<Command>>>,
    sequencer: Mutex<Option<JoinHandle<()>>>,
}

impl Embedded {
    /// Opens the chain in the file at `path`, or makes it with `config`'s genesis.
    ///
    /// Opening reads the newest header and the waiting transactions, never the history.
    ///
    /// # Errors
    /// See [`OpenError`]; none leaves the file changed, except that a genesis may have been written.
    pub fn open(path: &Path, config: EmbeddedConfig) -> Result<Self, OpenError> {
        if !path.try_exists().map_err(OpenError::Path)? {
            create_file(path, &config)?;
        }
        Self::start(Database::open(path)?, config)
    }

    /// Makes a chain that lives as long as its handles.
    ///
    /// # Errors
    /// [`OpenError::Genesis`] for a genesis that cannot be executed.
    pub fn in_memory(config: EmbeddedConfig) -> Result<Self, OpenError> {
        Self::with_backend(redb::backends::InMemoryBackend::new(), config)
    }

    /// Opens the chain in any storage that redb can use.
    ///
    /// # Errors
    /// As [`Embedded::open`].
    pub fn with_backend(
        backend: impl StorageBackend,
        config: EmbeddedConfig,
    ) -> Result<Self, OpenError> {
        Self::start(Database::builder().create_with_backend(backend)?, config)
    }

    fn start(database: Database, config: EmbeddedConfig) -> Result<Self, OpenError> {
        let store = Store::new(database);
        ensure_genesis(&store, &config)?;
        let pool = restore_pool(&store)?;
        let shared = Arc::new(Shared::new(
            config.chain_id,
            Arc::clone(&config.environment),
            store.snapshot()?,
            pool,
        ));
        if config.dev_rpc {
            resume_time(&shared);
        }
        let (commands, queue) = sync_channel(limits::MAX_QUEUED_COMMANDS);
        let sequencer = Sequencer::new(store, Arc::clone(&shared), config.mining);
        let thread = std::thread::Builder::new()
            .name("embedded-chain".to_owned())
            .spawn(move || sequencer.run(&queue))
            .map_err(OpenError::Thread)?;
        let inner = Inner {
            shared,
            filters: Mutex::default(),
            dev_rpc: config.dev_rpc,
            commands: Mutex::new(Some(commands)),
            sequencer: Mutex::new(Some(thread)),
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Answers one JSON-RPC request: the door that HTTP and the in-process transport share.
    ///
    /// It blocks: `eth_sendRawTransaction` waits for the disk, `eth_call` runs the EVM. From async code call it on a
    /// blocking thread, or use [`Embedded::transport`].
    ///
    /// # Errors
    /// The error object of the reply; see spec: 05 embedded chain, section 11.
    pub fn request(&self, method: &str, params: Value) -> Result<Value, RpcError> {
        rpc::dispatch(self, method, params)
    }

    /// A transport for alloy: `RpcClient::new(chain.transport(), true)`.
    #[must_use]
    pub fn transport(&self) -> EmbeddedTransport {
        EmbeddedTransport::new(self.clone())
    }

    /// Serves JSON-RPC over HTTP on a loopback listener until `shutdown` resolves, then finishes the requests
    /// it has.
    ///
    /// # Errors
    /// [`std::io::ErrorKind::InvalidInput`] for a listener on an address that others can reach, or the listener's own
    /// error.
    pub async fn serve(
        &self,
        listener: Listener,
        budget: Budget,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> std::io::Result<()> {
        http::serve(self.clone(), listener, budget, shutdown).await
    }

    /// The EIP-155 chain id.
    #[must_use]
    pub fn chain_id(&self) -> u64 {
        self.inner.shared.chain_id()
    }

    /// Number of the newest block, which is durable.
    ///
    /// # Errors
    /// An [`RpcError`] if the chain was shut down.
    pub fn block_number(&self) -> Result<u64, RpcError> {
        Ok(self.inner.shared.head()?.head().number)
    }

    /// Stops the sequencer after what it has taken, and closes the file. Later requests get an error.
    pub fn shutdown(&self) {
        self.inner.shutdown();
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.inner.shared
    }

    fn dev_rpc(&self) -> bool {
        self.inner.dev_rpc
    }

    fn filters(&self) -> std::sync::MutexGuard<'_, Filters> {
        self.inner
            .filters
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends the sequencer a command made around a reply channel, and waits for the reply.
    fn ask<T>(
        &self,
        command: impl FnOnce(SyncSender<Result<T, RpcError>>) -> Command,
    ) -> Result<T, RpcError> {
        let commands = self
            .inner
            .commands
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let (reply, answer) = sync_channel(1);
        commands
            .ok_or_else(RpcError::closed)?
            .send(command(reply))
            .map_err(|_| RpcError::closed())?;
        answer.recv().map_err(|_| RpcError::closed())?
    }
}

impl Inner {
    fn shutdown(&self) {
        let commands = self
            .commands
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(commands) = commands {
            // An error means that the sequencer has stopped already.
            drop(commands.send(Command::Stop));
        }
        let thread = self
            .sequencer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!(
                "the embedded chain's sequencer panicked; its file is as of the last block"
            );
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.shutdown();
    }
}

/// Makes the file under another name and renames it when block 0 is in it: a crash meanwhile leaves no file at `path`
/// that is not a chain.
fn create_file(path: &Path, config: &EmbeddedConfig) -> Result<(), OpenError> {
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(".new");
    let fresh = Path::new(&fresh);
    let database = match Database::create(fresh) {
        Err(redb::DatabaseError::Storage(_)) if fresh.exists() => {
            // What an earlier attempt left behind when it was stopped.
            std::fs::remove_file(fresh).map_err(OpenError::Path)?;
            Database::create(fresh)?
        }
        other => other?,
    };
    let store = Store::new(database);
    ensure_genesis(&store, config)?;
    drop(store);
    std::fs::rename(fresh, path).map_err(OpenError::Path)?;
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    // Where folders can be synced the new name is durable now; elsewhere the system sees to it.
    if let Ok(folder) = std::fs::File::open(folder) {
        drop(folder.sync_all());
    }
    Ok(())
}

/// Writes block 0 into an empty store, and refuses a store of another chain.
fn ensure_genesis(store: &Store, config: &EmbeddedConfig) -> Result<(), OpenError> {
    match store.chain_id()? {
        Some(found) if found != config.chain_id => Err(OpenError::OtherChain {
            found,
            wanted: config.chain_id,
        }),
        Some(_) => Ok(()),
        None => {
            let genesis = config
                .genesis
                .execute(config.chain_id, config.environment.now_ms() / 1_000)?;
            Ok(store.initialise(config.chain_id, &genesis)?)
        }
    }
}

/// The pool as it was when the store was last open.
fn restore_pool(store: &Store) -> Result<Pool, StoreError> {
    const DAMAGED: StoreError = StoreError::Damaged { table: "pool" };
    let mut pool = Pool::default();
    for pending in store.pending()? {
        let envelope = TxEnvelope::decode_2718_exact(&pending.raw).map_err(|_| DAMAGED)?;
        pool.restore(
            Recovered::new_unchecked(envelope, pending.sender),
            pending.raw,
            pending.sequence,
        );
    }
    Ok(pool)
}

/// Lets time that was moved by development methods go on from where it was, instead of standing until the clock
/// catches up.
fn resume_time(shared: &Shared) {
    if let Ok(head) = shared.head()
        && head.head().timestamp > shared.now_s()
    {
        shared.shift_time_to(head.head().timestamp);
    }
}
