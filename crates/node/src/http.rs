//! HTTP doors of the node.

pub mod proxy;
pub mod surface;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use futures::future::BoxFuture;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tracing::{debug, warn};

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// What a server bears of those who ask it.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Connections that are open at once; more wait to be accepted.
    pub connections: usize,
    /// How long the head of a request may take to arrive, and a connection may lie idle.
    pub head_timeout: Duration,
    /// How long open requests may take to end once the server is asked to stop.
    pub stop_timeout: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            connections: 1_024,
            head_timeout: Duration::from_secs(30),
            stop_timeout: Duration::from_secs(30),
        }
    }
}

/// How long to wait when the system has no room for another connection.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// Resolves when something is to stop.
pub type Shutdown = BoxFuture<'static, ()>;

/// Serves until `shutdown` resolves, then finishes the requests it has as far as time allows.
///
/// The number of connections and the time that a request's head may take are bounded: whoever opens
/// connections and says nothing keeps nobody else out for longer than that.
pub fn serve(
    listener: TcpListener,
    router: Router,
    bounds: Bounds,
    mut shutdown: Shutdown,
) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        let slots = Arc::new(Semaphore::new(bounds.connections));
        let graceful = GracefulShutdown::new();
        let mut server = http1::Builder::new();
        server
            .timer(TokioTimer::new())
            .header_read_timeout(bounds.head_timeout);
        let mut connections = JoinSet::new();
        loop {
            let next = async {
                let slot = Arc::clone(&slots).acquire_owned().await;
                (slot, accept(&listener).await)
            };
            let (slot, stream) = tokio::select! {
                () = &mut shutdown => break,
                Some(_) = connections.join_next() => continue,
                next = next => next,
            };
            let service = TowerToHyperService::new(router.clone());
            let connection = server.serve_connection(TokioIo::new(stream), service);
            let connection = graceful.watch(connection);
            connections.spawn(async move {
                if let Err(error) = connection.await {
                    debug!(%error, "a connection broke");
                }
                drop(slot);
            });
        }
        // Whoever comes now is refused by the system, not left to wait.
        drop(listener);
        if tokio::time::timeout(bounds.stop_timeout, graceful.shutdown())
            .await
            .is_err()
        {
            warn!("some requests did not end in time; they are broken off");
        }
    })
}

/// The next connection, which sends what it has at once: the pieces of a stream must not wait for
/// acknowledgements of the pieces before.
async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                if let Err(error) = stream.set_nodelay(true) {
                    debug!(%error, "a connection delays small pieces");
                }
                return stream;
            }
            Err(error) if concerns_one_connection(&error) => {}
            Err(error) => {
                warn!(%error, "no connection can be accepted now");
                tokio::time::sleep(ACCEPT_PAUSE).await;
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

/// Why a body was not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BodyError {
    /// It is longer than it may be.
    TooLong,
    /// It broke off.
    Broken,
    /// It took too long to arrive.
    Slow,
}

/// Reads a request's body of at most `bytes_max` bytes, which must arrive within `time_max`.
pub(crate) async fn read_body(
    body: Body,
    bytes_max: usize,
    time_max: Duration,
) -> Result<Bytes, BodyError> {
    let collected = Limited::new(body, bytes_max).collect();
    match tokio::time::timeout(time_max, collected).await {
        Err(_) => Err(BodyError::Slow),
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(BodyError::TooLong),
        Ok(Err(_)) => Err(BodyError::Broken),
    }
}

/// An HTTP client for services: rustls with ring, no redirects, so that a payment goes to the
/// address that was approved and to no other.
///
/// # Errors
/// When the system's certificates cannot be set up.
pub fn client() -> Result<reqwest::Client, reqwest::Error> {
    // A second installation is refused and changes nothing.
    let _already_installed = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CONNECT_TIMEOUT)
        .user_agent(concat!("hearth/", env!("CARGO_PKG_VERSION")))
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::{Notify, oneshot};

    /// A server with room for one connection.
    struct Served {
        address: std::net::SocketAddr,
        stop: oneshot::Sender<()>,
        /// Told when a request at `/never` is worked on.
        asked: Arc<Notify>,
    }

    async fn server() -> Served {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let asked = Arc::new(Notify::new());
        let begin = Arc::clone(&asked);
        let never = async move || {
            begin.notify_one();
            std::future::pending::<&'static str>().await
        };
        let bounds = Bounds {
            connections: 1,
            head_timeout: Duration::from_millis(100),
            stop_timeout: Duration::from_millis(100),
        };
        let router = Router::new()
            .route("/", get(|| async { "hello" }))
            .route("/never", get(never));
        let stopped = async {
            let _ = stopped.await;
        };
        tokio::spawn(serve(listener, router, bounds, Box::pin(stopped)));
        Served {
            address,
            stop,
            asked,
        }
    }

    async fn ask(address: std::net::SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut reply = String::new();
        let _ = stream.read_to_string(&mut reply).await;
        reply
    }

    #[tokio::test]
    async fn whoever_says_nothing_makes_room_for_the_next() {
        let server = server().await;
        let mut silent = TcpStream::connect(server.address).await.unwrap();
        silent.write_all(b"GET / HT").await.unwrap();
        let reply = ask(server.address, "/").await;
        assert!(reply.ends_with("hello"), "{reply}");
        let mut rest = Vec::new();
        let _ = silent.read_to_end(&mut rest).await;
        assert!(!rest.ends_with(b"hello"), "it never asked");
    }

    #[tokio::test]
    async fn a_server_stops_though_a_request_never_ends() {
        let Served {
            address,
            stop,
            asked,
        } = server().await;
        let answer = tokio::spawn(async move { ask(address, "/never").await });
        asked.notified().await;
        stop.send(()).unwrap();
        assert_eq!(answer.await.unwrap(), "");
    }
}
