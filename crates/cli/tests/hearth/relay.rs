//! `hearth relay`: what it says, and what it refuses. That devices talk through one is tried in `namespaces`.

use std::io::{Read, Write};
use std::net::TcpStream;

use crate::program::{Home, Running};

#[test]
fn a_relay_says_where_it_is_answers_and_stops() {
    let home = Home::new();
    let relay = Running::start(&home, &["relay", "--listen", "127.0.0.1:0", "--json"]);
    assert_eq!(relay.ready["connections"], 1_024);
    let address = relay.url().strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    write!(
        stream,
        "GET /ping HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n"
    )
    .unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    assert!(reply.starts_with("HTTP/1.1 200"), "{reply}");
    assert_eq!(relay.stop("INT")["event"], "stopped");
    assert!(!home.path().exists(), "it needs no data folder");
}

#[test]
fn a_relay_that_cannot_run_says_what_to_do() {
    let home = Home::new();
    let relay = |more: &[&str]| {
        let arguments = [&["relay", "--listen", "127.0.0.1:0", "--json"], more].concat();
        home.run(&arguments).error_code(1)
    };
    assert_eq!(relay(&["--only", "nobody"]), "bad_request");
    let missing = ["--certificate", "missing.pem", "--key", "missing.pem"];
    assert_eq!(relay(&missing), "certificate");
    let taken = Running::start(&home, &["relay", "--listen", "127.0.0.1:0", "--json"]);
    let address = taken.url().strip_prefix("http://").unwrap();
    let second = home.run(&["relay", "--listen", address, "--json"]);
    assert_eq!(second.error_code(1), "relay");
    // A certificate is nothing without its key.
    let half = home.run(&["relay", "--certificate", "missing.pem", "--json"]);
    assert_eq!(half.code, 2, "{half:?}");
}
