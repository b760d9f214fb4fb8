//! `hearth wallet`, without a chain.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;

use crate::program::{Home, PASSPHRASE, finish};

fn mode(path: &std::path::Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_new_wallet_can_be_recovered_from_what_was_shown_once() {
    let home = Home::new();
    let made = home.run(&["wallet", "new", "--json"]).json();
    let phrase = made["recovery_phrase"].as_str().unwrap();
    assert_eq!(phrase.split(' ').count(), 12);
    assert_eq!(mode(&home.path()), 0o700);
    assert_eq!(mode(&home.keystore()), 0o600);
    let sealed = std::fs::read_to_string(home.keystore()).unwrap();
    // One short word can be among the digits of a cipher text, or the name of a field.
    let words: Vec<&str> = phrase.split(' ').collect();
    for pair in words.windows(2) {
        assert!(!sealed.contains(&pair.join(" ")), "{pair:?}");
    }
    let found = words.iter().filter(|word| sealed.contains(**word)).count();
    assert!(found < words.len() / 2, "{found} words are in the file");

    let shown = home.run(&["wallet", "show", "--json"]).json();
    assert_eq!(shown["household"], made["household"]);
    assert!(shown.get("recovery_phrase").is_none());

    let other = Home::new();
    let recovered = other
        .run_with_input(&["wallet", "recover", "--json"], &format!("  {phrase}\n"))
        .json();
    assert_eq!(recovered["household"], made["household"]);
    assert!(
        recovered.get("recovery_phrase").is_none(),
        "who types it knows it"
    );
    let sessions = |home: &Home| {
        home.run(&["wallet", "sessions", "--devices", "3", "--json"])
            .json()
    };
    assert_eq!(
        sessions(&home),
        sessions(&other),
        "session keys come back too"
    );
    let exported = other
        .run(&["wallet", "export", "phrase", "--yes", "--json"])
        .json();
    assert_eq!(exported["recovery_phrase"], phrase);
}

#[test]
fn a_person_gets_numbered_words() {
    let home = Home::new();
    let made = home.run(&["wallet", "new", "--words", "24"]);
    assert_eq!(made.code, 0, "{made:?}");
    for expected in [" 1 ", "24 ", "paper", "household", "0x"] {
        assert!(made.stdout.contains(expected), "{expected}: {made:?}");
    }
    assert!(made.stderr.is_empty(), "{made:?}");
}

#[test]
fn a_wallet_is_never_overwritten() {
    let home = Home::with_wallet();
    let before = std::fs::read(home.keystore()).unwrap();
    for command in ["new", "recover"] {
        let outcome = home.run_with_input(&["wallet", command, "--json"], "test");
        assert_eq!(outcome.error_code(1), "keystore_exists");
    }
    assert_eq!(std::fs::read(home.keystore()).unwrap(), before);
}

#[test]
fn wrong_words_are_refused_without_repeating_them() {
    let home = Home::new();
    let junk = format!("{}junk", "test ".repeat(11));
    let cases = [
        ("", "not 0"),
        ("test test", "not 2"),
        (&junk.replace("junk", "jumk"), "word 12"),
        (&junk.replace("junk", "test"), "checksum"),
    ];
    for (words, reason) in cases {
        let outcome = home.run_with_input(&["wallet", "recover", "--json"], words);
        let error = outcome.error(1);
        assert_eq!(error["code"], "bad_phrase");
        assert!(
            error["message"].as_str().unwrap().contains(reason),
            "{error}"
        );
        assert!(!outcome.stderr.contains("jumk") && !outcome.stderr.contains("test test"));
    }
    assert!(!home.keystore().exists());
    assert_eq!(
        home.run(&["wallet", "new", "--words", "13", "--json"])
            .error_code(2),
        "bad_words"
    );
}

#[test]
fn a_passphrase_comes_from_the_file_then_the_environment_and_must_not_be_short() {
    let home = Home::new();
    let file = home.path().with_file_name("passphrase");
    std::fs::write(&file, "from the file!\r\n").unwrap();
    let file = file.to_str().unwrap();
    home.run(&["wallet", "new", "--json", "--passphrase-file", file])
        .json();
    let export = ["wallet", "export", "private-key", "--yes", "--json"];
    assert_eq!(home.run(&export).error_code(1), "wrong_passphrase");
    let with_file = [&export[..], &["--passphrase-file", file]].concat();
    let key = home.run(&with_file).json()["private_key"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(key.starts_with("0x") && key.len() == 66);
    let missing = [&export[..], &["--passphrase-file", "/nonexistent/file"]].concat();
    assert_eq!(home.run(&missing).error_code(1), "passphrase_file");

    for (passphrase, code) in [("short", "bad_passphrase"), ("", "bad_passphrase")] {
        let home = Home::new();
        let mut command = home.command(&["wallet", "new", "--json"]);
        command.env("HEARTH_PASSPHRASE", passphrase);
        assert_eq!(finish(command, "").error_code(1), code);
        assert!(!home.keystore().exists());
    }
    let home = Home::new();
    let mut command = home.command(&["wallet", "new", "--json"]);
    command.env_remove("HEARTH_PASSPHRASE");
    assert_eq!(finish(command, PASSPHRASE).error_code(1), "no_passphrase");
}

#[test]
fn each_fault_of_the_keystore_has_its_own_step() {
    let home = Home::new();
    assert_eq!(
        home.run(&["wallet", "show", "--json"]).error_code(1),
        "keystore_missing"
    );
    home.run(&["wallet", "new", "--json"]).json();
    let whole = std::fs::read_to_string(home.keystore()).unwrap();
    let cases = [
        (whole[..whole.len() / 2].to_owned(), "keystore_truncated"),
        (
            whole.replace("\"passes\": 3", "\"passes\": 4"),
            "keystore_damaged",
        ),
        (
            whole.replace("\"version\": 1", "\"version\": 9"),
            "keystore_version",
        ),
        ("hello".to_owned(), "keystore_damaged"),
    ];
    for (text, code) in cases {
        assert_ne!(text, whole);
        std::fs::write(home.keystore(), text).unwrap();
        assert_eq!(home.run(&["wallet", "show", "--json"]).error_code(1), code);
    }
    std::fs::write(home.keystore(), &whole).unwrap();
    std::fs::set_permissions(home.keystore(), Permissions::from_mode(0o644)).unwrap();
    let error = home.run(&["wallet", "show", "--json"]).error(1);
    assert_eq!(error["code"], "keystore_exposed");
    assert!(error["next"].as_str().unwrap().contains("chmod 600"));
}

#[test]
fn a_secret_is_shown_only_to_who_confirms() {
    let home = Home::with_wallet();
    let outcome = home.run(&["wallet", "export", "phrase", "--json"]);
    assert_eq!(outcome.error_code(2), "not_confirmed");
    let outcome = home.run(&["wallet", "export", "everything", "--yes", "--json"]);
    assert_eq!(outcome.error_code(2), "usage");
}

#[test]
fn statements_for_session_keys_name_device_and_chain() {
    let home = Home::with_wallet();
    let arguments = [
        "wallet",
        "sessions",
        "--authorize",
        "--days",
        "30",
        "--json",
    ];
    let shown = home.run(&arguments).json();
    let session = &shown["sessions"][0];
    let statement = &session["authorizations"][0];
    assert_eq!(statement["household"], shown["household"]);
    let wallet = home.run(&["wallet", "show", "--json"]).json();
    assert_eq!(statement["chain"], wallet["chains"][0]);
    assert_eq!(statement["device"], "this device");
    assert_eq!(statement["signature"].as_str().unwrap().len(), 132);
    let period = statement["valid_before_s"].as_u64().unwrap()
        - statement["valid_after_s"].as_u64().unwrap();
    assert!((30 * 86_400..31 * 86_400).contains(&period));
    assert!(session["this_device"].as_bool().unwrap());
}

#[test]
fn a_wrong_configuration_is_named_by_line() {
    let home = Home::with_wallet();
    home.edit_config("per_day = \"20\"", "per_dai = \"20\"");
    let error = home.run(&["wallet", "show", "--json"]).error(1);
    assert_eq!(error["code"], "bad_config");
    let message = error["message"].as_str().unwrap();
    let text = std::fs::read_to_string(home.path().join("config.toml")).unwrap();
    let wrong = text.lines().position(|line| line.contains("per_dai"));
    let line = format!("line {}", wrong.unwrap() + 1);
    assert!(
        message.contains(&line) && message.contains("per_dai"),
        "{message}"
    );
}

/// A home whose passphrase is changed from file to file.
struct Changing {
    home: Home,
    old: String,
    new: String,
    short: String,
}

impl Changing {
    fn open() -> Self {
        let home = Home::with_wallet();
        let folder = home.path().with_file_name("passphrases");
        std::fs::create_dir(&folder).unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.join(name);
            std::fs::write(&path, text).unwrap();
            path.to_str().unwrap().to_owned()
        };
        Self {
            old: file("old", PASSPHRASE),
            new: file("new", "another passphrase 1\n"),
            short: file("short", "short"),
            home,
        }
    }

    fn change(&self, from: &str, to: &str) -> std::process::Command {
        let change = ["wallet", "passphrase", "--json", "--passphrase-file", from];
        let to = ["--new-passphrase-file", to];
        self.home.command(&[&change[..], &to].concat())
    }

    /// The recovery phrase, if this passphrase opens the wallet.
    fn opened(&self, with: &str) -> Option<String> {
        let export = ["wallet", "export", "phrase", "--yes", "--json"];
        let export = [&export[..], &["--passphrase-file", with]].concat();
        let outcome = self.home.run(&export);
        let phrase = || {
            outcome.json()["recovery_phrase"]
                .as_str()
                .unwrap()
                .to_owned()
        };
        (outcome.code == 0).then(phrase)
    }

    /// Files that were written to take the keystore's place.
    fn fresh(&self) -> usize {
        let entries = std::fs::read_dir(self.home.path()).unwrap().flatten();
        let is_fresh = |entry: &std::fs::DirEntry| {
            entry
                .file_name()
                .to_string_lossy()
                .starts_with(".keystore-")
        };
        entries.filter(is_fresh).count()
    }
}

#[test]
fn a_passphrase_is_changed_by_who_knows_the_old_one() {
    let it = Changing::open();
    let (old, new) = (&it.old, &it.new);
    let phrase = it.opened(old).unwrap();
    let refused = finish(it.change(new, new), "");
    assert_eq!(refused.error_code(1), "wrong_passphrase");
    let short = finish(it.change(old, &it.short), "");
    assert_eq!(short.error_code(1), "bad_passphrase");
    let unasked = it.home.run(&["wallet", "passphrase", "--json"]);
    assert_eq!(unasked.error_code(1), "no_passphrase");
    assert_eq!(it.opened(old).as_ref(), Some(&phrase), "nothing changed");

    let changed = finish(it.change(old, new), "").json();
    assert_eq!(changed["household"], it.home.household());
    assert_eq!((it.opened(old), it.opened(new)), (None, Some(phrase)));
    assert_eq!(mode(&it.home.keystore()), 0o600);
}

#[test]
fn a_kill_while_a_passphrase_is_changed_leaves_one_that_opens() {
    let it = Changing::open();
    let phrase = it.opened(&it.old).unwrap();
    let (mut from, mut to) = (&it.old, &it.new);
    for _ in 0..3 {
        // Killed as soon as the file beside the keystore is seen, or as it takes its place.
        let before = it.fresh();
        let mut child = it.change(from, to).spawn().unwrap();
        while it.fresh() == before && child.try_wait().unwrap().is_none() {
            std::thread::yield_now();
        }
        drop(child.kill());
        child.wait().unwrap();
        let opened = [it.opened(from), it.opened(to)];
        let found: Vec<_> = opened.iter().flatten().collect();
        assert_eq!(found, [&phrase], "exactly one passphrase opens it");
        if opened[1].is_some() {
            std::mem::swap(&mut from, &mut to);
        }
    }
}
