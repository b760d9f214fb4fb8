//! The sections that say how this device answers: network, engine, API, models and their prices.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::str::FromStr;

use hearth_protocol::answer::Price;
use hearth_protocol::content::ContentHash;
use hearth_protocol::money::Amount;
use hearth_protocol::offer::{Audience, PRICES_MAX};
use hearth_protocol::text::is_name;
use hearth_surface::ANSWERS_AT_ONCE;
use hearth_surface::answers::Tier;
use serde::Deserialize;
use thiserror::Error;
use toml::Spanned;
use url::Url;

use super::{AssetConfig, Fault, fault, whole_tokens};

/// The most models in a configuration.
pub const MODELS_MAX: usize = hearth_protocol::offer::OFFERED_MODELS_MAX;
/// The most requests for which a quoted ceiling leaves room: no channel works on more.
pub const AT_ONCE_MAX: u32 = 256;
/// The most names of models of others.
const NAMES_MAX: usize = 256;
/// The most relays.
const RELAYS_MAX: usize = 8;
/// The most addresses to listen on.
const LISTEN_MAX: usize = 8;
/// The most names of this device.
const HOST_NAMES_MAX: usize = 16;
/// The longest name of a host, in bytes.
const HOST_BYTES_MAX: usize = 253;
/// The longest name of a model, in bytes.
const MODEL_NAME_BYTES_MAX: usize = hearth_protocol::offer::NAME_BYTES_MAX;
/// Answers that are computed at the same time at most.
const ANSWERS_MAX: u32 = 64;
/// The bounds of a context, in tokens.
const CONTEXT_TOKENS: std::ops::RangeInclusive<u32> = 256..=1_048_576;
/// The most windows of hours.
const HOURS_MAX: usize = 16;
/// The most watts that make sense to say.
const WATTS_MAX: u32 = 100_000;
/// Answers that wait for their turn, unless it is said.
const WAITING: u32 = 128;
/// The most of them.
const WAITING_MAX: u32 = 4_096;
/// The longest that one waits, in seconds, unless it is said.
const WAIT_S: u32 = 300;
/// The most of that.
const WAIT_S_MAX: u32 = 86_400;
/// The minutes of a day.
const DAY_MINUTES: u16 = 24 * 60;
/// The most threads.
const THREADS_MAX: u32 = 1_024;

/// For how many requests at the same time a quoted ceiling leaves room, unless it is said.
const SOLD_AT_ONCE: u32 = 4;

/// How far this device reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReachConfig {
    /// Nodes on this machine.
    Loopback,
    /// The local network.
    Local,
    /// Beyond it, by relays and address lookups.
    World,
}

/// How this device finds and reaches others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkConfig {
    /// How far.
    pub reach: ReachConfig,
    /// UDP addresses to listen on; none lets the system choose.
    pub listen: Vec<SocketAddr>,
    /// Relays.
    pub relays: Vec<Url>,
    /// Whether devices are looked up in the BitTorrent DHT.
    pub dht: bool,
    /// The most bytes per second that are sent of model files.
    pub upload_bytes_per_s: Option<u64>,
}

/// How models are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineConfig {
    /// Threads that compute; 0 takes all cores.
    pub threads: u32,
    /// Answers that are computed at the same time.
    pub answers: u32,
    /// The longest prompt and answer together, in tokens.
    pub context_tokens: u32,
    /// Answers that wait for their turn.
    pub waiting: u32,
    /// The longest that one waits, in seconds.
    pub wait_s: u32,
}

/// Where programs ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiConfig {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Whether programs on this machine may ask without a key.
    pub keyless: bool,
    /// Names, without ports, by which the household's programs know this device beside its addresses.
    pub names: Vec<String>,
    /// How far the prompts of those may travel.
    pub keyless_tier: Tier,
    /// How many answers a key, or all those without one together, may have at once, waiting ones among them.
    pub at_once: u32,
    /// Where others ask who pay for each answer, if they may.
    pub sold: Option<SoldConfig>,
}

