//! Approvals to the owner.

#![allow(clippy::unwrap_used)]

use hearth_mandate::approval::{
    APPROVALS_MAX, AnswerError, Approval, Approvals, AskError, AskedCall,
};
use hearth_mandate::tool::{Deed, ToolName};
use serde_json::{Value, json};

fn call(arguments: Value) -> AskedCall {
    AskedCall {
        tool: ToolName::new("bank/pay").unwrap(),
        deed: Deed::Pay,
        arguments,
        reasons: vec!["a web page led to it".into()],
        origins: vec![("/to".into(), "the web page https://example.org".into())],
    }
}

fn approval(arguments: Value) -> Approval {
    Approval {
        chat: "c1".into(),
        calls: vec![call(arguments)],
        until_ms: 1_000,
    }
}

#[test]
fn a_yes_is_to_the_calls_that_were_shown_and_counts_once() {
    let mut approvals = Approvals::default();
    let (small, large) = (
        approval(json!({"amount": "1"})),
        approval(json!({"amount": "9"})),
    );
    let first = approvals.ask(small.clone(), 0).unwrap();
    let second = approvals.ask(large.clone(), 0).unwrap();
    let mistaken = approvals.answer(second, small.hash(), true, 1);
    assert_eq!(mistaken, Err(AnswerError::Other));
    assert_eq!(
        approvals.answer(first, small.hash(), true, 1),
        Ok(small.calls.clone())
    );
    let again = approvals.answer(first, small.hash(), true, 1);
    assert_eq!(again, Err(AnswerError::NoApproval));
    assert_eq!(
        approvals.answer(second, large.hash(), false, 1),
        Ok(Vec::new())
    );
    assert_eq!(approvals.open(1).count(), 0);
}

#[test]
fn everything_that_is_shown_is_in_the_hash() {
    let shown = approval(json!({"amount": "1"}));
    let mut others = vec![approval(json!({"amount": "1", "to": "x"})); 6];
    others[1] = Approval {
        chat: "c2".into(),
        ..shown.clone()
    };
    others[2] = Approval {
        until_ms: 1_001,
        ..shown.clone()
    };
    others[3] = shown.clone();
    others[3].calls[0].deed = Deed::Send;
    others[4] = shown.clone();
    others[4].calls[0].origins.clear();
    others[5] = shown.clone();
    others[5].calls.push(call(json!({})));
    for other in others {
        assert_ne!(other.hash(), shown.hash(), "{other:?}");
    }
}

#[test]
fn a_late_yes_does_nothing() {
    let mut approvals = Approvals::default();
    let asked = approval(json!({}));
    let number = approvals.ask(asked.clone(), 0).unwrap();
    assert_eq!(approvals.open(999).count(), 1);
    assert_eq!(approvals.open(1_000).count(), 0);
    let late = approvals.answer(number, asked.hash(), true, 1_000);
    assert_eq!(late, Err(AnswerError::Lapsed));
}

#[test]
fn requests_without_end_displace_none_that_waits() {
    let mut approvals = Approvals::default();
    let first = approval(json!({}));
    let number = approvals.ask(first.clone(), 0).unwrap();
    for _ in 1..APPROVALS_MAX {
        approvals.ask(approval(json!({})), 0).unwrap();
    }
    assert_eq!(approvals.ask(approval(json!({})), 999), Err(AskError::Full));
    assert!(approvals.answer(number, first.hash(), true, 999).is_ok());
    approvals.ask(approval(json!({})), 999).unwrap();
    // Those that have lapsed make room.
    let later = Approval {
        until_ms: 5_000,
        ..approval(json!({}))
    };
    approvals.ask(later, 1_000).unwrap();
    assert_eq!(approvals.open(1_000).count(), 1);
    let empty = Approval {
        calls: Vec::new(),
        ..first
    };
    assert_eq!(approvals.ask(empty, 1_000), Err(AskError::Calls));
}
