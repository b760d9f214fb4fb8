//! The catalogue: which models there are by name, what they need, and where each comes from.
//!
//! It is data (`models.toml`, compiled in) and a household's own file in the same format. Every entry states the
//! SHA-256 of its file. One without it is accepted only from a hub that states the hash itself: it is then believed
//! once, the user is told so, and the library keeps what was found. Nothing here touches the network or the disk.
//!
//! The format, for each `[[model]]`: `name` (lower case letters, digits, `-`, `.`), `title`, `licence` (SPDX), `osi`
//! (whether that licence is approved by the OSI), `parameters` and `active_parameters` (about how many, and how many
//! work at each token where that is fewer), `quantisation`, `file_bytes`, `sha256`, `blake3` (optional),
//! `context_tokens`, `memory_bytes` (to run with 4,096 tokens), `roles`, and in order of preference `[[model.source]]`:
//! see [`Source`].

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use toml::Spanned;
use url::Url;

use crate::digest::Digest;

/// The catalogue that the program carries.
const BUILT_IN: &str = include_str!("../models.toml");

/// The most entries a file may have.
const MODELS_MAX: usize = 1_000;

/// The most sources an entry may have.
const SOURCES_MAX: usize = 16;

/// The largest catalogue file, in bytes.
const FILE_BYTES_MAX: usize = 1 << 20;

/// The share of the machine's memory, in percent, that a model may take where it runs on the processor.
const MEMORY_PERCENT: u64 = 50;

/// The most parameters that may work at each token on a processor, so that an answer is not slower than its reader.
const PROCESSOR_PARAMETERS_MAX: u64 = 4_000_000_000;

/// Disk space that stays free after a model was fetched, in bytes.
const DISK_RESERVE_BYTES: u64 = 1 << 30;

/// What a model can be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Role {
    /// It answers in a conversation.
    Chat,
    /// It turns a text into a vector.
    Embeddings,
    /// It can call tools.
    Tools,
}

/// A place that a model's file can be had from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Source {
    /// A file of a repository on a hub that speaks Hugging Face's addresses.
    HuggingFace {
        /// `owner/name`.
        repo: String,
        /// The file's path in the repository.
        file: String,
        /// The commit, or a branch such as `main`.
        revision: String,
    },
    /// A plain file on a web server.
    Url {
        /// Its address.
        url: Url,
    },
    /// A file inside a wheel, which the machine's pip fetches from whatever registry it is set up for.
    Wheel {
        /// The package's name.
        package: String,
        /// Its exact version.
        version: String,
        /// The SHA-256 of the wheel.
        sha256: Digest,
        /// The file's path inside.
        path: String,
    },
    /// A file on this machine.
    Path {
        /// Where it is.
        path: PathBuf,
    },
    /// A blob that a peer has, verified while it comes.
    Blob {
        /// The peer's ticket.
        ticket: String,
    },
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::HuggingFace { repo, file, .. } => write!(f, "{file} of {repo} on Hugging Face"),
            Self::Url { url } => write!(f, "{url}"),
            Self::Wheel {
                package, version, ..
            } => write!(f, "the package {package} {version}"),
            Self::Path { path } => write!(f, "{}", path.display()),
            Self::Blob { .. } => f.write_str("a peer"),
        }
    }
}

/// One model of the catalogue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// What it is called everywhere.
    pub name: String,
    /// What it is called in front of people.
    pub title: String,
    /// The SPDX name of its licence, or `LicenseRef-` and a name.
    pub licence: String,
    /// Whether the OSI has approved that licence.
    pub osi: bool,
    /// About how many parameters it has.
    pub parameters: u64,
    /// About how many of them work at each token, where that is fewer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active_parameters: Option<u64>,
    /// How its weights are stored.
    pub quantisation: String,
    /// The size of its file, in bytes; also what it takes on the disk.
    pub file_bytes: u64,
    /// The SHA-256 of its file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<Digest>,
    /// The BLAKE3 hash of its file; otherwise it is computed when the file comes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blake3: Option<Digest>,
    /// The longest conversation it was made for, in tokens.
    pub context_tokens: u64,
    /// The memory it takes with a context of 4,096 tokens, in bytes.
    pub memory_bytes: u64,
    /// What it can be used for.
    pub roles: Vec<Role>,
    /// Where its file comes from, the best place first.
    #[serde(rename = "source")]
    pub sources: Vec<Source>,
}

