//! The modules of a crate refer to one another one way: where they go in a circle, none can be understood, moved or
//! tested without the others.
//!
//! A room is what stands directly below a crate's root: a file, or a folder with its file. What it refers to is read from
//! its paths, those that begin with `crate` and those whose `super`s reach the root. Tests may refer to anything.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use syn::visit::{self, Visit};
use syn::{Attribute, Meta, UseTree};

use super::{Source, Violation};

/// The rooms of a crate, and for each those that it refers to, with the place where it does.
type Rooms = BTreeMap<String, BTreeMap<String, (PathBuf, usize)>>;

/// The circles of rooms, each told where its first room refers to the next.
pub(super) fn check(sources: &[Source]) -> Vec<Violation> {
    let mut crates: BTreeMap<PathBuf, Rooms> = BTreeMap::new();
    for source in sources {
        let Some((folder, module)) = place(source) else {
            continue;
        };
        let Ok(file) = syn::parse_file(&source.text) else {
            // The rule about functions says so.
            continue;
        };
        let mut references = References {
            module: &module,
            found: Vec::new(),
        };
        references.visit_file(&file);
        let rooms = crates.entry(folder).or_default();
        let room = rooms.entry(module[0].clone()).or_default();
        for (other, line) in references.found {
            if other != module[0] {
                let place = || (source.path.clone(), line);
                room.entry(other).or_insert_with(place);
            }
        }
    }
    crates.values().flat_map(circles).collect()
}

/// The folder of a file's crate, and the file's module; nothing for roots of crates and for files of tests.
fn place(source: &Source) -> Option<(PathBuf, Vec<String>)> {
    let parts: Vec<&str> = source
        .path
        .iter()
        .filter_map(|part| part.to_str())
        .collect();
    let at = parts.iter().position(|part| *part == "src")?;
    let (folder, below) = (&parts[..at], &parts[at + 1..]);
    let is_test = below.iter().any(|part| part.contains("tests"));
    if source.extension() != "rs" || is_test || below.is_empty() {
        return None;
    }
    let mut module: Vec<String> = below.iter().map(|part| (*part).to_owned()).collect();
    let last = module.pop()?;
    match last.strip_suffix(".rs")? {
        "lib" | "main" if module.is_empty() => return None,
        "mod" => {}
        name => module.push(name.to_owned()),
    }
    (!module.is_empty()).then(|| (folder.iter().collect(), module))
}

/// What a file refers to.
struct References<'a> {
    /// The file's module, from the root on.
    module: &'a [String],
    /// The rooms, and the lines.
    found: Vec<(String, usize)>,
}

impl References<'_> {
    /// Takes a path in, if it leads through the root of the crate.
    fn note(&mut self, path: &[(String, usize)]) {
        let supers = path.iter().take_while(|(name, _)| name == "super").count();
        let below = match path.first() {
            Some((first, _)) if first == "crate" => &path[1..],
            Some(_) if supers > 0 && supers >= self.module.len() => &path[supers..],
            _ => return,
        };
        if let Some((room, line)) = below.first() {
            self.found.push((room.clone(), *line));
        }
    }

    fn note_tree(&mut self, before: &mut Vec<(String, usize)>, tree: &UseTree) {
        let part = |name: &syn::Ident| (name.to_string(), name.span().start().line);
        match tree {
            UseTree::Path(path) => {
                before.push(part(&path.ident));
                self.note_tree(before, &path.tree);
                before.pop();
            }
            UseTree::Name(name) => self.note_end(before, part(&name.ident)),
            UseTree::Rename(name) => self.note_end(before, part(&name.ident)),
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.note_tree(before, tree);
                }
            }
            UseTree::Glob(_) => self.note(before),
        }
    }

    fn note_end(&mut self, before: &mut Vec<(String, usize)>, last: (String, usize)) {
        before.push(last);
        self.note(before);
        before.pop();
    }
}

