//! `hearth service`: the node runs whenever its owner's session, or the machine, does.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use hearth_api::household::ServiceFile;
use hearth_node::household::service::{Manager, Service};
use hearth_node::keys::Keystore;

use crate::failure::Failure;
use crate::global::Global;
use crate::screen::{Page, Show, print};

/// What can be done with the service.
#[derive(Debug, Subcommand)]
pub(crate) enum ServiceCommand {
    /// Print the service's file
    Print(ServiceArguments),

    /// Write the service's file to where the system looks for it, and say how it is started
    Install(ServiceArguments),
}

/// Which file.
#[derive(Debug, Args)]
pub(crate) struct ServiceArguments {
    /// For which service manager, instead of this system's
    #[arg(long, value_enum)]
    manager: Option<Kind>,
}

/// A service manager.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Kind {
    /// Linux
    Systemd,
    /// macOS
    Launchd,
}

/// Does what was asked.
pub(crate) fn run(global: &Global, command: ServiceCommand) -> Result<ExitCode, Failure> {
    let (arguments, install) = match command {
        ServiceCommand::Print(arguments) => (arguments, false),
        ServiceCommand::Install(arguments) => (arguments, true),
    };
    let manager = match arguments.manager {
        None => Manager::here(),
        Some(Kind::Systemd) => Manager::Systemd,
        Some(Kind::Launchd) => Manager::Launchd,
    };
    let text = service(global)?.file(manager).map_err(|path| {
        let message = format!("a service cannot name the path {path:?}");
        Failure::new("bad_path", message, "Use paths without control characters")
    })?;
    if !install {
        if global.json {
            let path = String::new();
            let start = String::new();
            print(&ServiceFile { text, path, start }, true)?;
        } else {
            print!("{text}");
        }
        return Ok(ExitCode::SUCCESS);
    }
    let path = place(manager)?;
    write(&path, &text)?;
    let shown = ServiceFile {
        text,
        path: path.display().to_string(),
        start: manager.start().to_owned(),
    };
    print(&shown, global.json)?;
    Ok(ExitCode::SUCCESS)
}

/// What the service runs, checked so that it can come up without anybody being asked.
fn service(global: &Global) -> Result<Service, Failure> {
    let Some(passphrase) = &global.passphrase_file else {
        let message = "nobody is there to type the passphrase when a service starts";
        let next = "Write it into a file that only you can read (chmod 600), and name that with --passphrase-file";
        return Err(Failure::new("no_passphrase", message, next).asked_wrongly());
    };
    let unusable = |path: &Path, error: &std::io::Error| {
        let message = format!("{} cannot be used: {error}", path.display());
        Failure::new("bad_path", message, "Check the path")
    };
    let passphrase_file = passphrase
        .canonicalize()
        .map_err(|error| unusable(passphrase, &error))?;
    let found = std::fs::metadata(&passphrase_file);
    let mode = found
        .map_err(|error| unusable(passphrase, &error))?
        .permissions()
        .mode();
    if mode & 0o077 != 0 {
        let message = format!("others can read {}", passphrase_file.display());
        let next = format!("chmod 600 {}", passphrase_file.display());
        return Err(Failure::new("passphrase_exposed", message, next));
    }
    let home = global.open_home()?;
    // A service has nobody to show a recovery phrase to.
    Keystore::read(&home.keystore_path())?;
    let home = home
        .root()
        .canonicalize()
        .map_err(|error| unusable(home.root(), &error))?;
    let program = std::env::current_exe().map_err(|error| unusable(Path::new("hearth"), &error))?;
    Ok(Service {
        program,
        home,
        passphrase_file,
    })
}

fn place(manager: Manager) -> Result<PathBuf, Failure> {
    let user = std::env::home_dir().ok_or_else(|| {
        let next = "Use `hearth service print`, and put it where it belongs";
        Failure::new("home_unknown", "there is no home directory", next)
    })?;
    let set = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from);
    let config = set.filter(|path| path.is_absolute());
    let config = config.unwrap_or_else(|| user.join(".config"));
    Ok(manager.path(&user, &config))
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    let written = std::fs::create_dir_all(folder).and_then(|()| std::fs::write(path, text));
    written.map_err(|error| {
        let message = format!("{} cannot be written: {error}", path.display());
        let next = "Use `hearth service print`, and put it where it belongs";
        Failure::new("service_io", message, next)
    })
}

impl Show for ServiceFile {
    fn show(&self, page: &mut Page) {
        page.line(&format!("{} is written. Start it with", self.path));
        page.line(&format!("  {}", self.start));
        if self.start.starts_with("systemctl") {
            page.line("`loginctl enable-linger` lets it run while you are not logged in; `journalctl --user -u hearth` shows what it says.");
        }
    }
}
