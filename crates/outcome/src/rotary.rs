//! The order of the rows of queries and keys, which differs between files.
//!
//! Rotary positions turn pairs of a head's numbers. Training and `transformers` pair number `i` of a head's first half with
//! number `i` of its second; llama.cpp's family `llama` pairs neighbors. So the rows of the two matrices are written in
//! another order, as llama.cpp's own converter does, and the products are the same. spec: 17, section 2.

/// Returns which row of the halves' order is row `row` of the neighbors' order, in heads of `head` rows.
pub(crate) fn half_row(row: usize, head: usize) -> usize {
    let (which, inside) = (row / head, row % head);
    which * head + (inside % 2) * (head / 2) + inside / 2
}

#[cfg(test)]
mod tests {
    use super::half_row;

    #[test]
    fn halves_are_laid_between_each_other_head_by_head() {
        let rows: Vec<usize> = (0..12).map(|row| half_row(row, 6)).collect();
        assert_eq!(rows, [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]);
    }
}
