//! Messages that come slowly and never whole, at the doors that stand open to others.

use std::time::Duration;

use hearth_doors::{Bounds, Budget, Limits};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// Connections that a door holds at once in these tests.
const CONNECTIONS: usize = 8;
/// How long a loaded machine may take for what should happen at once.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long one who is slow waits between two bytes.
const BETWEEN: Duration = Duration::from_millis(5);

/// A door that has little patience.
pub(crate) fn bounds() -> Bounds {
    Bounds {
        head_timeout: Duration::from_millis(200),
        body_grace: Duration::from_millis(200),
        body_bytes_per_s: 1_000_000,
        ..Bounds::default()
    }
}

/// Few places, so that clients that stay take them all.
pub(crate) fn budget() -> Budget {
    let limits = Limits {
        connections: CONNECTIONS,
        connections_per_address: CONNECTIONS,
        bytes: 1 << 20,
        bytes_per_address: 1 << 20,
    };
    Budget::new(limits, limits)
}

/// Connections that send what is never whole: twice as many as there are places.
pub(crate) struct Slow(JoinSet<(&'static str, Option<String>)>);

impl Slow {
    /// Begins with `head`, a request line and headers without an end, of a request that has a body.
    pub(crate) async fn begin(host: &str, head: &str) -> Self {
        // What is sent at once, and what again and again.
        let messages: [(&'static str, String, &'static str); 8] = [
            ("silence", String::new(), ""),
            ("half a line", "POST /".to_owned(), "x"),
            ("a head without an end", head.to_owned(), "x: y\r\n"),
            (
                "half a body",
                format!("{head}content-length: 100000\r\n\r\n{{"),
                "x",
            ),
            (
                "small chunks",
                format!("{head}transfer-encoding: chunked\r\n\r\n"),
                "1\r\nx\r\n",
            ),
            (
                "an extension of a chunk without an end",
                format!("{head}transfer-encoding: chunked\r\n\r\n1;"),
                "a",
            ),
            (
                "trailers without an end",
                format!("{head}transfer-encoding: chunked\r\n\r\n0\r\n"),
                "x: y\r\n",
            ),
            (
                "a body that is asked for and does not come",
                format!("{head}expect: 100-continue\r\ncontent-length: 9\r\n\r\n"),
                "",
            ),
        ];
        let mut slow = JoinSet::new();
        for _ in 0..2 * CONNECTIONS / messages.len() {
            for (name, begins, goes_on) in messages.clone() {
                let mut stream = TcpStream::connect(host).await.unwrap();
                let _ = stream.write_all(begins.as_bytes()).await;
                slow.spawn(async move {
                    let reply = tokio::time::timeout(PATIENCE, drip(stream, goes_on)).await;
                    (name, reply.ok())
                });
            }
        }
        Self(slow)
    }

    /// Each of them is ended, and none is told that all is well.
    pub(crate) async fn all_end_in_vain(mut self) {
        while let Some(ended) = self.0.join_next().await {
            let (name, reply) = ended.unwrap();
            let reply = reply.unwrap_or_else(|| panic!("{name} is let stay"));
            assert!(!reply.contains("HTTP/1.1 2"), "{name}: {reply}");
        }
    }
}

/// Sends a piece now and then until the other side closes. Returns what it said.
async fn drip(mut stream: TcpStream, piece: &str) -> String {
    let mut said = Vec::new();
    let mut buffer = [0; 1_024];
    loop {
        match tokio::time::timeout(BETWEEN, stream.read(&mut buffer)).await {
            Ok(Ok(0) | Err(_)) => break,
            Ok(Ok(read)) => said.extend_from_slice(&buffer[..read]),
            Err(_) => {
                // The other side may have closed; what it said is read first.
                let _ = stream.write_all(piece.as_bytes()).await;
            }
        }
    }
    String::from_utf8_lossy(&said).into_owned()
}
