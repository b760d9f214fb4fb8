//! The models of a device: one folder, and for each model its file and a manifest beside it.
//!
//! `NAME.gguf` is the file as it came, `NAME.json` says what it is: both hashes, the facts of its head, where it came
//! from; `NAME.tried`, where it is, with which engine that file ran. A file gets its name only when it is whole, its head was read by `gguf`, and its manifest is on the disk; what
//! a crash leaves behind is removed when the library is opened again. Changes are made under a lock, so that several
//! processes may use one folder. Weights are not hashed again when they are listed: only their length is compared.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use hearth_causes::WithCauses;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::catalogue::is_name;
use crate::digest::Digest;
use crate::fetch::{self, Fetched, SourceError, Watch};
use crate::gguf::{GgufError, Header};

/// The most models of one library.
const MODELS_MAX: usize = 10_000;

/// The largest manifest, in bytes.
const MANIFEST_BYTES_MAX: u64 = 64 << 10;

/// What the names of files begin with that are not whole yet.
const UNFINISHED: &str = ".importing-";

/// What a model of the library is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// What it is called.
    pub name: String,
    /// What its maker calls it.
    pub title: String,
    /// Its licence: SPDX as the catalogue has it, else what the file states, else `unknown`.
    pub licence: String,
    /// The kind of model, for example `llama`.
    pub architecture: String,
    /// How its weights are stored.
    pub quantisation: String,
    /// How many parameters it has.
    pub parameters: u64,
    /// The number of tokens it was made for; zero where the file does not say.
    pub context_tokens: u64,
    /// The BLAKE3 hash of the whole file: the weights' name on the network.
    pub weights: Digest,
    /// The SHA-256 of the whole file.
    pub sha256: Digest,
    /// The file's length, in bytes.
    pub weights_bytes: u64,
    /// How many of them hold everything but tensor data.
    pub head_bytes: u64,
    /// The BLAKE3 hash of the chat template's text, where the file has one.
    pub template: Option<Digest>,
    /// Where it came from, in words.
    pub source: String,
}

/// A model that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its file.
    pub path: PathBuf,
    /// What it is.
    pub manifest: Manifest,
}

/// Why the library cannot do something.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LibraryError {
    /// The folder or a file cannot be used.
    #[error("{path} cannot be used")]
    Io {
        /// Which.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The file is no model that can be run safely.
    #[error("the file cannot be used as a model")]
    Gguf(#[from] GgufError),
    /// It is a folder, a pipe or a device, which could be read for ever.
    #[error("{0} is no file")]
    NotAFile(PathBuf),
    /// The name cannot be one.
    #[error("`{0}` is no name for a model: use lower case letters, digits, `-` and `.`")]
    Name(String),
    /// There is no such model.
    #[error("there is no model `{0}` here: `hearth models list` shows those that are")]
    Unknown(String),
    /// The name is taken by another file.
    #[error("there is another model `{0}` already: remove it first, or choose another name")]
    Taken(String),
    /// The bytes are not those that were pinned.
    #[error(
        "the file has the SHA-256 {found} instead of {expected}: it is another file, or was changed"
    )]
    Hash {
        /// What was expected.
        expected: Digest,
        /// What it has.
        found: Digest,
    },
    /// Too many models.
    #[error("there are {MODELS_MAX} models already: remove some")]
    Full,
}

/// The folder of a device's models.
#[derive(Debug, Clone)]
pub struct Library {
    folder: PathBuf,
}

/// What a model that is added is called, and what is said of it from outside its file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Label {
    /// What it is to be called.
    pub name: String,
    /// Its title; without one, the name that the file states.
    pub title: Option<String>,
    /// Its licence; without one, the licence that the file states.
    pub licence: Option<String>,
    /// The SHA-256 that the file must have.
    pub sha256: Option<Digest>,
    /// Where it comes from, in words.
    pub source: String,
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> LibraryError {
    let path = path.to_path_buf();
    move |source| LibraryError::Io { path, source }
}

