//! `hearth relay`: what it says, and what it refuses. That devices talk through one is tried in `namespaces`.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{CertifiedKey, KeyPair, generate_simple_self_signed};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use tempfile::TempDir;

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

/// The name that the certificates of these tests are for.
const NAME: &str = "relay.test";
/// How long a relay may say nothing.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// A certificate that nobody vouches for, and its key, in a folder.
fn certificate() -> TempDir {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed([NAME.to_owned()]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("chain.pem"), cert.pem()).unwrap();
    fs::write(folder.path().join("key.pem"), signing_key.serialize_pem()).unwrap();
    folder
}

fn listen_with<'a>(chain: &'a Path, key: &'a Path) -> [&'a str; 8] {
    let (chain, key) = (chain.to_str().unwrap(), key.to_str().unwrap());
    let listen = ["relay", "--listen", "127.0.0.1:0", "--json"];
    let [relay, flag, address, json] = listen;
    [
        relay,
        flag,
        address,
        json,
        "--certificate",
        chain,
        "--key",
        key,
    ]
}

/// Asks a relay over HTTPS, trusting only `trusted`.
fn ping(address: &str, name: &'static str, trusted: &Path) -> Result<String, String> {
    let mut roots = RootCertStore::empty();
    let certificate = CertificateDer::from_pem_file(trusted).unwrap();
    roots.add(certificate).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = name.try_into().unwrap();
    let connection = ClientConnection::new(Arc::new(config), name).unwrap();
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(SILENCE_MAX)).unwrap();
    let mut stream = StreamOwned::new(connection, stream);
    let asked = format!("GET /ping HTTP/1.1\r\nhost: {NAME}\r\nconnection: close\r\n\r\n");
    let mut reply = [0; 12];
    let answered = stream
        .write_all(asked.as_bytes())
        .and_then(|()| stream.read_exact(&mut reply));
    answered.map_err(|error| error.to_string())?;
    Ok(String::from_utf8(reply.to_vec()).unwrap())
}

#[test]
fn a_relay_with_a_certificate_is_known_by_it_and_by_nothing_else() {
    let (home, own, foreign) = (Home::new(), certificate(), certificate());
    let (chain, key) = (own.path().join("chain.pem"), own.path().join("key.pem"));
    let relay = Running::start(&home, &listen_with(&chain, &key));
    let address = relay.url().strip_prefix("https://").unwrap();
    assert_eq!(ping(address, NAME, &chain).unwrap(), "HTTP/1.1 200");
    let other = ping(address, NAME, &foreign.path().join("chain.pem"));
    assert!(other.unwrap_err().contains("certificate"));
    let renamed = ping(address, "other.test", &chain).unwrap_err();
    assert!(renamed.contains("certificate"), "{renamed}");
    // Plain HTTP at that address is no HTTP at all.
    let mut plain = TcpStream::connect(address).unwrap();
    plain.set_read_timeout(Some(SILENCE_MAX)).unwrap();
    plain.write_all(b"GET /ping HTTP/1.1\r\n\r\n").unwrap();
    let mut reply = Vec::new();
    // The relay may close the connection in any way.
    drop(plain.read_to_end(&mut reply));
    assert!(!reply.starts_with(b"HTTP"), "{reply:?}");
    assert_eq!(relay.stop("TERM")["event"], "stopped");
}

#[test]
fn a_certificate_that_cannot_be_used_is_refused_before_anybody_connects() {
    let (home, own) = (Home::new(), certificate());
    let (chain, key) = (own.path().join("chain.pem"), own.path().join("key.pem"));
    let foreign = own.path().join("foreign.pem");
    let pair = KeyPair::generate().unwrap();
    fs::write(&foreign, pair.serialize_pem()).unwrap();
    let words = own.path().join("words.pem");
    fs::write(&words, "no certificate").unwrap();
    let pairs = [
        (&chain, &foreign),
        (&chain, &words),
        (&words, &key),
        (&key, &chain),
    ];
    for (chain, key) in pairs {
        let refused = home.run(&listen_with(chain, key)).error(1);
        assert_eq!(refused["code"], "certificate", "{refused}");
        let message = refused["message"].as_str().unwrap();
        assert!(message.contains(chain.to_str().unwrap()), "{refused}");
    }
}
