//! Looks at everything a household's device needs, and says for each fault what mends it.
//!
//! Nothing is changed and no passphrase is needed. Each check is a finding of its own, so that one fault does not hide
//! the next. What to think of a measured value is decided by pure functions; this module measures.

mod chain;

use std::path::Path;

use futures::future::BoxFuture;
use hearth_api::doctor::{Finding, Health, Report};
use hearth_causes::WithCauses;

use crate::advice::Advice;
use crate::home::{Config, Home, HomeError, Part};
use crate::keys::{KdfCost, Keystore};

/// Less free space than this is said, in bytes.
const DISK_FREE_WARN_BYTES: u64 = 1 << 30;
/// Less free space than this is a fault, in bytes: a store must be able to grow.
const DISK_FREE_MIN_BYTES: u64 = 64 << 20;

/// One thing that was looked at and is as it should be.
fn good(check: &str, message: impl Into<String>) -> Finding {
    Finding {
        check: check.to_owned(),
        health: Health::Good,
        message: message.into(),
        mend: None,
    }
}

/// One thing that could be better, or that must be mended.
fn fault(
    check: &str,
    health: Health,
    message: impl Into<String>,
    mend: impl Into<String>,
) -> Finding {
    Finding {
        check: check.to_owned(),
        health,
        message: message.into(),
        mend: Some(mend.into()),
    }
}

/// An error as a finding.
fn failed(check: &str, error: &dyn Advice) -> Finding {
    let message = error.with_causes().to_string();
    fault(check, Health::Bad, message, error.next_step())
}

/// Looks at the data folder at `root` and at all it names.
pub fn examine<'a>(root: &'a Path) -> BoxFuture<'a, Report> {
    Box::pin(async move {
        let mut findings = Vec::new();
        let home = match Home::open(root) {
            Ok(home) => home,
            Err(error) => return report(vec![failed("home", &error)]),
        };
        findings.push(folder(&home));
        findings.push(disk(&home));
        findings.push(keystore(&home));
        findings.extend(Part::ALL.map(|part| lock(&home, part)));
        match home.config() {
            Err(error) => findings.push(failed("config", &error)),
            Ok(config) => {
                findings.push(configuration(&config));
                findings.extend(chain::examine(&config).await);
            }
        }
        report(findings)
    })
}

fn report(findings: Vec<Finding>) -> Report {
    let healthy = findings.iter().all(|finding| finding.health != Health::Bad);
    Report { healthy, findings }
}

fn folder(home: &Home) -> Finding {
    const CHECK: &str = "home";
    match home.mode() {
        Err(error) => failed(CHECK, &error),
        Ok(mode) if mode & 0o077 == 0 => good(
            CHECK,
            format!("the data folder {} is private", home.root().display()),
        ),
        Ok(mode) => fault(
            CHECK,
            Health::Warning,
            format!(
                "the data folder {} has permissions {mode:04o}: others can see what is in it",
                home.root().display()
            ),
            format!("chmod 700 {}", home.root().display()),
        ),
    }
}

fn disk(home: &Home) -> Finding {
    const CHECK: &str = "disk";
    match rustix::fs::statvfs(home.root()) {
        Ok(stat) => disk_finding(stat.f_bavail.saturating_mul(stat.f_frsize)),
        Err(error) => fault(
            CHECK,
            Health::Warning,
            format!("the free space is unknown: {error}"),
            format!("df {}", home.root().display()),
        ),
    }
}

fn disk_finding(free_bytes: u64) -> Finding {
    let message = format!("{} MiB are free for the stores", free_bytes >> 20);
    let mend = "Free some space, or move the data folder and name it with --home";
    if free_bytes < DISK_FREE_MIN_BYTES {
        fault("disk", Health::Bad, message, mend)
    } else if free_bytes < DISK_FREE_WARN_BYTES {
        fault("disk", Health::Warning, message, mend)
    } else {
        good("disk", message)
    }
}

