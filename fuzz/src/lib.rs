//! What is fuzzed, and what must hold for any input.
//!
//! Each target is a plain function over bytes that says whether it could read them. libFuzzer drives it
//! through a small binary of the same name in `fuzz_targets/`; the tests below drive it through every
//! seed in `corpus/`, so that an input that once broke something is tried again in every run of the
//! tests. Nothing here knows libFuzzer.

mod notices;
mod paths;
mod quotes;
pub mod readers;
mod tickets;
mod training;

use std::fmt::{Debug, Display};
use std::fs;
use std::str::FromStr;
use std::sync::LazyLock;

use alloy_primitives::Address;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hearth_chain::embedded::{Embedded, EmbeddedConfig, Genesis};
use hearth_models::catalogue::Catalogue;
use hearth_models::gguf::Header;
use hearth_net::codec::{
    Frame, LENGTH_BYTES, decode, decode_announcement, encode, encode_announcement, frame_length,
};
use hearth_net::offers::{Event, Table};
use hearth_net::{HouseholdMessage, Origin, decode_household, encode_household, household_length};
use hearth_node::home::Config;
use hearth_node::keys::Keystore;
use hearth_payments::watchtower::Handover;
use hearth_protocol::answer::frame::FRAME_BYTES_MAX;
use hearth_protocol::answer::{PayerFrame, ProviderFrame};
use hearth_protocol::channel::{Terms, check};
use hearth_protocol::eip712::{ChannelConfig, SettlementDomain, TokenDomain};
use hearth_protocol::household::{
    Household, HouseholdAsk, HouseholdReply, HouseholdStatement, InviteTicket, MESSAGE_BYTES_MAX,
};
use hearth_protocol::id::{AccountId, AssetId, ChainId, ChannelId};
use hearth_protocol::money::Amount;
use hearth_protocol::offer::DeviceId;
use hearth_protocol::signature::Signature;
use hearth_protocol::time::Timestamp;
use hearth_protocol::x402::{
    BatchExtra, BatchPayload, ExactPayload, Extensions, FacilitatorPayload, HEADER_BYTES_MAX,
    PaymentPayload, PaymentRequired, SettleResponse, VerifyRequest, decode_header, encode_header,
    payment_identifier,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use notices::notices;
pub use paths::paths;
pub use quotes::quotes;
pub use tickets::tickets;
pub use training::{bases, books, contributions, datasets, models, runs, updates};
mod bodies;

pub use bodies::{chat, completions, embeddings, messages, responses};

/// A function that must not panic whatever it is given, and says whether it could read it.
pub type Target = fn(&[u8]) -> bool;

/// Every target, by the name of its binary and of the folder of its seeds.
pub const TARGETS: &[(&str, Target)] = &[
    ("amounts", amounts),
    ("bases", bases),
    ("books", books),
    ("calls", readers::calls),
    ("catalogue", readers::catalogue),
    ("chat", chat),
    ("completions", completions),
    ("contributions", contributions),
    ("datasets", datasets),
    ("embeddings", embeddings),
    ("facilitator", facilitator),
    ("files", files),
    ("frames", frames),
    ("gguf", gguf),
    ("grammar", readers::grammar),
    ("handovers", handovers),
    ("headers", headers),
    ("household", household),
    ("identifiers", identifiers),
    ("messages", messages),
    ("models", models),
    ("notices", notices),
    ("offers", offers),
    ("paths", paths),
    ("payloads", payloads),
    ("quotes", quotes),
    ("replies", readers::replies),
    ("responses", responses),
    ("rpc", rpc),
    ("runs", runs),
    ("template", readers::template),
    ("tickets", tickets),
    ("updates", updates),
    ("vocabulary", readers::vocabulary),
];

/// The most decimals a token can state: `decimals()` is a `uint8`.
const DECIMALS_MAX: u8 = u8::MAX;

/// Amounts (spec: identifiers, section 7), in atomic units and in whole tokens. The first byte is the
/// number of decimals of the token.
pub fn amounts(input: &[u8]) -> bool {
    let Some((&decimals, rest)) = input.split_first() else {
        return false;
    };
    let Ok(text) = std::str::from_utf8(rest) else {
        return false;
    };
    for decimals in [decimals, 0, 6, 18, DECIMALS_MAX] {
        if let Ok(amount) = Amount::parse_decimal(text, decimals) {
            let written = amount.to_decimal(decimals);
            let again = Amount::parse_decimal(&written, decimals);
            assert_eq!(again, Ok(amount), "{text:?} with {decimals} decimals");
        }
    }
    is_stable::<Amount>(text)
}

/// Identifiers of chains, accounts, assets and channels (spec: identifiers): what is read is written
/// in one form, and that form is read as the same thing.
pub fn identifiers(input: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(input) else {
        return false;
    };
    is_stable::<ChainId>(text)
        | is_stable::<AccountId>(text)
        | is_stable::<AssetId>(text)
        | is_stable::<ChannelId>(text)
        | is_stable::<Signature>(text)
}

/// The three headers of x402 (spec: payments): as bytes from the wire, and, because a fuzzer finds its
/// way through JSON more easily than through base64, with the input as the JSON inside.
pub fn headers(input: &[u8]) -> bool {
    let wrapped = STANDARD.encode(input);
    [input, wrapped.as_bytes()]
        .into_iter()
        .map(header)
        .fold(false, |any, read| any | read)
}

fn header(value: &[u8]) -> bool {
    let required = decode_header::<PaymentRequired>(value);
    if let Ok(required) = &required {
        assert!(
            value.len() <= HEADER_BYTES_MAX,
            "a header beyond its bound was read"
        );
        is_read_again(required);
        for way in &required.accepts {
            let extra = serde_json::Value::Object(way.extra.clone());
            // Whatever a server states here, reading it is safe.
            let _ = serde_json::from_value::<BatchExtra>(extra);
        }
    }
    let payload = decode_header::<PaymentPayload>(value);
    if let Ok(payload) = &payload {
        is_read_again(payload);
        identifier(&payload.extensions);
    }
    let response = decode_header::<SettleResponse>(value);
    if let Ok(response) = &response {
        is_read_again(response);
    }
    required.is_ok() || payload.is_ok() || response.is_ok()
}

/// What was read and fits into a header must be read again from there.
fn is_read_again<T: Serialize + DeserializeOwned>(message: &T) {
    if let Ok(header) = encode_header(message) {
        assert!(decode_header::<T>(header.as_bytes()).is_ok(), "{header}");
    }
}

fn identifier(extensions: &Extensions) {
    if let Ok(Some(id)) = payment_identifier(extensions) {
        assert!(
            (16..=128).contains(&id.len()),
            "{id:?} has {} bytes",
            id.len()
        );
    }
}

/// What payers sign (spec: payments): the payloads of both schemes, and the check of a channel's
/// payment under terms that fit its configuration, so that the fuzzer gets past them.
pub fn payloads(input: &[u8]) -> bool {
    let exact = serde_json::from_slice::<ExactPayload>(input);
    if let Ok(exact) = &exact {
        is_equal_again(exact);
    }
    let batch = serde_json::from_slice::<BatchPayload>(input);
    if let Ok(payload) = &batch {
        is_equal_again(payload);
        let terms = fitting(payload.config());
        if let Ok(checked) = check(payload, &terms, Timestamp::from_secs(NOW_S)) {
            assert_eq!(checked.channel, payload.voucher().channel_id);
            assert_eq!(checked.config, *payload.config());
            assert_eq!(
                checked.voucher.max_claimable,
                payload.voucher().max_claimable_amount
            );
        }
    }
    exact.is_ok() || batch.is_ok()
}

/// The time at which payloads are checked, in seconds: any will do, as long as it does not move.
const NOW_S: u64 = 1_800_000_000;

fn fitting(config: &ChannelConfig) -> Terms {
    let chain = ChainId(31_337);
    Terms {
        domain: SettlementDomain::new(chain),
        receiver: config.receiver,
        receiver_authorizer: config.receiver_authorizer,
        token: config.token,
        token_domain: TokenDomain::new(chain, config.token, "Test Dollar", "1"),
        withdraw_delay: config.withdraw_delay,
    }
}

/// What a facilitator is sent (spec: payments): requests to verify and settle, and the payloads of
/// claims, settlements and refunds.
pub fn facilitator(input: &[u8]) -> bool {
    let request = serde_json::from_slice::<VerifyRequest>(input);
    if let Ok(request) = &request {
        is_read_again(request);
        identifier(&request.payment_payload.extensions);
    }
    let payload = serde_json::from_slice::<FacilitatorPayload>(input);
    if let Ok(payload) = &payload {
        is_equal_again(payload);
    }
    request.is_ok() || payload.is_ok()
}

/// What a watchtower is handed (spec: payments, section 12).
pub fn handovers(input: &[u8]) -> bool {
    let Ok(handover) = serde_json::from_slice::<Handover>(input) else {
        return false;
    };
    is_equal_again(&handover);
    // Whoever wrote it, checking it is safe.
    let _ = handover.check();
    true
}

/// A frame of an answer's stream (spec: answers, section 7), read as one of either side; and, because
/// a stranger may send any length, the first four bytes as a length.
pub fn frames(input: &[u8]) -> bool {
    if let Some(length) = input.first_chunk()
        && let Ok(bytes) = frame_length(*length)
    {
        assert!((1..=FRAME_BYTES_MAX).contains(&bytes), "{bytes}");
    }
    frame::<PayerFrame>(input) | frame::<ProviderFrame>(input)
}

/// What is read can be sent, and is then read as the same frame.
fn frame<F: Frame + PartialEq + Debug>(input: &[u8]) -> bool {
    let Ok(read) = decode::<F>(input) else {
        return false;
    };
    let sent = encode(&read).expect("a frame within its bounds can be sent");
    let again = decode::<F>(&sent[LENGTH_BYTES..]).expect("what was sent can be read");
    assert_eq!(again, read);
    true
}

/// What a neighbour delivers (spec: answers, section 8): read, written and read again; and put before
/// a table of offers, which must take nothing that is not signed.
pub fn offers(input: &[u8]) -> bool {
    let now = Timestamp::from_secs(NOW_S);
    let mut table = Table::new(now, DeviceId([0; 32]));
    let mut effects = Vec::new();
    let by = DeviceId([1; 32]);
    let event = Event::Delivered {
        by,
        from: &Origin::Unknown,
        bytes: input,
    };
    table.handle(now, event, &mut effects);
    assert_eq!(table.offers().count(), 0, "an unsigned offer was taken");
    let Ok(read) = decode_announcement(input) else {
        return false;
    };
    // Whatever it says, checking it is safe.
    let _ = read.offer.offer.check(now);
    if let Ok(written) = encode_announcement(&read) {
        assert_eq!(decode_announcement(&written), Ok(read));
    }
    true
}

/// What devices tell each other about their household (spec: household, sections 3 and 4): a message
/// of either side, the payload of a ticket, and the first four bytes as a length. Whatever is told,
/// nobody becomes a member whom the household's account did not name.
pub fn household(input: &[u8]) -> bool {
    if let Some(length) = input.first_chunk()
        && let Ok(bytes) = household_length(*length)
    {
        assert!((1..=MESSAGE_BYTES_MAX).contains(&bytes), "{bytes}");
    }
    let ask = message::<HouseholdAsk>(input);
    let reply = message::<HouseholdReply>(input);
    match (&ask, &reply) {
        (Some(HouseholdAsk::Compare(told)), _) | (_, Some(HouseholdReply::Statements(told))) => {
            is_believed_of_nobody(told);
        }
        _ => {}
    }
    // A ticket comes from whoever pasted it.
    let ticket = postcard::take_from_bytes::<InviteTicket>(input);
    let ticket = ticket.is_ok_and(|(_, rest)| rest.is_empty());
    ask.is_some() || reply.is_some() || ticket
}

/// What is read can be sent, and is then read as the same message.
fn message<M: HouseholdMessage + PartialEq + Debug>(input: &[u8]) -> Option<M> {
    let read: M = decode_household(input).ok()?;
    let sent = encode_household(&read).expect("a message within its bounds can be sent");
    let again: M = decode_household(&sent[LENGTH_BYTES..]).expect("what was sent can be read");
    assert_eq!(again, read);
    Some(read)
}

/// No key signed for the household of this test, so nothing that is told about it holds.
fn is_believed_of_nobody(told: &[HouseholdStatement]) {
    let now = Timestamp::from_secs(NOW_S);
    let own = DeviceId([1; 32]);
    let nobodys = Address::repeat_byte(0x11);
    let mut household = Household::new(own, nobodys, None, now);
    let _ = household.compare(now, told.to_vec());
    assert_eq!(household.roster().statements(), [], "it was believed");
    let joined = household.adopt(now, nobodys, told.to_vec());
    assert!(joined.is_err(), "it was let in by nobody");
}

/// The body of a request at the port of the embedded chain (spec: embedded chain, section 10). All
/// inputs of a run meet the same chain.
pub fn rpc(input: &[u8]) -> bool {
    static CHAIN: LazyLock<Embedded> = LazyLock::new(|| {
        let genesis = Genesis::standard(Address::repeat_byte(1));
        Embedded::in_memory(EmbeddedConfig::new(genesis)).expect("a chain in memory opens")
    });
    let Some(reply) = CHAIN.answer(input) else {
        return true;
    };
    let reply: serde_json::Value = serde_json::from_slice(&reply).expect("a reply is JSON");
    let replies = match reply {
        serde_json::Value::Array(replies) => replies,
        reply => vec![reply],
    };
    for reply in &replies {
        assert_eq!(reply["jsonrpc"], "2.0", "{reply}");
        let has = |field: &str| reply.get(field).is_some();
        assert!(has("result") != has("error"), "{reply}");
    }
    replies.iter().any(|reply| reply.get("result").is_some())
}

/// The files that a person may edit or damage: the configuration (spec: guide), the keystore and the
/// catalogue of models.
pub fn files(input: &[u8]) -> bool {
    static FOLDER: LazyLock<tempfile::TempDir> =
        LazyLock::new(|| tempfile::tempdir().expect("a temporary folder"));
    let path = FOLDER.path().join(std::process::id().to_string());
    fs::write(&path, input).expect("a file can be written");
    let catalogue = std::str::from_utf8(input).map(Catalogue::with);
    Config::read(&path).is_ok()
        | Keystore::read(&path).is_ok()
        | catalogue.is_ok_and(|catalogue| catalogue.is_ok())
}

/// The head of a model file, as a stranger's file and as the begin of a larger one: what is read lies
/// within the file.
pub fn gguf(input: &[u8]) -> bool {
    let mut any = false;
    for file_bytes in [input.len() as u64, u64::MAX] {
        if let Ok(header) = Header::read(input, file_bytes) {
            let data: u64 = header.tensors.iter().map(|tensor| tensor.bytes()).sum();
            assert!(header.head_bytes + data <= header.file_bytes);
            assert!(!header.quantisation().is_empty());
            any = true;
        }
    }
    any
}

/// What was read must be written in a form that is read as the same thing. For messages whose every
/// field is typed; free JSON may hold a number that is rounded on the way.
fn is_equal_again<T>(message: &T)
where
    T: Serialize + DeserializeOwned + PartialEq + Debug,
{
    let written = serde_json::to_vec(message).expect("a message that was read can be written");
    let again: T = serde_json::from_slice(&written).expect("what was written can be read");
    assert_eq!(&again, message);
}

/// Reads a text; what was read must be written in a form that is read as the same thing.
fn is_stable<T: FromStr + Display + PartialEq + Debug>(text: &str) -> bool {
    let Ok(read) = text.parse::<T>() else {
        return false;
    };
    let written = read.to_string();
    let again = written.parse::<T>().ok();
    assert_eq!(
        again.as_ref(),
        Some(&read),
        "{text:?} was written as {written:?}"
    );
    true
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use super::*;

    /// Every seed of a target, by file name.
    fn seeds(name: &str) -> BTreeMap<String, Vec<u8>> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("corpus")
            .join(name);
        let entries = fs::read_dir(folder).expect("each target has a folder of seeds");
        entries
            .map(|entry| entry.expect("a readable folder").path())
            .map(|path| {
                let name = path
                    .file_name()
                    .expect("a name")
                    .to_string_lossy()
                    .into_owned();
                (name, fs::read(&path).expect("a readable seed"))
            })
            .collect()
    }

    #[test]
    fn every_seed_passes_and_good_ones_are_read() {
        for (name, target) in TARGETS {
            let seeds = seeds(name);
            assert!(!seeds.is_empty(), "{name} has no seed");
            for (file, seed) in seeds {
                println!("{name}: {file}");
                let read = target(&seed);
                // The name says what a seed is for: bad ones show a form that is refused.
                assert_eq!(read, !file.starts_with("bad_"), "{name}: {file}");
            }
        }
    }

    #[test]
    fn every_target_has_a_binary_and_every_binary_a_target() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz_targets");
        let mut binaries: Vec<String> = fs::read_dir(folder)
            .expect("the folder of binaries")
            .map(|entry| entry.expect("a readable folder").path())
            .map(|path| {
                path.file_stem()
                    .expect("a name")
                    .to_string_lossy()
                    .into_owned()
            })
            .collect();
        binaries.sort();
        let names: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
        assert_eq!(binaries, names);
    }

    #[test]
    #[should_panic(expected = "was written as")]
    fn a_form_that_is_not_read_again_is_found() {
        #[derive(Debug, PartialEq)]
        struct Lossy;
        impl FromStr for Lossy {
            type Err = ();
            fn from_str(text: &str) -> Result<Self, ()> {
                (text == "in").then_some(Self).ok_or(())
            }
        }
        impl Display for Lossy {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("out")
            }
        }
        is_stable::<Lossy>("in");
    }
}
