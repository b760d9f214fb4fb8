//! Devices over real streams on loopback, with real stores.

use std::path::Path;

use hearth_environment::SystemEnvironment;
use hearth_net::NetworkOptions;
use tempfile::TempDir;

use super::*;

const HOUR_MS: u64 = 3_600_000;
/// How long anything that should happen may take.
const SOON: Duration = Duration::from_secs(60);

/// A device that is up.
struct Device {
    members: Members,
    network: Network,
    _tasks: Tasks,
}

fn account(number: u8) -> PrivateKeySigner {
    PrivateKeySigner::from_bytes(&B256::repeat_byte(number)).unwrap()
}

impl Device {
    async fn up(folder: &Path, number: u8, name: &str) -> Self {
        Self::with_account(folder, (number, number), name).await
    }

    /// A device of an endpoint key and of an account.
    async fn with_account(folder: &Path, (number, of): (u8, u8), name: &str) -> Self {
        let folder = folder.join(name);
        std::fs::create_dir_all(&folder).unwrap();
        let options = NetworkOptions::loopback([number; 32], folder.join("blobs"));
        let own = hearth_net::device_of_key(&[number; 32]);
        let (network, _) = Network::open(options).await.unwrap();
        assert_eq!(own, network.device());
        let parts = MembersParts {
            own,
            name: name.to_owned(),
            account: account(of),
            store: open_store(&folder.join("store")).await,
            environment: Arc::new(SystemEnvironment),
        };
        let mut tasks = Tasks::new();
        let members = Members::open(parts, &mut tasks).await.unwrap();
        members.attach(&network, &mut tasks);
        Self {
            members,
            network,
            _tasks: tasks,
        }
    }

    fn device(&self) -> DeviceId {
        self.network.device()
    }

    async fn ticket(&self) -> Ticket {
        let invitation = self.members.invite(HOUR_MS).await.unwrap();
        let payload = TicketPayload {
            invitation: Some(invitation),
            chain: None,
        };
        let text = ticket(&self.network, &payload).unwrap().to_string();
        text.parse().unwrap()
    }

    async fn down(self) {
        self.network.shutdown().await;
    }
}

