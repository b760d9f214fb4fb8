//! `hearth models`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, Subcommand};
use hearth_api::household::{FetchEvent, HomeModel, HomeModels, WhichModel};
use hearth_api::runs::{CheckOutcome, ModelCheck, ModelChecks, VerifyModel, WorkReplayed};
use hearth_causes::WithCauses;
use hearth_node::home::Home;
use hearth_node::models::{Asked, ModelError, Models, Progress, Stage, Terms, Watch};
use hearth_node::owner::client::{Client, ClientError};
use hearth_node::runs::verifying;
use serde::Serialize;

use crate::failure::Failure;
use crate::global::Global;
use crate::screen::{Page, Show, Style, print};
use crate::wait;

/// What can be done with models.
#[derive(Debug, Subcommand)]
pub(crate) enum ModelCommand {
    /// Show the models that are here, and those that can be had
    List,

    /// Fetch a model: of the catalogue, or from devices that offer it; without a name, the best that fits this device
    Get {
        /// Its name, or the hash of its weights
        name: Option<String>,

        /// Fetch it from devices that offer it, through the node that is up
        #[arg(long, requires = "name")]
        from_peers: bool,
    },

    /// Take a GGUF file of this machine in
    Import {
        /// The file
        file: PathBuf,
        /// What to call it, instead of the file's name
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
    },

    /// Remove a model's file from the data folder
    Remove {
        /// Its name
        name: String,
    },

    /// Check a model that came out of a run: its files, and with the node the run's records on the ledger
    #[command(after_help = "\
Without a node, or outside the run, only the folder is compared with its manifest, and it says so. It ends with 1 where anything is wrong.

Examples:
  hearth models verify plays-model
  hearth models verify plays-model --replay")]
    Verify {
        /// The folder that `hearth run export` made
        folder: PathBuf,

        /// Do one contribution again, drawn at random
        #[arg(long)]
        replay: bool,
    },

    /// Run a model whenever the device is up, and say whom it answers
    #[command(after_help = "\
It answers the devices of this household for nothing; with a price also everybody who pays it. It writes a section into config.toml; a node that is up takes it in when it starts again.

Examples:
  hearth models serve smollm2-135m-instruct
  hearth models serve smollm2-135m-instruct --free
  hearth models serve smollm2-135m-instruct --asset TESTUSD --prompt 0.02 --output 0.06 --floor 0.000001")]
    Serve(ServeArguments),
}

/// What to serve.
#[derive(Debug, Args)]
pub(crate) struct ServeArguments {
    /// The model's name
    name: String,

    /// Answer everybody, for nothing
    #[arg(long, conflicts_with = "asset")]
    free: bool,

    /// The asset in which others pay; without it, the model answers this household only
    #[arg(long, value_name = "ASSET", requires_all = ["prompt", "output"])]
    asset: Option<String>,

    /// The price of a million tokens of prompts, in whole tokens of the asset
    #[arg(long, value_name = "AMOUNT", requires = "asset")]
    prompt: Option<String>,

    /// The price of a million tokens of answers
    #[arg(long, value_name = "AMOUNT", requires = "asset")]
    output: Option<String>,

    /// The least that an answer costs
    #[arg(long, value_name = "AMOUNT", requires = "asset")]
    floor: Option<String>,
}

