//! A body in chunks (RFC 9112 section 7.1), read strictly and piece by piece: where it ends, or why it
//! is none. Keeps no byte. Looks at each byte of the framing once, and at the data not at all.
//!
//! Stricter than the grammar in what nobody needs and parsers disagree about: a size has few digits, an
//! extension is short and without control bytes whether quoted or not, trailers are few. Looser in one
//! thing: spaces behind a size, which old senders pad it with, need no extension behind them.

/// Below 2^60: what is added to it does not overflow, signed or not.
const SIZE_DIGITS_MAX: u16 = 15;
/// Of one chunk, with spaces before it. RFC 9112 section 7.1.1 asks for a bound and names none.
const EXTENSION_BYTES_MAX: u16 = 256;
/// All trailers, with their lines' ends.
const TRAILER_BYTES_MAX: u16 = 8 * 1024;
const TRAILERS_MAX: u16 = 64;

/// Why a body is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadChunks(pub &'static str);

/// How far a body has been read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Chunks {
    at: At,
    /// The size that is being read, then how much of the data is still to come.
    size: u64,
    /// Digits of the size, bytes behind it up to its line's end, or bytes of the trailers.
    counted: u16,
    trailers: u16,
}

/// What comes next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum At {
    #[default]
    Size,
    /// Spaces behind a size.
    Padding,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    /// A trailer, or the CR of the last line.
    Trailer,
    TrailerName,
    TrailerValue,
    TrailerLf,
    LastLf,
    End,
    /// It is no body.
    Nowhere(BadChunks),
}

impl Chunks {
    /// Reads on: how many of these bytes belong to the body if it ends in them, nothing if it goes on.
    ///
    /// # Errors
    /// [`BadChunks`], then and ever after.
    pub fn advance(&mut self, bytes: &[u8]) -> Result<Option<usize>, BadChunks> {
        let mut rest = bytes;
        loop {
            if self.at == At::Data {
                rest = self.skip_data(rest);
            }
            if self.at == At::End {
                return Ok(Some(bytes.len() - rest.len()));
            }
            let Some((&byte, behind)) = rest.split_first() else { break };
            self.at = self.step(byte).unwrap_or_else(At::Nowhere);
            if let At::Nowhere(fault) = self.at {
                return Err(fault);
            }
            rest = behind;
        }
        Ok(None)
    }

    fn skip_data<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let left = usize::try_from(self.size).unwrap_or(usize::MAX);
        let (data, behind) = bytes.split_at(left.min(bytes.len()));
        self.size -= data.len() as u64;
        if self.size == 0 {
            self.at = At::DataCr;
        }
        behind
    }

    fn step(&mut self, byte: u8) -> Result<At, BadChunks> {
        match self.at {
            At::Size => self.size(byte),
            At::Padding => self.behind_size(byte),
            At::Extension => self.extension(byte),
            At::SizeLf => {
                let is_last = self.size == 0;
                self.counted = 0;
                end_of_line(byte, if is_last { At::Trailer } else { At::Data })
            }
            At::DataCr if byte == b'\r' => Ok(At::DataLf),
            At::DataLf if byte == b'\n' => Ok(At::Size),
            At::DataCr | At::DataLf => Err(BadChunks("a chunk is not as long as it says")),
            At::Trailer if byte == b'\r' => Ok(At::LastLf),
            At::Trailer => self.trailer(byte),
            At::TrailerName => self.trailer_name(byte),
            At::TrailerValue => self.trailer_value(byte),
            At::TrailerLf => {
                self.count(TRAILER_BYTES_MAX, LONG_TRAILERS)?;
                end_of_line(byte, At::Trailer)
            }
            At::LastLf => end_of_line(byte, At::End),
            // Not by a byte.
            At::Data | At::End => Ok(self.at),
            At::Nowhere(fault) => Err(fault),
        }
    }

    fn size(&mut self, byte: u8) -> Result<At, BadChunks> {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            b'A'..=b'F' => byte - b'A' + 10,
            _ if self.counted == 0 => return Err(BadChunks("a chunk has no size")),
            _ => {
                self.counted = 0;
                return self.behind_size(byte);
            }
        };
        self.size = self.size << 4 | u64::from(digit);
        self.count(SIZE_DIGITS_MAX, "a chunk's size has too many digits")?;
        Ok(At::Size)
    }

    fn behind_size(&mut self, byte: u8) -> Result<At, BadChunks> {
        match byte {
            b'\r' => Ok(At::SizeLf),
            b' ' | b'\t' | b';' => {
                self.count(EXTENSION_BYTES_MAX, LONG_EXTENSION)?;
                Ok(if byte == b';' { At::Extension } else { At::Padding })
            }
            _ => Err(BadChunks("a chunk's size is no number")),
        }
    }

    fn extension(&mut self, byte: u8) -> Result<At, BadChunks> {
        match byte {
            b'\r' => Ok(At::SizeLf),
            byte if is_text(byte) => {
                self.count(EXTENSION_BYTES_MAX, LONG_EXTENSION)?;
                Ok(At::Extension)
            }
            _ => Err(BadChunks("a control byte is in a chunk's extension")),
        }
    }

    fn trailer(&mut self, byte: u8) -> Result<At, BadChunks> {
        self.trailers += 1;
        match byte {
            b':' => Err(BAD_TRAILER),
            _ if self.trailers > TRAILERS_MAX => Err(BadChunks("too many trailers")),
            _ => self.trailer_name(byte),
        }
    }

    fn trailer_name(&mut self, byte: u8) -> Result<At, BadChunks> {
        self.count(TRAILER_BYTES_MAX, LONG_TRAILERS)?;
        match byte {
            b':' => Ok(At::TrailerValue),
            byte if is_token(byte) => Ok(At::TrailerName),
            _ => Err(BAD_TRAILER),
        }
    }

    fn trailer_value(&mut self, byte: u8) -> Result<At, BadChunks> {
        self.count(TRAILER_BYTES_MAX, LONG_TRAILERS)?;
        match byte {
            b'\r' => Ok(At::TrailerLf),
            byte if is_text(byte) => Ok(At::TrailerValue),
            _ => Err(BAD_TRAILER),
        }
    }

    fn count(&mut self, max: u16, too_many: &'static str) -> Result<(), BadChunks> {
        self.counted += 1;
        if self.counted > max { Err(BadChunks(too_many)) } else { Ok(()) }
    }
}

const LONG_EXTENSION: &str = "a chunk's extension is too long";
const LONG_TRAILERS: &str = "the trailers are too long";
const BAD_TRAILER: BadChunks = BadChunks("a trailer is malformed");

fn end_of_line(byte: u8, next: At) -> Result<At, BadChunks> {
    let fault = BadChunks("a line of a body in chunks does not end in CRLF");
    if byte == b'\n' { Ok(next) } else { Err(fault) }
}

/// What may be in a field's value (RFC 9110 section 5.5), and here in an extension.
fn is_text(byte: u8) -> bool {
    !byte.is_ascii_control() || byte == b'\t'
}

/// What a field's name is made of (RFC 9110 section 5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests;
