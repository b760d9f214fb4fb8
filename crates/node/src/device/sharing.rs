//! When others may use this device: within its hours, below its watts, and while its owner's other
//! programs leave it alone. The household's own devices are no others: like the programs that ask
//! this device itself they are answered at any hour, unless the owner shares it with nobody.
//!
//! The rule is a pure function of readings. What cannot be read keeps nobody waiting, except power:
//! a limit in watts that cannot be measured is refused when the device comes up ([`super::power`]).

use std::time::Duration;

use chrono::Timelike;
use hearth_protocol::audience::Openness;
use tracing::info;

use super::power::Meter;
use super::{Building, UpError};
use crate::home::SharingConfig;
use crate::roles::provider::Provider;

/// How often the device is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How long others are sent elsewhere after the device drew too much, in milliseconds: what the
/// answers to others draw would else open and close it in turn.
const WATTS_REST_MS: u64 = 60_000;

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

/// What was read.
#[derive(Debug, Clone, Copy, Default)]
struct Reading {
    /// When, in milliseconds.
    now_ms: u64,
    /// The time of day where the device is, in minutes since midnight.
    minute_of_day: u16,
    /// What other programs use of the processor, in percent.
    others_percent: Option<u8>,
    /// What the device draws.
    watts: Option<u32>,
}

/// Why others may not use the device now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Closed {
    /// Its owner shares nothing.
    Never,
    /// It is not the time.
    Hours,
    /// It draws too much, or did a moment ago.
    Watts,
    /// Its owner uses it.
    Busy,
}

/// Who may use the device: its household does what its owner does.
fn openness(closed: Option<Closed>) -> Openness {
    match closed {
        None => Openness::Everyone,
        Some(Closed::Hours | Closed::Watts | Closed::Busy) => Openness::Household,
        Some(Closed::Never) => Openness::Nobody,
    }
}

/// The owner's rule, and what has to be remembered for it.
#[derive(Debug)]
struct Rule {
    sharing: SharingConfig,
    resting_until_ms: u64,
}

impl Rule {
    fn new(sharing: SharingConfig) -> Self {
        Self {
            sharing,
            resting_until_ms: 0,
        }
    }

    /// Why others may not use the device; nothing where they may.
    fn look(&mut self, reading: Reading) -> Option<Closed> {
        let sharing = &self.sharing;
        if let (Some(limit), Some(watts)) = (sharing.watts, reading.watts)
            && watts > limit
        {
            self.resting_until_ms = reading.now_ms.saturating_add(WATTS_REST_MS);
        }
        let hours = &sharing.hours;
        let in_hours =
            hours.is_empty() || hours.iter().any(|one| one.covers(reading.minute_of_day));
        let busy = |percent: u8| percent > sharing.busy_percent;
        if !sharing.enabled {
            Some(Closed::Never)
        } else if !in_hours {
            Some(Closed::Hours)
        } else if reading.now_ms < self.resting_until_ms {
            Some(Closed::Watts)
        } else if reading.others_percent.is_some_and(busy) {
            Some(Closed::Busy)
        } else {
            None
        }
    }
}

/// The time of day where the device is, in minutes since midnight.
fn minute_of_day(now_ms: u64) -> u16 {
    let now = i64::try_from(now_ms).ok();
    let now = now.and_then(chrono::DateTime::from_timestamp_millis);
    let now = now.unwrap_or_default().with_timezone(&chrono::Local);
    u16::try_from(now.hour() * 60 + now.minute()).unwrap_or(0)
}

