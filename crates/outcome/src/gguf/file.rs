//! Writes a GGUF file from keys and tensors, one row of numbers at a time.

use std::io::{self, Write};

use crate::blocks::Storage;
use crate::rotary::half_row;

/// How tensor data is aligned, in bytes: what readers take where a file does not say.
pub(super) const ALIGNMENT: usize = 32;
const VERSION: u32 = 3;

/// The value of a key.
pub(super) enum Stated<'a> {
    Whole(u32),
    Number(f32),
    Truth(bool),
    Text(&'a str),
    Texts(Vec<&'a str>),
    Signed(Vec<i32>),
}

/// A tensor that will be written.
pub(super) struct Planned<'a> {
    pub(super) name: String,
    /// Rows after rows; a vector has one.
    pub(super) values: &'a [f32],
    pub(super) columns: usize,
    pub(super) is_vector: bool,
    pub(super) storage: Storage,
    /// The height of the heads whose rows are written with the halves between each other.
    pub(super) turned_head: Option<usize>,
}

impl Planned<'_> {
    fn rows(&self) -> usize {
        self.values.len() / self.columns
    }

    fn bytes(&self) -> usize {
        let row = self.storage.row_bytes(self.columns);
        self.rows() * row.expect("a format is chosen that the rows fit")
    }

    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let mut bytes = Vec::new();
        for row in 0..self.rows() {
            let row = self.turned_head.map_or(row, |head| half_row(row, head));
            bytes.clear();
            let values = &self.values[row * self.columns..(row + 1) * self.columns];
            self.storage.encode(values, &mut bytes);
            out.write_all(&bytes)?;
        }
        Ok(())
    }
}

/// Writes a whole file and returns its length, in bytes.
pub(super) fn write(
    keys: &[(&str, Stated<'_>)],
    tensors: &[Planned<'_>],
    out: &mut impl Write,
) -> io::Result<u64> {
    let mut head = b"GGUF".to_vec();
    head.extend(VERSION.to_le_bytes());
    head.extend((tensors.len() as u64).to_le_bytes());
    head.extend((keys.len() as u64).to_le_bytes());
    for (key, value) in keys {
        text(key, &mut head);
        state(value, &mut head);
    }
    let mut offset = 0;
    for tensor in tensors {
        text(&tensor.name, &mut head);
        let dimensions = [tensor.columns as u64, tensor.rows() as u64];
        let dimensions = &dimensions[..if tensor.is_vector { 1 } else { 2 }];
        head.extend((dimensions.len() as u32).to_le_bytes());
        head.extend(dimensions.iter().flat_map(|size| size.to_le_bytes()));
        head.extend(tensor.storage.number().to_le_bytes());
        head.extend((offset as u64).to_le_bytes());
        offset += tensor.bytes().next_multiple_of(ALIGNMENT);
    }
    head.resize(head.len().next_multiple_of(ALIGNMENT), 0);
    out.write_all(&head)?;
    for tensor in tensors {
        tensor.write(out)?;
        let bytes = tensor.bytes();
        let rest = bytes.next_multiple_of(ALIGNMENT) - bytes;
        out.write_all(&[0; ALIGNMENT][..rest])?;
    }
    out.flush()?;
    Ok((head.len() + offset) as u64)
}

fn text(text: &str, out: &mut Vec<u8>) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

/// Kinds of values, as the format numbers them.
mod kind {
    pub(super) const U32: u32 = 4;
    pub(super) const I32: u32 = 5;
    pub(super) const F32: u32 = 6;
    pub(super) const BOOL: u32 = 7;
    pub(super) const TEXT: u32 = 8;
    pub(super) const ARRAY: u32 = 9;
}

fn state(value: &Stated<'_>, out: &mut Vec<u8>) {
    let mut list = |kind: u32, count: usize| {
        out.extend(kind::ARRAY.to_le_bytes());
        out.extend(kind.to_le_bytes());
        out.extend((count as u64).to_le_bytes());
    };
    match value {
        Stated::Texts(texts) => {
            list(kind::TEXT, texts.len());
            texts.iter().for_each(|item| text(item, out));
        }
        Stated::Signed(numbers) => {
            list(kind::I32, numbers.len());
            out.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
        }
        Stated::Whole(number) => {
            out.extend(kind::U32.to_le_bytes());
            out.extend(number.to_le_bytes());
        }
        Stated::Number(number) => {
            out.extend(kind::F32.to_le_bytes());
            out.extend(number.to_le_bytes());
        }
        Stated::Truth(truth) => {
            out.extend(kind::BOOL.to_le_bytes());
            out.push(u8::from(*truth));
        }
        Stated::Text(value) => {
            out.extend(kind::TEXT.to_le_bytes());
            text(value, out);
        }
    }
}
