//! The noise of an answer: a key stream, and who scores highest with it.
//!
//! For position `t` of the answer, the noise is the key stream of ChaCha8 (the block function of
//! RFC 8439 with eight rounds) under the answer's key. The 96-bit nonce is `t` as a little-endian
//! `u64` followed by four zero bytes, and the block counter begins at zero. Word `v` of the stream,
//! that is word `v % 16` of block `v / 16`, read as a little-endian `u32`, belongs to token `v`.

use chacha20::ChaCha8;
use chacha20::cipher::{KeyIvInit, StreamCipher, StreamCipherSeek};

/// Words of one block of the key stream.
const BLOCK_WORDS: usize = 16;
const BLOCK_BYTES: usize = 64;
/// Words that are drawn together: few enough for the first cache.
const RUN_WORDS: usize = 1_024;
/// Tokens that one test rules out together.
const LANES: usize = 64;
/// Below this temperature the vector test is too coarse.
const TEMPERATURE_MIN: f64 = 0.05;
/// Above this absolute score the vector test is too coarse.
const SCORE_MAX: f64 = 1_024.0;
/// Added to a bound's power of two, for the roundings of the vector test: the ulp of a score at
/// [`SCORE_MAX`] over [`TEMPERATURE_MIN`] is below 0.004, and the rounding below 2^-16.
const MARGIN: f32 = 0.03;
/// The highest noise less the lowest, rounded up.
const SPREAD: f64 = 26.1;
/// Ids that are drawn one by one rather than with the whole vocabulary.
const FEW: usize = 512;

/// What the noise of one answer is drawn with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoiseKey(pub [u8; 32]);

/// The key stream of one position.
pub(super) struct Noise {
    cipher: ChaCha8,
    block: [u8; BLOCK_BYTES],
    /// Which block `block` is.
    index: Option<u32>,
}

impl Noise {
    pub(super) fn new(key: NoiseKey, position: u64) -> Self {
        let mut nonce = [0; 12];
        nonce[..8].copy_from_slice(&position.to_le_bytes());
        Self {
            cipher: ChaCha8::new(&key.0.into(), &nonce.into()),
            block: [0; BLOCK_BYTES],
            index: None,
        }
    }

    /// The word of one token.
    pub(super) fn word(&mut self, id: u32) -> u32 {
        let index = id / BLOCK_WORDS as u32;
        if self.index != Some(index) {
            self.block = [0; BLOCK_BYTES];
            self.cipher.seek(u64::from(index) * BLOCK_BYTES as u64);
            self.cipher.apply_keystream(&mut self.block);
            self.index = Some(index);
        }
        let (words, _) = self.block.as_chunks::<4>();
        u32::from_le_bytes(words[id as usize % BLOCK_WORDS])
    }
}

/// The Gumbel noise of a word.
pub(super) fn gumbel(word: u32) -> f64 {
    let u = (f64::from(word) + 0.5) / 4_294_967_296.0;
    -(-u.ln()).ln()
}

/// The best score so far.
#[derive(Clone, Copy)]
struct Leader {
    id: u32,
    score: f64,
}

impl Leader {
    fn meet(&mut self, id: u32, score: f64) {
        if score > self.score || (score == self.score && id < self.id) {
            *self = Self { id, score };
        }
    }
}

fn score(logit: f32, temperature: f64, word: u32) -> f64 {
    f64::from(super::selection::finite(logit)) + temperature * gumbel(word)
}

/// The id that scores highest of `ids`, which are in their order and not empty.
pub(super) fn highest_of(
    ids: &[u32],
    logits: &[f32],
    temperature: f64,
    key: NoiseKey,
    position: u64,
) -> u32 {
    if ids.len() > FEW {
        let mut kept = vec![f32::NEG_INFINITY; logits.len()];
        for id in ids {
            kept[*id as usize] = logits[*id as usize];
        }
        let best = super::selection::argmax(&kept).unwrap_or(ids[0]);
        return highest(best, &kept, temperature, key, position);
    }
    one_by_one(ids, logits, temperature, key, position)
}

fn one_by_one(ids: &[u32], logits: &[f32], temperature: f64, key: NoiseKey, position: u64) -> u32 {
    let mut noise = Noise::new(key, position);
    let mut leader = Leader {
        id: u32::MAX,
        score: f64::NEG_INFINITY,
    };
    for id in ids {
        let word = noise.word(*id);
        leader.meet(*id, score(logits[*id as usize], temperature, word));
    }
    leader.id
}

