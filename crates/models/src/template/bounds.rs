//! What keeps the work of a template within its fuel.
//!
//! `minijinja` pays for each step and each byte that a template makes. It does not see that the same
//! list stands in another one twice: 64 doublings take 64 steps, and writing, comparing or hashing
//! the result takes 2^64. So a template's instructions are changed before they run: whatever makes
//! a list or a mapping is followed by a look at all that it holds, which is charged and bounded in
//! number and depth, and the operators that walk through values are functions of ours, which stop
//! at the longest prompt.

use std::collections::BTreeMap;
use std::fmt::{self, Write};

use minijinja::machinery::{CodeGenerator, Instruction, Instructions, parse};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Rest, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Output, State, Value};

/// The most values that stand in one value.
pub(super) const NODES_MAX: usize = 1 << 18;
/// How deep values stand in one another.
pub(super) const DEPTH_MAX: usize = 160;
/// The longest text that is written at once, in bytes.
pub(super) const WRITTEN_BYTES_MAX: usize = super::PROMPT_BYTES_MAX;
/// Values that are looked at for one unit of fuel.
const NODES_PER_FUEL: usize = 8;
/// Bytes that are written of lists and mappings for one unit of fuel.
const BYTES_PER_FUEL: usize = 4;
/// The most items of a range.
const RANGE_MAX: i64 = 100_000;

const KEPT: &str = "~kept";
const STORED: &str = "~stored";
const SCALAR: &str = "~scalar";
const CONCAT: &str = "~concat";
const MAPPING: &str = "~mapping";
const CONTAINS: &str = "~contains";
/// Filters and tests that look at the environment again each time.
const NO_LOCAL: u8 = u8::MAX;

/// Filters of minijinja that no chat template needs, or in whose place ours stand.
const NOT_FILTERS: [&str; 22] = [
    "attr",
    "batch",
    "chain",
    "e",
    "escape",
    "format",
    "groupby",
    "items",
    "join",
    "lines",
    "pprint",
    "slice",
    "split",
    "splitlines",
    "string",
    "striptags",
    "sum",
    "title",
    "tojson",
    "urlencode",
    "wordcount",
    "zip",
];
/// Tests that would walk through values, and those that ask for the environment.
const NOT_TESTS: [&str; 18] = [
    "!=",
    "<",
    "<=",
    "==",
    ">",
    ">=",
    "eq",
    "equalto",
    "ge",
    "greaterthan",
    "gt",
    "in",
    "le",
    "lessthan",
    "lt",
    "ne",
    "filter",
    "test",
];

/// Takes away what templates do not need, and puts bounded functions in the place of the rest.
pub(super) fn bind(environment: &mut Environment<'_>) {
    for name in NOT_FILTERS {
        environment.remove_filter(name);
    }
    for name in NOT_TESTS {
        environment.remove_test(name);
    }
    environment.remove_global("debug");
    environment.remove_global("dict");
    environment.set_formatter(emit);
    environment.add_filter(KEPT, kept);
    environment.add_filter(STORED, stored);
    environment.add_filter(SCALAR, scalar);
    environment.add_function(CONCAT, |state: &State, left: Value, right: Value| {
        let (left, right) = (text(state, &left)?, text(state, &right)?);
        spend_bytes(state, left.len().saturating_add(right.len()))?;
        Ok::<_, Error>(left + &right)
    });
    environment.add_function(MAPPING, mapping);
    environment.add_function(CONTAINS, |state: &State, value: Value, container: Value| {
        contains(state, &value, &container)
    });
    environment.add_function("range", range);
    environment.add_filter("string", |state: &State, value: Value| text(state, &value));
    for name in ["==", "eq", "equalto"] {
        environment.add_test(name, |state: &State, left: Value, right: Value| {
            equal(state, &left, &right)
        });
    }
    for name in ["!=", "ne"] {
        environment.add_test(name, |state: &State, left: Value, right: Value| {
            equal(state, &left, &right).map(|equal| !equal)
        });
    }
    environment.add_test("in", |state: &State, value: Value, container: Value| {
        contains(state, &value, &container)
    });
    for (name, compare) in COMPARISONS {
        environment.add_function(name, move |state: &State, left: Value, right: Value| {
            walk(state, &left)?;
            walk(state, &right)?;
            Ok::<_, Error>(compare(&left, &right))
        });
    }
}

