//! From token ids to text: whole characters, up to the first stop text.

use hearth_models::vocabulary::{TextDecoder, Vocabulary};

/// What can be shown after some more ids came.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Shown {
    /// Whole characters that cannot be part of a stop text any more.
    pub(super) text: String,
    /// The stop text that came, if one did; nothing follows it.
    pub(super) stopped_by: Option<String>,
}

/// Turns ids into text.
#[derive(Debug)]
pub(super) struct Reader {
    decoder: TextDecoder,
    stops: Stops,
}

impl Reader {
    pub(super) fn new(stops: Vec<String>) -> Self {
        Self {
            decoder: TextDecoder::default(),
            stops: Stops::new(stops),
        }
    }

    pub(super) fn push(&mut self, vocabulary: &Vocabulary, ids: &[u32]) -> Shown {
        let mut text = String::new();
        for id in ids {
            text.push_str(&self.decoder.push(vocabulary.shown_bytes(*id)));
        }
        self.stops.push(&text)
    }

    /// What is left at the end.
    pub(super) fn finish(self) -> String {
        let Self { decoder, mut stops } = self;
        let shown = stops.push(&decoder.finish());
        if shown.stopped_by.is_some() {
            return shown.text;
        }
        shown.text + &stops.held
    }
}

/// Looks for stop texts, and holds back what may be the beginning of one.
#[derive(Debug)]
struct Stops {
    stops: Vec<String>,
    held: String,
}

impl Stops {
    fn new(stops: Vec<String>) -> Self {
        Self {
            stops: stops.into_iter().filter(|stop| !stop.is_empty()).collect(),
            held: String::new(),
        }
    }

    fn push(&mut self, text: &str) -> Shown {
        self.held.push_str(text);
        let found = self
            .stops
            .iter()
            .filter_map(|stop| self.held.find(stop).map(|at| (at, stop)))
            // The one that is whole first, so that it does not matter how the text is cut.
            .min_by_key(|(at, stop)| (at + stop.len(), *at));
        if let Some((at, stop)) = found {
            let text = self.held[..at].to_owned();
            let stopped_by = Some(stop.clone());
            self.held.clear();
            return Shown { text, stopped_by };
        }
        let keep = self.held.len() - self.beginning();
        let rest = self.held.split_off(keep);
        Shown {
            text: std::mem::replace(&mut self.held, rest),
            stopped_by: None,
        }
    }

    /// The length of the longest end of what is held that a stop text begins with.
    fn beginning(&self) -> usize {
        let begins = |stop: &String| {
            (1..stop.len())
                .rev()
                .filter(|length| stop.is_char_boundary(*length))
                .find(|length| self.held.ends_with(&stop[..*length]))
        };
        self.stops.iter().filter_map(begins).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(stops: &[&str], pieces: &[&str]) -> (String, Option<String>) {
        let mut stops = Stops::new(stops.iter().map(|stop| (*stop).to_owned()).collect());
        let mut text = String::new();
        for piece in pieces {
            let shown = stops.push(piece);
            text.push_str(&shown.text);
            if shown.stopped_by.is_some() {
                return (text, shown.stopped_by);
            }
        }
        (text + &stops.held, None)
    }

    #[test]
    fn a_stop_text_is_found_across_pieces_and_is_not_shown() {
        let found = |stops: &[&str], pieces: &[&str], text: &str, stop: &str| {
            assert_eq!(
                shown(stops, pieces),
                (text.to_owned(), Some(stop.to_owned()))
            );
        };
        found(&["END"], &["one E", "N", "D two"], "one ", "END");
        found(&["\n\n", "x"], &["a\n", "bx"], "a\nb", "x");
        found(&["aab"], &["aa", "aab"], "aa", "aab");
        found(&["é!"], &["caf", "é", "!"], "caf", "é!");
        found(&["bc", "abcd"], &["xabcd"], "xa", "bc");
    }

    #[test]
    fn what_only_looked_like_a_stop_text_is_shown() {
        assert_eq!(shown(&["END"], &["E", "N", "E"]), ("ENE".to_owned(), None));
        assert_eq!(shown(&[""], &["all"]), ("all".to_owned(), None));
        assert_eq!(shown(&[], &["a", "b"]), ("ab".to_owned(), None));
    }

    #[test]
    fn nothing_is_held_back_that_cannot_be_part_of_a_stop_text() {
        let mut stops = Stops::new(vec!["END".to_owned()]);
        assert_eq!(stops.push("the E").text, "the ");
        assert_eq!(stops.push("x").text, "Ex");
    }
}
