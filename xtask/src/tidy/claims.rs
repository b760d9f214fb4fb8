//! What the documents claim, and what proves it: `docs/claims.toml` names for each claim the tests, figures, fuzz
//! targets, checks or steps of the demo that show it.
//!
//! A claim quotes its document, so that who changes the sentence has to look at its proofs again.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;

use super::Violation;
use super::evidence::{Evidence, Proof};

/// Where the claims are listed.
pub(super) const CLAIMS: &str = "docs/claims.toml";
/// The document whose table of what works has to be claimed whole.
const README: &str = "README.md";
/// The heading above that table.
const STATE: &str = "## What works, and what does not";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Claims {
    claim: Vec<Claim>,
    #[serde(default)]
    limitation: Vec<Limitation>,
}

/// A sentence that is proven.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Claim {
    /// A name that nobody else has, for reports and reviews.
    id: Spanned<String>,
    document: PathBuf,
    /// A sentence, or a cell or a part of it, as the document has it; line ends count as blanks.
    quote: Spanned<String>,
    /// See [`Proof`].
    proofs: Vec<Spanned<String>>,
}

/// A sentence that says what does not work or was not tried, which nothing can prove.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Limitation {
    document: PathBuf,
    quote: Spanned<String>,
}

/// Every claim that its document no longer makes, that nothing proves, or that is missing. `texts` are the files of
/// the repository.
pub(super) fn check(texts: &BTreeMap<PathBuf, &str>, evidence: &Evidence) -> Vec<Violation> {
    let path = Path::new(CLAIMS);
    let text = texts.get(path).copied().unwrap_or_default();
    let claims: Claims = match toml::from_str(text) {
        Ok(claims) => claims,
        Err(error) => {
            let start = error.span().map_or(0, |span| span.start);
            let message = format!("no list of claims: {}", error.message());
            return vec![Violation::new(path, line(text, start), message)];
        }
    };
    let mut found = Found {
        text,
        violations: Vec::new(),
    };
    found.ids(&claims);
    found.quotes(&claims, texts);
    found.proofs(&claims, evidence);
    found.violations.extend(unclaimed(texts, &claims));
    found.violations
}

struct Found<'a> {
    /// What the list of claims says, in which lines are counted.
    text: &'a str,
    violations: Vec<Violation>,
}

impl Found<'_> {
    fn at<T>(&mut self, place: &Spanned<T>, message: String) {
        let line = line(self.text, place.span().start);
        self.violations
            .push(Violation::new(Path::new(CLAIMS), line, message));
    }

    fn ids(&mut self, claims: &Claims) {
        let mut seen = BTreeSet::new();
        for Claim { id, .. } in &claims.claim {
            if id.get_ref().is_empty() || !seen.insert(id.get_ref()) {
                let message = format!("the id `{}` names no one claim", id.get_ref());
                self.at(id, message);
            }
        }
    }

    fn quotes(&mut self, claims: &Claims, texts: &BTreeMap<PathBuf, &str>) {
        let mut documents: BTreeMap<&Path, Option<String>> = BTreeMap::new();
        for (document, quote) in claims.quoted() {
            let said = documents
                .entry(document)
                .or_insert_with(|| texts.get(document).map(|text| one_line(text)));
            let document = document.display();
            let wanted = one_line(quote.get_ref());
            let message = match said {
                _ if wanted.is_empty() => "a quote without words".to_owned(),
                None => format!("{document} is no file of this repository"),
                Some(said) if !said.contains(&wanted) => format!(
                    "`{wanted}` does not stand in {document}: quote what it says now, and see that the proofs show that"
                ),
                Some(_) => continue,
            };
            self.at(quote, message);
        }
    }

    fn proofs(&mut self, claims: &Claims, evidence: &Evidence) {
        for claim in &claims.claim {
            let id = claim.id.get_ref();
            if claim.proofs.is_empty() {
                let message = format!(
                    "nothing proves `{id}`: name what shows it, or take it out of {}",
                    claim.document.display()
                );
                self.at(&claim.id, message);
            }
            for proof in &claim.proofs {
                if let Some(flaw) = evidence.flaw(Proof::read(proof.get_ref())) {
                    let message = format!("`{}`, which proves `{id}`, {flaw}", proof.get_ref());
                    self.at(proof, message);
                }
            }
        }
    }
}

