//! A chain, providers with a real model, and a payer: all in this process, over real iroh streams on
//! loopback.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use alloy_primitives::{Address, B256, U256};
use alloy_signer_local::PrivateKeySigner;
use futures::StreamExt;
use hearth_chain::client::ChainClient;
use hearth_chain::embedded::{Embedded, EmbeddedConfig, Genesis, Mining, TEST_DOLLAR_ADDRESS};
use hearth_chain::sender::SenderConfig;
use hearth_environment::{Environment, SystemEnvironment};
use hearth_models::engine::{Engine, EngineOptions};
use hearth_models::generator::{Generator, Script};
use hearth_net::{Network, NetworkOptions};
use hearth_node::home::Home;
use hearth_node::reader::Launcher;
use hearth_node::roles::payer::{Payer, PayerParts, Readers};
use hearth_node::roles::provider::{Provider, ProviderParts, Sales};
use hearth_node::roles::served::{Pace, Served, Speed, serving};
use hearth_payments::offer::AcceptedAsset;
use hearth_payments::purse::{PayerKeys, Purse};
use hearth_payments::store::Store;
use hearth_payments::till::{ChainAccess, Tasks, Till, TillKeys, open_escrows};
use hearth_protocol::answer::payer::Patience;
use hearth_protocol::answer::{Price, Sampling};
use hearth_protocol::claim::ClaimPolicy;
use hearth_protocol::content::ContentHash;
use hearth_protocol::id::{AssetId, ChainId};
use hearth_protocol::money::Amount;
use hearth_protocol::offer::{Audience, DeviceId, Offer};
use hearth_protocol::spending::{AssetLimit, Spending};
use hearth_protocol::time::Timestamp;
use hearth_surface::answers::{
    Answerer, Ending, Input, Message, Part, Promises, Question, Speaker, Tier, Usage,
};
use tempfile::TempDir;

use crate::vocabulary;

const CHAIN: u64 = hearth_chain::embedded::DEFAULT_CHAIN_ID;
/// How long anything may take.
pub(crate) const LONG: Duration = Duration::from_secs(120);
pub(crate) const MODEL: &str = "smollm2-135m-instruct";

pub(crate) fn asset() -> AssetId {
    AssetId {
        chain: ChainId(CHAIN),
        token: TEST_DOLLAR_ADDRESS,
    }
}

pub(crate) fn price() -> Price {
    Price {
        asset: asset(),
        per_million_prompt: Amount::new(1_000_000),
        per_million_output: Amount::new(3_000_000),
        floor: Amount::new(5),
    }
}

pub(crate) fn key(byte: u8) -> PrivateKeySigner {
    PrivateKeySigner::from_bytes(&B256::repeat_byte(byte)).unwrap()
}

/// Test Dollars by channel.
fn accepted(receiver: Address, receiver_authorizer: Address) -> AcceptedAsset {
    AcceptedAsset {
        asset: asset(),
        name: "Test Dollar (worthless)".to_owned(),
        version: "1".to_owned(),
        receiver,
        receiver_authorizer,
        withdraw_delay: 86_400,
        deposit_ceilings: 10,
        batch: true,
        exact: false,
    }
}

/// What a payer may spend.
fn spending() -> Spending {
    let limit = AssetLimit::new(
        Amount::new(100_000),
        Amount::new(1_000_000),
        Amount::new(10_000_000),
    );
    Spending([(asset(), limit)].into())
}

fn model_file() -> PathBuf {
    let path = std::env::var_os("HEARTH_TEST_MODEL");
    path.expect("HEARTH_TEST_MODEL names the test model's file")
        .into()
}

/// The chain that everybody shares.
pub(crate) struct World {
    folder: TempDir,
    /// The model's file, or a vocabulary where a script stands for the model.
    model: PathBuf,
    is_scripted: bool,
    _chain: Embedded,
    client: ChainClient,
    environment: Arc<dyn Environment>,
    /// What keeps the payers' ways to the chain open.
    tasks: Mutex<Tasks>,
}

