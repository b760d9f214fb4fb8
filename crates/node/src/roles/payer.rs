//! The payer's role: it answers the household's questions, by this device's own models or by
//! whoever in the network does it best within the household's limits.
//!
//! One task drives one answer: it performs what `hearth_protocol::answer::payer` decides, over
//! the engine of this device or a stream to a peer, and pays by a tab of the purse. Whom to ask is
//! the decision of `hearth_protocol::market`.

mod asking;
mod readers;
mod refund;
#[cfg(test)]
mod tests;
mod text;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use alloy_primitives::Address;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use hearth_causes::WithCauses;
use hearth_environment::Environment;
use hearth_models::asker::Asker;
use hearth_models::gguf::Header;
use hearth_net::{Network, PeerAddress};
use hearth_payments::purse::Purse;
use hearth_payments::store::{Store, StoreError, Table};
use hearth_protocol::answer::payer::{Candidate, Patience};
use hearth_protocol::answer::request::OUTPUT_TOKENS_MAX;
use hearth_protocol::answer::{AnswerId, AnswerRequest, Sampling, SignedReceipt, Spec};
use hearth_protocol::content::ContentHash;
use hearth_protocol::id::AssetId;
use hearth_protocol::market::{Market, Passed, Weighed, Wish};
use hearth_protocol::offer::{Audience, DeviceId, Offer, OfferedModel};
use hearth_protocol::spending::Spending;
use hearth_protocol::time::Timestamp;
use hearth_surface::BUYER;
use hearth_surface::answers::{
    Answer, Answerer, AskError, Embedded, Ending, Field, Input, ModelCard, Part, Question,
    SchemaFault, Tier,
};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::causes;
use super::provider::{IsHousehold, Provider};
use super::retention::{self, Sum};
use super::served::asker_number;
use crate::home::Config;

use asking::Asking;
pub use readers::{ModelFile, ReadError, Readers};
pub(crate) use refund::device_named;

/// Answers that were asked for, by the answer's id and the number of the provider.
pub const BOUGHT: Table<StoredPurchase> = Table::new("bought");
/// How long nobody may have taken a question before whoever asked is answered that it is on its way.
const TAKEN_WITHIN: Duration = Duration::from_secs(4);
/// As whom this device itself reads.
const HOUSEHOLD: Asker = Asker::Household { name: 0 };
/// Parts of an answer that wait for whoever reads it.
const PARTS_MAX: usize = 256;

/// As whom a question waits and takes its turn: everybody who asks under one name is one, and buyers are strangers.
fn asker(question: &Question) -> Asker {
    let name = asker_number(question.asked_by.as_bytes());
    if question.asked_by == BUYER {
        let (site, device) = (name, name);
        return Asker::Stranger { site, device };
    }
    Asker::Household { name }
}

/// What a payer is made of.
pub struct PayerParts {
    /// This device's own models.
    pub provider: Provider,
    /// The way to others; without it only this device answers.
    pub network: Option<Network>,
    /// Pays; without it only free answers are asked for.
    pub purse: Option<Purse>,
    /// Reads prompts for models, whether or not they are served here.
    pub readers: Readers,
    /// What may be spent, and what tokens are called.
    pub config: Config,
    /// Limits for each token.
    pub spending: Spending,
    /// What names of models stand for, as the catalogue and the owner say it.
    pub pinned: BTreeMap<String, ContentHash>,
    /// Tells the household's own devices.
    pub is_household: IsHousehold,
    /// Where the heads of model files are put that are fetched from others.
    pub heads_folder: PathBuf,
    /// Keeps receipts.
    pub store: Store,
    /// How patient it is.
    pub patience: Patience,
    /// The clock.
    pub environment: Arc<dyn Environment>,
}

/// The payer. Clones share everything.
#[derive(Clone)]
pub struct Payer(Arc<Shared>);

struct Shared {
    parts: PayerParts,
    market: Mutex<Market>,
    began_at: Timestamp,
}

