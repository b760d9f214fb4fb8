//! The models of a device: from the files in its folder to engines that answer.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use hearth_api::household::ServedModel;
use hearth_causes::WithCauses;
use hearth_models::engine::{ENGINE, Engine, EngineOptions, LoadError};
use hearth_models::library::{Entry, Library};
use hearth_models::reader::{self, Launcher};
use hearth_protocol::content::ContentHash;
use tracing::warn;

use super::{Building, UpError, UpOptions};
use crate::home::{Config, EngineConfig, ModelConfig};
use crate::roles::payer::{ModelFile, Readers};
use crate::roles::provider::Provider;
use crate::roles::served::{Pace, Served, Speed, serving};
use crate::terms::{shown_audience, shown_prices};

/// How fast a model is taken to be before it has answered: slow enough that nobody is disappointed.
const SPEED_BEFORE_MEASURED: Speed = Speed {
    output_tokens_per_s: 10,
    prompt_tokens_per_s: 50,
};

/// Loads the models of the configuration and of `options`, and makes the others of the folder readable. One of the
/// configuration that cannot be run is left out, with a warning.
pub(super) async fn serve(
    building: &mut Building<'_>,
    provider: &Provider,
    readers: &Readers,
    options: &UpOptions,
) -> Result<Vec<ServedModel>, UpError> {
    let file_fault = |name: &str, reason: String| UpError::File {
        name: name.to_owned(),
        reason,
    };
    let folder = building.home.models_folder();
    let library = Library::open(&folder).map_err(|error| {
        file_fault(
            &folder.display().to_string(),
            error.with_causes().to_string(),
        )
    })?;
    let entries = library.list().map_err(|error| {
        file_fault(
            &folder.display().to_string(),
            error.with_causes().to_string(),
        )
    })?;
    for entry in &entries {
        readers.add(ModelFile {
            name: entry.manifest.name.clone(),
            weights: ContentHash(entry.manifest.weights.0),
            path: entry.path.clone(),
        });
    }
    let mut wanted: BTreeMap<String, ModelConfig> = building.config.models.clone();
    for name in &options.models {
        wanted.entry(name.clone()).or_default();
    }
    let mut served = Vec::new();
    for (name, model) in wanted {
        let one = begin(&library, &name, model, building.config.engine, options).await;
        match one {
            Ok(one) => {
                served.push(shown(building.config, &one));
                provider.serve(one);
            }
            Err(error) if options.models.contains(&name) => return Err(error),
            // Claims and the household's other models do not wait until a file is mended.
            Err(error) => building
                .warnings
                .push(format!("Left out: {}", error.with_causes())),
        }
    }
    Ok(served)
}

/// Begins to serve the model of this name.
async fn begin(
    library: &Library,
    name: &str,
    model: ModelConfig,
    config: EngineConfig,
    options: &UpOptions,
) -> Result<Served, UpError> {
    let entry = library.resolve(name).map_err(|error| UpError::File {
        name: name.to_owned(),
        reason: error.with_causes().to_string(),
    })?;
    try_out(library, &entry, &options.launcher).await?;
    let loaded = load(&entry, model, config, &options.launcher).await;
    loaded.map_err(|source| UpError::Model {
        name: name.to_owned(),
        source,
    })
}

/// Runs a model in a process of its own, unless it is known to run: a file that breaks the engine must not break the
/// node.
async fn try_out(library: &Library, entry: &Entry, launcher: &Launcher) -> Result<(), UpError> {
    if library.ran(entry, ENGINE) {
        return Ok(());
    }
    let (path, launcher) = (entry.path.clone(), launcher.clone());
    let tried = tokio::task::spawn_blocking(move || reader::try_out(&launcher, &path)).await;
    let tried = tried.map_err(|_| LoadError::ThreadEnded);
    let name = &entry.manifest.name;
    tried
        .and_then(|tried| tried.map_err(LoadError::from))
        .map_err(|source| UpError::Model {
            name: name.clone(),
            source,
        })?;
    if let Err(error) = library.note_ran(entry, ENGINE) {
        warn!(model = name, error = %error.with_causes(), "the model is tried again at the next start");
    }
    Ok(())
}

/// Loads one model, beside the runtime.
async fn load(
    entry: &Entry,
    model: ModelConfig,
    config: EngineConfig,
    launcher: &Launcher,
) -> Result<Served, LoadError> {
    let path: PathBuf = entry.path.clone();
    let usual = EngineOptions::default();
    let options = EngineOptions {
        threads: if config.threads == 0 {
            usual.threads
        } else {
            config.threads
        },
        context_tokens: config.context_tokens,
        sequences_max: config.answers,
        queue_max: config.waiting,
        ..usual
    };
    let launcher = launcher.clone();
    let loaded = tokio::task::spawn_blocking(move || Engine::load(&path, options, &launcher)).await;
    let engine = loaded.map_err(|_| LoadError::ThreadEnded)??;
    let manifest = &entry.manifest;
    let template = manifest.template.map(|digest| ContentHash(digest.0));
    let serving = serving(
        engine.description(),
        ContentHash(manifest.weights.0),
        template.unwrap_or_default(),
    );
    Ok(Served {
        name: manifest.name.clone(),
        prompts: Some(engine.prompts().clone()),
        generator: Arc::new(engine),
        serving,
        path: entry.path.clone(),
        weights_bytes: manifest.weights_bytes,
        head_bytes: manifest.head_bytes,
        audience: model.audience,
        prices: model.prices,
        pace: Pace::new(SPEED_BEFORE_MEASURED),
    })
}

/// A model as it is shown.
pub(super) fn shown(config: &Config, served: &Served) -> ServedModel {
    ServedModel {
        name: served.name.clone(),
        weights: served.serving.weights.to_string(),
        runs_on: served.generator.description().runs_on.clone(),
        context_tokens: served.generator.description().context_tokens,
        audience: shown_audience(served.audience),
        prices: shown_prices(config, &served.prices),
    }
}
