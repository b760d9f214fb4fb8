//! The tests of the workspace, found in its sources: what each is called, and whether a run of all tests runs it.
//!
//! The modules are followed from the root of each target, as the compiler follows them, so that a file that nothing
//! includes has no tests. Tests that a macro of this repository writes are not found.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use proc_macro2::TokenStream;
use syn::parse::{ParseStream, Parser};
use syn::punctuated::Punctuated;
use syn::{Attribute, Item, Meta, Token};

use super::words::OUTSIDE_REASON;
use crate::workspace::{Metadata, Target};

/// Features that no run of all tests has: their backends need tools of their own (`cargo xtask gpu`).
const FEATURES_LEFT_OUT: [&str; 3] = ["cuda", "metal", "vulkan"];

/// What a run of all tests on Linux makes of a test.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fate {
    /// It runs, by itself or with the outside programs.
    Runs,
    /// It is ignored for a reason that no run takes back.
    Ignored,
    /// It is not compiled.
    LeftOut,
}

/// Every test by the name that nextest prints: the binary's, a blank, and the test's within it.
pub(super) type Suite = BTreeMap<String, Fate>;

/// Finds the tests of all targets. `texts` are the sources by their paths below `root`.
pub(super) fn of(metadata: &Metadata, root: &Path, texts: &BTreeMap<PathBuf, &str>) -> Suite {
    let mut suite = Suite::new();
    for package in &metadata.packages {
        for target in package.targets.iter().filter(|target| target.test) {
            let Some(binary) = binary(&package.name, target) else {
                continue;
            };
            let path = target.src_path.strip_prefix(root);
            let path = path.unwrap_or(&target.src_path).to_path_buf();
            let mut walk = Walk {
                binary,
                texts,
                suite: &mut suite,
            };
            let children = parent(&path);
            walk.file(&path, children, &[], true);
        }
    }
    suite
}

/// What nextest calls the program with a target's tests; nothing for targets whose tests nobody runs.
fn binary(package: &str, target: &Target) -> Option<String> {
    match target.kind.first()?.as_str() {
        "lib" => Some(package.to_owned()),
        "test" => Some(format!("{package}::{}", target.name)),
        "bin" => Some(format!("{package}::bin/{}", target.name)),
        _ => None,
    }
}

struct Walk<'a> {
    binary: String,
    texts: &'a BTreeMap<PathBuf, &'a str>,
    suite: &'a mut Suite,
}

impl Walk<'_> {
    /// `children` is the folder in which modules without a path are looked for.
    fn file(&mut self, path: &Path, children: PathBuf, modules: &[String], is_compiled: bool) {
        // What does not parse is told by the rule about functions.
        let Some(file) = self
            .texts
            .get(path)
            .and_then(|text| syn::parse_file(text).ok())
        else {
            return;
        };
        let is_compiled = is_compiled && holds_all(&file.attrs);
        let place = Place {
            folder: parent(path),
            children,
            is_compiled,
        };
        self.items(&file.items, &place, modules);
    }

    fn items(&mut self, items: &[Item], place: &Place, modules: &[String]) {
        for item in items {
            match item {
                Item::Fn(item) => {
                    self.function(&item.attrs, &item.sig.ident.to_string(), place, modules);
                }
                Item::Mod(item) => self.module(item, place, modules),
                Item::Macro(item) if item.mac.path.is_ident("proptest") => {
                    for (attributes, name) in properties(&item.mac.tokens) {
                        self.function(&attributes, &name, place, modules);
                    }
                }
                _ => {}
            }
        }
    }

    fn function(
        &mut self,
        attributes: &[Attribute],
        name: &str,
        place: &Place,
        modules: &[String],
    ) {
        if !any(attributes, is_test) {
            return;
        }
        let fate = if !place.is_compiled || !holds_all(attributes) {
            Fate::LeftOut
        } else if any(attributes, is_ignored_for_good) {
            Fate::Ignored
        } else {
            Fate::Runs
        };
        let mut path = modules.to_vec();
        path.push(name.to_owned());
        let name = format!("{} {}", self.binary, path.join("::"));
        let known = self.suite.entry(name).or_insert(fate);
        *known = fate.min(*known);
    }

    fn module(&mut self, item: &syn::ItemMod, place: &Place, modules: &[String]) {
        let name = item.ident.to_string();
        let is_compiled = place.is_compiled && holds_all(&item.attrs);
        let mut modules = modules.to_vec();
        modules.push(name.clone());
        let children = place.children.join(&name);
        if let Some((_, items)) = &item.content {
            let inside = Place {
                folder: children.clone(),
                children,
                is_compiled,
            };
            self.items(items, &inside, &modules);
        } else if let Some(told) = told_path(&item.attrs) {
            let path = plain(&place.folder.join(told));
            // A file that is named so finds its own modules beside it.
            let beside = parent(&path);
            self.file(&path, beside, &modules, is_compiled);
        } else {
            let inside = children.join("mod.rs");
            let beside = children.with_extension("rs");
            let path = if self.texts.contains_key(&inside) {
                inside
            } else {
                beside
            };
            self.file(&path, children, &modules, is_compiled);
        }
    }
}

