//! Paths of requests to the paid reverse proxy (spec: payments, section 9).

use hearth_payments::proxy::path::canonical;

/// A path has one form. In it no program finds a segment of dots, an empty one, or a separator that is coded, after
/// however many rounds of decoding.
pub fn paths(input: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(input) else {
        return false;
    };
    let Ok(form) = canonical(text) else {
        return false;
    };
    assert_eq!(canonical(&form).as_ref(), Ok(&form), "{text:?}");
    let segments = form.matches('/').count();
    let mut round = form.clone().into_bytes();
    for _ in 0..4 {
        let decoded = String::from_utf8_lossy(&round).into_owned();
        assert_eq!(decoded.matches(['/', '\\']).count(), segments, "{text:?}");
        let mut names = decoded.split('/').skip(1).peekable();
        while let Some(name) = names.next() {
            let name = name.split(';').next().unwrap_or_default();
            assert!(name != "." && name != "..", "{text:?}");
            assert!(!name.is_empty() || names.peek().is_none(), "{text:?}");
        }
        round = decode_once(&round);
    }
    true
}

fn decode_once(bytes: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::new();
    let mut rest = bytes;
    while let [first, after @ ..] = rest {
        let code = after
            .get(..2)
            .and_then(|code| std::str::from_utf8(code).ok());
        let code = code.filter(|code| code.bytes().all(|byte| byte.is_ascii_hexdigit()));
        match code.map(|code| u8::from_str_radix(code, 16)) {
            Some(Ok(byte)) if *first == b'%' => {
                decoded.push(byte);
                rest = &after[2..];
            }
            _ => {
                decoded.push(*first);
                rest = after;
            }
        }
    }
    decoded
}
