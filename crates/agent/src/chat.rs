//! A chat as a machine: what was said and done so far, and what comes next.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::claims::{Claim, unfounded};
use crate::offering::{OfferedTool, choose};

/// Answers of the model in one turn; after so many the turn ends.
pub const ANSWERS_MAX: u32 = 24;
/// Calls that are taken of one answer.
pub const CALLS_MAX: usize = 32;
/// What the owner may say while a turn is under way, in messages.
pub const NEXT_MAX: usize = 16;
/// The most messages of a chat.
pub const MESSAGES_MAX: usize = 16_384;
/// The tool by which the harness itself writes what the owner asks it to remember.
pub const REMEMBER: &str = "memory/remember";
/// What separates the hash of a state from all others.
const STATE_CONTEXT: &str = "hearth agent chat 1";

/// What holds for the whole chat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    /// What the model is told first.
    pub instructions: String,
    /// How long that is, in tokens.
    pub instructions_tokens: u32,
    /// The tools there are.
    pub tools: Vec<OfferedTool>,
    /// The longest prompt and answer of the model, in tokens.
    pub window_tokens: u32,
    /// How much of that is left for an answer.
    pub answer_tokens: u32,
}

/// What a model wants called.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WantedCall {
    /// The tool's name, which the model may have made up.
    pub tool: String,
    /// The arguments.
    pub arguments: Value,
}

/// What became of a call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "outcome")]
pub enum Outcome {
    /// It was made, and this came back.
    Returned {
        /// The result.
        value: Value,
    },
    /// It was made, and what came back is kept under a name: the model may hand it on, and does not see it.
    Kept {
        /// The name.
        variable: String,
        /// What it is, in the program's own words.
        about: String,
    },
    /// It was made, and failed. What the tool says of that is a result like any other, since anybody may have written it.
    Failed {
        /// Why, in the program's own words.
        why: String,
    },
    /// It was not made: a rule forbids it.
    Refused {
        /// Which.
        why: String,
    },
    /// It was not made: the owner said no.
    Declined,
    /// The program ended while it was made: nobody knows whether it was.
    Unknown,
}

/// What was said and done, as the model is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "by")]
pub enum Message {
    /// By the owner.
    Owner {
        /// The words.
        text: String,
    },
    /// By the model.
    Agent {
        /// The words.
        text: String,
        /// What it wanted called, by the calls' numbers.
        calls: BTreeMap<u64, WantedCall>,
    },
    /// By a tool.
    Tool {
        /// The call's number.
        call: u64,
        /// What became of it.
        outcome: Outcome,
    },
    /// By the program, which the model is told as well.
    Program {
        /// The words.
        text: String,
    },
}

/// How a prompt is made up, in tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meter {
    /// What the model is told first.
    pub instructions: u32,
    /// The tools that it is offered.
    pub tools: u32,
    /// What is remembered, and was added.
    pub memory: u32,
    /// What was said and done.
    pub chat: u32,
    /// All that there is room for.
    pub window: u32,
}

/// What happens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum Event {
    /// The owner says something.
    Said {
        /// The words.
        text: String,
    },
    /// The prompt that was wanted is so long: an answer to [`Effect::Measure`].
    Measured {
        /// Of what was said and done.
        chat_tokens: u32,
        /// Of what is remembered and was added.
        memory_tokens: u32,
    },
    /// The model has answered.
    Answered {
        /// The words.
        text: String,
        /// What it wants called.
        calls: Vec<WantedCall>,
    },
    /// The model has not answered.
    NoAnswer {
        /// Why, for people.
        why: String,
    },
    /// A call is over.
    Done {
        /// Its number.
        call: u64,
        /// What became of it.
        outcome: Outcome,
    },
    /// The owner stops the turn. Calls that are being made come to their end.
    Stopped,
    /// The program has begun anew. What became of calls was said before this.
    Restarted,
}

