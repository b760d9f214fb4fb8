//! Nothing secret reaches a log, a `Debug` or an error: every flow runs with logging wide open, and what came out is
//! searched for the phrase, the passphrase and every private key.

use std::fmt::Write as _;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

use alloy_primitives::hex;
use hearth_environment::SystemEnvironment;
use hearth_protocol::id::ChainId;
use hearth_protocol::time::Timestamp;
use tracing_subscriber::filter::LevelFilter;
use zeroize::Zeroizing;

use super::*;

const PASSPHRASE: &str = "unmistakable passphrase 4711";

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Everything that could be printed about the keys in `folder`.
fn run_flows(folder: &Path, phrase: RecoveryPhrase, out: &mut String) -> Unlocked {
    let path = folder.join("keystore.json");
    let passphrase = Passphrase::chosen(Zeroizing::new(PASSPHRASE.to_owned())).unwrap();
    writeln!(out, "{phrase:?} {passphrase:?}").unwrap();
    let cost = KdfCost::WEAK_FOR_TESTS;
    let unlocked =
        Keystore::create_at_cost(&path, phrase, &passphrase, cost, &SystemEnvironment).unwrap();
    writeln!(out, "{unlocked:?} {:?}", unlocked.household()).unwrap();
    let device = DeviceIndex::new(1).unwrap();
    writeln!(out, "{:?}", unlocked.session(device)).unwrap();
    let (from, until) = (Timestamp::from_secs(1), Timestamp::from_secs(2));
    let statement = unlocked.authorization(ChainId(1), device, "kitchen", from, until);
    writeln!(out, "{statement:?}").unwrap();
    let keystore = Keystore::read(&path).unwrap();
    writeln!(out, "{keystore:?} {:?}", keystore.unlock(&passphrase)).unwrap();
    let wrong = Passphrase::entered(Zeroizing::new(format!("{PASSPHRASE}x"))).unwrap();
    let words = unlocked.phrase().words().to_owned();
    let again = RecoveryPhrase::parse(&words).unwrap();
    let mut errors: Vec<Box<dyn std::error::Error>> = vec![
        Box::new(keystore.unlock(&wrong).unwrap_err()),
        Box::new(Keystore::create(&path, again, &passphrase, &SystemEnvironment).unwrap_err()),
        Box::new(Passphrase::chosen(Zeroizing::new("short".to_owned())).unwrap_err()),
    ];
    let (first, rest) = words.split_once(' ').unwrap();
    for bad in [
        rest.to_owned(),
        format!("{rest} {first}x"),
        format!("{rest} zoo"),
    ] {
        errors.push(Box::new(RecoveryPhrase::parse(&bad).unwrap_err()));
    }
    std::fs::write(&path, "{").unwrap();
    errors.push(Box::new(Keystore::read(&path).unwrap_err()));
    for error in errors {
        writeln!(out, "{error} {error:?}").unwrap();
    }
    unlocked
}

fn assert_absent(out: &str, unlocked: &Unlocked) {
    let words: Vec<&str> = unlocked.phrase().words().split(' ').collect();
    for part in words.windows(3) {
        assert!(
            !out.contains(&part.join(" ")),
            "three words of the phrase in sequence"
        );
    }
    let mut keys = vec![unlocked.household().to_bytes()];
    keys.extend((0..3).map(|n| unlocked.session(DeviceIndex::new(n).unwrap()).to_bytes()));
    let lower = out.to_lowercase();
    for key in keys {
        assert!(!lower.contains(&hex::encode(key)), "a private key in hex");
        assert!(
            !out.contains(&format!("{:?}", key.0)),
            "a private key as a list of bytes"
        );
    }
    assert!(!out.contains(PASSPHRASE), "the passphrase");
}

#[test]
fn no_secret_is_ever_printed() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(LevelFilter::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    let folder = tempfile::tempdir().unwrap();
    let mut out = String::new();
    let unlocked = tracing::subscriber::with_default(subscriber, || {
        let phrase = RecoveryPhrase::generate(WordCount::TwentyFour, &SystemEnvironment).unwrap();
        run_flows(folder.path(), phrase, &mut out)
    });
    let logged = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(
        logged.contains("made a keystore"),
        "the log was on: {logged}"
    );
    assert!(out.contains(&unlocked.address().to_string()));
    assert_absent(&logged, &unlocked);
    assert_absent(&out, &unlocked);
    // The search itself finds what it looks for.
    let leak = format!("key={}", *unlocked.private_key_hex());
    assert!(std::panic::catch_unwind(|| assert_absent(&leak, &unlocked)).is_err());
}
