//! Whether an exported model is what its manifest says: its files by their hashes, and everything else by what the ledger
//! recorded of its run.
//!
//! The first needs the folder alone. The second is asked of a node that takes part in the run: it reads the records, fetches
//! their books and the state, and computes again what export computed. Nothing that the folder says is taken for true.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use alloy_primitives::B256;
use hearth_api::runs::{CheckOutcome, ModelCheck, ModelChecks, VerifyModel, WorkReplayed};
use hearth_causes::WithCauses;
use hearth_chain::ledger::RecordedRound;
use hearth_outcome::gguf::Precision;
use hearth_outcome::manifest::{MANIFEST_BYTES_MAX, ModelFile, ModelManifest, RunRecord};
use hearth_outcome::seal_file;
use hearth_outcome::transformers::{
    ADAPTER_WEIGHTS_FILE, WEIGHTS_FILE, read_adapter_weights, read_folder,
};
use hearth_protocol::content::ContentHash;
use hearth_protocol::run::book::RoundBook;
use hearth_protocol::run::history::{AUDIT_ROUNDS_MAX, History};
use hearth_protocol::run::pay::{PaidRound, PaidRun};
use hearth_workshop::{Checkpoint, Weights, Workshop};
use thiserror::Error;

use super::depot::DepotError;
use super::outcome::{
    HELD_OUT_LOSS, MANIFEST_FILE, OutcomeError, OutcomeForm, Written, base_of, datasets_of,
    evaluation, holders,
};
use super::replaying::{OpenedRun, RunReplayError};
use super::task::OpenedWork;
use super::{Runs, RunsError};
use crate::advice::Advice;

/// What a check is called where no part of a run could be looked at.
const RUN: &str = "the run";
const RECORDS: &str = "the rounds on the ledger";
const STATE: &str = "the state";
const HOLDERS: &str = "token-steps and shares";
const WEIGHTS: &str = "the weights";
const FILES: &str = "what the files say";
const EVALUATIONS: &str = "the evaluations";
const REPLAY: &str = "one contribution, done again";

/// Why a folder cannot be looked at.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// It is no model's.
    #[error("{} has no {MANIFEST_FILE} that can be read", folder.display())]
    NoModel {
        /// The folder.
        folder: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The work did not end.
    #[error("the model was not looked at, because the work was broken off")]
    Broken,
}

impl Advice for VerifyError {
    fn code(&self) -> &str {
        match self {
            Self::NoModel { .. } => "no_model",
            Self::Broken => "broken_off",
        }
    }

    fn next_step(&self) -> String {
        match self {
            Self::NoModel { .. } => "Name a folder that `hearth run export` made".to_owned(),
            Self::Broken => "Try again".to_owned(),
        }
    }
}

/// A model's folder that was compared with its manifest.
#[derive(Debug)]
pub struct VerifiedFolder {
    /// The id of the model, which its manifest's bytes give.
    pub model: String,
    /// What it is called; nothing where its manifest is none.
    pub name: Option<String>,
    /// The run that it came out of, where it names one.
    pub run: Option<String>,
    /// What was looked at.
    pub checks: Vec<ModelCheck>,
}

/// Why something is not good.
struct Stop {
    outcome: CheckOutcome,
    why: String,
}

fn bad(why: impl Into<String>) -> Stop {
    Stop {
        outcome: CheckOutcome::Bad,
        why: why.into(),
    }
}

fn unchecked(why: impl Into<String>) -> Stop {
    Stop {
        outcome: CheckOutcome::Unchecked,
        why: why.into(),
    }
}

impl From<DepotError> for Stop {
    fn from(error: DepotError) -> Self {
        let why = error.with_causes().to_string();
        match error {
            DepotError::RoundBook(_) | DepotError::OtherState { .. } => bad(why),
            _ => unchecked(why),
        }
    }
}

fn check(what: &str, found: Result<String, Stop>) -> ModelCheck {
    let (outcome, detail) = match found {
        Ok(detail) => (CheckOutcome::Good, detail),
        Err(stop) => (stop.outcome, stop.why),
    };
    ModelCheck {
        what: what.to_owned(),
        outcome,
        detail,
    }
}

