//! An answerer that follows a script, behind a real surface at a real address.
//!
//! What it does depends on the model that is asked: `parrot` says what was said last, word by word,
//! `caller` asks for every tool that it is told of, `poet` gives JSON, and so on.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt};
use hearth_api::money::Money;
use hearth_doors::{Budget, Listener, serve};
use hearth_environment::SystemEnvironment;
use hearth_protocol::answer::{AnswerId, SignedReceipt, StopReason};
use hearth_surface::answers::{
    Answer, Answerer, AskError, Embedded, Ending, Input, Logprob, ModelCard, Part, Question,
    SchemaFault, Source, Speaker, Usage,
};
use hearth_surface::own_policy;
use hearth_surface::{ApiKey, Door, KeyTable, Surface};
use serde_json::{Value, json};
use tokio::sync::{Notify, oneshot};

/// The text of the key that every test door knows.
pub(crate) const KEY: &str = "hearth-0123456789abcdef";
/// What a token of a network's answer costs, in a worthless dollar.
pub(crate) const ASSET: &str = "eip155:402402/erc20:0x569b35Ed675C9cA42dbD1B6dd75bDC2965d5ec8E";
/// How long a test waits for what must come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

const MODELS: [&str; 10] = [
    "parrot",
    "caller",
    "poet",
    "breaks",
    "busy",
    "poor",
    "lonely",
    "endless",
    "strange",
    "org/named",
];

#[derive(Default)]
pub(crate) struct Script {
    /// What was asked, the oldest first.
    pub(crate) asked: Mutex<Vec<Question>>,
    /// Told when an answer's stream is dropped before its end.
    pub(crate) dropped: Arc<Notify>,
    pub(crate) receipts: Mutex<BTreeMap<AnswerId, Vec<SignedReceipt>>>,
    /// Why nothing is answered, where something is said here.
    pub(crate) fault: Mutex<Option<AskError>>,
    /// How many questions are taken before everybody is busy; any number where nothing is said.
    pub(crate) room: Mutex<Option<usize>>,
    /// Whether that is found out only after the question was taken.
    pub(crate) late: AtomicBool,
}

impl Script {
    /// The question that was asked last.
    pub(crate) fn last(&self) -> Question {
        self.asked.lock().unwrap().last().unwrap().clone()
    }
}

/// Tells when it is dropped.
struct Bell(Arc<Notify>);

