//! `hearth wallet passphrase`.

use std::path::PathBuf;

use clap::Args;
use hearth_api::wallet::PassphraseChanged;
use hearth_environment::SystemEnvironment;
use hearth_node::home::Part;
use hearth_node::keys::Keystore;

use crate::failure::Failure;
use crate::global::Global;
use crate::screen::{Page, Show, Style, print};
use crate::{secrets, wait};

/// Where the new passphrase comes from.
#[derive(Debug, Args)]
pub(crate) struct PassphraseArguments {
    /// Read the new passphrase from this file (else it is asked for, twice)
    #[arg(long, value_name = "FILE")]
    new_passphrase_file: Option<PathBuf>,
}

/// Seals the keystore with another passphrase.
pub(crate) fn run(global: &Global, arguments: &PassphraseArguments) -> Result<(), Failure> {
    let home = global.open_home()?;
    // Two that change it at once would each think that its passphrase opens it.
    let _lock = home.lock(Part::Wallet)?;
    let keystore = Keystore::read(&home.keystore_path())?;
    let current = secrets::passphrase(global)?;
    let file = arguments.new_passphrase_file.as_deref();
    if file.is_none() {
        // A person who mistyped the old one need not choose a new one first.
        let _spinner = wait::spinner(global.json, "opening the keystore");
        keystore.unlock(&current)?;
    }
    let new = secrets::replacing_passphrase(file)?;
    let spinner = wait::spinner(global.json, "sealing the keystore");
    let sealed = keystore.reseal(&current, &new, &SystemEnvironment)?;
    drop(spinner);
    let changed = PassphraseChanged {
        household: sealed.household().to_string(),
        keystore: home.keystore_path().display().to_string(),
    };
    print(&changed, global.json)
}

impl Show for PassphraseChanged {
    fn show(&self, page: &mut Page) {
        page.line(&format!("{} has the new passphrase.", self.keystore));
        let note = "If `hearth` runs as a service here, write the new passphrase into its file. Copies of the keystore that \
                    you made before open with the old one.";
        let note = page.styled(Style::Faint, note);
        page.line(&note);
    }
}
