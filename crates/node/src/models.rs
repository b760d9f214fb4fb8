//! The models of a data folder, for the owner's commands: list, get, import, remove, serve.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::future::BoxFuture;
use hearth_api::household::{HomeModel, HomeModels};
use hearth_models::OpenError;
use hearth_models::catalogue::{Catalogue, CatalogueError, Model};
use hearth_models::fetch::{FetchError, Fetcher};
use hearth_models::library::{Entry, Label, Library, LibraryError};
use hearth_models::reader::{Launcher, Prompts};
use hearth_protocol::content::ContentHash;
use thiserror::Error;
use toml_edit::{Array, DocumentMut, InlineTable, Item, Table, value};

use crate::advice::Advice;
use crate::home::{Config, ConfigError, Home};
use crate::machine;

pub use hearth_models::fetch::{Progress, Stage, Watch};

/// The name of the household's own catalogue in the data folder.
const CATALOGUE_FILE: &str = "models.toml";
/// The longest such file, in bytes.
const CATALOGUE_BYTES_MAX: u64 = 1 << 20;

/// Why nothing could be done with a model.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ModelError {
    /// The folder of models.
    #[error(transparent)]
    Library(#[from] LibraryError),
    /// What reads models does not take the file, or breaks of it.
    #[error(transparent)]
    Unusable(#[from] OpenError),
    /// Nowhere to be had.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The household's own catalogue.
    #[error("{} cannot be used", .path.display())]
    Catalogue {
        /// Where it is.
        path: PathBuf,
        /// What is wrong.
        source: CatalogueError,
    },
    /// A file.
    #[error("{} cannot be used", .path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The catalogue does not have it.
    #[error("no model {0:?} is in the catalogue")]
    Unknown(String),
    /// Nothing in the catalogue fits.
    #[error("no model of the catalogue fits into this device's memory")]
    NothingFits,
    /// What was said makes no sense.
    #[error("{0}")]
    Asked(String),
    /// The work was broken off.
    #[error("the work was broken off")]
    Broken,
}

impl Advice for ModelError {
    fn code(&self) -> &str {
        match self {
            Self::Library(LibraryError::Gguf(_) | LibraryError::NotAFile(_)) => "not_a_model",
            Self::Unusable(OpenError::Reader(_)) => "no_reader",
            Self::Unusable(_) => "not_a_model",
            Self::Library(_) => "library",
            Self::Fetch(_) => "not_fetched",
            Self::Config(error) => error.code(),
            Self::Catalogue { .. } => "bad_catalogue",
            Self::Io { .. } => "home_io",
            Self::Unknown(_) => "no_model",
            Self::NothingFits => "nothing_fits",
            Self::Asked(_) => "bad_request",
            Self::Broken => "broken",
        }
    }

    fn next_step(&self) -> String {
        match self {
            Self::Unusable(OpenError::Reader(_)) => "Try again".to_owned(),
            Self::Unusable(_) | Self::Library(LibraryError::Gguf(_) | LibraryError::Hash { .. }) => {
                "Fetch the file again, or choose another GGUF file of the model".to_owned()
            }
            Self::Library(LibraryError::NotAFile(_)) => {
                "Name the model's own file, which ends in .gguf".to_owned()
            }
            Self::Library(LibraryError::Io { .. }) => {
                "Check that it exists, that it belongs to you, and that the disk has room".to_owned()
            }
            Self::Library(LibraryError::Taken(_)) => {
                "See `hearth models`; `--name` gives the new one another name".to_owned()
            }
            Self::Library(_) | Self::Unknown(_) => {
                "See `hearth models` for what is here and what can be had".to_owned()
            }
            Self::Fetch(_) => {
                "Try again: what was fetched so far is kept; or add --from-peers, where a device that you know has it"
                    .to_owned()
            }
            Self::Config(error) => error.next_step(),
            Self::Catalogue { path, .. } => format!("Correct that line of {}", path.display()),
            Self::Io { .. } => "Check that the folder belongs to you".to_owned(),
            Self::NothingFits => {
                "Import a smaller model with `hearth models import`, or join others".to_owned()
            }
            Self::Asked(_) => "See `hearth models --help`".to_owned(),
            Self::Broken => "Try again".to_owned(),
        }
    }
}

/// The file of a model that is here; nothing where there is none of that name.
///
/// # Errors
/// When the folder of models cannot be used, or the model is damaged.
pub fn file_of(home: &Home, name: &str) -> Result<Option<PathBuf>, ModelError> {
    match Library::open(home.models_folder())?.resolve(name) {
        Ok(entry) => Ok(Some(entry.path)),
        Err(LibraryError::Unknown(_) | LibraryError::Name(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Whom a model answers, and for what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Terms {
    /// The devices of this household, for nothing.
    Household,
    /// Everybody, for nothing.
    Free,
    /// Everybody who pays.
    Sold(Asked),
}

/// What answers of a model shall cost others, in whole tokens of an asset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The asset's name in the configuration.
    pub asset: String,
    /// For a million tokens of the prompt.
    pub per_million_prompt: String,
    /// For a million tokens of the answer.
    pub per_million_output: String,
    /// The least that an answer costs.
    pub floor: Option<String>,
}

/// The models of a data folder.
#[derive(Debug)]
pub struct Models {
    home: Home,
    launcher: Launcher,
    library: Library,
    catalogue: Catalogue,
}

impl Models {
    /// The models of `home`. New ones are read by a process first that `launcher` starts.
    ///
    /// # Errors
    /// When the folder or the household's own catalogue cannot be used.
    pub fn open(home: &Home, launcher: Launcher) -> Result<Self, ModelError> {
        let library = Library::open(home.models_folder())?;
        let path = home.root().join(CATALOGUE_FILE);
        let catalogue = match read_bounded(&path) {
            Ok(Some(own)) => Catalogue::with(&own).map_err(|source| ModelError::Catalogue {
                path: path.clone(),
                source,
            })?,
            Ok(None) => Catalogue::built_in(),
            Err(source) => return Err(ModelError::Io { path, source }),
        };
        Ok(Self {
            home: home.clone(),
            launcher,
            library,
            catalogue,
        })
    }

    /// What names of the catalogue stand for, where it states the hash that offers name.
    pub fn pinned(&self) -> BTreeMap<String, ContentHash> {
        let stated = self.catalogue.models().iter();
        stated
            .filter_map(|model| Some((model.name.clone(), ContentHash(model.blake3?.0))))
            .collect()
    }

    /// What is here, and what can be had.
    ///
    /// # Errors
    /// When the folder or the configuration cannot be read.
    pub fn list(&self) -> Result<HomeModels, ModelError> {
        let config = self.home.config()?;
        let entries = self.library.list()?;
        let here: Vec<_> = entries.iter().map(|entry| shown(entry, &config)).collect();
        let absent = |model: &&Model| here.iter().all(|one| one.name != model.name);
        let to_get = self.catalogue.models().iter().filter(absent);
        let to_get = to_get.map(offered).collect();
        Ok(HomeModels { here, to_get })
    }

    /// The model of the catalogue that suits this device best, and why.
    ///
    /// # Errors
    /// When none fits.
    pub fn pick(&self) -> Result<(String, String), ModelError> {
        let room = machine::room(&machine::detect(self.home.root()));
        let pick = self.catalogue.pick(room).ok_or(ModelError::NothingFits)?;
        Ok((pick.model.name.clone(), pick.reason))
    }

    /// Fetches the model of the catalogue that suits this device best, or where that cannot be had the next smaller
    /// one that can. `given_up` is told of each one why it could not be fetched. Returns the model.
    ///
    /// # Errors
    /// When none fits, or what the last one met where none could be fetched.
    pub fn get_best<'a>(
        &'a self,
        watch: &'a Watch,
        given_up: &'a mut (dyn FnMut(&ModelError) + Send),
    ) -> BoxFuture<'a, Result<HomeModel, ModelError>> {
        Box::pin(async move {
            let room = machine::room(&machine::detect(self.home.root()));
            let mut last = ModelError::NothingFits;
            for pick in self.catalogue.picks(room) {
                match self.get(&pick.model.name, watch).await {
                    Ok(model) => return Ok(model),
                    Err(error) => {
                        given_up(&error);
                        last = error;
                    }
                }
            }
            Err(last)
        })
    }

    /// Fetches a model of the catalogue, unless it is here.
    ///
    /// # Errors
    /// When it is unknown, or no source gives it.
    pub fn get<'a>(
        &'a self,
        name: &'a str,
        watch: &'a Watch,
    ) -> BoxFuture<'a, Result<HomeModel, ModelError>> {
        Box::pin(async move {
            let config = self.home.config()?;
            let model = self.catalogue.find(name);
            let model = model.ok_or_else(|| ModelError::Unknown(name.to_owned()))?;
            if let Ok(entry) = self.library.resolve(name) {
                return Ok(shown(&entry, &config));
            }
            let fetched = Fetcher::new()?
                .fetch(model, self.library.folder(), watch)
                .await?;
            if let Err(error) = self.check(&fetched.path).await {
                drop(std::fs::remove_file(&fetched.path));
                return Err(error);
            }
            let (library, model, watch) = (self.library.clone(), model.clone(), Arc::clone(watch));
            let kept = tokio::task::spawn_blocking(move || library.keep(&fetched, &model, &watch));
            let entry = kept.await.map_err(|_| ModelError::Broken)??;
            Ok(shown(&entry, &config))
        })
    }

    /// The model with these weights, if it is here.
    ///
    /// # Errors
    /// When the folder or the configuration cannot be read.
    pub(crate) fn with_weights(
        &self,
        weights: &ContentHash,
    ) -> Result<Option<HomeModel>, ModelError> {
        let entries = self.library.list()?.into_iter();
        let mut alike = entries.filter(|entry| entry.manifest.weights.0 == weights.0);
        let config = self.home.config()?;
        Ok(alike.next().map(|entry| shown(&entry, &config)))
    }

    /// The model of the catalogue with that name.
    pub(crate) fn known(&self, name: &str) -> Option<&Model> {
        self.catalogue.find(name)
    }

    /// Whether the catalogue says where a model comes from.
    pub fn is_known(&self, name: &str) -> bool {
        self.known(name).is_some()
    }

    /// Takes a file of this machine in.
    ///
    /// # Errors
    /// When it is no model, or the name is taken.
    pub fn import<'a>(
        &'a self,
        file: &'a Path,
        name: Option<String>,
        watch: &'a Watch,
    ) -> BoxFuture<'a, Result<HomeModel, ModelError>> {
        Box::pin(async move {
            let label = Label {
                name: name.unwrap_or_else(|| name_of(file)),
                source: format!("imported from {}", file.display()),
                ..Label::default()
            };
            self.take(file, label, watch).await
        })
    }

    /// Takes a file in as a label says.
    ///
    /// # Errors
    /// When it is no model, or not the one that the label names, or the name is taken.
    pub(crate) async fn take(
        &self,
        file: &Path,
        label: Label,
        watch: &Watch,
    ) -> Result<HomeModel, ModelError> {
        let config = self.home.config()?;
        // The library says better what is wrong with a path.
        if file.is_file() {
            self.check(file).await?;
        }
        let (library, file, watch) = (self.library.clone(), file.to_owned(), Arc::clone(watch));
        let imported =
            tokio::task::spawn_blocking(move || library.import(&file, &label, &watch)).await;
        let entry = imported.map_err(|_| ModelError::Broken)??;
        Ok(shown(&entry, &config))
    }

    /// Has a process read the head of a file, which breaks instead of this one.
    async fn check(&self, file: &Path) -> Result<(), ModelError> {
        let (launcher, file) = (self.launcher.clone(), file.to_owned());
        let read = tokio::task::spawn_blocking(move || Prompts::load(&launcher, &file)).await;
        read.map_err(|_| ModelError::Broken)??;
        Ok(())
    }

    /// Removes a model's file, and says in the configuration that it is not run any more.
    ///
    /// # Errors
    /// When it is not here.
    pub fn remove(&self, name: &str) -> Result<(), ModelError> {
        self.library.remove(name)?;
        self.edit(|document| {
            if let Some(models) = document.get_mut("models").and_then(Item::as_table_mut) {
                models.remove(name);
            }
        })
    }

    /// Says in the configuration that a model is run when the device is up, and whom it answers.
    ///
    /// # Errors
    /// When the model is not here, or the price makes no sense.
    pub fn serve(&self, name: &str, terms: &Terms) -> Result<(), ModelError> {
        self.library.resolve(name)?;
        self.edit(|document| {
            let models = document.entry("models").or_insert_with(implicit_table);
            let Some(models) = models.as_table_mut() else {
                return;
            };
            let mut section = Table::new();
            match terms {
                Terms::Household => {}
                Terms::Free => {
                    section.insert("audience", value("everyone"));
                }
                Terms::Sold(asked) => {
                    let mut prices = Array::new();
                    prices.push(inline(asked));
                    section.insert("prices", value(prices));
                }
            }
            models.insert(name, Item::Table(section));
        })
    }

    /// Changes the configuration, keeping what its owner wrote. A change that the configuration
    /// does not allow is not made.
    fn edit(&self, change: impl FnOnce(&mut DocumentMut)) -> Result<(), ModelError> {
        let path = self.home.config_path();
        let io = |source| ModelError::Io {
            path: path.clone(),
            source,
        };
        let text = std::fs::read_to_string(&path).map_err(io)?;
        let mut document: DocumentMut = text
            .parse()
            .map_err(|error: toml_edit::TomlError| ModelError::Asked(error.to_string()))?;
        change(&mut document);
        let changed = document.to_string();
        if let Err(reason) = Config::check(&changed) {
            return Err(ModelError::Asked(reason));
        }
        let mut file = tempfile::NamedTempFile::new_in(self.home.root()).map_err(io)?;
        std::io::Write::write_all(&mut file, changed.as_bytes()).map_err(io)?;
        file.persist(&path).map_err(|error| io(error.error))?;
        Ok(())
    }
}