impl Drop for Bell {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

fn words(text: &str) -> Vec<String> {
    text.split_inclusive(' ').map(str::to_owned).collect()
}

pub(crate) fn prompt_tokens(input: &Input) -> u32 {
    let count = match input {
        Input::Chat { messages, tools } => {
            let said = messages.iter().map(|message| words(&message.text).len());
            said.sum::<usize>() + tools.len()
        }
        Input::Text { text, .. } => words(text).len(),
        Input::Ids(ids) => ids.len(),
    };
    u32::try_from(count).unwrap()
}

fn last_said(input: &Input) -> String {
    match input {
        Input::Chat { messages, .. } => {
            let said = messages.iter().rev();
            let mut said = said.filter(|message| message.speaker != Speaker::Assistant);
            said.next()
                .map(|message| message.text.clone())
                .unwrap_or_default()
        }
        Input::Text { text, .. } => text.clone(),
        Input::Ids(ids) => format!("{ids:?}"),
    }
}

fn text(text: &str, logprobs: Option<u8>) -> Part {
    let told = |top: u8| Logprob {
        bytes: text.as_bytes().to_vec(),
        logprob: -0.25,
        top: (0..top)
            .map(|rank| (vec![b'a' + rank], -f32::from(rank)))
            .collect(),
    };
    Part::Text {
        text: text.to_owned(),
        tokens: 1,
        logprobs: logprobs.map(told).into_iter().collect(),
    }
}

fn charged(units: usize) -> Vec<Money> {
    vec![Money {
        asset: ASSET.to_owned(),
        symbol: "TUSD".to_owned(),
        units: units.to_string(),
        decimals: 6,
        amount: format!("0.{units:06}"),
    }]
}

/// Every tool that was told of, called with an argument, unless a tool has answered already.
fn calls(question: &Question) -> Vec<String> {
    let Input::Chat { messages, tools } = &question.input else {
        return vec!["no conversation".to_owned()];
    };
    if messages
        .last()
        .is_some_and(|last| last.speaker == Speaker::Tool)
    {
        return words(&format!("It is {}.", messages.last().unwrap().text));
    }
    let mut said = words("Let me look. ");
    for tool in tools {
        let call = json!({ "name": tool.name, "arguments": { "city": "Paris" } });
        for piece in format!("<tool_call>\n{call}\n</tool_call>\n")
            .as_bytes()
            .chunks(7)
        {
            said.push(String::from_utf8(piece.to_vec()).unwrap());
        }
    }
    said
}

fn ending(said: &[String], question: &Question) -> (Vec<String>, Ending) {
    let most = question.output_tokens_max.unwrap_or(u32::MAX) as usize;
    let whole = said.concat();
    let stop = question
        .stops
        .iter()
        .find_map(|stop| Some((whole.find(stop.as_str())?, stop)));
    if let Some((at, stop)) = stop {
        return (vec![whole[..at].to_owned()], Ending::Stop(stop.clone()));
    }
    if said.len() > most {
        return (said[..most].to_vec(), Ending::Model(StopReason::Length));
    }
    (said.to_vec(), Ending::Model(StopReason::EndOfText))
}

fn play(question: &Question) -> Result<(Source, Vec<Part>), AskError> {
    let device = Source::Device;
    let network = Source::Peer {
        device: "0123abcd".to_owned(),
        household: false,
    };
    let (source, said, broken) = match question.model.as_str() {
        "parrot" | "org/named" => (device, words(&last_said(&question.input)), false),
        "strange" => (network, words(&last_said(&question.input)), false),
        "caller" => (device, calls(question), false),
        "poet" => (
            device,
            words("{\"city\": \"Paris\", \"people\": 2100000}"),
            false,
        ),
        "breaks" => (network, words("It begins well "), true),
        "busy" => return Err(AskError::Busy { retry_after_s: 7 }),
        "poor" => {
            return Err(AskError::Budget(
                "it would cost more than may be spent".into(),
            ));
        }
        "lonely" => return Err(AskError::NoProvider("all are asleep".into())),
        other => return Err(AskError::NoModel(other.to_owned())),
    };
    let (said, stop) = ending(&said, question);
    let mut parts = vec![Part::Source(source.clone())];
    parts.extend(said.iter().map(|word| text(word, question.logprobs)));
    let stop = if broken {
        Ending::Broken(AskError::NoProvider(
            "the last provider went away".to_owned(),
        ))
    } else {
        stop
    };
    parts.push(Part::Ended {
        stop,
        usage: Usage {
            prompt_tokens: prompt_tokens(&question.input),
            cached_tokens: 0,
            output_tokens: u32::try_from(said.len()).unwrap(),
            charged: match source {
                Source::Device => Vec::new(),
                Source::Peer { .. } => charged(said.len()),
            },
        },
    });
    Ok((source, parts))
}

impl Answerer for Script {
    /// A schema that says what must not be is one that no model follows.
    fn check_schema(&self, schema: String, _: Duration) -> BoxFuture<'_, Result<(), SchemaFault>> {
        let found = match schema.contains("\"not\":") {
            true => Err(SchemaFault::Refused("it says `not`".to_owned())),
            false => Ok(()),
        };
        Box::pin(async move { found })
    }

