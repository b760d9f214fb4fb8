//! The thread that owns the context: it computes what the scheduler plans, and nothing else.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::params::{KvCacheType, LlamaContextParams};
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::model::{LlamaLoraAdapter, LlamaModel};
use llama_cpp_2::token::LlamaToken;

use super::embedder::Embedder;
use super::load::{LoadError, LoadPlan};
use super::shared::{Answer, Embedding, Shared, State, Task};
use super::{EndReason, Event};
use crate::reader::GrammarSession;
use crate::sampling;
use crate::scheduler::{Filler, Part, Plan, Prepare, WorkId};
use crate::vocabulary::Vocabulary;

/// How long all answers wait for what one grammar allows next. One that takes longer goes on later.
const FOLLOWING_MAX: Duration = Duration::from_millis(5);

/// The context of a plan, without what makes it one for answers.
pub(super) fn context_params(plan: &LoadPlan) -> LlamaContextParams {
    LlamaContextParams::default()
        .with_n_batch(plan.batch_tokens)
        .with_n_ubatch(plan.batch_tokens)
        .with_n_threads(plan.threads)
        .with_n_threads_batch(plan.threads)
        .with_type_k(KvCacheType::F16)
        .with_type_v(KvCacheType::F16)
        // Each sequence has cells of its own, so that what it computes does not depend on others.
        .with_kv_unified(false)
        // Off: it makes bits depend on the number of threads.
        .with_flash_attention_policy(0)
        .with_no_perf(true)
}

/// Starts the thread, and waits until its context stands.
pub(super) fn start(
    (model, mut adapter): (Arc<LlamaModel>, Option<LlamaLoraAdapter>),
    vocabulary: Vocabulary,
    plan: LoadPlan,
    shared: Arc<Shared>,
) -> Result<JoinHandle<()>, LoadError> {
    let (ready, stands) = mpsc::sync_channel(1);
    let thread = std::thread::Builder::new().name("hearth-engine".to_owned());
    let thread = thread.spawn(move || {
        let _stops = Stops(shared.clone());
        let params = context_params(&plan)
            .with_n_ctx(NonZeroU32::new(plan.cells))
            .with_n_seq_max(plan.sequences);
        let backend = match crate::backend::backend() {
            Ok(backend) => backend,
            Err(error) => return drop(ready.send(Err(LoadError::Open(error)))),
        };
        let mut context = match model.new_context(backend, params) {
            Ok(context) => context,
            Err(source) => {
                let tokens = plan.cells;
                let error = LoadError::Memory { tokens, source };
                return drop(ready.send(Err(error)));
            }
        };
        if let Err(error) = adapt(&mut context, adapter.as_mut()) {
            return drop(ready.send(Err(error)));
        }
        let sequences = plan.sequences as i32;
        let mut worker = Worker {
            model: &model,
            batch: LlamaBatch::new(plan.batch_tokens as usize, sequences),
            context,
            adapter,
            plan,
            vocabulary,
            shared,
            tasks: HashMap::new(),
            undecided: Vec::new(),
            embedder: None,
        };
        // Nobody waits any more if this fails.
        if ready.send(Ok(())).is_ok() {
            worker.run();
        }
    })?;
    stands.recv().map_err(|_| LoadError::ThreadEnded)??;
    Ok(thread)
}

/// Puts an adapter over the model of a context, in full.
pub(super) fn adapt(
    context: &mut LlamaContext<'_>,
    adapter: Option<&mut LlamaLoraAdapter>,
) -> Result<(), LoadError> {
    match adapter {
        Some(adapter) => Ok(context.lora_adapter_set(adapter, 1.0)?),
        None => Ok(()),
    }
}

/// Whatever ends the thread, nobody waits for it afterwards.
struct Stops(Arc<Shared>);

impl Drop for Stops {
    fn drop(&mut self) {
        self.0.stop();
    }
}

