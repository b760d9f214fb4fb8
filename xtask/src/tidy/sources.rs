//! Errors that hold what caused them do not print it too: `hearth_causes` shows the chain of causes for all.
//!
//! This is about what derives `Error`: a variant (or a structure) with a cause, which is the field marked `#[source]` or
//! `#[from]` or called `source`, and a text `#[error("…")]` in which that field stands.

use std::path::Path;

use proc_macro2::TokenTree;
use syn::visit::{self, Visit};
use syn::{Attribute, Field, Fields, Meta};

use super::{Source, Violation};

/// The errors that still do, by their file. The list may only get shorter: what is mended must leave it.
const KNOWN: &[(&str, &str)] = &[
    ("crates/node/src/explorer.rs", "ExploreError::Chain"),
    ("crates/node/src/home.rs", "HomeError::Io"),
    ("crates/node/src/home/config.rs", "ConfigError::Io"),
    ("crates/node/src/device.rs", "UpError::Model"),
    ("crates/node/src/owner/client.rs", "ClientError::Silent"),
    ("crates/node/src/api_keys.rs", "KeysError::Io"),
    ("crates/node/src/models.rs", "ModelError::Catalogue"),
    ("crates/node/src/models.rs", "ModelError::Io"),
    ("crates/node/src/local_chain.rs", "LocalChainError::Chain"),
    ("crates/node/src/local_chain.rs", "LocalChainError::Journal"),
    ("crates/node/src/local_chain.rs", "LocalChainError::Port"),
    ("crates/node/src/http.rs", "ListenError"),
    ("crates/node/src/trade/service.rs", "ServeError::Chain"),
    ("crates/node/src/wallet/send.rs", "TransferError::Chain"),
    ("crates/payments/src/proxy.rs", "ChargeFault::NotAnAmount"),
    ("crates/payments/src/purse.rs", "PayError::Correction"),
    ("crates/payments/src/purse.rs", "PayError::Distrust"),
    ("crates/payments/src/purse.rs", "PayError::Http"),
    ("crates/payments/src/purse.rs", "PayError::Randomness"),
];

/// The errors that print their cause.
pub(super) fn check(sources: &[Source]) -> Vec<Violation> {
    check_but(sources, KNOWN)
}

/// The same but for those that are known, and the known ones that are mended.
fn check_but(sources: &[Source], known: &[(&str, &str)]) -> Vec<Violation> {
    let mut printing = Vec::new();
    for source in sources.iter().filter(|source| source.extension() == "rs") {
        // What does not parse is told by the rule about functions.
        if let Ok(file) = syn::parse_file(&source.text) {
            let mut errors = Errors::default();
            errors.visit_file(&file);
            let found = errors.printing.into_iter();
            printing.extend(found.map(|error| (source.path.as_path(), error)));
        }
    }
    let is_known = |path: &Path, name: &str| {
        let known = &mut known.iter();
        known.any(|(at, error)| path == Path::new(at) && name == *error)
    };
    let mut violations = Vec::new();
    for (path, Printing { name, cause, line }) in &printing {
        if !is_known(path, name) {
            let message = format!(
                "`{name}` prints the cause that it holds: leave `{cause}` out of its text, since a chain of errors shows it"
            );
            violations.push(Violation::new(path, *line, message));
        }
    }
    for (at, error) in known {
        let is_there =
            |(path, found): &(&Path, Printing)| *path == Path::new(at) && found.name == *error;
        if !printing.iter().any(is_there) {
            let message =
                format!("`{error}` of {at} prints no cause any more: take it from the list");
            violations.push(Violation::new(Path::new(HERE), 0, message));
        }
    }
    violations
}

/// This file, which holds the list.
const HERE: &str = "xtask/src/tidy/sources.rs";

/// An error that prints its cause.
struct Printing {
    /// Its name, below the enumeration's where it is a variant.
    name: String,
    /// The field that holds the cause.
    cause: String,
    line: usize,
}

#[derive(Default)]
struct Errors {
    printing: Vec<Printing>,
}

impl Errors {
    fn shape(&mut self, name: String, line: usize, attributes: &[Attribute], fields: &Fields) {
        let Some((index, cause)) = fields.iter().enumerate().find(|(_, field)| is_cause(field))
        else {
            return;
        };
        let cause = match &cause.ident {
            Some(name) => name.to_string(),
            None => index.to_string(),
        };
        if attributes.iter().any(|one| prints(one, &cause)) {
            self.printing.push(Printing { name, cause, line });
        }
    }
}

impl<'ast> Visit<'ast> for Errors {
    fn visit_item_enum(&mut self, item: &'ast syn::ItemEnum) {
        if derives_error(&item.attrs) {
            for variant in &item.variants {
                let name = format!("{}::{}", item.ident, variant.ident);
                let line = variant.ident.span().start().line;
                self.shape(name, line, &variant.attrs, &variant.fields);
            }
        }
        visit::visit_item_enum(self, item);
    }

    fn visit_item_struct(&mut self, item: &'ast syn::ItemStruct) {
        if derives_error(&item.attrs) {
            let line = item.ident.span().start().line;
            self.shape(item.ident.to_string(), line, &item.attrs, &item.fields);
        }
        visit::visit_item_struct(self, item);
    }
}

fn derives_error(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let Meta::List(list) = &attribute.meta else {
            return false;
        };
        let names = |token| matches!(token, TokenTree::Ident(name) if name == "Error");
        list.path.is_ident("derive") && list.tokens.clone().into_iter().any(names)
    })
}

