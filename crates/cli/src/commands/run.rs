//! `hearth run`: training runs.

mod fund;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use hearth_api::runs::{
    ExportRun, JoinRun, MakeFunding, MakeRun, ReplayWork, RoundView, RunBase, RunDetail,
    RunExported, RunView, RunViews, WhichRun, WorkReplayed,
};
use hearth_node::owner::client::Client;
use hearth_node::runs::base::ChosenBase;
use hearth_node::runs::recipe::{Recipe, RecipeError};
use serde::Serialize;

use super::models::size;
use crate::failure::Failure;
use crate::global::Global;
use crate::plot::Curve;
use crate::screen::{Page, Show, Style, print};
use crate::wait;

/// How often a watched run is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Rounds that are shown as a table.
const ROUNDS_SHOWN: usize = 12;
/// The longest file of a run, in bytes.
const RECIPE_BYTES_MAX: u64 = 1 << 20;

/// What can be done with training runs.
#[derive(Debug, Subcommand)]
pub(crate) enum RunCommand {
    /// Make a run from a file, and take part in it
    #[command(after_help = "\
The file says what matters to people; the rest follows from the model and the links:

  name = \"plays\"
  license = \"CC0-1.0\"
  rounds = 100
  [model]
  width = 128
  layers = 2
  [devices]
  trainers = 4
  up_mbit = 10

In the place of [model], [base] names a model that is here, over which an adapter is trained. The data have to have been
imported with its tokenizer. Everything under [adapter] may be left out:

  [base]
  model = \"smollm2-135m-instruct\"
  [adapter]
  rank = 8
  alpha = 16
  targets = [\"q_proj\", \"v_proj\"]

Examples:
  hearth run create plays.toml --data plays-data
  hearth run create plays.toml --data plays-data --validate --dry-run")]
    Create(Box<CreateArguments>),

    /// Take part in a run, or change the part that this device takes
    Join(JoinArguments),

    /// Take part in a run no longer; what was earned stays earned
    Leave {
        /// Its id, or the beginning of it
        run: String,
    },

    /// List the runs that this device takes part in
    List,

    /// Show a run: its rounds, who contributed, what replays found
    Show {
        /// Its id, or the beginning of it
        run: String,

        /// Also write the loss as a picture into this file
        #[arg(long, value_name = "FILE")]
        svg: Option<PathBuf>,
    },

    /// Show what is pledged to a run, pledge to it, or take a pledge back
    #[command(after_help = "\
Until the deadline a pledge can be withdrawn. After it, all pledges go back where they are below the soft cap;
otherwise each checkpoint of the run releases its part to those who trained, and what is left goes back at the end.

Examples:
  hearth run fund 3f2a
  hearth run fund 3f2a 25
  hearth run fund 3f2a --withdraw
  hearth run fund 3f2a --release")]
    Fund(fund::FundArguments),

    /// Write the model of a run: a GGUF file, a folder for Python's transformers, and who made it
    #[command(after_help = "\
Of a run that trains an adapter, the adapter is written: a GGUF file that llama.cpp puts over the base, and a folder for
Python's peft. With --merged the base is written with the adapter worked in, as one model.

Examples:
  hearth run export 3f2a --out plays-model
  hearth models import plays-model/model.gguf --name plays")]
    Export {
        /// Its id, or the beginning of it
        run: String,

        /// The folder to make
        #[arg(long, value_name = "FOLDER")]
        out: PathBuf,

        /// How the GGUF file of a model writes numbers: f32, f16 or q8_0; an adapter's has f32
        #[arg(long, default_value = "f16")]
        precision: String,

        /// Work an adapter into the weights under it, and write the whole model
        #[arg(long)]
        merged: bool,
    },

    /// Do a trainer's recorded work again, and compare it with the record to the bit
    #[command(after_help = "\
It ends with 1 where anything differs.

Example:
  hearth run replay 3f2a 5 9c01")]
    Replay {
        /// The run's id, or the beginning of it
        run: String,

        /// The round, as `hearth run show` counts it
        round: u64,

        /// The trainer's device, or the beginning of its id
        trainer: String,
    },

    /// Watch a run until it is over
    Watch {
        /// Its id, or the beginning of it
        run: String,
    },
}

/// Which part to take.
#[derive(Debug, Args)]
pub(crate) struct PartArguments {
    /// Validate too: check, replay and record what others do, when this device is drawn
    #[arg(long)]
    validate: bool,

