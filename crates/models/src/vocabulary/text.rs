//! Bytes that arrive in pieces, as text in whole characters.

/// The longest beginning of a character that waits for its end, in bytes.
const PENDING_BYTES_MAX: usize = 3;

/// Turns bytes into text as they arrive, holding back a character that is not whole yet.
///
/// What is no UTF-8 becomes the replacement character, as `String::from_utf8_lossy` would have it.
#[derive(Debug, Clone, Default)]
pub struct TextDecoder {
    pending: Vec<u8>,
}

impl TextDecoder {
    /// The text that is whole with these bytes.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        self.pending.extend_from_slice(bytes);
        let held = unfinished(&self.pending);
        let rest = self.pending.split_off(self.pending.len() - held);
        let text = String::from_utf8_lossy(&self.pending).into_owned();
        self.pending = rest;
        text
    }

    /// What is left when no more bytes come.
    pub fn finish(self) -> String {
        String::from_utf8_lossy(&self.pending).into_owned()
    }
}

/// How many bytes at the end are the beginning of a character.
fn unfinished(bytes: &[u8]) -> usize {
    for held in 1..=PENDING_BYTES_MAX.min(bytes.len()) {
        let tail = &bytes[bytes.len() - held..];
        if tail[0] & 0b1100_0000 == 0b1000_0000 {
            continue;
        }
        let error = std::str::from_utf8(tail).err();
        let cut_short = error.is_some_and(|error| error.error_len().is_none());
        return if cut_short { held } else { 0 };
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_character_waits_for_its_last_byte() {
        let mut decoder = TextDecoder::default();
        let bytes = "a🦔".as_bytes();
        assert_eq!(decoder.push(&bytes[..3]), "a");
        assert_eq!(decoder.push(&bytes[3..4]), "");
        assert_eq!(decoder.push(&bytes[4..]), "🦔");
        assert_eq!(decoder.push(&bytes[1..2]), "");
        assert_eq!(decoder.finish(), "\u{fffd}");
    }

    proptest! {
        #[test]
        fn pieces_give_the_text_of_the_whole(
            bytes in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..60),
                ".{0,20}".prop_map(String::into_bytes),
            ],
            cuts in prop::collection::vec(0usize..60, 0..6),
        ) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.sort_unstable();
            let mut decoder = TextDecoder::default();
            let (mut text, mut start) = (String::new(), 0);
            for cut in cuts.into_iter().chain([bytes.len()]) {
                text.push_str(&decoder.push(&bytes[start..cut]));
                start = cut;
            }
            text.push_str(&decoder.finish());
            prop_assert_eq!(text, String::from_utf8_lossy(&bytes));
        }
    }
}
