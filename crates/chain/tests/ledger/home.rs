//! A chain with a ledger, households with a device each, somebody who sends for all of them, and a clock.

use std::collections::BTreeMap;
use std::sync::Arc;

use alloy_primitives::{Address, B256, U256, keccak256};
use alloy_signer::SignerSync;
use alloy_signer_local::PrivateKeySigner;
use hearth_chain::client::ChainClient;
use hearth_chain::deployment::{CREATE2_DEPLOYER, LedgerDeployment, LedgerTerms};
use hearth_chain::embedded::{
    Embedded, EmbeddedConfig, Genesis, LEDGER_ADDRESSES, TEST_DOLLAR_ADDRESS,
};
use hearth_chain::ledger::{
    EpochFault, Ledger, LedgerCall, LedgerError, RunCommittee, SignatureSet,
};
use hearth_chain::sender::{IntentId, RedbJournal, Sender, SenderConfig, TxIntent};
use hearth_environment::ManualEnvironment;
use hearth_protocol::id::{ChainId, DeviceId};
use hearth_protocol::ledger::statement::{EpochStatement, LedgerStatement, Registration};
use hearth_protocol::ledger::sum_tree::{ShownLeaf, SumProof, leaf, parent};
use hearth_protocol::money::Amount;
use hearth_protocol::signature::Signature;
use serde_json::{Value, json};
use tokio::task::JoinSet;

/// Seconds of an epoch and of the challenge window.
pub(crate) const EPOCH_S: u64 = 3_600;
pub(crate) const WINDOW_S: u64 = 600;
/// 2026-01-01T00:00:00Z.
const START_S: u64 = 1_767_225_600;
/// Test dollars of who sends, in atomic units.
const DOLLARS: u64 = 10_000;

/// The ledger of one test.
pub(crate) struct Home {
    pub(crate) ledger: Ledger,
    pub(crate) sender: Sender,
    clock: Clock,
    /// An embedded chain lives as long as this.
    _chain: Option<Embedded>,
    _tasks: JoinSet<()>,
}

/// What moves the time of a chain.
enum Clock {
    /// Of an embedded chain.
    Manual(ManualEnvironment),
    /// Of an outside program, which is asked.
    Asked(ChainClient),
}

/// The key of that name. Worth nothing.
pub(crate) fn key(name: &str) -> PrivateKeySigner {
    PrivateKeySigner::from_bytes(&keccak256(name)).unwrap()
}

pub(crate) fn household(number: u8) -> PrivateKeySigner {
    key(&format!("household {number}"))
}

pub(crate) fn device(number: u8) -> PrivateKeySigner {
    key(&format!("device {number}"))
}

pub(crate) fn sign(key: &PrivateKeySigner, digest: B256) -> Signature {
    let signed = key.sign_hash_sync(&digest).unwrap();
    Signature::from_bytes(&signed.as_bytes()).unwrap()
}

/// What the ledgers of these tests begin with.
fn terms(founders: u8) -> LedgerTerms {
    LedgerTerms {
        founders: (0..founders).map(|n| household(n).address()).collect(),
        votes_each: U256::from(1_000_000_000_000_u64),
        epoch_s: EPOCH_S,
        window_s: WINDOW_S,
    }
}

fn start_sender(
    client: &ChainClient,
    account: PrivateKeySigner,
    tasks: &mut JoinSet<()>,
) -> Sender {
    let database = redb::Database::builder()
        .create_with_backend(redb::backends::InMemoryBackend::new())
        .unwrap();
    let journal = Arc::new(RedbJournal::new(Arc::new(database)).unwrap());
    let config = SenderConfig {
        confirmations: 1,
        poll_interval_ms: 5,
        ..SenderConfig::default()
    };
    let (sender, task) = Sender::new(client.clone(), Arc::new(account), journal, config).unwrap();
    tasks.spawn(async move { task.run().await.unwrap() });
    sender
}

impl Home {
    /// A ledger of an embedded chain that these households found, and somebody with test dollars who sends every call.
    pub(crate) async fn new(founders: u8) -> Self {
        let anyone = key("anyone");
        let genesis = Genesis::standard(Address::repeat_byte(1))
            .with_ledger(&terms(founders))
            .with_test_dollars(anyone.address(), U256::from(DOLLARS));
        let clock = ManualEnvironment::new(START_S * 1_000);
        let config = EmbeddedConfig {
            environment: Arc::new(clock.clone()),
            ..EmbeddedConfig::new(genesis)
        };
        let chain = Embedded::in_memory(config).unwrap();
        let client = ChainClient::from_transport(chain.transport(), ChainId(chain.chain_id()));
        let mut tasks = JoinSet::new();
        let sender = start_sender(&client, anyone, &mut tasks);
        let ledger = Ledger::find(client, LEDGER_ADDRESSES.runs).await.unwrap();
        Self {
            ledger,
            sender,
            clock: Clock::Manual(clock),
            _chain: Some(chain),
            _tasks: tasks,
        }
    }

