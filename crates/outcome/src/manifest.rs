//! The manifest of a model: what it is, which files it has, and where it comes from, in canonical bytes whose BLAKE3 hash is
//! the model's id.
//!
//! Every byte follows from a [`ModelManifest`], so a reader takes the values out, checks them, writes the manifest again and
//! compares: what is odd in any other way is not canonical. spec: 17, section 5.

use std::fmt;

use hearth_datasets::canonical;
use hearth_datasets::hash::{FileSeal, Hash32};
use hearth_training::{
    Adapter, AdapterError, AdapterLayout, Architecture, ArchitectureError, Layout,
};
use serde_json::{Value, json};
use thiserror::Error;

use crate::label::{Label, LabelError, check_text};

mod reading;
mod shares;

pub use shares::{SHARES, apportion};

/// What the format is called.
pub const FORMAT: &str = "hearth-model/1";
/// The longest manifest, in bytes.
pub const MANIFEST_BYTES_MAX: usize = 8 << 20;
/// The most files of a model.
pub const FILES_MAX: usize = 256;
/// The most datasets.
pub const DATASETS_MAX: usize = 16;
/// The most evaluations.
pub const EVALUATIONS_MAX: usize = 256;
/// The most trainers, and validators, and funders.
pub const HOLDERS_MAX: usize = 16_384;
/// The longest decimal number, in bytes.
const DECIMAL_BYTES_MAX: usize = 32;
/// The largest whole number: JSON readers of every language read it exactly.
const WHOLE_MAX: u64 = 1 << 53;

/// The account of a household, written as `0x` and 40 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Account(pub [u8; 20]);

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("0x")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Account({self})")
    }
}

/// A decimal number in its one form: no sign but a minus, no exponent, no zero that could be left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decimal(String);

impl Decimal {
    /// Takes a number in that form.
    ///
    /// # Errors
    /// When it is in another form, or has more than 32 bytes.
    pub fn new(text: &str) -> Result<Self, ManifestError> {
        let wrong = ManifestError::Field("value");
        let digits = text.strip_prefix('-').unwrap_or(text);
        let (whole, fraction) = match digits.split_once('.') {
            Some((whole, fraction)) => (whole, Some(fraction)),
            None => (digits, None),
        };
        let numerals = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let whole_fine = numerals(whole) && (whole == "0" || !whole.starts_with('0'));
        let fraction_fine =
            fraction.is_none_or(|fraction| numerals(fraction) && !fraction.ends_with('0'));
        let fine = whole_fine && fraction_fine && text != "-0" && text.len() <= DECIMAL_BYTES_MAX;
        fine.then(|| Self(text.to_owned())).ok_or(wrong)
    }

    /// Returns its text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// One file of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelFile {
    /// Its name in the model's folder.
    pub path: String,
    /// Its length and hashes.
    pub seal: FileSeal,
}

/// The model that training started from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseModel {
    /// What it is called.
    pub name: String,
    /// The BLAKE3 hash by which the run named its weights.
    pub hash: Hash32,
}

/// The run that a model came out of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunRecord {
    /// The run's id on chain.
    pub id: Hash32,
    /// The hash of the run's manifest.
    pub manifest: Hash32,
    /// The first round that counts.
    pub first_round: u64,
    /// The last one.
    pub last_round: u64,
    /// The hash of the state that the last round was recorded with: the weights before they were written as files.
    pub state: Hash32,
}

/// A trainer, by the account of its household.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrainerRecord {
    /// The household's account.
    pub account: Account,
    /// Tokens times steps that were checked and counted.
    pub token_steps: u64,
    /// Its part of [`SHARES`].
    pub share: u32,
}

/// A validator or a funder, by the account of its household.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HolderRecord {
    /// The household's account.
    pub account: Account,
    /// Its part of [`SHARES`].
    pub share: u32,
}

/// What a model was found to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evaluation {
    /// The hash of the suite's, or the dataset's, manifest.
    pub suite: Hash32,
    /// What was measured, for example `accuracy` or `loss`.
    pub measure: String,
    /// The outcome.
    pub value: Decimal,
    /// How many items were looked at.
    pub items: u64,
    /// The hash of the report that has each of them.
    pub report: Option<Hash32>,
}

/// A model, as its manifest states it.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelManifest {
    /// What people say of it.
    pub label: Label,
    /// Its shape; of an adapter, that of the model under it.
    pub architecture: Architecture,
    /// What is published is this adapter, and not the whole model.
    pub adapter: Option<Adapter>,
    /// Its files, by ascending path.
    pub files: Vec<ModelFile>,
    /// The model that training started from.
    pub base: Option<BaseModel>,
    /// The run that it came out of.
    pub run: Option<RunRecord>,
    /// The ids of the datasets, ascending.
    pub datasets: Vec<Hash32>,
    /// Who trained, by ascending account.
    pub trainers: Vec<TrainerRecord>,
    /// Who checked, by ascending account.
    pub validators: Vec<HolderRecord>,
    /// Who paid, by ascending account.
    pub funders: Vec<HolderRecord>,
    /// What it was found to do.
    pub evaluations: Vec<Evaluation>,
}

