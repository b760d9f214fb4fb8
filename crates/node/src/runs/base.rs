//! The model that a run starts from: chosen by the run's maker, kept once on each device, fetched by its hash, and read.
//!
//! A device's copy is named by its hash: another name of a file of the household's models where the file system has such,
//! and a copy elsewhere. It is compared with its hash each time before it is read. One that is damaged is removed and got
//! again. spec: 16, section 13.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use alloy_primitives::B256;
use hearth_api::runs::{RunAdapter, RunBase};
use hearth_causes::WithCauses;
use hearth_models::library::{Library, LibraryError};
use hearth_outcome::gguf::{ImportError, read_model_file, read_model_head};
use hearth_outcome::transformers::{FolderError, check_weights, read_folder_head, read_weights};
use hearth_outcome::{BaseHead, Vocabulary, seal_file};
use hearth_protocol::content::ContentHash;
use hearth_protocol::run::manifest::{BaseForm, FractionError, ModelShape, RunManifest, RunStart};
use hearth_protocol::text;
use hearth_workshop::{Base, Limits, OpenError, Workshop, shape_of, target_names};
use thiserror::Error;
use tracing::warn;

use super::depot::{Depot, DepotError, Length};
use crate::advice::Advice;
use crate::home::Home;

/// What a file of weights has beside numbers, in bytes: its head, and what fills it up.
const HEAD_BYTES_MAX: u64 = 80 << 20;
/// The longest name of a base that is shown, in bytes.
const NAME_BYTES_MAX: usize = 128;

/// Why a model cannot be what a run starts from.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ChooseBaseError {
    /// The household has no such model.
    #[error(transparent)]
    Library(#[from] LibraryError),
    /// The file.
    #[error("{} cannot be read", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A GGUF file that cannot be trained over.
    #[error("{} is not a model that an adapter can be trained over", path.display())]
    Gguf {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: ImportError,
    },
    /// A file of safetensors that cannot be trained over, or what is beside it.
    #[error("{}, with the files beside it, is not a model that an adapter can be trained over", path.display())]
    Safetensors {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: FolderError,
    },
    /// Its tokenizer is not one that datasets take.
    #[error("the tokenizer of {0} is missing, or is none that a dataset can be made with")]
    NoTokenizer(String),
    /// A number of its shape.
    #[error("the model states a shape that cannot stand in a manifest")]
    Shape(#[from] FractionError),
}

impl Advice for ChooseBaseError {
    fn code(&self) -> &str {
        match self {
            Self::Library(_) => "no_base",
            Self::Io { .. } => "not_readable",
            _ => "bad_base",
        }
    }

    fn next_step(&self) -> String {
        match self {
            Self::Library(_) => {
                "See `hearth models` for what is here; fetch one with `hearth models get`, or name a file that ends in \
                 .gguf or .safetensors"
            }
            Self::Io { .. } => {
                "Name a file that you may read; a path in the run's file begins where that file is"
            }
            Self::Safetensors { .. } => {
                "Name a model.safetensors that has all weights, with config.json and tokenizer.json beside it, or a GGUF file"
            }
            Self::NoTokenizer(_) => {
                "Choose a model with byte-level BPE, such as GPT-2's, SmolLM2's, Llama 3's or Qwen 2's"
            }
            _ => "Choose a model of the family Llama, such as smollm2-135m-instruct",
        }
        .to_owned()
    }
}

/// A model that a run is to start from.
#[derive(Debug)]
pub struct ChosenBase {
    /// Its file.
    pub path: PathBuf,
    /// What it is called.
    pub name: String,
    /// The hash of the file.
    pub file: ContentHash,
    pub(super) form: BaseForm,
    pub(super) shape: ModelShape,
    pub(super) vocabulary: Vocabulary,
}

impl ChosenBase {
    /// Finds what the file of a run names: a model of the household, or a file whose path begins in the folder `beside`.
    ///
    /// # Errors
    /// When it is not there, or cannot be trained over.
    pub fn find(home: &Home, named: &str, beside: &Path) -> Result<Self, ChooseBaseError> {
        let is_safetensors = named.ends_with(".safetensors");
        if !(is_safetensors || named.ends_with(".gguf") || named.contains(['/', '\\'])) {
            let entry = Library::open(home.models_folder())?.resolve(named)?;
            let file = ContentHash(entry.manifest.weights.0);
            let head = gguf_head(&entry.path)?;
            return Self::of(entry.path, named.to_owned(), file, head, BaseForm::Gguf);
        }
        let path = beside.join(named);
        let file = hash_of(&path).map_err(|source| ChooseBaseError::Io {
            path: path.clone(),
            source,
        })?;
        let (head, form) = match is_safetensors {
            true => (safetensors_head(&path)?, BaseForm::Safetensors),
            false => (gguf_head(&path)?, BaseForm::Gguf),
        };
        let name = head.name.clone().filter(|name| may_be_shown(name));
        let name = name.unwrap_or_else(|| named.to_owned());
        Self::of(path, name, file, head, form)
    }

    fn of(
        path: PathBuf,
        name: String,
        file: ContentHash,
        head: BaseHead,
        form: BaseForm,
    ) -> Result<Self, ChooseBaseError> {
        let shape = shape_of(&head.layout)?;
        let vocabulary = head.vocabulary;
        let vocabulary = vocabulary.ok_or_else(|| ChooseBaseError::NoTokenizer(name.clone()))?;
        Ok(Self {
            path,
            name,
            file,
            form,
            shape,
            vocabulary,
        })
    }
}

fn gguf_head(path: &Path) -> Result<BaseHead, ChooseBaseError> {
    read_model_head(path).map_err(|source| ChooseBaseError::Gguf {
        path: path.to_owned(),
        source,
    })
}

/// What the files beside the one of the weights say, which has to have all tensors.
fn safetensors_head(path: &Path) -> Result<BaseHead, ChooseBaseError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let read = || {
        let head = read_folder_head(folder)?;
        check_weights(path, &head.layout)?;
        Ok(head)
    };
    read().map_err(|source| ChooseBaseError::Safetensors {
        path: path.to_owned(),
        source,
    })
}

