//! What a chat does with what happens.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::env;
use std::process::Command;

use hearth_agent::chat::{
    ANSWERS_MAX, CALLS_MAX, Chat, Effect, Event, Message, NEXT_MAX, Outcome, REMEMBER, Setting,
    WantedCall,
};
use hearth_agent::claims::Claim;
use hearth_agent::offering::OfferedTool;
use serde_json::json;

fn tool(name: &str, description: &str, founds: &[Claim]) -> OfferedTool {
    OfferedTool {
        name: name.into(),
        description: description.into(),
        parameters: json!({"type": "object"}),
        tokens: 50,
        founds: founds.iter().copied().collect(),
        is_basic: false,
    }
}

fn setting() -> Setting {
    Setting {
        instructions: "You help.".into(),
        instructions_tokens: 100,
        tools: vec![
            tool("files/read", "Reads a file of the workspace", &[]),
            tool(
                "files/write",
                "Writes a file of the workspace",
                &[Claim::Wrote],
            ),
            tool(REMEMBER, "Stores a fact", &[Claim::Remembered]),
        ],
        window_tokens: 2_000,
        answer_tokens: 500,
    }
}

fn said(text: &str) -> Event {
    Event::Said { text: text.into() }
}

fn answered(text: &str, tools: &[&str]) -> Event {
    Event::Answered {
        text: text.into(),
        calls: tools.iter().map(|tool| wanted(tool)).collect(),
    }
}

fn wanted(tool: &str) -> WantedCall {
    WantedCall {
        tool: tool.into(),
        arguments: json!({"path": "notes.txt"}),
    }
}

fn done(call: u64) -> Event {
    Event::Done {
        call,
        outcome: Outcome::Returned { value: json!("ok") },
    }
}

fn measured() -> Event {
    Event::Measured {
        chat_tokens: 100,
        memory_tokens: 0,
    }
}

/// Handles events that lead to nothing but a question to the model in the end.
fn until_asked(chat: &mut Chat, event: Event) {
    assert_eq!(chat.handle(event), [Effect::Measure]);
    let effects = chat.handle(measured());
    assert!(matches!(effects[..], [Effect::Ask { .. }]), "{effects:?}");
}

#[test]
fn a_turn_calls_tools_side_by_side_and_ends_with_an_answer() {
    let mut chat = Chat::new(setting());
    until_asked(&mut chat, said("what is in my notes?"));
    let calls = chat.handle(answered("", &["files/read", "files/read"]));
    let numbers: Vec<_> = calls.iter().filter_map(number).collect();
    assert_eq!(numbers, [0, 1]);
    assert!(chat.handle(done(1)).is_empty());
    // What is over is over, and what was not asked for is nothing.
    assert!(chat.handle(done(1)).is_empty());
    assert!(chat.handle(done(7)).is_empty());
    until_asked(&mut chat, done(0));
    assert_eq!(
        chat.handle(answered("Milk and bread.", &[])),
        [Effect::Rest]
    );
    assert!(chat.is_resting());
}

fn number(effect: &Effect) -> Option<u64> {
    match effect {
        Effect::Call { call, .. } => Some(*call),
        _ => None,
    }
}

#[test]
fn a_claim_without_a_deed_is_doubted_once_and_then_set_right() {
    let mut chat = Chat::new(setting());
    until_asked(&mut chat, said("save it"));
    until_asked(&mut chat, answered("I have saved it in notes.txt.", &[]));
    let effects = chat.handle(answered("Done, I've saved it.", &[]));
    let [Effect::Notice(notice), Effect::Rest] = &effects[..] else {
        panic!("{effects:?}");
    };
    assert!(notice.contains("no file was written"), "{notice}");
    // The model is told as well.
    let Some(Message::Program { text }) = chat.messages().last() else {
        panic!("{:?}", chat.messages());
    };
    assert_eq!(text, notice);
}

