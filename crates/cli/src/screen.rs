//! What a command prints: one JSON document, or text with aligned columns.
//!
//! Colours are for terminals only, and not where `NO_COLOR` is set.

use std::io::{IsTerminal, Write};

use serde::Serialize;

use crate::failure::Failure;

/// Something that a command found out or did.
pub(crate) trait Show: Serialize {
    /// The same for people.
    fn show(&self, page: &mut Page);
}

/// Prints `what` as the caller wants to read it.
pub(crate) fn print(what: &impl Show, json: bool) -> Result<(), Failure> {
    let text = if json {
        let mut text = serde_json::to_string_pretty(what).expect("the types of the API serialise");
        text.push('\n');
        text
    } else {
        let mut page = Page::new(colours());
        what.show(&mut page);
        page.text
    };
    write(&text)
}

/// Prints one line of JSON and makes sure that it has left.
pub(crate) fn print_line(what: &impl Serialize) -> Result<(), Failure> {
    let mut text = serde_json::to_string(what).expect("the types of the API serialise");
    text.push('\n');
    write(&text)
}

fn write(text: &str) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    let written = stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush());
    written.map_err(|error| {
        Failure::new(
            "output",
            format!("the output could not be written: {error}"),
            "Check where the output goes",
        )
    })
}

fn colours() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

/// How a piece of text looks on a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// What matters most.
    Strong,
    /// What is in order.
    Good,
    /// What should be looked at.
    Warning,
    /// What is wrong.
    Bad,
    /// What explains the rest.
    Faint,
}

impl Style {
    const fn code(self) -> &'static str {
        match self {
            Self::Strong => "1",
            Self::Good => "32",
            Self::Warning => "33",
            Self::Bad => "31",
            Self::Faint => "2",
        }
    }
}

/// Text in the making.
pub(crate) struct Page {
    text: String,
    colours: bool,
}

impl Page {
    fn new(colours: bool) -> Self {
        Self {
            text: String::new(),
            colours,
        }
    }

    /// A line of its own.
    pub(crate) fn line(&mut self, text: &str) {
        self.text.push_str(text);
        self.text.push('\n');
    }

    /// `text` in a style, where colours are shown.
    pub(crate) fn styled(&self, style: Style, text: &str) -> String {
        if self.colours {
            format!("\x1b[{}m{text}\x1b[0m", style.code())
        } else {
            text.to_owned()
        }
    }

    /// Names and values below each other.
    pub(crate) fn pairs(&mut self, rows: &[(&str, String)]) {
        let width = rows
            .iter()
            .map(|(name, _)| name.chars().count())
            .max()
            .unwrap_or(0);
        for (name, value) in rows {
            let name = self.styled(Style::Faint, &format!("{name:width$}"));
            self.line(format!("{name}  {value}").trim_end());
        }
    }

    /// Columns with headings; `right` says which are numbers.
    pub(crate) fn table(&mut self, headings: &[&str], right: &[bool], rows: &[Vec<String>]) {
        let width = |column: usize| {
            let cells = rows.iter().filter_map(|row| row.get(column));
            let widest = cells.map(|cell| cell.chars().count()).max().unwrap_or(0);
            widest.max(headings[column].chars().count())
        };
        let widths: Vec<usize> = (0..headings.len()).map(width).collect();
        let aligned = |cells: &[String]| {
            let mut line = String::new();
            for (column, cell) in cells.iter().enumerate() {
                let width = widths[column];
                if right[column] {
                    line.push_str(&format!("{cell:>width$}  "));
                } else {
                    line.push_str(&format!("{cell:width$}  "));
                }
            }
            line.trim_end().to_owned()
        };
        let names: Vec<String> = headings.iter().map(|&name| name.to_owned()).collect();
        let head = self.styled(Style::Strong, &aligned(&names));
        self.line(&head);
        for row in rows {
            self.line(&aligned(row));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_numbers_to_the_right() {
        let mut page = Page::new(false);
        let row = |name: &str, amount: &str| vec![name.to_owned(), amount.to_owned()];
        page.table(
            &["asset", "amount"],
            &[false, true],
            &[row("A", "1.5"), row("LONGER", "100")],
        );
        assert_eq!(
            page.text,
            "asset   amount\nA          1.5\nLONGER     100\n"
        );
    }

    #[test]
    fn colours_are_only_where_they_are_wanted() {
        assert_eq!(Page::new(false).styled(Style::Bad, "x"), "x");
        assert_eq!(Page::new(true).styled(Style::Bad, "x"), "\x1b[31mx\x1b[0m");
    }
}
