//! Listening, and serving what was bound: the guard before everything, the budget around it.

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use futures::future::BoxFuture;
use hearth_causes::WithCauses;
use http::header::CACHE_CONTROL;
use http::request::Parts;
use http::{HeaderValue, Request};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream, ToSocketAddrs};
use tokio::task::JoinSet;
use tower::ServiceExt;
use tracing::{debug, warn};

use crate::body::{Arriving, Leaving, Pace};
use crate::budget::{Budget, Seat};
use crate::coding::{Coding, Decoded, check_charset};
use crate::guard::{Guard, Refusal, complete, refusal_response};
use crate::stall::Unstalled;

/// The longest head of a request, and what a connection buffers in each direction, in bytes: a
/// payment of 16 KiB and as much of everything else.
const HEAD_BYTES_MAX: usize = 32 * 1024;
/// How long to wait when the system has no room for another connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// What is said to a connection for which there is no place.
const NO_PLACE: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

/// Resolves when something is to stop.
pub type Shutdown = BoxFuture<'static, ()>;

/// How slow those who ask may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// How long the head of a request may take to arrive, and a connection may lie idle.
    pub head_timeout: Duration,
    /// How long the first bytes of a body may take.
    pub body_grace: Duration,
    /// How many bytes of a body buy it a further second.
    pub body_bytes_per_s: u32,
    /// How long the other side may take nothing of what it is sent.
    pub write_timeout: Duration,
    /// How long open requests may take to end once the server is asked to stop.
    pub stop_timeout: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            head_timeout: Duration::from_secs(30),
            body_grace: Duration::from_secs(10),
            body_bytes_per_s: 16 * 1024,
            write_timeout: Duration::from_secs(60),
            stop_timeout: Duration::from_secs(30),
        }
    }
}

/// An address that is listened on. It can be served with a [`Policy`] only.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
}

