//! Training runs and what is earned by them, as the owner's commands and pages see them.

use serde::{Deserialize, Serialize};

use crate::money::Money;

/// What a device does in a run right now.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RunState {
    /// In words.
    pub doing: String,
    /// Steps of the round that are taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<u32>,
    /// Steps of the round in all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<u32>,
    /// Loss of the last step, in nats a token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss: Option<f32>,
    /// Rounds that were recorded.
    pub rounds_done: u64,
    /// What keeps this device from taking part.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

/// A run on this device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunView {
    /// Its id.
    pub run: String,
    /// What it is called; nothing before its manifest is here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What others join by.
    pub ticket: String,
    /// Whether this device trains in it.
    pub trains: bool,
    /// Whether this device validates in it.
    pub validates: bool,
    /// What it starts from; nothing where the weights are fresh, and before its manifest is here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<RunBase>,
    /// Parameters of the model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parameters: Option<u64>,
    /// Bytes of a contribution: what a trainer sends in a round, beside messages.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub contribution_bytes: Option<u64>,
    /// Rounds of the run in all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rounds: Option<u64>,
    /// The most that training takes of this device's memory, in bytes, beside what the program takes anyway.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// What the device does.
    pub state: RunState,
}

/// The model that a run starts from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunBase {
    /// What the household calls it, or else what its file does; nothing before the file is here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The BLAKE3 hash of its file.
    pub file: String,
    /// `gguf` or `safetensors`.
    pub form: String,
    /// What is trained over it; nothing where all of its weights are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapter: Option<RunAdapter>,
}

/// A low-rank adapter that a run trains.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunAdapter {
    /// Its rank.
    pub rank: u32,
    /// Numerator of its factor.
    pub alpha: f32,
    /// The matrices of each layer that it changes, as `peft` names them.
    pub targets: Vec<String>,
}

/// All runs on this device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunViews {
    /// By id.
    pub runs: Vec<RunView>,
}

/// A recorded round.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RoundView {
    /// Rounds that were recorded before.
    pub index: u64,
    /// Its number on the chain.
    pub number: u64,
    /// The mean loss of the trainers' first steps: that of the state before the round, on data that it had not seen.
    pub loss: f32,
    /// Hash of the weights after it.
    pub state: String,
    /// Who contributed.
    pub trainers: Vec<TrainerView>,
    /// What replays of earlier rounds found.
    pub audits: Vec<AuditView>,
}

/// A contribution to a round.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainerView {
    /// The device.
    pub trainer: String,
    /// The account that earns.
    pub account: String,
    /// Steps that it took.
    pub steps: u32,
    /// Loss of its first step.
    pub first_loss: f32,
    /// Loss of its last step.
    pub last_loss: f32,
}

/// What a replay found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AuditView {
    /// The round of the work.
    pub index: u64,
    /// Whose work it is.
    pub trainer: String,
    /// `same`, `different` or `unavailable`.
    pub outcome: String,
}

/// A run in full.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunDetail {
    /// What it is.
    #[serde(flatten)]
    pub run: RunView,
    /// Its rounds.
    pub recorded: Vec<RoundView>,
    /// What replays of the last rounds found, once the run has all of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub last_audits: Vec<AuditView>,
    /// What is pledged to it, where it takes pledges and the chain answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub funding: Option<FundingView>,
}

/// Where the pledges to a run stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FundingState {
    /// Before the deadline: they are made and withdrawn.
    Open,
    /// The soft cap was reached: checkpoints release them.
    Bound,
    /// The soft cap was missed: all go back.
    Missed,
    /// After the end: what no checkpoint released goes back.
    Ended,
}

