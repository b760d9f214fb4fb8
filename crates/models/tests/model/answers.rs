//! Answers: what is asked for comes, the same each time, and leaves its place when it ends.

use hearth_models::asker::Asker;
use hearth_models::engine::{
    EndReason, Engine, EngineOptions, Event, Generation, Job, SubmitError,
};
use hearth_models::grammar::GrammarSource;
use hearth_models::prompt::PromptInput;
use hearth_models::sampling::{NoiseKey, Rule};

use super::{launcher, model_path};

pub(crate) fn engine(change: impl FnOnce(&mut EngineOptions)) -> Engine {
    let mut options = EngineOptions {
        threads: 1,
        context_tokens: 2_048,
        ..EngineOptions::default()
    };
    change(&mut options);
    Engine::load(&model_path(), options, &launcher()).unwrap()
}

pub(crate) fn job(engine: &Engine, prompt: &str, output: u32) -> Job {
    let text = format!("<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n");
    Job {
        ids: ids_of(engine, &text, true),
        output_position_first: 0,
        output_tokens_max: output,
        rule: Rule::default(),
        noise_key: NoiseKey([7; 32]),
        grammar: None,
        logprobs: None,
        asker: Asker::Household { name: 1 },
        allowance: u32::MAX,
    }
}

/// The ids of a text.
pub(crate) fn ids_of(engine: &Engine, text: &str, special: bool) -> Vec<u32> {
    let text = text.to_owned();
    let input = PromptInput::Text { text, special };
    engine.prompts().blocking_ids(&input, 0).unwrap()
}

/// The ids of an answer, and why it ended.
pub(crate) async fn collect(mut generation: Generation) -> (Vec<u32>, EndReason) {
    let mut ids = Vec::new();
    while let Some(event) = generation.next().await {
        match event {
            Event::Token { id, .. } => ids.push(id),
            Event::Ended(reason) => return (ids, reason),
            _ => {}
        }
    }
    panic!("the answer had no end after {} tokens", ids.len());
}

pub(crate) async fn answer(engine: &Engine, job: Job) -> (Vec<u32>, EndReason) {
    collect(engine.submit(job).await.unwrap()).await
}

pub(crate) fn text(engine: &Engine, ids: &[u32]) -> String {
    String::from_utf8_lossy(&engine.vocabulary().decode(ids)).into_owned()
}

#[tokio::test]
#[ignore = "needs outside programs"]
async fn the_same_seed_gives_the_same_answer() {
    let engine = engine(|_| {});
    let job = job(&engine, "Name three animals.", 40);
    let first = answer(&engine, job.clone()).await;
    assert_eq!(answer(&engine, job.clone()).await, first);
    let mut other = job;
    other.noise_key = NoiseKey([8; 32]);
    assert_ne!(answer(&engine, other).await, first);
}

#[tokio::test]
#[ignore = "needs outside programs"]
async fn an_engine_loaded_again_gives_the_same_answer() {
    let first = engine(|_| {});
    let job = job(&first, "Tell a short story about a hedgehog.", 60);
    let one = answer(&first, job.clone()).await;
    let second = engine(|options| options.threads = 2);
    assert_eq!(answer(&second, job).await, one);
}

#[tokio::test]
#[ignore = "needs outside programs"]
async fn a_question_has_a_sensible_answer() {
    let engine = engine(|_| {});
    let mut job = job(&engine, "What is the capital of France?", 40);
    job.rule.temperature_millionths = 0;
    let (ids, reason) = answer(&engine, job).await;
    assert!(
        text(&engine, &ids).contains("Paris"),
        "{}",
        text(&engine, &ids)
    );
    assert_eq!(reason, EndReason::EndOfText);
    assert!(engine.vocabulary().is_end_of_text(*ids.last().unwrap()));
}

#[tokio::test]
#[ignore = "needs outside programs"]
async fn eight_answers_are_written_together() {
    let engine = engine(|_| {});
    let mut generations = Vec::new();
    for owner in 0..8 {
        let mut job = job(&engine, "Write a poem.", 30);
        job.asker = Asker::Household { name: owner };
        job.noise_key = NoiseKey([owner as u8; 32]);
        generations.push(engine.submit(job).await.unwrap());
    }
    for generation in generations {
        let (ids, reason) = collect(generation).await;
        assert!(
            ids.len() == 30 || reason == EndReason::EndOfText,
            "{reason:?}"
        );
    }
    assert_eq!((engine.load_now().busy, engine.load_now().waiting), (0, 0));
}

