//! What a setting is: its key, type, default, bounds and meaning. The reader and the README's
//! tables both work from this, so they cannot disagree.

use std::marker::PhantomData;

use toml::de::DeValue;

use crate::reader::Reader;
use crate::value::Value;

/// One key of one table.
pub(crate) struct Setting<T> {
    pub(crate) key: &'static str,
    pub(crate) presence: Presence,
    /// The least and the most, in the measure of the type.
    pub(crate) bounds: Option<(u64, u64)>,
    meaning: &'static str,
    read_as: PhantomData<fn() -> T>,
}

/// What holds when a key is absent.
#[derive(Clone, Copy)]
pub(crate) enum Presence {
    /// An error, with this help.
    Required(&'static str),
    /// Nothing; in words, for the README.
    Optional(&'static str),
    /// This, as it would be written in the file.
    Default(&'static str),
}

/// One table of the file, and all that may be in it.
pub(crate) struct Table {
    pub(crate) header: &'static str,
    #[cfg_attr(not(test), expect(dead_code, reason = "for the README, which a test checks"))]
    pub(crate) meaning: &'static str,
    pub(crate) settings: &'static [&'static dyn Describe],
    /// The keys of tables inside it.
    pub(crate) tables: &'static [&'static str],
}

impl Table {
    pub(crate) fn keys(&self) -> impl Iterator<Item = &'static str> {
        self.settings.iter().map(|setting| setting.key()).chain(self.tables.iter().copied())
    }
}

impl<T> Setting<T> {
    pub(crate) const fn new(key: &'static str, presence: Presence, meaning: &'static str) -> Self {
        Self { key, presence, bounds: None, meaning, read_as: PhantomData }
    }

    pub(crate) const fn within(self, min: u64, max: u64) -> Self {
        Self { bounds: Some((min, max)), ..self }
    }
}

impl<T: Value> Setting<T> {
    /// Reads the default as if it stood in the file.
    pub(crate) fn default(&self, reader: &Reader<'_>, text: &'static str) -> Option<T> {
        let item = DeValue::parse(text).ok()?;
        T::read(reader, &item)
    }
}

/// A setting of any type, for those who only ask what there is.
pub(crate) trait Describe: Sync {
    fn key(&self) -> &'static str;

    /// Its line of the README's table.
    #[cfg_attr(not(test), expect(dead_code, reason = "for the README, which a test checks"))]
    fn row(&self) -> String;

    /// Whether the default, if any, is one that the file might hold.
    #[cfg(test)]
    fn default_is_valid(&self, reader: &Reader<'_>) -> bool;
}

impl<T: Value> Describe for Setting<T> {
    fn key(&self) -> &'static str {
        self.key
    }

    fn row(&self) -> String {
        let default = match self.presence {
            Presence::Required(_) => "required".to_owned(),
            Presence::Optional(what) => what.to_owned(),
            Presence::Default(text) => format!("`{text}`"),
        };
        let bounds = self.bounds.map(|(min, max)| T::show_bounds(min, max));
        let bounds: Vec<String> =
            bounds.into_iter().chain([T::rule()]).filter(|bound| !bound.is_empty()).collect();
        let bounds = bounds.join("; ");
        format!("| `{}` | {} | {default} | {bounds} | {} |", self.key, T::type_name(), self.meaning)
    }

    #[cfg(test)]
    fn default_is_valid(&self, reader: &Reader<'_>) -> bool {
        let Presence::Default(text) = self.presence else { return true };
        let Some(value) = self.default(reader, text) else { return false };
        self.bounds.is_none_or(|(min, max)| (min..=max).contains(&value.measure()))
    }
}