/// What is pledged to a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FundingView {
    /// The run.
    pub run: String,
    /// Where the pledges stand.
    pub state: FundingState,
    /// The account of this household.
    pub account: String,
    /// By everybody.
    pub pledged: Money,
    /// By this household, less what went back.
    pub mine: Money,
    /// What everything goes back under.
    pub soft_cap: Money,
    /// Unix seconds until which pledges are made and withdrawn.
    pub deadline_s: u64,
    /// Unix seconds after which what is left goes back.
    pub end_s: u64,
    /// Unix seconds of this view.
    pub now_s: u64,
    /// Equal parts that the pledges are released in.
    pub checkpoints: u32,
    /// Rounds that each of them takes.
    pub rounds_per_checkpoint: u32,
    /// Checkpoints that were reached.
    pub checkpoints_reached: u32,
    /// Checkpoints whose part was released.
    pub checkpoints_released: u32,
    /// What was released, to be earned.
    pub released: Money,
    /// What can be released now.
    pub releasable: Money,
    /// What this household can have back now, after the deadline.
    pub refundable: Money,
}

/// What can be done about the pledges to a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FundingAct {
    /// Make one.
    Pledge,
    /// Take one back before the deadline.
    Withdraw,
    /// Take back what goes back after it.
    Refund,
    /// Send the parts of the reached checkpoints to those who earned them.
    Release,
}

/// What a person wants done about the pledges to a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FundingOrder {
    /// The run's id, or the beginning of it, or its ticket.
    pub run: String,
    /// What.
    pub act: FundingAct,
    /// Whole tokens. Nothing means all of it; a pledge must name an amount.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub amount: Option<String>,
    /// The asset, which must be the run's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asset: Option<String>,
}

/// What an order would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FundingPlan {
    /// What.
    pub act: FundingAct,
    /// How much would move.
    pub amount: Money,
    /// The account that would get it.
    pub to: String,
    /// What is pledged before.
    pub funding: FundingView,
}

/// To carry out an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FundRun {
    /// What.
    pub order: FundingOrder,
    /// Atomic units that this household had pledged when the order was shown. With any other pledge nothing is done.
    pub seen: String,
}

/// An order that was carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FundingDone {
    /// What.
    pub act: FundingAct,
    /// What was ordered.
    pub ordered: Money,
    /// What counts: less where the token takes a fee.
    pub moved: Money,
    /// The transaction.
    pub transaction: String,
    /// What is pledged now.
    pub funding: FundingView,
}

/// What a run that is made promises to its funders.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MakeFunding {
    /// The asset, by its name in the configuration or its CAIP-19 id.
    pub asset: String,
    /// Whole tokens under which everything goes back.
    pub soft_cap: String,
    /// Seconds from now in which pledges are made and withdrawn.
    pub open_s: u64,
    /// Seconds after that in which rounds release them.
    pub lasts_s: u64,
    /// Equal parts that they are released in; a divisor of the run's rounds.
    pub checkpoints: u32,
}

/// To take part in a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinRun {
    /// Its ticket, or the id of a run that is here.
    pub ticket: String,
    /// Whether to train.
    pub trains: bool,
    /// Whether to validate.
    pub validates: bool,
}

/// Which run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhichRun {
    /// Its id, or the beginning of it.
    pub run: String,
}

/// To make a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MakeRun {
    /// The manifest, as canonical JSON.
    pub manifest: String,
    /// Folders of its datasets.
    pub datasets: Vec<String>,
    /// The file of the model that it starts from, where it starts from one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,
    /// Whether to train.
    pub trains: bool,
    /// Whether to validate.
    pub validates: bool,
    /// What it promises to funders; nothing where it takes no pledges.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub funding: Option<MakeFunding>,
}

/// To write the model of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportRun {
    /// Its id, or the beginning of it.
    pub run: String,
    /// The folder to make.
    pub folder: String,
    /// How numbers are written in the GGUF file: `f32`, `f16` or `q8_0`.
    pub precision: String,
    /// Whether an adapter is worked into the weights under it, and the whole model written.
    #[serde(default)]
    pub merged: bool,
}

/// A model that was written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunExported {
    /// The run.
    pub run: String,
    /// Where its files are.
    pub folder: String,
    /// The file that llama.cpp runs.
    pub gguf: String,
    /// The model's id: the hash of its manifest.
    pub model: String,
    /// What it is called.
    pub name: String,
    /// The model that an adapter belongs over; nothing where a whole model was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub over: Option<RunBase>,
    /// Rounds that it was trained for.
    pub rounds: u64,
    /// Mean loss on text that nobody trained on, in nats a token.
    pub held_out_loss: f64,
}