#[test]
fn a_doubted_model_may_do_it_after_all_and_a_refusal_founds_no_claim() {
    let mut chat = Chat::new(setting());
    until_asked(&mut chat, said("save it"));
    until_asked(&mut chat, answered("Saved.", &[]));
    assert_eq!(chat.handle(answered("", &["files/write"])).len(), 1);
    until_asked(&mut chat, done(0));
    assert_eq!(chat.handle(answered("Saved.", &[])), [Effect::Rest]);

    until_asked(&mut chat, said("save another"));
    assert_eq!(chat.handle(answered("", &["files/write"])).len(), 1);
    let no = Event::Done {
        call: 1,
        outcome: Outcome::Declined,
    };
    until_asked(&mut chat, no);
    // What was done in the turn before is no deed of this one.
    until_asked(&mut chat, answered("I have written the file.", &[]));
    let honest = answered("You said no: nothing is saved.", &[]);
    assert_eq!(chat.handle(honest), [Effect::Rest]);
}

#[test]
fn what_is_to_be_remembered_is_written_before_the_model_is_asked() {
    let mut chat = Chat::new(setting());
    let effects = chat.handle(said("Remember: the bins go out on Tuesday"));
    let [Effect::Call { call: 0, wanted }] = &effects[..] else {
        panic!("{effects:?}");
    };
    assert_eq!(wanted.tool, REMEMBER);
    assert_eq!(
        wanted.arguments,
        json!({"text": "the bins go out on Tuesday"})
    );
    until_asked(&mut chat, done(0));
    assert_eq!(
        chat.handle(answered("I have stored that.", &[])),
        [Effect::Rest]
    );
    for other in [
        "Remember?",
        "remember the bins?",
        "Do you remember Ada",
        "remember",
    ] {
        until_asked(&mut chat, said(other));
        assert_eq!(chat.handle(answered("Yes.", &[])), [Effect::Rest]);
    }
}

#[test]
fn nothing_is_cut_where_a_chat_no_longer_fits() {
    let mut chat = Chat::new(setting());
    chat.handle(said("go on"));
    let long = Event::Measured {
        chat_tokens: 1_300,
        memory_tokens: 0,
    };
    let effects = chat.handle(long);
    let [Effect::Notice(notice), Effect::Rest] = &effects[..] else {
        panic!("{effects:?}");
    };
    for figure in ["1300", "2000", "500", "Nothing was cut"] {
        assert!(notice.contains(figure), "{figure} is not in {notice}");
    }
    assert_eq!(chat.messages().len(), 1);
}

#[test]
fn a_stop_ends_the_turn_and_loses_no_result() {
    let mut chat = Chat::new(setting());
    until_asked(&mut chat, said("write it"));
    chat.handle(answered("", &["files/write"]));
    assert!(chat.handle(Event::Stopped).is_empty());
    assert_eq!(chat.handle(done(0)), [Effect::Rest]);
    assert!(matches!(
        chat.messages().last(),
        Some(Message::Tool { call: 0, .. })
    ));
    until_asked(&mut chat, said("and now?"));
    assert_eq!(chat.handle(Event::Stopped), [Effect::Rest]);
    // An answer that comes too late is none.
    assert!(chat.handle(answered("late", &["files/write"])).is_empty());
    until_asked(&mut chat, said("once more"));
}

#[test]
fn after_a_restart_the_model_is_asked_again_and_no_deed_is_done_twice() {
    let mut chat = Chat::new(setting());
    until_asked(&mut chat, said("write it"));
    until_asked(&mut chat, Event::Restarted);
    chat.handle(answered("", &["files/write", "files/read"]));
    chat.handle(done(1));
    let effects = chat.handle(Event::Restarted);
    assert_eq!(effects, [Effect::Measure]);
    let unknown = Message::Tool {
        call: 0,
        outcome: Outcome::Unknown,
    };
    assert_eq!(chat.messages().last(), Some(&unknown));
    chat.handle(measured());
    // It may have been written, and nobody knows: the claim is doubted.
    assert_eq!(
        chat.handle(answered("I wrote the file.", &[])),
        [Effect::Measure]
    );
}

#[test]
fn a_model_that_calls_without_end_is_ended() {
    let mut chat = Chat::new(setting());
    until_asked(&mut chat, said("loop"));
    let many: Vec<&str> = vec!["files/read"; CALLS_MAX + 3];
    let calls = chat.handle(answered("", &many));
    assert_eq!(calls.len(), CALLS_MAX);
    let mut call = 0;
    for _ in 1..CALLS_MAX {
        assert!(chat.handle(done(call)).is_empty());
        call += 1;
    }
    until_asked(&mut chat, done(call));
    for _ in 2..ANSWERS_MAX {
        call += 1;
        assert_eq!(chat.handle(answered("", &["files/read"])).len(), 1);
        until_asked(&mut chat, done(call));
    }
    let effects = chat.handle(answered("", &["files/read"]));
    assert!(
        matches!(effects[..], [Effect::Notice(_), Effect::Rest]),
        "{effects:?}"
    );
}