/// Why a catalogue file is refused.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("line {line} of the catalogue: {reason}")]
#[non_exhaustive]
pub struct CatalogueError {
    /// The line, counted from 1.
    pub line: usize,
    /// What is wrong there, and what would be right.
    pub reason: String,
}

/// What a machine has for a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// The machine's memory, in bytes.
    pub memory_bytes: u64,
    /// Free disk space where models are kept, in bytes.
    pub disk_bytes: u64,
    /// The free memory of the graphics processors that models run on, in bytes; zero without one.
    pub gpu_bytes: u64,
}

/// A model that fits a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pick<'a> {
    /// The model.
    pub model: &'a Model,
    /// Why it, in words for the user.
    pub reason: String,
}

/// The models that are known by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Catalogue {
    models: Vec<Model>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CatalogueFile {
    #[serde(default)]
    model: Vec<Spanned<Model>>,
}

impl Catalogue {
    /// The catalogue that the program carries.
    pub fn built_in() -> Self {
        let models = parse(BUILT_IN).expect("the tests read the catalogue that is compiled in");
        Self { models }
    }

    /// The built-in catalogue with a household's own file, whose entries replace those of the same name.
    ///
    /// # Errors
    /// The file is refused; the error names the line.
    pub fn with(own: &str) -> Result<Self, CatalogueError> {
        let mut models = parse(own)?;
        for model in Self::built_in().models {
            if !models.iter().any(|own| own.name == model.name) {
                models.push(model);
            }
        }
        Ok(Self { models })
    }

    /// Every model, those of the household first.
    pub fn models(&self) -> &[Model] {
        &self.models
    }

    /// The model of that name.
    pub fn find(&self, name: &str) -> Option<&Model> {
        self.models.iter().find(|model| model.name == name)
    }

    /// The best chat model that fits a machine: the one with the most parameters. Only models under a licence that the
    /// OSI has approved are picked without being asked for.
    pub fn pick(&self, room: Room) -> Option<Pick<'_>> {
        self.picks(room).into_iter().next()
    }

    /// Every chat model that [`Catalogue::pick`] would take, the best first: where one cannot be had, the next is meant.
    pub fn picks(&self, room: Room) -> Vec<Pick<'_>> {
        let free = room.disk_bytes.saturating_sub(DISK_RESERVE_BYTES);
        let eligible = self.models.iter().filter(|model| {
            model.osi && model.roles.contains(&Role::Chat) && model.file_bytes <= free
        });
        let mut fitting: Vec<_> = eligible
            .filter_map(|model| Some((model, place(model, room)?)))
            .collect();
        fitting.sort_by_key(|(model, _)| std::cmp::Reverse((model.parameters, model.memory_bytes)));
        let picks = fitting.into_iter().enumerate();
        picks
            .map(|(at, (model, place))| picked(at, model, &place))
            .collect()
    }
}

/// A model as the choice for a machine, with so many larger ones that fit too.
fn picked<'a>(larger: usize, model: &'a Model, place: &str) -> Pick<'a> {
    let rank = if larger == 0 {
        "the largest model"
    } else {
        "the next smaller model"
    };
    let reason = format!(
        "{} is {rank} of the catalogue that fits {place}: it needs {:.1} GB there, and {:.1} GB on the disk",
        model.title,
        gigabytes(model.memory_bytes),
        gigabytes(model.file_bytes)
    );
    Pick { model, reason }
}