/// The writer of a store that was open before lets go of its file a moment later.
async fn open_store(path: &Path) -> Store {
    let opened = async {
        loop {
            match Store::open(path, &SystemEnvironment) {
                Ok(store) => return store,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    };
    tokio::time::timeout(SOON, opened)
        .await
        .expect("the store is free in time")
}

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_joins_by_ticket_and_both_know_it_after_a_restart() {
    let folder = folder();
    let host = Device::up(folder.path(), 1, "host").await;
    let phone = Device::up(folder.path(), 2, "phone").await;
    let ticket = host.ticket().await;
    phone.members.join(&phone.network, &ticket).await.unwrap();
    assert!(host.members.is_member(&phone.device()));
    assert!(phone.members.is_member(&host.device()));
    assert_eq!(phone.members.household(), (account(1).address(), false));
    let (of_host, of_phone) = (host.device(), phone.device());
    host.down().await;
    phone.down().await;
    let host = Device::up(folder.path(), 1, "host").await;
    let phone = Device::up(folder.path(), 2, "phone").await;
    assert!(host.members.is_member(&of_phone) && phone.members.is_member(&of_host));
    // What was used once stays used.
    let thief = Device::up(folder.path(), 3, "thief").await;
    let address = host.network.address();
    let again = Ticket {
        peer: address,
        ..ticket
    };
    let refused = thief.members.join(&thief.network, &again).await;
    assert!(
        matches!(refused, Err(MembersError::Refused(JoinRefusal::Used))),
        "{refused:?}"
    );
    assert!(!host.members.is_member(&thief.device()));
    assert!(!thief.members.is_member(&host.device()));
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_that_never_met_learn_of_each_other_and_of_a_removal() {
    let folder = folder();
    let host = Device::up(folder.path(), 1, "host").await;
    let phone = Device::up(folder.path(), 2, "phone").await;
    let tablet = Device::up(folder.path(), 3, "tablet").await;
    for one in [&phone, &tablet] {
        let ticket = host.ticket().await;
        one.members.join(&one.network, &ticket).await.unwrap();
    }
    assert!(!phone.members.is_member(&tablet.device()));
    phone.members.compare_all(&phone.network).await;
    until(|| phone.members.is_member(&tablet.device())).await;
    assert!(tablet.members.is_member(&phone.device()));
    let names: Vec<_> = phone.members.list().into_iter().map(|m| m.name).collect();
    assert_eq!(names.len(), 3, "{names:?}");
    // A member can remove nobody; the host can.
    let refused = phone.members.remove("tablet").await.unwrap_err();
    assert_eq!(refused.code(), "not_host");
    host.members.remove("tablet").await.unwrap();
    tablet.members.compare_all(&tablet.network).await;
    until(|| tablet.members.household() == (account(3).address(), true)).await;
    phone.members.compare_all(&phone.network).await;
    until(|| !phone.members.is_member(&tablet.device())).await;
    assert!(phone.members.is_member(&host.device()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_learns_that_a_device_left_and_who_leaves_learns_whether_it_did() {
    let folder = folder();
    let host = Device::up(folder.path(), 1, "host").await;
    let phone = Device::up(folder.path(), 2, "phone").await;
    let tablet = Device::up(folder.path(), 3, "tablet").await;
    for one in [&phone, &tablet] {
        let ticket = host.ticket().await;
        one.members.join(&one.network, &ticket).await.unwrap();
    }
    phone.members.compare_all(&phone.network).await;
    until(|| phone.members.is_member(&tablet.device())).await;
    let refused = host.members.leave(&host.network).await.unwrap_err();
    assert_eq!(refused.code(), "not_joined");
    assert!(phone.members.leave(&phone.network).await.unwrap());
    assert!(!host.members.is_member(&phone.device()));
    assert_eq!(phone.members.household(), (account(2).address(), true));
    tablet.members.compare_all(&tablet.network).await;
    until(|| !tablet.members.is_member(&phone.device())).await;
    // A device that is up, and is not the host, lets nobody go.
    let ticket = host.ticket().await;
    let joined = phone.members.join(&phone.network, &ticket).await;
    joined.unwrap();
    tablet.members.compare_all(&tablet.network).await;
    until(|| tablet.members.is_member(&phone.device())).await;
    host.down().await;
    assert!(!phone.members.leave(&phone.network).await.unwrap());
    assert_eq!(phone.members.household(), (account(2).address(), true));
    assert!(
        tablet.members.is_member(&phone.device()),
        "nobody removed it"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_and_forgers_are_told_nothing() {
    let folder = folder();
    let host = Device::up(folder.path(), 1, "host").await;
    let phone = Device::up(folder.path(), 2, "phone").await;
    let ticket = host.ticket().await;
    phone.members.join(&phone.network, &ticket).await.unwrap();
    let stranger = Device::up(folder.path(), 3, "stranger").await;
    let ask = async |ask: HouseholdAsk| {
        let asked = stranger.network.ask_household(host.network.address(), &ask);
        asked.await.unwrap()
    };
    let nothing = ask(HouseholdAsk::Compare(Vec::new())).await;
    assert_eq!(nothing, HouseholdReply::Refused(JoinRefusal::Stranger));
    // The certificates of others, and one of a household of its own, make nobody a member.
    let others = phone.members.known().roster().statements();
    let shown = ask(HouseholdAsk::Compare(others)).await;
    assert_eq!(shown, HouseholdReply::Refused(JoinRefusal::Stranger));
    let own = stranger.members.known().roster().statements();
    let foreign = ask(HouseholdAsk::Compare(own)).await;
    assert_eq!(foreign, HouseholdReply::Refused(JoinRefusal::Forged));
    let guessed = HouseholdAsk::Join {
        secret: Secret([0; 32]),
        name: "stranger".to_owned(),
    };
    assert_eq!(
        ask(guessed).await,
        HouseholdReply::Refused(JoinRefusal::Unknown)
    );
    let (household, _) = host.members.household();
    assert_eq!(household, account(1).address());
    assert!(!host.members.is_member(&stranger.device()));
}

/// An offer of a device, in the name of a household.
fn offer_of(household: Address) -> hearth_protocol::offer::Offer {
    use hearth_protocol::answer::{BackendClass, KvType, Serving};
    use hearth_protocol::content::ContentHash;
    use hearth_protocol::offer::{Audience, Offer, OfferedModel};
    let serving = Serving {
        adapter: None,
        backend: BackendClass::CpuAvx2,
        engine: "llama.cpp".to_owned(),
        flash_attention: false,
        kv_type: KvType::F16,
        micro_batch_tokens: 512,
        template: ContentHash([4; 32]),
        weights: ContentHash([5; 32]),
    };
    let model = OfferedModel {
        name: "a-model".to_owned(),
        serving,
        weights_bytes: 1,
        head_bytes: 1,
        context_tokens: 1,
        audience: Audience::Household,
        prices: Vec::new(),
        slots: 1,
        free_slots: 1,
        output_tokens_per_s: 1,
        prompt_tokens_per_s: 1,
    };
    Offer {
        device: DeviceId([0; 32]),
        household,
        session_key: Address::ZERO,
        withdraw_delay_s: 900,
        issued_at: Timestamp(0),
        expires_at: Timestamp(0),
        models: vec![model],
    }
}

/// Remembers what it is asked, and refuses.
#[derive(Default)]
struct Listener(std::sync::Mutex<Vec<HouseholdAsk>>);

impl AnswersHousehold for Listener {
    fn answer(&self, _: DeviceId, ask: HouseholdAsk) -> BoxFuture<'_, HouseholdReply> {
        self.0.lock().unwrap().push(ask);
        Box::pin(async { HouseholdReply::Refused(JoinRefusal::Stranger) })
    }

    fn is_member(&self, _: &DeviceId) -> bool {
        false
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_claims_the_household_is_shown_nothing_and_who_holds_its_key_is_found() {
    let folder = folder();
    let host = Device::up(folder.path(), 1, "host").await;
    // Another device with the same phrase: another endpoint key, the same account.
    let twin = Device::with_account(folder.path(), (2, 1), "twin").await;
    let options = NetworkOptions::loopback([3; 32], folder.path().join("claimant"));
    let (claimant, _) = Network::open(options).await.unwrap();
    let listener = Arc::new(Listener::default());
    claimant.answer_household(listener.clone());
    let household = account(1).address();
    for network in [&twin.network, &claimant] {
        network.publish(offer_of(household)).unwrap();
        host.network
            .join(&network.ticket(Vec::new()))
            .await
            .unwrap();
    }
    until(|| host.network.offers().len() == 2).await;
    host.members.compare_all(&host.network).await;
    until(|| host.members.is_member(&twin.device())).await;
    let asked = std::mem::take(&mut *listener.0.lock().unwrap());
    assert!(!asked.is_empty(), "it was asked");
    let shown = asked.iter().any(|ask| !matches!(ask, HouseholdAsk::Kin(_)));
    assert!(!shown, "{asked:?}");
    assert!(!host.members.is_member(&claimant.device()));
    host.members.compare_all(&host.network).await;
    until(|| twin.members.is_member(&host.device())).await;
}

/// Waits until something holds.
async fn until(holds: impl Fn() -> bool) {
    let waited = async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, waited)
        .await
        .expect("what was told is known in time");
}
