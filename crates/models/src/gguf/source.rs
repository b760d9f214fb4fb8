//! Bytes of a head, taken one after the other and never beyond the file or the bound of a head.

use std::io::{BufReader, ErrorKind, Read};

use super::{GgufError, HEAD_BYTES_MAX, KEPT_BYTES_MAX};

/// How much is read ahead, in bytes.
const BUFFER_BYTES: usize = 64 << 10;

/// The head of a file, from its begin.
pub(super) struct Source<R> {
    reader: BufReader<R>,
    position: u64,
    file_bytes: u64,
    /// The bytes of keys, texts and names that were kept so far.
    kept: u64,
}

impl<R: Read> Source<R> {
    pub(super) fn new(reader: R, file_bytes: u64) -> Self {
        Self {
            reader: BufReader::with_capacity(BUFFER_BYTES, reader),
            position: 0,
            file_bytes,
            kept: 0,
        }
    }

    /// How many bytes were taken.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// Whether `bytes` more can be there at all; asked before anything is allocated for them.
    pub(super) fn expect(&self, what: &'static str, bytes: u64) -> Result<(), GgufError> {
        let end = self.position.checked_add(bytes);
        if end.is_none_or(|end| end > self.file_bytes) {
            return Err(GgufError::CutOff(what));
        }
        if end.is_none_or(|end| end > HEAD_BYTES_MAX) {
            return Err(GgufError::HeadTooLong);
        }
        Ok(())
    }

    fn fill(&mut self, what: &'static str, buffer: &mut [u8]) -> Result<(), GgufError> {
        let bytes = buffer.len() as u64;
        self.expect(what, bytes)?;
        self.reader
            .read_exact(buffer)
            .map_err(|error| match error.kind() {
                ErrorKind::UnexpectedEof => GgufError::CutOff(what),
                _ => GgufError::Io(error),
            })?;
        self.position += bytes;
        Ok(())
    }

    pub(super) fn array<const N: usize>(
        &mut self,
        what: &'static str,
    ) -> Result<[u8; N], GgufError> {
        let mut bytes = [0; N];
        self.fill(what, &mut bytes)?;
        Ok(bytes)
    }

    pub(super) fn u32(&mut self, what: &'static str) -> Result<u32, GgufError> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    pub(super) fn u64(&mut self, what: &'static str) -> Result<u64, GgufError> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// A count of things, of which at most `most` are accepted.
    pub(super) fn count(&mut self, what: &'static str, most: u64) -> Result<u64, GgufError> {
        let count = self.u64(what)?;
        if count > most {
            return Err(GgufError::TooMany { what, count, most });
        }
        Ok(count)
    }

    /// Passes over bytes.
    pub(super) fn skip(&mut self, what: &'static str, bytes: u64) -> Result<(), GgufError> {
        self.expect(what, bytes)?;
        let mut rest = bytes;
        while rest > 0 {
            let mut piece = [0; 4_096];
            let length = rest.min(piece.len() as u64) as usize;
            self.fill(what, &mut piece[..length])?;
            rest -= length as u64;
        }
        Ok(())
    }

    /// The length of a text, of which that many bytes can be there.
    pub(super) fn text_length(&mut self, what: &'static str) -> Result<u64, GgufError> {
        let length = self.u64(what)?;
        self.expect(what, length)?;
        Ok(length)
    }

    /// Passes over a text that `seen` looks at, in pieces.
    pub(super) fn pass_text(
        &mut self,
        what: &'static str,
        mut seen: impl FnMut(&[u8]),
    ) -> Result<u64, GgufError> {
        let length = self.text_length(what)?;
        let mut rest = length;
        while rest > 0 {
            let mut piece = [0; 512];
            let taken = rest.min(piece.len() as u64) as usize;
            self.fill(what, &mut piece[..taken])?;
            seen(&piece[..taken]);
            rest -= taken as u64;
        }
        Ok(length)
    }

    /// A text that is kept, or none where it is longer than `most` or no UTF-8.
    pub(super) fn kept_text(
        &mut self,
        what: &'static str,
        most: u64,
    ) -> Result<Option<String>, GgufError> {
        let length = self.text_length(what)?;
        if length > most {
            self.skip(what, length)?;
            return Ok(None);
        }
        self.kept += length;
        if self.kept > KEPT_BYTES_MAX {
            return Err(GgufError::TooMuchText);
        }
        let mut bytes = vec![0; length as usize];
        self.fill(what, &mut bytes)?;
        Ok(String::from_utf8(bytes).ok())
    }
}
