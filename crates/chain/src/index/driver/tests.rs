//! The index against an endpoint that misbehaves, and a disk that stops.

use alloy_primitives::{B256, address};
use hearth_protocol::id::ChainId;
use redb::{Builder, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};
use serde_json::Value;

use super::*;
use crate::{
    client::HttpOptions,
    fault::{FaultyBackend, Unsynced},
    index::{IndexEvent, LogFilter},
    scripted::{HostileServer, Reply, ScriptedChain, TestEnvironment, log},
};

const CHAIN: ChainId = ChainId(31_337);
const FOLLOWED: Address = address!("0x00000000000000000000000000000000000000f1");
const OTHER: Address = address!("0x00000000000000000000000000000000000000f2");

/// What the consumer has: how often each event stands applied. Anything but once is an error.
const APPLIED: TableDefinition<'_, &[u8], i64> = TableDefinition::new("applied");

struct Counter;

impl IndexConsumer for Counter {
    fn apply(
        &mut self,
        transaction: &WriteTransaction,
        event: &IndexEvent<'_>,
    ) -> Result<(), Box<redb::Error>> {
        let count = |log: &IndexedLog, by: i64| -> Result<(), redb::Error> {
            let mut table = transaction.open_table(APPLIED)?;
            let key = log.block_hash.as_slice();
            let count = table.get(key)?.map_or(0, |value| value.value()) + by;
            table.insert(key, count)?;
            Ok(())
        };
        match event {
            IndexEvent::Applied(log) => count(log, 1)?,
            IndexEvent::RolledBack { undone, .. } => {
                for log in *undone {
                    count(log, -1)?;
                }
            }
            IndexEvent::Head(_) => {}
        }
        Ok(())
    }
}

struct Scene {
    server: HostileServer,
    backend: FaultyBackend,
    database: Option<Arc<Database>>,
}

fn config() -> IndexConfig {
    let filters = vec![LogFilter {
        address: FOLLOWED,
        events: Default::default(),
    }];
    IndexConfig {
        filters,
        keep_blocks: 6,
        max_range: 7,
        ..IndexConfig::default()
    }
}

impl Scene {
    async fn new() -> Self {
        let server = HostileServer::start(ScriptedChain::new(CHAIN.0)).await;
        let backend = FaultyBackend::new();
        // The file exists before anything stops: making it is redb's own business.
        drop(Builder::new().create_with_backend(backend.clone()).unwrap());
        Self {
            server,
            backend,
            database: None,
        }
    }

    /// Adds blocks with one event of ours and one of somebody else's in each.
    fn grow(&self, blocks: u64) {
        for _ in 0..blocks {
            let events: Vec<Value> = [FOLLOWED, OTHER]
                .iter()
                .map(|from| log(*from, &[B256::repeat_byte(1)], b"x"))
                .collect();
            self.server.chain.mine(events);
        }
    }

    fn open(&mut self) -> Result<EventIndex, IndexError> {
        let environment = Arc::new(TestEnvironment::default());
        let url = self.server.url.clone();
        let client =
            ChainClient::http_in(vec![url], CHAIN, HttpOptions::default(), environment).unwrap();
        self.database = None;
        let database = Builder::new()
            .create_with_backend(self.backend.clone())
            .map_err(|error| IndexStoreError::from(redb::Error::from(error)))?;
        let database = Arc::new(database);
        self.database = Some(Arc::clone(&database));
        Ok(EventIndex::open(
            client,
            database,
            config(),
            Box::new(Counter),
        )?)
    }

    /// The blocks whose event stands applied, and that each stands once.
    fn applied(&self) -> Vec<B256> {
        let transaction = self.database.as_ref().unwrap().begin_read().unwrap();
        let Ok(table) = transaction.open_table(APPLIED) else {
            return Vec::new();
        };
        let mut blocks = Vec::new();
        for row in table.range::<&[u8]>(..).unwrap() {
            let (block, count) = row.unwrap();
            assert!(
                (0..=1).contains(&count.value()),
                "an event stands {} times",
                count.value()
            );
            if count.value() == 1 {
                blocks.push(B256::from_slice(block.value()));
            }
        }
        blocks.sort();
        blocks
    }

    /// The blocks of the chain that have an event of ours.
    fn expected(&self) -> Vec<B256> {
        let mut blocks = self.server.chain.blocks_with_logs();
        blocks.sort();
        blocks
    }
}

/// Steps until the index has read everything; faults may make it wait in between.
async fn catch_up(index: &mut EventIndex, scene: &Scene) -> Result<(), IndexError> {
    const STEPS: usize = 500;
    for _ in 0..STEPS {
        let pace = index.advance().await?;
        let (_, head) = scene.server.chain.head();
        if pace == Pace::Wait && index.machine.tip().map(|tip| tip.hash) == Some(head) {
            return Ok(());
        }
    }
    panic!("{STEPS} steps were not enough to reach the head");
}

