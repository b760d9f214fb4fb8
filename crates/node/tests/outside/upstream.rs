//! A service that knows nothing of payments, to stand behind ours: `tests/outside/js/upstream.mjs`.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Value, json};

use crate::process::Process;
use crate::programs;

/// The running service.
pub(crate) struct Upstream {
    address: String,
    // Kept for its end: the service dies with it.
    _process: Process,
}

impl Upstream {
    /// Starts the service.
    pub(crate) fn start() -> Self {
        let mut process = Process::start(
            "upstream.mjs",
            &mut programs::node("upstream.mjs", &json!({})),
        );
        let url = process.json("ready")["ready"]
            .as_str()
            .expect("a URL")
            .to_owned();
        let address = url.trim_start_matches("http://").to_owned();
        Self {
            address,
            _process: process,
        }
    }

    /// Where it listens.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Lets every waiting stream come to its end; says how many there were.
    pub(crate) fn release(&self) -> u64 {
        self.control("POST /control/release")["released"]
            .as_u64()
            .expect("it counts")
    }

    /// How many requests reached it.
    pub(crate) fn served(&self) -> u64 {
        self.control("GET /control/served")["served"]
            .as_u64()
            .expect("it counts")
    }

    /// One exchange with the service itself, past any payment.
    fn control(&self, request: &str) -> Value {
        let mut stream = TcpStream::connect(&self.address).expect("the service listens");
        stream
            .set_read_timeout(Some(Duration::from_secs(30)))
            .expect("a socket has one");
        write!(stream, "{request} HTTP/1.0\r\n\r\n").expect("the service reads");
        let mut reply = String::new();
        stream
            .read_to_string(&mut reply)
            .expect("the service answers");
        let body = reply.split("\r\n\r\n").nth(1).expect("a reply has a body");
        serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {reply}"))
    }
}