/// What is to be done, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Count how long [`Chat::messages`] are for the model, and answer with [`Event::Measured`].
    Measure,
    /// Ask the model [`Chat::messages`], and answer with [`Event::Answered`] or [`Event::NoAnswer`].
    Ask {
        /// The tools that it is offered, by their places in the setting.
        tools: Vec<usize>,
        /// How the prompt is made up.
        meter: Meter,
    },
    /// Have the node judge and make a call, and answer with [`Event::Done`], however long the owner takes.
    Call {
        /// The call's number.
        call: u64,
        /// What is wanted.
        wanted: WantedCall,
    },
    /// Tell the owner something that the model did not say.
    Notice(String),
    /// The turn is over.
    Rest,
}

/// What the chat waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "phase")]
enum Phase {
    Resting,
    Measuring,
    Asking,
    Calling { open: BTreeSet<u64> },
}

/// A chat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chat {
    setting: Setting,
    messages: Vec<Message>,
    phase: Phase,
    /// Calls so far.
    calls: u64,
    /// Answers of this turn.
    answers: u32,
    /// What was done in this turn, so that an answer may say so.
    done: BTreeSet<Claim>,
    /// The model was told in this turn that it claims what was not done.
    was_doubted: bool,
    /// The owner has stopped the turn.
    is_stopped: bool,
    /// What the owner said while a turn was under way.
    next: Vec<String>,
}

impl Chat {
    /// A chat in which nothing was said.
    #[must_use]
    pub fn new(setting: Setting) -> Self {
        Self {
            setting,
            messages: Vec::new(),
            phase: Phase::Resting,
            calls: 0,
            answers: 0,
            done: BTreeSet::new(),
            was_doubted: false,
            is_stopped: false,
            next: Vec::new(),
        }
    }

