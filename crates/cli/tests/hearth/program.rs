//! Runs the program in a data folder of its own, with a bound on how long anything may take.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

pub(crate) const PASSPHRASE: &str = "unmistakable passphrase 4711";

/// The model of the tests, which knows little and is small.
pub(crate) const MODEL: &str = "smollm2-135m-instruct";

/// How long one command may take. Opening a keystore and a first transaction take seconds on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// A data folder, and the program to use it with.
pub(crate) struct Home {
    folder: TempDir,
    /// The network namespace that the program runs in; none means this machine's own.
    namespace: Option<String>,
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Outcome {
    /// The one JSON document on the standard output of a command that succeeded.
    pub(crate) fn json(&self) -> Value {
        assert_eq!(self.code, 0, "{self:?}");
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The error document of a command that failed with `exit`, after checking that it says what to do.
    pub(crate) fn error(&self, exit: i32) -> Value {
        assert_eq!(self.code, exit, "{self:?}");
        assert_eq!(self.stdout, "", "a failure prints nothing else: {self:?}");
        let last = self.stderr.lines().last().unwrap_or_default();
        let body: Value =
            serde_json::from_str(last).unwrap_or_else(|error| panic!("{error}: {self:?}"));
        let error = body["error"].clone();
        for field in ["code", "message", "next"] {
            assert!(
                error[field].as_str().is_some_and(|text| !text.is_empty()),
                "{field}: {self:?}"
            );
        }
        error
    }

    /// The code of the error document.
    pub(crate) fn error_code(&self, exit: i32) -> String {
        self.error(exit)["code"].as_str().unwrap().to_owned()
    }
}

impl Home {
    pub(crate) fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            namespace: None,
        }
    }

    /// A folder whose program runs in a network namespace.
    pub(crate) fn within(namespace: &str) -> Self {
        Self {
            namespace: Some(namespace.to_owned()),
            ..Self::new()
        }
    }

    /// A folder with a wallet in it.
    pub(crate) fn with_wallet() -> Self {
        let home = Self::new();
        home.run(&["wallet", "new", "--json"]).json();
        home
    }

    /// The account of the wallet in it.
    pub(crate) fn household(&self) -> String {
        let shown = self.run(&["wallet", "show", "--json"]).json();
        shown["household"].as_str().unwrap().to_owned()
    }

    /// The data folder, which the program makes.
    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("home")
    }

    pub(crate) fn keystore(&self) -> PathBuf {
        self.path().join("keystore.json")
    }

    /// The program with the passphrase in its environment and nothing else of ours.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let hearth = env!("CARGO_BIN_EXE_hearth");
        let mut command = match &self.namespace {
            None => Command::new(hearth),
            Some(namespace) => {
                // It becomes the program, so a kill of the process reaches it.
                let mut command = Command::new("ip");
                command.args(["netns", "exec", namespace, hearth]);
                command
            }
        };
        command
            .args(arguments)
            .env("HEARTH_HOME", self.path())
            .env("HEARTH_PASSPHRASE", PASSPHRASE)
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Outcome {
        finish(self.command(arguments), "")
    }

    /// Runs a command with `input` on its standard input.
    pub(crate) fn run_with_input(&self, arguments: &[&str], input: &str) -> Outcome {
        finish(self.command(arguments), input)
    }

    /// Names the chain of `hearth chain run` in the configuration, as its comments say, and lets it be at `url`.
    pub(crate) fn point_config_at(&self, url: &str) {
        self.run(&["doctor", "--json"]);
        for line in [
            "[chains.\"eip155:402402\"]",
            "name = \"embedded\"",
            "rpc = [\"http://127.0.0.1:8545\"]",
            "confirmations = 1",
        ] {
            self.edit_config(&format!("# {line}"), line);
        }
        self.edit_config("\"erc20:", "\"eip155:402402/erc20:");
        self.edit_config("http://127.0.0.1:8545", url);
    }

    pub(crate) fn edit_config(&self, from: &str, to: &str) {
        let path = self.path().join("config.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{from} is in {text}");
        std::fs::write(&path, text.replacen(from, to, 1)).unwrap();
    }
}