/// A device that serves the model.
pub(crate) struct Shop {
    pub(crate) till: Till,
    pub(crate) provider: Provider,
    pub(crate) network: Network,
    household: PrivateKeySigner,
    session: PrivateKeySigner,
    tasks: Tasks,
}

impl World {
    /// A world in which the model answers.
    pub(crate) async fn start() -> Self {
        Self::start_mining(Mining::OnDemand).await
    }

    /// A world in which a script stands for the model.
    pub(crate) async fn scripted() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let model = vocabulary::write(folder.path());
        Self {
            is_scripted: true,
            ..Self::around(folder, model, Mining::OnDemand).await
        }
    }

    pub(crate) async fn start_mining(mining: Mining) -> Self {
        Self::around(tempfile::tempdir().unwrap(), model_file(), mining).await
    }

    async fn around(folder: TempDir, model: PathBuf, mining: Mining) -> Self {
        let household = key(1).address();
        let genesis = Genesis::standard(household)
            .with_test_dollars(household, U256::from(1_000_000_000_u64));
        let config = EmbeddedConfig {
            mining,
            ..EmbeddedConfig::new(genesis)
        };
        let chain = Embedded::in_memory(config).unwrap();
        let client = ChainClient::from_transport(chain.transport(), ChainId(CHAIN));
        client.connect().await.unwrap();
        Self {
            folder,
            model,
            is_scripted: false,
            _chain: chain,
            client,
            environment: Arc::new(SystemEnvironment),
            tasks: Mutex::default(),
        }
    }

    /// What a device serves, for its prices.
    fn served(&self, prices: Vec<Price>) -> Served {
        let (generator, prompts): (Arc<dyn Generator>, _) = if self.is_scripted {
            (Arc::new(Script::new(2_048)), None)
        } else {
            let engine = engine(&self.model);
            let prompts = engine.prompts().clone();
            (Arc::new(engine), Some(prompts))
        };
        let weights = ContentHash::of(MODEL.as_bytes());
        Served {
            name: MODEL.to_owned(),
            serving: serving(generator.description(), weights, ContentHash::default()),
            generator,
            prompts,
            path: self.model.clone(),
            weights_bytes: 98_362_432,
            head_bytes: 2_000_000,
            audience: Audience::Everyone,
            prices,
            pace: Pace::new(Speed {
                output_tokens_per_s: 50,
                prompt_tokens_per_s: 200,
            }),
        }
    }

    pub(crate) fn store(&self, name: &str) -> Store {
        Store::open(&self.folder.path().join(name), &SystemEnvironment).unwrap()
    }

    pub(crate) async fn balance(&self, of: &Shop) -> Amount {
        self.holds(of.household.address()).await
    }

    /// What the household has that pays.
    pub(crate) async fn purse_holds(&self) -> Amount {
        self.holds(key(1).address()).await
    }

    async fn holds(&self, account: Address) -> Amount {
        let units = self.client.balance_of(TEST_DOLLAR_ADDRESS, account).await;
        Amount::new(units.unwrap().to())
    }

    pub(crate) async fn network(&self, number: u8) -> (Network, hearth_net::IncomingAnswers) {
        let folder = self.folder.path().join(format!("blobs {number}"));
        let options = NetworkOptions::loopback([number; 32], folder);
        Network::open(options).await.unwrap()
    }

    /// A provider, known by a number, that takes `prices`.
    pub(crate) async fn shop(&self, number: u8, prices: Vec<Price>) -> Shop {
        let (household, session) = (key(number), key(number + 100));
        let mut tasks = Tasks::new();
        let store = self.store(&format!("provider {number}"));
        let keys = TillKeys {
            account: household.clone(),
            session: session.clone(),
        };
        let escrows = open_escrows(self.access(), &keys, &store, &mut tasks).unwrap();
        let policy = ClaimPolicy {
            gas_price_nano: 0,
            gas_share_ppm: 10_000,
            age_ms_max: 3_600_000,
            amount_min: Amount::new(1_000_000_000),
            withdrawal_margin_s: 900,
        };
        let till = Till::open(
            &store,
            escrows,
            policy,
            None,
            &self.environment,
            1,
            &mut tasks,
        );
        let provider = Provider::new(ProviderParts {
            session: session.clone(),
            sales: Some(Sales {
                desk: till.desk.clone(),
                assets: vec![accepted(household.address(), session.address())],
            }),
            is_household: Arc::new(|_| false),
            environment: Arc::clone(&self.environment),
        });
        provider.serve(self.served(prices));
        let (network, mut incoming) = self.network(number).await;
        let answering = provider.clone();
        tasks.spawn(async move {
            let mut conversations = tokio::task::JoinSet::new();
            while let Some(question) = incoming.next().await {
                let provider = answering.clone();
                conversations.spawn(async move { provider.answer(question).await });
            }
            "the provider"
        });
        Shop {
            till,
            provider,
            network,
            household,
            session,
            tasks,
        }
    }

    /// A payer that knows the offers of `shops`, and has no model running.
    pub(crate) async fn payer(&self, shops: &[&Shop], window_tokens: u32) -> Payer {
        self.payer_named("payer", shops, window_tokens).await
    }

    /// The same, with books of its own.
    pub(crate) async fn payer_named(
        &self,
        name: &str,
        shops: &[&Shop],
        window_tokens: u32,
    ) -> Payer {
        let sellers: Vec<_> = shops
            .iter()
            .map(|shop| (&shop.network, self.offer(shop)))
            .collect();
        self.payer_of(name, &sellers, window_tokens).await
    }

    /// The same, that knows the devices and offers of whoever sells.
    pub(crate) async fn payer_of(
        &self,
        name: &str,
        sellers: &[(&Network, Offer)],
        window_tokens: u32,
    ) -> Payer {
        let spending = spending();
        let store = self.store(name);
        let purse = self.purse(&store);
        let number = name.bytes().fold(200, u8::wrapping_add);
        let (network, _) = self.network(number).await;
        let provider = Provider::new(ProviderParts {
            session: key(101),
            sales: None,
            is_household: Arc::new(|_| false),
            environment: Arc::clone(&self.environment),
        });
        let home = Home::open(&self.folder.path().join(format!("home {name}"))).unwrap();
        let text = std::fs::read_to_string(home.config_path()).unwrap();
        let chain = "[chains.\"eip155:402402\"]\nname = \"embedded\"\nrpc = [\"http://127.0.0.1:1\"]\nconfirmations = 1\n";
        let text = text.replacen("\"erc20:", "\"eip155:402402/erc20:", 1);
        std::fs::write(home.config_path(), format!("{text}\n{chain}")).unwrap();
        let weights = ContentHash::of(MODEL.as_bytes());
        let payer = Payer::new(PayerParts {
            provider,
            network: Some(network.clone()),
            purse: Some(purse),
            readers: Readers::new(
                vec![hearth_node::roles::payer::ModelFile {
                    name: MODEL.to_owned(),
                    weights,
                    path: self.model.clone(),
                }],
                launcher(),
            ),
            config: home.config().unwrap(),
            spending,
            pinned: BTreeMap::new(),
            is_household: Arc::new(|_| false),
            heads_folder: self.folder.path().join("heads"),
            store,
            patience: Patience {
                window_tokens,
                ..Patience::default()
            },
            environment: Arc::clone(&self.environment),
        });
        for (seller, offer) in sellers {
            network.join(&seller.ticket(Vec::new())).await.unwrap();
            payer.market().observe(self.now(), offer.clone()).unwrap();
        }
        payer
    }

    fn access(&self) -> Vec<ChainAccess> {
        let sender = SenderConfig {
            confirmations: 1,
            poll_interval_ms: 5,
            ..Default::default()
        };
        let client = self.client.clone();
        vec![ChainAccess { client, sender }]
    }

    /// A purse of the household that has money, with books in `store`.
    pub(crate) fn purse(&self, store: &Store) -> Purse {
        let till_keys = TillKeys {
            account: key(1),
            session: key(101),
        };
        let keys = PayerKeys {
            household: key(1),
            session: key(101),
        };
        let client = hearth_payments::http::client().unwrap();
        let environment = Arc::clone(&self.environment);
        let mut tasks = self.tasks.lock().unwrap();
        let escrows = open_escrows(self.access(), &till_keys, store, &mut tasks).unwrap();
        Purse::new(
            keys,
            spending(),
            store.clone(),
            escrows,
            client,
            environment,
        )
        .unwrap()
    }

    pub(crate) fn now(&self) -> Timestamp {
        Timestamp(self.environment.now_ms())
    }

    pub(crate) fn offer(&self, shop: &Shop) -> Offer {
        Offer {
            device: shop.network.device(),
            household: shop.household.address(),
            session_key: shop.session.address(),
            withdraw_delay_s: 86_400,
            issued_at: self.now(),
            expires_at: self.now().plus_ms(60_000),
            models: shop.provider.offered(),
        }
    }
}