impl Library {
    /// Opens the library in `folder`, which is made where it is missing, and removes what a crash left behind.
    ///
    /// # Errors
    /// The folder cannot be made or read.
    pub fn open(folder: impl Into<PathBuf>) -> Result<Self, LibraryError> {
        let folder = folder.into();
        fs::create_dir_all(&folder).map_err(at(&folder))?;
        let library = Self { folder };
        library.clean()?;
        Ok(library)
    }

    /// The folder; a [`fetch::Fetcher`] fetches into it.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Every model, by name.
    ///
    /// # Errors
    /// The folder cannot be read. A model whose manifest is damaged is left out, with a warning in the log.
    pub fn list(&self) -> Result<Vec<Entry>, LibraryError> {
        let mut entries = Vec::new();
        for name in self.names()? {
            match self.resolve(&name) {
                Ok(entry) => entries.push(entry),
                Err(error) => {
                    tracing::warn!(model = name, error = %error.with_causes(), "a model is left out");
                }
            }
        }
        entries.sort_by(|a, b| a.manifest.name.cmp(&b.manifest.name));
        Ok(entries)
    }

    /// The model of that name.
    ///
    /// # Errors
    /// There is none, or its manifest or file is damaged.
    pub fn resolve(&self, name: &str) -> Result<Entry, LibraryError> {
        check_name(name)?;
        let (path, manifest_path) = self.paths(name);
        let manifest = read_manifest(&manifest_path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => LibraryError::Unknown(name.to_owned()),
            _ => at(&manifest_path)(error),
        })?;
        let bytes = fs::metadata(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => LibraryError::Unknown(name.to_owned()),
            _ => at(&path)(error),
        })?;
        if manifest.name != name || bytes.len() != manifest.weights_bytes {
            let error = io::Error::new(io::ErrorKind::InvalidData, "it does not fit its manifest");
            return Err(at(&path)(error));
        }
        Ok(Entry { path, manifest })
    }

    /// Adds a copy of a file of this machine, or a second name of it where the file system has such.
    ///
    /// # Errors
    /// The file is no model, the name cannot be or is taken, or the disk refuses.
    pub fn import(&self, file: &Path, label: &Label, watch: &Watch) -> Result<Entry, LibraryError> {
        check_name(&label.name)?;
        // A second name of a link would be a second link, and not the file.
        let file = &fs::canonicalize(file).map_err(at(file))?;
        if !fs::metadata(file).map_err(at(file))?.is_file() {
            return Err(LibraryError::NotAFile(file.clone()));
        }
        // Before gigabytes are copied.
        Header::of_file(file)?;
        let copy = self
            .folder
            .join(format!("{UNFINISHED}{}-{}", std::process::id(), label.name));
        let lock_path = self.lock_path(&copy);
        let lock = fetch::lock(&lock_path).map_err(at(&lock_path))?;
        let outcome = self.import_as(file, &copy, label, watch);
        // After success there is nothing left under this name.
        drop(fs::remove_file(&copy));
        drop(lock);
        drop(fs::remove_file(&lock_path));
        outcome
    }

    fn import_as(
        &self,
        file: &Path,
        copy: &Path,
        label: &Label,
        watch: &Watch,
    ) -> Result<Entry, LibraryError> {
        let bytes = fs::metadata(file).map_err(at(file))?.len();
        if fs::hard_link(file, copy).is_err() {
            fetch::copy(file, copy, bytes, watch).map_err(|error| match error {
                SourceError::Io(error) => at(file)(error),
                other => at(file)(io::Error::other(other.to_string())),
            })?;
        }
        self.keep_file(copy, label, watch)
    }

    /// Adds what a [`fetch::Fetcher`] fetched into the library's folder.
    ///
    /// # Errors
    /// The file is no model, the name cannot be or is taken, or the disk refuses. A file that is no model is removed.
    pub fn keep(
        &self,
        fetched: &Fetched,
        model: &crate::catalogue::Model,
        watch: &Watch,
    ) -> Result<Entry, LibraryError> {
        let label = Label {
            name: model.name.clone(),
            title: Some(model.title.clone()),
            licence: Some(model.licence.clone()),
            sha256: Some(fetched.sha256),
            source: fetched.source.clone(),
        };
        let outcome = self.keep_file(&fetched.path, &label, watch);
        if outcome.is_err() {
            drop(fs::remove_file(&fetched.path));
        }
        outcome
    }

    /// Puts a file that is in the library's folder in its place.
    fn keep_file(&self, file: &Path, label: &Label, watch: &Watch) -> Result<Entry, LibraryError> {
        check_name(&label.name)?;
        let header = Header::of_file(file)?;
        let sums = fetch::of_file(file, watch).map_err(at(file))?;
        if let Some(expected) = label.sha256.filter(|expected| *expected != sums.sha256) {
            let found = sums.sha256;
            return Err(LibraryError::Hash { expected, found });
        }
        let manifest = manifest(&header, &sums, label);
        let (path, manifest_path) = self.paths(&label.name);
        let _lock = self.lock()?;
        match self.resolve(&label.name) {
            Ok(present) if present.manifest.weights == manifest.weights => {
                fs::remove_file(file).map_err(at(file))?;
                return Ok(present);
            }
            Ok(_) => return Err(LibraryError::Taken(label.name.clone())),
            Err(_) if self.names()?.len() >= MODELS_MAX => return Err(LibraryError::Full),
            Err(_) => {}
        }
        // The manifest first: one without a file is known to be a leftover, a file without one could be anything.
        write_manifest(&self.folder, &manifest_path, &manifest).map_err(at(&manifest_path))?;
        fs::rename(file, &path).map_err(at(&path))?;
        sync(&self.folder).map_err(at(&self.folder))?;
        Ok(Entry { path, manifest })
    }

    /// Removes a model.
    ///
    /// # Errors
    /// There is none of that name, or the disk refuses.
    pub fn remove(&self, name: &str) -> Result<(), LibraryError> {
        check_name(name)?;
        let (path, manifest_path) = self.paths(name);
        let _lock = self.lock()?;
        if !manifest_path.exists() {
            return Err(LibraryError::Unknown(name.to_owned()));
        }
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(&path)(error)),
            _ => {}
        }
        drop(fs::remove_file(self.mark_path(name)));
        fs::remove_file(&manifest_path).map_err(at(&manifest_path))?;
        sync(&self.folder).map_err(at(&self.folder))
    }

    /// Whether it was noted that this file ran with `engine`.
    pub fn ran(&self, entry: &Entry, engine: &str) -> bool {
        let mark = fs::read_to_string(self.mark_path(&entry.manifest.name));
        mark.is_ok_and(|mark| mark == trial_mark(entry, engine))
    }

    /// Notes that this file ran with `engine`.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn note_ran(&self, entry: &Entry, engine: &str) -> Result<(), LibraryError> {
        let path = self.mark_path(&entry.manifest.name);
        // What a power cut leaves of it is no mark, and the file is tried again.
        fs::write(&path, trial_mark(entry, engine)).map_err(at(&path))
    }

    fn mark_path(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.tried"))
    }

    fn paths(&self, name: &str) -> (PathBuf, PathBuf) {
        let path = |end| self.folder.join(format!("{name}.{end}"));
        (path("gguf"), path("json"))
    }

    fn lock_path(&self, file: &Path) -> PathBuf {
        let mut path = file.as_os_str().to_owned();
        path.push(".lock");
        path.into()
    }

    /// Waits until no other process changes the library. Changes are renames, so that is soon.
    fn lock(&self) -> Result<File, LibraryError> {
        let path = self.folder.join(".lock");
        let open = || {
            let file = File::options().create(true).append(true).open(&path)?;
            file.lock()?;
            Ok(file)
        };
        open().map_err(at(&path))
    }

    /// The names of all manifests.
    fn names(&self) -> Result<Vec<String>, LibraryError> {
        let mut names = Vec::new();
        for name in self.files()? {
            if let Some(name) = name.strip_suffix(".json").filter(|name| is_name(name))
                && !name.ends_with(".part")
                && names.len() < MODELS_MAX
            {
                names.push(name.to_owned());
            }
        }
        Ok(names)
    }

    fn files(&self) -> Result<Vec<String>, LibraryError> {
        let entries = fs::read_dir(&self.folder).map_err(at(&self.folder))?;
        Ok(entries
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect())
    }

    /// Removes manifests without a file, and copies that nobody is making any more.
    fn clean(&self) -> Result<(), LibraryError> {
        let _lock = self.lock()?;
        for name in self.names()? {
            let (path, manifest_path) = self.paths(&name);
            if !path.exists() {
                fs::remove_file(&manifest_path).map_err(at(&manifest_path))?;
            }
        }
        for name in self.files()? {
            if !name.starts_with(UNFINISHED) || name.ends_with(".lock") {
                continue;
            }
            let copy = self.folder.join(&name);
            let lock_path = self.lock_path(&copy);
            if let Ok(Some(_free)) = fetch::lock(&lock_path) {
                drop(fs::remove_file(&copy));
                drop(fs::remove_file(&lock_path));
            }
        }
        Ok(())
    }
}

