//! Whether this machine can make network namespaces, in which nodes are tested over bad lines.
//!
//! It is tried, not guessed: containers often have root without the right to do this. What was made is
//! removed at once.

use std::path::Path;
use std::process::Command;

/// The tests that need them, as a module of the tests of `hearth-cli`.
pub(crate) const TESTS: &str = "namespaces::";

/// Where Linux makes Ethernet devices for programs.
const TUN: &str = "/dev/net/tun";

/// Why there can be none; nothing if there can.
pub(crate) fn missing() -> Option<String> {
    if !cfg!(target_os = "linux") {
        return Some("only Linux has them".to_owned());
    }
    if !Path::new(TUN).exists() {
        return Some(format!("this system has no {TUN}"));
    }
    let name = format!("hearth-probe-{}", std::process::id());
    let ip = |words: &[&str]| Command::new("ip").args(words).output();
    let made = match ip(&["netns", "add", &name]) {
        Err(_) => return Some("ip of iproute2 is not installed".to_owned()),
        Ok(made) => made,
    };
    if !made.status.success() {
        let said = String::from_utf8_lossy(&made.stderr);
        let reason = said.lines().next().unwrap_or("it is not allowed");
        return Some(format!("this user may not make them: {reason}"));
    }
    // A device can be made in it only where the kernel lets this user.
    let tap = ["-n", &name, "tuntap", "add", "dev", "probe", "mode", "tap"];
    let can = ip(&tap).is_ok_and(|output| output.status.success());
    // What stays behind if this fails is an empty namespace, which harms nobody.
    drop(ip(&["netns", "delete", &name]));
    (!can).then(|| "this user may not make Ethernet devices in them".to_owned())
}