    fn models(&self) -> BTreeMap<String, ModelCard> {
        let card = |name: &&str| ModelCard {
            name: (*name).to_owned(),
            weights: "ab".repeat(32),
            context_tokens: 4_096,
            here: *name != "strange",
            providers: 1,
            created_s: 1_700_000_000,
        };
        MODELS
            .iter()
            .map(|name| ((*name).to_owned(), card(name)))
            .collect()
    }

    fn ask(&self, question: Question) -> BoxFuture<'_, Result<Answer, AskError>> {
        self.asked.lock().unwrap().push(question.clone());
        let mut fault = self.fault.lock().unwrap().clone();
        if let Some(room) = &mut *self.room.lock().unwrap() {
            match room.checked_sub(1) {
                Some(left) => *room = left,
                None => fault = Some(AskError::Busy { retry_after_s: 9 }),
            }
        }
        let late = self.late.load(Ordering::Relaxed);
        let parts: Result<BoxStream<'static, Part>, AskError> = if let Some(fault) = fault {
            let ended = Part::Ended {
                stop: Ending::Broken(fault.clone()),
                usage: Usage::default(),
            };
            match late {
                true => Ok(stream::iter([Part::Source(Source::Device), ended]).boxed()),
                false => Err(fault),
            }
        } else if question.model == "reader" {
            // It has taken the question, and reads.
            let taken = stream::iter([Part::Source(Source::Device)]);
            Ok(taken.chain(stream::pending()).boxed())
        } else if question.model == "cached" {
            let parts = [
                Part::Source(Source::Device),
                Part::Read { cached_tokens: 2 },
                text("word", None),
                Part::Ended {
                    stop: Ending::Model(StopReason::EndOfText),
                    usage: Usage {
                        prompt_tokens: prompt_tokens(&question.input),
                        cached_tokens: 2,
                        output_tokens: 1,
                        charged: Vec::new(),
                    },
                },
            ];
            Ok(stream::iter(parts).boxed())
        } else if question.model == "endless" {
            let bell = Bell(Arc::clone(&self.dropped));
            let parts = stream::iter([Part::Source(Source::Device), text("word ", None)]);
            let parts = parts.chain(stream::pending()).map(move |part| {
                let _kept = &bell;
                part
            });
            Ok(parts.boxed())
        } else {
            play(&question).map(|(_, parts)| stream::iter(parts).boxed())
        };
        let mut id = [7; 16];
        id[0] = u8::try_from(self.asked.lock().unwrap().len() % 256).unwrap();
        let answer = parts.map(|parts| Answer {
            id: AnswerId(id),
            model: question.model.clone(),
            prompt_tokens: prompt_tokens(&question.input),
            parts,
        });
        async move { answer }.boxed()
    }

    fn count_tokens(&self, model: String, input: Input) -> BoxFuture<'_, Result<u32, AskError>> {
        let known = MODELS.contains(&model.as_str());
        let fault = self.fault.lock().unwrap().clone();
        let count = if let Some(fault) = fault {
            Err(fault)
        } else if known {
            Ok(prompt_tokens(&input))
        } else {
            Err(AskError::NoModel(model))
        };
        async move { count }.boxed()
    }

    fn embed(
        &self,
        model: String,
        inputs: Vec<Input>,
    ) -> BoxFuture<'_, Result<Embedded, AskError>> {
        let known = MODELS.contains(&model.as_str());
        let embedded = Embedded {
            vectors: inputs
                .iter()
                .map(|input| vec![prompt_tokens(input) as f32, 0.5, -0.25])
                .collect(),
            tokens: inputs.iter().map(prompt_tokens).sum(),
        };
        let fault = self.fault.lock().unwrap().clone();
        let result = if let Some(fault) = fault {
            Err(fault)
        } else if known {
            Ok(embedded)
        } else {
            Err(AskError::NoModel(model))
        };
        async move { result }.boxed()
    }

    fn receipts(&self, answer: AnswerId) -> BoxFuture<'_, Result<Vec<SignedReceipt>, AskError>> {
        let receipts = self.receipts.lock().unwrap().get(&answer).cloned();
        async move { Ok(receipts.unwrap_or_default()) }.boxed()
    }
}

