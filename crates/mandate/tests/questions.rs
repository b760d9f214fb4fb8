//! Questions to the owner.

use hearth_mandate::question::{
    AnswerError, AskError, AskedCall, QUESTIONS_MAX, Question, Questions,
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

fn question(arguments: Value) -> Question {
    Question {
        chat: "c1".into(),
        calls: vec![call(arguments)],
        until_ms: 1_000,
    }
}

#[test]
fn a_yes_is_to_the_calls_that_were_shown_and_counts_once() {
    let mut questions = Questions::default();
    let (small, large) = (
        question(json!({"amount": "1"})),
        question(json!({"amount": "9"})),
    );
    let first = questions.ask(small.clone(), 0).unwrap();
    let second = questions.ask(large.clone(), 0).unwrap();
    let mistaken = questions.answer(second, small.hash(), true, 1);
    assert_eq!(mistaken, Err(AnswerError::Other));
    assert_eq!(
        questions.answer(first, small.hash(), true, 1),
        Ok(small.calls.clone())
    );
    let again = questions.answer(first, small.hash(), true, 1);
    assert_eq!(again, Err(AnswerError::NoQuestion));
    assert_eq!(
        questions.answer(second, large.hash(), false, 1),
        Ok(Vec::new())
    );
    assert_eq!(questions.open(1).count(), 0);
}

#[test]
fn everything_that_is_shown_is_in_the_hash() {
    let shown = question(json!({"amount": "1"}));
    let mut others = vec![question(json!({"amount": "1", "to": "x"})); 6];
    others[1] = Question {
        chat: "c2".into(),
        ..shown.clone()
    };
    others[2] = Question {
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
    let mut questions = Questions::default();
    let asked = question(json!({}));
    let number = questions.ask(asked.clone(), 0).unwrap();
    assert_eq!(questions.open(999).count(), 1);
    assert_eq!(questions.open(1_000).count(), 0);
    let late = questions.answer(number, asked.hash(), true, 1_000);
    assert_eq!(late, Err(AnswerError::Lapsed));
}

#[test]
fn questions_without_end_displace_none_that_waits() {
    let mut questions = Questions::default();
    let first = question(json!({}));
    let number = questions.ask(first.clone(), 0).unwrap();
    for _ in 1..QUESTIONS_MAX {
        questions.ask(question(json!({})), 0).unwrap();
    }
    assert_eq!(questions.ask(question(json!({})), 999), Err(AskError::Full));
    assert!(questions.answer(number, first.hash(), true, 999).is_ok());
    questions.ask(question(json!({})), 999).unwrap();
    // Those that have lapsed make room.
    let later = Question {
        until_ms: 5_000,
        ..question(json!({}))
    };
    questions.ask(later, 1_000).unwrap();
    assert_eq!(questions.open(1_000).count(), 1);
    let empty = Question {
        calls: Vec::new(),
        ..first
    };
    assert_eq!(questions.ask(empty, 1_000), Err(AskError::Calls));
}