    /// A ledger that is put up on a chain of another program, where `payer` has coin for gas and time can be moved.
    pub(crate) async fn put_up(client: ChainClient, payer: PrivateKeySigner, founders: u8) -> Self {
        let mut tasks = JoinSet::new();
        let sender = start_sender(&client, payer, &mut tasks);
        let deployment = LedgerDeployment::new(&terms(founders));
        for step in &deployment.steps {
            let intent = TxIntent {
                to: CREATE2_DEPLOYER,
                data: step.input.clone(),
                value: U256::ZERO,
                gas_cap: 15_000_000,
                deadline_ms: u64::MAX,
            };
            let name = IntentId::new(step.name).unwrap();
            assert!(sender.submit(name, intent).await.unwrap().success);
        }
        let ledger = Ledger::find(client.clone(), deployment.addresses.runs);
        let ledger = ledger.await.unwrap();
        assert_eq!(ledger.addresses(), &deployment.addresses);
        Self {
            ledger,
            sender,
            clock: Clock::Asked(client),
            _chain: None,
            _tasks: tasks,
        }
    }

    /// Moves the chain's clock to a time, in Unix seconds. That of an outside program goes on by itself, and may be
    /// there already.
    pub(crate) async fn go(&self, time_s: u64) {
        match &self.clock {
            Clock::Manual(clock) => clock.set_ms(time_s * 1_000),
            Clock::Asked(client) => {
                if client.head().await.unwrap().timestamp_s >= time_s {
                    return;
                }
                let set = client.request::<Value>("evm_setNextBlockTimestamp", json!([time_s]));
                set.await.unwrap();
                client
                    .request::<Value>("evm_mine", json!([]))
                    .await
                    .unwrap();
            }
        }
    }

    /// Sends a call from the account of somebody who has nothing to do with it.
    pub(crate) async fn send(&self, call: &LedgerCall) -> Result<(), LedgerError> {
        self.ledger.send(&self.sender, call).await.map(drop)
    }

    pub(crate) async fn register(&self, number: u8) -> Result<(), LedgerError> {
        let registration = Registration {
            device: DeviceId([number + 1; 32]),
            household: household(number).address(),
            session_key: device(number).address(),
        };
        let digest = self.ledger.domain().registration_digest(&registration);
        let by_household = sign(&household(number), digest);
        let call = self.ledger.addresses().register(
            &registration,
            by_household.as_bytes().to_vec().into(),
            &sign(&device(number), digest),
        );
        self.send(&call).await
    }

    pub(crate) async fn enroll(&self, number: u8, epoch: u64) -> Result<(), LedgerError> {
        let at = self.ledger.addresses();
        let statement = LedgerStatement::enrollment(at.validators, epoch);
        let digest = self.ledger.domain().statement_digest(&statement);
        let key = device(number);
        self.send(&at.enroll(key.address(), &sign(&key, digest)))
            .await
    }

    /// Has these devices enroll in an epoch, and waits until its set is in office.
    pub(crate) async fn seat(&self, epoch: u64, devices: &[u8]) {
        let enrollment = self.ledger.clock().enrollment_s(epoch);
        self.go(enrollment.start).await;
        for number in devices {
            self.enroll(*number, epoch).await.unwrap();
        }
        self.go(enrollment.end).await;
    }

    /// The signatures of these devices under a statement.
    pub(crate) fn signed(
        &self,
        committee: &RunCommittee,
        statement: &LedgerStatement,
        devices: &[u8],
    ) -> SignatureSet {
        let digest = self.ledger.domain().statement_digest(statement);
        let signed = devices.iter().map(|number| {
            let key = device(*number);
            (key.address(), sign(&key, digest))
        });
        committee.gather(digest, &signed.collect::<BTreeMap<_, _>>())
    }

    pub(crate) async fn dollars(&self, account: Address) -> u64 {
        let client = self.ledger.client();
        let held = client.balance_of(TEST_DOLLAR_ADDRESS, account).await;
        held.unwrap().to()
    }

    /// Records a tree whose two leaves stand in the wrong order, and revokes it by showing them.
    pub(crate) async fn revoke_a_record_out_of_order(&self, set: &RunCommittee) {
        let at = self.ledger.addresses();
        let accounts = [Address::repeat_byte(2), Address::repeat_byte(1)];
        let nodes = accounts.map(|account| leaf(at.ember, account, Amount::new(5)));
        let root = parent(nodes[0], nodes[1]).unwrap();
        let statement = EpochStatement {
            epoch: 0,
            asset: at.ember,
            root: root.hash,
            total: root.sum,
            data: hearth_protocol::content::ContentHash([3; 32]),
        };
        let signed = self.signed(set, &statement.for_rewards(at.rewards), &[0]);
        self.send(&at.record_epoch(&statement, None, &signed))
            .await
            .unwrap();
        let shown = |place: usize| ShownLeaf {
            account: accounts[place],
            cumulative: Amount::new(5),
            proof: SumProof {
                index: place as u64,
                siblings: vec![nodes[1 - place]],
            },
        };
        let fault = EpochFault::Order {
            first: shown(0),
            second: shown(1),
        };
        self.send(&at.revoke(at.ember, 0, &fault)).await.unwrap();
    }
}
