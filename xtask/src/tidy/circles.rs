//! The top-level modules of a crate do not use each other in a circle, so that each can be read, and moved, by itself.
//!
//! A module is a file of `src` together with the folder of its name; the crate's own file (`lib.rs`, `main.rs`) puts them
//! together and belongs to none. A module uses another by a path that begins with `crate`, or by as many `super`s as lead
//! to the crate, in a `use`, in code or in a macro's call; a name that the crate's own file re-exports counts as a use of
//! the module that it is from. What only tests use does not count.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use proc_macro2::{TokenStream, TokenTree};
use syn::ext::IdentExt;
use syn::visit::{self, Visit};
use syn::{Attribute, File, Ident, Item, UseTree};

use super::types::is_for_tests;
use super::{Source, Violation};

/// Where a module uses another.
#[derive(Debug, Clone)]
struct Place {
    path: PathBuf,
    line: usize,
}

/// A use that is part of a circle.
#[derive(Debug, Clone)]
struct Step {
    from: String,
    to: String,
    place: Place,
}

/// The uses between the modules of one crate: from, to, and the first place.
type Uses = BTreeMap<String, BTreeMap<String, Place>>;

/// The circles of modules.
pub(super) fn check(sources: &[Source]) -> Vec<Violation> {
    let mut crates: BTreeMap<PathBuf, Vec<(&Source, File)>> = BTreeMap::new();
    for source in sources {
        // What does not parse is told by the rule about functions.
        if let Some(folder) = source.crate_folder()
            && let Ok(file) = syn::parse_file(&source.text)
        {
            crates.entry(folder).or_default().push((source, file));
        }
    }
    let circles = crates
        .iter()
        .flat_map(|(folder, files)| circles(&uses(folder, files)));
    circles.filter_map(|circle| told(&circle)).collect()
}

/// The violation of a circle, at the use that begins it; `None` where it has no step.
fn told(circle: &[Step]) -> Option<Violation> {
    let says = |Step { from, to, place }: &Step| {
        let Place { path, line } = place;
        format!("`{from}` uses `{to}` ({}:{line})", path.display())
    };
    let steps: Vec<String> = circle.iter().map(says).collect();
    let message = format!(
        "modules use each other in a circle: {}: move what both need to where both see it",
        steps.join(", ")
    );
    let Step { place, .. } = circle.first()?;
    Some(Violation::new(&place.path, place.line, message))
}

/// Who uses whom in a crate.
fn uses(folder: &Path, files: &[(&Source, File)]) -> Uses {
    let located: Vec<(Vec<String>, &Source, &File)> = files
        .iter()
        .filter_map(|(source, file)| Some((module_of(folder, source)?, *source, file)))
        .collect();
    let mut tests = BTreeSet::new();
    let mut modules = BTreeSet::new();
    let mut exported = BTreeMap::new();
    for (module, _, file) in &located {
        test_modules(module, &file.items, &mut tests);
        modules.extend(module.first().cloned());
    }
    for (_, _, file) in located.iter().filter(|(module, ..)| module.is_empty()) {
        re_exports(&file.items, &modules, &mut exported);
    }
    let mut uses = Uses::new();
    for (module, source, file) in &located {
        let is_test = (1..=module.len()).any(|depth| tests.contains(&module[..depth]));
        let Some(from) = module.first().filter(|_| !is_test) else {
            continue;
        };
        let mut paths = Paths {
            depth: module.len(),
            found: Vec::new(),
        };
        paths.visit_file(file);
        for (name, line) in paths.found {
            let to = exported.get(&name).unwrap_or(&name);
            if to != from && modules.contains(to) {
                let path = source.path.clone();
                let of_module = uses.entry(from.clone()).or_default();
                of_module.entry(to.clone()).or_insert(Place { path, line });
            }
        }
    }
    uses
}

