//! All that a model has been given, and what follows for what it asks for.
//!
//! The node keeps one for each conversation with a model and adds to it whatever it hands over. So it does not matter what
//! the model, or the program that talks to it, says about where a text came from.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::arguments::{ArgumentError, Arguments};
use crate::inspection::{Form, InspectError};
use crate::label::{Label, Provenance, Tier, Trust};
use crate::tool::{Deed, Permission, Tool};
use crate::variable::{NoVariable, Variables, VariablesFull};
use crate::verdict::{Reason, Verdict};

/// The most bytes of the owner's own words that are kept to compare addresses with. Older ones are forgotten first.
pub const OWNER_WORDS_BYTES_MAX: usize = 262_144;
/// The most bits that answers about texts of strangers may give a model that is still trusted afterwards.
pub const INSPECTED_BITS_MAX: u32 = 64;

/// What became of a value that came for a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Taken {
    /// It holds nothing that what the model has seen does not hold already: the model may see it.
    Shown,
    /// It is kept under this name, and the model is told of it without seeing it.
    Kept(String),
}

/// What an inspection of a variable gave.
#[derive(Debug, Clone, PartialEq)]
pub enum InspectAnswer {
    /// The model may see it: there were few answers to choose from, and none of them is a stranger's.
    Shown(Value),
    /// It is kept under this name.
    Kept(String),
}

/// What a model has been given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Context {
    seen: Provenance,
    owner_words: Vec<String>,
    variables: Variables,
    inspected_bits: u32,
}

impl Context {
    /// A conversation in which nothing was said yet, and which may travel as far as `tier`.
    #[must_use]
    pub fn new(tier: Tier) -> Self {
        let trust = Trust::Trusted;
        Self {
            seen: Provenance::from_nowhere(Label { tier, trust }),
            owner_words: Vec::new(),
            variables: Variables::default(),
            inspected_bits: 0,
        }
    }

    /// Everything that went in.
    #[must_use]
    pub fn seen(&self) -> &Provenance {
        &self.seen
    }

    /// The values that are kept.
    #[must_use]
    pub fn variables(&self) -> &Variables {
        &self.variables
    }

    /// Takes what the owner says.
    pub fn hear_owner(&mut self, words: &str) {
        self.owner_words.push(words.to_owned());
        let mut bytes: usize = self.owner_words.iter().map(String::len).sum();
        while bytes > OWNER_WORDS_BYTES_MAX && !self.owner_words.is_empty() {
            bytes -= self.owner_words.remove(0).len();
        }
    }

    /// Takes what the model is shown, whatever it is.
    pub fn see(&mut self, provenance: &Provenance) {
        self.seen.add(provenance);
    }

    /// Takes a value for the model. It is kept where seeing it would change what the model may do.
    ///
    /// # Errors
    /// When it would have to be kept, and there is no room.
    pub fn take(&mut self, value: Value, provenance: Provenance) -> Result<Taken, VariablesFull> {
        if provenance.label.flows_to(self.seen.label) {
            self.see(&provenance);
            return Ok(Taken::Shown);
        }
        self.variables.keep(value, provenance).map(Taken::Kept)
    }

    /// Shows a variable to the model, which has seen it from then on.
    ///
    /// # Errors
    /// When there is none.
    pub fn show(&mut self, name: &str) -> Result<Value, NoVariable> {
        let variable = self.variables.get(name);
        let variable = variable.ok_or_else(|| NoVariable(name.to_owned()))?;
        self.seen.add(variable.provenance());
        Ok(variable.value().clone())
    }