/// A receipt as it stands in the store, under the answer's id and the number of the provider.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StoredPurchase {
    /// What the provider signed last.
    pub receipt: SignedReceipt,
    /// Who it was.
    pub device: DeviceId,
    /// The token that paid; nothing if it was free.
    pub asset: Option<AssetId>,
    /// The model's name.
    pub model: String,
}

/// What is asked, once everything about the model is known.
struct Prepared {
    request: AnswerRequest,
    candidates: Vec<Candidate>,
    offers: BTreeMap<DeviceId, Offer>,
    model: String,
}

impl Payer {
    /// A payer that knows of no offer yet.
    pub fn new(parts: PayerParts) -> Self {
        let began_at = Timestamp(parts.environment.now_ms());
        Self(Arc::new(Shared {
            parts,
            market: Mutex::default(),
            began_at,
        }))
    }

    fn parts(&self) -> &PayerParts {
        &self.0.parts
    }

    fn draw<const N: usize>(&self) -> Result<[u8; N], AskError> {
        let drawn = self.parts().environment.draw();
        drawn.map_err(|error| AskError::Failed(error.to_string()))
    }

    fn now(&self) -> Timestamp {
        Timestamp(self.parts().environment.now_ms())
    }

    /// The market, for a moment.
    pub fn market(&self) -> MutexGuard<'_, Market> {
        self.0.market.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every offer of a model, weighed for a question of usual length.
    ///
    /// # Errors
    /// When nobody knows the model.
    pub fn weigh(&self, model: &str, tier: Tier) -> Result<Vec<Weighed>, AskError> {
        let wish = Wish {
            weights: self.weights_of(model)?.1,
            prompt_tokens: 500,
            output_tokens: 500,
            household_only: tier < Tier::Network,
        };
        Ok(self.weigh_for(&wish))
    }

    /// Whether a device that offers something is there, as far as is known.
    pub fn is_lively(&self, device: &DeviceId) -> bool {
        self.market().is_lively(self.now(), device)
    }

    fn weigh_for(&self, wish: &Wish) -> Vec<Weighed> {
        let is_household = |offer: &Offer| (self.parts().is_household)(&offer.device);
        let now = self.now();
        self.market()
            .weigh(now, wish, &self.parts().spending, is_household)
    }

    /// The name and the weights that a client means.
    fn weights_of(&self, name: &str) -> Result<(String, ContentHash), AskError> {
        let served = self.parts().provider.served();
        let by_name = |served: &&super::served::Served| {
            served.name.eq_ignore_ascii_case(name) || served.serving.weights.to_string() == name
        };
        if let Some(served) = served.iter().find(by_name) {
            return Ok((served.name.clone(), served.serving.weights));
        }
        if let Some((name, weights)) = self.parts().readers.weights_of(name) {
            return Ok((name, weights));
        }
        if let Ok(weights) = name.parse::<ContentHash>() {
            return Ok((name.to_owned(), weights));
        }
        let is_household = |offer: &Offer| (self.parts().is_household)(&offer.device);
        let (own, all) = {
            let market = self.market();
            let own = market.weights_of(name, is_household);
            (own, market.weights_of(name, |_| true))
        };
        let pinned = self.pinned(name);
        match (own.as_slice(), pinned) {
            ([weights], _) => Ok((name.to_owned(), *weights)),
            ([], Some(weights)) => Ok((name.to_owned(), weights)),
            ([], None) if all.is_empty() => Err(AskError::NoModel(name.to_owned())),
            ([], None) => Err(unclear(only_offered(name, &all))),
            (several, _) => Err(unclear(format!(
                "devices of this household serve different models under the name {name:?}; \
                 name the one you mean by its hash: {}",
                shown_hashes(several)
            ))),
        }
    }