impl Building<'_> {
    /// Opens and closes the provider as the owner's limits say.
    ///
    /// # Errors
    /// When there is a limit in watts, and nothing here says what the device draws.
    pub(super) async fn sharing(&mut self, provider: &Provider) -> Result<(), UpError> {
        let sharing = self.config.sharing.clone();
        let mut meter = match sharing.watts {
            Some(_) if sharing.enabled => Some(Meter::find().await?),
            _ => None,
        };
        let environment = std::sync::Arc::clone(&self.environment);
        let mut rule = Rule::new(sharing);
        let first = Reading {
            now_ms: environment.now_ms(),
            minute_of_day: minute_of_day(environment.now_ms()),
            ..Reading::default()
        };
        let mut was = rule.look(first);
        provider.set_open(openness(was));
        if was == Some(Closed::Never) {
            return Ok(());
        }
        let provider = provider.clone();
        self.tasks.spawn(async move {
            let mut before = Ticks::now();
            let mut look = tokio::time::interval(LOOK_EVERY);
            look.tick().await;
            loop {
                look.tick().await;
                let ticks = Ticks::now();
                let others_percent = ticks
                    .zip(before)
                    .map(|(now, before)| now.others_percent(before));
                let reading = Reading {
                    now_ms: environment.now_ms(),
                    minute_of_day: minute_of_day(environment.now_ms()),
                    others_percent,
                    watts: match &mut meter {
                        Some(meter) => meter.watts().await,
                        None => None,
                    },
                };
                let is = rule.look(reading);
                if is != was {
                    info!(closed = ?is, "whether others may use this device has changed");
                    provider.set_open(openness(is));
                }
                (was, before) = (is, ticks);
            }
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::home::HoursWindow;

    const ALL: &str = "cpu  100 0 50 800 50 0 0 0 7 7\ncpu0 100 0 50 800 50 0 0 0 7 7\n";
    const OWN: &str = "42 (a program) S 1 42 42 0 -1 4194304 100 0 0 0 30 20 0 0 20 0 9 0 1 2 3";

    fn sharing() -> SharingConfig {
        SharingConfig {
            enabled: true,
            busy_percent: 50,
            hours: Vec::new(),
            watts: None,
        }
    }

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
        let before = Ticks {
            busy: 0,
            total: 0,
            own: 0,
        };
        let closed = |busy, own| {
            let after = Ticks {
                busy,
                total: 100,
                own,
            };
            Rule::new(sharing()).look(Reading {
                others_percent: Some(after.others_percent(before)),
                ..Reading::default()
            })
        };
        assert_eq!(closed(100, 90), None, "the work is its own");
        assert_eq!(closed(50, 0), None);
        assert_eq!(closed(51, 0), Some(Closed::Busy));
        assert_eq!(before.others_percent(before), 0);
        let shut = SharingConfig {
            enabled: false,
            ..sharing()
        };
        let shut = Rule::new(shut).look(Reading::default());
        assert_eq!(shut, Some(Closed::Never));
    }

    #[test]
    fn what_keeps_others_away_lets_the_household_in_unless_nothing_is_shared() {
        for closed in [Closed::Hours, Closed::Watts, Closed::Busy] {
            let open = openness(Some(closed));
            assert!(open.admits(true) && !open.admits(false), "{closed:?}");
        }
        let never = openness(Some(Closed::Never));
        assert!(!never.admits(true) && !never.admits(false));
        let always = openness(None);
        assert!(always.admits(true) && always.admits(false));
    }

    #[test]
    fn hours_may_pass_midnight_and_there_may_be_several() {
        let hours = ["22:00-07:00", "12:30-13:00"];
        let hours = hours.map(|text| text.parse::<HoursWindow>().unwrap());
        let mut rule = Rule::new(SharingConfig {
            hours: hours.to_vec(),
            ..sharing()
        });
        let mut closed = |hour: u16, minute: u16| {
            rule.look(Reading {
                minute_of_day: hour * 60 + minute,
                ..Reading::default()
            })
        };
        for (hour, minute) in [(22, 0), (0, 0), (6, 59), (12, 30), (12, 59)] {
            assert_eq!(closed(hour, minute), None, "{hour}:{minute}");
        }
        for (hour, minute) in [(7, 0), (12, 29), (13, 0), (21, 59)] {
            assert_eq!(closed(hour, minute), Some(Closed::Hours), "{hour}:{minute}");
        }
    }

    #[test]
    fn a_device_that_drew_too_much_rests_before_it_opens_again() {
        let mut rule = Rule::new(SharingConfig {
            watts: Some(60),
            ..sharing()
        });
        let mut closed = |now_ms, watts| {
            rule.look(Reading {
                now_ms,
                watts,
                ..Reading::default()
            })
        };
        assert_eq!(closed(0, None), None);
        assert_eq!(closed(5_000, Some(60)), None);
        assert_eq!(closed(10_000, Some(61)), Some(Closed::Watts));
        assert_eq!(closed(15_000, Some(5)), Some(Closed::Watts), "it rests");
        assert_eq!(closed(10_000 + WATTS_REST_MS, Some(5)), None);
    }
}
