//! `hearth data`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use hearth_node::datasets::{
    self, Dataset, FIELD, Import, ImportProgress, ImportStage, Label, TokenizerChoice,
};
use hearth_node::models;
use serde::Serialize;

use super::models::size;
use crate::failure::Failure;
use crate::global::Global;
use crate::screen::{Page, Show, Style, print};
use crate::wait;

/// What can be done with datasets.
#[derive(Debug, Subcommand)]
pub(crate) enum DataCommand {
    /// Turn files of text or JSON lines into a dataset
    #[command(after_help = "\
A folder stands for the files directly in it that end in .txt, .md, .jsonl or .ndjson.

Examples:
  hearth data import plays/ --name plays --license CC0-1.0 --out plays-data
  hearth data import letters/ --name letters --license CC0-1.0 --tokenizer smollm2-135m-instruct --out letters-data
  hearth data import a.jsonl b.jsonl --jsonl-field body --name mails --license CC0-1.0 --tokenizer tokenizer.json --out mails-data")]
    Import(Box<ImportArguments>),

    /// Show what a dataset is: license, source, tokens
    Show {
        /// Its folder
        folder: PathBuf,
    },

    /// Read a whole dataset and compare it with its manifest
    Verify {
        /// Its folder
        folder: PathBuf,
    },
}

/// What to import.
#[derive(Debug, Args)]
pub(crate) struct ImportArguments {
    /// Files, or folders of files
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,

    /// What to call the dataset
    #[arg(long)]
    name: String,

    /// The license of the text, as SPDX names it, or the address of its words
    #[arg(long)]
    license: String,

    /// Where the text comes from
    #[arg(long, value_name = "URL")]
    source: Option<String>,

    /// How its makers want to be cited
    #[arg(long, value_name = "TEXT")]
    citation: Option<String>,

    /// What it is, in a sentence
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,

    /// Train a tokenizer of so many tokens
    #[arg(
        long,
        value_name = "TOKENS",
        default_value_t = 4_096,
        conflicts_with = "tokenizer"
    )]
    vocabulary: u32,

    /// Use the tokenizer of this tokenizer.json, of this GGUF file, or of a model that is here, by its name
    #[arg(long, value_name = "FILE|MODEL")]
    tokenizer: Option<PathBuf>,

    /// The field of JSON lines that has the text
    #[arg(long, value_name = "FIELD", default_value = FIELD)]
    jsonl_field: String,

    /// The folder to make
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
}