    /// What a name stands for, as the catalogue or the owner says it.
    fn pinned(&self, name: &str) -> Option<ContentHash> {
        let mut pinned = self.parts().pinned.iter();
        let found = pinned.find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, weights)| *weights)
    }

    async fn prepare(&self, question: &Question) -> Result<Prepared, AskError> {
        let (model, weights) = self.weights_of(&question.model)?;
        let reader = self.reader(&weights).await?;
        let biases = &question.sampling.logit_bias_millionths;
        let known = reader.vocabulary().check_biases(biases);
        known.map_err(|error| causes::of_bias(&error))?;
        let ids = self
            .ids(&reader, asker(question), question.input.clone())
            .await?;
        let prompt_tokens = count(ids.len());
        let context_tokens = self.context_tokens(&weights);
        let left = context_tokens.saturating_sub(prompt_tokens);
        if left == 0 {
            return Err(AskError::TooLong {
                prompt_tokens,
                context_tokens,
            });
        }
        let wanted = question.output_tokens_max.unwrap_or(left);
        let output_tokens_max = wanted.min(left).clamp(1, OUTPUT_TOKENS_MAX);
        let sampling = Sampling {
            grammar: question
                .grammar
                .as_ref()
                .map(hearth_protocol::answer::Grammar::hash),
            ..question.sampling.clone()
        };
        let wish = Wish {
            weights,
            prompt_tokens,
            output_tokens: output_tokens_max,
            household_only: question.tier < Tier::Network,
        };
        let (candidates, offers) = self.candidates(question, &model, &wish, &sampling)?;
        let request = AnswerRequest {
            id: AnswerId(self.draw()?),
            spec: ContentHash::default(),
            noise_spec: ContentHash::default(),
            weights,
            ids,
            answered_tokens: 0,
            sampling,
            grammar: question.grammar.clone(),
            output_tokens_max,
            seed: question
                .seed
                .map_or_else(|| self.draw(), |seed| Ok(seed_bytes(seed)))?,
            logprobs: question.logprobs,
        };
        let checked = request.check();
        checked.map_err(|error| causes::of_request(error, prompt_tokens))?;
        Ok(Prepared {
            request,
            candidates,
            offers,
            model,
        })
    }

    /// Tokens of prompt and answer together, with whoever takes most.
    fn context_tokens(&self, weights: &ContentHash) -> u32 {
        let here = self.parts().provider.find(weights);
        let here = here.map(|served| served.generator.description().context_tokens);
        let market = self.market();
        let offered = market
            .offers()
            .flat_map(|offer| &offer.models)
            .filter(|model| model.serving.weights == *weights)
            .map(|model| model.context_tokens);
        offered.chain(here).max().unwrap_or(0)
    }

    /// Whom to ask, in order: this device, then whoever the market prefers.
    #[allow(clippy::type_complexity)]
    fn candidates(
        &self,
        question: &Question,
        model: &str,
        wish: &Wish,
        sampling: &Sampling,
    ) -> Result<(Vec<Candidate>, BTreeMap<DeviceId, Offer>), AskError> {
        let parts = self.parts();
        let here = parts.provider.find(&wish.weights).map(|served| Candidate {
            device: None,
            spec: Spec {
                sampling: sampling.clone(),
                serving: served.serving.clone(),
            }
            .hash(),
            session_key: Address::ZERO,
            price: None,
            prompt_tokens_per_s: served.pace.speed().prompt_tokens_per_s,
        });
        let mut candidates: Vec<_> = here.into_iter().collect();
        let mut offers = BTreeMap::new();
        let mut passed = Vec::new();
        if question.tier > Tier::Device && parts.network.is_some() {
            for weighed in self.weigh_for(wish) {
                let payable = weighed.price.is_none() || parts.purse.is_some();
                match weighed.passed {
                    None if payable => {
                        offers.insert(weighed.device, weighed.offer);
                        candidates.push(Candidate {
                            device: Some(weighed.device),
                            spec: weighed.model.spec(sampling.clone()).hash(),
                            session_key: offers[&weighed.device].session_key,
                            price: weighed.price,
                            prompt_tokens_per_s: weighed.model.prompt_tokens_per_s,
                        });
                    }
                    None => {}
                    Some(why) => passed.push(why),
                }
            }
        }
        if candidates.is_empty() {
            return Err(nobody(question, model, wish.prompt_tokens, &passed));
        }
        Ok((candidates, offers))
    }

    async fn reader(&self, weights: &ContentHash) -> Result<readers::Reader, AskError> {
        let parts = self.parts();
        let served = parts.provider.find(weights);
        if let Some(prompts) = served.and_then(|served| served.prompts) {
            return Ok(readers::Reader { prompts });
        }
        match parts.readers.of_weights(*weights).await {
            Err(ReadError::Missing) => self.fetch_head(weights).await?,
            read => return read.map_err(|error| causes::of_read(&error)),
        }
        let reader = parts.readers.of_weights(*weights).await;
        reader.map_err(|error| causes::of_read(&error))
    }

    /// Fetches the head of a model's file from those who serve it, so that prompts can be read
    /// without the weights.
    async fn fetch_head(&self, weights: &ContentHash) -> Result<(), AskError> {
        let parts = self.parts();
        let nobody = |why: String| {
            AskError::NoProvider(format!("the model's tokenizer could not be fetched: {why}"))
        };
        let network = parts.network.as_ref();
        let network = network.ok_or_else(|| nobody("this device has no network".to_owned()))?;
        let (mut from, mut offered) = (Vec::new(), None);
        for offer in self.market().offers() {
            let of = offer
                .models
                .iter()
                .find(|model| model.serving.weights == *weights);
            if let Some(model) = of {
                from.push(PeerAddress::of(offer.device));
                offered.get_or_insert_with(|| model.clone());
            }
        }
        let model = offered.ok_or_else(|| nobody("nobody offers the model".to_owned()))?;
        let failed = |error: std::io::Error| AskError::Failed(error.with_causes().to_string());
        std::fs::create_dir_all(&parts.heads_folder).map_err(failed)?;
        let path = parts.heads_folder.join(format!("{weights}.gguf"));
        let (bytes, head_bytes) = (model.weights_bytes, model.head_bytes);
        network
            .fetch_head(*weights, bytes, head_bytes, &from, &path)
            .await
            .map_err(|error| nobody(error.with_causes().to_string()))?;
        // What came is what its hash says, and still the work of a stranger.
        let checked = {
            let path = path.clone();
            tokio::task::spawn_blocking(move || Header::of_file(&path)).await
        };
        match checked {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(nobody(error.with_causes().to_string())),
            Err(error) => return Err(nobody(error.with_causes().to_string())),
        }
        // What others call it is not what this household calls it.
        parts.readers.add(ModelFile {
            name: weights.to_string(),
            weights: *weights,
            path,
        });
        Ok(())
    }

    async fn ask_now(&self, question: Question) -> Result<Answer, AskError> {
        let prepared = self.prepare(&question).await?;
        let reader = self.reader(&prepared.request.weights).await?;
        let id = prepared.request.id;
        let model = prepared.model.clone();
        let prompt_tokens = count(prepared.request.ids.len());
        let (parts, mut arriving) = mpsc::channel(PARTS_MAX);
        let asking = Asking::new(self.clone(), prepared, reader, question, parts);
        tokio::spawn(asking.run());
        // What fails before anybody has taken the question is an error, not an answer; whoever waits
        // longer than that for it, for a deposit or for one provider after the other, is told that it lives.
        let first = match timeout(TAKEN_WITHIN, arriving.recv()).await {
            Ok(Some(Part::Ended {
                stop: Ending::Broken(error),
                ..
            })) => return Err(error),
            Ok(None) => return Err(AskError::Failed("the answer was dropped".to_owned())),
            Ok(first) => first,
            Err(_) => None,
        };
        Ok(Answer {
            id,
            model,
            prompt_tokens,
            parts: parts_of(first, arriving),
        })
    }

    async fn ids(
        &self,
        reader: &readers::Reader,
        asker: Asker,
        input: Input,
    ) -> Result<Vec<u32>, AskError> {
        let read = reader.ids(asker, input, self.now()).await;
        read.map_err(|error| causes::of_read(&error))
    }

    async fn embed_now(&self, model: String, inputs: Vec<Input>) -> Result<Embedded, AskError> {
        let (_, weights) = self.weights_of(&model)?;
        let served = self.parts().provider.find(&weights);
        let served = served.ok_or(AskError::NotHere(model))?;
        let reader = self.reader(&weights).await?;
        let (mut vectors, mut tokens) = (Vec::new(), 0_u32);
        for input in inputs {
            let ids = self.ids(&reader, HOUSEHOLD, input).await?;
            tokens = tokens.saturating_add(count(ids.len()));
            let vector = served.generator.embed(ids).await;
            vectors.push(vector.map_err(|error| causes::of_embed(&error))?);
        }
        Ok(Embedded { vectors, tokens })
    }

    /// What it keeps.
    pub fn store(&self) -> &Store {
        &self.parts().store
    }

    /// What answers came to that were ever asked of others, by model and token.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn bought(&self) -> Result<Vec<Sum>, StoreError> {
        retention::sums::<StoredPurchase>(&self.parts().store)
    }

    /// The receipts of an answer, in the order of its providers.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn purchases(&self, answer: AnswerId) -> Result<Vec<StoredPurchase>, StoreError> {
        let mut found = Vec::new();
        for number in 0..hearth_protocol::answer::payer::ATTEMPTS_MAX {
            let key = asking::receipt_key(answer, number);
            if let Some(stored) = self.parts().store.get(BOUGHT, &key)? {
                found.push(stored);
            }
        }
        Ok(found)
    }
}

