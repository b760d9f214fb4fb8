//! `hearth wallet new` and `recover`.

use hearth_api::wallet::WalletCreated;
use hearth_environment::SystemEnvironment;
use hearth_node::home::Home;
use hearth_node::keys::{Keystore, KeystoreError, RecoveryPhrase, WordCount};

use crate::failure::Failure;
use crate::global::Global;
use crate::screen::{Page, Show, Style, print};
use crate::{secrets, wait};

/// Makes a wallet.
pub(crate) fn new(global: &Global, words: usize) -> Result<(), Failure> {
    let words = WordCount::from_words(words).ok_or_else(|| {
        let message = format!("a new recovery phrase cannot have {words} words");
        Failure::new("bad_words", message, "Say --words 12 or --words 24").asked_wrongly()
    })?;
    let home = global.open_home()?;
    refuse_existing(&home)?;
    let passphrase = secrets::new_passphrase(global)?;
    let phrase = RecoveryPhrase::generate(words, &SystemEnvironment)?;
    let spinner = wait::spinner(global.json, "sealing the keystore");
    let unlocked = Keystore::create(
        &home.keystore_path(),
        phrase,
        &passphrase,
        &SystemEnvironment,
    )?;
    drop(spinner);
    let created = WalletCreated {
        household: unlocked.address().to_string(),
        keystore: home.keystore_path().display().to_string(),
        recovery_phrase: Some(unlocked.phrase().words().to_owned()),
    };
    print(&created, global.json)
}

/// Gets a wallet back.
pub(crate) fn recover(global: &Global) -> Result<(), Failure> {
    let home = global.open_home()?;
    refuse_existing(&home)?;
    let phrase = secrets::recovery_phrase()?;
    let passphrase = secrets::new_passphrase(global)?;
    let spinner = wait::spinner(global.json, "sealing the keystore");
    let unlocked = Keystore::create(
        &home.keystore_path(),
        phrase,
        &passphrase,
        &SystemEnvironment,
    )?;
    drop(spinner);
    let created = WalletCreated {
        household: unlocked.address().to_string(),
        keystore: home.keystore_path().display().to_string(),
        recovery_phrase: None,
    };
    print(&created, global.json)
}

/// Before anybody types a secret for nothing.
fn refuse_existing(home: &Home) -> Result<(), Failure> {
    let path = home.keystore_path();
    if path.exists() {
        return Err(KeystoreError::Exists { path }.into());
    }
    Ok(())
}

impl Show for WalletCreated {
    fn show(&self, page: &mut Page) {
        match &self.recovery_phrase {
            Some(phrase) => {
                let title = page.styled(
                    Style::Strong,
                    "Write these words on paper, in this order. They are shown this once:",
                );
                page.line(&title);
                page.line("");
                for (index, line) in phrase.split(' ').collect::<Vec<_>>().chunks(4).enumerate() {
                    let first = index * 4;
                    let words: Vec<String> = line
                        .iter()
                        .enumerate()
                        .map(|(place, word)| format!("{:>2} {word:<8}", first + place + 1))
                        .collect();
                    page.line(words.join("  ").trim_end());
                }
                page.line("");
                page.line(
                    "Anyone who has them has everything; without them a lost device is a lost wallet.",
                );
            }
            None => page.line("The wallet is back."),
        }
        page.pairs(&[
            ("household", self.household.clone()),
            ("keystore", self.keystore.clone()),
        ]);
    }
}