#[tokio::test]
async fn events_are_applied_once_and_undone_when_their_branch_ends() {
    let mut scene = Scene::new().await;
    scene.server.chain.set_max_log_blocks(3);
    scene.grow(30);
    let mut index = scene.open().unwrap();
    catch_up(&mut index, &scene).await.unwrap();
    assert_eq!(scene.applied().len(), 30);
    assert_eq!(scene.applied(), scene.expected());

    scene.server.chain.reorganise(4, false);
    scene.grow(3);
    catch_up(&mut index, &scene).await.unwrap();
    assert_eq!(scene.applied().len(), 29);
    assert_eq!(scene.applied(), scene.expected());

    drop(index);
    let mut index = scene.open().unwrap();
    scene.server.chain.reorganise(2, false);
    catch_up(&mut index, &scene).await.unwrap();
    assert_eq!(scene.applied(), scene.expected());
}

#[tokio::test]
async fn every_kind_of_misbehaviour_at_every_question_changes_nothing_in_the_end() {
    for reply in [
        Reply::Status(429, Some(2)),
        Reply::Status(502, None),
        Reply::Garbage,
        Reply::Endless,
        Reply::Truncated,
        Reply::Result(Value::Null),
        Reply::Error(-32000, "unknown block"),
        Reply::Error(-32005, "query returned more than 10000 results"),
    ] {
        let mut scene = Scene::new().await;
        scene.grow(20);
        for question in [
            "eth_getBlockByNumber",
            "eth_getLogs",
            "eth_getBlockByNumber",
            "eth_getLogs",
            "eth_chainId",
        ] {
            scene.server.then(question, reply.clone());
        }
        let mut index = scene.open().unwrap();
        catch_up(&mut index, &scene)
            .await
            .unwrap_or_else(|error| panic!("{reply:?}: {error}"));
        assert_eq!(scene.applied(), scene.expected(), "{reply:?}");
    }
}

#[tokio::test]
async fn an_endpoint_that_falls_behind_undoes_nothing() {
    let mut scene = Scene::new().await;
    scene.grow(12);
    let mut index = scene.open().unwrap();
    catch_up(&mut index, &scene).await.unwrap();
    let before = scene.applied();
    scene.server.chain.set_stale_by(4);
    assert_eq!(index.advance().await.unwrap(), Pace::Wait);
    assert_eq!(scene.applied(), before);
}

#[tokio::test]
async fn a_wrong_chain_ends_the_index_and_says_why() {
    let mut scene = Scene::new().await;
    scene.grow(3);
    scene.server.chain.set_chain_id(1);
    let mut index = scene.open().unwrap();
    let error = index.advance().await.unwrap_err();
    assert!(
        matches!(&error, IndexError::Chain(ChainError::WrongChain { .. })),
        "{error}"
    );
    assert!(scene.applied().is_empty());
}

#[tokio::test]
async fn an_index_built_for_something_else_is_not_continued() {
    let mut scene = Scene::new().await;
    drop(scene.open().unwrap());
    let other = IndexConfig {
        start_block: 7,
        ..config()
    };
    let error = IndexStore::open(scene.database.clone().unwrap(), CHAIN.0, &other).unwrap_err();
    assert!(matches!(error, IndexStoreError::FollowsOther), "{error}");
    IndexStore::open(scene.database.clone().unwrap(), 5, &other)
        .expect("another chain is another index");
}

/// The same history each time: grow, read, reorganise, read. Stops where the disk does.
async fn live(scene: &mut Scene) -> Result<(), IndexError> {
    let mut index = scene.open()?;
    catch_up(&mut index, scene).await?;
    if scene.server.chain.head().0 < 20 {
        scene.server.chain.reorganise(3, false);
        scene.grow(5);
    }
    catch_up(&mut index, scene).await
}

#[tokio::test]
async fn a_stop_at_every_write_applies_nothing_twice_and_loses_nothing() {
    let mut unharmed = Scene::new().await;
    let made = unharmed.backend.operations();
    unharmed.grow(14);
    live(&mut unharmed).await.unwrap();
    assert_eq!(unharmed.applied(), unharmed.expected());
    let operations = unharmed.backend.operations();
    assert!(operations > made + 20, "{made} to {operations}");

    for stop in made + 1..=operations {
        let unsynced = match stop % 3 {
            0 => Unsynced::Lost,
            1 => Unsynced::Kept,
            _ => Unsynced::Torn(stop),
        };
        let mut scene = Scene::new().await;
        scene.grow(14);
        scene.backend.stop_at(stop);
        assert!(
            live(&mut scene).await.is_err(),
            "stop {stop} of {operations}"
        );
        scene.database = None;
        scene.backend = scene.backend.survivor(unsynced);
        live(&mut scene)
            .await
            .unwrap_or_else(|error| panic!("stop {stop}, {unsynced:?}: {error}"));
        assert_eq!(
            scene.applied(),
            scene.expected(),
            "stop {stop}, {unsynced:?}"
        );
    }
}