/// The names from the crate down to a file's module; none for the crate's own file, nothing for a program of its own.
fn module_of(folder: &Path, source: &Source) -> Option<Vec<String>> {
    let below = source.path.strip_prefix(folder.join("src")).ok()?;
    let mut names: Vec<String> = below
        .with_extension("")
        .iter()
        .map(|name| name.to_string_lossy().into_owned())
        .collect();
    match names.last().map(String::as_str) {
        Some("lib" | "main") if names.len() == 1 => names.clear(),
        Some("mod") => drop(names.pop()),
        _ => {}
    }
    (names.first().map(String::as_str) != Some("bin")).then_some(names)
}

/// The modules in files of their own that only tests have.
fn test_modules(module: &[String], items: &[Item], found: &mut BTreeSet<Vec<String>>) {
    for item in items {
        if let Item::Mod(item) = item
            && item.content.is_none()
            && item.attrs.iter().any(is_for_tests)
        {
            let name = item.ident.unraw().to_string();
            found.insert([module, &[name]].concat());
        }
    }
}

/// The names that the crate's own file takes from its modules, and from which.
fn re_exports(items: &[Item], modules: &BTreeSet<String>, exported: &mut BTreeMap<String, String>) {
    for item in items {
        if let Item::Use(item) = item {
            let mut leaves = Vec::new();
            leaves_of(&item.tree, &mut Vec::new(), &mut leaves);
            for (path, name) in leaves {
                let from = path.iter().find(|part| *part != "crate" && *part != "self");
                if let Some(from) = from.filter(|from| modules.contains(*from)) {
                    exported.insert(name, from.clone());
                }
            }
        }
    }
}

/// Every path of a `use`, and the name that it has from then on.
fn leaves_of(tree: &UseTree, above: &mut Vec<String>, leaves: &mut Vec<(Vec<String>, String)>) {
    match tree {
        UseTree::Path(path) => {
            above.push(path.ident.unraw().to_string());
            leaves_of(&path.tree, above, leaves);
            above.pop();
        }
        UseTree::Group(group) => group
            .items
            .iter()
            .for_each(|tree| leaves_of(tree, above, leaves)),
        UseTree::Name(name) => {
            let name = name.ident.unraw().to_string();
            leaves.push(([&above[..], std::slice::from_ref(&name)].concat(), name));
        }
        UseTree::Rename(rename) => {
            let first = rename.ident.unraw().to_string();
            let name = rename.rename.unraw().to_string();
            leaves.push(([&above[..], &[first]].concat(), name));
        }
        UseTree::Glob(_) => leaves.push((above.clone(), "*".to_owned())),
    }
}

/// The names directly below the crate that a file uses.
struct Paths {
    /// How many modules are around what is visited.
    depth: usize,
    /// Each name and its line.
    found: Vec<(String, usize)>,
}

impl Paths {
    /// The first name below the crate in a path that begins at the crate.
    fn path<'a>(&mut self, parts: impl Iterator<Item = &'a Ident>) {
        let mut climbed = 0;
        for (index, part) in parts.enumerate() {
            if index == 0 && part == "crate" {
                climbed = self.depth;
            } else if part == "super" {
                climbed += 1;
            } else if part != "self" {
                if climbed == self.depth && self.depth > 0 {
                    let name = part.unraw().to_string();
                    self.found.push((name, part.span().start().line));
                }
                return;
            }
        }
    }

    fn tree<'a>(&mut self, tree: &'a UseTree, above: &mut Vec<&'a Ident>) {
        match tree {
            UseTree::Path(path) => {
                above.push(&path.ident);
                self.tree(&path.tree, above);
                above.pop();
            }
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.tree(tree, above)),
            UseTree::Name(name) => self.path(above.iter().copied().chain([&name.ident])),
            UseTree::Rename(name) => self.path(above.iter().copied().chain([&name.ident])),
            UseTree::Glob(_) => self.path(above.iter().copied()),
        }
    }

    /// Paths in what a macro is given, which is no syntax yet.
    fn tokens(&mut self, tokens: TokenStream) {
        let mut path: Vec<Ident> = Vec::new();
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Ident(name) => {
                    if colons != 2 {
                        self.path(path.iter());
                        path.clear();
                    }
                    path.push(name);
                    colons = 0;
                }
                TokenTree::Punct(mark) if mark.as_char() == ':' => colons += 1,
                other => {
                    self.path(path.iter());
                    path.clear();
                    colons = 0;
                    if let TokenTree::Group(group) = other {
                        self.tokens(group.stream());
                    }
                }
            }
        }
        self.path(path.iter());
    }
}