    /// Takes the answer of a model without tools that saw this one variable. An answer that was chosen among few is shown: it
    /// may travel no farther than what was read, and is no stranger's text. Another one is kept as what was read is.
    ///
    /// # Errors
    /// When the answer has not the form that was asked for, there is no such variable or no room for another, or the model was
    /// told so much in this way that a stranger could have spelt a text.
    pub fn inspect(
        &mut self,
        name: &str,
        form: &Form,
        answer: Value,
    ) -> Result<InspectAnswer, InspectError> {
        let variable = self.variables.get(name);
        let variable = variable.ok_or_else(|| NoVariable(name.to_owned()))?;
        form.check(&answer)?;
        let provenance = variable.provenance().clone();
        let Some(bits) = form.bits() else {
            return Ok(InspectAnswer::Kept(
                self.variables.keep(answer, provenance)?,
            ));
        };
        let inspected_bits = self.inspected_bits.saturating_add(bits);
        if inspected_bits > INSPECTED_BITS_MAX {
            return Err(InspectError::Spelt);
        }
        self.inspected_bits = inspected_bits;
        self.seen.add(&Provenance::from_nowhere(Label {
            tier: provenance.label.tier,
            trust: Trust::Trusted,
        }));
        Ok(InspectAnswer::Shown(answer))
    }

    /// Whether a prompt with all that was seen may go so far. There is no question about it: it may, or it may not.
    #[must_use]
    pub fn may_travel(&self, to: Tier) -> bool {
        self.seen.label.tier >= to
    }

    /// What a tool would really be called with.
    ///
    /// # Errors
    /// When a variable is not known, or the arguments are too deep or too long.
    pub fn resolve(&self, written: &Value) -> Result<Arguments, ArgumentError> {
        Arguments::resolve(written, &self.variables)
    }

    /// Whether a call happens, is shown to the owner first, or does not happen.
    #[must_use]
    pub fn judge(&self, tool: &Tool, arguments: &Arguments) -> Verdict {
        if tool.permission == Permission::Never {
            return Verdict::Refused;
        }
        let provenance = arguments.provenance(&self.seen);
        let mut reasons = Vec::new();
        if tool.permission == Permission::Ask {
            reasons.push(Reason::Permission);
        }
        let mut led_by = self.seen.clone();
        let filled = arguments.filled().iter();
        for filled in filled.filter(|filled| tool.steering.has(&filled.pointer)) {
            led_by.add(&filled.provenance);
        }
        let is_owners = tool.deed == Deed::Fetch && self.is_address_of_owner(arguments);
        if tool.deed.is_consequential() && !led_by.label.is_trusted() && !is_owners {
            reasons.push(Reason::Untrusted(led_by));
        }
        if provenance.label.tier < tool.reaches {
            reasons.push(Reason::Private {
                tier: provenance.label.tier,
                reaches: tool.reaches,
            });
        }
        match reasons.is_empty() {
            true => Verdict::Allowed,
            false => Verdict::Asked(reasons),
        }
    }

    /// What holds for the result of a call.
    #[must_use]
    pub fn result(&self, tool: &Tool, arguments: &Arguments) -> Provenance {
        let mut provenance = arguments.provenance(&self.seen);
        provenance.add(&Provenance::from_source(tool.returns, tool.name.as_str()));
        provenance
    }

    /// Whether the owner wrote every text of these arguments, as words of its own.
    fn is_address_of_owner(&self, arguments: &Arguments) -> bool {
        let mut texts = Vec::new();
        collect_texts(arguments.value(), &mut texts);
        let is_said = |text: &&str| self.owner_words.iter().any(|said| has_word(said, text));
        !texts.is_empty() && texts.iter().all(is_said)
    }
}

fn collect_texts<'a>(value: &'a Value, texts: &mut Vec<&'a str>) {
    match value {
        Value::String(text) => texts.push(text),
        Value::Array(values) => values.iter().for_each(|value| collect_texts(value, texts)),
        Value::Object(object) => object
            .values()
            .for_each(|value| collect_texts(value, texts)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Whether `said` has `text` between characters that belong to no address.
fn has_word(said: &str, text: &str) -> bool {
    let is_edge = |char: Option<char>| {
        char.is_none_or(|char| char.is_whitespace() || "\"'`<>()[]{},;".contains(char))
    };
    let ends = |rest: &str| {
        let mut rest = rest.chars();
        let first = rest.next();
        // A sentence may end with the address.
        is_edge(first) || matches!(first, Some('.' | '!' | '?' | ':')) && is_edge(rest.next())
    };
    !text.is_empty()
        && said.match_indices(text).any(|(at, found)| {
            is_edge(said[..at].chars().next_back()) && ends(&said[at + found.len()..])
        })
}
