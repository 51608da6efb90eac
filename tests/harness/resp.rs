//! A client of Redis in a page: sends a command as words, reads what comes back.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};

use super::wait::patience;

/// One connection to Redis.
pub struct Resp {
    reader: BufReader<TcpStream>,
}

#[derive(Clone, PartialEq, Eq)]
pub enum Reply {
    Nil,
    Number(i64),
    Text(Vec<u8>),
    Many(Vec<Reply>),
    Error(String),
}

impl Resp {
    pub fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, patience())?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(patience()))?;
        Ok(Self { reader: BufReader::new(stream) })
    }

    /// Sends a command and reads the reply to it.
    pub fn call<W: AsRef<[u8]>>(&mut self, words: &[W]) -> io::Result<Reply> {
        self.send(words)?;
        self.read()
    }

    pub fn send<W: AsRef<[u8]>>(&mut self, words: &[W]) -> io::Result<()> {
        let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
        for word in words.iter().map(AsRef::as_ref) {
            bytes.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
            bytes.extend_from_slice(word);
            bytes.extend_from_slice(b"\r\n");
        }
        self.reader.get_mut().write_all(&bytes)
    }

    /// Reads what the server says next.
    pub fn read(&mut self) -> io::Result<Reply> {
        let line = self.line()?;
        let (kind, rest) = line.split_at_checked(1).ok_or(io::ErrorKind::InvalidData)?;
        let number = || rest.parse::<i64>().map_err(io::Error::other);
        match kind {
            "+" => Ok(Reply::Text(rest.into())),
            "-" => Ok(Reply::Error(rest.into())),
            ":" => Ok(Reply::Number(number()?)),
            "$" => self.text(number()?),
            "*" if number()? < 0 => Ok(Reply::Nil),
            "*" => (0..number()?).map(|_| self.read()).collect::<io::Result<_>>().map(Reply::Many),
            _ => Err(io::Error::other(format!("not RESP2: {line:?}"))),
        }
    }

    fn text(&mut self, length: i64) -> io::Result<Reply> {
        let Ok(length) = usize::try_from(length) else { return Ok(Reply::Nil) };
        let mut bytes = vec![0; length + 2];
        self.reader.read_exact(&mut bytes)?;
        bytes.truncate(length);
        Ok(Reply::Text(bytes))
    }

    fn line(&mut self) -> io::Result<String> {
        let mut bytes = Vec::new();
        self.reader.read_until(b'\n', &mut bytes)?;
        let Some(line) = bytes.strip_suffix(b"\r\n") else {
            return Err(io::ErrorKind::UnexpectedEof.into());
        };
        Ok(String::from_utf8_lossy(line).into_owned())
    }
}

impl Reply {
    /// The reply as text: lines, if there are several.
    pub fn text(&self) -> String {
        match self {
            Self::Nil => String::new(),
            Self::Number(number) => number.to_string(),
            Self::Text(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            Self::Many(parts) => parts.iter().map(Self::text).collect::<Vec<_>>().join("\n"),
            Self::Error(error) => panic!("Redis refused: {error}"),
        }
    }

    #[track_caller]
    pub fn number(&self) -> i64 {
        self.text().parse().unwrap_or_else(|_| panic!("not a number: {self:?}"))
    }

    pub fn parts(&self) -> &[Self] {
        match self {
            Self::Many(parts) => parts,
            Self::Nil | Self::Number(_) | Self::Text(_) | Self::Error(_) => &[],
        }
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Error(error) => write!(f, "error {error}"),
            Self::Nil | Self::Number(_) | Self::Text(_) | Self::Many(_) => {
                f.write_str(&self.text())
            }
        }
    }
}