fn read_manifest(folder: &Path) -> Result<Vec<u8>, VerifyError> {
    let read = || {
        let mut bytes = Vec::new();
        let file = File::open(folder.join(MANIFEST_FILE))?;
        let most = MANIFEST_BYTES_MAX as u64;
        file.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    read().map_err(|source| VerifyError::NoModel {
        folder: folder.to_owned(),
        source,
    })
}

/// Compares a model's folder with its manifest. No node is needed.
///
/// # Errors
/// When there is no manifest to read.
pub fn verify_folder(folder: &Path) -> Result<VerifiedFolder, VerifyError> {
    let bytes = read_manifest(folder)?;
    let mut verified = VerifiedFolder {
        model: ModelManifest::id(&bytes).to_string(),
        name: None,
        run: None,
        checks: Vec::new(),
    };
    let manifest = match ModelManifest::read(&bytes) {
        Ok(manifest) => manifest,
        Err(error) => {
            let why = bad(error.with_causes().to_string());
            verified.checks.push(check(MANIFEST_FILE, Err(why)));
            return Ok(verified);
        }
    };
    let canonical = "its bytes are the one form of what it says".to_owned();
    verified.checks.push(check(MANIFEST_FILE, Ok(canonical)));
    for file in &manifest.files {
        verified
            .checks
            .push(check(&file.path, file_of(folder, file)));
    }
    verified.run = manifest.run.map(|run| run.id.to_string());
    verified.name = Some(manifest.label.name);
    Ok(verified)
}

fn file_of(folder: &Path, stated: &ModelFile) -> Result<String, Stop> {
    let path = folder.join(&stated.path);
    let unreadable = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => bad("it is missing"),
        _ => unchecked(format!("it cannot be read: {error}")),
    };
    let (wanted, bytes) = (stated.seal, path.metadata().map_err(unreadable)?.len());
    if bytes != wanted.bytes {
        let why = format!("it has {bytes} bytes, and not {}", wanted.bytes);
        return Err(bad(why));
    }
    let found = seal_file(&path).map_err(unreadable)?;
    if found.blake3 != wanted.blake3 {
        let (found, wanted) = (found.blake3, wanted.blake3);
        return Err(bad(format!("its BLAKE3 hash is {found}, and not {wanted}")));
    }
    if found != wanted {
        let (found, wanted) = (found.sha256, wanted.sha256);
        return Err(bad(format!(
            "its SHA-256 hash is {found}, and not {wanted}"
        )));
    }
    Ok(format!("{bytes} bytes, with both hashes"))
}

/// A model and its run, opened to be compared.
struct Verifying {
    folder: PathBuf,
    manifest: ModelManifest,
    stated: RunRecord,
    opened: OpenedRun,
    epoch_s: u64,
    /// Where files are written to be compared.
    scratch: PathBuf,
    datasets: PathBuf,
    checks: Vec<ModelCheck>,
}

impl Runs {
    /// Compares an exported model with what its run recorded.
    ///
    /// # Errors
    /// When there is no manifest to read.
    pub(crate) async fn verify(&self, asked: &VerifyModel) -> Result<ModelChecks, VerifyError> {
        let folder = PathBuf::from(&asked.folder);
        let only = |stop| ModelChecks {
            checks: vec![check(RUN, Err(stop))],
            replayed: None,
        };
        let Ok(manifest) = ModelManifest::read(&read_manifest(&folder)?) else {
            return Ok(only(unchecked(
                "the manifest names none that could be believed",
            )));
        };
        let Some(stated) = manifest.run else {
            return Ok(only(unchecked("the model came out of none")));
        };
        let opened = match self.opened(B256::from(stated.id.0)).await {
            Ok(opened) => opened,
            Err(RunReplayError::Runs(error)) if matches!(*error, RunsError::Unknown(_)) => {
                let why = "this device takes no part in the run: join it with its ticket to compare with its records";
                return Ok(only(unchecked(why)));
            }
            Err(error) => return Ok(only(unchecked(error.with_causes().to_string()))),
        };
        let verifying = Verifying {
            folder,
            manifest,
            stated,
            opened,
            epoch_s: self.0.parts.ledger.clock().epoch_s(),
            scratch: self.0.folder.clone(),
            datasets: self.datasets().to_owned(),
            checks: Vec::new(),
        };
        self.verified(verifying, asked.replay).await
    }

