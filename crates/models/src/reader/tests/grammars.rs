//! Grammars of strangers.

use std::time::Duration;

use super::super::grammars::{CompileError, GrammarSession, Grammars};
use super::super::wire::{PREAMBLE, Reply, Step, frame};
use super::{ANSWER_MAX, GROWTH_MAX, HOUSEHOLD, STRANGER, launcher, load, memory_bytes, sound};
use crate::grammar::{GrammarError, GrammarSource};
use crate::packed::Packed;

fn grammars() -> Grammars {
    let prompts = load(&sound("{{ messages[0].content }}"));
    Grammars::new(&launcher(), prompts.vocabulary())
}

async fn follow(
    grammars: &Grammars,
    source: GrammarSource,
) -> Result<GrammarSession, CompileError> {
    grammars.compile(HOUSEHOLD, source, Vec::new(), || {}).await
}

fn lark(text: &str) -> GrammarSource {
    GrammarSource::Lark(text.to_owned())
}

/// The tokens of an answer that a grammar leaves no choice in.
fn forced(session: &mut GrammarSession) -> Result<Vec<u32>, GrammarError> {
    let mut ids = Vec::new();
    loop {
        let mask = session.mask().unwrap().allowed();
        let Some(id) = (0..259).find(|id| mask.contains(*id)) else {
            return Ok(ids);
        };
        ids.push(id);
        if id == 257 {
            return Ok(ids);
        }
        session.accept(id);
        if session.learned(ANSWER_MAX).unwrap()? {
            return Ok(ids);
        }
    }
}

#[tokio::test]
async fn a_grammar_is_followed_by_another_process() {
    let grammars = grammars();
    for _ in 0..3 {
        let mut session = follow(&grammars, lark("start: \"xy\" \"z\""))
            .await
            .unwrap();
        assert_eq!(
            forced(&mut session).unwrap()[..3],
            [u32::from(b'x'), u32::from(b'y'), u32::from(b'z')]
        );
    }
    let begun = vec![u32::from(b'x')];
    let session = grammars
        .compile(HOUSEHOLD, lark("start: \"xy\""), begun, || {})
        .await
        .unwrap();
    assert!(session.mask().unwrap().allowed().contains(u32::from(b'y')));
    let begun = vec![u32::from(b'y')];
    let refused = grammars
        .compile(HOUSEHOLD, lark("start: \"xy\""), begun, || {})
        .await;
    assert_eq!(
        refused.err(),
        Some(CompileError::Grammar(GrammarError::Answered))
    );
    let refused = follow(&grammars, lark("start: (")).await.err();
    assert!(
        matches!(refused, Some(CompileError::Grammar(_))),
        "{refused:?}"
    );
}

/// Searches that grow with the product of what they are made of.
fn hostile_grammars() -> Vec<GrammarSource> {
    let patterns = |count: usize| {
        let all: Vec<_> = (1..=count)
            .map(|i| format!("{{\"type\":\"string\",\"pattern\":\".*[a-m]{{{i}}}.*\"}}"))
            .collect();
        GrammarSource::JsonSchema(format!("{{\"allOf\":[{}]}}", all.join(",")))
    };
    let schema = |text: &str| GrammarSource::JsonSchema(text.to_owned());
    let intersection: Vec<_> = (1..40).map(|i| format!("/.*[a-m]{{{i}}}.*/")).collect();
    let alternatives: Vec<_> = (0..2_000)
        .map(|i| format!("\"{}{i}\"", "a".repeat(20)))
        .collect();
    let objects: Vec<_> = (0..400)
        .map(|i| {
            format!("{{\"type\":\"object\",\"properties\":{{\"k{i}\":{{\"type\":\"string\"}}}}}}")
        })
        .collect();
    vec![
        patterns(17),
        patterns(59),
        lark(&format!("start: T\nT: {}", intersection.join(" & "))),
        lark("start: /(.*a.{1,400}){3}b/"),
        lark("start: /(a|b)*a(a|b){24}/"),
        lark("start: /((((a{1,1000}){1,1000}){1,1000}){1,1000})/"),
        lark(&format!("start: ({})*", alternatives.join(" | "))),
        lark("start: start start | \"a\""),
        lark("start: a\na: b b b b b b b b\nb: c c c c c c c c\nc: d d d d d d d d\nd: \"x\"?"),
        lark("start: T\nT: ~/(.*a.{20}).*/ & /.*b.{20}.*/"),
        schema("{\"type\":\"string\",\"pattern\":\"(a*)*b{100000}\"}"),
        schema(
            "{\"type\":\"string\",\"pattern\":\"^(([a-z])+.)+[A-Z]([a-z])+$\",\"minLength\":100000}",
        ),
        schema("{\"type\":\"string\",\"minLength\":4000000000}"),
        schema("{\"type\":\"array\",\"minItems\":1000000000}"),
        schema("{\"type\":\"integer\",\"multipleOf\":999999937,\"minimum\":-1e300}"),
        schema("{\"$ref\":\"#\"}"),
        schema(
            "{\"$defs\":{\"a\":{\"$ref\":\"#/$defs/b\"},\"b\":{\"$ref\":\"#/$defs/a\"}},\"$ref\":\"#/$defs/a\"}",
        ),
        GrammarSource::JsonSchema(format!("{{\"anyOf\":[{}]}}", objects.join(","))),
        GrammarSource::JsonSchema(format!("{{\"allOf\":[{}]}}", objects.join(","))),
    ]
}