impl<'ast> Visit<'ast> for References<'_> {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if !item.attrs.iter().any(is_for_tests) {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.note_tree(&mut Vec::new(), &item.tree);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let parts = path.segments.iter().map(|part| {
            let name = part.ident.to_string();
            (name, part.ident.span().start().line)
        });
        self.note(&parts.collect::<Vec<_>>());
        visit::visit_path(self, path);
    }
}

fn is_for_tests(attribute: &Attribute) -> bool {
    let Meta::List(list) = &attribute.meta else {
        return false;
    };
    list.path.is_ident("cfg") && list.tokens.to_string() == "test"
}

/// Everything that can be reached from a room, in one step or more.
fn reach<'a>(rooms: &'a Rooms, from: &str) -> BTreeSet<&'a str> {
    let mut reached = BTreeSet::new();
    let mut open = vec![from];
    while let Some(room) = open.pop() {
        for next in rooms.get(room).into_iter().flat_map(BTreeMap::keys) {
            // What is no module is an item of the root.
            if rooms.contains_key(next) && reached.insert(next.as_str()) {
                open.push(next);
            }
        }
    }
    reached
}

fn circles(rooms: &Rooms) -> Vec<Violation> {
    let mut told: BTreeSet<&str> = BTreeSet::new();
    let mut violations = Vec::new();
    for (room, references) in rooms {
        let reached = reach(rooms, room);
        if !reached.contains(room.as_str()) || told.contains(room.as_str()) {
            continue;
        }
        let circle: BTreeSet<&str> = reached
            .into_iter()
            .filter(|other| reach(rooms, other).contains(room.as_str()))
            .collect();
        let next = references
            .iter()
            .find(|(other, _)| circle.contains(other.as_str()));
        if let Some((other, (path, line))) = next {
            let all: Vec<&str> = circle.iter().copied().collect();
            let message = format!(
                "`{room}` refers to `{other}` here, and leads back to itself (the circle has {}): move what both need below both",
                all.join(", ")
            );
            violations.push(Violation::new(Path::new(path), *line, message));
        }
        told.extend(circle);
    }
    violations
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

    #[test]
    fn a_circle_is_told_once_and_where_it_begins() {
        let found = found(&[
            ("crates/a/src/one.rs", "\nuse crate::two::Two;"),
            (
                "crates/a/src/two/deep.rs",
                "fn f() { super::super::three::g(); }",
            ),
            ("crates/a/src/three.rs", "use crate::{one::One, other};"),
        ]);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(
            found[0].starts_with("crates/a/src/one.rs:2: `one`"),
            "{found:?}"
        );
        assert!(found[0].contains("one, three, two"), "{found:?}");
    }

    #[test]
    fn every_way_to_write_a_reference_counts() {
        for text in [
            "use crate::two;",
            "use super::two as other;",
            "use super::{three, two::{Two, Other}};",
            "use crate::two::*;",
            "fn f(x: crate::two::Two) {}",
            "impl super::two::Two {}",
            "fn f() { crate::two::g(); }",
        ] {
            let found = found(&[
                ("crates/a/src/one.rs", text),
                ("crates/a/src/two.rs", "use crate::one::One;"),
            ]);
            assert_eq!(found.len(), 1, "{text}: {found:?}");
        }
    }

    #[test]
    fn one_way_inside_of_a_room_from_tests_and_between_crates_all_is_well() {
        let found = found(&[
            (
                "crates/a/src/lib.rs",
                "mod one; mod two; use crate::two::Two;",
            ),
            ("crates/a/src/one.rs", "use crate::two::Two; mod deep;"),
            (
                "crates/a/src/one/deep.rs",
                "use super::One; use super::super::two::Two; use crate::one;",
            ),
            (
                "crates/a/src/two.rs",
                "use crate::root_item; #[cfg(test)] mod tests { use crate::one::One; }",
            ),
            ("crates/a/src/two/tests.rs", "use crate::one::One;"),
            ("crates/b/src/two.rs", "use crate::one::One;"),
        ]);
        assert!(found.is_empty(), "{found:?}");
    }
}
