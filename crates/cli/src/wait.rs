//! Progress of what takes long, on a terminal only.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::ProgressBar;

/// How often the sign of life moves, in milliseconds.
const TICK_MS: u64 = 100;

/// A sign of life that disappears when it is dropped.
pub(crate) struct Spinner(ProgressBar);

/// Shows that `what` is going on, if a person is looking.
pub(crate) fn spinner(json: bool, what: &str) -> Spinner {
    if json || !std::io::stderr().is_terminal() {
        return Spinner(ProgressBar::hidden());
    }
    let bar = ProgressBar::new_spinner();
    bar.set_message(what.to_owned());
    bar.enable_steady_tick(Duration::from_millis(TICK_MS));
    Spinner(bar)
}

/// A bar that fills while `count` steps are made, if a person is looking.
pub(crate) fn bar(json: bool, count: u64, what: &str) -> ProgressBar {
    if json || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = indicatif::ProgressStyle::with_template("{bar:30} {pos}/{len} {msg} {elapsed}");
    let bar = ProgressBar::new(count).with_message(what.to_owned());
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// A bar that fills with bytes, if a person is looking.
pub(crate) fn bytes(json: bool) -> ProgressBar {
    if json || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let template = "{bar:30} {bytes}/{total_bytes} {msg} {elapsed}";
    let bar = ProgressBar::new(0);
    match indicatif::ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
