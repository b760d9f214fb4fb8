//! The shapes of tensors, and the chunks that their values are sent in (spec: aggregation, section 2).

/// The most values of a chunk: what an index of 12 bits can name.
pub const CHUNK_VALUES: usize = 4_096;
/// The most rows and columns of a matrix's tile.
pub const TILE_SIDE: usize = 64;

/// The shape of a tensor whose values lie row by row. Dimensions are at least 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TensorShape {
    /// One dimension.
    Vector {
        /// The number of values.
        values: u32,
    },
    /// Two dimensions.
    Matrix {
        /// The number of rows.
        rows: u32,
        /// The number of values in a row.
        columns: u32,
    },
}

impl TensorShape {
    /// Returns the number of values.
    pub fn values(self) -> u64 {
        match self {
            Self::Vector { values } => u64::from(values),
            Self::Matrix { rows, columns } => u64::from(rows) * u64::from(columns),
        }
    }

    /// Returns the number of chunks.
    pub(crate) fn chunks(self) -> usize {
        match self {
            Self::Vector { values } => (values as usize).div_ceil(CHUNK_VALUES),
            Self::Matrix { rows, columns } => {
                (rows as usize).div_ceil(TILE_SIDE) * (columns as usize).div_ceil(TILE_SIDE)
            }
        }
    }

    /// Returns one of its chunks; `number` is less than [`TensorShape::chunks`].
    pub(crate) fn chunk(self, number: usize) -> Chunk {
        match self {
            Self::Vector { values } => {
                let start = number * CHUNK_VALUES;
                let width = CHUNK_VALUES.min(values as usize - start);
                Chunk {
                    start,
                    rows: 1,
                    width,
                    stride: width,
                }
            }
            Self::Matrix { rows, columns } => {
                let (rows, columns) = (rows as usize, columns as usize);
                let across = columns.div_ceil(TILE_SIDE);
                let row = number / across * TILE_SIDE;
                let column = number % across * TILE_SIDE;
                Chunk {
                    start: row * columns + column,
                    rows: TILE_SIDE.min(rows - row),
                    width: TILE_SIDE.min(columns - column),
                    stride: columns,
                }
            }
        }
    }

    /// Returns every chunk in order.
    pub(crate) fn each_chunk(self) -> impl Iterator<Item = Chunk> {
        (0..self.chunks()).map(move |number| self.chunk(number))
    }

    /// Returns the lengths that chunks have, each with the number of chunks that have it: inner ones and the
    /// ragged edges. Without going through the chunks, of which a hostile manifest may have many.
    pub(crate) fn chunk_lengths(self) -> [(u64, u64); 4] {
        let split = |values: u32, side: usize| {
            let (values, side) = (u64::from(values), side as u64);
            (values / side, values % side)
        };
        match self {
            Self::Vector { values } => {
                let (full, edge) = split(values, CHUNK_VALUES);
                let ragged = u64::from(edge > 0);
                [(CHUNK_VALUES as u64, full), (edge, ragged), (0, 0), (0, 0)]
            }
            Self::Matrix { rows, columns } => {
                let side = TILE_SIDE as u64;
                let (down, edge_rows) = split(rows, TILE_SIDE);
                let (across, edge_columns) = split(columns, TILE_SIDE);
                let (ragged_down, ragged_across) =
                    (u64::from(edge_rows > 0), u64::from(edge_columns > 0));
                [
                    (side * side, down * across),
                    (side * edge_columns, down * ragged_across),
                    (edge_rows * side, ragged_down * across),
                    (edge_rows * edge_columns, ragged_down * ragged_across),
                ]
            }
        }
    }
}

/// Values that are sent together: consecutive ones of a vector, or a tile of a matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Chunk {
    start: usize,
    rows: usize,
    width: usize,
    stride: usize,
}

impl Chunk {
    /// Returns the number of values, at most [`CHUNK_VALUES`].
    pub(crate) fn values(self) -> usize {
        self.rows * self.width
    }

    /// Returns where in the tensor the chunk's value `index` lies.
    pub(crate) fn position(self, index: usize) -> usize {
        self.start + index / self.width * self.stride + index % self.width
    }

    /// Returns where in the tensor each row of the chunk begins, and its length.
    pub(crate) fn each_row(self) -> impl Iterator<Item = (usize, usize)> {
        (0..self.rows).map(move |row| (self.start + row * self.stride, self.width))
    }

    /// Copies the chunk's values out of a tensor.
    pub(crate) fn gather<'a>(self, tensor: &[f32], buffer: &'a mut ChunkBuffer) -> &'a [f32] {
        let mut filled = 0;
        for (start, width) in self.each_row() {
            buffer[filled..filled + width].copy_from_slice(&tensor[start..start + width]);
            filled += width;
        }
        &buffer[..filled]
    }
}

/// Room for the values of one chunk.
pub(crate) type ChunkBuffer = [f32; CHUNK_VALUES];

#[cfg(test)]
mod tests {
    use super::*;

    fn shapes() -> Vec<TensorShape> {
        let mut shapes = Vec::new();
        for values in [1, 2, 4_095, 4_096, 4_097, 12_288, 10_000] {
            shapes.push(TensorShape::Vector { values });
        }
        for rows in [1, 63, 64, 65, 130] {
            for columns in [1, 63, 64, 65, 200] {
                shapes.push(TensorShape::Matrix { rows, columns });
            }
        }
        shapes
    }

    #[test]
    fn every_value_is_in_one_chunk() {
        for shape in shapes() {
            let mut seen = vec![0; shape.values() as usize];
            for chunk in shape.each_chunk() {
                assert!((1..=CHUNK_VALUES).contains(&chunk.values()), "{shape:?}");
                for index in 0..chunk.values() {
                    seen[chunk.position(index)] += 1;
                }
            }
            assert!(seen.iter().all(|times| *times == 1), "{shape:?}");
        }
    }

    #[test]
    fn lengths_are_known_without_the_chunks() {
        for shape in shapes() {
            let chunks: Vec<u64> = shape
                .each_chunk()
                .map(|chunk| chunk.values() as u64)
                .collect();
            let lengths = shape.chunk_lengths();
            let counted: u64 = lengths.iter().map(|(_, count)| count).sum();
            assert_eq!(counted, chunks.len() as u64, "{shape:?}");
            for (length, count) in lengths.into_iter().filter(|(_, count)| *count > 0) {
                let same: u64 = lengths
                    .iter()
                    .filter(|(other, _)| *other == length)
                    .map(|(_, count)| count)
                    .sum();
                let found = chunks.iter().filter(|values| **values == length).count() as u64;
                assert_eq!(same, found, "{shape:?}: {count} of {length}");
            }
        }
    }

    #[test]
    fn a_tile_is_gathered_row_by_row() {
        let shape = TensorShape::Matrix {
            rows: 65,
            columns: 66,
        };
        let tensor: Vec<f32> = (0..65 * 66).map(|value| value as f32).collect();
        let mut buffer = [0.0; CHUNK_VALUES];
        let corner = shape.chunk(3).gather(&tensor, &mut buffer);
        assert_eq!(corner, [64.0 * 66.0 + 64.0, 64.0 * 66.0 + 65.0]);
        let right = shape.chunk(1);
        assert_eq!(right.gather(&tensor, &mut buffer)[2], 66.0 + 64.0);
        assert_eq!(right.position(3), 66 + 65);
    }
}
