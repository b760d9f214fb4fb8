//! Fetching a whole model from devices that offer it, as a file verified by its hash.
//!
//! What a name stands for is believed of nobody: the catalogue's hash decides where it states one,
//! and else the owner, when different files are offered under one name. What arrived of a transfer
//! that broke off is kept by the network's store, and the next try goes on with it.
//!
//! A file is fetched once at a time. Who asks while it is on its way, such as a command whose
//! forerunner was killed, is told how far that one is.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use hearth_api::household::{FetchEvent, HomeModel, WhichModel};
use hearth_causes::WithCauses;
use hearth_models::library::Label;
use hearth_net::{Network, PeerAddress};
use hearth_protocol::content::ContentHash;
use hearth_protocol::offer::{DeviceId, Offer, OfferedModel};
use hearth_protocol::text::is_same_name;
use tokio::sync::watch;

use super::admin::Admin;
use crate::models::{ModelError, Models, Watch};

/// The most devices that are asked for one file.
const SOURCES_MAX: usize = 16;

/// What is fetched, and from whom.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wanted {
    name: String,
    weights: ContentHash,
    /// Who offers it, by the size that they state.
    by_bytes: BTreeMap<u64, Vec<DeviceId>>,
}

/// Finds the model of a name, or of a hash, among the offers. `stated` is the hash that the
/// catalogue or the owner states for the name; without it the name counts in offers that are
/// believed.
fn find<'a>(
    asked: &str,
    stated: Option<ContentHash>,
    offers: impl Iterator<Item = &'a Offer>,
    is_believed: impl Fn(&Offer) -> bool,
) -> Result<Wanted, String> {
    let mut found: BTreeMap<ContentHash, Wanted> = BTreeMap::new();
    let mut unbelieved = None;
    let mut fits = |offer: &Offer, model: &OfferedModel| {
        let weights = model.serving.weights;
        let is_named = is_same_name(&model.name, asked);
        match stated {
            Some(stated) => weights == stated,
            None if weights.to_string() == asked => true,
            None if is_named && !is_believed(offer) => {
                unbelieved.get_or_insert(weights);
                false
            }
            None => is_named,
        }
    };
    for offer in offers {
        for model in &offer.models {
            if !fits(offer, model) {
                continue;
            }
            let weights = model.serving.weights;
            let wanted = found.entry(weights).or_insert_with(|| Wanted {
                name: stated.map_or_else(|| model.name.clone(), |_| asked.to_owned()),
                weights,
                by_bytes: BTreeMap::new(),
            });
            let devices = wanted.by_bytes.entry(model.weights_bytes).or_default();
            if devices.len() < SOURCES_MAX {
                devices.push(offer.device);
            }
        }
    }
    let mut found = found.into_values();
    match (found.next(), found.next()) {
        (None, _) if unbelieved.is_some() => Err(format!(
            "only devices of other households offer {asked:?}, and a name is not believed of them: name the hash \
             that you mean, such as {}",
            unbelieved.unwrap_or_default()
        )),
        (None, _) => Err(format!("nobody that this device knows offers {asked:?}")),
        (Some(one), None) => Ok(one),
        (Some(one), Some(other)) => Err(format!(
            "different models are offered under the name {asked:?}; name the one you mean by its hash, such as {} or {}",
            one.weights, other.weights
        )),
    }
}

/// The files that are on their way, and how far each is. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fetches(Arc<Mutex<BTreeMap<ContentHash, watch::Receiver<FetchEvent>>>>);

impl Fetches {
    /// How far the fetch of a file is; `begin` begins it where none is under way.
    fn follow(
        &self,
        wanted: ContentHash,
        begin: impl FnOnce() -> watch::Receiver<FetchEvent>,
    ) -> watch::Receiver<FetchEvent> {
        // A map of receivers; a panic elsewhere leaves it usable.
        let mut running = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Who tells is gone when the fetch has ended.
        running.retain(|_, told| told.has_changed().is_ok());
        running.entry(wanted).or_insert_with(begin).clone()
    }
}

