//! Reading without writing: logits for audits, embeddings, and what is read once only.

use std::sync::{Arc, Mutex};

use hearth_models::asker::Asker;
use hearth_models::engine::{EmbedError, Engine, Event, Job, SubmitError};
use hearth_models::sampling::logprobs;

use super::answers::{answer, engine, ids_of, job};

async fn rows(engine: &Engine, ids: Vec<u32>, positions: Vec<u32>) -> Vec<(u32, Vec<f32>)> {
    let rows = Arc::new(Mutex::new(Vec::new()));
    let seen = rows.clone();
    let visit = Box::new(move |position: u32, logits: &[f32]| {
        seen.lock().unwrap().push((position, logits.to_vec()));
    });
    engine
        .logits(Asker::Household { name: 9 }, ids, positions, visit)
        .await
        .unwrap();
    std::mem::take(&mut *rows.lock().unwrap())
}

#[tokio::test]
#[ignore = "needs outside programs"]
async fn logits_at_any_position_explain_the_answer() {
    let engine = engine(|_| {});
    let mut job = job(&engine, "What is the capital of France?", 12);
    job.rule.temperature_millionths = 0;
    job.logprobs = Some(3);
    let prompt = job.ids.len() as u32;
    let (ids, _) = answer(&engine, job.clone()).await;
    let mut whole = job.ids.clone();
    whole.extend(&ids);
    let positions: Vec<u32> = (prompt - 1..whole.len() as u32 - 1).collect();
    let rows = rows(&engine, whole, positions.clone()).await;
    assert_eq!(
        rows.iter()
            .map(|(position, _)| *position)
            .collect::<Vec<_>>(),
        positions
    );
    let agree = (rows.iter().zip(&ids))
        .filter(|((_, logits), id)| logprobs(logits, **id, 1).top[0].0 == **id)
        .count();
    assert!(
        agree * 10 >= ids.len() * 8,
        "{agree} of {} agree",
        ids.len()
    );
}

#[tokio::test]
#[ignore = "needs outside programs"]
async fn a_prompt_asked_again_gives_the_same_bits() {
    let engine = engine(|_| {});
    let shared = "The hedgehog walks through the garden at night. ".repeat(60);
    let mut job = job(&engine, &format!("{shared}What does it eat?"), 1);
    job.rule.temperature_millionths = 0;
    job.logprobs = Some(20);
    let (alone, reused) = first_logprobs(&engine, job.clone()).await;
    assert_eq!(reused, 0);
    let (again, reused) = first_logprobs(&engine, job.clone()).await;
    assert_eq!(again, alone);
    assert!(reused > 100, "{reused} tokens were reused");
    // Another prompt with the same beginning, while this one is remembered and after it is gone.
    let end = ids_of(&engine, " And who eats it, and when, and where?", false);
    job.ids.truncate(520);
    job.ids.extend(end.repeat(10));
    let (shared, reused) = first_logprobs(&engine, job.clone()).await;
    assert!((64..=520).contains(&reused), "{reused} tokens were reused");
    let fresh = super::answers::engine(|_| {});
    assert_eq!(first_logprobs(&fresh, job).await, (shared, 0));
}

#[tokio::test]
#[ignore = "needs outside programs"]
async fn what_is_read_of_a_prompt_does_not_depend_on_who_else_asks() {
    let engine = engine(|options| options.sequences_max = 3);
    let mut job = job(&engine, &"Where is the lighthouse? ".repeat(30), 1);
    job.rule.temperature_millionths = 0;
    job.logprobs = Some(20);
    let (alone, _) = first_logprobs(&engine, job.clone()).await;
    let fresh = super::answers::engine(|options| options.sequences_max = 3);
    let others: Vec<_> = (0..2)
        .map(|number| {
            let mut other =
                super::answers::job(&fresh, &format!("{number}: tell me a story."), 400);
            other.rule.logit_bias_millionths = vec![(2, -100_000_000)];
            other
        })
        .collect();
    let mut writing = Vec::new();
    for other in others {
        let mut generation = fresh.submit(other).await.unwrap();
        while !matches!(generation.next().await, Some(Event::Token { .. })) {}
        writing.push(generation);
    }
    assert_eq!(first_logprobs(&fresh, job).await, (alone, 0));
}

/// The log-probabilities of the first token to the bit, and how much of the prompt was reused.
async fn first_logprobs(engine: &Engine, job: Job) -> (Vec<(u32, u32)>, u32) {
    let mut generation = engine.submit(job).await.unwrap();
    let mut reused = 0;
    while let Some(event) = generation.next().await {
        match event {
            Event::Prompt { cached, .. } => reused = cached,
            Event::Token { logprobs, .. } => {
                let top = logprobs.unwrap().top;
                return (
                    top.into_iter().map(|(id, p)| (id, p.to_bits())).collect(),
                    reused,
                );
            }
            _ => {}
        }
    }
    panic!("no token came");
}

#[tokio::test]
#[ignore = "needs outside programs"]
async fn texts_of_like_meaning_have_like_embeddings() {
    let engine = engine(|_| {});
    let embed = async |text: &str| {
        let ids = ids_of(&engine, text, false);
        engine.embed(ids).await.unwrap()
    };
    let cosine = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    let cat = embed("The cat sleeps on the warm sofa.").await;
    let kitten = embed("A kitten is sleeping on a soft couch.").await;
    let law = embed("The parliament amended the tax law of 1987.").await;
    assert_eq!(cat.len(), engine.description().embedding_length as usize);
    assert!((cosine(&cat, &cat) - 1.0).abs() < 1e-4);
    assert!(cosine(&cat, &kitten) > cosine(&cat, &law));
    // Longer than a micro-batch.
    let long = engine.embed(vec![100; 1_200]).await.unwrap();
    assert!((cosine(&long, &long) - 1.0).abs() < 1e-4);
    assert!(matches!(
        engine.embed(Vec::new()).await,
        Err(EmbedError::Empty)
    ));
    assert!(matches!(
        engine.embed(vec![1; 9_000]).await,
        Err(EmbedError::TooLong { .. })
    ));
    assert!(matches!(
        engine.embed(vec![49_152]).await,
        Err(EmbedError::UnknownToken(49_152))
    ));
}

#[tokio::test]
#[ignore = "needs outside programs"]
async fn positions_beyond_the_ids_are_refused() {
    let engine = engine(|_| {});
    let visit = || Box::new(|_: u32, _: &[f32]| {});
    let refused = engine
        .logits(Asker::Household { name: 1 }, vec![1, 2], vec![2], visit())
        .await;
    assert!(matches!(refused, Err(SubmitError::Figure(_))));
    let refused = engine
        .logits(
            Asker::Household { name: 1 },
            Vec::new(),
            Vec::new(),
            visit(),
        )
        .await;
    assert!(matches!(refused, Err(SubmitError::Empty)));
}
