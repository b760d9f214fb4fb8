//! Errors that hold what caused them do not print it too: `hearth_causes` shows the chain of causes for all.
//!
//! This is about what derives `Error`: a variant (or a structure) with a cause, which is the field marked `#[source]` or
//! `#[from]` or called `source`, and a text `#[error("…")]` in which that field stands.

use proc_macro2::TokenTree;
use syn::visit::{self, Visit};
use syn::{Attribute, Field, Fields, Meta};

use super::{Source, Violation};

/// The errors that print their cause.
pub(super) fn check(source: &Source) -> Vec<Violation> {
    // What does not parse is told by the rule about functions.
    let Ok(file) = syn::parse_file(&source.text) else {
        return Vec::new();
    };
    let mut errors = Errors::default();
    errors.visit_file(&file);
    let found = errors.printing.into_iter();
    found
        .map(|Printing { name, cause, line }| {
            let message = format!(
                "`{name}` prints the cause that it holds: leave `{cause}` out of its text, since a chain of errors shows it"
            );
            Violation::new(&source.path, line, message)
        })
        .collect()
}

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

/// Whether a field stands among the arguments of a text: behind a dot that follows nothing, or a named one by itself.
fn is_argument(arguments: &[TokenTree], field: &str) -> bool {
    let is_dot = |token: &TokenTree| matches!(token, TokenTree::Punct(dot) if dot.as_char() == '.');
    let is_value = |token: &TokenTree| !matches!(token, TokenTree::Punct(_));
    arguments.iter().enumerate().any(|(index, token)| {
        if let TokenTree::Group(group) = token {
            let inner: Vec<TokenTree> = group.stream().into_iter().collect();
            return is_argument(&inner, field);
        }
        let before = &arguments[..index];
        let is_field = match before {
            // A field of something else has the name.
            [.., owner, dot] if is_dot(dot) && is_value(owner) => false,
            [.., dot] if is_dot(dot) => true,
            _ => matches!(token, TokenTree::Ident(_)),
        };
        is_field && token.to_string() == field
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(variant: &str) -> Vec<String> {
        let text = format!("#[derive(Debug, thiserror::Error)]\nenum Broken {{\n{variant}\n}}\n");
        let violations = check(&Source::sample("a.rs", text));
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
            "#[error(\"it broke: {}\", reason(source))] Io { source: io::Error },",
            "#[error(\"it broke: {}\", short(.0))] Io(#[from] io::Error),",
        ] {
            let found = found(variant);
            assert_eq!(found.len(), 1, "{variant}: {found:?}");
            assert!(
                found[0].starts_with("a.rs:3: `Broken::Io` prints"),
                "{found:?}"
            );
        }
        let text = "#[derive(Debug, Error)]\n#[error(\"it broke: {0}\")]\nstruct Broken(#[source] io::Error);\n";
        assert_eq!(check(&Source::sample("a.rs", text)).len(), 1);
    }

    #[test]
    fn an_error_that_leaves_its_cause_to_the_chain_is_good() {
        for variant in [
            "#[error(\"it broke\")] Io(#[from] io::Error),",
            "#[error(transparent)] Io(#[from] io::Error),",
            "#[error(\"{0} broke\")] Io(String, #[source] io::Error),",
            "#[error(\"{path} broke {{source}}\")] Io { path: String, source: io::Error },",
            "#[error(\"{} broke\", .path.display())] Io { path: PathBuf, source: io::Error },",
            "#[error(\"{} broke\", .origin.source)] Io { origin: Place, source: io::Error },",
            "#[error(\"{} broke\", short(.0.1))] Io(Place, #[source] io::Error),",
            "#[error(\"it broke: {0}\")] Io(io::Error),",
            "#[error(\"it broke: {reason}\")] Io { reason: String },",
        ] {
            assert_eq!(found(variant), Vec::<String>::new(), "{variant}");
        }
    }

    #[test]
    fn only_what_derives_an_error_is_looked_at() {
        let text = "#[derive(Debug)]\nenum Other { #[error(\"{0}\")] Io(#[from] io::Error) }\n";
        assert_eq!(check(&Source::sample("a.rs", text)), []);
    }
}
