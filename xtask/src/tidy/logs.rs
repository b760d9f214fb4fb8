//! A line of a log that prints an error prints its causes too, since an error's own text leaves them out.
//!
//! What counts is the name: a variable called `error` that a macro of `tracing` is given as it stands. Texts have
//! another name.

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};

use super::{Source, Violation};

/// The macros that write to a log.
const MACROS: [&str; 6] = ["trace", "debug", "info", "warn", "error", "event"];
/// The marks by which they take a value that is shown.
const MARKS: [char; 2] = ['%', '?'];

/// The lines of logs that print an error without its causes.
pub(super) fn check(source: &Source) -> Vec<Violation> {
    // What does not parse is told by the rule about functions.
    let Ok(file) = syn::parse_file(&source.text) else {
        return Vec::new();
    };
    let mut logs = Logs::default();
    logs.visit_file(&file);
    let message = "a log prints an error without its causes: write `error = %error.with_causes()` (hearth_causes)";
    let lines = logs.lines.into_iter();
    lines
        .map(|line| Violation::new(&source.path, line, message))
        .collect()
}

#[derive(Default)]
struct Logs {
    lines: Vec<usize>,
}

impl<'ast> Visit<'ast> for Logs {
    fn visit_macro(&mut self, called: &'ast syn::Macro) {
        let name = called.path.segments.last();
        if name.is_some_and(|name| MACROS.iter().any(|known| name.ident == known)) {
            self.fields(called.tokens.clone());
        } else {
            self.nested(called.tokens.clone());
        }
        visit::visit_macro(self, called);
    }
}

impl Logs {
    /// The fields of one line: a mark, the name, and nothing behind it.
    fn fields(&mut self, tokens: TokenStream) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        for (index, token) in tokens.iter().enumerate() {
            let is_marked =
                matches!(token, TokenTree::Punct(mark) if MARKS.contains(&mark.as_char()));
            let Some(TokenTree::Ident(name)) = tokens.get(index + 1).filter(|_| is_marked) else {
                continue;
            };
            let is_whole = match tokens.get(index + 2) {
                None => true,
                Some(TokenTree::Punct(mark)) => mark.as_char() == ',',
                Some(_) => false,
            };
            if name == "error" && is_whole {
                self.lines.push(name.span().start().line);
            }
        }
    }

    /// Lines inside of what another macro is given, such as `select!`.
    fn nested(&mut self, tokens: TokenStream) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        for (index, token) in tokens.iter().enumerate() {
            let TokenTree::Group(group) = token else {
                continue;
            };
            let before = |back: usize| index.checked_sub(back).and_then(|at| tokens.get(at));
            let is_called =
                matches!(before(1), Some(TokenTree::Punct(mark)) if mark.as_char() == '!');
            let is_log = matches!(
                before(2),
                Some(TokenTree::Ident(name)) if MACROS.iter().any(|known| name == known)
            );
            if is_called && is_log {
                self.fields(group.stream());
            } else {
                self.nested(group.stream());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(body: &str) -> Vec<String> {
        let text = format!("fn f() {{\n{body}\n}}");
        let violations = check(&Source::sample("crates/a/src/one.rs", text));
        violations.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn an_error_without_its_causes_is_named() {
        for body in [
            "warn!(%error, \"it failed\");",
            "tracing::debug!(chain = %id, %error, \"it failed\");",
            "if let Err(error) = g() { error!(?error, \"it failed\") }",
            "info!(error = %error, \"it failed\");",
            "g().map_err(|error| trace!(%error));",
            "tokio::select! { _ = a() => { warn!(%error, \"it failed\") } }",
        ] {
            let found = found(body);
            assert_eq!(found.len(), 1, "{body}: {found:?}");
            assert!(found[0].starts_with("crates/a/src/one.rs:2: "), "{found:?}");
        }
    }

    #[test]
    fn errors_with_their_causes_and_other_values_may_be_printed() {
        for body in [
            "warn!(error = %error.with_causes(), \"it failed\");",
            "warn!(%reason, peer = %error_peer, \"an error\");",
            "assert!(a % error, \"{error}\");",
            "tokio::select! { _ = a() => { warn!(error = %error.with_causes(), \"it failed\") } }",
            "let x = a % error;",
        ] {
            assert_eq!(found(body), Vec::<String>::new(), "{body}");
        }
    }
}
