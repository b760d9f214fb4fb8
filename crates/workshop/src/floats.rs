//! Files of numbers, written and read in pieces and hashed on the way, so that none is in memory twice.

use std::io::{self, ErrorKind, Read, Write};

use hearth_protocol::content::ContentHash;

/// Numbers that are turned into bytes at a time.
const PIECE_FLOATS: usize = 1 << 14;

/// Writes a file.
pub(crate) struct HashedWriter<'a> {
    to: &'a mut dyn Write,
    hasher: blake3::Hasher,
}

impl<'a> HashedWriter<'a> {
    pub(crate) fn new(to: &'a mut dyn Write) -> Self {
        let hasher = blake3::Hasher::new();
        Self { to, hasher }
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hasher.update(bytes);
        self.to.write_all(bytes)
    }

    pub(crate) fn floats(&mut self, values: &[f32]) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(PIECE_FLOATS * 4);
        for some in values.chunks(PIECE_FLOATS) {
            bytes.clear();
            bytes.extend(some.iter().flat_map(|value| value.to_le_bytes()));
            self.bytes(&bytes)?;
        }
        Ok(())
    }

    /// Ends the file, and returns its name.
    pub(crate) fn end(self) -> io::Result<ContentHash> {
        self.to.flush()?;
        Ok(ContentHash(*self.hasher.finalize().as_bytes()))
    }
}

/// Why no more could be read.
#[derive(Debug)]
pub(crate) enum Unread {
    /// The file ends before it should.
    Short,
    /// The system.
    Io(io::Error),
}

/// Reads a file.
pub(crate) struct HashedReader<'a> {
    from: &'a mut dyn Read,
    hasher: blake3::Hasher,
}

impl<'a> HashedReader<'a> {
    pub(crate) fn new(from: &'a mut dyn Read) -> Self {
        let hasher = blake3::Hasher::new();
        Self { from, hasher }
    }

    /// Fills `bytes`.
    pub(crate) fn fill(&mut self, bytes: &mut [u8]) -> Result<(), Unread> {
        match self.from.read_exact(bytes) {
            Ok(()) => {
                self.hasher.update(bytes);
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Err(Unread::Short),
            Err(error) => Err(Unread::Io(error)),
        }
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Unread> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    pub(crate) fn number(&mut self) -> Result<u64, Unread> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// Reads so many numbers, which the manifest says and not the file.
    pub(crate) fn floats(&mut self, count: usize) -> Result<Vec<f32>, Unread> {
        let mut values = Vec::with_capacity(count);
        let mut bytes = vec![0; PIECE_FLOATS.min(count) * 4];
        while values.len() < count {
            let piece = &mut bytes[..PIECE_FLOATS.min(count - values.len()) * 4];
            self.fill(piece)?;
            let (numbers, _) = piece.as_chunks::<4>();
            values.extend(numbers.iter().map(|bytes| f32::from_le_bytes(*bytes)));
        }
        Ok(values)
    }

    /// Returns the file's name, or none where it goes on.
    pub(crate) fn end(self) -> Result<Option<ContentHash>, Unread> {
        let mut byte = [0];
        match self.from.read_exact(&mut byte) {
            Ok(()) => Ok(None),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                Ok(Some(ContentHash(*self.hasher.finalize().as_bytes())))
            }
            Err(error) => Err(Unread::Io(error)),
        }
    }
}
