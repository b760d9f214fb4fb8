//! `vectors/runs.json` and `vectors/runs_bad.json`: what every implementation computes and refuses.

#![allow(
    clippy::unwrap_used,
    reason = "what a test helper cannot unwrap, the test cannot go on without"
)]

use alloy_primitives::{Address, B256};
use hearth_protocol::content::ContentHash;
use hearth_protocol::ledger::draw::Seat;
use hearth_protocol::offer::DeviceId;
use hearth_protocol::run::book::{BookError, RoundBook};
use hearth_protocol::run::committee::{RunCommittee, RunSeat};
use hearth_protocol::run::history::RunRules;
use hearth_protocol::run::message::{LossBits, LossKey, RoundStart, Work};
use serde::de::DeserializeOwned;
use serde_json::Value;

fn good(part: &str) -> Vec<Value> {
    let all: Value = serde_json::from_str(include_str!("../../../vectors/runs.json")).unwrap();
    let list = all[part].as_array().unwrap().clone();
    assert!(!list.is_empty());
    list
}

fn read<T: DeserializeOwned>(value: &Value) -> T {
    serde_json::from_value(value.clone()).unwrap()
}

fn number(value: &Value) -> u64 {
    value.as_str().unwrap().parse().unwrap()
}

#[test]
fn commitments_and_seals_are_those_of_the_vectors() {
    for case in good("commitments") {
        let start = RoundStart {
            run: read(&case["run"]),
            index: number(&case["index"]),
            parent: read(&case["parent"]),
        };
        let work: Work = read(&case["work"]);
        let made = work.commitment(&start, read(&case["trainer"]), read(&case["account"]));
        assert_eq!(made, read::<ContentHash>(&case["commitment"]));
    }
    for case in good("seals") {
        let losses: Vec<LossBits> = read(&case["losses"]);
        let key = LossKey::of(&losses);
        assert_eq!(key, read(&case["key"]));
        assert_eq!(key.log(), read(&case["log"]));
        assert_eq!(key.seal(read(&case["validator"])), read(&case["seal"]));
    }
}

#[test]
fn books_have_the_names_of_the_vectors_and_bad_ones_are_refused() {
    for case in good("books") {
        let text = case["text"].as_str().unwrap();
        let book = RoundBook::read(text.as_bytes()).unwrap();
        assert_eq!(book.to_bytes(), text.as_bytes());
        assert_eq!(book.name(), read::<ContentHash>(&case["name"]));
        assert_eq!(book.own_state(), read::<Option<B256>>(&case["ownState"]));
    }
    let all: Value = serde_json::from_str(include_str!("../../../vectors/runs_bad.json")).unwrap();
    for case in all["books"].as_array().unwrap() {
        let text = case["text"].as_str().unwrap();
        let error = match RoundBook::read(text.as_bytes()).unwrap_err() {
            BookError::Json(_) => "json",
            BookError::NotCanonical => "not-canonical",
            BookError::Order(_) => "order",
            BookError::Early { .. } => "early",
            BookError::Count { .. } => "count",
            _ => "another",
        };
        assert_eq!(error, case["error"], "{text}");
    }
}

fn rules(case: &Value) -> RunRules {
    RunRules {
        run: B256::ZERO,
        quorum: 1,
        trainers_max: 8,
        steps: 5,
        steps_min: 1,
        grace_ms: 1_000,
        attempt_ms: 80_000,
        carry: false,
        audit_per_mille: u32::try_from(case["perMille"].as_u64().unwrap()).unwrap(),
        newcomer_rounds: 0,
        rounds: 10,
    }
}

#[test]
fn audits_are_drawn_as_the_vectors_say() {
    for case in good("draws") {
        let rules = RunRules {
            run: read(&case["run"]),
            ..rules(&case)
        };
        let (beacon, trainer) = (read(&case["beacon"]), read(&case["trainer"]));
        let rate = u64::from(rules.audit_per_mille);
        let is_drawn = rules.is_drawn(beacon, number(&case["index"]), trainer, rate);
        assert_eq!(is_drawn, case["isDrawn"].as_bool().unwrap());
    }
}

#[test]
fn who_has_less_at_stake_is_replayed_more_as_the_vectors_say() {
    for case in good("rates") {
        let rules = rules(&case);
        let earlier: Vec<(u64, u32)> = read(&case["earlier"]);
        let at_stake = rules.at_stake(number(&case["index"]), &earlier);
        let steps = u32::try_from(case["steps"].as_u64().unwrap()).unwrap();
        assert_eq!(
            rules.vesting_rounds(),
            case["vestingRounds"].as_u64().unwrap()
        );
        assert_eq!(
            rules.audit_rate(steps, at_stake),
            case["rate"].as_u64().unwrap()
        );
    }
}

#[test]
fn proposers_and_auditors_are_in_the_order_of_the_vectors() {
    for case in good("orders") {
        let validators: Vec<DeviceId> = read(&case["validators"]);
        let seats = validators.iter().zip(1..).map(|(device, byte)| RunSeat {
            device: *device,
            seat: Seat {
                device: Address::repeat_byte(byte),
                household: Address::repeat_byte(0x80 + byte),
                weight: 1_000,
            },
        });
        let committee = RunCommittee::draw(1, B256::ZERO, B256::ZERO, seats.collect());
        let parent = read(&case["parent"]);
        let proposers: Vec<DeviceId> = (0..validators.len() as u64)
            .map(|attempt| committee.proposer(parent, attempt).unwrap().device)
            .collect();
        assert_eq!(proposers, read::<Vec<DeviceId>>(&case["proposers"]));
        let (beacon, trainer) = (read(&case["beacon"]), read(&case["trainer"]));
        let auditors = committee.auditors(beacon, number(&case["index"]), trainer, Address::ZERO);
        let auditors: Vec<DeviceId> = auditors.iter().map(|seat| seat.device).collect();
        assert_eq!(auditors, read::<Vec<DeviceId>>(&case["auditors"]));
    }
}