impl Shop {
    pub(crate) fn device(&self) -> DeviceId {
        self.network.device()
    }

    /// Ends the device as a power cut would: nothing is said to anyone.
    pub(crate) fn vanish(mut self) -> (Till, PrivateKeySigner) {
        self.tasks.abort_all();
        (self.till, self.household)
    }
}

/// This test program, as a reader. With one thread, or it says after a minute that a test is slow.
pub(crate) fn launcher() -> Launcher {
    let arguments = [
        "--exact",
        "serves_as_a_reader",
        "--nocapture",
        "--test-threads=1",
    ];
    Launcher::this_program(arguments).unwrap()
}

/// The model, run by an engine of its own on one thread.
fn engine(path: &Path) -> Engine {
    let options = EngineOptions {
        threads: 1,
        context_tokens: 2_048,
        ..EngineOptions::default()
    };
    Engine::load(path, options, &launcher()).unwrap()
}

pub(crate) fn question(text: &str, output_tokens: u32) -> Question {
    Question {
        model: MODEL.to_owned(),
        input: Input::Chat {
            messages: vec![Message::said(Speaker::User, text.to_owned())],
            tools: Vec::new(),
        },
        sampling: Sampling {
            // The end of the text is made impossible, so that answers have the length asked for.
            logit_bias_millionths: vec![(0, -100_000_000), (2, -100_000_000)],
            ..Sampling::default()
        },
        grammar: None,
        output_tokens_max: Some(output_tokens),
        stops: Vec::new(),
        seed: Some(7),
        logprobs: None,
        tier: Tier::Network,
        ceilings: Vec::new(),
        promised: Promises::default(),
        asked_by: "test".to_owned(),
    }
}

