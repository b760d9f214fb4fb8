//! A household that cheats in training runs: it takes a part of the steps of each round, and says that it took all of them.
//!
//! Everything else is what `hearth up` does. `cargo xtask demo` runs it beside honest households, to see it caught.
//!
//! `cheating_household --home FOLDER --hearth PROGRAM`: the folder is a household's that has a wallet, the program is
//! `hearth`, which reads models in its place. The passphrase is taken from HEARTH_PASSPHRASE.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use hearth_api::household::NodeEvent;
use hearth_models::reader::Launcher;
use hearth_node::device::{Device, UpOptions};
use hearth_node::home::Home;
use hearth_node::keys::{Keystore, Passphrase};
use hearth_node::runs::RoundTrainer;
use hearth_workshop::{StepProgress, TrainError, Watch, Work, WorkOrder, Workshop};

/// Takes as few steps of a round as a trainer may.
#[derive(Debug)]
struct FewSteps;

impl RoundTrainer for FewSteps {
    fn train(
        &self,
        workshop: &Workshop,
        order: WorkOrder<'_>,
        local_out: &mut dyn Write,
        watch: Watch<'_>,
    ) -> Result<Work, TrainError> {
        let said = order.steps;
        let least = workshop.manifest().round.steps_min.max(1);
        let order = WorkOrder {
            steps: least,
            ..order
        };
        let work = workshop.train(order, local_out, watch)?;
        // The steps that were not taken are said to have gone as the last one did.
        for done in least..said {
            let step = StepProgress {
                done: done + 1,
                total: said,
                loss: Some(work.claim.last_loss),
            };
            if watch(step).is_break() {
                return Err(TrainError::Stopped);
            }
        }
        Ok(work)
    }
}

fn arguments() -> Result<(PathBuf, PathBuf)> {
    let (mut home, mut hearth) = (None, None);
    let mut arguments = std::env::args_os().skip(1);
    while let (Some(name), value) = (arguments.next(), arguments.next()) {
        match name.to_str() {
            Some("--home") => home = value,
            Some("--hearth") => hearth = value,
            _ => bail!("{} is not known", name.display()),
        }
    }
    let home = home.context("--home FOLDER is missing")?;
    let hearth = hearth.context("--hearth PROGRAM is missing")?;
    Ok((home.into(), hearth.into()))
}

#[tokio::main]
async fn main() -> Result<()> {
    let (folder, program) = arguments()?;
    let home = Home::open(&folder)?;
    let passphrase = std::env::var("HEARTH_PASSPHRASE").context("HEARTH_PASSPHRASE is not set")?;
    let passphrase = Passphrase::entered(passphrase.into())?;
    let keys = Keystore::read(&home.keystore_path())?.unlock(&passphrase)?;
    let options = UpOptions {
        launcher: Launcher {
            program,
            arguments: vec!["reader".into()],
        },
        listen: Some(([127, 0, 0, 1], 0).into()),
        sell_at: None,
        models: Vec::new(),
        join: Vec::new(),
        stall_ms: None,
        window_tokens: None,
        trainer: Arc::new(FewSteps),
    };
    let device = Device::up(&home, &home.config()?, &keys, options).await?;
    let ready = NodeEvent::Ready(Box::new(device.ready().clone()));
    println!("{}", serde_json::to_string(&ready)?);
    device.serve(Box::pin(std::future::pending())).await?;
    Ok(())
}