/// Fetches a model, and tells how far it is; the last event says how it ended.
pub(super) async fn fetch(
    State(admin): State<Arc<Admin>>,
    Json(which): Json<WhichModel>,
) -> Response {
    let told = begin(&admin, &which.name).unwrap_or_else(|message| {
        let failed = FetchEvent::Failed { message };
        watch::channel(failed).1
    });
    let lines = futures::stream::unfold(Some((told, true)), |state| async move {
        let (mut told, is_first) = state?;
        if !is_first {
            // Ends without a last event only where the node stops.
            told.changed().await.ok()?;
        }
        // What comes between two looks of a slow reader is left out; the last event is not.
        let event = told.borrow_and_update().clone();
        let json = serde_json::to_string(&event).ok()?;
        let line = Bytes::from(format!("data: {json}\n\n"));
        let goes_on = matches!(event, FetchEvent::Progress { .. });
        Some((
            Ok::<_, std::convert::Infallible>(line),
            goes_on.then_some((told, false)),
        ))
    });
    let headers = [(http::header::CONTENT_TYPE, "text/event-stream")];
    (headers, Body::from_stream(lines.fuse())).into_response()
}

/// Begins to fetch a model, or finds the fetch that is under way.
fn begin(admin: &Arc<Admin>, name: &str) -> Result<watch::Receiver<FetchEvent>, String> {
    let models = Models::open(&admin.home, admin.launcher.clone())
        .map_err(|error| error.with_causes().to_string())?;
    let known = models.known(name);
    let stated = known.and_then(|model| model.blake3);
    let stated = stated.map(|digest| ContentHash(digest.0));
    let stated = stated.or_else(|| admin.config.names.get(name).copied());
    // What came is compared with the other hash that the catalogue states before it counts.
    let is_checked = known.is_some_and(|model| model.sha256.is_some());
    let offers = admin.network.offers();
    let offers = offers.iter().map(|one| &one.offer);
    let wanted = find(name, stated, offers, |offer| {
        is_checked || admin.members.is_member(&offer.device)
    })?;
    let spawn = || {
        let (tell, told) = watch::channel(FetchEvent::Progress {
            done_bytes: 0,
            total_bytes: wanted.by_bytes.keys().next().copied().unwrap_or(0),
        });
        let (admin, wanted, name) = (Arc::clone(admin), wanted.clone(), name.to_owned());
        // Ends when the file is here or nobody gives it; who asked may go, and ask again.
        tokio::spawn(async move {
            let last = match fetched(&admin, &models, (&name, &wanted), &tell).await {
                Ok(model) => FetchEvent::Done(Box::new(model)),
                Err(message) => FetchEvent::Failed { message },
            };
            tell.send_replace(last);
        });
        told
    };
    Ok(admin.fetches.follow(wanted.weights, spawn))
}

async fn fetched(
    admin: &Admin,
    models: &Models,
    (name, wanted): (&str, &Wanted),
    tell: &watch::Sender<FetchEvent>,
) -> Result<HomeModel, String> {
    let here = models.with_weights(&wanted.weights);
    if let Some(model) = here.map_err(|error| error.with_causes().to_string())? {
        return Ok(model);
    }
    let file = admin
        .home
        .root()
        .join(format!("{}.fetching", wanted.weights));
    from_any(&admin.network, wanted, &file, tell).await?;
    let known = models.known(name);
    let label = Label {
        name: wanted.name.clone(),
        title: known.map(|model| model.title.clone()),
        licence: known.map(|model| model.licence.clone()),
        sha256: known.and_then(|model| model.sha256),
        source: "fetched from devices that offer it".to_owned(),
    };
    let kept = models.take(&file, label, &quiet()).await;
    // It has another name now, or is not wanted.
    drop(std::fs::remove_file(&file));
    kept.map_err(|error: ModelError| error.with_causes().to_string())
}

fn quiet() -> Watch {
    Arc::new(|_| ())
}

