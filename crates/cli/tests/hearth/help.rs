//! What a newcomer sees.

use crate::program::Home;

const COMMANDS: &[&[&str]] = &[
    &["chain"],
    &["chain", "run"],
    &["chain", "blocks"],
    &["chain", "block"],
    &["chain", "tx"],
    &["chain", "balances"],
    &["chain", "leave"],
    &["wallet"],
    &["wallet", "new"],
    &["wallet", "recover"],
    &["wallet", "show"],
    &["wallet", "balances"],
    &["wallet", "send"],
    &["wallet", "export"],
    &["wallet", "sessions"],
    &["doctor"],
    &["data"],
    &["data", "import"],
    &["data", "show"],
    &["data", "verify"],
    &["run"],
    &["run", "create"],
    &["run", "join"],
    &["run", "leave"],
    &["run", "list"],
    &["run", "show"],
    &["run", "watch"],
    &["run", "export"],
    &["run", "replay"],
    &["rewards"],
    &["rewards", "show"],
    &["rewards", "claim"],
    &["models", "verify"],
    &["serve-paid"],
    &["watch"],
    &["up"],
    &["invite"],
    &["join"],
    &["devices"],
    &["devices", "remove"],
    &["service"],
    &["service", "print"],
    &["service", "install"],
    &["relay"],
    &["pay"],
    &["channels"],
    &["channels", "list"],
    &["channels", "look"],
    &["channels", "open"],
    &["channels", "refund"],
    &["channels", "close"],
    &["channels", "claim"],
];

#[test]
fn every_command_explains_itself() {
    let home = Home::new();
    for command in COMMANDS {
        let outcome = home.run(&[command, &["--help"][..]].concat());
        assert_eq!(outcome.code, 0, "{outcome:?}");
        assert!(outcome.stdout.contains("Usage: hearth"), "{outcome:?}");
        assert!(outcome.stdout.contains("--json"), "{outcome:?}");
        assert!(
            !outcome.stdout.contains('\x1b'),
            "no colours where no terminal is"
        );
    }
    assert!(!home.path().exists(), "asking for help makes nothing");
}

#[test]
fn what_is_not_understood_ends_with_2_and_says_how_to_ask() {
    let home = Home::new();
    for wrong in [
        &[][..],
        &["walet"],
        &["wallet"],
        &["wallet", "new", "--wrods", "12"],
        &["chain", "run", "--port", "99999"],
        &["chain", "blocks", "--count", "0"],
        &["wallet", "sessions", "--devices", "0"],
    ] {
        let outcome = home.run(wrong);
        assert_eq!(outcome.code, 2, "{outcome:?}");
        assert!(outcome.stderr.contains("--help"), "{outcome:?}");
        if !wrong.is_empty() {
            let json = home.run(&[wrong, &["--json"][..]].concat());
            assert_eq!(json.error_code(2), "usage", "{json:?}");
        }
    }
}

#[test]
fn the_version_is_told() {
    let outcome = Home::new().run(&["--version"]);
    assert_eq!(outcome.code, 0);
    assert!(outcome.stdout.starts_with("hearth "), "{outcome:?}");
}
