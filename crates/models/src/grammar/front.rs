//! What a grammar may ask for, looked at before llguidance sees it.
//!
//! llguidance bounds its own steps, but not the memory of all its automata: where several patterns
//! must hold at once, their product is built, which grows with the product of their sizes. What is
//! known to grow so is counted here. It is the second line: whoever compiles a stranger's grammar
//! does so where memory and time are limited anyway.

use serde_json::{Map, Value};

use super::{GrammarError, finite, refused};

/// Schemas that must hold at the same time, in all of a schema.
const ALL_OF_MAX: usize = 32;
/// Patterns of a schema in which some schemas must hold at the same time.
const CROSSED_PATTERNS_MAX: usize = 4;
/// Patterns of a schema in which none must.
const PATTERNS_MAX: usize = 64;
/// Choices that schemas which must hold at the same time leave, multiplied.
const CROSSED_CHOICES_MAX: usize = 256;
/// Single characters that a pattern is made of, with all its repetitions written out.
const PATTERN_WEIGHT_MAX: usize = 50_000;
/// The largest number of items, properties or characters that a schema may count.
const COUNT_MAX: u64 = 50_000;
/// What stands before a schema in a grammar in the form of Lark.
const SCHEMA_MARK: &str = "%json";
/// Schemas in one grammar.
const LARK_SCHEMAS_MAX: usize = 64;
/// Patterns of one grammar that must hold at the same time.
const LARK_CROSSED_MAX: usize = 4;
/// What is said of a pattern that is too heavy.
const TOO_HEAVY: &str = "a pattern repeats more than 50000 characters; write smaller repetitions";
/// What is said of a schema that no answer can be done with.
const ENDLESS: &str = "no answer that follows it has an end, because each needs another one inside; let what refers to the schema itself \
     be left out, be null or be an empty list";

/// Refuses a schema that is known to take more than can be had.
pub(super) fn check_schema(schema: &Value) -> Result<(), GrammarError> {
    let mut seen = Seen::default();
    seen.look(schema, false)?;
    let crosses = seen.all_of > 0 || seen.crossed_references > 0;
    let most = if crosses {
        CROSSED_PATTERNS_MAX
    } else {
        PATTERNS_MAX
    };
    if seen.patterns > most {
        let what = if crosses {
            "patterns where schemas must hold at the same time (allOf, or beside $ref)"
        } else {
            "patterns"
        };
        return Err(too_many(seen.patterns, what, most));
    }
    if seen.all_of > ALL_OF_MAX {
        return Err(too_many(seen.all_of, "schemas in allOf", ALL_OF_MAX));
    }
    if crosses && seen.choices > CROSSED_CHOICES_MAX {
        let what = "choices where schemas must hold at the same time";
        return Err(too_many(seen.choices, what, CROSSED_CHOICES_MAX));
    }
    if !finite::has_finite_answer(schema) {
        return Err(refused(&ENDLESS));
    }
    Ok(())
}

/// Refuses a grammar that is known to take more than can be had, by its patterns and by the schemas in it.
pub(super) fn check_lark(text: &str) -> Result<(), GrammarError> {
    let (mut rules, mut rest, mut schemas) = (String::new(), text, 0);
    while let Some(at) = rest.find(SCHEMA_MARK) {
        schemas += 1;
        if schemas > LARK_SCHEMAS_MAX {
            return Err(too_many(schemas, "schemas", LARK_SCHEMAS_MAX));
        }
        let (before, after) = rest.split_at(at + SCHEMA_MARK.len());
        rules.push_str(before);
        let mut values = serde_json::Deserializer::from_str(after).into_iter::<Value>();
        // What is no JSON is not a schema either, or llguidance says what is wrong with it.
        let schema = values.next().and_then(Result::ok);
        let end = schema.as_ref().map_or(0, |_| values.byte_offset());
        if let Some(schema) = schema {
            check_schema(&schema)?;
        }
        rest = &after[end..];
    }
    rules.push_str(rest);
    let crossed = rules.matches('&').count();
    if crossed > LARK_CROSSED_MAX {
        let what = "patterns that must hold at the same time (&)";
        return Err(too_many(crossed, what, LARK_CROSSED_MAX));
    }
    if weight(&rules) > PATTERN_WEIGHT_MAX + rules.len() {
        return Err(refused(&TOO_HEAVY));
    }
    Ok(())
}

fn too_many(count: usize, what: &str, most: usize) -> GrammarError {
    refused(&format!(
        "it has {count} {what}, and at most {most} are followed"
    ))
}

