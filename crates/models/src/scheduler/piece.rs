//! How a prompt is cut into pieces.

/// From this many rows on, matrix kernels round a row the same way whatever is beside it.
pub(crate) const PIECE_TOKENS_MIN: u32 = 64;

/// Where prompts are cut on a graphics processor: at each multiple of this. Larger pieces are read faster, smaller ones
/// waste less of what a new prompt shares with an old one.
pub(crate) const GRID_TOKENS: u32 = 256;

/// Where the piece ends that begins at `computed`, in a prompt of `to_read` tokens that is cut on the grid.
pub(super) fn grid_end(computed: u32, to_read: u32) -> u32 {
    to_read.min((computed / GRID_TOKENS + 1) * GRID_TOKENS)
}

/// How many of the `remaining` tokens are read next when there is room for `room`: as many as
/// fit, but none of the pieces shorter than [`PIECE_TOKENS_MIN`] if that can be helped.
pub(super) fn piece_tokens(remaining: u32, room: u32) -> u32 {
    if remaining <= room {
        return remaining;
    }
    let take = room.min(remaining.saturating_sub(PIECE_TOKENS_MIN));
    if take >= PIECE_TOKENS_MIN { take } else { room }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_piece_is_too_short(prompt in 1u32..5_000, room in 2 * PIECE_TOKENS_MIN..600) {
            let mut remaining = prompt;
            while remaining > 0 {
                let piece = piece_tokens(remaining, room);
                prop_assert!(piece > 0 && piece <= room.min(remaining));
                prop_assert!(piece >= PIECE_TOKENS_MIN || prompt < PIECE_TOKENS_MIN);
                remaining -= piece;
            }
        }
    }
}