impl Claims {
    /// Every quote, with the document that it is from.
    fn quoted(&self) -> impl Iterator<Item = (&Path, &Spanned<String>)> {
        let claims = self.claim.iter().map(|one| (&*one.document, &one.quote));
        let limitations = self.limitation.iter();
        claims.chain(limitations.map(|one| (&*one.document, &one.quote)))
    }
}

/// The sentences of README's table that neither a claim nor a limitation quotes.
fn unclaimed(texts: &BTreeMap<PathBuf, &str>, claims: &Claims) -> Vec<Violation> {
    let readme = Path::new(README);
    let quotes: Vec<String> = claims
        .quoted()
        .filter(|(document, _)| *document == readme)
        .map(|(_, quote)| one_line(quote.get_ref()))
        .collect();
    let text = texts.get(readme).copied().unwrap_or_default();
    let sentences = sentences_of_state(text);
    if sentences.is_empty() {
        let message = format!("there is no table under `{STATE}`");
        return vec![Violation::new(readme, 0, message)];
    }
    let mut violations = Vec::new();
    for (line, sentence) in sentences {
        if !quotes.iter().any(|quote| quote.contains(&sentence)) {
            let message =
                format!("no claim of {CLAIMS} quotes `{sentence}`: say there what proves it");
            violations.push(Violation::new(readme, line, message));
        }
    }
    violations
}

/// The sentences in the last column of the table of what works, with their lines.
fn sentences_of_state(text: &str) -> Vec<(usize, String)> {
    let lines = text.lines().enumerate();
    let table = lines
        .skip_while(|(_, line)| *line != STATE)
        .skip(1)
        .take_while(|(_, line)| !line.starts_with('#'))
        .filter(|(_, line)| line.starts_with('|'))
        // Its head, and the line below that.
        .skip(2);
    let mut sentences = Vec::new();
    for (index, row) in table {
        let cells = row.trim().trim_matches('|').split(" | ");
        let state = cells.last().unwrap_or_default();
        let parts = state.split("; ").flat_map(|part| part.split(". "));
        let parts = parts.map(|part| one_line(part.trim().trim_end_matches('.')));
        sentences.extend(parts.map(|sentence| (index + 1, sentence)));
    }
    sentences
}

