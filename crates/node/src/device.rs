//! A device of a household: its models, its network, its purse and its till, put together as the
//! configuration says and kept running.
//!
//! Nothing is decided here that another module decides: this is where they meet. What a device
//! lacks (a chain that answers, a model, a peer) is said and does not keep the rest from working:
//! a device without a network still answers its household.

mod chain_line;
mod power;
mod runs;
mod selling;
pub mod service;
mod serving;
mod sharing;
mod spent;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use futures::FutureExt;
use futures::future::BoxFuture;
use hearth_api::household::{NodeReady, ServedModel};
use hearth_causes::WithCauses;
use hearth_environment::Environment;
use hearth_models::engine::LoadError;
use hearth_models::reader::Launcher;
use hearth_net::{
    Network, NetworkOptions, OfferChange, OpenError as NetworkError, Reach, Ticket, TicketError,
};
use hearth_payments::escrow::Escrows;
use hearth_payments::purse::{PayerKeys, Purse};
use hearth_payments::store::{OpenError, Store, StoreError};
use hearth_payments::till::{Tasks, Till, TillError, TillKeys, open_escrows};
use hearth_protocol::answer::payer::Patience;
use hearth_protocol::content::ContentHash;
use hearth_protocol::offer::Offer;
use hearth_protocol::time::Timestamp;
use hearth_surface::answers::Answerer;
use hearth_surface::{ApiKey, Door, KEYLESS, Surface, own_policy, sold_policy};
use thiserror::Error;
use tokio::task::JoinSet;
use tracing::{info, warn};

use crate::advice::{Advice, CHECK_DISK, START_AGAIN};
use crate::api_keys::Keys;
use crate::home::{Config, Home, HomeError, HomeLock, Part, ReachConfig};
use crate::household::{self, Members, MembersError, MembersParts};
use crate::http::{self, Budget, ListenError, Listener, Policy, Shutdown};
use crate::keys::Unlocked;
use crate::local_chain::LocalChainError;
use crate::models::Models;
use crate::node_file::{NodeFile, NodeFileError};
use crate::owner::{self, Admin};
use crate::roles::payer::{Payer, PayerParts, Readers, StoredPurchase};
use crate::roles::provider::{IsHousehold, Provider, ProviderParts, Sales, StoredSale};
use crate::roles::retention::{self, Kept};
use crate::runs::RoundTrainer;
use crate::shared_chain::line::ChainLine;
use crate::shared_chain::ticket::TicketPayload;
use crate::terms::{self, ChainAccesses};
use crate::trade;

pub use power::Unmeasurable;
use selling::Shop;
use spent::Ledger;

/// How often an offer is made anew.
const OFFER_EVERY: Duration = Duration::from_secs(15);
/// How long an offer stands, in milliseconds.
const OFFER_TTL_MS: u64 = 90_000;
/// How often offers that ended are forgotten.
const EXPIRE_EVERY: Duration = Duration::from_secs(5);