struct Worker<'model> {
    model: &'model LlamaModel,
    context: LlamaContext<'model>,
    adapter: Option<LlamaLoraAdapter>,
    batch: LlamaBatch<'static>,
    plan: LoadPlan,
    vocabulary: Vocabulary,
    shared: Arc<Shared>,
    tasks: HashMap<WorkId, Active>,
    /// Answers of which it is not known yet what may follow the token that was chosen last.
    undecided: Vec<(WorkId, u32)>,
    embedder: Option<Embedder<'model>>,
}

struct Active {
    task: Task,
    /// When it got its slot.
    started: Option<Instant>,
}

/// What came of a part of a batch.
enum Outcome {
    Wrote(WorkId, u32),
    /// A token was chosen, and its grammar has not said what may follow.
    Undecided(WorkId, u32),
    /// With the last token, if one was chosen.
    Ended(WorkId, EndReason),
}

impl Worker<'_> {
    fn run(&mut self) {
        while let Some((plan, embedding)) = self.next() {
            if let Some(task) = embedding {
                self.begin_embedding(task);
            }
            if let Some(embedder) = &mut self.embedder {
                embedder.step();
            }
            for started in &plan.started {
                if let Some(active) = self.tasks.get_mut(&started.work) {
                    active.started = Some(Instant::now());
                    if let Task::Answer(answer) = &mut active.task {
                        answer.cached = started.reused;
                    }
                }
            }
            self.step(&plan);
        }
        for active in self.tasks.values() {
            active.task.say(Event::Ended(EndReason::Cancelled));
        }
    }

    /// Waits until there is something to do; nothing when the engine stops.
    fn next(&mut self) -> Option<(Plan, Option<Embedding>)> {
        let shared = self.shared.clone();
        let mut state = shared.lock();
        loop {
            if state.stopped {
                return None;
            }
            for (id, task) in state.arrived.drain(..) {
                let started = None;
                self.tasks.insert(id, Active { task, started });
            }
            for id in state.cancelled.drain(..) {
                self.tasks.remove(&id);
            }
            self.decide(&mut state);
            let embeds = self.embedder.as_ref().is_some_and(Embedder::is_busy);
            let embedding = if embeds {
                None
            } else {
                state.embeddings.pop_front()
            };
            let plan = state.scheduler.plan();
            let works = !plan.is_empty() || !plan.prepare.is_empty();
            if works || embeds || embedding.is_some() {
                return Some((plan, embedding));
            }
            state = shared.wait(state);
        }
    }

    fn begin_embedding(&mut self, task: Embedding) {
        if self.embedder.is_none() {
            match Embedder::new(self.model, &self.plan, self.adapter.as_mut()) {
                Ok(embedder) => self.embedder = Some(embedder),
                Err(error) => {
                    let _ = task.done.send(Err(error));
                    return;
                }
            }
        }
        if let Some(embedder) = &mut self.embedder {
            embedder.begin(task);
        }
    }

    /// Does what is planned: what is written first, because somebody waits for it.
    fn step(&mut self, plan: &Plan) {
        let prepared = (plan.prepare.iter()).try_for_each(|step| self.prepare(*step));
        if let Err(error) = prepared {
            self.fail(&plan.written, &error);
            self.fail(&plan.pieces, &error);
            return;
        }
        self.compute(&plan.written, &plan.fillers);
        for piece in &plan.pieces {
            self.compute(std::slice::from_ref(piece), &[]);
        }
    }

    /// Computes parts together, and does with the logits what they were computed for.
    fn compute(&mut self, parts: &[Part], fillers: &[Filler]) {
        if parts.is_empty() {
            return;
        }
        if let Err(error) = self.decode(parts, fillers) {
            return self.fail(parts, &error);
        }
        for part in parts {
            self.tell_progress(part);
        }
        let outcomes = self.take_logits(parts, fillers);
        let shared = self.shared.clone();
        let mut state = shared.lock();
        state.scheduler.computed(parts);
        for outcome in outcomes {
            self.apply(outcome, &mut state);
        }
    }

    /// Says what came of a part.
    fn apply(&mut self, outcome: Outcome, state: &mut State) {
        match outcome {
            Outcome::Wrote(id, token) => state.scheduler.wrote(id, token),
            Outcome::Undecided(id, token) => self.undecided.push((id, token)),
            Outcome::Ended(id, reason) => {
                state.scheduler.end(id);
                if let Some(active) = self.tasks.remove(&id) {
                    let took = active
                        .started
                        .map_or(0, |at| at.elapsed().as_millis() as u64);
                    state.took(took);
                    finish(active.task, reason);
                }
            }
        }
    }

    /// Goes on with answers whose grammars have said by now what may follow.
    fn decide(&mut self, state: &mut State) {
        for (id, token) in std::mem::take(&mut self.undecided) {
            // Who has cancelled has no task any more.
            if let Some(active) = self.tasks.get_mut(&id)
                && let Task::Answer(answer) = &mut active.task
            {
                let outcome = followed(answer, id, token, Duration::ZERO);
                self.apply(outcome, state);
            }
        }
    }

    fn decode(&mut self, parts: &[Part], fillers: &[Filler]) -> Result<(), String> {
        self.batch.clear();
        // Rows go in the order of their slots: only then one pass computes them all.
        let mut fillers_left = fillers.iter().peekable();
        for part in parts {
            while let Some(filler) = fillers_left.next_if(|filler| filler.slot < part.slot) {
                let (position, slot) = (filler.position as i32, filler.slot as i32);
                let added = self.batch.add(LlamaToken(0), position, &[slot], false);
                added.map_err(|error| error.to_string())?;
            }
            self.add(part)?;
        }
        let decoded = self.context.decode(&mut self.batch);
        decoded.map_err(|error| error.to_string())?;
        for Filler { slot, position } in fillers.iter().copied() {
            self.prepare(Prepare::Forget { slot, position })?;
        }
        Ok(())
    }

    fn prepare(&mut self, step: Prepare) -> Result<(), String> {
        let (slot, position) = match step {
            Prepare::Forget { slot, position } => (slot, position),
            Prepare::Share { from, to, tokens } => {
                // A sequence is copied whole.
                let copied = (self.context).copy_kv_cache_seq(from as i32, to as i32, None, None);
                copied.map_err(|error| error.to_string())?;
                (to, tokens)
            }
        };
        let cleared = (self.context).clear_kv_cache_seq(Some(slot), Some(position), None);
        match cleared {
            Ok(true) => Ok(()),
            Ok(false) => Err("the cache cannot drop the end of a sequence".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }

    fn add(&mut self, part: &Part) -> Result<(), String> {
        let positions: &[u32] = match self.tasks.get(&part.work) {
            Some(Active {
                task: Task::Rows(rows),
                ..
            }) => &rows.positions,
            _ => &[],
        };
        let last = part.tokens.len() - 1;
        for (index, id) in part.tokens.iter().enumerate() {
            let position = part.position + index as u32;
            let wanted =
                part.chooses && index == last || positions.binary_search(&position).is_ok();
            let token = LlamaToken(*id as i32);
            let slot = part.slot as i32;
            let added = self.batch.add(token, position as i32, &[slot], wanted);
            added.map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// Says how much of a prompt is read, once for each part of it.
    fn tell_progress(&self, part: &Part) {
        if let Some(Active { task, .. }) = self.tasks.get(&part.work)
            && let Task::Answer(answer) = task
            && !answer.begun
        {
            task.say(Event::Prompt {
                tokens_read: part.position + part.tokens.len() as u32,
                cached: answer.cached,
            });
        }
    }

    /// Does with the logits of parts what they were computed for.
    fn take_logits(&mut self, parts: &[Part], fillers: &[Filler]) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        let mut row = 0;
        for part in parts {
            let before = |filler: &&Filler| filler.slot < part.slot;
            let first_row = row + fillers.iter().filter(before).count() as i32;
            row += part.tokens.len() as i32;
            // Who has cancelled in the meantime has no task any more.
            let Some(active) = self.tasks.get_mut(&part.work) else {
                continue;
            };
            match &mut active.task {
                Task::Answer(answer) if part.chooses => {
                    let logits = self
                        .context
                        .get_logits_ith(first_row + part.tokens.len() as i32 - 1);
                    choose(answer, part.work, logits, &self.vocabulary, &mut outcomes);
                }
                Task::Answer(_) => {}
                Task::Rows(rows) => {
                    let end = part.position + part.tokens.len() as u32;
                    let within = |position: &&u32| (part.position..end).contains(*position);
                    for position in rows.positions.iter().filter(within) {
                        let offset = (*position - part.position) as i32;
                        let logits = self.context.get_logits_ith(first_row + offset);
                        (rows.visit)(*position, logits);
                    }
                    if part.last {
                        outcomes.push(Outcome::Ended(part.work, EndReason::Length));
                    }
                }
            }
        }
        outcomes
    }

    /// Ends all that could not be computed.
    fn fail(&mut self, parts: &[Part], reason: &str) {
        tracing::error!(reason, "a step could not be computed");
        let shared = self.shared.clone();
        let mut state = shared.lock();
        for part in parts {
            state.scheduler.abandon(part.work);
            if let Some(active) = self.tasks.remove(&part.work) {
                let failed = EndReason::Failed(reason.to_owned());
                active.task.say(Event::Ended(failed));
            }
        }
    }
}

/// Chooses the next token of an answer, and says it.
fn choose(
    answer: &mut Answer,
    id: WorkId,
    logits: &[f32],
    vocabulary: &Vocabulary,
    outcomes: &mut Vec<Outcome>,
) {
    let mut end = |reason| outcomes.push(Outcome::Ended(id, reason));
    let mask = answer.grammar.as_ref().map(GrammarSession::mask);
    let Some(token) = (match mask {
        Some(None) => None,
        Some(Some(mask)) => {
            let allowed = Some(mask.allowed());
            answer.sampler.choose(answer.position, logits, allowed)
        }
        None => answer.sampler.choose(answer.position, logits, None),
    }) else {
        let nothing = "the model gave no token that may follow";
        return end(EndReason::Failed(nothing.to_owned()));
    };
    let logprobs = answer.logprobs;
    let logprobs = logprobs.map(|top| sampling::logprobs(logits, token, top));
    answer.sampler.accept(token);
    answer.begun = true;
    answer.position += 1;
    answer.remaining = answer.remaining.saturating_sub(1);
    // Who does not listen has cancelled.
    let _ = answer.events.send(Event::Token {
        id: token,
        logprobs,
    });
    if vocabulary.is_end_of_text(token) {
        return end(EndReason::EndOfText);
    }
    if let Some(grammar) = &mut answer.grammar {
        grammar.accept(token);
    }
    outcomes.push(followed(answer, id, token, FOLLOWING_MAX));
}

/// What comes of a token that its grammar, if there is one, may end the answer with.
fn followed(answer: &mut Answer, id: WorkId, token: u32, wait: Duration) -> Outcome {
    let learned = answer.grammar.as_mut().map(|grammar| grammar.learned(wait));
    match learned {
        Some(None) => Outcome::Undecided(id, token),
        Some(Some(Ok(true))) => Outcome::Ended(id, EndReason::Grammar),
        Some(Some(Err(error))) => Outcome::Ended(id, EndReason::Unfollowed(error)),
        Some(Some(Ok(false))) | None if answer.remaining == 0 => {
            Outcome::Ended(id, EndReason::Length)
        }
        Some(Some(Ok(false))) | None => Outcome::Wrote(id, token),
    }
}

fn finish(task: Task, reason: EndReason) {
    match task {
        Task::Answer(answer) => {
            // Who does not listen has cancelled.
            let _ = answer.events.send(Event::Ended(reason));
        }
        Task::Rows(mut rows) => {
            if let Some(done) = rows.done.take() {
                let _ = done.send(());
            }
        }
    }
}