/// Bytes are no manifest, or values make none.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// Too long to be read.
    #[error("the manifest has {0} bytes, and at most {MANIFEST_BYTES_MAX} are read")]
    Long(usize),
    /// Not JSON.
    #[error("the manifest is not JSON")]
    Json(#[source] serde_json::Error),
    /// A field that is not there, or of another type.
    #[error("the manifest has no sound field {0:?}")]
    Field(&'static str),
    /// A text that is not one plain line.
    #[error("a text of the manifest cannot stand there")]
    Text(#[from] LabelError),
    /// A shape that no model has.
    #[error("the manifest states a shape that no model has")]
    Architecture(#[source] ArchitectureError),
    /// An adapter that there cannot be.
    #[error("the manifest states an adapter that there cannot be")]
    Adapter(#[source] AdapterError),
    /// A list that is too long, out of order, or has something twice.
    #[error("the list of {0} is too long, out of order, or has something twice")]
    List(&'static str),
    /// A number out of range.
    #[error("the {0} is out of range")]
    Range(&'static str),
    /// Shares that are not all there are.
    #[error("the shares are {0} together, and have to be {SHARES}, or none without holders")]
    Shares(u64),
    /// Values that are all right, in another form than they must have.
    #[error("the manifest is not in canonical form, or states something that no manifest has")]
    NotCanonical,
}

impl ModelManifest {
    /// Returns the canonical bytes.
    ///
    /// # Errors
    /// When a value is out of range.
    pub fn to_bytes(&self) -> Result<Vec<u8>, ManifestError> {
        self.check()?;
        let bytes = canonical::bytes(&self.to_json());
        if bytes.len() > MANIFEST_BYTES_MAX {
            return Err(ManifestError::Long(bytes.len()));
        }
        Ok(bytes)
    }

    /// Reads canonical bytes.
    ///
    /// # Errors
    /// When they are not those of a manifest, to the byte.
    pub fn read(bytes: &[u8]) -> Result<Self, ManifestError> {
        if bytes.len() > MANIFEST_BYTES_MAX {
            return Err(ManifestError::Long(bytes.len()));
        }
        let stated: Value = serde_json::from_slice(bytes).map_err(ManifestError::Json)?;
        let manifest = reading::manifest(&stated)?;
        manifest.check()?;
        if canonical::bytes(&manifest.to_json()) != bytes {
            return Err(ManifestError::NotCanonical);
        }
        Ok(manifest)
    }

    /// Returns the id of the model whose manifest these bytes are.
    #[must_use]
    pub fn id(bytes: &[u8]) -> Hash32 {
        Hash32::blake3(bytes)
    }

    fn check(&self) -> Result<(), ManifestError> {
        self.label.check()?;
        let layout = Layout::new(self.architecture).map_err(ManifestError::Architecture)?;
        if let Some(adapter) = &self.adapter {
            let ordered = adapter.targets.is_sorted();
            ordered
                .then_some(())
                .ok_or(ManifestError::List("targets"))?;
            AdapterLayout::new(&layout, adapter.clone()).map_err(ManifestError::Adapter)?;
        }
        if let Some(base) = &self.base {
            check_text("name of the base", &base.name)?;
        }
        self.check_files()?;
        ascending("datasets", DATASETS_MAX, self.datasets.iter())?;
        self.check_holders()?;
        if let Some(run) = &self.run {
            let fine = run.first_round <= run.last_round && run.last_round <= WHOLE_MAX;
            fine.then_some(())
                .ok_or(ManifestError::Range("last round"))?;
        }
        if self.evaluations.len() > EVALUATIONS_MAX {
            return Err(ManifestError::List("evaluations"));
        }
        self.evaluations.iter().try_for_each(|evaluation| {
            check_text("measure", &evaluation.measure)?;
            let fine = evaluation.items <= WHOLE_MAX;
            fine.then_some(())
                .ok_or(ManifestError::Range("number of items"))
        })
    }

    fn check_files(&self) -> Result<(), ManifestError> {
        if self.files.is_empty() {
            return Err(ManifestError::List("files"));
        }
        ascending("files", FILES_MAX, self.files.iter().map(|file| &file.path))?;
        self.files.iter().try_for_each(|file| {
            check_text("path of a file", &file.path)?;
            // A plain name: a reader puts the file into the model's folder under it.
            let plain = !file.path.starts_with('.') && !file.path.contains(['/', '\\', ':']);
            plain.then_some(()).ok_or(ManifestError::Field("path"))?;
            let fine = (1..=WHOLE_MAX).contains(&file.seal.bytes);
            fine.then_some(())
                .ok_or(ManifestError::Range("length of a file"))
        })
    }

    fn check_holders(&self) -> Result<(), ManifestError> {
        let accounts = |holders: &[HolderRecord]| {
            let accounts = holders.iter().map(|holder| holder.account);
            accounts.collect::<Vec<_>>()
        };
        let trainers = self.trainers.iter().map(|trainer| trainer.account);
        ascending("trainers", HOLDERS_MAX, trainers)?;
        ascending("validators", HOLDERS_MAX, accounts(&self.validators).iter())?;
        ascending("funders", HOLDERS_MAX, accounts(&self.funders).iter())?;
        if self
            .trainers
            .iter()
            .any(|trainer| trainer.token_steps > WHOLE_MAX)
        {
            return Err(ManifestError::Range("number of token-steps"));
        }
        let others = self.validators.iter().chain(&self.funders);
        let shares: Vec<u32> = (self.trainers.iter().map(|trainer| trainer.share))
            .chain(others.map(|holder| holder.share))
            .collect();
        let sum: u64 = shares.iter().map(|share| u64::from(*share)).sum();
        let wanted = if shares.is_empty() { 0 } else { SHARES };
        let all = sum == u64::from(wanted);
        all.then_some(()).ok_or(ManifestError::Shares(sum))
    }

    fn to_json(&self) -> Value {
        let holders = |holders: &[HolderRecord]| -> Vec<Value> {
            let holder = |holder: &HolderRecord| json!({"account": holder.account.to_string(), "share": holder.share});
            holders.iter().map(holder).collect()
        };
        let trainer = |trainer: &TrainerRecord| {
            json!({
                "account": trainer.account.to_string(),
                "share": trainer.share,
                "tokenSteps": trainer.token_steps,
            })
        };
        let datasets = self.datasets.iter().map(|id| id.to_string());
        let mut manifest = json!({
            "format": FORMAT,
            "name": self.label.name,
            "license": self.label.license,
            "architecture": architecture(&self.architecture),
            "files": self.files.iter().map(file).collect::<Vec<_>>(),
            "datasets": datasets.collect::<Vec<_>>(),
            "trainers": self.trainers.iter().map(trainer).collect::<Vec<_>>(),
            "validators": holders(&self.validators),
            "funders": holders(&self.funders),
            "evaluations": self.evaluations.iter().map(evaluation).collect::<Vec<_>>(),
        });
        if let Some(description) = &self.label.description {
            manifest["description"] = description.as_str().into();
        }
        if let Some(stated) = &self.adapter {
            manifest["adapter"] = adapter(stated);
        }
        if let Some(base) = &self.base {
            manifest["base"] = json!({"hash": base.hash.to_string(), "name": base.name});
        }
        if let Some(run) = &self.run {
            manifest["run"] = json!({
                "firstRound": run.first_round,
                "id": run.id.to_string(),
                "lastRound": run.last_round,
                "manifest": run.manifest.to_string(),
                "state": run.state.to_string(),
            });
        }
        manifest
    }
}

/// Checks that a list is not too long, and that each item comes before the next.
fn ascending<T: PartialOrd>(
    what: &'static str,
    most: usize,
    items: impl ExactSizeIterator<Item = T>,
) -> Result<(), ManifestError> {
    let fits = items.len() <= most && items.is_sorted_by(|one, next| one < next);
    fits.then_some(()).ok_or(ManifestError::List(what))
}

/// Fractions are texts: the shortest digits that give the same number of single precision.
fn architecture(a: &Architecture) -> Value {
    json!({
        "context": a.context,
        "head": a.head,
        "hidden": a.hidden,
        "keyValueHeads": a.key_value_heads,
        "layers": a.layers,
        "normEpsilon": a.norm_epsilon.to_string(),
        "queryHeads": a.query_heads,
        "ropeTheta": a.rope_theta.to_string(),
        "tiedHead": a.tied_head,
        "vocabulary": a.vocabulary,
        "width": a.width,
    })
}

fn adapter(adapter: &Adapter) -> Value {
    let targets: Vec<&str> = adapter.targets.iter().map(|target| target.name()).collect();
    json!({
        "alpha": adapter.alpha.to_string(),
        "rank": adapter.rank,
        "targets": targets,
    })
}

fn file(file: &ModelFile) -> Value {
    json!({
        "blake3": file.seal.blake3.to_string(),
        "bytes": file.seal.bytes,
        "path": file.path,
        "sha256": file.seal.sha256.to_string(),
    })
}

fn evaluation(evaluation: &Evaluation) -> Value {
    let mut stated = json!({
        "items": evaluation.items,
        "measure": evaluation.measure,
        "suite": evaluation.suite.to_string(),
        "value": evaluation.value.as_str(),
    });
    if let Some(report) = &evaluation.report {
        stated["report"] = report.to_string().into();
    }
    stated
}