/// Does what was asked.
pub(crate) fn run(global: &Global, command: DataCommand) -> Result<ExitCode, Failure> {
    match command {
        DataCommand::Import(arguments) => import(global, *arguments)?,
        DataCommand::Show { folder } => {
            let dataset = datasets::look(&folder)?;
            print(&DatasetShown::of(&dataset, folder, false), global.json)?;
        }
        DataCommand::Verify { folder } => {
            let bar = wait::bytes(global.json);
            let dataset = datasets::verify(&folder, &mut |done_bytes, total_bytes| {
                bar.set_length(total_bytes);
                bar.set_position(done_bytes);
            })?;
            bar.finish_and_clear();
            print(&DatasetShown::of(&dataset, folder, true), global.json)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn import(global: &Global, arguments: ImportArguments) -> Result<(), Failure> {
    let tokenizer = match &arguments.tokenizer {
        Some(file) => datasets::tokenizer_file(&tokenizer_path(global, file)?)?,
        None => TokenizerChoice::Train(arguments.vocabulary),
    };
    let description = || {
        format!(
            "Text as tokens for training language models: {}",
            arguments.name
        )
    };
    let label = Label {
        description: arguments.description.unwrap_or_else(description),
        name: arguments.name,
        license: arguments.license,
        source: arguments.source,
        citation: arguments.citation,
    };
    let mut asked = Import::of(arguments.files, label, tokenizer);
    asked.field = arguments.jsonl_field;
    let bar = wait::bytes(global.json);
    let mut watch = |progress: ImportProgress| {
        bar.set_message(match progress.stage {
            ImportStage::Learning => "training the tokenizer",
            ImportStage::Writing => "writing tokens",
        });
        bar.set_length(progress.total_bytes);
        bar.set_position(progress.done_bytes);
    };
    let dataset = datasets::make(&asked, &arguments.out, &mut watch)?;
    bar.finish_and_clear();
    print(
        &DatasetShown::of(&dataset, arguments.out, true),
        global.json,
    )
}

/// The file that has the tokenizer: what was named, or else the model that is called so.
fn tokenizer_path(global: &Global, named: &Path) -> Result<PathBuf, Failure> {
    if named.exists() {
        return Ok(named.to_owned());
    }
    let of_model = match named.to_str() {
        Some(name) if global.home_path()?.is_dir() => models::file_of(&global.open_home()?, name)?,
        _ => None,
    };
    Ok(of_model.unwrap_or_else(|| named.to_owned()))
}

/// A dataset, as it is shown.
#[derive(Debug, Serialize)]
struct DatasetShown {
    id: String,
    folder: PathBuf,
    name: String,
    description: String,
    license: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    citation: Option<String>,
    vocabulary: u32,
    end_of_text: u32,
    tokenizer: String,
    training: PartShown,
    held_out: PartShown,
    /// Whether every byte was compared with the manifest.
    verified: bool,
}

/// One part of it.
#[derive(Debug, Serialize)]
struct PartShown {
    documents: u64,
    tokens: u64,
    shards: usize,
    bytes: u64,
}

impl PartShown {
    fn of(part: &datasets::Part) -> Self {
        Self {
            documents: part.documents,
            tokens: part.tokens,
            shards: part.shards.len(),
            bytes: part.shards.iter().map(|shard| shard.bytes).sum(),
        }
    }

    fn row(&self, name: &str) -> Vec<String> {
        vec![
            name.to_owned(),
            self.documents.to_string(),
            self.tokens.to_string(),
            self.shards.to_string(),
            size(self.bytes),
        ]
    }
}

impl DatasetShown {
    fn of(dataset: &Dataset, folder: PathBuf, verified: bool) -> Self {
        let Dataset { id, manifest } = dataset;
        let label = manifest.label.clone();
        Self {
            id: id.to_string(),
            folder,
            name: label.name,
            description: label.description,
            license: label.license,
            source: label.source,
            citation: label.citation,
            vocabulary: manifest.tokens.vocabulary,
            end_of_text: manifest.tokens.end_of_text,
            tokenizer: manifest.tokenizer.blake3.to_string(),
            training: PartShown::of(&manifest.training),
            held_out: PartShown::of(&manifest.held_out),
            verified,
        }
    }
}

impl Show for DatasetShown {
    fn show(&self, page: &mut Page) {
        let title = page.styled(Style::Strong, &self.name);
        page.line(&title);
        let said = |text: &Option<String>| text.clone().unwrap_or_else(|| "not said".to_owned());
        page.pairs(&[
            ("id", self.id.clone()),
            ("description", self.description.clone()),
            ("license", self.license.clone()),
            ("source", said(&self.source)),
            ("citation", said(&self.citation)),
            ("vocabulary", self.vocabulary.to_string()),
            ("folder", self.folder.display().to_string()),
        ]);
        let headings = ["part", "documents", "tokens", "shards", "size"];
        let right = [false, true, true, true, true];
        let rows = [self.training.row("training"), self.held_out.row("held out")];
        page.table(&headings, &right, &rows);
        if self.held_out.tokens == 0 {
            let warning = "Nothing is held out: there are too few documents to measure a model on.";
            let warning = page.styled(Style::Warning, warning);
            page.line(&warning);
        }
        if self.verified {
            let good = page.styled(Style::Good, "Every byte is what the manifest says.");
            page.line(&good);
        } else {
            let folder = self.folder.display();
            page.line(&format!(
                "`hearth data verify {folder}` compares every byte with the manifest."
            ));
        }
    }
}