/// A surface at an address of its own.
pub(crate) struct Served {
    pub(crate) script: Arc<Script>,
    pub(crate) surface: Arc<Surface>,
    pub(crate) address: SocketAddr,
    pub(crate) http: reqwest::Client,
    _stop: oneshot::Sender<()>,
}

impl Served {
    /// A surface that knows [`KEY`] only.
    pub(crate) async fn start() -> Self {
        Self::with(ApiKey::new("tester", KEY), None).await
    }

    pub(crate) async fn with(key: ApiKey, keyless: Option<ApiKey>) -> Self {
        let script = Arc::new(Script::default());
        let answerer: Arc<dyn Answerer> = script.clone();
        let surface = Surface::new(answerer, Arc::new(SystemEnvironment));
        surface.set_keys(KeyTable::new([key]).unwrap());
        let listener = Listener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.address();
        let router = surface.router(Door::new(address, keyless));
        let (stop, stopped) = oneshot::channel::<()>();
        tokio::spawn(serve(
            listener,
            router,
            own_policy(address, &[], Budget::of_process()),
            Box::pin(async {
                let _ = stopped.await;
            }),
        ));
        Self {
            script,
            surface,
            address,
            http: hearth_payments::http::client().unwrap(),
            _stop: stop,
        }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) async fn get(&self, path: &str) -> reqwest::Response {
        let request = self.http.get(self.url(path)).bearer_auth(KEY);
        let sent = tokio::time::timeout(PATIENCE, request.send()).await;
        sent.expect("a reply comes in time").unwrap()
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> reqwest::Response {
        let request = self.http.post(self.url(path)).bearer_auth(KEY).json(body);
        let sent = tokio::time::timeout(PATIENCE, request.send()).await;
        sent.expect("a reply comes in time").unwrap()
    }

    /// The JSON of a reply that must be good.
    pub(crate) async fn ask(&self, path: &str, body: &Value) -> Value {
        let reply = self.post(path, body).await;
        let status = reply.status();
        let text = reply.text().await.unwrap();
        assert_eq!(status, 200, "{text}");
        serde_json::from_str(&text).unwrap()
    }

    /// The status and JSON of a reply that must be an error.
    pub(crate) async fn fail(&self, path: &str, body: &Value) -> (u16, Value) {
        let reply = self.post(path, body).await;
        let status = reply.status().as_u16();
        assert!(status >= 400, "{status}");
        (status, reply.json().await.unwrap())
    }

    /// The events of a stream: their names, if they have any, and their data.
    pub(crate) async fn stream(&self, path: &str, body: &Value) -> Vec<(String, Value)> {
        let reply = self.post(path, body).await;
        assert_eq!(reply.status(), 200);
        let kind = reply.headers()["content-type"].to_str().unwrap();
        assert!(kind.starts_with("text/event-stream"), "{kind}");
        let text = tokio::time::timeout(PATIENCE, reply.text()).await;
        events(&text.expect("a stream ends in time").unwrap())
    }
}

pub(crate) fn events(text: &str) -> Vec<(String, Value)> {
    assert!(text.ends_with("\n\n"), "{text}");
    text.split_terminator("\n\n")
        .filter(|frame| !frame.starts_with(':'))
        .map(|frame| {
            let (name, data) = match frame.strip_prefix("event: ") {
                Some(named) => named.split_once('\n').unwrap(),
                None => ("", frame),
            };
            let data = data.strip_prefix("data: ").unwrap();
            let data = if data == "[DONE]" {
                json!("[DONE]")
            } else {
                serde_json::from_str(data).unwrap()
            };
            (name.to_owned(), data)
        })
        .collect()
}

pub(crate) fn said(text: &str) -> Value {
    json!([{ "role": "user", "content": text }])
}