fn hash_of(path: &Path) -> io::Result<ContentHash> {
    Ok(ContentHash(seal_file(path)?.blake3.0))
}

fn may_be_shown(name: &str) -> bool {
    name.len() <= NAME_BYTES_MAX && text::is_name(name)
}

/// Why the model that a run starts from is not here.
#[derive(Debug, Error)]
#[non_exhaustive]
pub(crate) enum BaseError {
    /// It was not fetched.
    #[error(transparent)]
    Depot(#[from] DepotError),
    /// The disk.
    #[error("{} cannot be used", path.display())]
    Io {
        /// The path that failed.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is another file.
    #[error("{} is {found}, and the run starts from {wanted}", path.display())]
    OtherFile {
        /// The file.
        path: PathBuf,
        /// Its hash.
        found: ContentHash,
        /// The hash in the run's manifest.
        wanted: ContentHash,
    },
    /// A GGUF file.
    #[error("the model that the run starts from cannot be read")]
    Gguf(#[from] ImportError),
    /// A file of safetensors.
    #[error("the weights that the run starts from cannot be read")]
    Safetensors(#[from] FolderError),
    /// Its shape is not the run's.
    #[error("the model that the run starts from has not the shape that the run's manifest says")]
    Shape,
    /// The manifest cannot be computed for.
    #[error("this device cannot compute for the run")]
    Open(#[from] OpenError),
    /// A blocking task did not end.
    #[error("the work on the file was broken off")]
    Broken,
}

impl BaseError {
    /// Whether the same may be tried again later: nobody gave the file, or it was damaged and has been removed.
    pub(crate) fn is_retryable(&self) -> bool {
        let is_missing = matches!(self, Self::Depot(DepotError::Fetch { .. }));
        is_missing || matches!(self, Self::OtherFile { .. })
    }
}

fn failed(path: &Path) -> impl Fn(io::Error) -> BaseError {
    move |source| BaseError::Io {
        path: path.to_owned(),
        source,
    }
}

/// Where a device has models.
#[derive(Debug, Clone)]
pub(crate) struct BasePlaces {
    /// Those that runs start from, by their hashes.
    pub(crate) bases: PathBuf,
    /// Those of the household.
    pub(crate) models: PathBuf,
}

impl BasePlaces {
    fn path(&self, wanted: ContentHash) -> PathBuf {
        self.bases.join(wanted.to_string())
    }

    /// What the household calls a model of these weights, and where it is.
    fn known(&self, wanted: ContentHash) -> Option<(String, PathBuf)> {
        let entries = Library::open(&self.models).ok()?.list().ok()?;
        let mut alike = entries
            .into_iter()
            .filter(|entry| entry.manifest.weights.0 == wanted.0);
        alike.next().map(|entry| (entry.manifest.name, entry.path))
    }

    /// Puts a file of this machine among those that runs start from, if it is the wanted one.
    pub(crate) fn bring(&self, from: &Path, wanted: ContentHash) -> Result<PathBuf, BaseError> {
        let to = self.path(wanted);
        if to.is_file() && hash_of(&to).map_err(failed(&to))? == wanted {
            return Ok(to);
        }
        // A second name of a link would be a second link, and not the file.
        let from = fs::canonicalize(from).map_err(failed(from))?;
        let found = hash_of(&from).map_err(failed(&from))?;
        if found != wanted {
            let path = from;
            return Err(BaseError::OtherFile {
                path,
                found,
                wanted,
            });
        }
        remove(&to)?;
        if fs::hard_link(&from, &to).is_err() {
            self.copied(&from, &to).map_err(failed(&to))?;
        }
        Ok(to)
    }

    fn copied(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut aside = tempfile::NamedTempFile::new_in(&self.bases)?;
        io::copy(&mut fs::File::open(from)?, &mut aside)?;
        aside.as_file().sync_all()?;
        aside.persist(to)?;
        Ok(())
    }
}

fn remove(path: &Path) -> Result<(), BaseError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(path)(error)),
        _ => Ok(()),
    }
}

/// Weights that open runs keep in the memory also between rounds: what one of them has, the others do not get.
#[derive(Debug, Clone, Default)]
pub(crate) struct KeptWeights(Arc<Mutex<BTreeMap<u64, (B256, u64)>>>);

impl KeptWeights {
    fn locked(&self) -> MutexGuard<'_, BTreeMap<u64, (B256, u64)>> {
        // Plain data; a panic elsewhere leaves it usable.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts what a run keeps until the returned value is dropped, if the run fits beside the others; also returns what the
    /// device gives to it.
    ///
    /// # Errors
    /// [`OpenError::Memory`], with the numbers.
    pub(crate) fn count(
        &self,
        run: B256,
        manifest: &RunManifest,
        limits: Limits,
    ) -> Result<(Limits, CountedWeights), OpenError> {
        let mut kept = self.locked();
        let others = kept.values().filter(|(other, _)| *other != run);
        let others_bytes = others.fold(0, |sum: u64, (_, bytes)| sum.saturating_add(*bytes));
        let limits = Limits {
            memory_bytes: limits.memory_bytes.saturating_sub(others_bytes),
            ..limits
        };
        let memory = Workshop::check_memory(manifest, &limits)?;
        // A task that ends late takes away its own count, and not that of the one after it.
        let number = kept.last_key_value().map_or(0, |(last, _)| last + 1);
        kept.insert(number, (run, memory.base_bytes));
        let all = self.clone();
        Ok((limits, CountedWeights { all, number }))
    }
}

/// What a run keeps is counted as long as this is there.
#[derive(Debug)]
pub(crate) struct CountedWeights {
    all: KeptWeights,
    number: u64,
}

impl Drop for CountedWeights {
    fn drop(&mut self) {
        self.all.locked().remove(&self.number);
    }
}

/// What is known of a base once it is read, beside its weights.
#[derive(Debug)]
pub(crate) struct BaseFacts {
    /// The hash of its file.
    pub(crate) file: ContentHash,
    /// What its file calls it, or else its hash: the same on every device.
    pub(crate) name: String,
    /// Its tokens, where the file has them.
    pub(crate) vocabulary: Option<Vocabulary>,
}

/// A base that was read.
#[derive(Debug)]
pub(crate) struct LoadedBase {
    pub(crate) base: Base,
    pub(crate) facts: BaseFacts,
}

/// Sees that the file is here, gives it to others too, and reads it.
pub(crate) async fn base(
    depot: &Depot,
    places: &BasePlaces,
    manifest: &RunManifest,
) -> Result<Option<LoadedBase>, BaseError> {
    let RunStart::Base { base: wanted, .. } = manifest.start else {
        return Ok(None);
    };
    let path = here(depot, places, wanted, bytes_max(&manifest.model)).await?;
    let manifest = manifest.clone();
    let reading = move || match load(&path, &manifest) {
        Err(error @ BaseError::OtherFile { .. }) => {
            warn!(error = %error.with_causes(), "a damaged model is removed");
            remove(&path)?;
            Err(error)
        }
        read => read,
    };
    let read = tokio::task::spawn_blocking(reading).await;
    read.map_err(|_| BaseError::Broken)?
}

async fn here(
    depot: &Depot,
    places: &BasePlaces,
    wanted: ContentHash,
    bytes_max: u64,
) -> Result<PathBuf, BaseError> {
    let path = places.path(wanted);
    if depot.is_shared(wanted, &path).await? {
        return Ok(path);
    }
    let places = places.clone();
    let brought = tokio::task::spawn_blocking(move || match places.known(wanted) {
        Some((_, from)) => places.bring(&from, wanted).map(|_| ()),
        None => Ok(()),
    });
    if let Err(error) = brought.await.map_err(|_| BaseError::Broken)? {
        warn!(error = %error.with_causes(), "a model of this device is of no use to a run: it is fetched");
    }
    depot
        .get_to(wanted, Length::AtMost(bytes_max), None, &path)
        .await?;
    Ok(path)
}

/// The longest file of a model, in bytes: single precision, and a head that is written again although it is tied.
fn bytes_max(model: &ModelShape) -> u64 {
    let numbers = u64::try_from(model.parameters()).unwrap_or(u64::MAX);
    let head = u64::from(model.vocabulary) * u64::from(model.width);
    let bytes = numbers.saturating_add(head).saturating_mul(4);
    bytes.saturating_add(HEAD_BYTES_MAX)
}

/// Reads the model that a run starts from, of a file that is compared with its hash first. Nothing for a run that starts
/// from none. It blocks.
pub(crate) fn load(path: &Path, manifest: &RunManifest) -> Result<Option<LoadedBase>, BaseError> {
    let RunStart::Base { base: wanted, form } = manifest.start else {
        return Ok(None);
    };
    let found = hash_of(path).map_err(failed(path))?;
    if found != wanted {
        let path = path.to_owned();
        return Err(BaseError::OtherFile {
            path,
            found,
            wanted,
        });
    }
    let (weights, vocabulary, name) = match form {
        BaseForm::Gguf => {
            let read = read_model_file(path)?;
            if shape_of(&read.layout).ok() != Some(manifest.model) {
                return Err(BaseError::Shape);
            }
            (read.weights, read.vocabulary, read.name)
        }
        BaseForm::Safetensors => {
            let layout = Workshop::layout_of(manifest)?;
            (read_weights(path, &layout)?, None, None)
        }
    };
    let facts = BaseFacts {
        file: wanted,
        name: name
            .filter(|name| may_be_shown(name))
            .unwrap_or_else(|| wanted.to_string()),
        vocabulary,
    };
    let base = Base {
        file: wanted,
        weights,
    };
    Ok(Some(LoadedBase { base, facts }))
}

/// What is shown of the model that a run starts from. The household's own name for it goes before the one that its file has.
pub(crate) fn shown(
    manifest: &RunManifest,
    places: &BasePlaces,
    facts: Option<&BaseFacts>,
) -> Option<RunBase> {
    let of_file = || facts.map(|facts| facts.name.clone());
    let RunStart::Base { base: file, .. } = manifest.start else {
        return None;
    };
    let known = places.known(file).map(|(name, _)| name);
    described(manifest, known.or_else(of_file))
}

/// What a manifest says of the model that its run starts from.
pub(super) fn described(manifest: &RunManifest, name: Option<String>) -> Option<RunBase> {
    let RunStart::Base { base: file, form } = manifest.start else {
        return None;
    };
    let adapter = manifest.adapter.as_ref().map(|adapter| RunAdapter {
        rank: adapter.rank,
        alpha: adapter.alpha.get(),
        targets: target_names(adapter).map(str::to_owned).collect(),
    });
    Some(RunBase {
        name,
        file: file.to_string(),
        form: match form {
            BaseForm::Safetensors => "safetensors",
            BaseForm::Gguf => "gguf",
        }
        .to_owned(),
        adapter,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(root: &Path) -> BasePlaces {
        let places = BasePlaces {
            bases: root.join("bases"),
            models: root.join("models"),
        };
        fs::create_dir_all(&places.bases).unwrap();
        places
    }

    #[test]
    fn a_file_of_this_machine_is_taken_once_and_a_damaged_copy_is_replaced() {
        let root = tempfile::tempdir().unwrap();
        let places = places(root.path());
        let from = root.path().join("model.gguf");
        fs::write(&from, b"the numbers of a model").unwrap();
        let wanted = ContentHash::of(b"the numbers of a model");
        let path = places.bring(&from, wanted).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"the numbers of a model");
        assert_eq!(places.bring(&from, wanted).unwrap(), path);

        // A copy in a file of its own, as on another file system.
        fs::remove_file(&path).unwrap();
        places.copied(&from, &path).unwrap();
        fs::write(&path, b"the numbers of a modem").unwrap();
        places.bring(&from, wanted).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"the numbers of a model");
    }

    /// A run of the vectors that trains an adapter over a base.
    fn over_a_base() -> RunManifest {
        let vectors = include_str!("../../../../vectors/run_manifests.json");
        let vectors: serde_json::Value = serde_json::from_str(vectors).unwrap();
        let manifests = vectors["manifests"].as_array().unwrap().iter();
        let manifests = manifests.map(|one| one["manifest"].as_str().unwrap());
        let mut read = manifests.map(|text| RunManifest::read(text.as_bytes()).unwrap());
        let over = |manifest: &RunManifest| {
            let is_over = matches!(manifest.start, RunStart::Base { .. });
            is_over && manifest.adapter.is_some()
        };
        read.find(over).unwrap()
    }

    #[test]
    fn what_one_run_keeps_in_the_memory_is_not_given_to_another() {
        let manifest = over_a_base();
        let runs = [1, 2, 3].map(B256::repeat_byte);
        let none = Limits {
            memory_bytes: 0,
            threads: 1,
        };
        // With one window at a time: less does not do.
        let needed = Workshop::memory_of(&manifest, &none).unwrap();
        let all = Limits {
            memory_bytes: needed.total_bytes() + needed.base_bytes,
            threads: 1,
        };
        let kept = KeptWeights::default();
        let (given, first) = kept.count(runs[0], &manifest, all).unwrap();
        assert_eq!(given, all);
        let (given, second) = kept.count(runs[1], &manifest, all).unwrap();
        assert_eq!(given.memory_bytes, needed.total_bytes());
        let error = kept.count(runs[2], &manifest, all).unwrap_err();
        let OpenError::Memory { given_bytes, .. } = error else {
            panic!("{error}");
        };
        assert_eq!(given_bytes, needed.total_bytes() - needed.base_bytes);
        // A run that begins again is not counted twice, also where its task before ends late.
        let (given, again) = kept.count(runs[1], &manifest, all).unwrap();
        assert_eq!(given.memory_bytes, needed.total_bytes());
        drop(second);
        assert!(kept.count(runs[2], &manifest, all).is_err());
        drop((first, again));
        assert_eq!(kept.count(runs[2], &manifest, all).unwrap().0, all);
    }

    #[test]
    fn another_file_is_not_taken_for_the_base_of_a_run() {
        let root = tempfile::tempdir().unwrap();
        let places = places(root.path());
        let from = root.path().join("model.gguf");
        fs::write(&from, b"other numbers").unwrap();
        let wanted = ContentHash::of(b"the numbers of a model");
        let error = places.bring(&from, wanted).unwrap_err();
        assert!(matches!(error, BaseError::OtherFile { .. }), "{error}");
        assert!(error.is_retryable());
        assert!(!places.path(wanted).exists());
        let error = places.bring(&root.path().join("nowhere"), wanted);
        let error = error.unwrap_err();
        assert!(matches!(error, BaseError::Io { .. }), "{error}");
        assert!(!error.is_retryable());
    }
}
