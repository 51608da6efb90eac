//! Values of settings: how each type is written, measured and read. One type, one way to write it.

use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use serde_json::Value as Json;
use toml::de::DeValue;

use crate::reader::{Item, Reader};
use crate::shown::as_written;

/// Why a text is not a value of its type. The text may be a secret, so only one part may hold it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Wrong {
    pub(crate) message: String,
    pub(crate) help: Option<String>,
    /// Whether the help holds some of the text: then it is for texts that stand in the file.
    help_tells_text: bool,
}

impl Wrong {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), help: None, help_tells_text: false }
    }

    pub(crate) fn help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..self }
    }

    /// A help that holds some of the text.
    pub(crate) fn help_telling_text(self, help: String) -> Self {
        Self { help: Some(help), help_tells_text: true, ..self }
    }

    /// What is left when the text came from the environment.
    fn without_text(self) -> Self {
        if self.help_tells_text { Self { help: None, ..self } } else { self }
    }
}

/// What a setting may be.
pub(crate) trait Value: Sized + 'static {
    /// What the README and messages call the type.
    fn type_name() -> String;

    /// What holds for every value of the type, apart from a setting's own bounds.
    fn rule() -> String;

    /// What a setting's bounds are compared with.
    fn measure(&self) -> u64 {
        0
    }

    fn show_bounds(min: u64, max: u64) -> String {
        format!("{min} to {max}")
    }

    /// Reads the value; what is wrong with it is noted at the reader.
    fn read(reader: &Reader<'_>, item: &Item<'_>) -> Option<Self>;

    /// What is shown of it. A type whose text may be a secret shows less than the file has.
    fn show(item: &Item<'_>) -> Json {
        as_written(item)
    }
}

/// What is written as a string.
pub(crate) trait FromText: Sized + 'static {
    const TYPE: &'static str;
    const RULE: &'static str = "";
    /// The unit to suggest to those who wrote a number without one.
    const UNIT: Option<&'static str> = None;

    /// # Errors
    /// What is wrong with the text.
    fn from_text(text: &str) -> Result<Self, Wrong>;

    fn measure(&self) -> u64 {
        0
    }

    fn show_bounds(min: u64, max: u64) -> String {
        format!("{min} to {max}")
    }

    /// As [`Value::show`].
    fn show(item: &Item<'_>) -> Json {
        as_written(item)
    }
}

impl<T: FromText> Value for T {
    fn type_name() -> String {
        T::TYPE.to_owned()
    }

    fn rule() -> String {
        T::RULE.to_owned()
    }

    fn measure(&self) -> u64 {
        T::measure(self)
    }

    fn show_bounds(min: u64, max: u64) -> String {
        T::show_bounds(min, max)
    }

    fn show(item: &Item<'_>) -> Json {
        <T as FromText>::show(item)
    }

    fn read(reader: &Reader<'_>, item: &Item<'_>) -> Option<Self> {
        let written = match item.get_ref() {
            DeValue::String(text) => &**text,
            DeValue::Integer(number) if T::UNIT.is_some() => number.as_str(),
            DeValue::Integer(_)
            | DeValue::Float(_)
            | DeValue::Boolean(_)
            | DeValue::Datetime(_)
            | DeValue::Array(_)
            | DeValue::Table(_) => {
                reader.error(item.span(), expected::<T>(item), None);
                return None;
            }
        };
        let text = reader.expand(written, item)?;
        let read = match T::UNIT {
            Some(unit) if is_bare_number(&text) => Err(lacks_unit(T::TYPE, &text, unit)),
            Some(_) | None => T::from_text(&text),
        };
        match read {
            Ok(value) => Some(value),
            Err(wrong) => {
                let wrong = if text == written { wrong } else { wrong.without_text() };
                reader.error(item.span(), wrong.message, wrong.help);
                None
            }
        }
    }
}

impl<T: Value> Value for Vec<T> {
    fn type_name() -> String {
        let name = T::type_name();
        let plural = if name.ends_with('s') { "es" } else { "s" };
        format!("list of {name}{plural}")
    }

    fn rule() -> String {
        T::rule()
    }

    fn measure(&self) -> u64 {
        u64::try_from(self.len()).unwrap_or(u64::MAX)
    }

    fn show_bounds(min: u64, max: u64) -> String {
        format!("{min} to {max} elements")
    }

    fn read(reader: &Reader<'_>, item: &Item<'_>) -> Option<Self> {
        let DeValue::Array(items) = item.get_ref() else {
            let written = reader.written_at(&item.span());
            let help = (item.get_ref().is_str() && written.len() <= 100)
                .then(|| format!("write `[{written}]`"));
            reader.error(item.span(), expected::<Self>(item), help);
            return None;
        };
        // Every element is read, also after a wrong one.
        let read: Vec<Option<T>> = items.iter().map(|item| T::read(reader, item)).collect();
        read.into_iter().collect()
    }
}