    async fn verified(
        &self,
        mut verifying: Verifying,
        replays: bool,
    ) -> Result<ModelChecks, VerifyError> {
        let terms = verifying.terms();
        verifying.checks.push(check(RUN, terms));
        let state = match self.records(&mut verifying.opened, verifying.stated).await {
            Ok((state, good)) => {
                verifying.checks.push(check(RECORDS, Ok(good)));
                state
            }
            Err(stop) => {
                verifying.checks.push(check(RECORDS, Err(stop)));
                verifying.skip(&[STATE, HOLDERS, WEIGHTS, FILES, EVALUATIONS]);
                return Ok(verifying.ended(None));
            }
        };
        let recorded = verifying.state(state);
        verifying.checks.push(check(STATE, recorded));
        let holders = verifying.holders();
        verifying.checks.push(check(HOLDERS, holders));
        let last = verifying.stated.last_round;
        let was_here = match verifying.opened.state(Some(last), state).await {
            Ok(was_here) => was_here,
            Err(error) => {
                verifying.checks.push(check(WEIGHTS, Err(error.into())));
                verifying.skip(&[FILES, EVALUATIONS]);
                return Ok(verifying.ended(None));
            }
        };
        let heavy = self.0.parts.heavy.lock().await;
        let mut verifying = tokio::task::spawn_blocking(move || {
            verifying.numbers(state);
            verifying
        })
        .await
        .map_err(|_| VerifyError::Broken)?;
        drop(heavy);
        let mut replayed = None;
        if replays {
            let again = self.one_again(&verifying.opened).await;
            verifying.checks.push(check(REPLAY, told(&again)));
            replayed = again.ok();
        }
        if !was_here {
            verifying.opened.let_go(last.saturating_add(1), state).await;
        }
        Ok(verifying.ended(replayed))
    }

    /// Reads what the ledger recorded, from the first round to the last one of the model, with the books; returns the weights
    /// that this one leads to. Where it is the last one of the run, books of audits may follow, which say more about who
    /// made the model.
    async fn records(
        &self,
        opened: &mut OpenedRun,
        stated: RunRecord,
    ) -> Result<(B256, String), Stop> {
        let (ledger, rules) = (&self.0.parts.ledger, opened.paid.rules);
        let (first, last) = (stated.first_round, stated.last_round);
        if first != 0 || last >= rules.rounds {
            let why = format!("rounds {first} to {last} are stated, of {}", rules.rounds);
            return Err(bad(why));
        }
        let mut history = History::new(rules);
        let start = opened.replaying.depot.folder.ticket();
        let start = start.map_err(|error| unchecked(error.with_causes().to_string()))?;
        let (mut state, mut from_block, mut rounds) = (start.terms.state, 0, Vec::new());
        let mut weights = state;
        let may_go_on = last.saturating_add(1) >= rules.rounds;
        loop {
            let page = ledger.rounds(rules.run, from_block).await;
            let page = page.map_err(|error| unchecked(error.with_causes().to_string()))?;
            for record in &page.items {
                let confirmed_at = record
                    .block
                    .number
                    .saturating_add(self.0.parts.confirmations);
                if confirmed_at > page.head.number.saturating_add(1) {
                    return read_of(opened, rounds, last, weights);
                }
                let book = book_of(opened, record, state).await?;
                let index = rounds.len();
                history.apply(&book, record.block.hash).map_err(|error| {
                    let why = error.with_causes();
                    bad(format!("the book of round {index} does not follow: {why}"))
                })?;
                let epoch = ledger.clock().epoch_at(record.block.timestamp_s);
                state = record.statement.next;
                if book.index <= last {
                    weights = state;
                }
                rounds.push(PaidRound {
                    epoch: epoch.unwrap_or_default(),
                    beacon: record.block.hash,
                    book,
                });
                if history.index() > last && !may_go_on {
                    return read_of(opened, rounds, last, weights);
                }
            }
            if page.is_last() {
                return read_of(opened, rounds, last, weights);
            }
            from_block = page.next_block;
        }
    }

