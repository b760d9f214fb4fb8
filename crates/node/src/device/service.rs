//! The node as a service of its owner's session: a unit for systemd, an agent for launchd.
//!
//! Both are text made from a few paths; nothing is started here. Of systemd's hardening only what a
//! user's own manager can do without privileges is used: it needs no namespaces.

use std::path::{Path, PathBuf};

/// What runs services on a system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manager {
    /// Linux.
    Systemd,
    /// macOS.
    Launchd,
}

/// What a service is made of. Every path is absolute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// The program.
    pub program: PathBuf,
    /// The data folder.
    pub home: PathBuf,
    /// The file that holds the passphrase.
    pub passphrase_file: PathBuf,
}

impl Manager {
    /// The one of this system.
    pub const fn here() -> Self {
        if cfg!(target_os = "macos") {
            Self::Launchd
        } else {
            Self::Systemd
        }
    }

    /// Where the file belongs, below the user's home and the folder for configuration.
    pub fn path(self, user: &Path, config: &Path) -> PathBuf {
        match self {
            Self::Systemd => config.join("systemd/user/hearth.service"),
            Self::Launchd => user.join("Library/LaunchAgents/org.hearth.node.plist"),
        }
    }

    /// The commands that start what was installed, and keep it.
    pub const fn start(self) -> &'static str {
        match self {
            Self::Systemd => {
                "systemctl --user daemon-reload && systemctl --user enable --now hearth"
            }
            Self::Launchd => {
                "launchctl bootstrap gui/$(id -u) ~/Library/LaunchAgents/org.hearth.node.plist"
            }
        }
    }
}

impl Service {
    /// The file of a manager.
    ///
    /// # Errors
    /// With the path that no such file can name: one with control characters, or not in UTF-8.
    pub fn file(&self, manager: Manager) -> Result<String, PathBuf> {
        let paths = [&self.program, &self.home, &self.passphrase_file];
        let [program, home, passphrase] = paths.map(|path| plain(path));
        let (program, home, passphrase) = (program?, home?, passphrase?);
        let arguments = [
            program,
            "up",
            "--no-model",
            "--home",
            home,
            "--passphrase-file",
            passphrase,
        ];
        Ok(match manager {
            Manager::Systemd => systemd(&arguments),
            Manager::Launchd => launchd(&arguments, home),
        })
    }
}

fn plain(path: &Path) -> Result<&str, PathBuf> {
    let text = path
        .to_str()
        .filter(|text| !text.chars().any(char::is_control));
    text.filter(|_| path.is_absolute())
        .ok_or_else(|| path.to_owned())
}

/// A word of a command as systemd reads it (systemd.service(5), "Command lines").
fn quoted(word: &str) -> String {
    let mut quoted = String::from("\"");
    for char in word.chars() {
        match char {
            '"' | '\\' => quoted.extend(['\\', char]),
            '%' | '$' => quoted.extend([char, char]),
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}

fn systemd(arguments: &[&str]) -> String {
    let command: Vec<_> = arguments.iter().map(|word| quoted(word)).collect();
    format!(
        "# Written by `hearth service`. Changes of your own belong into hearth.service.d/*.conf beside it.
[Unit]
Description=Hearth, this device's node
StartLimitIntervalSec=300
StartLimitBurst=5

[Service]
Type=exec
ExecStart={}
Restart=on-failure
RestartSec=5
# It takes its offer back and closes its books when it is asked to stop.
KillSignal=SIGTERM
TimeoutStopSec=30
# Whoever sits at the device comes first.
Nice=10
UMask=0077
LimitCORE=0
# What a user's own systemd can enforce without privileges.
NoNewPrivileges=yes
LockPersonality=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RestrictNamespaces=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK
SystemCallArchitectures=native
# With what its readers of strangers' files give up more by.
SystemCallFilter=@system-service seccomp landlock_create_ruleset landlock_add_rule landlock_restrict_self
SystemCallErrorNumber=EPERM

[Install]
WantedBy=default.target
",
        command.join(" ")
    )
}

/// Text as XML holds it.
fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for char in text.chars() {
        match char {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            other => escaped.push(other),
        }
    }
    escaped
}

fn launchd(arguments: &[&str], home: &str) -> String {
    let word = |word: &&str| format!("    <string>{}</string>\n", escaped(word));
    let command: String = arguments.iter().map(word).collect();
    let log = escaped(&format!("{home}/service.log"));
    format!(
        r#"<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<!-- Written by `hearth service`. -->
<plist version="1.0">
<dict>
  <key>Label</key>
  <string>org.hearth.node</string>
  <key>ProgramArguments</key>
  <array>
{command}  </array>
  <key>RunAtLoad</key>
  <true/>
  <key>KeepAlive</key>
  <dict>
    <key>SuccessfulExit</key>
    <false/>
  </dict>
  <key>ThrottleInterval</key>
  <integer>10</integer>
  <key>ExitTimeOut</key>
  <integer>30</integer>
  <key>ProcessType</key>
  <string>Background</string>
  <key>Umask</key>
  <integer>63</integer>
  <key>StandardErrorPath</key>
  <string>{log}</string>
</dict>
</plist>
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(home: &str) -> Service {
        Service {
            program: "/usr/bin/hearth".into(),
            home: home.into(),
            passphrase_file: "/srv/pass".into(),
        }
    }

    #[test]
    fn odd_paths_stay_one_word() {
        let odd = service(r#"/srv/a b/100% "$HOME" \<&>"#);
        let unit = odd.file(Manager::Systemd).unwrap();
        assert!(
            unit.contains(r#" "/srv/a b/100%% \"$$HOME\" \\<&>" "#),
            "{unit}"
        );
        let agent = odd.file(Manager::Launchd).unwrap();
        assert!(
            agent.contains(r#"<string>/srv/a b/100% "$HOME" \&lt;&amp;&gt;</string>"#),
            "{agent}"
        );
    }

    #[test]
    fn paths_that_would_end_the_line_are_refused() {
        for path in ["/a\nExecStart=/bin/sh", "relative", "/a\u{7}"] {
            for manager in [Manager::Systemd, Manager::Launchd] {
                let refused = service(path).file(manager);
                assert_eq!(refused, Err(PathBuf::from(path)), "{path:?}");
            }
        }
    }
}