/// A model's name after its file's: `Some_Model.Q4_K_M.gguf` is `some-model.q4-k-m`.
fn name_of(file: &Path) -> String {
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    let allowed = |c: char| match c.to_ascii_lowercase() {
        c if c.is_ascii_alphanumeric() || c == '.' => c,
        _ => '-',
    };
    let name: String = stem.chars().map(allowed).collect();
    let name = name.trim_matches(|c: char| !c.is_ascii_alphanumeric());
    name.to_owned()
}

fn implicit_table() -> Item {
    let mut table = Table::new();
    table.set_implicit(true);
    Item::Table(table)
}

fn inline(asked: &Asked) -> InlineTable {
    let mut table = InlineTable::new();
    table.insert("asset", asked.asset.as_str().into());
    table.insert(
        "per_million_prompt",
        asked.per_million_prompt.as_str().into(),
    );
    table.insert(
        "per_million_output",
        asked.per_million_output.as_str().into(),
    );
    if let Some(floor) = &asked.floor {
        table.insert("floor", floor.as_str().into());
    }
    table
}

fn read_bounded(path: &Path) -> std::io::Result<Option<String>> {
    match std::fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
        Ok(found) if found.len() > CATALOGUE_BYTES_MAX => {
            Err(std::io::Error::other("the file is too long"))
        }
        Ok(_) => std::fs::read_to_string(path).map(Some),
    }
}

fn shown(entry: &Entry, config: &Config) -> HomeModel {
    let manifest = &entry.manifest;
    HomeModel {
        name: manifest.name.clone(),
        title: manifest.title.clone(),
        licence: manifest.licence.clone(),
        bytes: manifest.weights_bytes,
        context_tokens: manifest.context_tokens,
        weights: Some(manifest.weights.to_string()),
        served: config.models.contains_key(&manifest.name),
        source: manifest.source.clone(),
    }
}

fn offered(model: &Model) -> HomeModel {
    HomeModel {
        name: model.name.clone(),
        title: model.title.clone(),
        licence: model.licence.clone(),
        bytes: model.file_bytes,
        context_tokens: model.context_tokens,
        weights: model.blake3.map(|digest| digest.to_string()),
        served: false,
        source: String::new(),
    }
}
