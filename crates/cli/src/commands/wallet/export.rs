//! `hearth wallet export`.

use clap::{Args, ValueEnum};
use hearth_api::wallet::Exported;
use hearth_node::keys::Keystore;

use crate::confirm::confirm;
use crate::failure::Failure;
use crate::global::Global;
use crate::screen::{Page, Show, print};
use crate::secrets;

/// Which secret to show.
#[derive(Debug, Args)]
pub(crate) struct ExportArguments {
    /// What to show
    #[arg(value_enum)]
    what: Secret,

    /// Do not ask whether anybody is looking
    #[arg(long)]
    yes: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Secret {
    /// The recovery phrase: everything
    Phrase,
    /// The private key of the household's account: its tokens, without the session keys
    PrivateKey,
}

/// Shows a secret to who has the passphrase.
pub(crate) fn run(global: &Global, arguments: &ExportArguments) -> Result<(), Failure> {
    let home = global.open_home()?;
    let keystore = Keystore::read(&home.keystore_path())?;
    let question = "Who sees this has the household's money. Show it now?";
    confirm(arguments.yes, question)?;
    let unlocked = secrets::unlock(global, &keystore)?;
    let (recovery_phrase, private_key) = match arguments.what {
        Secret::Phrase => (Some(unlocked.phrase().words().to_owned()), None),
        Secret::PrivateKey => (None, Some(unlocked.private_key_hex().to_string())),
    };
    let exported = Exported {
        household: unlocked.address().to_string(),
        recovery_phrase,
        private_key,
    };
    print(&exported, global.json)
}

impl Show for Exported {
    fn show(&self, page: &mut Page) {
        let secret = self.recovery_phrase.as_ref().or(self.private_key.as_ref());
        page.line(secret.map_or("", |secret| secret));
    }
}
