//! How long the threads of a model wait for each other before they sleep.
//!
//! They meet some thousand times for each token. With the usual setting of GNU's OpenMP they wait for milliseconds with
//! the processor in their hands: as soon as another program of the owner computes, each meeting costs a turn of the
//! scheduler, and a device answers much slower. With none at all they sleep and are woken at every meeting. The
//! library reads the setting before the program's first line, and only from the environment, so the program begins anew
//! with it. (`cargo xtask bench waiting` shows what it does.)

/// Turns of the loop in which a thread waits before it sleeps.
#[cfg(target_os = "linux")]
const SPINS: &str = "1000";

/// What an owner may have set, which is then left alone.
#[cfg(target_os = "linux")]
const SETTINGS: [&str; 2] = ["GOMP_SPINCOUNT", "OMP_WAIT_POLICY"];

/// Begins the program anew with the setting, unless there is one. Comes back where that is not needed or not possible.
#[cfg(target_os = "linux")]
pub(crate) fn settle() {
    use std::os::unix::process::CommandExt;

    if SETTINGS.iter().any(|name| std::env::var_os(name).is_some()) {
        return;
    }
    let mut arguments = std::env::args_os();
    let (Ok(program), Some(name)) = (std::env::current_exe(), arguments.next()) else {
        return;
    };
    // It comes back only if it failed; then models answer slower beside other programs, and as well as ever.
    let _ = std::process::Command::new(program)
        .arg0(name)
        .args(arguments)
        .env(SETTINGS[0], SPINS)
        .exec();
}

/// Elsewhere other libraries wait, which need no setting.
#[cfg(not(target_os = "linux"))]
pub(crate) fn settle() {}
