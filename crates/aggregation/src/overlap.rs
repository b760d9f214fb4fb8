//! How much two contributions have in common: what a validator looks at to find copies (spec: aggregation, section 9).

use crate::section::Section;

/// What two contributions have in common. Independent top-k choices of 64 in 4,096 share one place in 64; trainers who
/// began with the same weights share a few more; a copy shares nearly all.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Overlap {
    /// Places at which the first one sends something. Zeros of dense forms do not count.
    pub sent: u64,
    /// Places at which both do.
    pub shared: u64,
    /// Places at which both have the same code: sign and level, or step.
    pub equal: u64,
    /// How many places both would have if each chose them at random, chunk by chunk.
    pub expected: f64,
}

impl Overlap {
    /// Returns the share of what the first one sends that the other sends too, from 0 to 1.
    pub fn share(&self) -> f64 {
        ratio(self.shared, self.sent)
    }

    /// Returns the share of what the first one sends that the other has with the same code, from 0 to 1.
    pub fn equal_share(&self) -> f64 {
        ratio(self.equal, self.sent)
    }

    /// Counts a tensor.
    pub(crate) fn count(&mut self, own: &Section<'_>, others: &Section<'_>) {
        for (ours, theirs) in own.chunks().zip(others.chunks()) {
            self.count_chunk(ours.values, &ours.sent, &theirs.sent);
        }
    }

    fn count_chunk(&mut self, values: usize, ours: &[(u16, i8)], theirs: &[(u16, i8)]) {
        self.sent += ours.len() as u64;
        #[expect(
            clippy::cast_precision_loss,
            reason = "a chunk has at most 4,096 values"
        )]
        let expected = ours.len() as f64 * theirs.len() as f64 / values as f64;
        self.expected += expected;
        let mut theirs = theirs.iter().peekable();
        for (index, code) in ours {
            while theirs.next_if(|(other, _)| other < index).is_some() {}
            if let Some((_, other)) = theirs.next_if(|(other, _)| other == index) {
                self.shared += 1;
                self.equal += u64::from(code == other);
            }
        }
    }
}

fn ratio(part: u64, whole: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a share needs no more digits")]
    let ratio = part as f64 / whole.max(1) as f64;
    ratio
}
