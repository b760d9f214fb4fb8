//! `hearth service`: files that the service managers themselves can read.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use crate::program::{Home, PASSPHRASE, finish};

fn passphrase_file(home: &Home, mode: u32) -> PathBuf {
    let path = home.path().join("pass phrase");
    std::fs::write(&path, PASSPHRASE).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    path
}

fn file(home: &Home, manager: &str) -> String {
    let passphrase = passphrase_file(home, 0o600);
    let passphrase = passphrase.to_str().unwrap();
    let arguments = ["service", "print", "--manager", manager];
    let more = ["--passphrase-file", passphrase];
    let outcome = home.run(&[&arguments[..], &more[..]].concat());
    assert_eq!(outcome.code, 0, "{outcome:?}");
    outcome.stdout
}

#[test]
fn a_service_needs_what_it_cannot_ask_for() {
    let home = Home::new();
    let refused = home.run(&["service", "print", "--json"]);
    assert_eq!(refused.error_code(2), "no_passphrase");
    home.run(&["doctor", "--json"]);
    let open = passphrase_file(&home, 0o644);
    let named = |path: &PathBuf| {
        let path = path.to_str().unwrap();
        home.run(&["service", "print", "--json", "--passphrase-file", path])
    };
    assert_eq!(named(&open).error_code(1), "passphrase_exposed");
    let private = passphrase_file(&home, 0o600);
    assert_eq!(named(&private).error_code(1), "keystore_missing");
    assert_eq!(
        named(&PathBuf::from("/nonexistent")).error_code(1),
        "bad_path"
    );
}

#[test]
fn what_is_installed_is_what_is_printed() {
    let home = Home::with_wallet();
    let printed = file(&home, "systemd");
    let folder = tempfile::tempdir().unwrap();
    let passphrase = passphrase_file(&home, 0o600);
    let mut command = home.command(&["service", "install", "--manager", "systemd", "--json"]);
    command.arg("--passphrase-file").arg(&passphrase);
    command.env("XDG_CONFIG_HOME", folder.path());
    let installed = finish(command, "").json();
    let path = folder.path().join("systemd/user/hearth.service");
    assert_eq!(installed["path"], path.to_str().unwrap());
    assert!(
        installed["start"]
            .as_str()
            .unwrap()
            .contains("systemctl --user")
    );
    assert_eq!(std::fs::read_to_string(path).unwrap(), printed);
}

#[test]
#[cfg(target_os = "linux")]
#[ignore = "needs outside programs"]
fn systemd_reads_the_unit() {
    let home = Home::with_wallet();
    let folder = tempfile::tempdir().unwrap();
    let unit = folder.path().join("hearth.service");
    std::fs::write(&unit, file(&home, "systemd")).unwrap();
    let verified = Command::new("systemd-analyze")
        .args(["verify", "--user", "--recursive-errors=no"])
        .arg(&unit)
        .env("XDG_RUNTIME_DIR", folder.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&verified.stderr);
    assert!(verified.status.success() && said.is_empty(), "{said}");
}

#[test]
#[ignore = "needs outside programs"]
fn a_parser_of_property_lists_reads_the_agent() {
    let home = Home::with_wallet();
    let folder = tempfile::tempdir().unwrap();
    let agent = folder.path().join("agent.plist");
    std::fs::write(&agent, file(&home, "launchd")).unwrap();
    let python = std::env::var_os("HEARTH_PYTHON").expect("HEARTH_PYTHON names a Python");
    let script = "import plistlib,sys; p=plistlib.load(open(sys.argv[1],'rb')); print(p['ProgramArguments'][1], p['KeepAlive'])";
    let mut command = Command::new(python);
    let read = command.args(["-c", script]).arg(&agent).output().unwrap();
    let said = String::from_utf8_lossy(&read.stdout);
    assert_eq!(said.trim(), "up {'SuccessfulExit': False}", "{read:?}");
}
