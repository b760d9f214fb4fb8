//! The methods of Python's strings and mappings that chat templates call.

use minijinja::value::{Kwargs, ValueKind, from_args};
use minijinja::{Error, ErrorKind, Value};
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

/// The widest indentation of JSON.
const INDENT_MAX: usize = 8;

/// Calls a method of a value.
pub(super) fn call(value: &Value, method: &str, arguments: &[Value]) -> Result<Value, Error> {
    match value.kind() {
        ValueKind::String => {
            let text = value.as_str().unwrap_or_default();
            string_method(text, method, arguments)
        }
        ValueKind::Map => map_method(value, method, arguments),
        _ => Err(Error::from(ErrorKind::UnknownMethod)),
    }
}

fn string_method(text: &str, method: &str, arguments: &[Value]) -> Result<Value, Error> {
    let none = || from_args::<()>(arguments);
    let one = || from_args::<(&str,)>(arguments).map(|(argument,)| argument);
    Ok(match method {
        "strip" => Value::from(trimmed(text, arguments, true, true)?),
        "lstrip" => Value::from(trimmed(text, arguments, true, false)?),
        "rstrip" => Value::from(trimmed(text, arguments, false, true)?),
        "split" => split(text, arguments, false)?,
        "rsplit" => split(text, arguments, true)?,
        "splitlines" => none().map(|()| text.lines().map(Value::from).collect())?,
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
            Value::from(replaced(text, old, new, count)?)
        }
        "join" => {
            let (parts,) = from_args::<(Value,)>(arguments)?;
            let parts: Vec<String> = parts.try_iter()?.map(|part| part.to_string()).collect();
            Value::from(parts.join(text))
        }
        "isdigit" => {
            none()?;
            Value::from(!text.is_empty() && text.chars().all(|c| c.is_ascii_digit()))
        }
        _ => return Err(Error::from(ErrorKind::UnknownMethod)),
    })
}

fn map_method(value: &Value, method: &str, arguments: &[Value]) -> Result<Value, Error> {
    let pairs = || -> Result<Vec<(Value, Value)>, Error> {
        from_args::<()>(arguments)?;
        let keys = value.try_iter()?;
        keys.map(|key| value.get_item(&key).map(|item| (key, item)))
            .collect()
    };
    Ok(match method {
        "items" => {
            let pairs = pairs()?.into_iter();
            pairs
                .map(|(key, item)| Value::from(vec![key, item]))
                .collect()
        }
        "keys" => pairs()?.into_iter().map(|(key, _)| key).collect(),
        "values" => pairs()?.into_iter().map(|(_, item)| item).collect(),
        "get" => {
            let (key, default) = from_args::<(Value, Option<Value>)>(arguments)?;
            let item = value.get_item(&key)?;
            if item.is_undefined() {
                default.unwrap_or_else(|| Value::from(()))
            } else {
                item
            }
        }
        _ => return Err(Error::from(ErrorKind::UnknownMethod)),
    })
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

fn split(text: &str, arguments: &[Value], from_end: bool) -> Result<Value, Error> {
    let (separator, count) = from_args::<(Option<&str>, Option<i64>)>(arguments)?;
    let parts = count.and_then(|count| usize::try_from(count).ok());
    let parts = parts.map_or(usize::MAX, |count| count.saturating_add(1));
    let Some(separator) = separator else {
        return Ok(text.split_whitespace().map(Value::from).collect());
    };
    if separator.is_empty() {
        return Err(Error::new(ErrorKind::InvalidOperation, "empty separator"));
    }
    if from_end {
        let mut parts: Vec<_> = text.rsplitn(parts, separator).map(Value::from).collect();
        parts.reverse();
        return Ok(Value::from(parts));
    }
    Ok(text.splitn(parts, separator).map(Value::from).collect())
}

fn replaced(text: &str, old: &str, new: &str, count: Option<usize>) -> Result<String, Error> {
    let times = text.matches(old).count().min(count.unwrap_or(usize::MAX));
    let size = text.len().saturating_add(times.saturating_mul(new.len()));
    if size > super::PROMPT_BYTES_MAX {
        return Err(Error::from(ErrorKind::OutOfFuel));
    }
    Ok(text.replacen(old, new, count.unwrap_or(usize::MAX)))
}

fn titled(text: &str, every_word: bool) -> String {
    let mut begins = true;
    let mut titled = String::with_capacity(text.len());
    for character in text.chars() {
        if begins {
            titled.extend(character.to_uppercase());
        } else {
            titled.extend(character.to_lowercase());
        }
        begins = every_word && !character.is_alphabetic();
    }
    titled
}

/// A place in characters, as Python counts; -1 for none.
fn position(text: &str, bytes: Option<usize>) -> i64 {
    bytes.map_or(-1, |bytes| text[..bytes].chars().count() as i64)
}

/// JSON as Python writes it: with blanks, without escapes for HTML.
pub(super) fn to_json(value: &Value, options: Kwargs) -> Result<String, Error> {
    let indent: Option<usize> = options.get("indent")?;
    // Templates name these, and mean what happens here anyway.
    for ignored in ["ensure_ascii", "sort_keys", "separators"] {
        let _: Option<Value> = options.get(ignored)?;
    }
    options.assert_all_used()?;
    let mut bytes = Vec::new();
    let written = match indent {
        Some(width) => {
            let indent = " ".repeat(width.min(INDENT_MAX));
            let formatter = PrettyFormatter::with_indent(indent.as_bytes());
            value.serialize(&mut Serializer::with_formatter(&mut bytes, formatter))
        }
        None => value.serialize(&mut Serializer::with_formatter(&mut bytes, Spaced)),
    };
    written.map_err(|error| {
        Error::new(ErrorKind::BadSerialization, "cannot be written as JSON").with_source(error)
    })?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
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