/// Where a model would run, if it fits anywhere.
fn place(model: &Model, room: Room) -> Option<String> {
    if model.memory_bytes <= room.gpu_bytes {
        let size = gigabytes(room.gpu_bytes);
        return Some(format!("the {size:.1} GB of the graphics processor"));
    }
    let active = model.active_parameters.unwrap_or(model.parameters);
    let half = room.memory_bytes / 100 * MEMORY_PERCENT;
    (model.memory_bytes <= half && active <= PROCESSOR_PARAMETERS_MAX).then(|| {
        let size = gigabytes(room.memory_bytes);
        format!("half of the {size:.1} GB of memory and runs well on the processor")
    })
}

fn gigabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e9
}

fn parse(text: &str) -> Result<Vec<Model>, CatalogueError> {
    let line_of = |offset: usize| {
        text.as_bytes()[..offset.min(text.len())]
            .iter()
            .filter(|b| **b == b'\n')
            .count()
            + 1
    };
    let error = |line, reason: String| Err(CatalogueError { line, reason });
    if text.len() > FILE_BYTES_MAX {
        return error(1, format!("the file is larger than {FILE_BYTES_MAX} bytes"));
    }
    let file: CatalogueFile = match toml::from_str(text) {
        Ok(file) => file,
        Err(problem) => {
            let line = line_of(problem.span().map_or(0, |span| span.start));
            return error(line, problem.message().to_owned());
        }
    };
    if file.model.len() > MODELS_MAX {
        return error(1, format!("there are more than {MODELS_MAX} models"));
    }
    let mut models: Vec<Model> = Vec::new();
    for entry in file.model {
        let line = line_of(entry.span().start);
        let model = entry.into_inner();
        if let Err(reason) = check(&model) {
            return error(line, format!("the model `{}` {reason}", model.name));
        }
        if models.iter().any(|other| other.name == model.name) {
            return error(line, format!("the model `{}` is there twice", model.name));
        }
        models.push(model);
    }
    Ok(models)
}

/// Whether `name` can name a model, and with it a file of the library.
pub(crate) fn is_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    let begins = name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    begins && name.len() <= 100 && name.chars().all(allowed)
}

fn check(model: &Model) -> Result<(), String> {
    if !is_name(&model.name) {
        return Err("has a name of other than lower case letters, digits, `-` and `.`".to_owned());
    }
    for (what, text) in [("title", &model.title), ("licence", &model.licence)] {
        if text.is_empty() || text.len() > 200 || text.chars().any(char::is_control) {
            return Err(format!("needs a `{what}` of 1 to 200 characters"));
        }
    }
    for (what, number) in [
        ("parameters", model.parameters),
        ("file_bytes", model.file_bytes),
        ("context_tokens", model.context_tokens),
        ("memory_bytes", model.memory_bytes),
    ] {
        if number == 0 || number > 1 << 50 {
            return Err(format!("states `{what}` = {number}, which cannot be"));
        }
    }
    if model.sources.is_empty() || model.sources.len() > SOURCES_MAX {
        return Err(format!("needs 1 to {SOURCES_MAX} sources"));
    }
    for source in &model.sources {
        check_source(source)?;
        let states_hash = matches!(source, Source::HuggingFace { .. } | Source::Path { .. });
        if model.sha256.is_none() && !states_hash {
            return Err(format!(
                "needs `sha256`, because {source} does not state the hash of the file"
            ));
        }
    }
    Ok(())
}

