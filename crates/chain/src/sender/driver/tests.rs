//! The sender against an endpoint that misbehaves, and a disk that stops.

use alloy_primitives::{Address, Bytes, U256};
use alloy_signer_local::PrivateKeySigner;
use hearth_protocol::id::ChainId;
use redb::Builder;
use tokio::task::JoinHandle;

use super::*;
use crate::{
    client::HttpOptions,
    fault::{FaultyBackend, Unsynced},
    scripted::{HostileServer, Reply, ScriptedChain, TestEnvironment},
    sender::{RedbJournal, Sender},
};

const CHAIN_ID: u64 = 31_337;
const STEP_MS: u64 = 1_000;
const STEPS: usize = 400;

struct Scene {
    server: HostileServer,
    environment: Arc<TestEnvironment>,
    signer: PrivateKeySigner,
    backend: FaultyBackend,
}

/// A running sender, as one process would have it.
struct Process {
    sender: Sender,
    task: JoinHandle<Result<(), SenderStopped>>,
}

impl Drop for Process {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Scene {
    async fn new() -> Self {
        Self {
            server: HostileServer::start(ScriptedChain::new(CHAIN_ID)).await,
            environment: Arc::new(TestEnvironment::stepped()),
            signer: PrivateKeySigner::from_bytes(&B256::repeat_byte(0x11)).unwrap(),
            backend: FaultyBackend::new(),
        }
    }

    fn chain(&self) -> &ScriptedChain {
        &self.server.chain
    }

    fn config() -> SenderConfig {
        SenderConfig {
            confirmations: 2,
            ..SenderConfig::default()
        }
    }

    fn start(&self) -> Process {
        let environment = Arc::<TestEnvironment>::clone(&self.environment);
        let url = self.server.url.clone();
        let client = ChainClient::http_in(
            vec![url],
            ChainId(CHAIN_ID),
            HttpOptions::default(),
            environment,
        )
        .unwrap();
        let database = Builder::new()
            .create_with_backend(self.backend.clone())
            .unwrap();
        let journal = Arc::new(RedbJournal::new(Arc::new(database)).unwrap());
        let (sender, task) = Sender::new(
            client,
            Arc::new(self.signer.clone()),
            journal,
            Self::config(),
        )
        .unwrap();
        let environment = Arc::clone(&self.environment);
        let task = tokio::spawn(async move {
            let outcome = task.run().await;
            environment.ended();
            outcome
        });
        Process { sender, task }
    }

    /// The file as a new process finds it after the old one was killed.
    fn kill(&mut self, process: Process, unsynced: Unsynced) {
        drop(process);
        self.backend = self.backend.survivor(unsynced);
    }

    /// Lets time pass until `done`, with a block every other step.
    async fn mine_until(&self, what: &str, mut done: impl FnMut() -> bool) {
        let mut step = 0;
        self.environment
            .step_until(what, STEP_MS, STEPS, || {
                step += 1;
                if step % 2 == 0 {
                    self.chain().mine(Vec::new());
                }
                done()
            })
            .await;
    }

