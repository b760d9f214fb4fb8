//! Words in pieces that llama.cpp's pre-tokenizers can take.
//!
//! Most of them are regular expressions that recurse once for each character of a match, so that a
//! long run of letters overflows the stack and ends the process. A piece has at most
//! [`PIECE_BYTES_MAX`] bytes; it ends before a single blank between two words, where every
//! pre-tokenizer ends a match anyway, and only inside a run that is longer than a piece anywhere.
//! Encoding runs on a thread whose stack holds the longest match many times over.

/// The longest piece, in bytes.
pub(crate) const PIECE_BYTES_MAX: usize = 8 << 10;
/// The stack of a thread that encodes or renders, in bytes. The most that was seen is half a
/// kilobyte for each character of a piece.
pub(crate) const STACK_BYTES: usize = 64 << 20;
/// The name of such a thread, by which it is known.
const DEEP_THREAD: &str = "hearth-reader";
/// The longest text that is encoded on the stack at hand, in bytes.
pub(crate) const SHALLOW_BYTES_MAX: usize = 512;

/// The pieces of a text, in their order; together they are the text.
pub(crate) fn pieces(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (piece, after) = rest.split_at(piece_length(rest));
        rest = after;
        Some(piece)
    })
}

fn piece_length(text: &str) -> usize {
    if text.len() <= PIECE_BYTES_MAX {
        return text.len();
    }
    let most = text.floor_char_boundary(PIECE_BYTES_MAX);
    let window = &text[..most];
    let blanks = window.rmatch_indices(' ').map(|(at, _)| at);
    let mut ends = blanks.filter(|at| {
        let before = text[..*at].chars().next_back();
        let after = text[at + 1..].chars().next();
        let is_word = |c: Option<char>| c.is_some_and(|c| !c.is_whitespace());
        is_word(before) && is_word(after)
    });
    ends.next().unwrap_or(most)
}

/// No thread could be started, or it broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NoThread;

/// Does something on a thread with a deep stack: on this one, if it is one. A reader process has a
/// single one, which it cannot start others from.
pub(crate) fn on_deep_stack<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, NoThread> {
    if std::thread::current().name() == Some(DEEP_THREAD) {
        return Ok(work());
    }
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name(DEEP_THREAD.to_owned())
            .stack_size(STACK_BYTES)
            .spawn_scoped(scope, work);
        thread.map_err(|_| NoThread)?.join().map_err(|_| NoThread)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_long_text_is_cut_between_words_and_a_long_run_anywhere() {
        let text = "some words, ".repeat(10_000);
        let cut: Vec<&str> = pieces(&text).collect();
        assert_eq!(cut.concat(), text);
        assert!(cut.iter().skip(1).all(|piece| piece.starts_with(' ')));
        for unit in ["a", "1", "!", " ", "\n", "漢", "e\u{301}", "ACGT", "🦔"] {
            let run = unit.repeat(100_000 / unit.len());
            let cut: Vec<&str> = pieces(&run).collect();
            assert_eq!(cut.concat(), run, "{unit:?}");
            assert!(cut.iter().all(|piece| piece.len() <= PIECE_BYTES_MAX));
            assert!(cut.len() <= 100_000 / PIECE_BYTES_MAX + 2, "{unit:?}");
        }
    }

    #[test]
    fn a_short_text_is_one_piece() {
        assert_eq!(pieces("two words").collect::<Vec<_>>(), ["two words"]);
        assert_eq!(pieces("").count(), 0);
    }

    proptest! {
        #[test]
        fn no_text_is_lost(parts in prop::collection::vec(".{0,9}", 0..9), times in 1usize..900) {
            let text = parts.concat().repeat(times);
            let cut: Vec<&str> = pieces(&text).collect();
            prop_assert_eq!(cut.concat(), text.clone());
            prop_assert!(cut.iter().all(|piece| !piece.is_empty() && piece.len() <= PIECE_BYTES_MAX));
        }
    }
}