impl Answerer for Payer {
    fn models(&self) -> BTreeMap<String, ModelCard> {
        let mut cards = BTreeMap::new();
        let created_s = self.0.began_at.as_secs();
        for served in self.parts().provider.served() {
            let card = ModelCard {
                name: served.name.clone(),
                weights: served.serving.weights.to_string(),
                context_tokens: served.generator.description().context_tokens,
                here: true,
                providers: 0,
                created_s,
            };
            cards.insert(served.name, card);
        }
        let now = self.now();
        let market = self.market();
        let is_household = |offer: &Offer| (self.parts().is_household)(&offer.device);
        let answers_us = |(offer, model): &(&Offer, &OfferedModel)| {
            model.audience == Audience::Everyone || is_household(offer)
        };
        let offered = market
            .offers()
            .filter(|offer| market.is_lively(now, &offer.device))
            .flat_map(|offer| offer.models.iter().map(move |model| (offer, model)));
        for (_, model) in offered.filter(answers_us) {
            // A stranger's name for a model is not believed: it is asked by its hash.
            let weights = model.serving.weights;
            let here = self.parts().readers.weights_of(&model.name);
            let known = here.is_some_and(|(_, here)| here == weights)
                || market.weights_of(&model.name, is_household) == [weights]
                || self.pinned(&model.name) == Some(weights);
            let shown = cards.get(&model.name).map(|card| &card.weights);
            let name = match shown {
                Some(shown) if *shown != weights.to_string() => weights.to_string(),
                None if !known => weights.to_string(),
                _ => model.name.clone(),
            };
            let card = cards.entry(name.clone()).or_insert_with(|| ModelCard {
                name,
                weights: model.serving.weights.to_string(),
                context_tokens: model.context_tokens,
                here: false,
                providers: 0,
                created_s,
            });
            card.providers = card.providers.saturating_add(1);
        }
        cards
    }

