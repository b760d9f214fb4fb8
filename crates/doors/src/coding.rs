//! Bodies that were compressed on their way: taken apart within the bound of a body, or refused by name.
//!
//! What a few bytes become is made piece by piece as it is read, so a reader with a bound of its own
//! stops a bomb at that bound.

use std::io::{Cursor, Read};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use flate2::read::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use http_body::Frame;

use crate::body::{Arriving, BODY_BYTES_MAX, BodyError};
use crate::budget::Seat;
use crate::guard::Refusal;

/// How much is made at once, in bytes.
const PIECE_BYTES: usize = 32 * 1024;

/// How a body is coded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Coding {
    Identity,
    Gzip,
    Deflate,
}

impl Coding {
    /// What the headers say. One coding is understood; a body that was coded twice is not.
    pub(crate) fn of(headers: &HeaderMap) -> Result<Self, Refusal> {
        let mut coding = Self::Identity;
        for value in headers.get_all(CONTENT_ENCODING) {
            let text = String::from_utf8_lossy(value.as_bytes()).to_ascii_lowercase();
            for name in text.split(',').map(str::trim) {
                let next = match name {
                    "" | "identity" => continue,
                    "gzip" | "x-gzip" => Self::Gzip,
                    "deflate" => Self::Deflate,
                    _ => return Err(Refusal::Coding(shown(name))),
                };
                if coding != Self::Identity {
                    return Err(Refusal::Coding(shown(&text)));
                }
                coding = next;
            }
        }
        Ok(coding)
    }

    /// Takes away what the headers say of the coded body.
    pub(crate) fn forget(self, headers: &mut HeaderMap) {
        headers.remove(CONTENT_ENCODING);
        if self != Self::Identity {
            headers.remove(CONTENT_LENGTH);
        }
    }

    fn reader(self, coded: Bytes) -> Box<dyn Read + Send> {
        // By RFC 9110 deflate has a header of zlib; some programs leave it out.
        let is_zlib = match coded.as_ref() {
            [first, second, ..] => {
                first & 0x0f == 8 && u16::from_be_bytes([*first, *second]) % 31 == 0
            }
            _ => false,
        };
        let empty = coded.is_empty();
        let coded = Cursor::new(coded);
        match self {
            Self::Gzip if !empty => Box::new(MultiGzDecoder::new(coded)),
            Self::Deflate if is_zlib => Box::new(ZlibDecoder::new(coded)),
            Self::Deflate if !empty => Box::new(DeflateDecoder::new(coded)),
            _ => Box::new(coded),
        }
    }
}

/// A text of a stranger, as far as it is repeated to it.
fn shown(text: &str) -> String {
    text.chars()
        .filter(|char| !char.is_control())
        .take(40)
        .collect()
}

/// Refuses JSON in another charset than UTF-8: its bytes would be read as other characters.
pub(crate) fn check_charset(headers: &HeaderMap) -> Result<(), Refusal> {
    for value in headers.get_all(CONTENT_TYPE) {
        let text = String::from_utf8_lossy(value.as_bytes()).to_ascii_lowercase();
        let parameters = text
            .split(';')
            .skip(1)
            .filter_map(|one| one.split_once('='));
        for (name, value) in parameters {
            let value = value.trim().trim_matches('"');
            let is_known = ["utf-8", "utf8", "us-ascii", "ascii"].contains(&value);
            if name.trim() == "charset" && !is_known {
                return Err(Refusal::Charset(shown(value)));
            }
        }
    }
    Ok(())
}

enum State {
    Collecting(BytesMut),
    Making(Box<dyn Read + Send>),
    Done,
}

/// A body that is taken apart when it is read.
pub(crate) struct Decoded {
    inner: Arriving,
    coding: Coding,
    seat: Seat,
    state: State,
    made: usize,
}

impl Decoded {
    pub(crate) fn new(inner: Arriving, coding: Coding, seat: Seat) -> Self {
        Self {
            inner,
            coding,
            seat,
            state: State::Collecting(BytesMut::new()),
            made: 0,
        }
    }