/// A text with one blank wherever it has blanks or line ends.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The line of a place in a text, from 1.
fn line(text: &str, place: usize) -> usize {
    let before = text.as_bytes().iter().take(place);
    before.filter(|byte| **byte == b'\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::super::suite::Fate;
    use super::*;

    const STATES: &str = "# House\n\n## What works, and what does not\n| subject | state |\n|---|---|\n\
        | doors | they open; they close again. Windows are not there |\n\n## Later\n| a | b |\n|---|---|\n| c | d |\n";
    const GUIDE: &str = "# Doors\n\nWhoever knocks is let in,\nand nobody else.\n";
    const GOOD: &str = r#"
[[claim]]
id = "doors"
document = "README.md"
quote = "they open; they close again"
proofs = ["house doors::open", "house doors::close"]

[[claim]]
id = "knocking"
document = "docs/guide/doors.md"
quote = "Whoever knocks is let in, and nobody else."
proofs = ["house doors::knock"]

[[limitation]]
document = "README.md"
quote = "Windows are not there"
"#;

    fn found_with(claims: &str, readme: &str) -> Vec<String> {
        let evidence = Evidence::sample(&[
            ("house doors::open", Fate::Runs),
            ("house doors::close", Fate::Runs),
            ("house doors::knock", Fate::Runs),
            ("house doors::slow", Fate::Ignored),
            ("house doors::foreign", Fate::LeftOut),
        ]);
        let texts = BTreeMap::from([
            (PathBuf::from(CLAIMS), claims),
            (PathBuf::from(README), readme),
            (PathBuf::from("docs/guide/doors.md"), GUIDE),
        ]);
        let violations = check(&texts, &evidence);
        violations.iter().map(ToString::to_string).collect()
    }

    /// What is found where `good` of the good list is `bad`.
    fn found(good: &str, bad: &str) -> Vec<String> {
        assert!(GOOD.contains(good), "{good}");
        found_with(&GOOD.replace(good, bad), STATES)
    }

    fn assert_only(found: &[String], place: &str, words: &str) {
        let [violation] = found else {
            panic!("one place is wrong: {found:?}");
        };
        assert!(violation.starts_with(place), "{violation}");
        assert!(violation.contains(words), "{violation}");
    }

    #[test]
    fn what_is_quoted_and_proven_is_good() {
        assert_eq!(found("", ""), Vec::<String>::new());
    }

    #[test]
    fn a_sentence_that_was_changed_has_to_be_proven_anew() {
        let found = found("knocks is let in", "rings is let in");
        assert_only(&found, "docs/claims.toml:11: ", "Whoever rings");
    }

    #[test]
    fn a_limitation_has_to_stand_in_its_document_too() {
        let claims =
            GOOD.to_owned() + "[[limitation]]\ndocument = \"README.md\"\nquote = \"No cellar\"\n";
        let found = found_with(&claims, STATES);
        assert_only(&found, "docs/claims.toml:19: ", "No cellar");
    }

    #[test]
    fn a_document_that_is_gone_is_named() {
        let found = found("docs/guide/doors.md", "docs/guide/gates.md");
        assert_only(
            &found,
            "docs/claims.toml:11: ",
            "docs/guide/gates.md is no file",
        );
    }

    #[test]
    fn a_quote_needs_words() {
        let found = found("Whoever knocks is let in, and nobody else.", " ");
        assert_only(&found, "docs/claims.toml:11: ", "without words");
    }

    #[test]
    fn a_claim_needs_a_proof() {
        let found = found("[\"house doors::knock\"]", "[]");
        assert_only(&found, "docs/claims.toml:9: ", "nothing proves `knocking`");
    }

    #[test]
    fn a_proof_has_to_exist() {
        let found = found("house doors::knock", "house doors::ring");
        assert_only(
            &found,
            "docs/claims.toml:12: ",
            "`house doors::ring`, which proves `knocking`, does not exist",
        );
    }

    #[test]
    fn a_proof_has_to_run() {
        for (name, words) in [("slow", "is ignored"), ("foreign", "is not compiled")] {
            let found = found("house doors::knock", &format!("house doors::{name}"));
            assert_only(&found, "docs/claims.toml:12: ", words);
        }
    }

    #[test]
    fn an_id_is_there_once() {
        assert_only(
            &found("\"knocking\"", "\"doors\""),
            "docs/claims.toml:9: ",
            "`doors`",
        );
        assert_only(
            &found("\"knocking\"", "\"\""),
            "docs/claims.toml:9: ",
            "the id",
        );
    }

    #[test]
    fn each_sentence_of_what_works_is_claimed() {
        let closing = found("they open; they close again", "they open");
        assert_only(&closing, "README.md:6: ", "`they close again`");
        let windows = found("Windows are not there", "Windows");
        assert_only(&windows, "README.md:6: ", "`Windows are not there`");
        // A quote from elsewhere claims nothing in the table.
        let elsewhere = "document = \"docs/guide/doors.md\"\nquote = \"Doors\"\n";
        let elsewhere = found(
            "document = \"README.md\"\nquote = \"Windows are not there\"\n",
            elsewhere,
        );
        assert_only(&elsewhere, "README.md:6: ", "`Windows are not there`");
    }

    #[test]
    fn the_table_of_what_works_may_not_get_lost() {
        let moved = STATES.replace("## What works, and what does not", "## State");
        let found = found_with(GOOD, &moved);
        assert_only(&found, "README.md: ", "no table");
    }

    #[test]
    fn what_is_no_list_of_claims_is_said() {
        let field = found("id = \"knocking\"", "id = \"knocking\"\nowner = \"me\"");
        assert_only(&field, "docs/claims.toml:10: ", "owner");
        assert_only(&found_with("", STATES), "docs/claims.toml:1: ", "claim");
    }
}