/// Does what was asked.
pub(crate) async fn run(
    global: &Global,
    command: Option<ModelCommand>,
) -> Result<ExitCode, Failure> {
    let home = global.open_home()?;
    let models = Models::open(&home, crate::reader::launcher()?)?;
    match command.unwrap_or(ModelCommand::List) {
        ModelCommand::List => print(&models.list()?, global.json)?,
        ModelCommand::Get {
            name: Some(name),
            from_peers,
        } if from_peers || !models.is_known(&name) => {
            let model = from_peers_of(&home, name, global.json).await?;
            print(&model, global.json)?;
        }
        ModelCommand::Get { name, .. } => {
            let watch = watch(global.json);
            let model = match name {
                Some(name) => models.get(&name, &watch).await?,
                None => {
                    let (name, reason) = models.pick()?;
                    if !global.json {
                        println!("{name}: {reason}");
                    }
                    let mut given_up = |error: &ModelError| {
                        eprintln!("{}", error.with_causes());
                    };
                    models.get_best(&watch, &mut given_up).await?
                }
            };
            print(&model, global.json)?;
            if !global.json {
                println!(
                    "`hearth models serve {}` runs it whenever this device is up.",
                    model.name
                );
            }
        }
        ModelCommand::Import { file, name } => {
            let model = models.import(&file, name, &watch(global.json)).await?;
            print(&model, global.json)?;
        }
        ModelCommand::Remove { name } => {
            models.remove(&name)?;
            print(&models.list()?, global.json)?;
        }
        ModelCommand::Verify { folder, replay } => return verify(global, &folder, replay).await,
        ModelCommand::Serve(arguments) => {
            serve(&models, &arguments)?;
            print(&models.list()?, global.json)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Compares a model with its manifest, and with what its run recorded where a node can tell.
async fn verify(global: &Global, folder: &Path, replay: bool) -> Result<ExitCode, Failure> {
    let whole = std::path::absolute(folder).map_err(|error| {
        let message = format!("{} cannot be a folder: {error}", folder.display());
        Failure::new("bad_folder", message, "Name the folder of a model")
    })?;
    let waiting = wait::spinner(global.json, "checking the model");
    let verified = verifying::verify_folder(&whole)?;
    let mut shown = Verified {
        folder: whole.display().to_string(),
        model: verified.model,
        name: verified.name,
        good: false,
        checks: verified.checks,
        replayed: None,
    };
    if verified.run.is_some() {
        let asked = VerifyModel {
            folder: shown.folder.clone(),
            replay,
        };
        match recorded(global, &asked).await {
            Ok(found) => {
                shown.checks.extend(found.checks);
                shown.replayed = found.replayed;
            }
            Err(error) => shown.checks.push(ModelCheck {
                what: "the run".to_owned(),
                outcome: CheckOutcome::Unchecked,
                detail: error.with_causes().to_string(),
            }),
        }
    }
    drop(waiting);
    let mut outcomes = shown.checks.iter().map(|check| check.outcome);
    shown.good = outcomes.all(|outcome| outcome != CheckOutcome::Bad);
    print(&shown, global.json)?;
    Ok(match shown.good {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

async fn recorded(global: &Global, asked: &VerifyModel) -> Result<ModelChecks, ClientError> {
    let home = global.open_home().map_err(|_| ClientError::NotUp)?;
    Client::of(&home)?.post("/hearth/runs/verify", asked).await
}

/// A model that was checked.
#[derive(Debug, Serialize)]
struct Verified {
    folder: String,
    model: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    /// Whether nothing is wrong.
    good: bool,
    checks: Vec<ModelCheck>,
    #[serde(skip_serializing_if = "Option::is_none")]
    replayed: Option<WorkReplayed>,
}

impl Show for Verified {
    fn show(&self, page: &mut Page) {
        let title = self.name.as_ref().unwrap_or(&self.folder);
        let title = page.styled(Style::Strong, title);
        page.line(&title);
        page.pairs(&[
            ("model", self.model.clone()),
            ("folder", self.folder.clone()),
        ]);
        for check in &self.checks {
            let (style, word) = match check.outcome {
                CheckOutcome::Good => (Style::Good, "good"),
                CheckOutcome::Bad => (Style::Bad, "BAD"),
                CheckOutcome::Unchecked => (Style::Warning, "not checked"),
            };
            let word = page.styled(style, &format!("{word:<11}"));
            page.line(&format!("{word}  {}: {}", check.what, check.detail));
        }
        if let Some(replayed) = &self.replayed {
            replayed.show(page);
        }
        let is_whole = self.checks.iter().all(|c| c.outcome == CheckOutcome::Good);
        let (style, line) = match (self.good, is_whole) {
            (false, _) => (Style::Bad, "The model is not what its manifest says."),
            (true, true) => (Style::Good, "Everything is what the manifest says."),
            (true, false) => (
                Style::Warning,
                "Nothing is wrong, as far as it could be checked.",
            ),
        };
        let line = page.styled(style, line);
        page.line(&line);
    }
}

/// Lets the node that is up fetch a model from others.
async fn from_peers_of(home: &Home, name: String, json: bool) -> Result<HomeModel, Failure> {
    let bar = wait::bytes(json);
    bar.set_message("from other devices");
    let mut ended = None;
    let client = Client::of(home)?;
    let which = WhichModel { name };
    let mut taken = |data: &str| {
        match serde_json::from_str(data) {
            Ok(FetchEvent::Progress {
                done_bytes,
                total_bytes,
            }) => {
                bar.set_length(total_bytes);
                bar.set_position(done_bytes);
                return true;
            }
            Ok(FetchEvent::Done(model)) => ended = Some(Ok(*model)),
            Ok(FetchEvent::Failed { message }) => ended = Some(Err(message)),
            Err(error) => ended = Some(Err(error.with_causes().to_string())),
        }
        false
    };
    client
        .events("/hearth/models/fetch", &which, &mut taken)
        .await?;
    bar.finish_and_clear();
    let broken = || Err("the node stopped in between".to_owned());
    ended.unwrap_or_else(broken).map_err(|message| {
        let next = "See `hearth offers` for what is offered, then try again: what was fetched so far is kept";
        Failure::new("not_fetched", message, next)
    })
}

fn serve(models: &Models, arguments: &ServeArguments) -> Result<(), Failure> {
    let terms = match (&arguments.asset, &arguments.prompt, &arguments.output) {
        (Some(asset), Some(prompt), Some(output)) => Terms::Sold(Asked {
            asset: asset.clone(),
            per_million_prompt: prompt.clone(),
            per_million_output: output.clone(),
            floor: arguments.floor.clone(),
        }),
        _ if arguments.free => Terms::Free,
        _ => Terms::Household,
    };
    Ok(models.serve(&arguments.name, &terms)?)
}

/// Shows how far it is, if a person is looking.
pub(super) fn watch(json: bool) -> Watch {
    let bar = wait::bytes(json);
    Arc::new(move |progress: Progress| {
        let what = match progress.stage {
            Stage::Downloading => "downloading",
            Stage::Extracting => "extracting",
            _ => "checking",
        };
        bar.set_message(what);
        bar.set_length(progress.total_bytes.unwrap_or(progress.done_bytes));
        bar.set_position(progress.done_bytes);
    })
}

/// A size for people.
pub(super) fn size(bytes: u64) -> String {
    let mib = bytes.div_ceil(1 << 20);
    if mib < 1_024 {
        format!("{mib} MiB")
    } else {
        format!("{}.{} GiB", mib / 1_024, mib % 1_024 * 10 / 1_024)
    }
}

fn row(model: &HomeModel) -> Vec<String> {
    vec![
        model.name.clone(),
        size(model.bytes),
        model.context_tokens.to_string(),
        model.licence.clone(),
        if model.served { "served" } else { "" }.to_owned(),
    ]
}

impl Show for HomeModels {
    fn show(&self, page: &mut Page) {
        let headings = ["model", "size", "context", "license", ""];
        let right = [false, true, true, false, false];
        if self.here.is_empty() {
            page.line("No model is here yet: `hearth models get` fetches the best that fits.");
        } else {
            let title = page.styled(Style::Strong, "On this device");
            page.line(&title);
            let rows: Vec<_> = self.here.iter().map(row).collect();
            page.table(&headings, &right, &rows);
        }
        if !self.to_get.is_empty() {
            let title = page.styled(Style::Strong, "Can be had with `hearth models get NAME`");
            page.line(&title);
            let rows: Vec<_> = self.to_get.iter().map(row).collect();
            page.table(&headings, &right, &rows);
        }
    }
}

impl Show for HomeModel {
    fn show(&self, page: &mut Page) {
        let title = page.styled(Style::Strong, &format!("{} is here", self.name));
        page.line(&title);
        page.pairs(&[
            ("title", self.title.clone()),
            ("license", self.licence.clone()),
            ("size", size(self.bytes)),
            ("weights", self.weights.clone().unwrap_or_default()),
            ("from", self.source.clone()),
        ]);
        let next = format!(
            "`hearth models serve {}` runs it whenever the device is up.",
            self.name
        );
        page.line(&next);
    }
}
