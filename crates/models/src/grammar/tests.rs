//! The bounds that hold without a model.

use super::*;

#[test]
fn what_is_too_long_or_too_deep_is_refused_unread() {
    let long = GrammarSource::Lark("x".repeat(GRAMMAR_BYTES_MAX + 1));
    assert_eq!(check(&long), Err(GrammarError::TooLong));
    let deep = GrammarSource::JsonSchema("[".repeat(NESTING_MAX + 1));
    assert_eq!(check(&deep), Err(GrammarError::TooDeep));
    let flat = GrammarSource::Lark("start: (\"a\" | \"b\")*".repeat(100));
    assert_eq!(check(&flat), Ok(()));
}