fn check_source(source: &Source) -> Result<(), String> {
    let word = |text: &str, also: &str| {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c) || also.contains(c);
        let begins = text.starts_with(|c: char| c.is_ascii_alphanumeric());
        begins && text.len() <= 200 && text.chars().all(allowed) && !text.contains("..")
    };
    let fine = match source {
        Source::HuggingFace {
            repo,
            file,
            revision,
        } => {
            word(repo, "/")
                && repo.matches('/').count() == 1
                && word(file, "/")
                && word(revision, "")
        }
        Source::Url { url } => matches!(url.scheme(), "http" | "https"),
        Source::Wheel {
            package,
            version,
            path,
            ..
        } => word(package, "") && word(version, "+!") && word(path, "/"),
        Source::Path { path } => path.is_absolute(),
        Source::Blob { ticket } => !ticket.is_empty() && ticket.len() <= 10_000,
    };
    if fine {
        Ok(())
    } else {
        Err(format!("has a source that cannot be: {source:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn room(memory: u64, disk: u64, gpu: u64) -> Room {
        Room {
            memory_bytes: memory * GIB,
            disk_bytes: disk * GIB,
            gpu_bytes: gpu * GIB,
        }
    }

    #[test]
    fn the_built_in_catalogue_is_whole() {
        let catalogue = Catalogue::built_in();
        let first = &catalogue.models()[0];
        assert_eq!(first.name, "smollm2-135m-instruct");
        assert!(
            catalogue
                .models()
                .iter()
                .all(|model| model.sha256.is_some())
        );
        assert_eq!(catalogue.find("smollm2-135m-instruct"), Some(first));
        assert_eq!(catalogue.find("no-such-model"), None);
    }

    #[test]
    fn the_largest_model_that_fits_is_picked_with_its_reason() {
        let catalogue = Catalogue::built_in();
        for (room, expected) in [
            (room(4, 10, 0), Some("smollm2-135m-instruct")),
            (room(8, 100, 0), Some("qwen3-4b")),
            (room(16, 100, 8), Some("qwen3-8b")),
            (room(16, 100, 24), Some("gpt-oss-20b")),
            // On a processor an expert of 3.6 billion parameters is fast, a dense model of 8 is not.
            (room(32, 100, 0), Some("gpt-oss-20b")),
            (room(32, 10, 0), Some("qwen3-4b")),
            (room(64, 1, 24), None),
            (room(0, 100, 0), None),
        ] {
            let pick = catalogue.pick(room);
            let name = pick.as_ref().map(|pick| &*pick.model.name);
            assert_eq!(name, expected, "{room:?}");
            if let Some(pick) = pick {
                assert!(pick.reason.contains(&pick.model.title), "{}", pick.reason);
            }
        }
    }

    const OWN: &str = "\n[[model]]\nname = \"own\"\ntitle = \"Ours\"\nlicence = \"MIT\"\nosi = true\n\
        parameters = 1000\nquantisation = \"F16\"\nfile_bytes = 2000\nsha256 = \"SHA\"\n\
        context_tokens = 256\nmemory_bytes = 3000\nroles = [\"chat\"]\n\
        [[model.source]]\nkind = \"url\"\nurl = \"http://127.0.0.1:1/m.gguf\"\n";

    fn own() -> String {
        OWN.replace("SHA", &"ab".repeat(32))
    }

    #[test]
    fn a_household_adds_and_replaces_models() {
        let catalogue = Catalogue::with(&own()).unwrap();
        assert_eq!(catalogue.models()[0].name, "own");
        let replaced = own().replace("\"own\"", "\"qwen3-4b\"");
        let catalogue = Catalogue::with(&replaced).unwrap();
        assert_eq!(catalogue.find("qwen3-4b").unwrap().title, "Ours");
        assert_eq!(Catalogue::with("").unwrap(), Catalogue::built_in());
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        for (from, to, line, reason) in [
            (
                "name = \"own\"",
                "name = \"../own\"",
                2,
                "lower case letters",
            ),
            ("title = \"Ours\"", "title = \"\"", 2, "needs a `title`"),
            ("parameters = 1000", "parameters = 0", 2, "`parameters` = 0"),
            (
                "parameters = 1000",
                "parameters = \"many\"",
                7,
                "invalid type",
            ),
            ("parameters = 1000", "parametres = 1000", 7, "unknown field"),
            ("kind = \"url\"", "kind = \"ftp\"", 0, "unknown variant"),
            ("http://", "ftp://", 2, "source that cannot be"),
            ("sha256 =", "blake3 =", 2, "needs `sha256`"),
        ] {
            let error = Catalogue::with(&own().replace(from, to)).unwrap_err();
            assert!(error.reason.contains(reason), "{to}: {error}");
            assert!(line == 0 || error.line == line, "{to}: {error}");
        }
        let twice = own() + &own();
        let error = Catalogue::with(&twice).unwrap_err();
        assert!(error.reason.contains("twice"), "{error}");
    }
}