    fn make(&mut self, reader: &mut dyn Read) -> Result<Option<Bytes>, BodyError> {
        let mut piece = vec![0; PIECE_BYTES];
        let length = reader.read(&mut piece).map_err(|_| BodyError::NotCoded)?;
        piece.truncate(length);
        self.made += length;
        if self.made > BODY_BYTES_MAX {
            return Err(BodyError::TooLong);
        }
        self.seat.take(length).map_err(|_| BodyError::Full)?;
        Ok((length > 0).then(|| Bytes::from(piece)))
    }
}

impl http_body::Body for Decoded {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        loop {
            match std::mem::replace(&mut self.state, State::Done) {
                State::Collecting(mut coded) => {
                    let Poll::Ready(frame) = Pin::new(&mut self.inner).poll_frame(context) else {
                        self.state = State::Collecting(coded);
                        return Poll::Pending;
                    };
                    let Some(frame) = frame.transpose()? else {
                        self.state = State::Making(self.coding.reader(coded.freeze()));
                        continue;
                    };
                    let data = frame.into_data().unwrap_or_default();
                    if coded.len() + data.len() > BODY_BYTES_MAX {
                        return Poll::Ready(Some(Err(BodyError::TooLong)));
                    }
                    coded.extend_from_slice(&data);
                    self.state = State::Collecting(coded);
                }
                State::Making(mut reader) => {
                    let made = self.make(reader.as_mut())?;
                    return Poll::Ready(made.map(|piece| {
                        self.state = State::Making(reader);
                        Ok(Frame::data(piece))
                    }));
                }
                State::Done => return Poll::Ready(None),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use std::io::Write;

    fn of(values: &[&str]) -> Result<Coding, String> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(CONTENT_ENCODING, HeaderValue::from_str(value).unwrap());
        }
        Coding::of(&headers).map_err(|refusal| refusal.to_string())
    }

    #[test]
    fn codings_are_understood_or_named() {
        for (values, coding) in [
            (&[][..], Coding::Identity),
            (&["identity"], Coding::Identity),
            (&[""], Coding::Identity),
            (&["gzip"], Coding::Gzip),
            (&["X-GZIP"], Coding::Gzip),
            (&["identity, gzip"], Coding::Gzip),
            (&[" deflate "], Coding::Deflate),
        ] {
            assert_eq!(of(values), Ok(coding), "{values:?}");
        }
        for values in [
            &["br"][..],
            &["zstd"],
            &["gzip, gzip"],
            &["gzip", "deflate"],
            &["gzip;q=1"],
        ] {
            let said = of(values).unwrap_err();
            assert!(said.contains("gzip, deflate"), "{said}");
        }
    }

    fn read(coding: Coding, coded: Vec<u8>) -> std::io::Result<Vec<u8>> {
        let mut plain = Vec::new();
        let mut reader = coding.reader(Bytes::from(coded));
        reader.read_to_end(&mut plain).map(|_| plain)
    }

    #[test]
    fn every_form_of_a_coding_is_read() {
        let level = flate2::Compression::default();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), level);
        gzip.write_all(b"hello").unwrap();
        let gzip = gzip.finish().unwrap();
        let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), level);
        zlib.write_all(b"hello").unwrap();
        let mut raw = flate2::write::DeflateEncoder::new(Vec::new(), level);
        raw.write_all(b"hello").unwrap();
        let twice = [gzip.clone(), gzip.clone()].concat();
        assert_eq!(read(Coding::Gzip, gzip.clone()).unwrap(), b"hello");
        assert_eq!(read(Coding::Gzip, twice).unwrap(), b"hellohello");
        assert_eq!(
            read(Coding::Deflate, zlib.finish().unwrap()).unwrap(),
            b"hello"
        );
        assert_eq!(
            read(Coding::Deflate, raw.finish().unwrap()).unwrap(),
            b"hello"
        );
        assert_eq!(read(Coding::Gzip, Vec::new()).unwrap(), b"");
        assert!(read(Coding::Gzip, gzip[..gzip.len() - 3].to_vec()).is_err());
        assert!(read(Coding::Gzip, b"{}".to_vec()).is_err());
    }

    #[test]
    fn json_is_utf_8() {
        let check = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(value));
            check_charset(&headers).is_ok()
        };
        assert!(check("application/json"));
        assert!(check("application/json; Charset=\"UTF-8\""));
        assert!(check("text/plain;boundary=x"));
        assert!(!check("application/json; charset=iso-8859-1"));
        assert!(!check("application/json;x=y; charset = utf-16"));
    }
}
