//! How long a function may be.
//!
//! Rust is parsed, so that strings and comments cannot confuse the count. Solidity has no parser
//! here: its functions are followed by their braces, which is enough for sources that the compiler
//! has already accepted.

use syn::visit::{self, Visit};

use super::layout::names_nothing;
use super::{Source, Violation};

/// The most lines a function may have, from its signature to its closing brace, comments included.
const MAX_FUNCTION_LINES: usize = 70;

/// The functions of a Rust file that are too long, and its inline modules with empty names.
pub(super) fn rust(source: &Source) -> Vec<Violation> {
    let file = match syn::parse_file(&source.text) {
        Ok(file) => file,
        Err(error) => {
            let line = error.span().start().line;
            return vec![Violation::new(
                &source.path,
                line,
                format!("not valid Rust: {error}"),
            )];
        }
    };
    let mut visitor = Functions {
        source,
        violations: Vec::new(),
    };
    visitor.visit_file(&file);
    visitor.violations
}

struct Functions<'a> {
    source: &'a Source,
    violations: Vec<Violation>,
}

impl Functions<'_> {
    fn function(&mut self, signature: &syn::Signature, body: &syn::Block) {
        let first = signature.fn_token.span.start().line;
        let last = body.brace_token.span.close().end().line;
        let name = signature.ident.to_string();
        self.violations
            .extend(too_long(self.source, &name, first, last));
    }
}

impl<'ast> Visit<'ast> for Functions<'_> {
    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.function(&item.sig, &item.block);
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.function(&item.sig, &item.block);
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        if let Some(body) = &item.default {
            self.function(&item.sig, body);
        }
        visit::visit_trait_item_fn(self, item);
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        let name = item.ident.to_string();
        if item.content.is_some() && names_nothing(&name) {
            let message = format!("a module called `{name}` says nothing: name its subject");
            let line = item.ident.span().start().line;
            self.violations
                .push(Violation::new(&self.source.path, line, message));
        }
        visit::visit_item_mod(self, item);
    }
}

/// The functions of a Solidity file that are too long.
pub(super) fn solidity(source: &Source) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut open: Option<(String, usize, i64)> = None;
    for (index, line) in source.text.lines().enumerate() {
        let code = line.split("//").next().unwrap_or("");
        if open.is_none() {
            open = function_name(code).map(|name| (name, index + 1, 0));
        }
        let Some((name, first, depth)) = &mut open else {
            continue;
        };
        let opened = code.matches('{').count() as i64;
        let closed = code.matches('}').count() as i64;
        *depth += opened - closed;
        let declared_only = *depth == 0 && code.trim_end().ends_with(';');
        if *depth == 0 && (closed > 0 || declared_only) {
            violations.extend(too_long(source, name, *first, index + 1));
            open = None;
        }
    }
    violations
}

fn function_name(code: &str) -> Option<String> {
    let code = code.trim_start();
    if code.starts_with("constructor") {
        return Some("constructor".to_owned());
    }
    let rest = code.strip_prefix("function ")?;
    Some(rest.split('(').next().unwrap_or(rest).trim().to_owned())
}

fn too_long(source: &Source, name: &str, first: usize, last: usize) -> Option<Violation> {
    let lines = last + 1 - first;
    (lines > MAX_FUNCTION_LINES).then(|| {
        let message = format!(
            "the function `{name}` has {lines} lines, more than {MAX_FUNCTION_LINES}: split it by \
             what it does"
        );
        Violation::new(&source.path, first, message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A body that makes the whole function `lines` lines long.
    fn body(lines: usize) -> String {
        "    step();\n".repeat(lines - 2)
    }

    #[test]
    fn seventy_lines_are_enough() {
        for (lines, violations) in [(70, 0), (71, 1)] {
            let text = format!("fn f() {{\n{}}}\n", body(lines));
            assert_eq!(
                rust(&Source::sample("a.rs", text)).len(),
                violations,
                "{lines} lines"
            );
        }
    }

    #[test]
    fn methods_and_default_methods_count() {
        for head in ["impl A", "trait A"] {
            let text = format!("struct A;\n{head} {{\nfn f() {{\n{}}}\n}}\n", body(71));
            let found = rust(&Source::sample("a.rs", text));
            assert_eq!(found.len(), 1, "{head}");
            assert!(
                found[0]
                    .to_string()
                    .contains("a.rs:3: the function `f` has 71 lines")
            );
        }
    }

    #[test]
    fn documentation_and_attributes_do_not_count() {
        let text = format!(
            "{}#[inline]\nfn f() {{\n{}}}\n",
            "/// Why.\n".repeat(30),
            body(70)
        );
        assert!(rust(&Source::sample("a.rs", text)).is_empty());
    }

    #[test]
    fn braces_in_strings_do_not_confuse_the_count() {
        let text = "fn f() { g(\"{{{\"); }\n".to_owned() + &"fn g() {}\n".repeat(100);
        assert!(rust(&Source::sample("a.rs", text)).is_empty());
    }

    #[test]
    fn what_does_not_parse_is_reported() {
        let found = rust(&Source::sample("a.rs", "fn f( {\n"));
        assert!(found[0].to_string().contains("not valid Rust"), "{found:?}");
    }

    #[test]
    fn an_inline_module_needs_a_subject() {
        let text = format!("mod {} {{}}\nmod channel {{}}\n", concat!("ut", "ils"));
        assert_eq!(rust(&Source::sample("a.rs", text)).len(), 1);
    }

    #[test]
    fn solidity_functions_are_followed_by_their_braces() {
        for (lines, violations) in [(70, 0), (71, 1)] {
            let text = format!(
                "contract C {{\nfunction a() external;\nfunction f(\nuint x) {{ // {{\n{}}}\n}}\n",
                "    if (x) { y(); }\n".repeat(lines - 3)
            );
            let found = solidity(&Source::sample("contracts/src/C.sol", text));
            assert_eq!(found.len(), violations, "{lines} lines: {found:?}");
        }
    }
}
