//! When others may use this device: its owner's other programs come first.
//!
//! The rule is a pure function of two readings of the processor's counters. Where the system does
//! not tell them, nobody is kept waiting.

use std::time::Duration;

use super::Building;
use crate::home::SharingConfig;
use crate::roles::provider::Provider;

/// How often the processor is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The processor's counters since it started, in ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ticks {
    /// In which anything was computed.
    busy: u64,
    /// All of them.
    total: u64,
    /// In which this process computed.
    own: u64,
}

impl Ticks {
    /// As Linux tells them.
    fn now() -> Option<Self> {
        let all = std::fs::read_to_string("/proc/stat").ok()?;
        let own = std::fs::read_to_string("/proc/self/stat").ok()?;
        Self::parse(&all, &own)
    }

    /// Reads `/proc/stat` and `/proc/PID/stat` (proc(5)).
    fn parse(all: &str, own: &str) -> Option<Self> {
        let line = all.lines().next()?.strip_prefix("cpu ")?;
        let figures: Option<Vec<u64>> = line.split_whitespace().map(|f| f.parse().ok()).collect();
        let figures = figures?;
        // user, nice, system, idle, iowait, irq, softirq, steal; what follows is in them already.
        let total = figures.iter().take(8).sum();
        let idle: u64 = figures.iter().skip(3).take(2).sum();
        // The name of the program may hold spaces; what follows its bracket does not.
        let rest = own.rsplit_once(')')?.1;
        let mut times = rest.split_whitespace().skip(11).map(str::parse::<u64>);
        let (user, system) = (times.next()?.ok()?, times.next()?.ok()?);
        Some(Self {
            busy: u64::saturating_sub(total, idle),
            total,
            own: user.saturating_add(system),
        })
    }

    /// The share of the processor that other programs used since `before`, in percent.
    fn others_percent(self, before: Self) -> u8 {
        let total = self.total.saturating_sub(before.total);
        let busy = self.busy.saturating_sub(before.busy);
        let own = self.own.saturating_sub(before.own);
        let others = busy.saturating_sub(own).saturating_mul(100);
        let percent = others.checked_div(total).unwrap_or(0);
        u8::try_from(percent).unwrap_or(100)
    }
}

/// Whether others may use the device while other programs use so much of it.
fn is_open(sharing: &SharingConfig, others_percent: u8) -> bool {
    sharing.enabled && others_percent <= sharing.busy_percent
}

impl Building<'_> {
    /// Opens and closes the provider as the owner's limits say.
    pub(super) fn sharing(&mut self, provider: &Provider) {
        let sharing = self.config.sharing.clone();
        provider.set_open(sharing.enabled);
        if !sharing.enabled {
            return;
        }
        let provider = provider.clone();
        self.tasks.spawn(async move {
            let mut before = Ticks::now();
            let mut look = tokio::time::interval(LOOK_EVERY);
            look.tick().await;
            loop {
                look.tick().await;
                let now = Ticks::now();
                if let (Some(now), Some(before)) = (now, before) {
                    provider.set_open(is_open(&sharing, now.others_percent(before)));
                }
                before = now;
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: &str = "cpu  100 0 50 800 50 0 0 0 7 7\ncpu0 100 0 50 800 50 0 0 0 7 7\n";
    const OWN: &str = "42 (a program) S 1 42 42 0 -1 4194304 100 0 0 0 30 20 0 0 20 0 9 0 1 2 3";

    #[test]
    fn the_counters_are_read_as_the_system_writes_them() {
        let ticks = Ticks::parse(ALL, OWN).unwrap();
        assert_eq!(
            ticks,
            Ticks {
                busy: 150,
                total: 1_000,
                own: 50
            }
        );
        assert_eq!(Ticks::parse("", OWN), None);
        assert_eq!(Ticks::parse(ALL, "42"), None);
        assert_eq!(Ticks::parse("cpu  x", OWN), None);
    }

    #[test]
    fn this_programs_own_work_does_not_close_the_device() {
        let sharing = SharingConfig {
            enabled: true,
            busy_percent: 50,
        };
        let before = Ticks {
            busy: 0,
            total: 0,
            own: 0,
        };
        let after = |busy, own| Ticks {
            busy,
            total: 100,
            own,
        };
        let open = |busy, own| is_open(&sharing, after(busy, own).others_percent(before));
        assert!(open(100, 90), "the work is its own");
        assert!(open(50, 0));
        assert!(!open(51, 0), "the owner needs the device");
        assert!(open(0, 0) && before.others_percent(before) == 0);
        let shut = SharingConfig {
            enabled: false,
            ..sharing.clone()
        };
        assert!(!is_open(&shut, 0));
    }
}
