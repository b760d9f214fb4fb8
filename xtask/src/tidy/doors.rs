//! Who may listen: addresses are opened in `crates/doors` alone, where none can be opened without its guard and its budget.
//!
//! What is forbidden elsewhere is to name a listening socket at all, so that no alias walks around the rule. Tests may: what
//! they serve is not the product.

use syn::visit::{self, Visit};

use super::{Source, Violation};

/// The folder in which addresses are opened.
const DOORS: &str = "crates/doors/src";
/// Folders of `src` that only tests are built from.
const TEST_ONLY: [&str; 1] = ["crates/chain/src/scripted"];
/// What listens, or serves what does.
const LISTENERS: [&str; 4] = [
    "TcpListener",
    "TcpSocket",
    "UnixListener",
    "serve_connection",
];

/// The places of a Rust file that open an address by themselves.
pub(super) fn check(source: &Source) -> Vec<Violation> {
    let is_product = source
        .path
        .components()
        .any(|part| part.as_os_str() == "src")
        && !source.path.ends_with("tests.rs");
    let is_test = TEST_ONLY
        .iter()
        .any(|folder| source.path.starts_with(folder));
    if !is_product || is_test || source.path.starts_with(DOORS) {
        return Vec::new();
    }
    let Ok(file) = syn::parse_file(&source.text) else {
        // The rule about functions says so.
        return Vec::new();
    };
    let mut visitor = Doors {
        source,
        violations: Vec::new(),
    };
    visitor.visit_file(&file);
    visitor.violations
}

struct Doors<'a> {
    source: &'a Source,
    violations: Vec<Violation>,
}

fn is_test(attributes: &[syn::Attribute]) -> bool {
    let is_cfg_test = |attribute: &syn::Attribute| {
        let syn::Meta::List(list) = &attribute.meta else {
            return false;
        };
        list.path.is_ident("cfg") && list.tokens.to_string() == "test"
    };
    attributes.iter().any(is_cfg_test)
}

impl Doors<'_> {
    fn name(&mut self, name: &syn::Ident) {
        if LISTENERS.iter().any(|listener| name == listener) {
            let message = format!(
                "`{name}` is named outside {DOORS}: open addresses with `hearth_doors::Listener`, which has a guard and a budget"
            );
            let line = name.span().start().line;
            self.violations
                .push(Violation::new(&self.source.path, line, message));
        }
    }
}

impl<'ast> Visit<'ast> for Doors<'_> {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if !is_test(&item.attrs) {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_ident(&mut self, name: &'ast syn::Ident) {
        self.name(name);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let names: Vec<String> = path
            .segments
            .iter()
            .map(|one| one.ident.to_string())
            .collect();
        if let [.., library, function] = names.as_slice()
            && library == "axum"
            && function == "serve"
            && let Some(last) = path.segments.last()
        {
            let message = format!(
                "`axum::serve` has no bounds: serve with `hearth_doors::serve`, as {DOORS} says"
            );
            let line = last.ident.span().start().line;
            self.violations
                .push(Violation::new(&self.source.path, line, message));
        }
        visit::visit_path(self, path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> Vec<String> {
        let source = Source::sample(path, text);
        check(&source).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn an_address_that_is_opened_elsewhere_is_named() {
        for text in [
            "async fn f() {\n    tokio::net::TcpListener::bind(\"0.0.0.0:1\").await;\n}\n",
            "fn f() {\n    let s = std::net::TcpListener::bind(x);\n}\n",
            "\nuse tokio::net::TcpListener as Harmless;\n",
            "\nuse tokio::net::{TcpStream, TcpListener};\n",
            "fn f() {\n    tokio::net::TcpSocket::new_v4();\n}\n",
            "fn f() {\n    std::os::unix::net::UnixListener::bind(x);\n}\n",
            "fn f() {\n    server.serve_connection(io, service);\n}\n",
            "fn f() {\n    axum::serve(listener, router);\n}\n",
        ] {
            let found = found("crates/node/src/attic.rs", text);
            assert_eq!(found.len(), 1, "{text}: {found:?}");
            assert!(
                found[0].starts_with("crates/node/src/attic.rs:2: "),
                "{found:?}"
            );
            assert!(found[0].contains("crates/doors/src"), "{found:?}");
        }
    }

    #[test]
    fn doors_and_tests_may_listen() {
        let text = "fn f() { tokio::net::TcpListener::bind(x); }";
        assert!(found("crates/doors/src/serving.rs", text).is_empty());
        assert!(found("crates/payments/tests/paid/world.rs", text).is_empty());
        assert!(found("crates/models/src/fetch/tests.rs", text).is_empty());
        let inside = format!("#[cfg(test)]\nmod tests {{ {text} }}");
        assert!(found("crates/node/src/http.rs", &inside).is_empty());
        let outside = format!("#[cfg(unix)]\nmod other {{ {text} }}");
        assert_eq!(found("crates/node/src/http.rs", &outside).len(), 1);
    }
}
