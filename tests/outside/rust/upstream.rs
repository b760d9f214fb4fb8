//! A service that knows nothing of payments, to stand behind ours: `tests/outside/js/upstream.mjs`.

use serde_json::{Value, json};

use crate::process::{self, Process};
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

    fn control(&self, request: &str) -> Value {
        process::ask(&self.address, request)
    }
}