/// To do a trainer's recorded work again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplayWork {
    /// The run's id, or the beginning of it.
    pub run: String,
    /// The round: rounds that were recorded before it.
    pub round: u64,
    /// The trainer's id, or the beginning of it.
    pub trainer: String,
}

/// A trainer's work that was done again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkReplayed {
    /// The run.
    pub run: String,
    /// The round.
    pub round: u64,
    /// Whose work it is.
    pub trainer: String,
    /// The account that earns by it.
    pub account: String,
    /// Steps of the work.
    pub steps: u32,
    /// How long it took here, in seconds.
    pub seconds: f64,
    /// Whether all of it is what was recorded.
    pub same: bool,
    /// What was compared.
    pub parts: Vec<ReplayedPart>,
    /// Why the work cannot be done by anyone, where that is so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub impossible: Option<String>,
}

/// One part of a replayed work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplayedPart {
    /// `contribution`, `local state`, `first loss`, `last loss` or `log`.
    pub what: String,
    /// What was recorded: a hash, or a loss in nats a token; nothing where the run has none.
    pub recorded: Option<String>,
    /// What the replay gave.
    pub computed: Option<String>,
    /// Whether they are the same, to the bit.
    pub same: bool,
}

/// To compare an exported model with what its run recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyModel {
    /// The folder of the model.
    pub folder: String,
    /// Whether one contribution, drawn at random, is done again.
    pub replay: bool,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelCheck {
    /// What it is.
    pub what: String,
    /// What was found.
    pub outcome: CheckOutcome,
    /// In words.
    pub detail: String,
}

/// What a check found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckOutcome {
    /// It is as it is said to be.
    Good,
    /// It is not.
    Bad,
    /// It could not be looked at.
    Unchecked,
}

/// Everything that was looked at of a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelChecks {
    /// One after the other.
    pub checks: Vec<ModelCheck>,
    /// The contribution that was done again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replayed: Option<WorkReplayed>,
}

/// What was earned, and what of it is still to come.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RewardsView {
    /// The account.
    pub account: String,
    /// The epoch that is going on.
    pub epoch: u64,
    /// The newest epoch with a final record; nothing before the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub final_epoch: Option<u64>,
    /// What can be claimed now.
    pub claimable: Vec<Money>,
    /// What was claimed.
    pub claimed: Vec<Money>,
    /// What this device knows to be coming, by run and round.
    pub credits: Vec<CreditView>,
    /// Assets of which it is not known what was earned, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<ClaimProblem>,
}

/// Pay for one contribution or one replay.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CreditView {
    /// The run.
    pub run: String,
    /// The round.
    pub index: u64,
    /// `contribution`, `replay` or `pledge`: what was pledged, for a contribution.
    pub kind: String,
    /// Whose work it was.
    pub trainer: String,
    /// All that it can come to.
    pub whole: Money,
    /// What of it is paid by now.
    pub vested: Money,
    /// What becomes of the rest.
    pub state: CreditState,
    /// Why not all of it: in words.
    pub why: String,
}

/// What becomes of the pay for a contribution or a replay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CreditState {
    /// It was drawn for a replay, which is not reported yet.
    Audited,
    /// It is paid part by part.
    Vesting,
    /// All of it is paid.
    Vested,
    /// Nothing is paid: a replay gave other bytes, or could not be made.
    Refused,
    /// No more is paid: a replay of other work of the trainer gave other bytes.
    Forfeited,
}

/// What was claimed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RewardsClaimed {
    /// By asset.
    pub claimed: Vec<Money>,
    /// What could not be claimed now, and why: one asset does not stand in the way of the others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<ClaimProblem>,
}

/// Why an asset was not looked at or claimed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClaimProblem {
    /// The asset's CAIP-19 id.
    pub asset: String,
    /// Why.
    pub problem: String,
}