/// What came of a question.
#[derive(Debug)]
pub(crate) struct Heard {
    pub(crate) text: String,
    pub(crate) sources: Vec<String>,
    pub(crate) stop: Ending,
    pub(crate) usage: Usage,
    pub(crate) answer: hearth_protocol::answer::AnswerId,
}

/// Asks and listens to the end; `after` is called with the number of tokens that came so far.
pub(crate) async fn ask(payer: &Payer, question: Question, mut after: impl FnMut(u32)) -> Heard {
    let heard = async {
        let mut answer = payer.ask(question).await.unwrap();
        let (mut text, mut sources, mut tokens) = (String::new(), Vec::new(), 0);
        while let Some(part) = answer.parts.next().await {
            match part {
                Part::Source(source) => sources.push(format!("{source:?}")),
                Part::Read { .. } => {}
                Part::Text {
                    text: more,
                    tokens: count,
                    ..
                } => {
                    text.push_str(&more);
                    tokens += count;
                    after(tokens);
                }
                Part::Ended { stop, usage } => {
                    let answer = answer.id;
                    return Heard {
                        text,
                        sources,
                        stop,
                        usage,
                        answer,
                    };
                }
            }
        }
        panic!("the answer has no end");
    };
    tokio::time::timeout(LONG, heard)
        .await
        .expect("the answer ends in time")
}

/// What each provider charged by its last receipt.
pub(crate) fn charges(payer: &Payer, heard: &Heard) -> BTreeMap<DeviceId, Amount> {
    let purchases = payer.purchases(heard.answer).unwrap();
    let charge =
        |one: &hearth_node::roles::payer::StoredPurchase| (one.device, one.receipt.receipt.charge);
    purchases.iter().map(charge).collect()
}
