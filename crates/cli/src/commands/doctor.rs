//! `hearth doctor`.

use std::process::ExitCode;

use hearth_api::doctor::{Health, Report};
use hearth_node::doctor;

use crate::failure::Failure;
use crate::global::Global;
use crate::screen::{Page, Show, Style, print};
use crate::wait;

/// Looks at everything; fails where something must be mended.
pub(crate) async fn run(global: &Global) -> Result<ExitCode, Failure> {
    let path = global.home_path()?;
    let spinner = wait::spinner(global.json, "looking at this device and its chains");
    let report = doctor::examine(&path).await;
    drop(spinner);
    print(&report, global.json)?;
    Ok(if report.healthy {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

impl Show for Report {
    fn show(&self, page: &mut Page) {
        for finding in &self.findings {
            let (style, word) = match finding.health {
                Health::Good => (Style::Good, "good"),
                Health::Warning => (Style::Warning, "warn"),
                Health::Bad => (Style::Bad, "BAD "),
            };
            let word = page.styled(style, word);
            page.line(&format!("{word}  {}: {}", finding.check, finding.message));
            if let Some(mend) = &finding.mend {
                page.line(&format!("      -> {mend}"));
            }
        }
        page.line("");
        page.line(if self.healthy {
            "Nothing has to be mended."
        } else {
            "Mend what is marked BAD, then run `hearth doctor` again."
        });
    }
}