fn keystore(home: &Home) -> Finding {
    const CHECK: &str = "keystore";
    match Keystore::read(&home.keystore_path()) {
        Err(error) => failed(CHECK, &error),
        Ok(keystore) if keystore.cost() != KdfCost::STRONG => fault(
            CHECK,
            Health::Warning,
            "the keystore was sealed with other parameters than this program's: passphrases may be easier to try",
            "Move the keystore away and run `hearth wallet recover` with your recovery phrase",
        ),
        Ok(keystore) => good(
            CHECK,
            format!(
                "the keystore is whole and private; household {}",
                keystore.household()
            ),
        ),
    }
}

fn lock(home: &Home, part: Part) -> Finding {
    let check = format!("store_{}", part.name());
    match home.lock(part) {
        Ok(_lock) => good(&check, format!("the {} store is not in use", part.name())),
        Err(HomeError::Busy { pid, .. }) => good(
            &check,
            format!("the {} store is in use by process {pid}", part.name()),
        ),
        Err(error) => failed(&check, &error),
    }
}

fn configuration(config: &Config) -> Finding {
    const CHECK: &str = "config";
    let (chains, assets) = (config.chains.len(), config.assets.len());
    let message = format!(
        "the configuration names {} and {}",
        counted(chains, "chain"),
        counted(assets, "asset")
    );
    if chains == 0 || assets == 0 {
        let mend =
            "Add them to config.toml; move the file away to get a fresh one with explanations";
        return fault(CHECK, Health::Warning, message, mend);
    }
    good(CHECK, message)
}

/// So many of what has a plural in `s`.
fn counted(count: usize, one: &str) -> String {
    match count {
        1 => format!("1 {one}"),
        _ => format!("{count} {one}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn little_space_is_said_and_no_space_is_a_fault() {
        assert_eq!(disk_finding(0).health, Health::Bad);
        assert_eq!(disk_finding(DISK_FREE_MIN_BYTES).health, Health::Warning);
        assert_eq!(disk_finding(DISK_FREE_WARN_BYTES).health, Health::Good);
    }

    #[test]
    fn one_thing_is_counted_as_one() {
        let said = |count| counted(count, "chain");
        assert_eq!([0, 1, 2].map(said), ["0 chains", "1 chain", "2 chains"]);
    }

    #[tokio::test]
    async fn a_new_folder_lacks_nothing_but_a_wallet() {
        let outer = tempfile::tempdir().unwrap();
        let root = outer.path().join("home");
        Home::open(&root).unwrap();
        let report = examine(&root).await;
        let not_good = report.findings.iter();
        let not_good: Vec<_> = not_good
            .filter(|finding| finding.health != Health::Good && finding.check != "disk")
            .map(|finding| (&*finding.check, finding.health))
            .collect();
        assert_eq!(not_good, [("keystore", Health::Bad)]);
    }

    #[tokio::test]
    async fn a_chain_that_does_not_answer_is_told_with_the_way_to_run_it() {
        let outer = tempfile::tempdir().unwrap();
        let root = outer.path().join("home");
        let home = Home::open(&root).unwrap();
        let text = std::fs::read_to_string(home.config_path()).unwrap();
        let text = crate::home::naming_the_embedded_chain(&text);
        // Port 1 is reserved, so nothing answers there.
        std::fs::write(home.config_path(), text.replace(":8545", ":1")).unwrap();
        let report = examine(&root).await;
        assert!(!report.healthy);
        let bad: Vec<(&str, &str)> = report
            .findings
            .iter()
            .filter(|finding| finding.health == Health::Bad)
            .map(|finding| (&*finding.check, finding.mend.as_deref().unwrap_or_default()))
            .collect();
        assert_eq!(bad.len(), 2, "{bad:?}");
        assert!(bad[0].0 == "keystore" && bad[0].1.contains("hearth wallet new"));
        assert!(bad[1].0 == "chain eip155:402402" && bad[1].1.contains("hearth chain run"));
    }
}
