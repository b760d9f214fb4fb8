//! Processes that a test starts, talks to in lines of JSON, and never leaves behind.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

/// The longest that any one line is waited for: a cold start of an interpreter on a loaded machine takes seconds.
const WAIT: Duration = Duration::from_secs(90);

/// A child whose standard output is read line by line; it is killed when this is dropped.
pub(crate) struct Process {
    name: &'static str,
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
    errors: Arc<Mutex<String>>,
}

impl Process {
    /// Starts `command`, whose standard streams become pipes.
    pub(crate) fn start(name: &'static str, command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        let (sender, lines) = channel();
        let output = child.stdout.take().expect("piped above");
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let errors = Arc::new(Mutex::new(String::new()));
        let mut stream = child.stderr.take().expect("piped above");
        let kept = Arc::clone(&errors);
        thread::spawn(move || {
            let mut chunk = [0; 4096];
            while let Ok(length @ 1..) = stream.read(&mut chunk) {
                let text = String::from_utf8_lossy(&chunk[..length]).into_owned();
                kept.lock().expect("no holder panics").push_str(&text);
            }
        });
        let input = child.stdin.take();
        Self {
            name,
            child,
            input,
            lines,
            errors,
        }
    }

    /// The first line from now on for which `pick` gives something; others are passed over.
    pub(crate) fn line<T>(&mut self, what: &str, pick: impl Fn(&str) -> Option<T>) -> T {
        let deadline = Instant::now() + WAIT;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    if let Some(found) = pick(&line) {
                        return found;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    panic!(
                        "{} did not say {what} within {WAIT:?}\n{}",
                        self.name,
                        self.errors()
                    )
                }
                Err(RecvTimeoutError::Disconnected) => {
                    // The reader of the errors may be a moment behind the reader of the output.
                    let status = self.child.wait();
                    panic!(
                        "{} ended ({status:?}) before it said {what}\n{}",
                        self.name,
                        self.errors()
                    )
                }
            }
        }
    }

    /// The first line from now on that is a JSON object with `key`.
    pub(crate) fn json(&mut self, key: &str) -> Value {
        self.line(&format!("a line with {key:?}"), |line| {
            serde_json::from_str::<Value>(line)
                .ok()
                .filter(|value| value.get(key).is_some())
        })
    }

    /// Writes one line of JSON to the process.
    pub(crate) fn send(&mut self, value: &Value) {
        let input = self
            .input
            .as_mut()
            .expect("the input is open while the process lives");
        writeln!(input, "{value}").unwrap_or_else(|error| {
            panic!("{} reads no more: {error}\n{}", self.name, self.errors())
        });
    }

    /// Ends the process at once, as a power cut would, and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        // It may have ended by itself, which is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// What the process wrote to its standard error so far.
    pub(crate) fn errors(&self) -> String {
        self.errors.lock().expect("no holder panics").clone()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            eprintln!(
                "--- {} wrote to its standard error:\n{}",
                self.name,
                self.errors()
            );
        }
    }
}

/// A port of the loopback address that nobody listens on.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0))
        .and_then(|listener| listener.local_addr())
        .expect("the loopback address has a free port")
        .port()
}

/// One exchange with a program at `address`, past any payment: `request` is such as `GET /control/served`.
pub(crate) fn ask(address: &str, request: &str) -> Value {
    let mut stream = TcpStream::connect(address).expect("the program listens");
    stream
        .set_read_timeout(Some(WAIT))
        .expect("a socket has one");
    write!(stream, "{request} HTTP/1.0\r\n\r\n").expect("the program reads");
    let mut reply = String::new();
    stream
        .read_to_string(&mut reply)
        .expect("the program answers");
    let body = reply.split("\r\n\r\n").nth(1).expect("a reply has a body");
    serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {reply}"))
}