/// What was counted of a schema.
#[derive(Debug)]
struct Seen {
    all_of: usize,
    crossed_references: usize,
    patterns: usize,
    choices: usize,
}

impl Default for Seen {
    fn default() -> Self {
        Self {
            all_of: 0,
            crossed_references: 0,
            patterns: 0,
            choices: 1,
        }
    }
}

impl Seen {
    /// Looks at a schema, or at whatever stands in one: `crossed` where others must hold too.
    fn look(&mut self, value: &Value, crossed: bool) -> Result<(), GrammarError> {
        match value {
            Value::Array(items) => items.iter().try_for_each(|item| self.look(item, crossed)),
            Value::Object(schema) => self.look_at(schema, crossed),
            _ => Ok(()),
        }
    }

    fn look_at(&mut self, schema: &Map<String, Value>, crossed: bool) -> Result<(), GrammarError> {
        let list = |key: &str| schema.get(key).and_then(Value::as_array);
        let all_of = list("allOf").map_or(0, Vec::len);
        self.all_of = self.all_of.saturating_add(all_of);
        let says_more = schema.keys().any(|key| narrows(key));
        if schema.contains_key("$ref") && says_more {
            self.crossed_references += 1;
        }
        let crossed = crossed || all_of > 0 || says_more;
        if let Some(Value::String(pattern)) = schema.get("pattern") {
            self.patterns += 1;
            check_pattern(pattern)?;
        }
        if let Some(Value::Object(patterns)) = schema.get("patternProperties") {
            self.patterns = self.patterns.saturating_add(patterns.len());
            patterns
                .keys()
                .try_for_each(|pattern| check_pattern(pattern))?;
        }
        for key in ["anyOf", "oneOf"] {
            let choices = list(key).map_or(1, Vec::len);
            if crossed {
                self.choices = self.choices.saturating_mul(choices.max(1));
            }
        }
        for key in [
            "minLength",
            "maxLength",
            "minItems",
            "maxItems",
            "minProperties",
            "maxProperties",
        ] {
            let count = schema.get(key).and_then(Value::as_f64);
            if count.is_some_and(|count| count > COUNT_MAX as f64) {
                return Err(refused(&format!(
                    "`{key}` is more than {COUNT_MAX}; leave it out"
                )));
            }
        }
        let mut parts = schema.iter();
        parts.try_for_each(|(key, value)| self.look(value, crossed && key != "properties"))
    }
}

/// Whether a keyword narrows what stands beside it.
fn narrows(keyword: &str) -> bool {
    matches!(
        keyword,
        "pattern" | "format" | "allOf" | "anyOf" | "oneOf" | "patternProperties" | "not"
    )
}

fn check_pattern(pattern: &str) -> Result<(), GrammarError> {
    if weight(pattern) > PATTERN_WEIGHT_MAX {
        return Err(refused(&TOO_HEAVY));
    }
    Ok(())
}