impl Listener {
    /// Listens on `address`; port 0 lets the system choose.
    ///
    /// # Errors
    /// When the address is taken, or is not this machine's.
    pub async fn bind(address: impl ToSocketAddrs) -> io::Result<Self> {
        let socket = TcpListener::bind(address).await?;
        let address = socket.local_addr()?;
        Ok(Self { socket, address })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The next connection, which sends what it has at once: the pieces of a stream must not wait
    /// for acknowledgements of the pieces before.
    async fn accept(&self, budget: &Budget) -> (TcpStream, SocketAddr) {
        loop {
            match self.socket.accept().await {
                Ok((stream, peer)) => {
                    if let Err(error) = stream.set_nodelay(true) {
                        debug!(error = %error.with_causes(), "a connection delays small pieces");
                    }
                    return (stream, peer);
                }
                Err(error) if concerns_one_connection(&error) => {}
                Err(error) => {
                    warn!(error = %error.with_causes(), "no connection can be accepted now");
                    budget.relieve();
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// Whether the next connection may be accepted at once: this one broke before it began.
fn concerns_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
    )
}

/// Writes the reply to a request that is not looked at.
type Refuse = fn(&Refusal, &Parts) -> Response;

/// What a listener is served with: who is looked at, what strangers may hold, how slow they may be.
#[derive(Clone)]
pub struct Policy {
    guard: Guard,
    budget: Budget,
    /// Whether the household's own programs ask here.
    is_own: bool,
    /// Whether bodies go on as they came, coded or not.
    is_opaque: bool,
    bounds: Bounds,
    refuse: Refuse,
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Policy")
            .field("guard", &self.guard)
            .field("bounds", &self.bounds)
            .finish_non_exhaustive()
    }
}

impl Policy {
    /// For the household's own programs at `address`, which they also know as `names` (without
    /// ports). Hosts that are not those names, and pages of other origins, get nothing.
    pub fn household(address: SocketAddr, names: &[String], budget: Budget) -> Self {
        Self::of(Guard::household(address, names), true, budget)
    }

    /// For the programs of this machine and the wallets in its browsers, by names of loopback.
    pub fn wallets(budget: Budget) -> Self {
        Self::of(Guard::wallets(), true, budget)
    }

    /// For everybody, under any name: nothing is given here for being near.
    pub fn public(budget: Budget) -> Self {
        Self::of(Guard::public(), false, budget)
    }

    fn of(guard: Guard, is_own: bool, budget: Budget) -> Self {
        Self {
            guard,
            budget,
            is_own,
            is_opaque: false,
            bounds: Bounds::default(),
            refuse: |refusal, _| refusal_response(refusal),
        }
    }

    /// The same, but bodies go on as they came: what they are is for the service behind to say.
    #[must_use]
    pub fn opaque(self) -> Self {
        Self {
            is_opaque: true,
            ..self
        }
    }

    /// The same with other bounds.
    #[must_use]
    pub fn with_bounds(self, bounds: Bounds) -> Self {
        Self { bounds, ..self }
    }

    /// The same, but `refuse` writes the replies to requests that are not looked at.
    #[must_use]
    pub fn refusing(self, refuse: fn(&Refusal, &Parts) -> Response) -> Self {
        Self { refuse, ..self }
    }

    /// How the body is coded, of a request that may be looked at.
    fn check(&self, parts: &Parts) -> Result<Coding, Refusal> {
        self.guard.check(parts)?;
        if self.is_opaque {
            return Ok(Coding::Identity);
        }
        check_charset(&parts.headers)?;
        Coding::of(&parts.headers)
    }

    async fn answer(&self, request: Request<Incoming>, router: Router, seat: Seat) -> Response {
        let (mut parts, body) = request.into_parts();
        let coding = match self.check(&parts) {
            Ok(coding) => coding,
            Err(refusal) => return complete(&refusal, (self.refuse)(&refusal, &parts)),
        };
        let pace = Pace {
            grace: self.bounds.body_grace,
            bytes_per_s: self.bounds.body_bytes_per_s,
        };
        let arriving = Arriving::new(body, seat.clone(), pace);
        let body = match coding {
            Coding::Identity => Body::new(arriving),
            _ => Body::new(Decoded::new(arriving, coding, seat)),
        };
        if !self.is_opaque {
            coding.forget(&mut parts.headers);
        }
        let Ok(mut response) = router.oneshot(Request::from_parts(parts, body)).await;
        if self.is_own {
            let none = HeaderValue::from_static("no-store");
            response.headers_mut().entry(CACHE_CONTROL).or_insert(none);
        }
        response
    }
}

/// One request of a connection.
async fn exchange(
    request: Request<Incoming>,
    router: Router,
    policy: Arc<Policy>,
    seat: Seat,
) -> Result<Response, Infallible> {
    let response = policy.answer(request, router, seat.clone()).await;
    seat.give_back();
    Ok(response.map(|body| Body::new(Leaving::new(body, seat))))
}

/// Serves until `shutdown` resolves, then finishes the requests it has as far as time allows.
pub fn serve(
    listener: Listener,
    router: Router,
    policy: Policy,
    mut shutdown: Shutdown,
) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        let policy = Arc::new(policy);
        let graceful = GracefulShutdown::new();
        let mut server = http1::Builder::new();
        server
            .timer(TokioTimer::new())
            .header_read_timeout(policy.bounds.head_timeout)
            .max_buf_size(HEAD_BYTES_MAX);
        let mut connections = JoinSet::new();
        loop {
            let (stream, peer) = tokio::select! {
                () = &mut shutdown => break,
                Some(_) = connections.join_next() => continue,
                next = listener.accept(&policy.budget) => next,
            };
            let Some(seat) = policy.budget.seat(policy.is_own, peer.ip()) else {
                // Said if it can be said at once: nobody waits for a stranger.
                let _ = stream.try_write(NO_PLACE);
                continue;
            };
            let (router, policy, held) = (router.clone(), Arc::clone(&policy), seat.clone());
            let stream = Unstalled::new(stream, policy.bounds.write_timeout);
            let service = service_fn(move |request| {
                exchange(request, router.clone(), Arc::clone(&policy), held.clone())
            });
            let connection = server.serve_connection(TokioIo::new(stream), service);
            let connection = graceful.watch(connection);
            connections.spawn(async move {
                tokio::select! {
                    done = connection => if let Err(error) = done {
                        debug!(error = %error.with_causes(), "a connection broke");
                    },
                    () = seat.displaced() => debug!(%peer, "a connection made room for another"),
                }
            });
        }
        // Whoever comes now is refused by the system, not left to wait.
        drop(listener);
        let ended = tokio::time::timeout(policy.bounds.stop_timeout, graceful.shutdown());
        if ended.await.is_err() {
            warn!("some requests did not end in time; they are broken off");
        }
    })
}