/// Runs a command to its end.
pub(crate) fn finish(command: Command, input: &str) -> Outcome {
    finish_within(command, input, PATIENCE)
}

/// Runs a command to its end, which may take so long.
pub(crate) fn finish_within(mut command: Command, input: &str, patience: Duration) -> Outcome {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let name = format!("{command:?}");
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // A command that does not read its input may be gone already.
    drop(stdin.write_all(input.as_bytes()));
    drop(stdin);
    let stdout = drain(child.stdout.take().unwrap());
    let stderr = drain(child.stderr.take().unwrap());
    let read = |stream: &Receiver<String>, child: &mut Child| {
        stream.recv_timeout(patience).unwrap_or_else(|_| {
            child.kill().unwrap();
            panic!("{name} did not end within {patience:?}");
        })
    };
    let stdout = read(&stdout, &mut child);
    let stderr = read(&stderr, &mut child);
    let code = child.wait().unwrap().code().unwrap_or(-1);
    Outcome {
        code,
        stdout,
        stderr,
    }
}

fn drain(mut stream: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        sender.send(text)
    });
    receiver
}

/// A process that runs until it is dropped, and says in JSON when it is ready and when it has stopped.
pub(crate) struct Running {
    child: Child,
    lines: Receiver<String>,
    pub(crate) ready: Value,
}

/// `hearth chain run` on a free port of the system's choice.
pub(crate) struct RunningChain;

impl RunningChain {
    pub(crate) fn start(home: &Home, more: &[&str]) -> Running {
        Running::start(
            home,
            &[&["chain", "run", "--port", "0", "--json"], more].concat(),
        )
    }
}

/// `hearth serve-paid` on a free port of the system's choice.
pub(crate) struct RunningService;

impl RunningService {
    pub(crate) fn start(home: &Home, more: &[&str]) -> Running {
        Self::start_at(home, "127.0.0.1:0", more)
    }

    /// The same at an address of the test's choice.
    pub(crate) fn start_at(home: &Home, address: &str, more: &[&str]) -> Running {
        Running::start(
            home,
            &[&["serve-paid", "--listen", address, "--json"], more].concat(),
        )
    }
}

/// `hearth up` on free ports of the system's choice.
pub(crate) struct RunningNode;

impl RunningNode {
    /// Lets a household run the model of the tests, reaching nobody beyond this machine.
    pub(crate) fn prepare(home: &Home) {
        home.edit_config("reach = \"local\"", "reach = \"loopback\"");
        Self::prepare_models(home);
    }

    /// Lets a household run the model of the tests, on a machine that does other things too.
    pub(crate) fn prepare_models(home: &Home) {
        let file = std::env::var("HEARTH_TEST_MODEL")
            .expect("HEARTH_TEST_MODEL names the model: run `cargo xtask test`, which fetches it");
        for (usual, here) in [
            ("context_tokens = 8192", "context_tokens = 2048"),
            ("busy_percent = 50", "busy_percent = 100"),
        ] {
            home.edit_config(usual, here);
        }
        home.run(&["models", "import", &file, "--name", MODEL, "--json"])
            .json();
    }

