//! The methods of Python's strings and mappings that chat templates call, and filters like them.
//!
//! Each pays for what it makes before it makes it.

use std::io::{self, Write};

use minijinja::value::{Kwargs, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State, Value};
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

use super::bounds::{WRITTEN_BYTES_MAX, failed, spend_bytes, text as text_of, walk};

/// The widest indentation of JSON.
const INDENT_MAX: usize = 8;
/// Bytes of JSON for one unit of fuel.
const JSON_BYTES_PER_FUEL: usize = 4;

/// Calls a method of a value.
pub(super) fn call(
    state: &State,
    value: &Value,
    method: &str,
    arguments: &[Value],
) -> Result<Value, Error> {
    match value.kind() {
        ValueKind::String => {
            let text = value.as_str().unwrap_or_default();
            spend_bytes(state, text.len())?;
            string_method(state, text, method, arguments)
        }
        ValueKind::Map => map_method(state, value, method, arguments),
        _ => Err(Error::from(ErrorKind::UnknownMethod)),
    }
}

fn string_method(
    state: &State,
    text: &str,
    method: &str,
    arguments: &[Value],
) -> Result<Value, Error> {
    let none = || from_args::<()>(arguments);
    let one = || from_args::<(&str,)>(arguments).map(|(argument,)| argument);
    Ok(match method {
        "strip" => Value::from(trimmed(text, arguments, true, true)?),
        "lstrip" => Value::from(trimmed(text, arguments, true, false)?),
        "rstrip" => Value::from(trimmed(text, arguments, false, true)?),
        "split" => split(state, text, arguments, false)?,
        "rsplit" => split(state, text, arguments, true)?,
        "splitlines" => {
            none()?;
            spend_items(state, text.lines().count())?;
            text.lines().map(Value::from).collect()
        }
        "upper" => none().map(|()| Value::from(text.to_uppercase()))?,
        "lower" => none().map(|()| Value::from(text.to_lowercase()))?,
        "title" => none().map(|()| Value::from(titled(text, true)))?,
        "capitalize" => none().map(|()| Value::from(titled(text, false)))?,
        "startswith" => Value::from(text.starts_with(one()?)),
        "endswith" => Value::from(text.ends_with(one()?)),
        "find" => Value::from(position(text, text.find(one()?))),
        "rfind" => Value::from(position(text, text.rfind(one()?))),
        "count" => Value::from(text.matches(one()?).count()),
        "replace" => {
            let (old, new, count) = from_args::<(&str, &str, Option<usize>)>(arguments)?;
            Value::from(replaced(state, text, old, new, count)?)
        }
        "join" => {
            let (parts,) = from_args::<(Value,)>(arguments)?;
            Value::from(joined(state, &parts, text)?)
        }
        "isdigit" => {
            none()?;
            Value::from(!text.is_empty() && text.chars().all(|c| c.is_ascii_digit()))
        }
        _ => return Err(Error::from(ErrorKind::UnknownMethod)),
    })
}

/// Items of a list that is about to be made, each of which takes about as much as a short text.
fn spend_items(state: &State, count: usize) -> Result<(), Error> {
    state.consume_fuel(count as u64)
}

/// The pairs of a mapping, in its order.
pub(super) fn pairs(state: &State, value: &Value) -> Result<Vec<(Value, Value)>, Error> {
    if value.kind() != ValueKind::Map {
        return Err(failed("only a mapping has items"));
    }
    spend_items(state, value.len().unwrap_or(0))?;
    let keys = value.try_iter()?;
    keys.map(|key| value.get_item(&key).map(|item| (key, item)))
        .collect()
}

/// The pairs of a mapping as lists of two.
pub(super) fn items(state: &State, value: Value) -> Result<Value, Error> {
    let pairs = pairs(state, &value)?.into_iter();
    Ok(pairs
        .map(|(key, item)| Value::from(vec![key, item]))
        .collect())
}

fn map_method(
    state: &State,
    value: &Value,
    method: &str,
    arguments: &[Value],
) -> Result<Value, Error> {
    let pairs = || {
        from_args::<()>(arguments)?;
        pairs(state, value)
    };
    Ok(match method {
        "items" => {
            from_args::<()>(arguments)?;
            items(state, value.clone())?
        }
        "keys" => pairs()?.into_iter().map(|(key, _)| key).collect(),
        "values" => pairs()?.into_iter().map(|(_, item)| item).collect(),
        "get" => {
            let (key, default) = from_args::<(&str, Option<Value>)>(arguments)?;
            let item = value.get_item(&Value::from(key))?;
            if item.is_undefined() {
                default.unwrap_or_else(|| Value::from(()))
            } else {
                item
            }
        }
        _ => return Err(Error::from(ErrorKind::UnknownMethod)),
    })
}

