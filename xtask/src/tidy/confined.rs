//! Names that one folder of the product alone may use.
//!
//! Addresses are opened in `crates/doors`, where none can be opened without its guard and its budget. The system's clock and
//! its random bytes are asked for in `crates/environment`, so that a test replaces both for everything at once.
//!
//! To name the thing at all is forbidden elsewhere, so that no alias walks around the rule. Tests may: what they serve or
//! measure is not the product.

use syn::visit::{self, Visit};

use super::types::is_for_tests;
use super::{Source, Violation};

/// Folders of `src` that only tests are built from.
const TEST_ONLY: [&str; 1] = ["crates/chain/src/scripted"];
/// Where addresses are opened.
const DOORS: Confined = Confined {
    folder: "crates/doors/src",
    names: &[
        "TcpListener",
        "TcpSocket",
        "UnixListener",
        "serve_connection",
    ],
    instead: "open addresses with `hearth_doors::Listener`, which has a guard and a budget",
};
/// Where the system is asked for the time and for random bytes.
const ENVIRONMENT: Confined = Confined {
    folder: "crates/environment/src",
    names: &["SystemTime", "Utc", "OsRng", "getrandom", "thread_rng"],
    instead: "take a `hearth_environment::Environment`, which a test can replace",
};

/// Names, and the one folder of the product that may use them.
struct Confined {
    folder: &'static str,
    names: &'static [&'static str],
    instead: &'static str,
}

/// The places of a Rust file that use a name confined to another folder.
pub(super) fn check(source: &Source) -> Vec<Violation> {
    let is_product = source
        .path
        .components()
        .any(|part| part.as_os_str() == "src")
        && !source.path.ends_with("tests.rs");
    let is_test = TEST_ONLY
        .iter()
        .any(|folder| source.path.starts_with(folder));
    let crates = source.path.starts_with("crates");
    if !is_product || !crates || is_test {
        return Vec::new();
    }
    let Ok(file) = syn::parse_file(&source.text) else {
        // The rule about functions says so.
        return Vec::new();
    };
    let mut visitor = Names {
        source,
        violations: Vec::new(),
    };
    visitor.visit_file(&file);
    visitor.violations
}

struct Names<'a> {
    source: &'a Source,
    violations: Vec<Violation>,
}

impl Names<'_> {
    fn name(&mut self, name: &syn::Ident) {
        for confined in [DOORS, ENVIRONMENT] {
            let is_home = self.source.path.starts_with(confined.folder);
            if !is_home && confined.names.iter().any(|one| name == one) {
                let (folder, instead) = (confined.folder, confined.instead);
                let message = format!("`{name}` is named outside {folder}: {instead}");
                let line = name.span().start().line;
                self.violations
                    .push(Violation::new(&self.source.path, line, message));
            }
        }
    }
}

impl<'ast> Visit<'ast> for Names<'_> {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if !item.attrs.iter().any(is_for_tests) {
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
            && !self.source.path.starts_with(DOORS.folder)
            && let Some(last) = path.segments.last()
        {
            let message = format!(
                "`axum::serve` has no bounds: serve with `hearth_doors::serve`, as {} says",
                DOORS.folder
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
    fn a_clock_or_random_bytes_of_ones_own_are_named() {
        for text in [
            "\nuse std::time::{Duration, SystemTime};\n",
            "fn f() {\n    std::time::SystemTime::now();\n}\n",
            "fn f() {\n    chrono::Utc::now();\n}\n",
            "fn f() {\n    getrandom::fill(&mut key);\n}\n",
            "\nuse rand::rngs::OsRng;\n",
        ] {
            let found = found("crates/net/src/attic.rs", text);
            assert_eq!(found.len(), 1, "{text}: {found:?}");
            assert!(found[0].starts_with("crates/net/src/attic.rs:2: "));
            assert!(found[0].contains("hearth_environment"), "{found:?}");
        }
        let text = "fn f() { getrandom::fill(&mut key); std::time::SystemTime::now(); }";
        assert!(found("crates/environment/src/lib.rs", text).is_empty());
        assert!(found("crates/net/tests/network/main.rs", text).is_empty());
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