    /// Do not train
    #[arg(long)]
    no_train: bool,
}

/// What to make.
#[derive(Debug, Args)]
pub(crate) struct CreateArguments {
    /// The run's file
    file: PathBuf,

    /// The folder of a dataset, as `hearth data import` made it; may be said again
    #[arg(long, required = true, value_name = "FOLDER")]
    data: Vec<PathBuf>,

    /// Only say what the run would be
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    part: PartArguments,
}

/// What to join.
#[derive(Debug, Args)]
pub(crate) struct JoinArguments {
    /// The ticket that `hearth run create` printed, or the id of a run that is here
    ticket: String,

    #[command(flatten)]
    part: PartArguments,
}

fn client(global: &Global) -> Result<Client, Failure> {
    Ok(Client::of(&global.open_home()?)?)
}

/// Does what was asked.
pub(crate) async fn run(global: &Global, command: RunCommand) -> Result<ExitCode, Failure> {
    match command {
        RunCommand::Create(arguments) => create(global, *arguments).await?,
        RunCommand::Join(arguments) => {
            let asked = JoinRun {
                ticket: arguments.ticket,
                trains: !arguments.part.no_train,
                validates: arguments.part.validate,
            };
            let view: RunView = client(global)?.post("/hearth/runs/join", &asked).await?;
            print(&view, global.json)?;
        }
        RunCommand::Leave { run } => {
            let asked = WhichRun { run };
            let view: RunView = client(global)?.post("/hearth/runs/leave", &asked).await?;
            print(&Left { run: view.run }, global.json)?;
        }
        RunCommand::List => {
            let views: RunViews = client(global)?.get("/hearth/runs").await?;
            print(&views, global.json)?;
        }
        RunCommand::Show { run, svg } => {
            let detail = detail(&client(global)?, &run).await?;
            if let Some(file) = svg {
                write_svg(&detail, &file)?;
            }
            print(&detail, global.json)?;
        }
        RunCommand::Export {
            run,
            out,
            precision,
            merged,
        } => {
            let whole = std::path::absolute(&out).map_err(|error| {
                let message = format!("{} cannot be a folder: {error}", out.display());
                Failure::new("bad_folder", message, "Name another folder with --out")
            })?;
            let asked = ExportRun {
                run,
                folder: whole.display().to_string(),
                precision,
                merged,
            };
            let waiting = wait::spinner(global.json, "writing the model");
            let exported: RunExported = client(global)?.post("/hearth/runs/export", &asked).await?;
            drop(waiting);
            print(&exported, global.json)?;
        }
        RunCommand::Replay {
            run,
            round,
            trainer,
        } => {
            return replay(
                global,
                ReplayWork {
                    run,
                    round,
                    trainer,
                },
            )
            .await;
        }
        RunCommand::Fund(arguments) => fund::run(global, arguments).await?,
        RunCommand::Watch { run } => watch(global, &run).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn replay(global: &Global, asked: ReplayWork) -> Result<ExitCode, Failure> {
    let waiting = wait::spinner(global.json, "doing the work again");
    let replayed: WorkReplayed = client(global)?.post("/hearth/runs/replay", &asked).await?;
    drop(waiting);
    print(&replayed, global.json)?;
    Ok(match replayed.same {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

async fn detail(client: &Client, run: &str) -> Result<RunDetail, Failure> {
    let plain = run.chars().all(|c| c.is_ascii_hexdigit() || c == 'x');
    if !plain || run.is_empty() {
        let message = format!("{run:?} is not the id of a run");
        return Err(Failure::new("no_run", message, "See `hearth run list`"));
    }
    Ok(client.get(&format!("/hearth/runs/show?run={run}")).await?)
}

async fn create(global: &Global, arguments: CreateArguments) -> Result<(), Failure> {
    let unreadable = |error: std::io::Error| {
        let message = format!("{} cannot be read: {error}", arguments.file.display());
        Failure::new(
            "not_readable",
            message,
            "Name the file of a run that you may read",
        )
    };
    let length = std::fs::metadata(&arguments.file)
        .map_err(unreadable)?
        .len();
    if length > RECIPE_BYTES_MAX {
        let message = format!("{} is too long for a run's file", arguments.file.display());
        return Err(Failure::new(
            "bad_run_file",
            message,
            "Name the file of a run",
        ));
    }
    let text = std::fs::read_to_string(&arguments.file).map_err(unreadable)?;
    let recipe = Recipe::read(&text)?;
    let base = match recipe.base()? {
        Some(named) => {
            let beside = arguments.file.parent().unwrap_or(Path::new("."));
            Some(ChosenBase::find(&global.open_home()?, named, beside)?)
        }
        None => None,
    };
    let planned = recipe.plan(&arguments.data, base.as_ref())?;
    let manifest =
        String::from_utf8_lossy(&planned.manifest.to_bytes().map_err(RecipeError::from)?)
            .into_owned();
    let plan = Planned {
        name: planned.manifest.name.clone(),
        rounds: planned.manifest.rounds,
        steps: planned.manifest.round.steps,
        contribution_bytes: planned.contribution_bytes,
        base: planned.base,
        reasons: planned.reasons,
        funding: planned.funding.clone(),
        manifest: manifest.clone(),
    };
    if arguments.dry_run {
        return print(&plan, global.json);
    }
    let whole = |path: &PathBuf| std::path::absolute(path).map_err(unreadable);
    let mut datasets = Vec::new();
    for folder in &arguments.data {
        datasets.push(whole(folder)?.display().to_string());
    }
    let file = base.map(|base| whole(&base.path)).transpose()?;
    let asked = MakeRun {
        manifest,
        datasets,
        base: file.map(|file| file.display().to_string()),
        trains: !arguments.part.no_train,
        validates: arguments.part.validate,
        funding: planned.funding,
    };
    let client = client(global)?;
    let waiting = wait::spinner(global.json, "making the run");
    let view: RunView = client.post("/hearth/runs/make", &asked).await?;
    drop(waiting);
    print(&Made { plan, run: view }, global.json)
}

/// Shows a run as it goes on; a line a round where nobody looks at a terminal.
async fn watch(global: &Global, run: &str) -> Result<(), Failure> {
    let client = client(global)?;
    let first = detail(&client, run).await?;
    let rounds = first.run.rounds.unwrap_or_default();
    let bar = wait::bar(global.json, rounds, "");
    let mut seen = 0;
    loop {
        let now = detail(&client, run).await?;
        for round in &now.recorded[seen.min(now.recorded.len())..] {
            if global.json {
                print(round, true)?;
            } else {
                bar.suspend(|| print(round, false))?;
            }
        }
        seen = now.recorded.len();
        let state = &now.run.state;
        bar.set_position(state.rounds_done);
        let step = state.step.zip(state.steps);
        let step = step.map_or_else(String::new, |(step, steps)| {
            format!(" (step {step}/{steps})")
        });
        bar.set_message(format!("{}{step}", state.doing));
        if rounds > 0 && state.rounds_done >= rounds {
            break;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    bar.finish_and_clear();
    if !global.json {
        print(&detail(&client, run).await?, false)?;
    }
    Ok(())
}

#[derive(Debug, Serialize)]
struct Left {
    run: String,
}

impl Show for Left {
    fn show(&self, page: &mut Page) {
        page.line(&format!(
            "This device takes part in {} no longer. What it earned stays earned.",
            short(&self.run)
        ));
    }
}

#[derive(Debug, Serialize)]
struct Planned {
    name: String,
    rounds: u32,
    steps: u32,
    contribution_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    base: Option<RunBase>,
    reasons: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    funding: Option<MakeFunding>,
    manifest: String,
}

impl Show for Planned {
    fn show(&self, page: &mut Page) {
        let title = page.styled(Style::Strong, &self.name);
        page.line(&title);
        let mut pairs = vec![
            ("rounds", self.rounds.to_string()),
            ("steps of a round", self.steps.to_string()),
            ("sent in a round", size(self.contribution_bytes)),
        ];
        pairs.extend(self.base.iter().flat_map(base_pairs));
        page.pairs(&pairs);
        for reason in &self.reasons {
            page.line(&format!("  {reason}"));
        }
        if let Some(funding) = &self.funding {
            fund::show_promise(page, funding, self.rounds);
        }
    }
}

#[derive(Debug, Serialize)]
struct Made {
    plan: Planned,
    run: RunView,
}

impl Show for Made {
    fn show(&self, page: &mut Page) {
        self.plan.show(page);
        self.run.show(page);
        page.line("Others take part with:");
        page.line(&format!("  hearth run join {}", self.run.ticket));
        if self.plan.funding.is_some() {
            page.line("Anyone may fund it, by the same ticket:");
            page.line(&format!("  hearth run fund {} AMOUNT", self.run.ticket));
        }
    }
}

/// The loss over the rounds of a run.
fn loss_curve(detail: &RunDetail) -> Option<Curve> {
    Curve::of(detail.recorded.iter().map(|round| round.loss))
}

/// Writes the loss of a run as a picture.
fn write_svg(detail: &RunDetail, file: &Path) -> Result<(), Failure> {
    let Some(curve) = loss_curve(detail) else {
        let message = "the run has no round that could be drawn";
        return Err(Failure::new(
            "no_round",
            message,
            "Try again when a round is recorded",
        ));
    };
    let name = detail.run.name.as_deref().unwrap_or("a run");
    let picture = curve.svg(&format!("Loss of {name}"), "nats a token", "rounds");
    std::fs::write(file, picture).map_err(|error| {
        let message = format!("{} cannot be written: {error}", file.display());
        Failure::new("not_writable", message, "Name another file with --svg")
    })
}

fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

fn part(view: &RunView) -> &'static str {
    match (view.trains, view.validates) {
        (true, true) => "trains and validates",
        (true, false) => "trains",
        (false, true) => "validates",
        (false, false) => "watches",
    }
}

/// What a run starts from, and what is trained over it.
fn base_pairs(base: &RunBase) -> Vec<(&'static str, String)> {
    let name = base.name.as_deref().unwrap_or("not known yet");
    let mut pairs = vec![("base", format!("{name}, {} {}", base.form, base.file))];
    if let Some(adapter) = &base.adapter {
        let (rank, alpha) = (adapter.rank, adapter.alpha);
        let targets = adapter.targets.join(", ");
        pairs.push(("adapter", format!("rank {rank}, alpha {alpha}: {targets}")));
    }
    pairs
}

fn progress(view: &RunView) -> String {
    match view.rounds {
        Some(rounds) => format!("{}/{rounds}", view.state.rounds_done),
        None => view.state.rounds_done.to_string(),
    }
}

impl Show for RunView {
    fn show(&self, page: &mut Page) {
        let mut pairs = vec![
            ("run", self.run.clone()),
            (
                "name",
                self.name
                    .clone()
                    .unwrap_or_else(|| "not known yet".to_owned()),
            ),
            ("this device", part(self).to_owned()),
            ("rounds", progress(self)),
            ("now", self.state.doing.clone()),
        ];
        pairs.extend(self.base.iter().flat_map(base_pairs));
        if let Some(parameters) = self.parameters {
            pairs.push(("parameters", parameters.to_string()));
        }
        if let Some(bytes) = self.contribution_bytes {
            pairs.push(("sent a round", size(bytes)));
        }
        if let Some(trouble) = &self.state.trouble {
            pairs.push(("trouble", trouble.clone()));
        }
        if let Some(bytes) = self.memory_bytes.filter(|_| self.trains) {
            pairs.push(("memory", format!("{} at most", size(bytes))));
        }
        page.pairs(&pairs);
    }
}

impl Show for RunExported {
    fn show(&self, page: &mut Page) {
        let title = page.styled(Style::Strong, &self.name);
        page.line(&title);
        page.pairs(&[
            ("model", self.model.clone()),
            ("trained for", format!("{} rounds", self.rounds)),
            ("held-out loss", format!("{:.4}", self.held_out_loss)),
            ("folder", self.folder.clone()),
        ]);
        let (gguf, name) = (&self.gguf, self.name.replace(' ', "-"));
        let Some(base) = &self.over else {
            page.line(&format!(
                "`hearth models import {gguf} --name {name}` takes it in, to answer with it."
            ));
            return;
        };
        let base = base.name.as_ref().unwrap_or(&base.file);
        page.line(&format!("llama.cpp puts {gguf} over {base}."));
        page.line(&format!(
            "`hearth run export {} --merged --out {name}-merged` writes both as one model, to answer with it.",
            short(&self.run)
        ));
    }
}

impl Show for WorkReplayed {
    fn show(&self, page: &mut Page) {
        page.pairs(&[
            ("run", self.run.clone()),
            ("round", self.round.to_string()),
            ("trainer", self.trainer.clone()),
            ("account", self.account.clone()),
            ("steps", self.steps.to_string()),
            ("took", format!("{:.1} s", self.seconds)),
        ]);
        let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "none".to_owned());
        let rows: Vec<_> = (self.parts.iter())
            .map(|part| {
                let same = if part.same { "same" } else { "differs" };
                let (recorded, computed) = (text(&part.recorded), text(&part.computed));
                vec![part.what.clone(), same.to_owned(), recorded, computed]
            })
            .collect();
        page.table(&["", "", "recorded", "computed"], &[false; 4], &rows);
        if let Some(why) = &self.impossible {
            page.line(&format!("Nobody can do this work: {why}."));
        }
        let (style, line) = match self.same {
            true => (Style::Good, "The work was done as it is recorded."),
            false => (Style::Bad, "The work was not done as it is recorded."),
        };
        let line = page.styled(style, line);
        page.line(&line);
    }
}

impl Show for RunViews {
    fn show(&self, page: &mut Page) {
        if self.runs.is_empty() {
            page.line("This device takes part in no run. `hearth run create` makes one, `hearth run join` joins one.");
            return;
        }
        let rows: Vec<_> = self
            .runs
            .iter()
            .map(|view| {
                vec![
                    short(&view.run).to_owned(),
                    view.name.clone().unwrap_or_default(),
                    part(view).to_owned(),
                    progress(view),
                    view.state.doing.clone(),
                ]
            })
            .collect();
        let headings = ["run", "name", "this device", "rounds", "now"];
        page.table(&headings, &[false, false, false, true, false], &rows);
    }
}

impl Show for RoundView {
    fn show(&self, page: &mut Page) {
        let steps: u32 = self.trainers.iter().map(|trainer| trainer.steps).sum();
        page.line(&format!(
            "round {:>4}  loss {:.4}  {} trainers, {steps} steps",
            self.index,
            self.loss,
            self.trainers.len()
        ));
        for audit in self.audits.iter().filter(|audit| audit.outcome != "same") {
            let line = format!(
                "            the work of {} in round {} was replayed: {}",
                short(&audit.trainer),
                audit.index,
                audit.outcome
            );
            let line = page.styled(Style::Warning, &line);
            page.line(&line);
        }
    }
}

impl Show for RunDetail {
    fn show(&self, page: &mut Page) {
        self.run.show(page);
        if let Some(funding) = &self.funding {
            page.line("");
            funding.show(page);
        }
        if self.recorded.is_empty() {
            page.line("No round is recorded yet.");
            return;
        }
        let lines = loss_curve(self).map(|curve| curve.lines());
        for line in lines.into_iter().flatten() {
            page.line(&line);
        }
        let last = self.recorded.len().saturating_sub(ROUNDS_SHOWN);
        for round in &self.recorded[last..] {
            round.show(page);
        }
        page.line(&format!(
            "Others take part with: hearth run join {}",
            self.run.ticket
        ));
    }
}