/// The id that scores highest of all; `best` is the one with the highest logit.
pub(super) fn highest(
    best: u32,
    logits: &[f32],
    temperature: f64,
    key: NoiseKey,
    position: u64,
) -> u32 {
    let mut noise = Noise::new(key, position);
    let top = logits[best as usize];
    let first = Leader {
        id: best,
        score: score(top, temperature, noise.word(best)),
    };
    let coarse = first.score.abs().max(f64::from(top).abs()) > SCORE_MAX;
    if temperature < TEMPERATURE_MIN || coarse {
        // Whoever is further below the best than the noise can reach cannot win.
        let floor = f64::from(super::selection::finite(top)) - SPREAD * temperature;
        let near = |id: &u32| f64::from(logits[*id as usize]) >= floor;
        let ids: Vec<u32> = (0..logits.len() as u32).filter(near).collect();
        return one_by_one(&ids, logits, temperature, key, position);
    }
    let mut leader = first;
    let mut run = [0u8; RUN_WORDS * 4];
    noise.cipher.seek(0u64);
    for (index, logits) in logits.chunks(RUN_WORDS).enumerate() {
        let run = &mut run[..logits.len() * 4];
        run.fill(0);
        noise.cipher.apply_keystream(run);
        let (words, _) = run.as_chunks::<4>();
        scan(&mut leader, index * RUN_WORDS, logits, words, temperature);
    }
    leader.id
}

/// Lets those tokens of a run meet the leader that may beat it.
fn scan(leader: &mut Leader, first: usize, logits: &[f32], words: &[[u8; 4]], temperature: f64) {
    let scale = (std::f64::consts::LOG2_E / temperature) as f32;
    let parts = logits.chunks(LANES).zip(words.chunks(LANES));
    for (part, (logits, words)) in parts.enumerate() {
        let bound = leader.score as f32;
        let any = logits.iter().zip(words).fold(false, |any, (logit, word)| {
            any | may_beat(*logit, u32::from_le_bytes(*word), bound, scale)
        });
        if !any {
            continue;
        }
        for (offset, (logit, word)) in logits.iter().zip(words).enumerate() {
            let word = u32::from_le_bytes(*word);
            if may_beat(*logit, word, leader.score as f32, scale) {
                let id = first + part * LANES + offset;
                leader.meet(id as u32, score(*logit, temperature, word));
            }
        }
    }
}

/// Whether a token may score `bound` or more: false only if it cannot. `scale` is log2(e) / T.
///
/// With `w = 2^32 (1 - u)`: from `-ln u >= 1 - u` follows `g <= -ln(1 - u) = 32 ln 2 - ln w`, so
/// `l + T g >= bound` needs `w <= 2^(32 + (l - bound) scale)`. The power is bounded from above by
/// the straight line between its neighbouring whole powers, which is what the bits of a float give.
fn may_beat(logit: f32, word: u32, bound: f32, scale: f32) -> bool {
    /// Adding this leaves the sum's fraction in 16 bits.
    const FIXED: f32 = 192.0;
    let power = (logit - bound) * scale + (32.0 + MARGIN);
    // What is below this is ruled out (false for what is not a number, too) ..
    let power = if power > -30.0 { power } else { -30.0 };
    // .. and what is above this is looked at.
    let power = if power < 34.0 { power } else { 34.0 };
    let fixed = (power + FIXED).to_bits().wrapping_sub(FIXED.to_bits());
    let limit = f32::from_bits(fixed.wrapping_shl(7).wrapping_add(127 << 23));
    // `w` rounded down to a multiple of 256, which a signed conversion holds.
    let least = ((!word >> 8) as i32) as f32 * 256.0;
    least <= limit
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_noise_is_the_published_key_stream() {
        // ChaCha8 with an all-zero key and nonce; from draft-strombergson-chacha-test-vectors.
        let expected = [0x3e, 0x00, 0xef, 0x2f, 0x89, 0x5f, 0x40, 0xd6];
        let mut noise = Noise::new(NoiseKey([0; 32]), 0);
        let found = [noise.word(0).to_le_bytes(), noise.word(1).to_le_bytes()].concat();
        assert_eq!(found, expected);
    }

    #[test]
    fn no_noise_is_beyond_the_spread() {
        let spread = gumbel(u32::MAX) - gumbel(0);
        assert!(spread < SPREAD, "{spread}");
    }

    #[test]
    fn each_position_has_noise_of_its_own() {
        let word = |position| Noise::new(NoiseKey([7; 32]), position).word(3);
        assert_ne!(word(0), word(1));
        assert_ne!(word(0), word(1 << 32));
    }

    proptest! {
        #[test]
        fn nobody_is_ruled_out_who_scores_more(
            logit in -60f32..60.0,
            bound in -60f64..60.0,
            word in any::<u32>(),
            temperature in TEMPERATURE_MIN..2.0,
        ) {
            let scale = (std::f64::consts::LOG2_E / temperature) as f32;
            if score(logit, temperature, word) >= bound {
                prop_assert!(may_beat(logit, word, bound as f32, scale));
            }
        }
    }
}
