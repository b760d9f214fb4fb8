//! A generator without a model: the token at a position is the same for every question.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;

use super::{Boxed, Generator};
use crate::engine::{
    Allowance, EmbedError, EndReason, EngineDescription, Event, Generation, Job, Load, SubmitError,
};

/// The tokens of a script: as many as a small vocabulary has.
const VOCABULARY_TOKENS: u32 = 256;

/// Answers every question with the same ids, at once, as far as it is allowed.
#[derive(Debug, Clone)]
pub struct Script {
    description: EngineDescription,
    busy: Arc<AtomicU32>,
}

/// One answer by a script.
#[derive(Debug)]
struct Recital {
    state: Mutex<State>,
    busy: Arc<AtomicU32>,
}

#[derive(Debug)]
struct State {
    position: u32,
    made: u32,
    output_tokens_max: u32,
    events: mpsc::UnboundedSender<Event>,
}

impl Script {
    /// A script that has room for prompts and answers of so many tokens together.
    pub fn new(context_tokens: u32) -> Self {
        Self {
            description: EngineDescription {
                engine: "script".to_owned(),
                backend: "cpu-avx2",
                runs_on: "a script".to_owned(),
                gpu_layers: 0,
                kv_type: "f16",
                flash_attention: false,
                micro_batch_tokens: 512,
                context_tokens,
                sequences_max: 16,
                vocabulary_tokens: VOCABULARY_TOKENS,
                reuses_prefixes: false,
                embedding_length: 1,
            },
            busy: Arc::default(),
        }
    }

    /// The token at a position of an answer.
    pub fn token(position: u32) -> u32 {
        // Letters, so that the ids of a vocabulary of bytes are text.
        u32::from(b'a') + position % 26
    }

    fn recite(&self, job: &Job) -> Result<Generation, SubmitError> {
        let tokens_max = self.description.context_tokens.saturating_sub(1);
        if job.ids.is_empty() {
            return Err(SubmitError::Empty);
        }
        if job.ids.len() > tokens_max as usize {
            return Err(SubmitError::TooLong {
                tokens: job.ids.len() as u64,
                tokens_max,
            });
        }
        let (sender, events) = mpsc::unbounded_channel();
        let prompt = Event::Prompt {
            tokens_read: u32::try_from(job.ids.len()).unwrap_or(u32::MAX),
            cached: 0,
        };
        for event in [Event::Started { waiting: 0 }, prompt] {
            // The receiver is here.
            let _ = sender.send(event);
        }
        self.busy.fetch_add(1, Ordering::Relaxed);
        let recital = Recital {
            state: Mutex::new(State {
                position: job.output_position_first,
                made: 0,
                output_tokens_max: job.output_tokens_max,
                events: sender,
            }),
            busy: Arc::clone(&self.busy),
        };
        recital.allow(job.allowance);
        Ok(Generation::new((events, Box::new(recital))))
    }
}

impl Generator for Script {
    fn description(&self) -> &EngineDescription {
        &self.description
    }

    fn load_now(&self) -> Load {
        Load {
            slots: self.description.sequences_max,
            busy: self.busy.load(Ordering::Relaxed),
            waiting: 0,
        }
    }

    fn submit_within(&self, job: Job, _: Duration) -> Boxed<'_, Result<Generation, SubmitError>> {
        let recited = self.recite(&job);
        Box::pin(async move { recited })
    }

    fn embed(&self, _: Vec<u32>) -> Boxed<'_, Result<Vec<f32>, EmbedError>> {
        Box::pin(async { Ok(vec![1.0]) })
    }
}

impl Allowance for Recital {
    fn allow(&self, output_tokens: u32) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let reach = output_tokens.min(state.output_tokens_max);
        let is_over = state.made == state.output_tokens_max;
        while state.made < reach {
            let id = Script::token(state.position + state.made);
            let token = Event::Token { id, logprobs: None };
            // Nobody may be there any more to hear it.
            let _ = state.events.send(token);
            state.made += 1;
        }
        if !is_over && state.made == state.output_tokens_max {
            let _ = state.events.send(Event::Ended(EndReason::Length));
        }
    }
}

impl Drop for Recital {
    fn drop(&mut self) {
        self.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::asker::Asker;
    use crate::sampling::{NoiseKey, Rule};

    fn job(output_tokens_max: u32, allowance: u32) -> Job {
        Job {
            ids: vec![1, 2, 3],
            output_position_first: 0,
            output_tokens_max,
            rule: Rule {
                frequency_penalty_millionths: 0,
                logit_bias_millionths: Vec::new(),
                presence_penalty_millionths: 0,
                temperature_millionths: 0,
                top_k: 0,
                top_p_millionths: 1_000_000,
            },
            noise_key: NoiseKey([0; 32]),
            grammar: None,
            logprobs: None,
            asker: Asker::Household { name: 1 },
            allowance,
        }
    }

    #[test]
    fn a_script_says_what_it_is_allowed_to_and_ends_at_its_length() {
        let script = Script::new(64);
        let mut generation = script.recite(&job(3, 2)).unwrap();
        assert_eq!(script.load_now().busy, 1);
        let mut ids = Vec::new();
        let mut listen = |generation: &mut Generation| {
            while let Some(event) = generation.try_next() {
                match event {
                    Event::Token { id, .. } => ids.push(id),
                    Event::Ended(reason) => {
                        assert!(matches!(reason, EndReason::Length));
                        return ids.clone();
                    }
                    _ => {}
                }
            }
            ids.clone()
        };
        assert_eq!(listen(&mut generation), [97, 98]);
        generation.allow(9);
        assert_eq!(listen(&mut generation), [97, 98, 99]);
        drop(generation);
        assert_eq!(script.load_now().busy, 0);
        assert!(script.recite(&job(1, 1)).is_ok());
        let long = Job {
            ids: vec![1; 64],
            ..job(1, 1)
        };
        assert!(matches!(
            script.recite(&long),
            Err(SubmitError::TooLong { .. })
        ));
    }
}