impl<'ast> Visit<'ast> for Paths {
    fn visit_item(&mut self, item: &'ast Item) {
        if !attributes(item).iter().any(is_for_tests) {
            visit::visit_item(self, item);
        }
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        if !item.attrs.iter().any(is_for_tests) {
            visit::visit_impl_item_fn(self, item);
        }
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        self.depth += 1;
        visit::visit_item_mod(self, item);
        self.depth -= 1;
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.tree(&item.tree, &mut Vec::new());
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        self.path(path.segments.iter().map(|segment| &segment.ident));
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, called: &'ast syn::Macro) {
        self.tokens(called.tokens.clone());
        visit::visit_macro(self, called);
    }

    fn visit_visibility(&mut self, _visibility: &'ast syn::Visibility) {
        // `pub(in crate::x)` says who may see, not what is used.
    }
}

/// The attributes of what may be for tests only.
fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Const(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        _ => &[],
    }
}

/// One circle, a shortest one, for each set of modules that all use each other.
fn circles(uses: &Uses) -> Vec<Vec<Step>> {
    let mut told: BTreeSet<&str> = BTreeSet::new();
    let mut circles = Vec::new();
    for start in uses.keys() {
        if told.contains(start.as_str()) {
            continue;
        }
        if let Some(circle) = shortest(uses, start) {
            let reached = reached(uses, start).into_iter();
            told.extend(reached.filter(|module| self::reached(uses, module).contains(&**start)));
            circles.push(circle);
        }
    }
    circles
}

/// The shortest way from a module back to itself.
fn shortest(uses: &Uses, start: &str) -> Option<Vec<Step>> {
    let mut before: BTreeMap<&str, &str> = BTreeMap::new();
    let mut next = vec![start];
    while !next.is_empty() && !before.contains_key(start) {
        let mut further = Vec::new();
        for from in next {
            for to in uses.get(from).into_iter().flat_map(BTreeMap::keys) {
                before.entry(to).or_insert_with(|| {
                    further.push(to.as_str());
                    from
                });
            }
        }
        next = further;
    }
    let mut way = Vec::new();
    let mut to = start;
    loop {
        let from = *before.get(to)?;
        let place = uses.get(from)?.get(to)?.clone();
        way.push(Step {
            from: from.to_owned(),
            to: to.to_owned(),
            place,
        });
        to = from;
        if to == start {
            way.reverse();
            return Some(way);
        }
    }
}

