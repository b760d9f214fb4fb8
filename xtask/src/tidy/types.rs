//! A public type has a name that no other public type of its crate has, so that a name means one thing wherever it stands.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use syn::{Attribute, Item, Meta, Visibility};

use super::{Source, Violation};

/// The public types whose names stand twice in one crate. Types that only tests have do not count.
pub(super) fn check(sources: &[Source]) -> Vec<Violation> {
    let mut places: BTreeMap<(PathBuf, String), Vec<(&Path, usize)>> = BTreeMap::new();
    for source in sources {
        let Some(folder) = source.crate_folder() else {
            continue;
        };
        let Ok(file) = syn::parse_file(&source.text) else {
            // The rule about functions says so.
            continue;
        };
        let mut types = Vec::new();
        public_types(&file.items, &mut types);
        for (name, line) in types {
            let found = places.entry((folder.clone(), name)).or_default();
            found.push((&source.path, line));
        }
    }
    let mut violations = Vec::new();
    for (key, found) in &places {
        let [(first, first_line), others @ ..] = found.as_slice() else {
            continue;
        };
        for (path, line) in others {
            let message = format!(
                "the public type `{}` has the name of the one at {}:{first_line}: say how the two differ",
                key.1,
                first.display()
            );
            violations.push(Violation::new(path, *line, message));
        }
    }
    violations
}

fn public_types(items: &[Item], found: &mut Vec<(String, usize)>) {
    for item in items {
        let (visibility, name) = match item {
            Item::Struct(item) => (&item.vis, &item.ident),
            Item::Enum(item) => (&item.vis, &item.ident),
            Item::Trait(item) => (&item.vis, &item.ident),
            Item::Type(item) => (&item.vis, &item.ident),
            Item::Mod(item) => {
                if let Some((_, items)) = &item.content
                    && !item.attrs.iter().any(is_for_tests)
                {
                    public_types(items, found);
                }
                continue;
            }
            _ => continue,
        };
        if matches!(visibility, Visibility::Public(_)) {
            found.push((name.to_string(), name.span().start().line));
        }
    }
}

/// Whether an attribute leaves something to tests.
pub(super) fn is_for_tests(attribute: &Attribute) -> bool {
    let Meta::List(list) = &attribute.meta else {
        return false;
    };
    list.path.is_ident("cfg") && list.tokens.to_string() == "test"
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
    fn a_name_that_two_public_types_of_a_crate_have_is_named() {
        for kind in [
            "pub struct Report;",
            "pub enum Report {}",
            "pub trait Report {}",
            "pub type Report = u8;",
        ] {
            let found = found(&[
                ("crates/a/src/one.rs", "\npub struct Report { x: u8 }"),
                (
                    "crates/a/src/deep/two.rs",
                    &format!("mod inner {{\n{kind}\n}}"),
                ),
            ]);
            assert_eq!(found.len(), 1, "{kind}: {found:?}");
            assert!(
                found[0].starts_with("crates/a/src/deep/two.rs:2: "),
                "{found:?}"
            );
            assert!(found[0].contains("crates/a/src/one.rs:2"), "{found:?}");
        }
    }

    #[test]
    fn other_crates_private_types_and_tests_may_have_the_name() {
        let one = ("crates/a/src/one.rs", "pub struct Report;");
        for other in [
            ("crates/b/src/one.rs", "pub struct Report;"),
            (
                "crates/a/src/two.rs",
                "struct Report; mod x { pub(crate) struct Report; }",
            ),
            (
                "crates/a/src/two.rs",
                "#[cfg(test)] mod tests { pub struct Report; }",
            ),
            ("crates/a/src/two/tests.rs", "pub struct Report;"),
            ("crates/a/src/two/tests/deep.rs", "pub struct Report;"),
            ("crates/a/tests/world.rs", "pub struct Report;"),
            (
                "crates/a/src/two.rs",
                "pub fn report() {} pub use other::Report;",
            ),
        ] {
            assert_eq!(found(&[one, other]), Vec::<String>::new(), "{other:?}");
        }
    }
}