type Comparison = (&'static str, fn(&Value, &Value) -> bool);

/// The operators that compare, as functions that cannot be named in a template.
const COMPARISONS: [Comparison; 6] = [
    ("~==", |left, right| left == right),
    ("~!=", |left, right| left != right),
    ("~<", |left, right| left < right),
    ("~<=", |left, right| left <= right),
    ("~>", |left, right| left > right),
    ("~>=", |left, right| left >= right),
];

/// Compiles a template into instructions that cannot do more than their fuel pays for.
pub(super) fn compile<'a>(text: &'a str, syntax: SyntaxConfig) -> Result<Instructions<'a>, Error> {
    let tree = parse(text, "", syntax)?;
    let mut generator = CodeGenerator::new("", text);
    generator.compile_stmt(&tree);
    let (plain, _) = generator.finish();
    let mut places = Vec::new();
    let mut number = 0u32;
    let mut index = 0u32;
    while let Some(instruction) = plain.get(index) {
        places.push(number);
        let (before, _, after) = bounded(instruction)?;
        number += u32::try_from(before.len() + 1 + after.len()).unwrap_or(u32::MAX);
        index += 1;
    }
    places.push(number);
    let mut changed = Instructions::new("", text);
    let mut index = 0u32;
    while let Some(instruction) = plain.get(index) {
        let (before, mut itself, after) = bounded(instruction)?;
        move_jump(&mut itself, &places);
        for instruction in before.into_iter().chain([itself]).chain(after) {
            changed.add(instruction);
        }
        index += 1;
    }
    Ok(changed)
}

type Bounded<'a> = (Vec<Instruction<'a>>, Instruction<'a>, Vec<Instruction<'a>>);

/// An instruction with what must run before and after it.
fn bounded<'a>(instruction: &Instruction<'a>) -> Result<Bounded<'a>, Error> {
    let filter = |name: &'static str| Instruction::ApplyFilter(name, Some(1), NO_LOCAL);
    let function = |name: &'static str, count: usize| {
        let count = u16::try_from(count).map_err(|_| failed("a mapping has too many pairs"))?;
        Ok::<_, Error>(Instruction::CallFunction(name, Some(count)))
    };
    let kept = || Vec::from([filter(KEPT)]);
    let (mut before, mut after) = (Vec::new(), Vec::new());
    let itself = match instruction {
        Instruction::BuildList(_)
        | Instruction::BuildTuple(_)
        | Instruction::Add
        | Instruction::Mul
        | Instruction::Slice
        | Instruction::ApplyFilter(..)
        | Instruction::CallFunction(..)
        | Instruction::CallMethod(..)
        | Instruction::CallObject(_) => {
            after = kept();
            instruction.clone()
        }
        Instruction::BuildMap(pairs) => {
            after = kept();
            function(MAPPING, pairs.saturating_mul(2))?
        }
        Instruction::SetAttr(_) => {
            before = Vec::from([Instruction::Swap, filter(STORED), Instruction::Swap]);
            instruction.clone()
        }
        Instruction::GetItem | Instruction::CompareAndPreserve(_) => {
            before = Vec::from([filter(SCALAR)]);
            instruction.clone()
        }
        Instruction::StringConcat => function(CONCAT, 2)?,
        Instruction::In => function(CONTAINS, 2)?,
        Instruction::Eq => function("~==", 2)?,
        Instruction::Ne => function("~!=", 2)?,
        Instruction::Lt => function("~<", 2)?,
        Instruction::Lte => function("~<=", 2)?,
        Instruction::Gt => function("~>", 2)?,
        Instruction::Gte => function("~>=", 2)?,
        other => other.clone(),
    };
    Ok((before, itself, after))
}

fn move_jump(instruction: &mut Instruction<'_>, places: &[u32]) {
    match instruction {
        Instruction::Iterate(target)
        | Instruction::Jump(target)
        | Instruction::JumpIfFalse(target)
        | Instruction::JumpIfFalseOrPop(target)
        | Instruction::JumpIfTrueOrPop(target)
        | Instruction::BuildMacro(_, target, _) => {
            if let Some(place) = places.get(*target as usize) {
                *target = *place;
            }
        }
        _ => {}
    }
}

pub(super) fn failed(why: &'static str) -> Error {
    Error::new(ErrorKind::InvalidOperation, why)
}

fn out_of_fuel() -> Error {
    Error::from(ErrorKind::OutOfFuel)
}

/// Charges for bytes that are written.
pub(super) fn spend_bytes(state: &State, bytes: usize) -> Result<(), Error> {
    if bytes > WRITTEN_BYTES_MAX {
        return Err(out_of_fuel());
    }
    state.consume_fuel((bytes / super::BYTES_PER_WRITTEN_FUEL) as u64)
}

/// Looks at all that a value holds, and charges for it.
pub(super) fn walk(state: &State, value: &Value) -> Result<(), Error> {
    if value.as_object().is_none() {
        return Ok(());
    }
    let mut left = NODES_MAX;
    visit(value, DEPTH_MAX, &mut left)?;
    state.consume_fuel(((NODES_MAX - left) / NODES_PER_FUEL) as u64)
}