#[tokio::test]
async fn a_grammar_that_takes_too_much_harms_nobody_else() {
    harm_nobody_else(hostile_grammars()).await;
}

/// Follows each of these, and a sound one beside it.
pub(super) async fn harm_nobody_else(sources: Vec<GrammarSource>) {
    let grammars = grammars();
    let before = memory_bytes();
    for source in sources {
        let what: String = format!("{source:?}").chars().take(80).collect();
        let asked = std::time::Instant::now();
        let hostile = async {
            let session = follow(&grammars, source).await;
            let took = asked.elapsed();
            assert!(took < ANSWER_MAX, "{what} took {took:?}");
            match session {
                Ok(mut session) => {
                    // As an answer would, for a while: each step has a bound of its own.
                    for _ in 0..50 {
                        let mask = session.mask().unwrap().allowed();
                        let Some(id) = (0..257).find(|id| mask.contains(*id)) else {
                            break;
                        };
                        session.accept(id);
                        match session.learned(ANSWER_MAX) {
                            Some(Ok(false)) => {}
                            Some(Ok(true) | Err(_)) => break,
                            None => panic!("{what}: a step has no end"),
                        }
                    }
                }
                Err(CompileError::Grammar(_)) => {}
                Err(CompileError::Busy) => panic!("{what}: others are said to be to blame"),
            }
        };
        let sound = async {
            let mut session = follow(&grammars, lark("start: \"xyz\"")).await.unwrap();
            assert!(forced(&mut session).is_ok());
            let took = asked.elapsed();
            assert!(
                took < ANSWER_MAX,
                "a sound grammar beside {what} took {took:?}"
            );
        };
        tokio::join!(hostile, sound);
        let growth = memory_bytes().saturating_sub(before);
        assert!(growth < GROWTH_MAX, "{what} took {growth} bytes");
    }
}

#[tokio::test]
async fn who_leaves_takes_the_grammar_along() {
    let prompts = load(&sound("{{ messages[0].content }}"));
    let folder = tempfile::tempdir().unwrap();
    let ready = frame(&Reply::Ready(Ok(())), usize::MAX).unwrap();
    let said = [PREAMBLE.to_vec(), ready].concat();
    // It takes the words, and then is busy for ever.
    let launcher = super::processes::saying(folder.path(), &said, "cat > /dev/null; true");
    let grammars = Grammars::new(&launcher, prompts.vocabulary());
    let asking = tokio::time::timeout(
        Duration::from_millis(300),
        follow(&grammars, lark("start: \"x\"")),
    );
    let early = asking.await.map(Result::err);
    assert!(early.is_err(), "{early:?}");
    super::until("the process goes on with it", || grammars.at_work() == 0);
    let slow = follow(&grammars, lark("start: \"x\"")).await;
    assert_eq!(
        slow.err(),
        Some(CompileError::Grammar(GrammarError::TooSlow))
    );
}

