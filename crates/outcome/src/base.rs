//! Weights that others left, as training starts from them.

use std::io::{self, Read, Seek, SeekFrom};
use std::sync::Arc;

use hearth_training::{Layout, Tensor, Weights};

use crate::blocks::Storage;
use crate::rotary::half_row;
use crate::vocabulary::Vocabulary;

/// What a model's files say before its numbers are read.
#[derive(Debug, Clone)]
pub struct BaseHead {
    /// Its shape.
    pub layout: Arc<Layout>,
    /// Its tokens; nothing where they are not byte-level BPE with a pattern of words that is known.
    pub vocabulary: Option<Vocabulary>,
    /// What its file calls it, where it does in one plain line.
    pub name: Option<String>,
}

/// A model that was read from files.
#[derive(Debug, Clone)]
pub struct Base {
    /// Its shape.
    pub layout: Arc<Layout>,
    /// Its numbers in single precision, in the order of training.
    pub weights: Weights,
    /// Its tokens; nothing where they are not byte-level BPE with a pattern of words that is known.
    pub vocabulary: Option<Vocabulary>,
    /// What its file calls it, where it does in one plain line.
    pub name: Option<String>,
}

/// Where a tensor stands in a file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stored {
    pub(crate) storage: Storage,
    /// Where its first row begins, in bytes from the begin of the file.
    pub(crate) begin: u64,
    /// The height of the heads whose rows lie with the halves between each other.
    pub(crate) turned_head: Option<usize>,
}

/// Bytes that are read at a time, unless a row is longer.
const PIECE_BYTES: usize = 1 << 20;

/// Reads the rows of a tensor into `out`, in the order of training. The tensor's rows are whole blocks.
pub(crate) fn read_rows(
    source: &mut (impl Read + Seek),
    stored: Stored,
    tensor: &Tensor,
    out: &mut [f32],
) -> io::Result<()> {
    let row_bytes = stored.storage.row_bytes(tensor.columns);
    let row_bytes = row_bytes.ok_or(io::ErrorKind::InvalidData)?;
    source.seek(SeekFrom::Start(stored.begin))?;
    let together = (PIECE_BYTES / row_bytes).clamp(1, tensor.rows);
    let mut piece = vec![0; together * row_bytes];
    let mut row = 0;
    while row < tensor.rows {
        let rows = together.min(tensor.rows - row);
        let piece = &mut piece[..rows * row_bytes];
        source.read_exact(piece)?;
        for bytes in piece.chunks_exact(row_bytes) {
            let place = stored.turned_head.map_or(row, |head| half_row(row, head));
            let out = &mut out[place * tensor.columns..(place + 1) * tensor.columns];
            stored.storage.decode(bytes, out);
            row += 1;
        }
    }
    Ok(())
}
