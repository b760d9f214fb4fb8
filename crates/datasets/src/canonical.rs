//! JSON in one form only, so that its bytes can be hashed: RFC 8785, for whole numbers and keys of ASCII.

use serde_json::Value;

/// Returns the canonical bytes of `value`: keys in order, no white space.
///
/// Keys must be ASCII and numbers whole, of at most 2^53: that is all that a manifest has.
pub fn bytes(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    write(value, &mut out);
    out
}

fn write(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Array(items) => {
            out.push(b'[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write(item, out);
            }
            out.push(b']');
        }
        Value::Object(fields) => {
            // The order in which serde_json keeps keys depends on who else is in the build.
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_unstable_by_key(|(key, _)| key.as_str());
            out.push(b'{');
            for (index, (key, value)) in fields.into_iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                plain(&Value::String(key.clone()), out);
                out.push(b':');
                write(value, out);
            }
            out.push(b'}');
        }
        other => plain(other, out),
    }
}

fn plain(value: &Value, out: &mut Vec<u8>) {
    out.extend_from_slice(value.to_string().as_bytes());
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn keys_are_in_order_and_texts_are_escaped_as_little_as_possible() {
        let value = json!({"b": [1, true, null], "a": {"@z": "é\n\u{1}\"", "@a": ""}});
        let expected = "{\"a\":{\"@a\":\"\",\"@z\":\"é\\n\\u0001\\\"\"},\"b\":[1,true,null]}";
        assert_eq!(String::from_utf8(bytes(&value)).unwrap(), expected);
    }
}