    fn ask(&self, question: Question) -> BoxFuture<'_, Result<Answer, AskError>> {
        Box::pin(self.ask_now(question))
    }

    fn count_tokens(&self, model: String, input: Input) -> BoxFuture<'_, Result<u32, AskError>> {
        Box::pin(async move {
            let (_, weights) = self.weights_of(&model)?;
            let reader = self.reader(&weights).await?;
            let ids = self.ids(&reader, HOUSEHOLD, input).await?;
            Ok(count(ids.len()))
        })
    }

    fn check_schema(
        &self,
        schema: String,
        within: Duration,
    ) -> BoxFuture<'_, Result<(), SchemaFault>> {
        Box::pin(self.parts().readers.check_schema(schema, within))
    }

    fn embed(
        &self,
        model: String,
        inputs: Vec<Input>,
    ) -> BoxFuture<'_, Result<Embedded, AskError>> {
        Box::pin(self.embed_now(model, inputs))
    }

    fn receipts(&self, answer: AnswerId) -> BoxFuture<'_, Result<Vec<SignedReceipt>, AskError>> {
        Box::pin(async move {
            let purchases = self.purchases(answer);
            let purchases =
                purchases.map_err(|error| AskError::Failed(error.with_causes().to_string()))?;
            Ok(purchases.into_iter().map(|stored| stored.receipt).collect())
        })
    }
}