/// Whether thiserror takes a field for the cause.
fn is_cause(field: &Field) -> bool {
    let is_marked = field
        .attrs
        .iter()
        .any(|one| one.path().is_ident("source") || one.path().is_ident("from"));
    is_marked || field.ident.as_ref().is_some_and(|name| name == "source")
}

/// Whether an attribute is a text of an error with this field in it.
fn prints(attribute: &Attribute, field: &str) -> bool {
    let Meta::List(list) = &attribute.meta else {
        return false;
    };
    if !list.path.is_ident("error") {
        return false;
    }
    let mut tokens = list.tokens.clone().into_iter();
    let Some(TokenTree::Literal(text)) = tokens.next() else {
        // `transparent`, or a function that writes the text.
        return false;
    };
    let syn::Lit::Str(text) = syn::Lit::new(text) else {
        return false;
    };
    let arguments: Vec<TokenTree> = tokens.collect();
    placeholders(&text.value()).any(|name| name == field) || is_argument(&arguments, field)
}

/// The names and numbers that stand in braces in a text.
fn placeholders(text: &str) -> impl Iterator<Item = String> {
    let plain = text.replace("{{", "").replace("}}", "");
    let opened: Vec<String> = plain.split('{').skip(1).map(str::to_owned).collect();
    opened.into_iter().map(|rest| {
        let end = rest.find(['}', ':']).unwrap_or(rest.len());
        rest[..end].trim().to_owned()
    })
}

/// Whether `.field` stands among the arguments of a text.
fn is_argument(arguments: &[TokenTree], field: &str) -> bool {
    let is_dot = |token: &TokenTree| matches!(token, TokenTree::Punct(dot) if dot.as_char() == '.');
    arguments.windows(3).any(|three| {
        let begins = !matches!(
            three[0],
            TokenTree::Ident(_) | TokenTree::Group(_) | TokenTree::Literal(_)
        );
        begins && is_dot(&three[1]) && three[2].to_string() == field
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(variant: &str) -> Vec<String> {
        let text = format!("#[derive(Debug, thiserror::Error)]\nenum Broken {{\n{variant}\n}}\n");
        let violations = check_but(&[Source::sample("a.rs", text)], &[]);
        violations.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn an_error_that_prints_its_cause_is_named() {
        for variant in [
            "#[error(\"it broke: {0}\")] Io(#[from] io::Error),",
            "#[error(\"it broke: {0:?}\")] Io(#[source] io::Error),",
            "#[error(\"{1} of {0}\")] Io(String, #[source] io::Error),",
            "#[error(\"it broke: {source}\")] Io { source: io::Error },",
            "#[error(\"it broke: {why:#}\")] Io { #[source] why: io::Error, path: PathBuf },",
            "#[error(\"it broke: {}\", .0)] Io(#[from] io::Error),",
            "#[error(\"{} broke: {}\", .path.display(), .source)] Io { path: PathBuf, source: io::Error },",
        ] {
            let found = found(variant);
            assert_eq!(found.len(), 1, "{variant}: {found:?}");
            assert!(
                found[0].starts_with("a.rs:3: `Broken::Io` prints"),
                "{found:?}"
            );
        }
        let text = "#[derive(Debug, Error)]\n#[error(\"it broke: {0}\")]\nstruct Broken(#[source] io::Error);\n";
        assert_eq!(check_but(&[Source::sample("a.rs", text)], &[]).len(), 1);
    }

    #[test]
    fn an_error_that_leaves_its_cause_to_the_chain_is_good() {
        for variant in [
            "#[error(\"it broke\")] Io(#[from] io::Error),",
            "#[error(transparent)] Io(#[from] io::Error),",
            "#[error(\"{0} broke\")] Io(String, #[source] io::Error),",
            "#[error(\"{path} broke {{source}}\")] Io { path: String, source: io::Error },",
            "#[error(\"{} broke\", .path.display())] Io { path: PathBuf, source: io::Error },",
            "#[error(\"it broke: {0}\")] Io(io::Error),",
            "#[error(\"it broke: {reason}\")] Io { reason: String },",
        ] {
            assert_eq!(found(variant), Vec::<String>::new(), "{variant}");
        }
    }

    #[test]
    fn only_what_derives_an_error_is_looked_at() {
        let text = "#[derive(Debug)]\nenum Other { #[error(\"{0}\")] Io(#[from] io::Error) }\n";
        assert_eq!(check_but(&[Source::sample("a.rs", text)], &[]), []);
    }

    #[test]
    fn a_known_one_is_let_be_until_it_is_mended() {
        let known = [("a.rs", "Broken::Io")];
        let text = |words: &str| {
            format!(
                "#[derive(Debug, Error)]\nenum Broken {{ #[error(\"{words}\")] Io(#[from] io::Error) }}\n"
            )
        };
        let bad = text("it broke: {0}");
        assert_eq!(check_but(&[Source::sample("a.rs", &*bad)], &known), []);
        let elsewhere = [Source::sample("a.rs", &*bad), Source::sample("b.rs", &*bad)];
        let found = check_but(&elsewhere, &known);
        assert!(found[0].to_string().starts_with("b.rs:2: "), "{found:?}");
        let mended = check_but(&[Source::sample("a.rs", text("it broke"))], &known);
        assert_eq!(mended.len(), 1);
        assert!(
            mended[0].to_string().contains("take it from the list"),
            "{mended:?}"
        );
    }
}