    /// Transactions of `account` in the chain that go to `to`.
    fn done(&self, to: Address) -> usize {
        self.chain()
            .mined()
            .iter()
            .filter(|tx| tx.to == Some(to))
            .count()
    }
}

impl Process {
    fn submit(&self, name: &str, to: Address) -> JoinHandle<Result<Receipt, SendError>> {
        let (sender, id) = (self.sender.clone(), IntentId::new(name).unwrap());
        let intent = TxIntent {
            to,
            data: Bytes::from_static(b"call"),
            value: U256::ZERO,
            gas_cap: 100_000,
            deadline_ms: u64::MAX,
        };
        tokio::spawn(async move { sender.submit(id, intent).await })
    }
}

const TARGET: Address = Address::repeat_byte(0x77);

#[tokio::test]
async fn an_intent_is_done_and_the_same_name_is_answered_with_the_same_transaction() {
    let mut scene = Scene::new().await;
    let process = scene.start();
    let first = process.submit("claim-1", TARGET);
    scene
        .mine_until("the claim is final", || first.is_finished())
        .await;
    let receipt = first.await.unwrap().unwrap();
    assert!(receipt.success);

    let again = process.submit("claim-1", TARGET).await.unwrap().unwrap();
    assert_eq!(again, receipt);
    let other = process.submit("claim-1", Address::ZERO).await.unwrap();
    assert!(matches!(other, Err(SendError::NameTaken(_))), "{other:?}");

    scene.kill(process, Unsynced::Lost);
    let process = scene.start();
    assert_eq!(
        process.submit("claim-1", TARGET).await.unwrap().unwrap(),
        receipt
    );
    process
        .sender
        .forget(IntentId::new("claim-1").unwrap())
        .await
        .unwrap();
    assert_eq!(scene.done(TARGET), 1);
}

#[tokio::test]
async fn every_kind_of_misbehaviour_at_every_question_still_ends_in_one_transaction() {
    const QUESTIONS: [&str; 9] = [
        "eth_chainId",
        "eth_getBlockByNumber",
        "eth_getTransactionCount",
        "eth_gasPrice",
        "eth_maxPriorityFeePerGas",
        "eth_estimateGas",
        "eth_sendRawTransaction",
        "eth_getTransactionReceipt",
        "",
    ];
    for reply in [
        Reply::Status(429, Some(3)),
        Reply::Status(503, None),
        Reply::Garbage,
        Reply::Truncated,
        Reply::AnswerLost,
        Reply::Error(-32005, "limit exceeded"),
    ] {
        let scene = Scene::new().await;
        for question in QUESTIONS {
            scene.server.then(question, reply.clone());
        }
        let process = scene.start();
        let submitted = process.submit("claim-1", TARGET);
        scene
            .mine_until(&format!("{reply:?} is overcome"), || {
                submitted.is_finished()
            })
            .await;
        assert!(submitted.await.unwrap().unwrap().success, "{reply:?}");
        assert_eq!(scene.done(TARGET), 1, "{reply:?}");
        assert!(
            scene.server.exhausted(),
            "{reply:?}: every question must have been asked"
        );
    }
}

#[tokio::test]
async fn a_wrong_chain_gets_no_signature() {
    let scene = Scene::new().await;
    scene.chain().set_chain_id(1);
    let process = scene.start();
    let submitted = process.submit("claim-1", TARGET);
    scene
        .mine_until("the refusal", || submitted.is_finished())
        .await;
    let error = submitted.await.unwrap().unwrap_err();
    assert!(error.to_string().contains("eip155:1,"), "{error}");
    assert_eq!(scene.server.calls("eth_sendRawTransaction"), 0);
}

#[tokio::test]
async fn a_reorganised_transaction_goes_back_to_pending_and_is_sent_again() {
    let scene = Scene::new().await;
    let process = scene.start();
    let submitted = process.submit("claim-1", TARGET);
    let in_pool = || !scene.chain().pool().is_empty();
    scene
        .environment
        .step_until("it is in the pool", STEP_MS, STEPS, in_pool)
        .await;
    scene.chain().mine(Vec::new());
    scene.environment.step(STEP_MS).await;
    assert_eq!(scene.done(TARGET), 1);

    scene.chain().reorganise(1, false);
    assert_eq!(scene.done(TARGET), 0);
    scene
        .environment
        .step_until("it is in the pool again", STEP_MS, STEPS, in_pool)
        .await;
    assert!(
        !submitted.is_finished(),
        "what was reorganised away was never final"
    );
    scene
        .mine_until("it is final", || submitted.is_finished())
        .await;
    submitted.await.unwrap().unwrap();
    assert_eq!(scene.done(TARGET), 1);
}

#[tokio::test]
async fn a_forgotten_or_underpriced_transaction_is_offered_again_for_more() {
    let scene = Scene::new().await;
    let process = scene.start();
    let submitted = process.submit("claim-1", TARGET);
    let in_pool = || !scene.chain().pool().is_empty();
    scene
        .environment
        .step_until("it is in the pool", STEP_MS, STEPS, in_pool)
        .await;
    let first = scene.chain().pool()[0].clone();
    scene.chain().drop_pool();
    scene
        .environment
        .step_until("it is offered again", STEP_MS, STEPS, in_pool)
        .await;
    assert_eq!(scene.chain().pool()[0].hash, first.hash);

    scene.chain().set_base_fee(first.max_fee + 1);
    let replaced = || {
        scene
            .chain()
            .pool()
            .iter()
            .any(|tx| tx.max_fee > first.max_fee)
    };
    scene
        .environment
        .step_until("it is replaced", STEP_MS, STEPS, replaced)
        .await;
    assert_eq!(scene.chain().pool().len(), 1);
    assert_eq!(scene.chain().pool()[0].nonce, first.nonce);
    scene
        .mine_until("it is final", || submitted.is_finished())
        .await;
    let receipt = submitted.await.unwrap().unwrap();
    assert_ne!(receipt.transaction_hash, first.hash);
    assert_eq!(scene.done(TARGET), 1);
}

#[tokio::test]
async fn a_nonce_that_somebody_else_used_is_given_up_only_when_seen() {
    let scene = Scene::new().await;
    let process = scene.start();
    let submitted = process.submit("claim-1", TARGET);
    let in_pool = || !scene.chain().pool().is_empty();
    scene
        .environment
        .step_until("it is in the pool", STEP_MS, STEPS, in_pool)
        .await;
    scene.chain().mine_foreign(scene.signer.address(), 0);
    scene
        .mine_until("it is final", || submitted.is_finished())
        .await;
    submitted.await.unwrap().unwrap();
    let ours = scene
        .chain()
        .mined()
        .into_iter()
        .find(|tx| tx.to == Some(TARGET))
        .unwrap();
    assert_eq!(ours.nonce, 1);
}

#[tokio::test]
async fn a_withheld_receipt_makes_it_wait_not_send_twice() {
    let scene = Scene::new().await;
    let process = scene.start();
    let submitted = process.submit("claim-1", TARGET);
    let in_pool = || !scene.chain().pool().is_empty();
    scene
        .environment
        .step_until("it is in the pool", STEP_MS, STEPS, in_pool)
        .await;
    scene.chain().mine(Vec::new());
    scene.chain().withhold_receipts(true);
    for _ in 0..50 {
        scene.chain().mine(Vec::new());
        scene.environment.step(STEP_MS).await;
    }
    assert!(!submitted.is_finished());
    assert_eq!(scene.done(TARGET), 1);
    scene.chain().withhold_receipts(false);
    scene
        .mine_until("the receipt is found", || submitted.is_finished())
        .await;
    submitted.await.unwrap().unwrap();
    assert_eq!(scene.done(TARGET), 1);
}

#[tokio::test]
async fn an_endpoint_that_falls_behind_is_not_believed() {
    let scene = Scene::new().await;
    for _ in 0..10 {
        scene.chain().mine_empty();
    }
    let process = scene.start();
    let submitted = process.submit("claim-1", TARGET);
    let in_pool = || !scene.chain().pool().is_empty();
    scene
        .environment
        .step_until("it is in the pool", STEP_MS, STEPS, in_pool)
        .await;
    scene.chain().mine(Vec::new());
    scene.environment.step(STEP_MS).await;
    let sent = scene.server.calls("eth_sendRawTransaction");
    scene.chain().set_stale_by(5);
    for _ in 0..20 {
        scene.environment.step(STEP_MS).await;
    }
    assert_eq!(
        scene.server.calls("eth_sendRawTransaction"),
        sent,
        "a lagging view is no reason to act"
    );
    scene.chain().set_stale_by(0);
    scene
        .mine_until("it is final", || submitted.is_finished())
        .await;
    submitted.await.unwrap().unwrap();
    assert_eq!(scene.done(TARGET), 1);
}

#[tokio::test]
async fn a_revert_is_said_with_its_reason_before_and_after_sending() {
    let scene = Scene::new().await;
    let process = scene.start();
    scene.chain().revert_calls_to(TARGET);
    let refused = process.submit("claim-1", TARGET);
    scene
        .mine_until("the refusal", || refused.is_finished())
        .await;
    let error = refused.await.unwrap().unwrap_err();
    assert!(
        matches!(&error, SendError::WouldFail { reason } if reason == "not today"),
        "{error}"
    );
    assert!(scene.chain().pool().is_empty());

    let late = Address::repeat_byte(0x88);
    let submitted = process.submit("claim-2", late);
    let in_pool = || !scene.chain().pool().is_empty();
    scene
        .environment
        .step_until("it is in the pool", STEP_MS, STEPS, in_pool)
        .await;
    scene.chain().revert_calls_to(late);
    scene
        .mine_until("it is final", || submitted.is_finished())
        .await;
    let error = submitted.await.unwrap().unwrap_err();
    assert!(
        matches!(&error, SendError::Reverted { reason, .. } if reason == "not today"),
        "{error}"
    );
}

/// Runs one intent to its end. The disk stops `after` operations after the database was opened (never, if `None`); if
/// the process dies of it, a new one takes over what the disk kept. Returns the operations of an undisturbed run.
async fn live_through(after: Option<u64>, unsynced: Unsynced) -> u64 {
    let mut scene = Scene::new().await;
    let process = scene.start();
    let opened = scene.backend.operations();
    if let Some(after) = after {
        scene.backend.stop_at(opened + after);
    }
    let context = format!("stop after {after:?}, {unsynced:?}");
    let submitted = process.submit("claim-1", TARGET);
    let ended = || submitted.is_finished() || process.task.is_finished();
    scene
        .mine_until(&format!("{context}: the end or the stop"), ended)
        .await;
    let operations = scene.backend.operations() - opened;
    if after.is_none() {
        submitted.await.unwrap().unwrap();
    } else {
        assert!(
            scene.backend.stopped(),
            "{context}: the disk must have stopped"
        );
        scene.kill(process, unsynced);
        let process = scene.start();
        let submitted = process.submit("claim-1", TARGET);
        scene
            .mine_until(&format!("{context}: the end"), || submitted.is_finished())
            .await;
        submitted.await.unwrap().unwrap();
    }
    assert_eq!(scene.done(TARGET), 1, "{context}");
    operations
}

#[tokio::test]
async fn a_stop_at_every_write_never_sends_twice_and_never_loses() {
    let operations = live_through(None, Unsynced::Lost).await;
    assert!(
        operations >= 4,
        "two entries, each written and synced: {operations}"
    );
    for after in 1..=operations {
        for unsynced in [Unsynced::Lost, Unsynced::Kept, Unsynced::Torn(after)] {
            live_through(Some(after), unsynced).await;
        }
    }
}