fn trial_mark(entry: &Entry, engine: &str) -> String {
    format!("{engine}\n{}\n", entry.manifest.weights)
}

fn check_name(name: &str) -> Result<(), LibraryError> {
    if is_name(name) && !name.ends_with(".part") {
        Ok(())
    } else {
        Err(LibraryError::Name(name.to_owned()))
    }
}

fn manifest(header: &Header, sums: &fetch::Sums, label: &Label) -> Manifest {
    let stated = |text: Option<&str>| text.map(|text| text.chars().take(200).collect());
    let title = label.title.clone().or_else(|| stated(header.name()));
    let licence = label.licence.clone().or_else(|| stated(header.licence()));
    let template = header
        .chat_template()
        .map(|text| blake3::hash(text.as_bytes()));
    Manifest {
        name: label.name.clone(),
        title: title.unwrap_or_else(|| label.name.clone()),
        licence: licence.unwrap_or_else(|| "unknown".to_owned()),
        architecture: header.architecture.clone(),
        quantisation: header.quantisation(),
        parameters: header.parameters,
        context_tokens: header.context_tokens().unwrap_or(0),
        weights: sums.blake3,
        sha256: sums.sha256,
        weights_bytes: sums.bytes,
        head_bytes: header.head_bytes,
        template: template.map(|hash| Digest(*hash.as_bytes())),
        source: label.source.clone(),
    }
}