/// Why the device does not come up.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum UpError {
    /// The data folder.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// The books.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The books failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The journal of transactions.
    #[error(transparent)]
    Till(#[from] TillError),
    /// The port.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The HTTP client.
    #[error("the HTTP client cannot be set up")]
    Http(#[from] reqwest::Error),
    /// The system gave no random bytes.
    #[error("the system gave no random bytes")]
    Randomness,
    /// A part stopped by itself.
    #[error("{0} stopped")]
    Stopped(&'static str),
    /// The network.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// The household's devices.
    #[error(transparent)]
    Members(#[from] MembersError),
    /// A limit in watts that cannot be kept.
    #[error(transparent)]
    Power(#[from] Unmeasurable),
    /// The chain that this device runs.
    #[error(transparent)]
    Chain(#[from] LocalChainError),
    /// A model cannot be run.
    #[error("the model {name} cannot be run")]
    Model {
        /// Its name.
        name: String,
        /// Why.
        #[source]
        source: LoadError,
    },
    /// A model's file is not what it should be.
    #[error("the model {name} cannot be used: {reason}")]
    File {
        /// Its name.
        name: String,
        /// Why.
        reason: String,
    },
    /// The file by which commands find this node cannot be written.
    #[error(transparent)]
    NodeFile(#[from] NodeFileError),
}

impl Advice for UpError {
    fn code(&self) -> &str {
        match self {
            Self::Home(error) => error.code(),
            Self::Open(_) | Self::Store(_) | Self::Till(_) => "store",
            Self::Listen(error) => error.code(),
            Self::Http(_) => "http",
            Self::Randomness => "no_randomness",
            Self::Stopped(_) => "stopped",
            Self::Network(_) => "network",
            Self::Members(error) => error.code(),
            Self::Chain(error) => error.code(),
            Self::Power(_) => "watts_unmeasurable",
            Self::Model { .. } | Self::File { .. } => "model",
            Self::NodeFile(error) => error.code(),
        }
    }

    fn next_step(&self) -> String {
        match self {
            Self::Home(error) => error.next_step(),
            Self::Open(_) | Self::Store(_) | Self::Till(_) => CHECK_DISK.to_owned(),
            Self::Listen(error) => error.next_step(),
            Self::Http(_) | Self::Randomness | Self::Stopped(_) => START_AGAIN.to_owned(),
            Self::Members(error) => error.next_step(),
            Self::Chain(LocalChainError::Home(HomeError::Busy { pid, .. })) => format!(
                "Stop `hearth chain run` (process {pid}): `hearth up` runs this device's chain by itself. To use that one \
                 instead, name it in [chains] of config.toml"
            ),
            Self::Chain(error) => error.next_step(),
            Self::Power(_) => {
                "Take `watts` out of [sharing] in config.toml, or let this user read those counters"
                    .to_owned()
            }
            Self::Network(_) => {
                "Check the section [network] of config.toml, then start again".to_owned()
            }
            Self::Model { .. } | Self::File { .. } => {
                "See `hearth models` for what is there; lower context_tokens in config.toml if memory is short"
                    .to_owned()
            }
            Self::NodeFile(error) => error.next_step(),
        }
    }
}

/// What is said on the command line.
#[derive(Debug, Clone)]
pub struct UpOptions {
    /// How the program starts itself as what reads the work of strangers.
    pub launcher: Launcher,
    /// Where programs ask, instead of what the configuration says.
    pub listen: Option<SocketAddr>,
    /// Where answers are sold over HTTP, instead of what the configuration says.
    pub sell_at: Option<SocketAddr>,
    /// Models to run beside those of the configuration, for this household only.
    pub models: Vec<String>,
    /// Tickets of devices to join.
    pub join: Vec<String>,
    /// The next token of an answer may take so long, in milliseconds.
    pub stall_ms: Option<u64>,
    /// Output tokens that are promised ahead.
    pub window_tokens: Option<u32>,
    /// What does the work of training runs.
    pub trainer: Arc<dyn RoundTrainer>,
}

/// A device that is up.
pub struct Device {
    ready: NodeReady,
    router: Router,
    listener: Listener,
    /// Of the household's own address, and of the one where answers are sold.
    policies: (Policy, Policy),
    shop: Option<Shop>,
    ledger: Ledger,
    network: Network,
    chain: ChainLine,
    node_file: NodeFile,
    tasks: Tasks,
    _locks: Vec<HomeLock>,
}

/// What the parts share while they are put together.
struct Building<'a> {
    home: &'a Home,
    config: &'a Config,
    keys: &'a Unlocked,
    environment: Arc<dyn Environment>,
    tasks: Tasks,
    warnings: Vec<String>,
    /// The ways to the contracts. What pays and what is paid send from one account, so they share its senders.
    escrows: Escrows,
}

impl Device {
    /// Brings a device up.
    ///
    /// # Errors
    /// See [`UpError`].
    pub fn up<'a>(
        home: &'a Home,
        config: &'a Config,
        keys: &'a Unlocked,
        options: UpOptions,
    ) -> BoxFuture<'a, Result<Self, UpError>> {
        Box::pin(Self::put_together(home, config, keys, options))
    }

    async fn put_together(
        home: &Home,
        config: &Config,
        keys: &Unlocked,
        options: UpOptions,
    ) -> Result<Self, UpError> {
        let locks = locked(home)?;
        let (listener, address) = http::bind(options.listen.unwrap_or(config.api.listen)).await?;
        let mut building = Building::new(home, config, keys);
        let line = building.open_chain()?;
        let chains = chain_line::accesses(&line, config).await;
        let store = Store::open(&home.store_path(Part::Provider), &*building.environment)?;
        let (members, is_household) = building.members(&store).await?;
        let till = building.till(store.clone(), chains)?;
        let provider = building.provider(till.as_ref(), &is_household);
        let readers = Readers::new(Vec::new(), options.launcher.clone());
        let models = building.serve(&provider, &readers, &options).await?;
        let network = building.network(&provider).await?;
        building.attach_chain(&line, &network).await;
        let runs = building.runs(&line, &network, &provider, store, &options);
        let payer = building.payer(&provider, &network, readers, is_household, &options)?;
        building.market(&network, &payer);
        building.offering(&network, &provider).await?;
        building.join(&network, &members, &options.join);
        let (surface, ledger) = building.surface(&payer)?;
        let shop = building.shop(options.sell_at, till.as_ref(), &provider, &surface);
        let shop = shop.await?;
        let node_file = NodeFile::write(home, address, &*building.environment)?;
        surface.set_owner(&node_file.token);
        let admin = Admin {
            purse: trade::Buyer::of_node(payer.clone(), config.clone()),
            payer,
            home: home.clone(),
            launcher: options.launcher,
            surface: Arc::clone(&surface),
            network: network.clone(),
            members,
            fetches: owner::Fetches::default(),
            till,
            config: config.clone(),
            chain: line.clone(),
            runs,
        };
        let admin = owner::router(admin, &node_file);
        let router = surface.router(building.door(address)).merge(admin);
        let ready = NodeReady {
            url: format!("http://{address}"),
            sold_at: shop.as_ref().map(|shop| shop.url.clone()),
            device: network.device().to_string(),
            household: keys.address().to_string(),
            ticket: ticket(&network, &line)?,
            models,
            chain: line.view(&network),
            warnings: building.warnings,
        };
        Ok(Self {
            ready,
            router,
            listener,
            policies: policies(address, config),
            shop,
            ledger,
            network,
            chain: line,
            node_file,
            tasks: building.tasks,
            _locks: locks,
        })
    }

    /// Where it is and what it serves.
    pub fn ready(&self) -> &NodeReady {
        &self.ready
    }

    /// Answers until `shutdown` resolves, then finishes what it has.
    ///
    /// # Errors
    /// Where a part ended by itself: nothing more can be promised then.
    pub fn serve(self, shutdown: Shutdown) -> BoxFuture<'static, Result<(), UpError>> {
        Box::pin(self.serve_until(shutdown))
    }

    async fn serve_until(mut self, shutdown: Shutdown) -> Result<(), UpError> {
        let shutdown = shutdown.shared();
        let (own_policy, sold_policy) = self.policies;
        let own = http::serve(
            self.listener,
            self.router,
            own_policy,
            shutdown.clone().boxed(),
        );
        let sold = async {
            if let Some(Shop {
                listener, router, ..
            }) = self.shop
            {
                http::serve(listener, router, sold_policy, shutdown.boxed()).await;
            }
        };
        let served = async { tokio::join!(own, sold) };
        let ended = tokio::select! {
            _ = served => Ok(()),
            () = self.ledger.run() => Ok(()),
            ended = self.tasks.join_next() => {
                let part = ended.and_then(Result::ok).unwrap_or("a part of the node");
                Err(UpError::Stopped(part))
            }
        };
        self.node_file.remove();
        self.ledger.write().await;
        // Others learn at once that nothing is offered here any more.
        if let Err(error) = self.network.withdraw() {
            warn!(error = %error.with_causes(), "the offer could not be taken back");
        }
        self.network.shutdown().await;
        self.chain.close();
        ended
    }
}

/// A ticket to the network alone, with its chain.
fn ticket(network: &Network, line: &ChainLine) -> Result<String, MembersError> {
    let payload = TicketPayload {
        invitation: None,
        chain: line.ticket(),
    };
    Ok(household::ticket(network, &payload)?.to_string())
}

/// Takes the stores of a device for this process, and the folder for its owner alone.
fn locked(home: &Home) -> Result<Vec<HomeLock>, HomeError> {
    let locks = vec![home.lock(Part::Provider)?, home.lock(Part::Payer)?];
    home.make_private()?;
    Ok(locks)
}

/// With what the two addresses are served, out of one budget.
fn policies(address: SocketAddr, config: &Config) -> (Policy, Policy) {
    let budget = Budget::of_process();
    let own = own_policy(address, &config.api.names, budget.clone());
    (own, sold_policy(budget))
}

impl<'a> Building<'a> {
    fn new(home: &'a Home, config: &'a Config, keys: &'a Unlocked) -> Self {
        Self {
            home,
            config,
            keys,
            environment: terms::environment(),
            tasks: Tasks::new(),
            warnings: Vec::new(),
            escrows: Escrows::default(),
        }
    }
}

/// A ticket that this device can use.
fn usable(text: &str) -> Result<Ticket, String> {
    let ticket: Ticket = text
        .parse()
        .map_err(|error: TicketError| error.with_causes().to_string())?;
    let payload = TicketPayload::of(&ticket);
    payload.map_err(|error| error.with_causes().to_string())?;
    Ok(ticket)
}

impl Building<'_> {
    /// Who belongs to this device's household.
    async fn members(&mut self, store: &Store) -> Result<(Members, IsHousehold), UpError> {
        let device = &self.config.device;
        let parts = MembersParts {
            own: hearth_net::device_of_key(&self.keys.endpoint_key(device.index)),
            name: household::shown_name(&device.name),
            account: self.keys.household(),
            store: store.clone(),
            environment: Arc::clone(&self.environment),
        };
        let members = Members::open(parts, &mut self.tasks).await?;
        let known = members.clone();
        Ok((members, Arc::new(move |device| known.is_member(device))))
    }

    /// Lets old receipts go, now and then.
    fn retention<T: Kept + 'static>(&mut self, store: &Store) {
        let store = store.clone();
        let environment = Arc::clone(&self.environment);
        self.tasks.spawn(async move {
            let mut again = tokio::time::interval(retention::PRUNE_EVERY);
            loop {
                again.tick().await;
                let now = Timestamp(environment.now_ms());
                if let Err(error) = retention::prune::<T>(&store, now).await {
                    warn!(error = %error.with_causes(), "old receipts could not be let go");
                }
            }
        });
    }

    /// What is needed to be paid; nothing where no chain is configured.
    fn till(&mut self, store: Store, chains: ChainAccesses) -> Result<Option<Till>, UpError> {
        self.retention::<StoredSale>(&store);
        if chains.all.is_empty() {
            let warning = "[chains] of config.toml is empty: answers are neither sold nor bought. Name a chain there, or \
                           take the line out to use the network's";
            self.warnings.push(warning.to_owned());
            return Ok(None);
        }
        if !chains.silent.is_empty() {
            let silent: Vec<_> = chains.silent.iter().map(ToString::to_string).collect();
            self.warnings.push(format!(
                "These chains do not answer yet: {}. Until they do, nothing is sold or bought on them. \
                 `hearth chain run` runs one of your own",
                silent.join(", ")
            ));
        }
        let keys = TillKeys {
            account: self.keys.household(),
            session: self.keys.session(self.config.device.index),
        };
        let mut escrows = open_escrows(chains.all, &keys, &store, &mut self.tasks)?;
        for asset in self.config.assets.values() {
            if let Some(worth) = asset.coin_worth {
                escrows.set_coin_worth(asset.id, worth);
            }
        }
        self.escrows = escrows.clone();
        let run = self
            .environment
            .draw_u64()
            .map_err(|_| UpError::Randomness)?;
        let least = hearth_protocol::money::Amount::new(1_000_000);
        let policy = terms::policy(&self.config.provider.claim, least);
        let tasks = &mut self.tasks;
        let till = Till::open(&store, escrows, policy, None, &self.environment, run, tasks);
        Ok(Some(till))
    }

    fn provider(&self, till: Option<&Till>, is_household: &IsHousehold) -> Provider {
        let sales = till.map(|till| Sales {
            desk: till.desk.clone(),
            assets: till
                .escrows
                .accepted(terms::accepted_by_channel(self.config, self.keys)),
        });
        Provider::new(ProviderParts {
            session: self.keys.session(self.config.device.index),
            sales,
            is_household: Arc::clone(is_household),
            environment: Arc::clone(&self.environment),
        })
    }

    async fn network(&mut self, provider: &Provider) -> Result<Network, UpError> {
        let config = &self.config.network;
        let key = self.keys.endpoint_key(self.config.device.index);
        let mut options = NetworkOptions::new(*key, self.home.blobs_folder());
        options.environment = Arc::clone(&self.environment);
        options.reach = match config.reach {
            ReachConfig::Loopback => Reach::Loopback,
            ReachConfig::Local => Reach::Local,
            ReachConfig::World => Reach::World,
        };
        options.bind = config.listen.clone();
        options.relays = config.relays.clone();
        options.dht = config.dht && config.reach == ReachConfig::World;
        options.map_ports = config.reach == ReachConfig::World;
        options.peers_file = Some(self.home.peers_path());
        options.ports_file = Some(self.home.ports_path());
        options.upload_bytes_per_s = config.upload_bytes_per_s;
        let (network, mut incoming) = Network::open(options).await?;
        let provider = provider.clone();
        self.share(&network, &provider);
        self.tasks.spawn(async move {
            let mut conversations = JoinSet::new();
            while let Some(question) = incoming.next().await {
                while conversations.try_join_next().is_some() {}
                let Some(place) = provider.place(&question) else {
                    question.stream.end(hearth_net::EndReason::Busy);
                    continue;
                };
                let provider = provider.clone();
                conversations.spawn(async move {
                    provider.answer(question).await;
                    drop(place);
                });
            }
            "the network"
        });
        Ok(network)
    }

    /// Gives the files of models that are served to whoever asks for them by their hash.
    fn share(&self, network: &Network, provider: &Provider) {
        for served in provider.served() {
            let network = network.clone();
            // Not one of the node's parts: it ends when the file is read.
            tokio::spawn(async move {
                let weights = served.serving.weights;
                if let Err(error) = network.share(&served.path, Some(weights)).await {
                    warn!(model = served.name, error = %error.with_causes(), "the model's file is not shared");
                }
            });
        }
    }

    fn payer(
        &mut self,
        provider: &Provider,
        network: &Network,
        readers: Readers,
        is_household: IsHousehold,
        options: &UpOptions,
    ) -> Result<Payer, UpError> {
        let store = Store::open(&self.home.store_path(Part::Payer), &*self.environment)?;
        self.retention::<StoredPurchase>(&store);
        let keys = PayerKeys {
            household: self.keys.household(),
            session: self.keys.session(self.config.device.index),
        };
        let spending = terms::spending(self.config);
        let client = hearth_payments::http::client()?;
        let environment = Arc::clone(&self.environment);
        let purse = Purse::new(
            keys,
            spending.clone(),
            store.clone(),
            self.escrows.clone(),
            client,
            Arc::clone(&environment),
        )?;
        let mut pinned = self.pinned(&options.launcher)?;
        pinned.extend(self.config.names.clone());
        let usual = Patience::default();
        Ok(Payer::new(PayerParts {
            provider: provider.clone(),
            network: Some(network.clone()),
            purse: Some(purse),
            readers,
            config: self.config.clone(),
            spending,
            pinned,
            is_household,
            heads_folder: self.home.heads_folder(),
            store,
            patience: Patience {
                stall_ms: options.stall_ms.unwrap_or(usual.stall_ms),
                window_tokens: options.window_tokens.unwrap_or(usual.window_tokens),
                ..usual
            },
            environment,
        }))
    }

    /// What names of models stand for, as the household's catalogue says it.
    fn pinned(&self, launcher: &Launcher) -> Result<BTreeMap<String, ContentHash>, UpError> {
        let models = Models::open(self.home, launcher.clone());
        let models = models.map_err(|error| UpError::File {
            name: self.home.root().display().to_string(),
            reason: error.with_causes().to_string(),
        })?;
        Ok(models.pinned())
    }

    /// Keeps the market in step with the offers that the network brings.
    fn market(&mut self, network: &Network, payer: &Payer) {
        let mut changes = network.offer_changes();
        let (network, payer) = (network.clone(), payer.clone());
        let environment = Arc::clone(&self.environment);
        self.tasks.spawn(async move {
            let now = || Timestamp(environment.now_ms());
            let take = |offer: &Offer| {
                if let Err(error) = payer.market().observe(now(), offer.clone()) {
                    info!(device = %offer.device, error = %error.with_causes(), "an offer is not taken");
                }
            };
            network.offers().iter().for_each(|one| take(&one.offer));
            let mut expire = tokio::time::interval(EXPIRE_EVERY);
            loop {
                tokio::select! {
                    change = changes.next() => match change {
                        Some(OfferChange::Added(one) | OfferChange::Replaced(one)) => take(&one.offer),
                        Some(OfferChange::Withdrawn(device) | OfferChange::Expired(device)) => {
                            payer.market().withdraw(&device);
                        }
                        Some(_) => network.offers().iter().for_each(|one| take(&one.offer)),
                        None => return "the network's offers",
                    },
                    _ = expire.tick() => payer.market().expire(now()),
                }
            }
        });
    }

    /// Offers what is served, as far as the owner's limits allow.
    async fn offering(&mut self, network: &Network, provider: &Provider) -> Result<(), UpError> {
        self.sharing(provider).await?;
        self.offers(network, provider);
        Ok(())
    }

    /// Publishes what is offered, as it changes.
    fn offers(&mut self, network: &Network, provider: &Provider) {
        let (network, provider) = (network.clone(), provider.clone());
        let environment = Arc::clone(&self.environment);
        let offer = Offer {
            device: network.device(),
            household: self.keys.address(),
            session_key: self.keys.session(self.config.device.index).address(),
            withdraw_delay_s: self.config.provider.withdraw_delay_s,
            issued_at: Timestamp::default(),
            expires_at: Timestamp::default(),
            models: Vec::new(),
        };
        self.tasks.spawn(async move {
            let mut again = tokio::time::interval(OFFER_EVERY);
            loop {
                again.tick().await;
                let now = Timestamp(environment.now_ms());
                let models = provider.offered();
                let published = if models.is_empty() {
                    network.withdraw()
                } else {
                    network.publish(Offer {
                        issued_at: now,
                        expires_at: now.plus_ms(OFFER_TTL_MS),
                        models,
                        ..offer.clone()
                    })
                };
                if let Err(error) = published {
                    warn!(error = %error.with_causes(), "what this device offers could not be published");
                }
            }
        });
    }

    /// Where the household's programs ask, and what keeps the budgets of their keys.
    fn surface(&mut self, payer: &Payer) -> Result<(Arc<Surface>, Ledger), UpError> {
        let answerer: Arc<dyn Answerer> = Arc::new(payer.clone());
        let surface = Surface::new(answerer, Arc::clone(&self.environment));
        let assets = self.config.assets.iter();
        surface
            .name_tokens(assets.map(|(symbol, asset)| (asset.id, symbol.clone(), asset.decimals)));
        self.api_keys(&surface);
        let ledger = Ledger::open(payer.store().clone(), Arc::clone(&surface))?;
        Ok((surface, ledger))
    }

    /// Who is let in without a key, and from where.
    fn door(&self, address: SocketAddr) -> Door {
        let api = &self.config.api;
        let keyless = api.keyless.then(|| ApiKey {
            tier: api.keyless_tier,
            answers_at_once: api.at_once,
            ..ApiKey::new(KEYLESS, "")
        });
        Door::new(address, keyless)
    }

    /// Lets in whoever holds a key of the data folder.
    fn api_keys(&mut self, surface: &Surface) {
        let own = Keys::open(self.home).and_then(|own| own.table(self.config));
        match own {
            Ok(table) => surface.set_keys(table),
            Err(error) => self.warnings.push(format!(
                "No API key is known: {}. {}",
                error.with_causes(),
                error.next_step()
            )),
        }
    }

    /// Meets the household's devices, and joins the networks and households of tickets; a device that does not answer is asked again by
    /// the network.
    fn join(&mut self, network: &Network, members: &Members, tickets: &[String]) {
        members.attach(network, &mut self.tasks);
        for text in tickets {
            match usable(text) {
                Err(error) => self.warnings.push(format!("A ticket is left out: {error}")),
                Ok(ticket) => {
                    let (network, members) = (network.clone(), members.clone());
                    // Not one of the node's parts: it ends when it is done.
                    tokio::spawn(async move {
                        if let Err(error) = household::join(&network, &members, &ticket).await {
                            warn!(error = %error.with_causes(), next = error.next_step(), "a ticket was of no use");
                        }
                    });
                }
            }
        }
        household::join_pending(self.home, network, members);
    }

    async fn serve(
        &mut self,
        provider: &Provider,
        readers: &Readers,
        options: &UpOptions,
    ) -> Result<Vec<ServedModel>, UpError> {
        serving::serve(self, provider, readers, options).await
    }
}