    /// Does the work of one contribution again, drawn among those whose beginning devices still keep.
    async fn one_again(&self, opened: &OpenedRun) -> Result<WorkReplayed, Stop> {
        let oldest = opened.known.saturating_sub(AUDIT_ROUNDS_MAX);
        let rounds = opened.paid.rounds.iter();
        let works: Vec<_> = rounds
            .filter(|round| round.book.index >= oldest)
            .flat_map(|round| round.book.members.iter().map(|m| (round.book.index, m)))
            .collect();
        let drawn = self.0.parts.environment.draw_u64();
        let drawn = drawn.map_err(|error| unchecked(error.to_string()))?;
        let place = drawn.checked_rem(works.len() as u64);
        let place = place.and_then(|place| usize::try_from(place).ok());
        let Some((round, member)) = place.and_then(|place| works.get(place)) else {
            let why = format!(
                "devices keep what the last {AUDIT_ROUNDS_MAX} rounds began from, and the model is older"
            );
            return Err(unchecked(why));
        };
        let again = self.replay_of(opened, *round, (*member).clone()).await;
        again.map_err(|error| unchecked(error.with_causes().to_string()))
    }
}

/// What a replay says of the model.
fn told(again: &Result<WorkReplayed, Stop>) -> Result<String, Stop> {
    let again = match again {
        Ok(again) => again,
        Err(stop) => {
            return Err(Stop {
                outcome: stop.outcome,
                why: stop.why.clone(),
            });
        }
    };
    let (round, trainer) = (again.round, &again.trainer);
    let whose = format!("the work of {trainer} in round {round}");
    match again.same {
        true => Ok(format!("{whose} gives what is recorded")),
        false => Err(bad(format!(
            "{whose} gives something else than what is recorded"
        ))),
    }
}

/// Keeps what was read, if the last round of the model is among it; `weights` are those after that round.
fn read_of(
    opened: &mut OpenedRun,
    rounds: Vec<PaidRound>,
    last: u64,
    weights: B256,
) -> Result<(B256, String), Stop> {
    let found = rounds.len() as u64;
    if found <= last {
        return Err(bad(format!(
            "round {last} is stated, and the ledger has {found} rounds, counted from 0"
        )));
    }
    opened.paid.rounds = rounds;
    let good = format!("0 to {last}, each with its book, which follows the one before");
    Ok((weights, good))
}

async fn book_of(
    opened: &OpenedRun,
    record: &RecordedRound,
    state: B256,
) -> Result<RoundBook, Stop> {
    let name = ContentHash(record.statement.contributions.0);
    let book = opened.replaying.depot.book(name).await?;
    let (parent, index) = (record.statement.parent, book.index);
    if parent != state || book.parent != parent {
        let why = format!("round {index} does not begin from the state that the one before led to");
        return Err(bad(why));
    }
    Ok(book)
}

impl Verifying {
    fn ended(self, replayed: Option<WorkReplayed>) -> ModelChecks {
        ModelChecks {
            checks: self.checks,
            replayed,
        }
    }

    fn skip(&mut self, rest: &[&str]) {
        for what in rest {
            let why = "what it follows from is missing or wrong";
            self.checks.push(check(what, Err(unchecked(why))));
        }
    }

    /// What does not change in a run.
    fn terms(&self) -> Result<String, Stop> {
        let workshop = &self.opened.replaying.workshop;
        let (run, model) = (workshop.manifest(), &self.manifest);
        let trained = workshop.adapter().map(|layout| layout.adapter());
        let compared = [
            (
                "manifest",
                self.stated.manifest.0 == workshop.manifest_hash().0,
            ),
            (
                "shape",
                model.architecture == *workshop.model().architecture(),
            ),
            ("license", model.label.license == run.license),
            ("list of datasets", model.datasets == datasets_of(run)),
            ("base", model.base == base_of(self.opened.base.as_deref())),
            (
                "adapter",
                model.adapter.is_none() || model.adapter.as_ref() == trained,
            ),
        ];
        let mut other = compared.iter().filter(|(_, is_same)| !is_same);
        match other.next() {
            Some((what, _)) => Err(bad(format!(
                "its {what} is not what the model's manifest says"
            ))),
            None => Ok(
                match &model.base {
                    Some(_) => "its manifest, the model that it starts from, the shape, the license and the datasets are as stated",
                    None => "its manifest, the shape, the license and the datasets are as stated",
                }
                .to_owned(),
            ),
        }
    }

    fn state(&self, recorded: B256) -> Result<String, Stop> {
        let (stated, last) = (self.stated.state, self.stated.last_round);
        match stated.0 == recorded.0 {
            true => Ok(format!("round {last} was recorded with {stated}")),
            false => {
                let recorded = ContentHash(recorded.0);
                let why =
                    format!("round {last} was recorded with {recorded}, and not with {stated}");
                Err(bad(why))
            }
        }
    }