/// Where a module stands.
struct Place {
    /// The folder to which a told path (`#[path]`) is relative.
    folder: PathBuf,
    /// The folder in which modules without one are looked for.
    children: PathBuf,
    is_compiled: bool,
}

fn parent(path: &Path) -> PathBuf {
    path.parent().unwrap_or(Path::new("")).to_path_buf()
}

/// A path without `..`.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path {
        if part == ".." {
            plain.pop();
        } else {
            plain.push(part);
        }
    }
    plain
}

fn told_path(attributes: &[Attribute]) -> Option<String> {
    let mut told = None;
    each(attributes, &mut |meta| {
        if meta.path().is_ident("path") {
            told = text_of(meta);
        }
    });
    told
}

/// The text in `name = "text"`.
fn text_of(meta: &Meta) -> Option<String> {
    let Meta::NameValue(pair) = meta else {
        return None;
    };
    let syn::Expr::Lit(literal) = &pair.value else {
        return None;
    };
    match &literal.lit {
        syn::Lit::Str(text) => Some(text.value()),
        _ => None,
    }
}

fn is_test(meta: &Meta) -> bool {
    let last = meta.path().segments.last();
    last.is_some_and(|last| last.ident == "test")
}

fn is_ignored_for_good(meta: &Meta) -> bool {
    meta.path().is_ident("ignore") && text_of(meta).is_none_or(|reason| reason != OUTSIDE_REASON)
}

/// The functions in a `proptest!`, with their attributes.
fn properties(tokens: &TokenStream) -> Vec<(Vec<Attribute>, String)> {
    let parse = |input: ParseStream<'_>| {
        Attribute::parse_inner(input)?;
        let mut found = Vec::new();
        while !input.is_empty() {
            let attributes = Attribute::parse_outer(input)?;
            if input.peek(Token![fn]) {
                input.parse::<Token![fn]>()?;
                let name: syn::Ident = input.parse()?;
                found.push((attributes, name.to_string()));
            } else {
                input.parse::<proc_macro2::TokenTree>()?;
            }
        }
        Ok(found)
    };
    parse.parse2(tokens.clone()).unwrap_or_default()
}

/// Shows each attribute that counts: what `cfg_attr` gives is taken out of it.
fn each(attributes: &[Attribute], see: &mut dyn FnMut(&Meta)) {
    for attribute in attributes {
        match &attribute.meta {
            Meta::List(list) if list.path.is_ident("cfg_attr") => {
                let parts = parts(list);
                if let Some((condition, given)) = parts.split_first()
                    && holds(condition)
                {
                    given.iter().for_each(&mut *see);
                }
            }
            other => see(other),
        }
    }
}

fn any(attributes: &[Attribute], wanted: fn(&Meta) -> bool) -> bool {
    let mut found = false;
    each(attributes, &mut |meta| found |= wanted(meta));
    found
}

fn parts(list: &syn::MetaList) -> Vec<Meta> {
    let parsed = list.parse_args_with(Punctuated::<Meta, Token![,]>::parse_terminated);
    parsed.map_or_else(|_| Vec::new(), |parts| parts.into_iter().collect())
}

fn holds_all(attributes: &[Attribute]) -> bool {
    let is_broken = |meta: &Meta| match meta {
        Meta::List(list) if list.path.is_ident("cfg") => !parts(list).iter().all(holds),
        _ => false,
    };
    !any(attributes, is_broken)
}