#[tokio::test]
async fn a_mask_of_another_length_is_not_believed() {
    let prompts = load(&sound("{{ messages[0].content }}"));
    for (step, length) in [(0, 4 * 8), (0, 4 * 10), (0, 0), (1, 0)] {
        let folder = tempfile::tempdir().unwrap();
        let ready = frame(&Reply::Ready(Ok(())), usize::MAX).unwrap();
        let step = match step {
            0 => Step::Mask(Packed(vec![255; length])),
            _ => Step::Stopped,
        };
        let step = frame(&Reply::Step(Ok(step)), usize::MAX).unwrap();
        let said = [PREAMBLE.to_vec(), ready, step].concat();
        let launcher = super::processes::saying(folder.path(), &said, "cat > /dev/null; true");
        let grammars = Grammars::new(&launcher, prompts.vocabulary());
        let refused = follow(&grammars, lark("start: \"x\"")).await;
        let expected = Some(CompileError::Grammar(GrammarError::TooMuch));
        assert_eq!(refused.err(), expected, "{length}");
    }
}

#[tokio::test]
async fn grammars_of_strangers_leave_processes_to_the_household() {
    let grammars = grammars();
    let mut strangers = Vec::new();
    for _ in 0..6 {
        let asked = grammars.compile(STRANGER, lark("start: \"xy\""), Vec::new(), || {});
        strangers.push(asked.await.unwrap());
    }
    let one_more = grammars.compile(STRANGER, lark("start: \"xy\""), Vec::new(), || {});
    let early = tokio::time::timeout(Duration::from_millis(300), one_more).await;
    assert!(early.is_err(), "a stranger's seventh waits");
    let mut household = Vec::new();
    for _ in 0..2 {
        household.push(follow(&grammars, lark("start: \"xy\"")).await.unwrap());
    }
}

#[tokio::test]
async fn more_grammars_than_processes_wait_or_are_told() {
    let grammars = grammars();
    let mut sessions = Vec::new();
    for _ in 0..8 {
        sessions.push(follow(&grammars, lark("start: \"xy\"")).await.unwrap());
    }
    let waiting = follow(&grammars, lark("start: \"xy\""));
    let freed = async {
        tokio::task::yield_now().await;
        drop(sessions.pop());
    };
    let (waited, ()) = tokio::join!(waiting, freed);
    assert!(waited.is_ok());
}

/// Each follows its grammar to the end; those that gave up while they waited leave nothing behind.
#[tokio::test(flavor = "multi_thread")]
async fn all_askers_are_served_in_their_turn_whoever_leaves() {
    let grammars = grammars();
    let ask = |asker| {
        let grammars = grammars.clone();
        async move {
            let within = Duration::from_secs(300);
            let source = lark("start: \"xyz\"");
            let session = grammars.compile_within(within, asker, source, Vec::new(), || {});
            let mut session = session.await.map_err(|error| format!("{error:?}"))?;
            tokio::task::spawn_blocking(move || forced(&mut session).map(|ids| ids.len()))
                .await
                .unwrap()
                .map_err(|error| error.to_string())
        }
    };
    let mut held = Vec::new();
    for _ in 0..8 {
        held.push(follow(&grammars, lark("start: \"xy\"")).await.unwrap());
    }
    let household = (0..20).map(|_| tokio::spawn(ask(HOUSEHOLD)));
    let strangers = (0..10).map(|_| tokio::spawn(ask(STRANGER)));
    let waiting: Vec<_> = household.chain(strangers).collect();
    let leaving: Vec<_> = (0..20).map(|_| tokio::spawn(ask(HOUSEHOLD))).collect();
    tokio::task::yield_now().await;
    leaving.iter().for_each(tokio::task::JoinHandle::abort);
    drop(held);
    for asked in waiting {
        assert_eq!(asked.await.unwrap(), Ok(3));
    }
    let ended = grammars.clone();
    let waited = tokio::task::spawn_blocking(move || {
        super::until("a process is at work for nobody", || ended.at_work() == 0);
    });
    waited.await.unwrap();
}
