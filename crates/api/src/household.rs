//! What a device of a household says of itself.

use serde::{Deserialize, Serialize};

use crate::money::Money;
use crate::wallet::WalletCreated;

/// A line that `hearth up --json` prints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum NodeEvent {
    /// A wallet was made, in the first run; it holds the recovery phrase, this once.
    Wallet(Box<WalletCreated>),
    /// The device is up.
    Ready(Box<NodeReady>),
    /// The device is down, as it was asked to be.
    Stopped,
}

/// A line that `hearth relay --json` prints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum RelayEvent {
    /// The relay forwards.
    Ready(RelayReady),
    /// It has stopped, as it was asked to.
    Stopped,
}

/// A relay that forwards.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayReady {
    /// Where it listens; the address of a machine whose every address it listens on is 0.0.0.0 or [::].
    pub url: String,
    /// Connections at once.
    pub connections: usize,
    /// The devices that it is for; an empty list means everybody.
    pub only: Vec<String>,
}

/// A device that is up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeReady {
    /// Where programs ask.
    pub url: String,
    /// Where others ask who pay for each answer, if they may.
    pub sold_at: Option<String>,
    /// Its endpoint key.
    pub device: String,
    /// The household's account.
    pub household: String,
    /// A line of text by which other devices join it.
    pub ticket: String,
    /// The models that it runs.
    pub models: Vec<ServedModel>,
    /// The network's chain, where the configuration names none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chain: Option<NetworkChainView>,
    /// What does not work, and what would mend it.
    pub warnings: Vec<String>,
}

/// A chain that one device of the network orders.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkChainView {
    /// Its CAIP-2 id.
    pub chain: String,
    /// The device that orders it.
    pub host: String,
    /// Whether that is this one.
    pub is_own: bool,
}

/// What a machine has for a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Cores that may be used.
    pub cores: u32,
    /// Its memory.
    pub memory_bytes: u64,
    /// Of that, what is free.
    pub memory_free_bytes: u64,
    /// What is free on the disk of the data folder.
    pub disk_free_bytes: u64,
    /// Its graphics processors: those that models run on, or else those that the system shows.
    pub gpus: Vec<Gpu>,
}

/// A graphics processor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gpu {
    /// What it is called.
    pub name: String,
    /// Its memory, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Whether models run on it.
    pub used: bool,
    /// The memory of its own that is free for models: zero where none run on it, and where its memory is the machine's.
    pub room_bytes: u64,
}

/// Whom a model answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Audience {
    /// The devices of the household, for nothing.
    Household,
    /// Everybody who pays one of its prices; without prices, everybody for nothing.
    Everyone,
}

/// A model that a device runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServedModel {
    /// Its name.
    pub name: String,
    /// The hash of its weights (BLAKE3).
    pub weights: String,
    /// What computes it: the processor, or the names of graphics processors.
    pub runs_on: String,
    /// Tokens of prompt and answer together.
    pub context_tokens: u32,
    /// Whom it answers.
    pub audience: Audience,
    /// What answers cost other households; an empty list means that they are free.
    pub prices: Vec<ModelPrice>,
}

/// A price of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelPrice {
    /// For a million tokens of the prompt.
    pub per_million_prompt: Money,
    /// For a million tokens of the answer.
    pub per_million_output: Money,
    /// The least that an answer costs.
    pub floor: Money,
}

/// What is offered in the network, the best first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offers {
    /// One entry for each model of each device.
    pub offers: Vec<OfferView>,
}

/// An offer, weighed for an answer of 500 tokens to a prompt of 500.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OfferView {
    /// The model's name.
    pub model: String,
    /// The hash of its weights.
    pub weights: String,
    /// Who offers: the device's endpoint key.
    pub device: String,
    /// The account that is paid.
    pub household: String,
    /// What it is computed with.
    pub backend: String,
    /// Tokens of prompt and answer together.
    pub context_tokens: u32,
    /// Whom it answers.
    pub audience: Audience,
    /// What answers cost other households; an empty list means that they are free.
    pub prices: Vec<ModelPrice>,
    /// What such an answer would cost, where it is to be paid in a token that is spent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost: Option<Money>,
    /// How long it would take, in milliseconds.
    pub time_ms: u64,
    /// Answers that it takes at the same time, and how many places are free.
    pub slots: u16,
    /// Free places.
    pub free_slots: u16,
    /// Answers that it gave this device.
    pub answers: u64,
    /// Times that it failed since the last of them.
    pub failures: u32,
    /// The figure by which offers are ordered, the lower the better.
    pub score: u64,
    /// Why it would not be asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub passed: Option<String>,
}