    /// Who made the model.
    fn holders(&self) -> Result<String, Stop> {
        let run = self.opened.replaying.workshop.manifest();
        let model = &self.manifest;
        let mut paid = self.opened.paid.clone();
        let of = |paid: &PaidRun| {
            let found = holders(paid, run, self.epoch_s);
            found.map_err(|error| bad(error.with_causes().to_string()))
        };
        let (mut trainers, mut validators) = of(&paid)?;
        // A model of the run's last round may be older than books of audits that follow.
        while (&model.trainers, &model.validators) != (&trainers, &validators)
            && paid.rounds.len() as u64 > self.stated.last_round.saturating_add(1)
        {
            paid.rounds.pop();
            (trainers, validators) = of(&paid)?;
        }
        if model.trainers != trainers {
            let other = trainers
                .iter()
                .find(|trainer| !model.trainers.contains(trainer));
            let why = other.map_or_else(
                || "somebody is named as a trainer who contributed nothing".to_owned(),
                |found| {
                    let (account, steps, share) = (found.account, found.token_steps, found.share);
                    format!("the books give the trainer {account} {steps} token-steps and {share} millionths")
                },
            );
            return Err(bad(why));
        }
        if model.validators != validators {
            let other = validators
                .iter()
                .find(|found| !model.validators.contains(found));
            let why = other.map_or_else(
                || "somebody is named as a validator who replayed nothing".to_owned(),
                |found| {
                    let (account, share) = (found.account, found.share);
                    format!("the books give the validator {account} {share} millionths")
                },
            );
            return Err(bad(why));
        }
        if !model.funders.is_empty() {
            return Err(bad("funders are named, and this version counts none"));
        }
        let (trainers, validators) = (trainers.len(), validators.len());
        Ok(format!(
            "the books give the same for {trainers} trainers and {validators} validators"
        ))
    }

    /// Everything that is computed from the state. It blocks.
    fn numbers(&mut self, state: B256) {
        let replaying = &self.opened.replaying;
        let workshop = Arc::clone(&replaying.workshop);
        let checkpoint = match replaying.depot.checkpoint(&workshop, ContentHash(state.0)) {
            Ok(checkpoint) => checkpoint,
            Err(error) => {
                self.checks.push(check(WEIGHTS, Err(error.into())));
                self.skip(&[FILES, EVALUATIONS]);
                return;
            }
        };
        let Some(data) = workshop.manifest().datasets.first() else {
            self.skip(&[WEIGHTS, FILES, EVALUATIONS]);
            return;
        };
        let data = self.datasets.join(data.id.to_string());
        let work = OpenedWork {
            workshop: Arc::clone(&workshop),
            base: self.opened.base.clone(),
        };
        let written = Written {
            work: &work,
            checkpoint: &checkpoint,
            data: &data,
            form: self.form(),
        };
        let weights = self.weights(&written);
        let files = self.files(&written);
        let evaluations = self.evaluations(&workshop, &checkpoint);
        self.checks.push(check(WEIGHTS, weights));
        self.checks.push(check(FILES, files));
        self.checks.push(check(EVALUATIONS, evaluations));
    }

    /// What the folder is said to have.
    fn form(&self) -> OutcomeForm {
        let has_adapter = self.opened.replaying.workshop.adapter().is_some();
        match (has_adapter, &self.manifest.adapter) {
            (false, _) => OutcomeForm::Whole,
            (true, Some(_)) => OutcomeForm::Adapter,
            (true, None) => OutcomeForm::Merged,
        }
    }

    fn weights(&self, written: &Written<'_>) -> Result<String, Stop> {
        let workshop = &written.work.workshop;
        let (file, read) = match (written.form, workshop.adapter()) {
            (OutcomeForm::Adapter, Some(adapter)) => {
                let read = read_adapter_weights(&self.folder, adapter);
                let read = read.map_err(|error| bad(error.with_causes().to_string()));
                (ADAPTER_WEIGHTS_FILE, read?)
            }
            _ => (WEIGHTS_FILE, self.whole_weights(workshop)?),
        };
        let wanted = match written.form {
            OutcomeForm::Adapter => Ok(Cow::Borrowed(written.checkpoint.trained())),
            OutcomeForm::Whole | OutcomeForm::Merged => written.weights(),
        };
        let wanted = wanted.map_err(|error| unchecked(error.with_causes().to_string()))?;
        let (found, wanted) = (read.values(), wanted.values());
        let tensors = read.tensors();
        let bits = |numbers: &[f32]| numbers.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        for tensor in tensors.list() {
            let range = tensor.range();
            if bits(&found[range.clone()]) != bits(&wanted[range]) {
                let name = &tensor.name;
                return Err(bad(format!("{name} in {file} is not the state's")));
            }
        }
        let count = tensors.list().len();
        Ok(match written.form {
            OutcomeForm::Merged => format!(
                "the {count} tensors of {file} are those of the base with the state worked in, to the bit"
            ),
            OutcomeForm::Whole | OutcomeForm::Adapter => {
                format!("the {count} tensors of {file} are the state's, to the bit")
            }
        })
    }