/// The parts as one text, with another one between them.
pub(super) fn joined(state: &State, parts: &Value, between: &str) -> Result<String, Error> {
    let mut joined = String::new();
    for (number, part) in parts.try_iter()?.enumerate() {
        spend_items(state, 1)?;
        let part = text_of(state, &part)?;
        let between = if number == 0 { "" } else { between };
        let size = joined.len().saturating_add(between.len());
        if size.saturating_add(part.len()) > WRITTEN_BYTES_MAX {
            return Err(Error::from(ErrorKind::OutOfFuel));
        }
        spend_bytes(state, between.len().saturating_add(part.len()))?;
        joined.push_str(between);
        joined.push_str(&part);
    }
    Ok(joined)
}

fn trimmed<'a>(
    text: &'a str,
    arguments: &[Value],
    start: bool,
    end: bool,
) -> Result<&'a str, Error> {
    let (characters,) = from_args::<(Option<&str>,)>(arguments)?;
    let strips = |c: char| characters.map_or(c.is_whitespace(), |set| set.contains(c));
    let text = if start {
        text.trim_start_matches(strips)
    } else {
        text
    };
    Ok(if end {
        text.trim_end_matches(strips)
    } else {
        text
    })
}

fn split(state: &State, text: &str, arguments: &[Value], from_end: bool) -> Result<Value, Error> {
    let (separator, count) = from_args::<(Option<&str>, Option<i64>)>(arguments)?;
    let parts = count.and_then(|count| usize::try_from(count).ok());
    let parts = parts.map_or(usize::MAX, |count| count.saturating_add(1));
    let Some(separator) = separator else {
        spend_items(state, text.split_whitespace().count())?;
        return Ok(text.split_whitespace().map(Value::from).collect());
    };
    if separator.is_empty() {
        return Err(failed("empty separator"));
    }
    spend_items(state, text.matches(separator).count().min(parts))?;
    if from_end {
        let mut parts: Vec<_> = text.rsplitn(parts, separator).map(Value::from).collect();
        parts.reverse();
        return Ok(Value::from(parts));
    }
    Ok(text.splitn(parts, separator).map(Value::from).collect())
}

fn replaced(
    state: &State,
    text: &str,
    old: &str,
    new: &str,
    count: Option<usize>,
) -> Result<String, Error> {
    let times = text.matches(old).count().min(count.unwrap_or(usize::MAX));
    let size = text.len().saturating_add(times.saturating_mul(new.len()));
    spend_bytes(state, size)?;
    Ok(text.replacen(old, new, count.unwrap_or(usize::MAX)))
}

/// Each word, or the first, with a large letter; what stands in for a letter counts as one.
pub(super) fn titled(text: &str, every_word: bool) -> String {
    let mut begins = true;
    let mut titled = String::with_capacity(text.len());
    for character in text.chars() {
        if begins {
            titled.extend(character.to_uppercase());
        } else {
            titled.extend(character.to_lowercase());
        }
        begins = every_word && !(character.is_alphabetic() || character >= '\u{f0000}');
    }
    titled
}

/// A place in characters, as Python counts; -1 for none.
fn position(text: &str, bytes: Option<usize>) -> i64 {
    bytes.map_or(-1, |bytes| text[..bytes].chars().count() as i64)
}

/// JSON as Python writes it: with blanks, without escapes for HTML.
pub(super) fn to_json(state: &State, value: &Value, options: Kwargs) -> Result<String, Error> {
    let indent: Option<usize> = options.get("indent")?;
    // Templates name these, and mean what happens here anyway.
    for ignored in ["ensure_ascii", "sort_keys", "separators"] {
        let _: Option<Value> = options.get(ignored)?;
    }
    options.assert_all_used()?;
    walk(state, value)?;
    let mut bytes = BoundedBytes(Vec::new());
    let written = match indent {
        Some(width) => {
            let indent = " ".repeat(width.min(INDENT_MAX));
            let formatter = PrettyFormatter::with_indent(indent.as_bytes());
            value.serialize(&mut Serializer::with_formatter(&mut bytes, formatter))
        }
        None => value.serialize(&mut Serializer::with_formatter(&mut bytes, Spaced)),
    };
    written.map_err(|error| match error.is_io() {
        true => Error::from(ErrorKind::OutOfFuel),
        false => {
            Error::new(ErrorKind::BadSerialization, "cannot be written as JSON").with_source(error)
        }
    })?;
    state.consume_fuel((bytes.0.len() / JSON_BYTES_PER_FUEL) as u64)?;
    Ok(String::from_utf8_lossy(&bytes.0).into_owned())
}

/// Bytes that stop where they are as long as a prompt may be.
struct BoundedBytes(Vec<u8>);

impl Write for BoundedBytes {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len().saturating_add(bytes.len()) > WRITTEN_BYTES_MAX {
            return Err(io::Error::from(io::ErrorKind::FileTooLarge));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// `{"a": 1, "b": [2, 3]}`.
struct Spaced;

impl Formatter for Spaced {
    fn begin_array_value<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first {
            Ok(())
        } else {
            writer.write_all(b", ")
        }
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first {
            Ok(())
        } else {
            writer.write_all(b", ")
        }
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
    ) -> std::io::Result<()> {
        writer.write_all(b": ")
    }
}