/// What a device earned and spent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Earnings {
    /// Answers given to others, by model.
    pub sold: Vec<Trade>,
    /// Answers bought from others, by model.
    pub bought: Vec<Trade>,
    /// Of what was earned, what is not claimed on the chain yet, one entry an asset.
    pub unclaimed: Vec<Money>,
}

/// Answers of one model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trade {
    /// The model's name.
    pub model: String,
    /// How many answers, counting each provider of an answer.
    pub answers: u64,
    /// Their tokens.
    pub output_tokens: u64,
    /// What they cost together, one entry an asset.
    pub charged: Vec<Money>,
}

/// A ticket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invitation {
    /// The line of text that another device joins with.
    pub ticket: String,
}

/// What an invitation is to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InviteAsked {
    /// To the household, for one device, within so many hours; without it, only to the network.
    #[serde(default)]
    pub household_hours: Option<u32>,
}

/// What a ticket joined this device to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joined {
    /// The household that it belongs to now; nothing where only a network was joined.
    pub household: Option<String>,
    /// The network's chain, where the device uses it from its next start on and did not before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chain: Option<String>,
    /// Whether the device is not up and joins when it starts.
    #[serde(default)]
    pub is_later: bool,
}

/// The devices of the household.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Devices {
    /// The household's account.
    pub household: String,
    /// Whether this device holds its key, and so can invite and remove.
    pub is_host: bool,
    /// Those that belong to it.
    pub devices: Vec<DeviceView>,
}

/// This device left the household that it had joined.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Left {
    /// The account of the household that it left.
    pub household: String,
    /// Whether the household's host let it go. Where the host could not be reached, the household
    /// counts this device until it is removed there.
    pub is_host_told: bool,
}

/// A device of the household.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceView {
    /// Its endpoint key.
    pub device: String,
    /// What people call it.
    pub name: String,
    /// Whether it is the one that is asked.
    pub is_this: bool,
    /// Whether it is connected now.
    pub is_near: bool,
    /// When its certificate ends, in milliseconds since 1970. It is made anew long before.
    pub certified_until_ms: u64,
}

/// A device that is meant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhichDevice {
    /// Its name, its endpoint key, or the beginning of that.
    pub device: String,
}

/// The file by which a system runs the node as a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceFile {
    /// What it says.
    pub text: String,
    /// Where it was written; nothing where it was only printed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub path: String,
    /// The command that starts it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub start: String,
}

/// The models of a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HomeModels {
    /// Those whose file is here.
    pub here: Vec<HomeModel>,
    /// Those of the catalogue that can be had.
    pub to_get: Vec<HomeModel>,
}

/// A model that is here, or can be had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HomeModel {
    /// Its name.
    pub name: String,
    /// Its title.
    pub title: String,
    /// Its licence, as SPDX names it.
    pub licence: String,
    /// The size of its file.
    pub bytes: u64,
    /// Tokens of prompt and answer together that it was made for.
    pub context_tokens: u64,
    /// The hash of its weights (BLAKE3), where it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weights: Option<String>,
    /// Whether it is run when the device is up.
    pub served: bool,
    /// Where it came from.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub source: String,
}

/// A model that is meant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhichModel {
    /// Its name, or the hash of its weights.
    pub name: String,
}

/// How far the fetching of a model is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum FetchEvent {
    /// It goes on.
    Progress {
        /// What is here.
        done_bytes: u64,
        /// Of so much.
        total_bytes: u64,
    },
    /// The model is here.
    Done(Box<HomeModel>),
    /// It is not.
    Failed {
        /// Why.
        message: String,
    },
}

/// An API key that was just made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewKey {
    /// Its name.
    pub name: String,
    /// Its text, shown this once.
    pub key: String,
}

/// The API keys of a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeysShown {
    /// One entry a key.
    pub keys: Vec<KeyShown>,
}

/// An API key, without its text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyShown {
    /// Its name.
    pub name: String,
    /// How far its prompts may travel: `device`, `household` or `network`.
    pub tier: String,
    /// What it may spend.
    pub limits: Vec<KeyLimit>,
}

/// What a key may spend of an asset, in whole tokens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyLimit {
    /// The asset's name.
    pub asset: String,
    /// For one answer.
    pub per_request: String,
    /// In one day by UTC.
    pub per_day: String,
}