/// The modules that a module uses, directly or by others.
fn reached<'a>(uses: &'a Uses, start: &str) -> BTreeSet<&'a str> {
    let mut reached = BTreeSet::new();
    let mut next: Vec<&str> = vec![start];
    while let Some(from) = next.pop() {
        for to in uses.get(from).into_iter().flat_map(BTreeMap::keys) {
            if reached.insert(to.as_str()) {
                next.push(to);
            }
        }
    }
    reached
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(files: &[(&str, &str)]) -> Vec<String> {
        let sources: Vec<Source> = files
            .iter()
            .map(|(path, text)| Source::sample(path, *text))
            .collect();
        check(&sources).iter().map(ToString::to_string).collect()
    }

    const BACK: (&str, &str) = (
        "crates/a/src/two/deep.rs",
        "\nuse crate::one::Thing;\nfn f() {}",
    );

    #[test]
    fn two_modules_that_use_each_other_are_named_with_their_places() {
        for there in [
            "use crate::two::deep;",
            "use crate::{other, two::{self, deep}};",
            "use crate::two as second;",
            "use crate::two::*;",
            "fn f() { crate::two::g() }",
            "fn f(x: crate::two::Thing) {}",
            "fn f() { g(|| vec![crate::two::X { y: 1 }]) }",
            "fn f() { assert!(x, \"{}\", crate::two::told()) }",
            "use super::two::deep;",
            "mod inner { use super::super::two::deep; }",
            "pub use crate::two::Thing;",
            "#[cfg(not(test))] use crate::two::Thing;",
        ] {
            let found = found(&[("crates/a/src/one.rs", there), BACK]);
            assert_eq!(found.len(), 1, "{there}: {found:?}");
            assert!(
                found[0].starts_with("crates/a/src/one.rs:1: "),
                "{there}: {found:?}"
            );
            assert!(
                found[0].contains("`two` uses `one` (crates/a/src/two/deep.rs:2)"),
                "{found:?}"
            );
        }
    }

    #[test]
    fn a_circle_over_a_name_that_the_crate_re_exports_is_found() {
        let root = (
            "crates/a/src/lib.rs",
            "mod one; mod two; pub use two::deep::Thing as Second;",
        );
        let one = ("crates/a/src/one.rs", "use crate::Second;");
        let circles = found(&[root, one, BACK]);
        assert_eq!(circles.len(), 1, "{circles:?}");
        assert_eq!(found(&[root, one]), Vec::<String>::new());
    }

    #[test]
    fn a_longer_circle_is_told_once_and_two_circles_each() {
        let files = [
            ("crates/a/src/one.rs", "use crate::two::X;"),
            ("crates/a/src/two.rs", "use crate::three::X;"),
            (
                "crates/a/src/three.rs",
                "use crate::one::X; use crate::four::X;",
            ),
            ("crates/a/src/four.rs", "use crate::five::X;"),
            ("crates/a/src/five.rs", "use crate::four::X;"),
        ];
        let circles = found(&files);
        assert_eq!(circles.len(), 2, "{circles:?}");
        let long = circles.iter().find(|circle| circle.contains("`one`"));
        let long = long.expect("the longer circle");
        for step in [
            "`one` uses `two`",
            "`two` uses `three`",
            "`three` uses `one`",
        ] {
            assert!(long.contains(step), "{long}");
        }
    }

    #[test]
    fn uses_in_one_direction_inside_a_module_and_in_tests_are_no_circle() {
        for there in [
            "use crate::three::Thing;",
            "use other::two::Thing; use crate::one::deep;",
            "#[cfg(test)] mod tests { use crate::two::Thing; }",
            "#[cfg(test)] use crate::two::Thing;",
            "impl X { #[cfg(test)] fn f() { crate::two::g() } }",
            "mod inner { use super::two::deep; }",
            "pub(in crate::two) struct X;",
            "/// See [`crate::two`].\nstruct X;",
            "const X: &str = \"crate::two\";",
        ] {
            let found = found(&[("crates/a/src/one.rs", there), BACK]);
            assert_eq!(found, Vec::<String>::new(), "{there}");
        }
        let using = "use crate::two::Thing;";
        for path in [
            "crates/a/src/one/tests.rs",
            "crates/a/src/one/more_tests.rs",
            "crates/a/src/one/tests/more.rs",
            "crates/a/src/one/sample.rs",
            "crates/a/src/one/sample/deep.rs",
            "crates/a/tests/one.rs",
            "crates/a/src/bin/one.rs",
            "crates/a/src/lib.rs",
            "crates/b/src/one.rs",
        ] {
            let one = ("crates/a/src/one.rs", "#[cfg(test)]\nmod sample;");
            assert_eq!(
                found(&[one, (path, using), BACK]),
                Vec::<String>::new(),
                "{path}"
            );
        }
    }
}
