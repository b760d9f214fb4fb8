//! A clock that moves only when somebody waits, or when the test says so.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::{Semaphore, watch};

use hearth_environment::{Environment, NoRandomness, Wait};

/// Time starts here, in milliseconds since the Unix epoch.
const START_MS: u64 = 1_700_000_000_000;

/// How long a task may take to come back to waiting after a step, in real time.
const STEP_TIMEOUT: Duration = Duration::from_secs(20);

#[derive(Debug)]
pub(crate) struct TestEnvironment {
    now_ms: AtomicU64,
    waits: Mutex<Vec<Duration>>,
    /// In a stepped environment every wait takes one permit.
    gate: Option<Arc<Semaphore>>,
    begun: watch::Sender<u64>,
}

impl Default for TestEnvironment {
    fn default() -> Self {
        let now_ms = AtomicU64::new(START_MS);
        Self {
            now_ms,
            waits: Mutex::default(),
            gate: None,
            begun: watch::Sender::new(0),
        }
    }
}

impl TestEnvironment {
    /// An environment in which a wait ends when the test calls [`TestEnvironment::step`].
    pub(crate) fn stepped() -> Self {
        Self {
            gate: Some(Arc::new(Semaphore::new(0))),
            ..Self::default()
        }
    }

    /// Every wait so far, in order.
    pub(crate) fn waits(&self) -> Vec<Duration> {
        self.waits.lock().unwrap().clone()
    }

    /// Lets `ms` pass, ends one wait, and returns once somebody waits again.
    pub(crate) async fn step(&self, ms: u64) {
        let mut begun = self.begun.subscribe();
        let before = *begun.borrow_and_update();
        self.now_ms.fetch_add(ms, Ordering::SeqCst);
        self.gate.as_ref().unwrap().add_permits(1);
        tokio::time::timeout(STEP_TIMEOUT, begun.wait_for(|begun| *begun > before))
            .await
            .expect("after a step the task must come back to waiting")
            .unwrap();
    }

    /// Tells a test that steps that its task has ended and will not wait again.
    pub(crate) fn ended(&self) {
        self.begun.send_modify(|begun| *begun += 1);
    }

    /// Steps until `done`, at most `limit` times; `what` is named if that is not enough.
    pub(crate) async fn step_until(
        &self,
        what: &str,
        ms: u64,
        limit: usize,
        mut done: impl FnMut() -> bool,
    ) {
        for _ in 0..limit {
            if done() {
                return;
            }
            self.step(ms).await;
        }
        assert!(
            done(),
            "{limit} steps of {ms} ms were not enough until {what}"
        );
    }
}

impl Environment for TestEnvironment {
    fn now_ms(&self) -> u64 {
        self.now_ms.load(Ordering::SeqCst)
    }

    fn sleep(&self, duration: Duration) -> Wait {
        self.waits.lock().unwrap().push(duration);
        self.begun.send_modify(|begun| *begun += 1);
        let Some(gate) = self.gate.clone() else {
            self.now_ms
                .fetch_add(duration.as_millis() as u64, Ordering::SeqCst);
            // Others get a turn, as they would while time passes.
            return Box::pin(tokio::task::yield_now());
        };
        Box::pin(async move { gate.acquire().await.unwrap().forget() })
    }

    fn fill(&self, bytes: &mut [u8]) -> Result<(), NoRandomness> {
        bytes.fill(0);
        Ok(())
    }
}
