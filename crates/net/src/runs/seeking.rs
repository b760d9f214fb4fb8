//! The task that finds others: it dials participants of this device's topics, and asks other devices of the network which
//! topics they share.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use hearth_protocol::offer::DeviceId;
use hearth_protocol::time::Timestamp;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use super::driver::Runs;
use super::line;
use crate::limits::{RUN_DIALS_MAX, RUN_LINKS_MAX, RUN_LINKS_WANTED};
use crate::offers::bucket::Bucket;
use crate::peers::PeerAddress;

/// How often it is looked what is due.
const TICK: Duration = Duration::from_millis(250);
/// With so many connections for each topic, other devices are asked about topics only now and then.
const LINKS_ENOUGH: usize = 3;
/// Devices of unknown topics that are dialed at once while there are few connections, and in thousandths each second.
const PROBES: (u32, u64) = (8, 4_000);
/// The same once there are enough.
const SLOW_PROBES: (u32, u64) = (1, 500);

/// A device to dial, and where it said that it is.
type Sought = (DeviceId, Option<PeerAddress>);

/// The task's own.
struct Seeking {
    /// A task for each device that is dialed, until the connection ends.
    tasks: JoinSet<DeviceId>,
    dialed: BTreeSet<DeviceId>,
    at_once: Arc<Semaphore>,
    probes: Bucket,
    slow_probes: Bucket,
}

/// What is known about whom this device should dial.
struct View {
    linked: BTreeSet<DeviceId>,
    /// Participants of topics with too few connections.
    participants: Vec<Sought>,
    has_enough: bool,
    has_topics: bool,
}

/// Runs until it is told to stop.
pub(crate) async fn run(runs: Arc<Runs>, mut stop: watch::Receiver<bool>) {
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let now = runs.now();
    let mut state = Seeking {
        tasks: JoinSet::new(),
        dialed: BTreeSet::new(),
        at_once: Arc::new(Semaphore::new(RUN_DIALS_MAX)),
        probes: Bucket::new(now, PROBES.0, PROBES.1),
        slow_probes: Bucket::new(now, SLOW_PROBES.0, SLOW_PROBES.1),
    };
    loop {
        tokio::select! {
            _ = stop.changed() => break,
            _ = tick.tick() => {}
            () = runs.dial_now.notified() => {}
            Some(ended) = state.tasks.join_next() => {
                if let Ok(device) = ended {
                    state.dialed.remove(&device);
                }
                continue;
            }
        }
        runs.with(|bus, now, out| bus.tick(now, out));
        runs.say_places();
        seek(&runs, &mut state);
    }
    runs.close();
    state.tasks.shutdown().await;
}

/// Dials who is worth to be dialed now.
fn seek(runs: &Arc<Runs>, state: &mut Seeking) {
    let view = view(runs);
    if !view.has_topics || view.linked.len() >= RUN_LINKS_MAX {
        return;
    }
    let now = runs.now();
    for sought in &view.participants {
        if is_due(runs, state, &view, now, &sought.0) {
            begin(runs, state, sought.clone());
        }
    }
    let strangers = runs.hub.acquaintances();
    if strangers.is_empty() {
        return;
    }
    // Begins somewhere else each time, so that no device is asked before the others.
    let jitter = usize::try_from(runs.hub.environment().jitter()).unwrap_or(usize::MAX);
    let from = jitter % strangers.len();
    let strangers = strangers[from..].iter().chain(&strangers[..from]);
    for device in strangers {
        if !is_due(runs, state, &view, now, device) {
            continue;
        }
        let probes = match view.has_enough {
            true => &mut state.slow_probes,
            false => &mut state.probes,
        };
        if !probes.take(now) {
            return;
        }
        begin(runs, state, (*device, None));
    }
}

fn view(runs: &Runs) -> View {
    runs.with(|bus, _, _| {
        let mut links: BTreeMap<_, usize> = bus.topics().map(|topic| (topic, 0)).collect();
        let mut linked = BTreeSet::new();
        for (device, shared) in bus.linked() {
            linked.insert(device);
            for topic in shared {
                links.entry(*topic).and_modify(|count| *count += 1);
            }
        }
        let wanting = links.iter().filter(|(_, count)| **count < RUN_LINKS_WANTED);
        let places = wanting.flat_map(|(topic, _)| bus.places(*topic));
        let there = places.filter(|place| place.address.is_some());
        let participants: BTreeMap<_, _> = there
            .map(|place| (place.device, place.address.clone()))
            .collect();
        View {
            has_topics: !links.is_empty(),
            has_enough: links.values().all(|count| *count >= LINKS_ENOUGH),
            linked,
            participants: participants.into_iter().collect(),
        }
    })
}

fn is_due(runs: &Runs, state: &Seeking, view: &View, now: Timestamp, device: &DeviceId) -> bool {
    *device != runs.hub.own
        && !view.linked.contains(device)
        && !state.dialed.contains(device)
        && runs.with_dialer(|dialer| dialer.is_due(now, device))
        && !runs.hub.admission.is_banned(*device)
}

/// Dials a device, where there is room for one more.
fn begin(runs: &Arc<Runs>, state: &mut Seeking, (device, told): Sought) {
    let Ok(permit) = Arc::clone(&state.at_once).try_acquire_owned() else {
        return;
    };
    let Some(address) = runs.hub.locate(runs.permitted(device, told)) else {
        return;
    };
    state.dialed.insert(device);
    let runs = Arc::clone(runs);
    state.tasks.spawn(async move {
        let ended = line::dial(&runs, address, || drop(permit)).await;
        let jitter = runs.hub.environment().jitter();
        let now = runs.now();
        runs.with_dialer(|dialer| dialer.ended(now, device, ended, jitter));
        device
    });
}