impl Value for u64 {
    fn type_name() -> String {
        "whole number".to_owned()
    }

    fn rule() -> String {
        String::new()
    }

    fn measure(&self) -> u64 {
        *self
    }

    fn read(reader: &Reader<'_>, item: &Item<'_>) -> Option<Self> {
        let DeValue::Integer(number) = item.get_ref() else {
            reader.error(item.span(), expected::<Self>(item), None);
            return None;
        };
        match Self::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => Some(number),
            // Too large for the type is too large for any setting.
            Err(_) if !number.as_str().starts_with('-') => Some(Self::MAX),
            Err(_) => {
                reader.error(item.span(), "a number here cannot be below 0", None);
                None
            }
        }
    }
}

impl Value for bool {
    fn type_name() -> String {
        "boolean".to_owned()
    }

    fn rule() -> String {
        String::new()
    }

    fn read(reader: &Reader<'_>, item: &Item<'_>) -> Option<Self> {
        let value = item.get_ref().as_bool();
        if value.is_none() {
            let help = Some("write `true` or `false`, without quotes".to_owned());
            reader.error(item.span(), expected::<Self>(item), help);
        }
        value
    }
}

/// A file or folder; relative to the configuration file's folder.
impl Value for PathBuf {
    fn type_name() -> String {
        "file".to_owned()
    }

    fn rule() -> String {
        String::new()
    }

    fn read(reader: &Reader<'_>, item: &Item<'_>) -> Option<Self> {
        let Some(written) = item.get_ref().as_str() else {
            reader.error(item.span(), expected::<Self>(item), None);
            return None;
        };
        let text = reader.expand(written, item)?;
        if text.is_empty() || text.contains('\0') {
            reader.error(item.span(), "not the name of a file", None);
            return None;
        }
        Some(reader.source.folder.join(text))
    }
}

impl FromText for Duration {
    const TYPE: &'static str = "duration";
    const UNIT: Option<&'static str> = Some("s");

    fn from_text(text: &str) -> Result<Self, Wrong> {
        humantime::parse_duration(text).map_err(|_| {
            Wrong::new("not a duration")
                .help("write a number and a unit: `500ms`, `10s`, `5m`, `1h` or `1d`")
        })
    }

    /// In milliseconds.
    fn measure(&self) -> u64 {
        u64::try_from(self.as_millis()).unwrap_or(u64::MAX)
    }

    fn show_bounds(min: u64, max: u64) -> String {
        const UNITS: [(u64, &str); 4] =
            [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s")];
        let show = |ms| if ms == 0 { "0s".to_owned() } else { show_in(ms, &UNITS, "ms") };
        format!("`{}` to `{}`", show(min), show(max))
    }
}

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bytes(pub(crate) u64);

impl FromText for Bytes {
    const TYPE: &'static str = "size";
    const UNIT: Option<&'static str> = Some("B");

    fn from_text(text: &str) -> Result<Self, Wrong> {
        let ByteSize(bytes) = text.parse().map_err(|_| {
            Wrong::new("not a size")
                .help("write a number and a unit: `512B`, `32KiB`, `10MiB` or `1GiB`")
        })?;
        Ok(Self(bytes))
    }

    fn measure(&self) -> u64 {
        self.0
    }

    fn show_bounds(min: u64, max: u64) -> String {
        const UNITS: [(u64, &str); 4] =
            [(1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
        format!("`{}` to `{}`", show_in(min, &UNITS, "B"), show_in(max, &UNITS, "B"))
    }
}

/// What an item is, with its article.
pub(crate) fn found(item: &Item<'_>) -> &'static str {
    match item.get_ref() {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

pub(crate) fn expected<T: Value>(item: &Item<'_>) -> String {
    let name = T::type_name();
    let article = if name.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
    format!("expected {article} {name}, found {}", found(item))
}

fn is_bare_number(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'_'))
        && text.bytes().any(|byte| byte.is_ascii_digit())
}

fn lacks_unit(type_name: &str, number: &str, unit: &str) -> Wrong {
    Wrong::new(format!("a {type_name} needs a unit"))
        .help_telling_text(format!("write a unit: `\"{number}{unit}\"`"))
}

/// A number in the largest unit that leaves no fraction.
fn show_in(number: u64, units: &[(u64, &str)], smallest: &str) -> String {
    let fits = |size: u64| number >= size && number.is_multiple_of(size);
    match units.iter().find(|&&(size, _)| fits(size)) {
        Some((size, unit)) => format!("{}{unit}", number / size),
        None => format!("{number}{smallest}"),
    }
}