/// Where answers are sold over HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SoldConfig {
    /// Where it listens.
    pub listen: SocketAddr,
    /// The address under which the world knows it, if that is not the one that requests name.
    pub base_url: Option<Url>,
    /// For how many requests at the same time a quoted ceiling leaves room.
    pub at_once: u32,
}

impl SoldConfig {
    /// A place to sell with what is usual otherwise.
    pub fn at(listen: SocketAddr) -> Self {
        Self {
            listen,
            base_url: None,
            at_once: SOLD_AT_ONCE,
        }
    }
}

/// When others may use this device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharingConfig {
    /// Whether at all.
    pub enabled: bool,
    /// The share of the processor that other programs may use before this device is its owner's
    /// alone, in percent.
    pub busy_percent: u8,
    /// The hours in which others may use it; none at all means always.
    pub hours: Vec<HoursWindow>,
    /// What the device may draw before others are sent elsewhere, in watts.
    pub watts: Option<u32>,
}

/// Hours of a day, where the device is: from a minute on, until before another. They may pass midnight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HoursWindow {
    from_minute: u16,
    until_minute: u16,
}

/// Why a text says no hours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("hours are written like \"22:00-07:00\", and differ")]
pub struct HoursError;

impl HoursWindow {
    /// Whether a minute since midnight is in it.
    pub fn covers(&self, minute: u16) -> bool {
        let (from, until) = (self.from_minute, self.until_minute);
        if from < until {
            (from..until).contains(&minute)
        } else {
            minute >= from || minute < until
        }
    }
}

impl FromStr for HoursWindow {
    type Err = HoursError;

    fn from_str(text: &str) -> Result<Self, HoursError> {
        let (from, until) = text.split_once('-').ok_or(HoursError)?;
        let window = Self {
            from_minute: minute(from)?,
            until_minute: minute(until)?,
        };
        // From 24:00 on, and from a time until the same, could mean always or never.
        if window.from_minute == window.until_minute || window.from_minute == DAY_MINUTES {
            return Err(HoursError);
        }
        Ok(window)
    }
}

fn minute(text: &str) -> Result<u16, HoursError> {
    let two = |digits: &str| match digits.as_bytes() {
        [a, b] if a.is_ascii_digit() && b.is_ascii_digit() => {
            Ok(u16::from(a - b'0') * 10 + u16::from(b - b'0'))
        }
        _ => Err(HoursError),
    };
    let (hour, minute) = text.trim().split_once(':').ok_or(HoursError)?;
    let (hour, minute) = (two(hour)?, two(minute)?);
    let minutes = hour * 60 + minute;
    if minute < 60 && minutes <= DAY_MINUTES {
        Ok(minutes)
    } else {
        Err(HoursError)
    }
}

/// A model that this device runs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ModelConfig {
    /// Whom it answers.
    pub audience: Audience,
    /// What answers cost other households, in any one of these.
    pub prices: Vec<Price>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawNetwork {
    reach: ReachConfig,
    listen: Vec<Spanned<String>>,
    relays: Vec<Spanned<String>>,
    dht: bool,
    upload_kib_per_s: Option<u32>,
}

