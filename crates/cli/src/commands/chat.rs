//! `hearth chat`.

use std::io::{BufRead, IsTerminal, Write};
use std::process::ExitCode;

use clap::Args;
use hearth_node::household::client::Client;
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::global::Global;

/// The longest line that is asked, in bytes.
const LINE_BYTES_MAX: usize = 1 << 20;

/// What to talk about.
#[derive(Debug, Args)]
pub(crate) struct ChatArguments {
    /// Ask this one question and end; without it, a conversation
    question: Vec<String>,

    /// The model; without it, the first that can be asked
    #[arg(long, value_name = "NAME")]
    model: Option<String>,

    /// Instructions that come before everything
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,

    /// The most tokens of an answer
    #[arg(long, value_name = "N")]
    max_tokens: Option<u32>,
}

/// Talks to the node of the data folder.
pub(crate) async fn run(global: &Global, arguments: ChatArguments) -> Result<ExitCode, Failure> {
    let client = Client::of(&global.open_home()?)?;
    let model = match arguments.model {
        Some(model) => model,
        None => first_model(&client).await?,
    };
    let mut talk = Talk {
        client,
        model,
        max_tokens: arguments.max_tokens,
        messages: Vec::new(),
        json: global.json,
    };
    if let Some(system) = arguments.system {
        talk.messages
            .push(json!({ "role": "system", "content": system }));
    }
    if !arguments.question.is_empty() {
        talk.ask(&arguments.question.join(" ")).await?;
        return Ok(ExitCode::SUCCESS);
    }
    talk.converse().await?;
    Ok(ExitCode::SUCCESS)
}

async fn first_model(client: &Client) -> Result<String, Failure> {
    let models: Value = client.get("/v1/models").await?;
    let first = models["data"][0]["id"].as_str().map(str::to_owned);
    first.ok_or_else(|| {
        Failure::new(
            "no_model",
            "no model runs here, and nobody offers one",
            "Get one with `hearth models get`, or join others with `hearth join`",
        )
    })
}

struct Talk {
    client: Client,
    model: String,
    max_tokens: Option<u32>,
    messages: Vec<Value>,
    json: bool,
}

impl Talk {
    /// Reads a question a line until there is no more.
    async fn converse(&mut self) -> Result<(), Failure> {
        let person = std::io::stdin().is_terminal();
        if person {
            println!(
                "Talking to {}. An empty line or Ctrl-D ends it.",
                self.model
            );
        }
        loop {
            if person {
                print!("> ");
                flush()?;
            }
            let mut line = String::new();
            let mut bounded = std::io::Read::take(std::io::stdin().lock(), LINE_BYTES_MAX as u64);
            let read = bounded.read_line(&mut line);
            drop(bounded);
            let read = read.map_err(|error| {
                Failure::new(
                    "input",
                    format!("the line could not be read: {error}"),
                    "Try again",
                )
            })?;
            if read == 0 || line.trim().is_empty() {
                return Ok(());
            }
            self.ask(line.trim()).await?;
        }
    }

    /// Asks, and shows the answer as it comes.
    async fn ask(&mut self, question: &str) -> Result<(), Failure> {
        self.messages
            .push(json!({ "role": "user", "content": question }));
        let mut body = json!({
            "model": self.model,
            "messages": self.messages,
            "stream": true,
            "stream_options": { "include_usage": true },
        });
        if let Some(most) = self.max_tokens {
            body["max_tokens"] = json!(most);
        }
        let (mut answer, mut told, mut broken) = (String::new(), json!({}), None);
        let json = self.json;
        let mut taken = |data: &str| {
            let Ok(event) = serde_json::from_str::<Value>(data) else {
                return data != "[DONE]";
            };
            if let Some(message) = event["error"]["message"].as_str() {
                broken = Some(message.to_owned());
                return false;
            }
            if let Some(text) = event["choices"][0]["delta"]["content"].as_str() {
                answer.push_str(text);
                if !json {
                    print!("{text}");
                    let _ = std::io::stdout().flush();
                }
            }
            for name in ["usage", "hearth"] {
                if event[name].is_object() {
                    told[name] = event[name].clone();
                }
            }
            true
        };
        self.client
            .events("/v1/chat/completions", &body, &mut taken)
            .await?;
        if let Some(message) = broken {
            if !json {
                println!();
            }
            return Err(Failure::new("broken", message, "Ask again"));
        }
        if json {
            let line =
                json!({ "answer": answer, "usage": told["usage"], "hearth": told["hearth"] });
            println!("{line}");
        } else {
            println!();
            if let Some(line) = cost(&told) {
                println!("{line}");
            }
        }
        self.messages
            .push(json!({ "role": "assistant", "content": answer }));
        Ok(())
    }
}

/// Where the answer came from and what it cost, unless it came from here.
fn cost(told: &Value) -> Option<String> {
    let hearth = &told["hearth"];
    let source = hearth["source"]
        .as_str()
        .filter(|source| *source != "device")?;
    let charged = hearth["charged"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let charged: Vec<_> = charged
        .iter()
        .filter_map(|money| {
            Some(format!(
                "{} {}",
                money["amount"].as_str()?,
                money["symbol"].as_str()?
            ))
        })
        .collect();
    let charged = if charged.is_empty() {
        "free".to_owned()
    } else {
        charged.join(", ")
    };
    Some(format!("[{source}, {charged}]"))
}

fn flush() -> Result<(), Failure> {
    std::io::stdout().flush().map_err(|error| {
        Failure::new(
            "output",
            format!("the output could not be written: {error}"),
            "Check where it goes",
        )
    })
}
