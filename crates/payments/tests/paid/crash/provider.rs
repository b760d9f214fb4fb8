//! The provider's process: a thread with a runtime of its own, which takes everything with it when
//! it ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;

use axum::extract::{Path, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use axum::routing::get;
use axum::{Extension, Router};
use hearth_environment::{Environment, SystemEnvironment};
use hearth_payments::gate::{Gate, Meter, PaidLayer};
use hearth_payments::offer::{AcceptedAsset, FixedPrice, Price};
use hearth_payments::store::Store;
use hearth_payments::till::{Tasks, Till, TillKeys, open_escrows};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use url::Url;

use super::{CEILING, Case, Disk, access, numbered, receiver, runtime};
use crate::world::{accepted, amount, asset, policy, stream};

/// A provider that runs.
pub(super) struct Provider {
    pub(super) disk: Disk,
    pub(super) store: Store,
    pub(super) till: Till,
    base: Url,
    handle: Handle,
    life: Life,
    worked: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

/// When the process ends.
#[derive(Clone)]
struct Life {
    disk: Disk,
    ended: Arc<Notify>,
}

impl Provider {
    /// `None` if the disk stopped while it opened.
    pub(super) fn open(case: &Case, disk: Disk, run: u64) -> Option<Self> {
        let store = disk.open()?;
        let life = Life {
            disk: disk.clone(),
            ended: Arc::default(),
        };
        let (ready, opened) = mpsc::channel();
        let worked = Arc::clone(&case.worked);
        let (process, theirs, case) = (life.clone(), store.clone(), case.clone());
        let thread = std::thread::spawn(move || {
            runtime().block_on(async {
                let mut tasks = Tasks::new();
                let Some(till) = open_till(&case, &theirs, run, &mut tasks).await else {
                    return;
                };
                let base = serve(&case, &till, process.clone(), &mut tasks).await;
                ready.send((till, base, Handle::current())).unwrap();
                drop(theirs);
                process.ended.notified().await;
            });
        });
        let Ok((till, base, handle)) = opened.recv() else {
            thread.join().unwrap();
            return None;
        };
        Some(Self {
            disk,
            store,
            till,
            base,
            handle,
            life,
            worked,
            thread: Some(thread),
        })
    }

    /// How often the provider of this point worked for a one-off payment, over all of its lives.
    pub(super) fn worked(&self) -> u64 {
        self.worked.load(Ordering::Relaxed)
    }

    pub(super) fn url(&self, path: &str) -> Url {
        self.base.join(path).unwrap()
    }

    /// Runs a future inside of the process.
    pub(super) fn spawn<T: Send + 'static>(
        &self,
        future: impl Future<Output = T> + Send + 'static,
    ) -> tokio::task::JoinHandle<T> {
        self.handle.spawn(future)
    }

    /// Ends the process wherever it is, and leaves its disk.
    pub(super) fn kill(mut self) -> Disk {
        self.end();
        self.disk.clone()
    }

    fn end(&mut self) {
        self.life.ended.notify_one();
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        self.end();
    }
}

async fn open_till(case: &Case, store: &Store, run: u64, tasks: &mut Tasks) -> Option<Till> {
    let keys = TillKeys {
        account: receiver(case.point),
        session: numbered(4),
    };
    let escrows = open_escrows(access(&case.chain).await, &keys, store, tasks).ok()?;
    let environment: Arc<dyn Environment> = Arc::new(SystemEnvironment);
    let till = Till::open(store, escrows, policy(), None, &environment, run, tasks);
    Some(till)
}

async fn serve(case: &Case, till: &Till, life: Life, tasks: &mut Tasks) -> Url {
    let price = Price {
        need: CEILING,
        ceiling: CEILING,
    };
    let gate = Gate {
        assets: vec![AcceptedAsset {
            // What the payer may deposit is less than ten ceilings.
            deposit_ceilings: 1,
            ..accepted(receiver(case.point).address(), numbered(4).address())
        }],
        pricing: Box::new(FixedPrice(vec![(asset(), price)])),
        desk: till.desk.clone(),
        cashier: till.cashier.clone(),
        replies: till.replies.clone(),
        base_url: None,
        description: None,
        environment: Arc::new(SystemEnvironment),
    };
    let router = Router::new()
        .route("/job/{units}", get(work))
        .route("/stream", get(stream))
        .route("/plain", get(plain).with_state(Arc::clone(&case.worked)))
        .layer(PaidLayer(Arc::new(gate)))
        .layer(from_fn_with_state(life, live));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    tasks.spawn(async move {
        axum::serve(listener, router).await.unwrap();
        "the shop"
    });
    Url::parse(&base).unwrap()
}

/// Says nothing more once the disk has stopped: a killed process sends no reply.
async fn live(State(life): State<Life>, request: Request, next: Next) -> Response {
    if !life.disk.stopped() {
        let response = next.run(request).await;
        if !life.disk.stopped() {
            return response;
        }
    }
    life.ended.notify_one();
    std::future::pending().await
}

async fn plain(State(worked): State<Arc<AtomicU64>>) -> &'static str {
    worked.fetch_add(1, Ordering::Relaxed);
    "work"
}

async fn work(Extension(meter): Extension<Meter>, Path(units): Path<u128>) -> String {
    meter.set(amount(units));
    format!("{units} units of work")
}