    /// The chat that a log leads to. The effects on the way were performed before.
    #[must_use]
    pub fn replay<'a>(setting: Setting, log: impl IntoIterator<Item = &'a Event>) -> Self {
        let mut chat = Self::new(setting);
        for event in log {
            drop(chat.handle(event.clone()));
        }
        chat
    }

    /// What was said and done so far.
    #[must_use]
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// Whether the chat waits for its owner.
    #[must_use]
    pub fn is_resting(&self) -> bool {
        self.phase == Phase::Resting
    }

    /// The hash of all that the chat knows: the same in every process that handled the same events.
    #[must_use]
    pub fn state_hash(&self) -> [u8; 32] {
        let state = json!(self).to_string();
        *blake3::Hasher::new_derive_key(STATE_CONTEXT)
            .update(state.as_bytes())
            .finalize()
            .as_bytes()
    }

    /// Takes an event, and says what is to be done.
    pub fn handle(&mut self, event: Event) -> Vec<Effect> {
        match event {
            Event::Said { text } => self.said(text),
            Event::Measured {
                chat_tokens,
                memory_tokens,
            } => self.measured(chat_tokens, memory_tokens),
            Event::Answered { text, calls } => self.answered(text, calls),
            Event::NoAnswer { why } if self.phase == Phase::Asking => {
                let notice = format!("The model did not answer: {why}");
                self.rest(vec![Effect::Notice(notice)])
            }
            Event::NoAnswer { .. } => Vec::new(),
            Event::Done { call, outcome } => self.call_done(call, outcome),
            Event::Stopped => self.stopped(),
            Event::Restarted => self.restarted(),
        }
    }

    fn said(&mut self, text: String) -> Vec<Effect> {
        if !self.is_resting() {
            if self.next.len() < NEXT_MAX {
                self.next.push(text);
                return Vec::new();
            }
            let notice =
                "This was not taken: so much was said already that waits for the turn to end";
            return vec![Effect::Notice(notice.to_owned())];
        }
        if self.messages.len() >= MESSAGES_MAX {
            let notice = "This was not taken: the chat is full, begin a new one";
            return vec![Effect::Notice(notice.to_owned()), Effect::Rest];
        }
        self.answers = 0;
        self.done.clear();
        self.was_doubted = false;
        self.is_stopped = false;
        let remember = to_remember(&text).filter(|_| self.has_tool(REMEMBER));
        let wanted = remember.map(|fact| WantedCall {
            tool: REMEMBER.to_owned(),
            arguments: json!({"text": fact}),
        });
        self.messages.push(Message::Owner { text });
        match wanted {
            // What the owner asks to be remembered is written whatever the model does.
            Some(wanted) => self.call(String::new(), vec![wanted]),
            None => self.measure(),
        }
    }

    fn has_tool(&self, name: &str) -> bool {
        self.setting.tools.iter().any(|tool| tool.name == name)
    }

    fn measure(&mut self) -> Vec<Effect> {
        self.phase = Phase::Measuring;
        vec![Effect::Measure]
    }

    fn measured(&mut self, chat: u32, memory: u32) -> Vec<Effect> {
        if self.phase != Phase::Measuring {
            return Vec::new();
        }
        let setting = &self.setting;
        let tools = choose(&setting.tools, self.last_words(), setting.window_tokens);
        let of_tools = tools.iter().map(|place| setting.tools[*place].tokens);
        let meter = Meter {
            instructions: setting.instructions_tokens,
            tools: of_tools.fold(0, u32::saturating_add),
            memory,
            chat,
            window: setting.window_tokens,
        };
        let parts = [
            meter.instructions,
            meter.tools,
            memory,
            chat,
            setting.answer_tokens,
        ];
        let needed = parts.into_iter().fold(0, u32::saturating_add);
        if needed > meter.window {
            let notice = format!(
                "This chat does not fit the model any more: it needs {needed} tokens (instructions {}, tools {}, memory {memory}, \
                 chat {chat}, room for an answer {}), and the model reads {}. Nothing was cut: begin a new chat, or use a model \
                 that reads more",
                meter.instructions, meter.tools, setting.answer_tokens, meter.window
            );
            return self.rest(vec![Effect::Notice(notice)]);
        }
        self.phase = Phase::Asking;
        vec![Effect::Ask { tools, meter }]
    }

    /// What the owner said last.
    fn last_words(&self) -> &str {
        let owners = self
            .messages
            .iter()
            .rev()
            .find_map(|message| match message {
                Message::Owner { text } => Some(text.as_str()),
                _ => None,
            });
        owners.unwrap_or_default()
    }

    fn answered(&mut self, text: String, mut calls: Vec<WantedCall>) -> Vec<Effect> {
        if self.phase != Phase::Asking {
            return Vec::new();
        }
        self.answers += 1;
        if self.is_stopped {
            calls.clear();
        }
        if calls.is_empty() {
            return self.concluded(text);
        }
        if self.answers >= ANSWERS_MAX {
            self.messages.push(Message::Agent {
                text,
                calls: BTreeMap::new(),
            });
            let notice = format!(
                "The model called tools in {ANSWERS_MAX} answers in a row: the turn ends here"
            );
            return self.rest(vec![Effect::Notice(notice)]);
        }
        self.call(text, calls)
    }

    /// Takes an answer without calls: it ends the turn, unless it claims what was not done.
    fn concluded(&mut self, text: String) -> Vec<Effect> {
        let unfounded = unfounded(&text, &self.done);
        self.messages.push(Message::Agent {
            text,
            calls: BTreeMap::new(),
        });
        if unfounded.is_empty() || self.is_stopped {
            return self.rest(Vec::new());
        }
        let undone: Vec<_> = unfounded.iter().map(|claim| claim.undone()).collect();
        let undone = undone.join(", ");
        if self.was_doubted {
            // The owner is told, and so is the model, which would build on it.
            let text = format!("I did not do all that I said: in this turn {undone}.");
            self.messages.push(Message::Program { text: text.clone() });
            return self.rest(vec![Effect::Notice(text)]);
        }
        self.was_doubted = true;
        let text = format!(
            "Your answer claims a deed, but no tool did it: in this turn {undone}. Call the tool now, or answer again without \
             the claim."
        );
        self.messages.push(Message::Program { text });
        self.measure()
    }

    fn call(&mut self, text: String, mut wanted: Vec<WantedCall>) -> Vec<Effect> {
        let left_out = wanted.len().saturating_sub(CALLS_MAX);
        wanted.truncate(CALLS_MAX);
        let first = self.calls;
        let calls: BTreeMap<u64, WantedCall> = (first..).zip(wanted).collect();
        self.calls += calls.len() as u64;
        let effects = calls.iter().map(|(call, wanted)| Effect::Call {
            call: *call,
            wanted: wanted.clone(),
        });
        let effects = effects.collect();
        self.phase = Phase::Calling {
            open: calls.keys().copied().collect(),
        };
        self.messages.push(Message::Agent { text, calls });
        if left_out > 0 {
            let text =
                format!("{left_out} calls were left out: an answer has {CALLS_MAX} at most.");
            self.messages.push(Message::Program { text });
        }
        effects
    }

    fn call_done(&mut self, call: u64, outcome: Outcome) -> Vec<Effect> {
        let Phase::Calling { open } = &mut self.phase else {
            return Vec::new();
        };
        if !open.remove(&call) {
            return Vec::new();
        }
        let is_last = open.is_empty();
        let is_done = matches!(outcome, Outcome::Returned { .. } | Outcome::Kept { .. });
        if let Some(founds) = self.founds(call).filter(|_| is_done) {
            self.done.extend(founds);
        }
        self.messages.push(Message::Tool { call, outcome });
        match (is_last, self.is_stopped) {
            (false, _) => Vec::new(),
            (true, true) => self.rest(Vec::new()),
            (true, false) => self.measure(),
        }
    }

    /// What an answer may claim after a call.
    fn founds(&self, call: u64) -> Option<BTreeSet<Claim>> {
        let tool = self
            .messages
            .iter()
            .rev()
            .find_map(|message| match message {
                Message::Agent { calls, .. } => calls.get(&call).map(|wanted| wanted.tool.as_str()),
                _ => None,
            })?;
        let tools = &self.setting.tools;
        let tool = tools.iter().find(|one| one.name == tool)?;
        Some(tool.founds.clone())
    }

    fn stopped(&mut self) -> Vec<Effect> {
        match self.phase {
            Phase::Resting => Vec::new(),
            Phase::Calling { .. } => {
                self.is_stopped = true;
                Vec::new()
            }
            Phase::Measuring | Phase::Asking => self.rest(Vec::new()),
        }
    }

    /// What was in flight is gone: the model is asked again, and of calls nobody knows.
    fn restarted(&mut self) -> Vec<Effect> {
        match &self.phase {
            Phase::Resting => Vec::new(),
            Phase::Measuring | Phase::Asking => self.measure(),
            Phase::Calling { open } => {
                let open: Vec<u64> = open.iter().copied().collect();
                let mut effects = Vec::new();
                for call in open {
                    effects = self.call_done(call, Outcome::Unknown);
                }
                effects
            }
        }
    }

    /// Ends the turn, and begins the next where the owner has said something meanwhile.
    fn rest(&mut self, mut effects: Vec<Effect>) -> Vec<Effect> {
        self.phase = Phase::Resting;
        effects.push(Effect::Rest);
        if !self.next.is_empty() {
            let text = std::mem::take(&mut self.next).join("\n\n");
            effects.extend(self.said(text));
        }
        effects
    }
}

/// What the owner asks to be remembered.
fn to_remember(text: &str) -> Option<&str> {
    let text = text.trim();
    let (first, rest) = text.split_once(char::is_whitespace)?;
    let is_order = first
        .trim_end_matches([':', ','])
        .eq_ignore_ascii_case("remember");
    let fact = rest.trim();
    // "Remember when ..." and "Remember the ...?" ask for something.
    let is_question = text.ends_with('?');
    (is_order && !is_question && !fact.is_empty()).then_some(fact)
}