fn parts_of(first: Option<Part>, arriving: mpsc::Receiver<Part>) -> BoxStream<'static, Part> {
    let rest = stream::unfold(arriving, |mut arriving| async move {
        arriving.recv().await.map(|part| (part, arriving))
    });
    Box::pin(futures::StreamExt::chain(stream::iter(first), rest))
}

fn nobody(question: &Question, model: &str, prompt_tokens: u32, passed: &[Passed]) -> AskError {
    let model = model.to_owned();
    if passed.is_empty() || passed.contains(&Passed::BeyondTier) {
        return AskError::BeyondTier {
            model,
            tier: match question.tier {
                Tier::Device => "device",
                Tier::Household => "household",
                Tier::Network => "network",
            }
            .to_owned(),
        };
    }
    let short = |why: &Passed| match why {
        Passed::Context(tokens) => Some(*tokens),
        _ => None,
    };
    let contexts: Option<Vec<u32>> = passed.iter().map(short).collect();
    if let Some(context_tokens) = contexts.and_then(|contexts| contexts.into_iter().max()) {
        return AskError::TooLong {
            prompt_tokens,
            context_tokens,
        };
    }
    let reasons: Vec<_> = passed.iter().map(ToString::to_string).collect();
    let dear = |why: &Passed| matches!(why, Passed::Asset | Passed::TooDear { .. });
    let reasons = reasons.join("; ");
    if passed.iter().all(dear) {
        return AskError::Budget(format!(
            "every offer of {model:?} is beyond your limits: {reasons}"
        ));
    }
    AskError::NoProvider(reasons)
}

/// A name that does not say which model is meant.
fn unclear(reason: String) -> AskError {
    AskError::Senseless {
        field: Field::Model,
        reason,
    }
}

/// The most hashes that are listed.
const HASHES_SHOWN_MAX: usize = 8;

fn shown_hashes(weights: &[ContentHash]) -> String {
    let shown = weights.iter().take(HASHES_SHOWN_MAX);
    let shown: Vec<_> = shown.map(ToString::to_string).collect();
    shown.join(", ")
}

/// What is said where only strangers know a name.
fn only_offered(name: &str, offered: &[ContentHash]) -> String {
    format!(
        "only devices of other households offer a model under the name {name:?}, and a name is not \
         believed of them. Ask for the hash that you mean: {}. Or accept the name in config.toml, \
         under [names]: {name:?} = \"the hash\"",
        shown_hashes(offered)
    )
}

/// The 32 bytes that a client's seed stands for.
fn seed_bytes(seed: u64) -> [u8; 32] {
    ContentHash::of(&[b"hearth seed\0".as_slice(), &seed.to_le_bytes()].concat()).0
}

fn count(tokens: usize) -> u32 {
    u32::try_from(tokens).unwrap_or(u32::MAX)
}
