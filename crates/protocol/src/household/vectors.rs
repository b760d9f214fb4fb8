//! `vectors/household.json` and `vectors/household_bad.json`: what a reader must believe and refuse,
//! as another implementation hashes and signs it.

use alloy_primitives::B256;
use serde_json::Value;

use super::*;
use crate::content::ContentHash;
use crate::signature::testing::Key;

fn good() -> Value {
    serde_json::from_str(include_str!("../../../../vectors/household.json")).unwrap()
}

fn bad() -> Value {
    serde_json::from_str(include_str!("../../../../vectors/household_bad.json")).unwrap()
}

fn now(vectors: &Value) -> Timestamp {
    Timestamp(number(&vectors["now"]))
}

fn number(value: &Value) -> u64 {
    value.as_str().unwrap().parse().unwrap()
}

fn text<T: std::str::FromStr<Err: std::fmt::Debug>>(value: &Value) -> T {
    value.as_str().unwrap().parse().unwrap()
}

fn household() -> Address {
    text(&good()["keys"][0]["address"])
}

/// A statement of the vectors, and its digest as this program computes it.
fn statement(vector: &Value) -> (HouseholdStatement, B256) {
    let message = &vector["message"];
    let device = message["device"].as_str().unwrap();
    let device = device.strip_prefix("0x").unwrap().parse().unwrap();
    let household = text(&message["household"]);
    let signature = text(&vector["signature"]);
    match vector["type"].as_str().unwrap() {
        "HouseholdDevice" => {
            let certificate = Certificate {
                household,
                device,
                name: message["name"].as_str().unwrap().to_owned(),
                issued_at: Timestamp(number(&message["issuedAt"])),
                expires_at: Timestamp(number(&message["expiresAt"])),
            };
            let digest = certificate.digest();
            let signed = SignedCertificate {
                certificate,
                signature,
            };
            (HouseholdStatement::Certificate(signed), digest)
        }
        "HouseholdRemoval" => {
            let removal = Removal {
                household,
                device,
                removed_at: Timestamp(number(&message["removedAt"])),
            };
            let digest = removal.digest();
            (
                HouseholdStatement::Removal(SignedRemoval { removal, signature }),
                digest,
            )
        }
        other => panic!("a statement of the type {other}"),
    }
}

fn statements(vectors: &Value) -> &[Value] {
    let all = vectors["statements"].as_array().unwrap();
    assert!(!all.is_empty());
    all
}

#[test]
fn statements_are_hashed_and_signed_as_another_implementation_does() {
    let vectors = good();
    let key = Key::new(0x68);
    assert_eq!(key.address(), household());
    for vector in statements(&vectors) {
        let name = &vector["name"];
        let (statement, digest) = statement(vector);
        assert_eq!(digest, text::<B256>(&vector["digest"]), "{name}");
        assert_eq!(key.sign(digest), text(&vector["signature"]), "{name}");
        let checked = statement.check(household(), now(&vectors));
        assert_eq!(checked, Ok(()), "{name}");
    }
}

#[test]
fn each_bad_statement_is_refused_for_its_reason() {
    let vectors = bad();
    for vector in statements(&vectors) {
        let name = &vector["name"];
        let (statement, digest) = statement(vector);
        assert_eq!(digest, text::<B256>(&vector["digest"]), "{name}");
        let why = statement.check(household(), now(&vectors)).unwrap_err();
        let why = match why {
            HouseholdStatementError::OtherHousehold(_) => "OtherHousehold".to_owned(),
            other => format!("{other:?}"),
        };
        assert_eq!(why, vector["error"].as_str().unwrap(), "{name}");
        let mut reader = Roster::new(household());
        assert!(reader.take(now(&vectors), statement).is_err(), "{name}");
        assert_eq!(reader.statements(), [], "{name}");
    }
}

#[test]
fn an_invitation_is_kept_as_the_hash_that_the_vectors_state() {
    let vectors = good();
    let vector = &vectors["invitation"];
    let bytes = alloy_primitives::hex::decode(vector["secret"].as_str().unwrap()).unwrap();
    let secret = Secret(bytes.try_into().unwrap());
    let hash = vector["hash"].as_str().unwrap().strip_prefix("0x").unwrap();
    let hash: ContentHash = hash.parse().unwrap();
    let mut open = Invitations::default();
    open.open(now(&vectors), &secret, 1).unwrap();
    let kept = serde_json::to_string(&open).unwrap();
    assert!(kept.contains(&hash.to_string()), "{kept} without {hash}");
}