#[test]
fn what_is_said_during_a_turn_waits_for_its_end_and_has_a_bound() {
    let mut chat = Chat::new(setting());
    until_asked(&mut chat, said("first"));
    for number in 0..NEXT_MAX {
        assert!(chat.handle(said(&format!("more {number}"))).is_empty());
    }
    assert!(matches!(
        chat.handle(said("too much"))[..],
        [Effect::Notice(_)]
    ));
    assert_eq!(
        chat.handle(answered("yes", &[])),
        [Effect::Rest, Effect::Measure]
    );
    let Some(Message::Owner { text }) = chat.messages().last() else {
        panic!("{:?}", chat.messages());
    };
    assert!(text.starts_with("more 0\n\nmore 1"), "{text}");
}

/// A session of 200 turns, with 30 calls and three restarts, all drawn from a seed.
fn session(seed: u64) -> Vec<Event> {
    let mut log = Vec::new();
    let mut chat = Chat::new(setting());
    let mut random = seed;
    let mut draw = |below: u64| {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (random >> 33) % below
    };
    let mut push = |chat: &mut Chat, event: Event| {
        log.push(event.clone());
        chat.handle(event)
    };
    let mut calls = 0_u64;
    for turn in 0..200_u64 {
        push(&mut chat, said(&format!("turn {turn}: {}", draw(1_000))));
        if [40, 90, 150].contains(&turn) {
            push(&mut chat, Event::Restarted);
        }
        push(&mut chat, measured());
        if calls < 30 && draw(5) == 0 {
            push(&mut chat, answered("", &["files/read"]));
            push(&mut chat, done(calls));
            calls += 1;
            push(&mut chat, measured());
        }
        let text = if draw(9) == 0 { "I saved it." } else { "Well." };
        while !chat.is_resting() {
            push(&mut chat, answered(text, &[]));
            push(&mut chat, measured());
        }
    }
    assert_eq!(calls, 30, "seed {seed}");
    log
}

const SEED: u64 = 20_261_130;

fn hash_of_the_session() -> String {
    let written = serde_json::to_string(&session(SEED)).unwrap();
    let log: Vec<Event> = serde_json::from_str(&written).unwrap();
    let hash = Chat::replay(setting(), &log).state_hash();
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_log_leads_to_the_same_state_in_two_processes() {
    const MARK: &str = "HEARTH_AGENT_SESSION";
    let hash = hash_of_the_session();
    println!("seed {SEED}: {hash}");
    if env::var_os(MARK).is_some() {
        return;
    }
    let mut other = Command::new(env::current_exe().unwrap());
    other.args([
        "--exact",
        "a_log_leads_to_the_same_state_in_two_processes",
        "--nocapture",
    ]);
    let output = other.env(MARK, "1").output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains(&format!("seed {SEED}: {hash}")), "{said}");
    let changed = Chat::replay(setting(), &session(SEED + 1)).state_hash();
    assert_ne!(
        changed,
        Chat::replay(setting(), &session(SEED)).state_hash()
    );
}

#[test]
fn tools_take_a_quarter_of_the_window_and_those_that_fit_come_first() {
    let mut setting = setting();
    for number in 0..50 {
        let other = tool(&format!("other/{number}"), "Looks at clouds", &[]);
        setting.tools.insert(0, other);
    }
    let mut chat = Chat::new(setting.clone());
    chat.handle(said("please write files for me"));
    let effects = chat.handle(measured());
    let [Effect::Ask { tools, meter }] = &effects[..] else {
        panic!("{effects:?}");
    };
    assert!(meter.tools <= meter.window / 4, "{meter:?}");
    let names: BTreeSet<&str> = tools
        .iter()
        .map(|place| setting.tools[*place].name.as_str())
        .collect();
    assert!(
        names.contains("files/write") && names.contains("files/read"),
        "{names:?}"
    );
    assert_eq!(tools.len(), 10);
}