    /// Lets the first run of a household find models on this machine alone: the largest that fits cannot be had, and
    /// the next smaller one is the model of the tests.
    pub(crate) fn prepare_catalogue(home: &Home) {
        let file = std::env::var("HEARTH_TEST_MODEL")
            .expect("HEARTH_TEST_MODEL names the model: run `cargo xtask test`, which fetches it");
        for (usual, here) in [
            ("context_tokens = 8192", "context_tokens = 2048"),
            ("busy_percent = 50", "busy_percent = 100"),
        ] {
            home.edit_config(usual, here);
        }
        let size = std::fs::metadata(&file).unwrap().len();
        let entry = |name: &str, parameters: u64, osi: bool, source: &str| {
            format!(
                "[[model]]\nname = \"{name}\"\ntitle = \"{name}\"\nlicence = \"Apache-2.0\"\nosi = {osi}\n\
                 parameters = {parameters}\nquantisation = \"Q4_1\"\nfile_bytes = {size}\n\
                 sha256 = \"b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53\"\n\
                 context_tokens = 8192\nmemory_bytes = 400000000\nroles = [\"chat\"]\n\
                 [[model.source]]\n{source}\n\n"
            )
        };
        let nowhere = "kind = \"url\"\nurl = \"http://127.0.0.1:1/model.gguf\"";
        let here = format!("kind = \"path\"\npath = \"{file}\"");
        // Those that the program knows are not picked unasked under a licence that is not open.
        let catalogue = [
            entry("larger", 200_000_000, true, nowhere),
            entry(MODEL, 134_515_008, true, &here),
            entry("qwen3-4b", 1, false, nowhere),
            entry("qwen3-8b", 1, false, nowhere),
            entry("qwen3-14b", 1, false, nowhere),
            entry("gpt-oss-20b", 1, false, nowhere),
        ];
        std::fs::write(home.path().join("models.toml"), catalogue.concat()).unwrap();
    }

    pub(crate) fn start(home: &Home, more: &[&str]) -> Running {
        Running::start(
            home,
            &[&["up", "--listen", "127.0.0.1:0", "--json"], more].concat(),
        )
    }
}

/// `hearth watch` on a free port of the system's choice.
pub(crate) struct RunningWatch;

impl RunningWatch {
    pub(crate) fn start(home: &Home, more: &[&str]) -> Running {
        Running::start(
            home,
            &[&["watch", "--listen", "127.0.0.1:0", "--json"], more].concat(),
        )
    }
}

impl Running {
    pub(crate) fn start(home: &Home, arguments: &[&str]) -> Self {
        let mut command = home.command(arguments);
        command.stderr(Stdio::inherit());
        Self::spawn(command)
    }

    /// The same with logging wide open, into a file.
    pub(crate) fn start_logged(home: &Home, arguments: &[&str], log: &Path) -> Self {
        let mut command = home.command(arguments);
        command.env("RUST_LOG", "trace");
        command.stderr(File::create(log).unwrap());
        Self::spawn(command)
    }

    fn spawn(command: Command) -> Self {
        Self::spawn_first(command, "ready")
    }

    /// A command whose first line says `event`; that line stands in `ready`.
    pub(crate) fn spawn_first(mut command: Command, event: &str) -> Self {
        let mut child = command.spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in stdout.lines() {
                if sender.send(line.unwrap()).is_err() {
                    return;
                }
            }
        });
        let mut chain = Self {
            child,
            lines,
            ready: Value::Null,
        };
        chain.ready = chain.line("the first line");
        assert_eq!(chain.ready["event"], event);
        chain
    }

    /// The next line that says `event`, whatever else is said before.
    pub(crate) fn event(&self, event: &str, accept: impl Fn(&Value) -> bool) -> Value {
        loop {
            let line = self.line(event);
            if line["event"] == event && accept(&line) {
                return line;
            }
        }
    }

    fn line(&self, what: &str) -> Value {
        let line = self
            .lines
            .recv_timeout(PATIENCE)
            .unwrap_or_else(|_| panic!("{what} did not come"));
        serde_json::from_str(&line).unwrap()
    }

    pub(crate) fn url(&self) -> &str {
        self.ready["url"].as_str().unwrap()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Asks the process to stop with `signal`, and gives its last line.
    pub(crate) fn stop(mut self, signal: &str) -> Value {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill")
            .args(["-s", signal, &pid])
            .status()
            .unwrap();
        assert!(sent.success());
        let last = self.line("the last line");
        assert!(self.child.wait().unwrap().success());
        last
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