/// Whether a condition holds where the tests of the whole workspace are compiled, on Linux.
fn holds(condition: &Meta) -> bool {
    match condition {
        Meta::Path(path) => ["test", "unix", "debug_assertions"]
            .iter()
            .any(|name| path.is_ident(name)),
        Meta::NameValue(pair) => {
            let value = text_of(condition).unwrap_or_default();
            if pair.path.is_ident("feature") {
                !FEATURES_LEFT_OUT.contains(&value.as_str())
            } else {
                (pair.path.is_ident("target_os") && value == "linux")
                    || (pair.path.is_ident("target_family") && value == "unix")
                    || (pair.path.is_ident("target_arch") && value == "x86_64")
            }
        }
        Meta::List(list) if list.path.is_ident("not") => !parts(list).iter().any(holds),
        Meta::List(list) if list.path.is_ident("any") => parts(list).iter().any(holds),
        Meta::List(list) if list.path.is_ident("all") => parts(list).iter().all(holds),
        Meta::List(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tests of the crate `house`, whose library and one test program consist of these files.
    fn found(files: &[(&str, &str)]) -> Suite {
        let metadata = serde_json::json!({"packages": [{
            "name": "house",
            "manifest_path": "/checkout/Cargo.toml",
            "dependencies": [],
            "targets": [
                {"name": "house", "kind": ["lib"], "test": true, "src_path": "/checkout/src/lib.rs"},
                {"name": "doors", "kind": ["test"], "test": true, "src_path": "/checkout/tests/doors/main.rs"},
                {"name": "tool", "kind": ["bin"], "test": true, "src_path": "/checkout/src/main.rs"},
                {"name": "fuzzed", "kind": ["bin"], "test": false, "src_path": "/checkout/src/lib.rs"},
                {"name": "shown", "kind": ["example"], "test": true, "src_path": "/checkout/src/lib.rs"},
            ],
        }]});
        let metadata = serde_json::from_value(metadata).expect("metadata");
        let texts = files
            .iter()
            .map(|(path, text)| (PathBuf::from(path), *text))
            .collect();
        of(&metadata, Path::new("/checkout"), &texts)
    }

    fn names(files: &[(&str, &str)]) -> Vec<String> {
        found(files).into_keys().collect()
    }

    const TEST: &str = "#[test] fn holds() {} fn plain() {}";

    #[test]
    fn a_test_has_the_name_that_nextest_prints() {
        assert_eq!(
            names(&[
                (
                    "src/lib.rs",
                    "mod a { mod tests { #[tokio::test(x = 1)] async fn holds() {} } }"
                ),
                ("src/main.rs", TEST),
                ("tests/doors/main.rs", TEST),
            ]),
            [
                "house a::tests::holds",
                "house::bin/tool holds",
                "house::doors holds"
            ]
        );
    }

    #[test]
    fn modules_are_followed_into_their_files_and_no_other_file_counts() {
        let files = [
            (
                "src/lib.rs",
                "mod a; mod b; #[path = \"far.rs\"] mod c; mod d { mod e; }",
            ),
            ("src/a.rs", "mod deep; #[path = \"a_tests.rs\"] mod tests;"),
            ("src/a/deep.rs", TEST),
            ("src/a_tests.rs", "mod beside;"),
            ("src/beside.rs", TEST),
            ("src/b/mod.rs", "mod deep;"),
            ("src/b/deep.rs", TEST),
            ("src/far.rs", TEST),
            ("src/d/e.rs", TEST),
            ("src/attic.rs", TEST),
            (
                "tests/doors/main.rs",
                "#[path = \"../../other/place.rs\"] mod place;",
            ),
            ("other/place.rs", TEST),
        ];
        assert_eq!(
            names(&files),
            [
                "house a::deep::holds",
                "house a::tests::beside::holds",
                "house b::deep::holds",
                "house c::holds",
                "house d::e::holds",
                "house::doors place::holds",
            ]
        );
    }

    #[test]
    fn properties_are_tests() {
        let text = "proptest! { #![config(x)] /// Why.\n #[test] fn holds(a in 0..9, b in any()) { } fn plain(x in y) {} }";
        assert_eq!(names(&[("src/lib.rs", text)]), ["house holds"]);
    }

    fn fate(text: &str) -> Fate {
        let suite = found(&[("src/lib.rs", text)]);
        *suite.get("house t::holds").expect("the test is found")
    }

    #[test]
    fn a_test_that_is_ignored_runs_only_with_the_outside_programs() {
        let test = "#[test] fn holds() {}";
        let outside = format!("mod t {{ #[ignore = \"{OUTSIDE_REASON}\"] {test} }}");
        assert_eq!(fate(&outside), Fate::Runs);
        for attribute in ["ignore", "ignore = \"slow\"", "cfg_attr(unix, ignore)"] {
            let text = format!("mod t {{ #[{attribute}] {test} }}");
            assert_eq!(fate(&text), Fate::Ignored, "{text}");
        }
    }

    #[test]
    fn a_test_that_is_not_compiled_does_not_run() {
        let test = "#[test] fn holds() {}";
        for condition in [
            "windows",
            "feature = \"vulkan\"",
            "not(test)",
            "all(unix, target_os = \"macos\")",
            "any(windows, not(target_os = \"linux\"))",
            "made_up",
        ] {
            let on_test = format!("mod t {{ #[cfg({condition})] {test} }}");
            let on_module = format!("#[cfg({condition})] mod t {{ {test} }}");
            let on_file = format!("#![cfg({condition})] mod t {{ {test} }}");
            for text in [on_test, on_module, on_file] {
                assert_eq!(fate(&text), Fate::LeftOut, "{text}");
            }
        }
        for condition in [
            "test",
            "unix",
            "feature = \"evm\"",
            "any(test, feature = \"vulkan\")",
            "all(target_os = \"linux\", not(windows))",
        ] {
            let text = format!("#[cfg({condition})] mod t {{ {test} }}");
            assert_eq!(fate(&text), Fate::Runs, "{text}");
        }
    }

    #[test]
    fn of_two_forms_of_a_test_the_one_that_runs_counts() {
        let text =
            "mod t { #[cfg(unix)] #[test] fn holds() {} #[cfg(windows)] #[test] fn holds() {} }";
        assert_eq!(fate(text), Fate::Runs);
    }
}