fn visit(value: &Value, depth: usize, left: &mut usize) -> Result<(), Error> {
    *left = left.checked_sub(1).ok_or_else(out_of_fuel)?;
    let Some(object) = value.as_object() else {
        return Ok(());
    };
    let depth = depth.checked_sub(1).ok_or_else(out_of_fuel)?;
    if is_namespace(value) && depth + 1 < DEPTH_MAX {
        return Err(failed("a namespace cannot stand in another value"));
    }
    match value.kind() {
        ValueKind::Map => {
            for (key, item) in object.try_iter_pairs().into_iter().flatten() {
                visit(&key, depth, left)?;
                visit(&item, depth, left)?;
            }
        }
        ValueKind::Seq | ValueKind::Iterable => {
            for item in object.try_iter().into_iter().flatten() {
                visit(&item, depth, left)?;
            }
        }
        _ => {}
    }
    Ok(())
}

fn is_namespace(value: &Value) -> bool {
    let object = value.as_object();
    object.is_some_and(|object| object.type_name().ends_with("Namespace"))
}

/// A value that was just made.
fn kept(state: &State, value: Value) -> Result<Value, Error> {
    // What a namespace holds was looked at when it was put there.
    if !is_namespace(&value) {
        walk(state, &value)?;
    }
    Ok(value)
}

/// A value that is put into a namespace.
fn stored(state: &State, value: Value) -> Result<Value, Error> {
    if is_namespace(&value) {
        return Err(failed("a namespace cannot stand in another value"));
    }
    kept(state, value)
}

/// A key, or what is compared in a chain.
fn scalar(value: Value) -> Result<Value, Error> {
    match value.kind() {
        ValueKind::Map | ValueKind::Seq | ValueKind::Iterable | ValueKind::Plain => {
            Err(failed("a list or a mapping cannot stand here"))
        }
        _ => Ok(value),
    }
}

fn mapping(parts: Rest<Value>) -> Result<Value, Error> {
    let mut pairs = BTreeMap::new();
    let mut parts = parts.0.into_iter();
    while let (Some(key), Some(value)) = (parts.next(), parts.next()) {
        pairs.insert(scalar(key)?, value);
    }
    Ok(Value::from(pairs))
}

fn range(lower: i64, upper: Option<i64>, step: Option<i64>) -> Result<Value, Error> {
    let (from, to) = upper.map_or((0, lower), |upper| (lower, upper));
    let step = step.unwrap_or(1);
    let distance = i128::from(to) - i128::from(from);
    let count = match step {
        0 => return Err(failed("a range has a step of 0")),
        step => (distance + i128::from(step) - i128::from(step.signum())) / i128::from(step),
    };
    let count = count.max(0);
    if count > i128::from(RANGE_MAX) {
        return Err(failed("a range has too many items"));
    }
    let item = |index: i128| Value::from(i128::from(from) + index * i128::from(step));
    Ok((0..count).map(item).collect())
}

fn equal(state: &State, left: &Value, right: &Value) -> Result<bool, Error> {
    walk(state, left)?;
    walk(state, right)?;
    Ok(left == right)
}

fn contains(state: &State, value: &Value, container: &Value) -> Result<bool, Error> {
    walk(state, value)?;
    walk(state, container)?;
    if container.is_undefined() {
        return Ok(false);
    }
    if let Some(container) = container.as_str() {
        spend_bytes(state, container.len())?;
        return Ok(container.contains(&*text(state, value)?));
    }
    let Some(object) = container.as_object() else {
        return Err(failed("nothing can be in this value"));
    };
    if container.kind() == ValueKind::Map {
        scalar(value.clone())?;
        return Ok(object.get_value(value).is_some());
    }
    let mut items = object.try_iter().into_iter().flatten();
    Ok(items.any(|item| item == *value))
}

/// A text that stops where it is as long as a prompt may be.
pub(super) struct BoundedText {
    pub(super) text: String,
}

impl Write for BoundedText {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.text.len().saturating_add(text.len()) > WRITTEN_BYTES_MAX {
            return Err(fmt::Error);
        }
        self.text.push_str(text);
        Ok(())
    }
}

/// A value as text.
pub(super) fn text(state: &State, value: &Value) -> Result<String, Error> {
    if let Some(text) = value.as_str() {
        return Ok(text.to_owned());
    }
    let is_plain = is_namespace(value);
    if is_plain {
        return Err(failed("a namespace has no text"));
    }
    walk(state, value)?;
    let mut written = BoundedText {
        text: String::new(),
    };
    write!(written, "{value}").map_err(|_| out_of_fuel())?;
    state.consume_fuel((written.text.len() / BYTES_PER_FUEL) as u64)?;
    Ok(written.text)
}

fn emit(out: &mut Output<'_>, state: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    match value.as_str() {
        Some(text) => out.write_str(text).map_err(Error::from),
        None => out.write_str(&text(state, value)?).map_err(Error::from),
    }
}