impl Default for RawNetwork {
    fn default() -> Self {
        Self {
            reach: ReachConfig::Local,
            listen: Vec::new(),
            relays: Vec::new(),
            dht: false,
            upload_kib_per_s: None,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawEngine {
    threads: Spanned<u32>,
    answers: Spanned<u32>,
    context_tokens: Spanned<u32>,
    waiting: Option<Spanned<u32>>,
    wait_s: Option<Spanned<u32>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawApi {
    listen: Spanned<String>,
    keyless: bool,
    names: Option<Spanned<Vec<String>>>,
    keyless_tier: Option<Spanned<String>>,
    at_once: Option<Spanned<u32>>,
    sold: Option<RawSold>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSold {
    listen: Spanned<String>,
    base_url: Option<Spanned<String>>,
    at_once: Option<Spanned<u32>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawSharing {
    enabled: bool,
    busy_percent: Spanned<u8>,
    hours: Option<Spanned<Vec<Spanned<String>>>>,
    watts: Option<Spanned<u32>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawModel {
    audience: Option<Spanned<Audience>>,
    prices: Option<Spanned<Vec<RawPrice>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPrice {
    asset: Spanned<String>,
    per_million_prompt: Spanned<String>,
    per_million_output: Spanned<String>,
    floor: Option<Spanned<String>>,
}

fn address(text: &Spanned<String>) -> Result<SocketAddr, Fault> {
    let parsed = text.get_ref().parse();
    parsed.map_err(|_| fault(text, "an address is written like \"127.0.0.1:4040\""))
}

pub(super) fn network(raw: RawNetwork) -> Result<NetworkConfig, Fault> {
    if let Some(beyond) = raw.listen.get(LISTEN_MAX) {
        return Err(fault(beyond, format!("at most {LISTEN_MAX} addresses")));
    }
    if let Some(beyond) = raw.relays.get(RELAYS_MAX) {
        return Err(fault(beyond, format!("at most {RELAYS_MAX} relays")));
    }
    let relay = |text: &Spanned<String>| {
        Url::parse(text.get_ref())
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https"))
            .ok_or_else(|| fault(text, "a relay is an http or https URL"))
    };
    Ok(NetworkConfig {
        reach: raw.reach,
        listen: raw.listen.iter().map(address).collect::<Result<_, _>>()?,
        relays: raw.relays.iter().map(relay).collect::<Result<_, _>>()?,
        dht: raw.dht,
        upload_bytes_per_s: raw.upload_kib_per_s.map(|kib| u64::from(kib) * 1_024),
    })
}

pub(super) fn engine(raw: Option<RawEngine>) -> Result<EngineConfig, Fault> {
    let Some(raw) = raw else {
        return Ok(EngineConfig {
            threads: 0,
            answers: 4,
            context_tokens: 8_192,
            waiting: WAITING,
            wait_s: WAIT_S,
        });
    };
    if *raw.threads.get_ref() > THREADS_MAX {
        return Err(fault(
            &raw.threads,
            format!("at most {THREADS_MAX} threads"),
        ));
    }
    if !(1..=ANSWERS_MAX).contains(raw.answers.get_ref()) {
        let reason = format!("1 to {ANSWERS_MAX} answers at the same time");
        return Err(fault(&raw.answers, reason));
    }
    if !CONTEXT_TOKENS.contains(raw.context_tokens.get_ref()) {
        let (least, most) = (CONTEXT_TOKENS.start(), CONTEXT_TOKENS.end());
        let reason = format!("a context has {least} to {most} tokens");
        return Err(fault(&raw.context_tokens, reason));
    }
    Ok(EngineConfig {
        threads: raw.threads.into_inner(),
        answers: raw.answers.into_inner(),
        context_tokens: raw.context_tokens.into_inner(),
        waiting: within(raw.waiting, WAITING, WAITING_MAX, "answers wait")?,
        wait_s: within(raw.wait_s, WAIT_S, WAIT_S_MAX, "seconds are waited")?,
    })
}

/// A number of things from 1 on, or what is usual.
fn within(raw: Option<Spanned<u32>>, usual: u32, most: u32, what: &str) -> Result<u32, Fault> {
    match raw {
        None => Ok(usual),
        Some(raw) if (1..=most).contains(raw.get_ref()) => Ok(raw.into_inner()),
        Some(raw) => Err(fault(&raw, format!("1 to {most} {what}"))),
    }
}

pub(super) fn api(raw: Option<RawApi>) -> Result<ApiConfig, Fault> {
    match raw {
        Some(raw) => Ok(ApiConfig {
            listen: address(&raw.listen)?,
            keyless: raw.keyless,
            names: raw.names.map_or(Ok(Vec::new()), host_names)?,
            keyless_tier: raw
                .keyless_tier
                .as_ref()
                .map_or(Ok(Tier::Household), tier)?,
            at_once: within(raw.at_once, ANSWERS_AT_ONCE, WAITING_MAX, "answers at once")?,
            sold: raw.sold.map(sold).transpose()?,
        }),
        None => Ok(ApiConfig {
            listen: SocketAddr::from(([127, 0, 0, 1], 4_040)),
            keyless: true,
            names: Vec::new(),
            keyless_tier: Tier::Household,
            at_once: ANSWERS_AT_ONCE,
            sold: None,
        }),
    }
}

fn host_names(raw: Spanned<Vec<String>>) -> Result<Vec<String>, Fault> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let is_name =
        |name: &String| (1..=HOST_BYTES_MAX).contains(&name.len()) && name.bytes().all(plain);
    if raw.get_ref().len() > HOST_NAMES_MAX || !raw.get_ref().iter().all(is_name) {
        let reason = format!(
            "names has at most {HOST_NAMES_MAX} host names such as \"hearth.lan\", without ports"
        );
        return Err(fault(&raw, reason));
    }
    Ok(raw.into_inner())
}

fn tier(text: &Spanned<String>) -> Result<Tier, Fault> {
    match text.get_ref().as_str() {
        "device" => Ok(Tier::Device),
        "household" => Ok(Tier::Household),
        "network" => Ok(Tier::Network),
        _ => Err(fault(
            text,
            "a tier is \"device\", \"household\" or \"network\"",
        )),
    }
}

fn sold(raw: RawSold) -> Result<SoldConfig, Fault> {
    let base_url = raw.base_url.as_ref().map(|text| {
        let url = Url::parse(text.get_ref()).ok();
        url.filter(|url| matches!(url.scheme(), "http" | "https"))
            .ok_or_else(|| fault(text, "base_url is an http or https URL"))
    });
    let at_once = match &raw.at_once {
        None => SOLD_AT_ONCE,
        Some(at_once) if (1..=AT_ONCE_MAX).contains(at_once.get_ref()) => *at_once.get_ref(),
        Some(wrong) => {
            let reason = format!("a ceiling is quoted for 1 to {AT_ONCE_MAX} requests at once");
            return Err(fault(wrong, reason));
        }
    };
    Ok(SoldConfig {
        listen: address(&raw.listen)?,
        base_url: base_url.transpose()?,
        at_once,
    })
}

pub(super) fn sharing(raw: Option<RawSharing>) -> Result<SharingConfig, Fault> {
    let Some(raw) = raw else {
        return Ok(SharingConfig {
            enabled: true,
            busy_percent: 50,
            hours: Vec::new(),
            watts: None,
        });
    };
    if *raw.busy_percent.get_ref() > 100 {
        return Err(fault(&raw.busy_percent, "busy_percent is 0 to 100"));
    }
    if let Some(watts) = &raw.watts
        && !(1..=WATTS_MAX).contains(watts.get_ref())
    {
        return Err(fault(watts, format!("watts is 1 to {WATTS_MAX}")));
    }
    Ok(SharingConfig {
        enabled: raw.enabled,
        busy_percent: raw.busy_percent.into_inner(),
        hours: raw.hours.as_ref().map_or(Ok(Vec::new()), hours)?,
        watts: raw.watts.map(Spanned::into_inner),
    })
}

fn hours(raw: &Spanned<Vec<Spanned<String>>>) -> Result<Vec<HoursWindow>, Fault> {
    if !(1..=HOURS_MAX).contains(&raw.get_ref().len()) {
        let reason =
            format!("hours has 1 to {HOURS_MAX} entries; say enabled = false to share at no time");
        return Err(fault(raw, reason));
    }
    let window = |text: &Spanned<String>| {
        let parsed = text.get_ref().parse();
        parsed.map_err(|error: HoursError| fault(text, error.to_string()))
    };
    raw.get_ref().iter().map(window).collect()
}

pub(super) fn models(
    raw: BTreeMap<Spanned<String>, RawModel>,
    assets: &BTreeMap<String, AssetConfig>,
) -> Result<BTreeMap<String, ModelConfig>, Fault> {
    let mut models = BTreeMap::new();
    for (name, model) in raw {
        if models.len() >= MODELS_MAX {
            return Err(fault(
                &name,
                format!("there are more than {MODELS_MAX} models"),
            ));
        }
        let text = name.get_ref();
        if text.is_empty()
            || text.len() > MODEL_NAME_BYTES_MAX
            || !is_name(text)
            || text.chars().any(char::is_whitespace)
        {
            let reason = format!(
                "a model's name has 1 to {MODEL_NAME_BYTES_MAX} bytes, no spaces, and nothing that is not seen"
            );
            return Err(fault(&name, reason));
        }
        let prices = match model.prices {
            None => Vec::new(),
            Some(prices) if prices.get_ref().len() > PRICES_MAX => {
                let reason = format!("a model has at most {PRICES_MAX} prices");
                return Err(fault(&prices, reason));
            }
            Some(prices) => {
                let prices = prices.get_ref().iter();
                let prices = prices.map(|raw| price(raw, assets));
                prices.collect::<Result<_, _>>()?
            }
        };
        let audience = audience(model.audience, &prices)?;
        models.insert(name.into_inner(), ModelConfig { audience, prices });
    }
    Ok(models)
}

/// Names that the owner accepts for models of others.
pub(super) fn names(
    raw: BTreeMap<Spanned<String>, Spanned<String>>,
) -> Result<BTreeMap<String, ContentHash>, Fault> {
    let mut names = BTreeMap::new();
    for (name, hash) in raw {
        if names.len() >= NAMES_MAX {
            return Err(fault(
                &name,
                format!("there are more than {NAMES_MAX} names"),
            ));
        }
        let weights = hash.get_ref().parse();
        let weights = weights.map_err(|_| {
            fault(
                &hash,
                "a name stands for the hash of a model's file: 64 hexadecimal digits, as `hearth offers` shows them",
            )
        })?;
        names.insert(name.into_inner(), weights);
    }
    Ok(names)
}

/// Whom a model answers: what its owner says, or else everybody if it has a price.
fn audience(said: Option<Spanned<Audience>>, prices: &[Price]) -> Result<Audience, Fault> {
    let is_sold = !prices.is_empty();
    match said {
        None if is_sold => Ok(Audience::Everyone),
        None => Ok(Audience::Household),
        Some(said) if is_sold && *said.get_ref() == Audience::Household => {
            let reason = "the household pays nothing: leave the prices out, or say \"everyone\"";
            Err(fault(&said, reason))
        }
        Some(said) => Ok(said.into_inner()),
    }
}

fn price(raw: &RawPrice, assets: &BTreeMap<String, AssetConfig>) -> Result<Price, Fault> {
    let asset = assets.get(raw.asset.get_ref()).ok_or_else(|| {
        let reason = format!(
            "the asset {:?} is not among the assets",
            raw.asset.get_ref()
        );
        fault(&raw.asset, reason)
    })?;
    if asset.eip712.is_none() {
        let reason = "the asset has no eip712 name and version, so nobody could pay in it";
        return Err(fault(&raw.asset, reason));
    }
    let amount = |text: &Spanned<String>| whole_tokens(text, asset.decimals);
    Ok(Price {
        asset: asset.id,
        per_million_prompt: amount(&raw.per_million_prompt)?,
        per_million_output: amount(&raw.per_million_output)?,
        floor: raw.floor.as_ref().map_or(Ok(Amount::ZERO), amount)?,
    })
}