/// How many single characters a pattern is made of, with all its repetitions written out.
fn weight(pattern: &str) -> usize {
    // What was read of each group that is open, and the last part of it, which may be repeated.
    let mut open = vec![(0usize, 0usize)];
    let mut rest = pattern.chars().peekable();
    let mut in_class = false;
    while let Some(character) = rest.next() {
        let depth = open.len();
        let (sum, last) = open
            .last_mut()
            .expect("the outermost group is never closed");
        match character {
            '\\' => {
                rest.next();
                if !in_class {
                    *sum = sum.saturating_add(std::mem::replace(last, 1));
                }
            }
            ']' => in_class = false,
            _ if in_class => {}
            '[' => {
                in_class = true;
                *sum = sum.saturating_add(std::mem::replace(last, 1));
            }
            '(' => open.push((0, 0)),
            ')' if depth > 1 => {
                let (inner, part) = open.pop().unwrap_or_default();
                let (sum, last) = open.last_mut().expect("one is left");
                *sum = sum.saturating_add(std::mem::replace(last, inner.saturating_add(part)));
            }
            '{' => {
                let mut most = None;
                let mut number = String::new();
                while let Some(next) = rest.next_if(|c| c.is_ascii_digit() || *c == ',') {
                    if next == ',' {
                        most = number.parse().ok().max(most);
                        number.clear();
                    } else {
                        number.push(next);
                    }
                }
                let written = !number.is_empty() && number.parse::<usize>().is_err();
                let most: Option<usize> = number.parse().ok().max(most);
                if rest.peek() == Some(&'}') && (most.is_some() || written) {
                    *last = last.saturating_mul(most.unwrap_or(usize::MAX).max(1));
                }
            }
            '*' | '+' | '?' | '|' | '}' => {}
            _ => *sum = sum.saturating_add(std::mem::replace(last, 1)),
        }
    }
    let parts = open.iter().flat_map(|(sum, last)| [*sum, *last]);
    parts.fold(0, usize::saturating_add)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pattern_weighs_what_it_repeats() {
        for (pattern, expected) in [
            ("abc", 3),
            ("a{5}", 5),
            ("a{2,7}b", 8),
            ("(ab){10}", 20),
            ("((a{10}){10}){10}", 1_000),
            ("[a-z]{4}", 4),
            (r"\d{3}-\d{4}", 8),
            ("a{3,}", 3),
            ("{\"a\": 1}", 6),
        ] {
            assert_eq!(weight(pattern), expected, "{pattern}");
        }
        assert!(weight("((((a{1,1000}){1,1000}){1,1000}){1,1000})") > PATTERN_WEIGHT_MAX);
        assert!(weight("a{99999999999999999999999}") > PATTERN_WEIGHT_MAX);
    }

    #[test]
    fn a_schema_inside_of_a_grammar_is_looked_at_too() {
        let part = |i: usize| json!({"type": "string", "pattern": format!(".*[a-m]{{{i}}}.*")});
        let crossed = json!({"allOf": (1..18).map(part).collect::<Vec<_>>()});
        let ands = ["/.*[a-m]{5}.*/"; 9].join(" & ");
        for hostile in [
            format!("start: %json {crossed}"),
            format!("start: a\na: \"x\" b\nb: %json {{\"type\": \"object\"}}\nc: %json {crossed}"),
            format!("start: T\nT: {ands}"),
            "start: /((a{900}){900})/".to_owned(),
            "start: %json {}\n".repeat(100),
        ] {
            let found = check_lark(&hostile);
            assert!(matches!(found, Err(GrammarError::Refused(_))), "{hostile}");
        }
        let words = json!({"type": "object", "description": "a & b & c & d & e & f".repeat(2_000)});
        assert_eq!(check_lark(&format!("start: %json {words}\n")), Ok(()));
        assert_eq!(check_lark("start: \"%json\""), Ok(()));
    }

    #[test]
    fn what_is_known_to_blow_up_is_refused_in_front() {
        let crossed = |count: usize| {
            let part = |i| json!({"type": "string", "pattern": format!(".*[a-m]{{{i}}}.*")});
            json!({"allOf": (1..=count).map(part).collect::<Vec<_>>()})
        };
        let wide = |count: usize| {
            let choice =
                json!({"anyOf": [{"type": "string"}, {"type": "null"}, {"type": "integer"}]});
            json!({"allOf": vec![choice; count]})
        };
        let chain = json!({"$defs": {
            "a": {"pattern": "a"}, "b": {"$ref": "#/$defs/a", "pattern": "b"},
            "c": {"$ref": "#/$defs/b", "pattern": "c"}, "d": {"$ref": "#/$defs/c", "pattern": "d"},
            "e": {"$ref": "#/$defs/d", "pattern": "e"}}, "$ref": "#/$defs/e"});
        let beside = json!({"pattern": "a", "anyOf": [
            {"pattern": "b", "allOf": [{"pattern": "c"}, {"pattern": "d"}, {"pattern": "e"}]}]});
        for hostile in [
            crossed(17),
            crossed(59),
            crossed(5),
            wide(6),
            wide(40),
            chain,
            beside,
            json!({"type": "string", "pattern": "((a{500}){500})"}),
            json!({"patternProperties": {"(a{300}){300}": {}}}),
            json!({"type": "string", "maxLength": 4_000_000_000_u64}),
            json!({"type": "array", "minItems": 1e12}),
            json!({"properties": {"x": {"pattern": "a{99999}"}}}),
        ] {
            let found = check_schema(&hostile);
            assert!(matches!(found, Err(GrammarError::Refused(_))), "{hostile}");
        }
        for honest in [
            crossed(3),
            json!({"type": "object", "properties": {
                "zip": {"type": "string", "pattern": "^[0-9]{5}$"},
                "kind": {"anyOf": [{"const": "a"}, {"const": "b"}]},
                "of": {"allOf": [{"$ref": "#/$defs/x"}]}}, "$defs": {"x": {"type": "integer"}}}),
            json!(true),
            json!({}),
        ] {
            assert_eq!(check_schema(&honest), Ok(()), "{honest}");
        }
    }
}