#[tokio::test]
#[ignore = "needs outside programs"]
async fn who_cancels_makes_room_at_once() {
    let engine = engine(|options| {
        options.sequences_max = 1;
        options.queue_max = 0;
    });
    let long = job(&engine, &"word ".repeat(1_500), 400);
    let mut generation = engine.submit(long.clone()).await.unwrap();
    assert_eq!(generation.next().await, Some(Event::Started { waiting: 0 }));
    let refused = engine.submit(long).await.unwrap_err();
    assert!(matches!(refused, SubmitError::Busy { retry_after_ms } if retry_after_ms > 0));
    drop(generation);
    let (ids, _) = answer(&engine, job(&engine, "Hello", 5)).await;
    assert!(!ids.is_empty());
}

#[tokio::test]
#[ignore = "needs outside programs"]
async fn an_answer_parks_where_its_allowance_ends() {
    let engine = engine(|_| {});
    let mut job = job(&engine, "Count from one to fifty.", 24);
    let whole = answer(&engine, job.clone()).await;
    job.allowance = 8;
    let mut generation = engine.submit(job).await.unwrap();
    let mut ids = Vec::new();
    while ids.len() < 8 {
        if let Some(Event::Token { id, .. }) = generation.next().await {
            ids.push(id);
        }
    }
    // Another answer runs to its end meanwhile, and nothing more came.
    answer(&engine, self::job(&engine, "Hello", 20)).await;
    assert_eq!(generation.try_next(), None);
    generation.allow(u32::MAX);
    let (rest, reason) = collect(generation).await;
    ids.extend(rest);
    assert_eq!(ids.len(), whole.0.len());
    assert_eq!(reason, whole.1);
}

#[tokio::test]
#[ignore = "needs outside programs"]
async fn a_full_context_ends_an_answer() {
    let engine = engine(|options| options.context_tokens = 64);
    let mut job = job(
        &engine,
        "Tell me everything that you know about the sea.",
        10_000,
    );
    job.rule.temperature_millionths = 2_000_000;
    job.rule.logit_bias_millionths = vec![(0, -99_000_000), (2, -99_000_000)];
    let read = job.ids.len();
    let (ids, reason) = answer(&engine, job).await;
    assert_eq!((reason, ids.len()), (EndReason::Length, 64 - read));
}

#[tokio::test]
#[ignore = "needs outside programs"]
async fn jobs_that_make_no_sense_are_refused() {
    let engine = engine(|_| {});
    let refused = async |change: fn(&mut Job)| {
        let mut job = job(&engine, "Hello", 5);
        change(&mut job);
        engine.submit(job).await.unwrap_err()
    };
    assert!(matches!(
        refused(|job| job.ids.clear()).await,
        SubmitError::Empty
    ));
    let unknown = refused(|job| job.ids.push(49_152)).await;
    assert!(matches!(unknown, SubmitError::UnknownToken(49_152)));
    let unknown = refused(|job| job.ids.push(u32::MAX)).await;
    assert!(matches!(unknown, SubmitError::UnknownToken(u32::MAX)));
    let long = refused(|job| job.ids = vec![1; 2_048]).await;
    assert!(matches!(
        long,
        SubmitError::TooLong {
            tokens: 2_048,
            tokens_max: 2_047
        }
    ));
    let figure = refused(|job| job.output_tokens_max = 0).await;
    assert!(matches!(figure, SubmitError::Figure(_)));
    let figure = refused(|job| job.rule.top_p_millionths = 0).await;
    assert!(matches!(figure, SubmitError::Figure(_)));
    let biased = refused(|job| job.rule.logit_bias_millionths = vec![(5, 1), (49_152, 1)]).await;
    assert!(matches!(biased, SubmitError::Bias(bias) if bias.id == 49_152));
    let biased = refused(|job| job.rule.logit_bias_millionths = vec![(u32::MAX, 1)]).await;
    assert!(matches!(biased, SubmitError::Bias(bias) if bias.id == u32::MAX));
    let figure = refused(|job| job.logprobs = Some(21)).await;
    assert!(matches!(figure, SubmitError::Figure(_)));
    let empty = refused(|job| job.output_position_first = 999).await;
    assert!(matches!(empty, SubmitError::Empty));
    let grammar = refused(|job| job.grammar = Some(GrammarSource::Lark("start: (".into()))).await;
    assert!(matches!(grammar, SubmitError::Grammar(_)));
}