    /// The weights of a whole model, if it has the run's shape.
    fn whole_weights(&self, workshop: &Workshop) -> Result<Weights, Stop> {
        let read = read_folder(&self.folder);
        let read = read.map_err(|error| bad(error.with_causes().to_string()))?;
        match read.layout.architecture() == workshop.model().architecture() {
            true => Ok(read.weights),
            false => Err(bad("the files have another shape than the run's model")),
        }
    }

    /// Writes the files again, and compares what the manifest says of them.
    fn files(&self, written: &Written<'_>) -> Result<String, Stop> {
        let stated = &self.manifest.files;
        let name = written.form.gguf();
        let gguf = stated.iter().find(|file| file.path == name);
        let mut found = Err(unchecked("no file could be written to compare with"));
        // An adapter's file is in single precision, whatever is asked for.
        let precisions = match written.form {
            OutcomeForm::Adapter => &[Precision::F32][..],
            _ => &[Precision::F16, Precision::F32, Precision::Q8_0],
        };
        for precision in precisions {
            let files = self.written(written, *precision);
            let is_it = files
                .as_ref()
                .is_ok_and(|files| files.iter().any(|f| Some(f) == gguf));
            if is_it || found.is_err() {
                found = files;
            }
            if is_it || gguf.is_none() {
                break;
            }
        }
        let found = found?;
        let others: Vec<_> = stated
            .iter()
            .filter(|file| !found.contains(file))
            .map(|file| file.path.as_str())
            .collect();
        match others.is_empty() {
            true => Ok(format!(
                "the state gives each of the {} files, to the bit, when it is written again",
                stated.len()
            )),
            false => Err(bad(format!(
                "the state does not give {} when it is written again",
                others.join(", ")
            ))),
        }
    }

    fn written(&self, written: &Written<'_>, precision: Precision) -> Result<Vec<ModelFile>, Stop> {
        let again = || -> Result<Vec<ModelFile>, OutcomeError> {
            let out =
                tempfile::tempdir_in(&self.scratch).map_err(|source| OutcomeError::Write {
                    path: self.scratch.clone(),
                    source,
                })?;
            let names = written.files(out.path(), precision)?;
            super::outcome::sealed(out.path(), names)
        };
        again().map_err(|error| unchecked(error.with_causes().to_string()))
    }

    /// Measures again what can be measured here.
    fn evaluations(&self, workshop: &Workshop, checkpoint: &Checkpoint) -> Result<String, Stop> {
        let stated = &self.manifest.evaluations;
        let Some(suite) = datasets_of(workshop.manifest()).first().copied() else {
            return Err(unchecked("the run has no dataset"));
        };
        let mut known = stated.iter().filter(|one| one.measure == HELD_OUT_LOSS);
        let Some(known) = known.next() else {
            return Err(unchecked("the manifest has none that a run measures"));
        };
        let watch = &mut |_| std::ops::ControlFlow::Continue(());
        let measured = workshop.held_out_loss(checkpoint, watch);
        let measured = measured.map_err(|error| unchecked(error.with_causes().to_string()))?;
        let found = evaluation(suite, &measured);
        let found = found.map_err(|error| unchecked(error.with_causes().to_string()))?;
        let value = found.value.as_str();
        if *known != found {
            let stated = known.value.as_str();
            let why = format!(
                "the held-out loss is {value} on {} windows, and not {stated}",
                found.items
            );
            return Err(bad(why));
        }
        if stated.len() > 1 {
            return Err(unchecked(
                "the held-out loss is as stated; others cannot be measured here",
            ));
        }
        Ok(format!("the held-out loss is {value}, as stated"))
    }
}