async fn from_any(
    network: &Network,
    wanted: &Wanted,
    file: &Path,
    tell: &watch::Sender<FetchEvent>,
) -> Result<(), String> {
    let mut last = String::new();
    for (bytes, devices) in &wanted.by_bytes {
        let from: Vec<_> = devices.iter().copied().map(PeerAddress::of).collect();
        let progress = |done_bytes| {
            let total_bytes = *bytes;
            tell.send_replace(FetchEvent::Progress {
                done_bytes,
                total_bytes,
            });
        };
        let fetched = network.fetch(wanted.weights, *bytes, &from, file, progress);
        match fetched.await {
            Ok(()) => return Ok(()),
            Err(error) => last = error.with_causes().to_string(),
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use alloy_primitives::Address;
    use hearth_protocol::answer::{BackendClass, KvType, Serving};
    use hearth_protocol::offer::Audience;
    use hearth_protocol::time::Timestamp;

    use super::*;

    fn offer(device: u8, weights: u8, bytes: u64) -> Offer {
        Offer {
            device: DeviceId([device; 32]),
            household: Address::ZERO,
            session_key: Address::ZERO,
            withdraw_delay_s: 900,
            issued_at: Timestamp(0),
            expires_at: Timestamp(1),
            models: vec![OfferedModel {
                name: "A-model".to_owned(),
                serving: Serving {
                    adapter: None,
                    backend: BackendClass::CpuAvx2,
                    engine: "llama.cpp".to_owned(),
                    flash_attention: false,
                    kv_type: KvType::F16,
                    micro_batch_tokens: 512,
                    template: ContentHash([4; 32]),
                    weights: ContentHash([weights; 32]),
                },
                weights_bytes: bytes,
                head_bytes: 1,
                context_tokens: 1,
                audience: Audience::Everyone,
                prices: Vec::new(),
                slots: 1,
                free_slots: 1,
                output_tokens_per_s: 1,
                prompt_tokens_per_s: 1,
            }],
        }
    }

    #[test]
    fn a_file_is_fetched_once_and_again_when_that_ended() {
        let fetches = Fetches::default();
        let (tell, told) = watch::channel(FetchEvent::Progress {
            done_bytes: 1,
            total_bytes: 2,
        });
        let file = ContentHash([5; 32]);
        fetches.follow(file, || told);
        let second = fetches.follow(file, || unreachable!("it is on its way"));
        assert!(second.same_channel(&tell.subscribe()));
        drop(tell);
        let (_tell, told) = watch::channel(second.borrow().clone());
        let third = fetches.follow(file, || told);
        assert!(!third.same_channel(&second));
    }

    #[test]
    fn a_name_is_believed_of_nobody_else() {
        let offers = [offer(1, 5, 100), offer(2, 5, 100), offer(3, 5, 7)];
        let own = |_: &Offer| true;
        let wanted = find("a-model", None, offers.iter(), own).unwrap();
        assert_eq!(wanted.weights, ContentHash([5; 32]));
        assert_eq!(wanted.by_bytes[&100].len(), 2);
        let more = [offer(1, 5, 100), offer(4, 6, 100)];
        let doubt = find("a-model", None, more.iter(), own).unwrap_err();
        assert!(doubt.contains("different models"), "{doubt}");
        // Strangers agree with each other easily.
        let strangers = |_: &Offer| false;
        let refused = find("A-MODEL", None, offers.iter(), strangers).unwrap_err();
        let five = ContentHash([5; 32]);
        assert!(refused.contains(&five.to_string()), "{refused}");
        let of_one = |offer: &Offer| offer.device.0[0] == 4;
        let wanted = find("a-model", None, more.iter(), of_one).unwrap();
        assert_eq!(wanted.weights, ContentHash([6; 32]));
        let hash = ContentHash([6; 32]);
        let by_hash = find(&hash.to_string(), None, more.iter(), strangers).unwrap();
        assert_eq!((by_hash.weights, &*by_hash.name), (hash, "A-model"));
        // What the catalogue states counts for more than what is said.
        let stated = find("a-model", Some(hash), more.iter(), strangers).unwrap();
        assert_eq!((stated.weights, &*stated.name), (hash, "a-model"));
        let nobody = find("a-model", Some(ContentHash([7; 32])), more.iter(), own);
        assert!(nobody.unwrap_err().contains("nobody"));
    }
}
