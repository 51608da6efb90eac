//! Reads a backup, one bounded line at a time, and holds it to its form: a beginning, records, an end
//! that says how many there were.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use anyhow::Context;
use keygate_store::backup::{Counts, LINE_BYTES_MAX, Line, LineError};
use keygate_store::keys::StoredRecord;

use super::STANDARD;
use super::import::Whole;

/// Where a backup comes from.
pub(super) struct Source {
    name: String,
    /// Of what can be read twice.
    file: Option<PathBuf>,
    input: Box<dyn BufRead>,
}

impl Source {
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        if path == Path::new(STANDARD) {
            let input = Box::new(BufReader::new(std::io::stdin()));
            return Ok(Self { name: "standard input".into(), file: None, input });
        }
        let name = path.display().to_string();
        let file = File::open(path).with_context(|| format!("cannot read {name}"))?;
        let kind = file.metadata().with_context(|| format!("cannot read {name}"))?;
        anyhow::ensure!(!kind.is_dir(), "{name} is a folder: name the file that `export` wrote");
        let input = Box::new(BufReader::new(file));
        Ok(Self { name, file: kind.is_file().then(|| path.to_owned()), input })
    }

    /// The same from its beginning, if it has one to go back to.
    pub(super) fn again(&self) -> Option<anyhow::Result<Self>> {
        self.file.as_deref().map(Self::open)
    }

    #[cfg(test)]
    pub(super) fn of(text: impl Into<Vec<u8>>) -> Self {
        let input = Box::new(std::io::Cursor::new(text.into()));
        Self { name: "backup".into(), file: None, input }
    }
}

/// A backup being read.
pub(super) struct Records {
    source: Source,
    whole: Whole,
    /// Of the line that was read last; the first is 1.
    line: u64,
    /// Of all lines so far.
    bytes: u64,
    counts: Counts,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Start,
    Records,
    End,
}

impl Records {
    pub(super) fn of(source: Source, whole: Whole) -> Self {
        Self { source, whole, line: 0, bytes: 0, counts: Counts::default(), state: State::Start }
    }

    /// The number of the line that was read last.
    pub(super) fn line(&self) -> u64 {
        self.line
    }

    /// The length of what was read so far.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What was read so far.
    pub(super) fn counts(&self) -> Counts {
        self.counts
    }

    /// The name of what is being read, and a place in it.
    pub(super) fn place(&self, line: u64) -> String {
        format!("{}:{line}", self.source.name)
    }

    /// The next record; nothing once the end was read, and was right.
    pub(super) fn next(&mut self) -> anyhow::Result<Option<StoredRecord>> {
        loop {
            let Some(text) = self.next_line()? else { return self.ended() };
            let line = match Line::parse(&text) {
                Ok(line) => line,
                // The cut went through it.
                Err(_) if self.may_be_cut() && !text.ends_with(b"\n") => return Ok(None),
                Err(error) => return Err(self.wrong(error)),
            };
            match (self.state, line) {
                (State::Start, Line::Start { .. }) => self.state = State::Records,
                (State::Records, Line::Record(record)) => {
                    self.counts.count(&record);
                    return Ok(Some(record));
                }
                (State::Records, Line::End(counts)) => {
                    self.check_counts(counts)?;
                    self.state = State::End;
                }
                (State::Start, Line::Record(_) | Line::End(_)) => {
                    anyhow::bail!("{}: {NO_EXPORT}", self.place(self.line))
                }
                (State::Records, Line::Start { .. }) | (State::End, _) => {
                    anyhow::bail!("{}: this belongs to another export", self.place(self.line))
                }
            }
        }
    }

    fn may_be_cut(&self) -> bool {
        self.whole == Whole::IfItIs && self.state == State::Records
    }

    fn wrong(&self, error: LineError) -> anyhow::Error {
        let place = self.place(self.line);
        match (self.state, &error) {
            (State::Start, LineError::NotALine) => anyhow::anyhow!("{place}: {NO_EXPORT}"),
            _ => anyhow::Error::new(error).context(place),
        }
    }

    fn check_counts(&self, said: Counts) -> anyhow::Result<()> {
        let read = self.counts;
        let place = self.place(self.line);
        anyhow::ensure!(
            read == said || self.whole == Whole::IfItIs,
            "{place}: lines are missing: there were {}, and here are {}; use a backup that is whole, \
             or --partial",
            super::shown(said),
            super::shown(read),
        );
        Ok(())
    }

    fn ended(&self) -> anyhow::Result<Option<StoredRecord>> {
        let name = &self.source.name;
        match self.state {
            State::End => Ok(None),
            State::Records if self.whole == Whole::IfItIs => Ok(None),
            State::Start => anyhow::bail!("{name} is empty"),
            State::Records => anyhow::bail!(
                "{name} was cut short after line {}: use a backup that is whole, or --partial for \
                 what there is of it",
                self.line
            ),
        }
    }

    /// The next line that is not blank, with its end.
    fn next_line(&mut self) -> anyhow::Result<Option<Vec<u8>>> {
        loop {
            let mut text = Vec::new();
            let mut bounded = self.source.input.by_ref().take(LINE_BYTES_MAX as u64 + 1);
            let read = bounded.read_until(b'\n', &mut text);
            read.with_context(|| format!("cannot read {}", self.source.name))?;
            if text.is_empty() {
                return Ok(None);
            }
            self.line += 1;
            self.bytes += text.len() as u64;
            anyhow::ensure!(
                text.len() <= LINE_BYTES_MAX,
                "{}: the line is longer than {LINE_BYTES_MAX} bytes",
                self.place(self.line)
            );
            if !text.trim_ascii().is_empty() {
                return Ok(Some(text));
            }
        }
    }
}

const NO_EXPORT: &str = "this is not what `keygate store export` writes";
