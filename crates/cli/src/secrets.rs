//! Where secrets come from: never from an argument, which every process on the machine can read.

use std::ffi::OsStr;
use std::io::{IsTerminal, Read, Write};
use std::path::Path;

use hearth_node::keys::{
    Keystore, PASSPHRASE_BYTES_MAX, PHRASE_BYTES_MAX, Passphrase, RecoveryPhrase, Unlocked,
};
use zeroize::Zeroizing;

use crate::failure::Failure;
use crate::global::Global;
use crate::wait;

/// The variable that holds the passphrase where no file is named.
pub(crate) const PASSPHRASE_VARIABLE: &str = "HEARTH_PASSPHRASE";
/// The variable that holds the number of the pipe in which a node finds the passphrase (`anew`).
pub(crate) const PASSPHRASE_PIPE_VARIABLE: &str = "HEARTH_PASSPHRASE_PIPE";

/// The passphrase of an existing keystore.
pub(crate) fn passphrase(global: &Global) -> Result<Passphrase, Failure> {
    let text = match prepared(global)? {
        Some(text) => text,
        None => ask("Passphrase: ")?,
    };
    Ok(Passphrase::entered(text)?)
}

/// The passphrase for a new keystore: asked for twice, since a typing error would lock it for ever.
pub(crate) fn new_passphrase(global: &Global) -> Result<Passphrase, Failure> {
    if let Some(text) = prepared(global)? {
        return Ok(Passphrase::chosen(text)?);
    }
    chosen()
}

/// The passphrase that takes the place of another: from a file, or asked for twice.
pub(crate) fn replacing_passphrase(file: Option<&Path>) -> Result<Passphrase, Failure> {
    match file {
        Some(path) => Ok(Passphrase::chosen(from_file(path)?)?),
        None if std::io::stdin().is_terminal() => chosen(),
        None => Err(Failure::new(
            "no_passphrase",
            "the new passphrase cannot be asked for without a terminal",
            "Name a file with --new-passphrase-file",
        )),
    }
}

fn chosen() -> Result<Passphrase, Failure> {
    let first = ask("Choose a passphrase (it seals the wallet on this device): ")?;
    let chosen = Passphrase::chosen(Zeroizing::new(first.to_string()))?;
    let second = ask("The same again: ")?;
    if *first != *second {
        return Err(Failure::new(
            "bad_passphrase",
            "the two passphrases differ",
            "Run the command again",
        ));
    }
    Ok(chosen)
}

/// Opens the keystore of the data folder.
pub(crate) fn unlock(global: &Global, keystore: &Keystore) -> Result<Unlocked, Failure> {
    let passphrase = passphrase(global)?;
    let _spinner = wait::spinner(global.json, "opening the keystore");
    Ok(keystore.unlock(&passphrase)?)
}

/// A recovery phrase from the terminal, or from the standard input.
pub(crate) fn recovery_phrase() -> Result<RecoveryPhrase, Failure> {
    let text = if std::io::stdin().is_terminal() {
        ask("Recovery phrase (not shown while you type): ")?
    } else {
        read_bounded(
            std::io::stdin().lock(),
            PHRASE_BYTES_MAX,
            "the standard input",
        )?
    };
    Ok(RecoveryPhrase::parse(&text)?)
}

/// The passphrase from a file, from the pipe of a node that began anew, or from the environment.
fn prepared(global: &Global) -> Result<Option<Zeroizing<String>>, Failure> {
    if let Some(path) = &global.passphrase_file {
        return from_file(path).map(Some);
    }
    if let Some(pipe) = std::env::var_os(PASSPHRASE_PIPE_VARIABLE) {
        return from_pipe(&pipe).map(Some);
    }
    match std::env::var(PASSPHRASE_VARIABLE) {
        Ok(text) => Ok(Some(Zeroizing::new(text))),
        Err(std::env::VarError::NotPresent) => Ok(None),
        Err(std::env::VarError::NotUnicode(_)) => Err(Failure::new(
            "bad_passphrase",
            format!("{PASSPHRASE_VARIABLE} is not UTF-8"),
            "Set it again, or name a file with --passphrase-file",
        )),
    }
}

fn from_pipe(number: &OsStr) -> Result<Zeroizing<String>, Failure> {
    let place = Path::new("/dev/fd").join(number);
    let pipe = std::fs::File::open(place).map_err(|error| {
        Failure::new(
            "bad_passphrase",
            format!("the passphrase cannot be taken over: {error}"),
            "Name a file with --passphrase-file",
        )
    })?;
    read_bounded(pipe, PASSPHRASE_BYTES_MAX, PASSPHRASE_VARIABLE)
}

fn from_file(path: &Path) -> Result<Zeroizing<String>, Failure> {
    let place = path.display().to_string();
    let file = std::fs::File::open(path).map_err(|error| {
        Failure::new(
            "passphrase_file",
            format!("the passphrase file {place} cannot be read: {error}"),
            "Check the path after --passphrase-file",
        )
    })?;
    let mut text = read_bounded(file, PASSPHRASE_BYTES_MAX, &place)?;
    // An editor ends the last line; that is not part of the passphrase.
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    Ok(text)
}

fn read_bounded(
    source: impl Read,
    bytes_max: usize,
    place: &str,
) -> Result<Zeroizing<String>, Failure> {
    // Reserved at once, so that growing leaves no copy behind that is not wiped.
    let capacity = bytes_max.saturating_add(2);
    let mut text = Zeroizing::new(String::with_capacity(capacity));
    let limit = u64::try_from(capacity).unwrap_or(u64::MAX);
    source
        .take(limit)
        .read_to_string(&mut text)
        .map_err(|error| {
            Failure::new(
                "secret_input",
                format!("{place} cannot be read: {error}"),
                "Give UTF-8 text",
            )
        })?;
    Ok(text)
}

fn ask(question: &str) -> Result<Zeroizing<String>, Failure> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::new(
            "no_passphrase",
            "there is no terminal to ask for the passphrase",
            format!("Name a file with --passphrase-file, or set {PASSPHRASE_VARIABLE}"),
        ));
    }
    let mut stderr = std::io::stderr();
    drop(write!(stderr, "{question}").and_then(|()| stderr.flush()));
    let text = rpassword::read_password().map_err(|error| {
        Failure::new(
            "secret_input",
            format!("the terminal cannot be read: {error}"),
            "Try again",
        )
    })?;
    Ok(Zeroizing::new(text))
}
