//! Constants that nothing else looks at: a wrong one works until somebody else reads it.
//!
//! Every text of the repository that holds an address is read as a wallet would read it, and what the
//! templates, the guides and the specification name is compared with what the programs use.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use alloy_primitives::Address;
use hearth_chain::bindings::{COLLECTOR_ADDRESS, SETTLEMENT_ADDRESS};
use hearth_chain::embedded::{DEFAULT_CHAIN_ID, EMBER_ADDRESS, TEST_DOLLAR_ADDRESS};
use hearth_node::home::Config;

/// Kinds of files that people and programs read.
const KINDS: [&str; 9] = ["rs", "toml", "md", "json", "mjs", "js", "ts", "sol", "py"];
/// Folders that hold what was built or fetched, and inputs of the fuzzer.
const PASSED_OVER: [&str; 6] = ["target", ".git", "node_modules", "corpus", "shared", "out"];
/// The longest file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 8 << 20;
/// Addresses that are wrong on purpose, because a reader must say so or must not mind.
const WRONG_ON_PURPOSE: [(&str, &str); 3] = [
    (
        "crates/node/tests/constants.rs",
        "0x569b35Ed675c9ca42DBD1b6Dd75bdC2965D5ec8E",
    ),
    (
        "crates/protocol/src/address.rs",
        "0x569b35Ed675c9ca42DBD1b6Dd75bdC2965D5ec8E",
    ),
    (
        "crates/node/src/home/config.rs",
        "0x569b35Ed675c9ca42DBD1b6Dd75bdC2965D5ec8E",
    ),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap()
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    let entries = std::fs::read_dir(folder).unwrap().flatten();
    for entry in entries {
        let (path, kind) = (entry.path(), entry.file_type().unwrap());
        let name = entry.file_name().into_string().unwrap_or_default();
        if kind.is_dir() && !PASSED_OVER.contains(&name.as_str()) {
            files(&path, found);
        }
        let ending = path.extension().and_then(|ending| ending.to_str());
        let is_read = kind.is_file() && ending.is_some_and(|ending| KINDS.contains(&ending));
        if is_read && entry.metadata().unwrap().len() <= FILE_BYTES_MAX {
            found.push(path);
        }
    }
}

/// Every `0x` with exactly 40 hex digits.
fn addresses(text: &str) -> impl Iterator<Item = &str> {
    text.match_indices("0x").filter_map(|(at, _)| {
        let digits = &text[at + 2..];
        let end = digits.find(|c: char| !c.is_ascii_hexdigit());
        let end = end.unwrap_or(digits.len());
        (end == 40).then(|| &text[at..at + 42])
    })
}

fn is_mixed(address: &str) -> bool {
    let digits = &address.as_bytes()[2..];
    digits.iter().any(u8::is_ascii_uppercase) && digits.iter().any(u8::is_ascii_lowercase)
}

fn has_letters(address: &str) -> bool {
    address.as_bytes()[2..].iter().any(u8::is_ascii_alphabetic)
}

#[test]
fn every_address_in_the_repository_is_one_that_a_wallet_takes() {
    let root = root().canonicalize().unwrap();
    let mut all = Vec::new();
    files(&root, &mut all);
    let (mut checked, mut wrong) = (0, Vec::new());
    for path in all {
        let Ok(text) = std::fs::read_to_string(&path) else {
            continue;
        };
        let shown = path.strip_prefix(&root).unwrap().display().to_string();
        // What people copy and what programs write have the checksum; a test of a reader may not.
        // and vectors hold the bytes that a program signs.
        let is_shown = !shown.ends_with(".rs") && !shown.starts_with("vectors/");
        for address in addresses(&text) {
            let right: Address = address.parse().unwrap();
            let is_right = right.to_checksum(None) == address;
            let must = is_mixed(address) || (is_shown && has_letters(address));
            let is_meant = WRONG_ON_PURPOSE.contains(&(shown.as_str(), address));
            if must && !is_right && !is_meant {
                wrong.push(format!("{shown}: {address} is {right}"));
            }
            checked += 1;
        }
    }
    assert!(checked > 100, "only {checked} were found");
    wrong.sort();
    wrong.dedup();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_template_of_the_configuration_names_what_the_embedded_chain_has() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.toml");
    let template = read("crates/node/src/home/config.toml");
    std::fs::write(&path, &template).unwrap();
    let config = Config::read(&path).unwrap();
    let (_, asset) = config.asset("TESTUSD").unwrap();
    let network = config.network_chain.as_ref().unwrap();
    assert_eq!(asset.id.chain, network.id());
    assert_eq!(asset.id.token, TEST_DOLLAR_ADDRESS);
    let token = format!("erc20:{}", asset.id.token.to_checksum(None));
    assert!(template.contains(&format!("\"{token}\"")), "{token}");
    let embedded = format!("eip155:{DEFAULT_CHAIN_ID}");
    assert!(template.contains(&format!("# [chains.\"{embedded}\"]")));
    assert!(template.contains(&format!("\"{embedded}/{token}\"")));
    let contract = read("contracts/src/TestDollar.sol");
    let domain = asset.eip712.as_ref().unwrap();
    assert!(
        contract.contains(&format!("\"{}\"", domain.name)),
        "{domain:?}"
    );
    assert_eq!(asset.decimals, 6);
    assert!(config.chains.contains_key(&asset.id.chain));
}

#[test]
fn what_the_specification_names_is_what_the_programs_use() {
    let named = |page: &str, address: Address| {
        assert!(
            read(page).contains(&address.to_checksum(None)),
            "{page} does not name {address}"
        );
    };
    for page in ["docs/spec/05-embedded-chain.md", "docs/spec/08-payments.md"] {
        named(page, SETTLEMENT_ADDRESS);
        named(page, COLLECTOR_ADDRESS);
    }
    assert_ne!(EMBER_ADDRESS, TEST_DOLLAR_ADDRESS);
    let spec = read("docs/spec/05-embedded-chain.md");
    let spaced = spec.replace(',', "");
    assert!(spaced.contains(&DEFAULT_CHAIN_ID.to_string()));
    // Guides and templates name the same chain wherever they name an embedded one.
    for page in [
        "docs/guide/chain.md",
        "docs/guide/payments.md",
        "docs/guide/wallet.md",
    ] {
        let text = read(page);
        for (at, _) in text.match_indices("eip155:") {
            let digits: String = text[at + 7..]
                .chars()
                .take_while(char::is_ascii_digit)
                .collect();
            assert!(!digits.starts_with('0'), "{page}: eip155:{digits}");
        }
    }
}