fn read_manifest(path: &Path) -> io::Result<Manifest> {
    if fs::metadata(path)?.len() > MANIFEST_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is too long"));
    }
    serde_json::from_slice(&fs::read(path)?).map_err(io::Error::from)
}

fn write_manifest(folder: &Path, path: &Path, manifest: &Manifest) -> io::Result<()> {
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    serde_json::to_writer_pretty(&mut file, manifest)?;
    file.flush()?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

/// Makes renames in a folder last through a power cut.
fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;

    use super::*;
    use crate::gguf::sample::{Sample, text_value};

    fn unwatched() -> Watch {
        Arc::new(|_| ())
    }

    fn label(name: &str) -> Label {
        Label {
            name: name.to_owned(),
            source: "a test".to_owned(),
            ..Label::default()
        }
    }

    /// A folder with a model file and an empty library.
    fn place() -> (tempfile::TempDir, PathBuf, Library) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("some.gguf");
        fs::write(&file, Sample::model().file()).unwrap();
        let library = Library::open(folder.path().join("models")).unwrap();
        (folder, file, library)
    }

    #[test]
    fn an_imported_file_is_listed_resolved_and_removed() {
        let (_folder, file, library) = place();
        let entry = library
            .import(&file, &label("a-model"), &unwatched())
            .unwrap();
        let bytes = fs::read(&file).unwrap();
        assert_eq!(fs::read(&entry.path).unwrap(), bytes);
        let manifest = &entry.manifest;
        assert_eq!(manifest.weights, Digest(*blake3::hash(&bytes).as_bytes()));
        assert_eq!(manifest.weights_bytes, bytes.len() as u64);
        assert_eq!(manifest.head_bytes, Sample::model().head().len() as u64);
        assert_eq!(
            (&*manifest.title, &*manifest.licence),
            ("A sample", "apache-2.0")
        );
        let template = Digest(*blake3::hash(b"{{ messages }}").as_bytes());
        assert_eq!(manifest.template, Some(template));
        assert_eq!(library.list().unwrap(), std::slice::from_ref(&entry));
        assert_eq!(library.resolve("a-model").unwrap(), entry);
        // The same once more is no error, another file under the same name is.
        assert_eq!(
            library
                .import(&file, &label("a-model"), &unwatched())
                .unwrap(),
            entry
        );
        fs::remove_file(&file).unwrap();
        fs::write(&file, Sample::model().with("x", text_value("other")).file()).unwrap();
        let error = library
            .import(&file, &label("a-model"), &unwatched())
            .unwrap_err();
        assert!(matches!(error, LibraryError::Taken(_)), "{error}");
        library.remove("a-model").unwrap();
        assert!(library.list().unwrap().is_empty());
        assert!(matches!(
            library.remove("a-model"),
            Err(LibraryError::Unknown(_))
        ));
        assert!(file.exists(), "the user's own file stays");
    }

    #[test]
    fn what_is_no_model_is_not_taken() {
        let (_folder, file, library) = place();
        for name in ["", "..", "../up", "UP", "a/b", "a.part", &"a".repeat(101)] {
            let error = library
                .import(&file, &label(name), &unwatched())
                .unwrap_err();
            assert!(matches!(error, LibraryError::Name(_)), "{name}: {error}");
        }
        let pinned = Label {
            sha256: Some(Digest([1; 32])),
            ..label("a")
        };
        let error = library.import(&file, &pinned, &unwatched()).unwrap_err();
        assert!(matches!(error, LibraryError::Hash { .. }), "{error}");
        fs::write(&file, b"GGUF and nothing else").unwrap();
        let error = library
            .import(&file, &label("a"), &unwatched())
            .unwrap_err();
        assert!(matches!(error, LibraryError::Gguf(_)), "{error}");
        assert_eq!(
            library.files().unwrap(),
            [".lock"],
            "nothing is left behind"
        );
    }

    #[test]
    fn what_a_crash_leaves_behind_is_removed_and_what_is_in_use_is_not() {
        let (_folder, file, library) = place();
        let entry = library
            .import(&file, &label("whole"), &unwatched())
            .unwrap();
        let path = |name: &str| library.folder().join(name);
        fs::copy(path("whole.json"), path("half.json")).unwrap();
        fs::write(path(".importing-1-dead"), b"x").unwrap();
        fs::write(path(".importing-2-alive"), b"x").unwrap();
        fs::write(path("going.part"), b"x").unwrap();
        let alive = fetch::lock(&path(".importing-2-alive.lock")).unwrap();
        let library = Library::open(library.folder()).unwrap();
        assert_eq!(library.list().unwrap(), [entry]);
        assert!(!path("half.json").exists() && !path(".importing-1-dead").exists());
        assert!(path(".importing-2-alive").exists() && path("going.part").exists());
        drop(alive);
    }

    #[test]
    fn a_file_that_was_cut_short_is_not_served() {
        let (_folder, file, library) = place();
        // A copy, because the imported file may be the same one under a second name.
        let entry = library.import(&file, &label("a"), &unwatched()).unwrap();
        fs::remove_file(&entry.path).unwrap();
        fs::write(&entry.path, b"GGUF").unwrap();
        assert!(library.resolve("a").is_err());
        assert!(library.list().unwrap().is_empty());
    }

    #[test]
    fn several_at_once_do_not_disturb_each_other() {
        let (_folder, file, library) = place();
        thread::scope(|scope| {
            for number in 0..4 {
                let (library, file) = (&library, &file);
                scope.spawn(move || {
                    let name = format!("model-{}", number % 2);
                    let other = Library::open(library.folder()).unwrap();
                    // The copies of one process share a name, so each takes its own file in.
                    let own = library.folder().join(format!("own-{number}"));
                    fs::copy(file, &own).unwrap();
                    other.keep_file(&own, &label(&name), &unwatched()).unwrap();
                });
            }
        });
        let names: Vec<String> = library
            .list()
            .unwrap()
            .into_iter()
            .map(|entry| entry.manifest.name)
            .collect();
        assert_eq!(names, ["model-0", "model-1"]);
    }
}
