//! Reads a spanned tree section by section and collects what is wrong instead of stopping at it.
//!
//! A getter returns nothing for what is absent or wrong; what is wrong is noted by then. Nothing
//! that came from the environment is ever echoed: findings point at the source instead.

use std::cell::RefCell;
use std::collections::HashSet;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use crate::Source;
use crate::environment;
use crate::lines::Lines;
use crate::report::Finding;
use crate::setting::{Presence, Setting, Table};
use crate::shown::Shown;
use crate::suggest::nearest;
use crate::value::{FromText, Value, found};
use crate::word::Name;

pub(crate) type Item<'a> = Spanned<DeValue<'a>>;

/// The file, its surroundings, and what was found wrong so far.
pub(crate) struct Reader<'a> {
    pub(crate) source: Source<'a>,
    lines: Lines<'a>,
    errors: RefCell<Vec<Finding>>,
    /// What is missing. Where the syntax is broken too, that may be why.
    absences: RefCell<Vec<Finding>>,
    warnings: RefCell<Vec<Finding>>,
}

/// All that was found.
pub(crate) struct Findings {
    pub(crate) errors: Vec<Finding>,
    pub(crate) warnings: Vec<Finding>,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(source: Source<'a>) -> Self {
        let empty = || RefCell::new(Vec::new());
        let lines = Lines::of(source.text);
        Self { source, lines, errors: empty(), absences: empty(), warnings: empty() }
    }

    pub(crate) fn error(
        &self,
        span: Range<usize>,
        message: impl Into<String>,
        help: Option<String>,
    ) {
        let finding = Finding { message: message.into(), help, span: Some(span) };
        self.errors.borrow_mut().push(finding);
    }

    pub(crate) fn absence(
        &self,
        span: Option<Range<usize>>,
        message: impl Into<String>,
        help: Option<String>,
    ) {
        self.absences.borrow_mut().push(Finding { message: message.into(), help, span });
    }

    pub(crate) fn warning(
        &self,
        span: Option<Range<usize>>,
        message: impl Into<String>,
        help: &str,
    ) {
        let finding = Finding { message: message.into(), help: Some(help.to_owned()), span };
        self.warnings.borrow_mut().push(finding);
    }

    /// All that was found, the parser's errors included.
    ///
    /// Where the syntax is broken, values may be half values and what is missing may be right
    /// there: such findings would send the operator the wrong way.
    pub(crate) fn into_findings(self, syntax_errors: &[toml::de::Error]) -> Findings {
        let Self { lines, errors, absences, warnings, .. } = self;
        let (mut errors, warnings) = (errors.into_inner(), warnings.into_inner());
        let syntax: Vec<Finding> = syntax_errors.iter().map(Finding::of_syntax).collect();
        if syntax.is_empty() {
            errors.extend(absences.into_inner());
            return Findings { errors, warnings };
        }
        let line_of =
            |finding: &Finding| finding.span.as_ref().map(|span| lines.number_at(span.start));
        let broken: HashSet<Option<usize>> = syntax.iter().map(line_of).collect();
        errors.retain(|finding| !broken.contains(&line_of(finding)));
        errors.extend(syntax);
        Findings { errors, warnings }
    }

    /// An item's text with its `${NAME}` references replaced.
    pub(crate) fn expand(&self, written: &str, item: &Item<'_>) -> Option<String> {
        match environment::expand(written, self.source.environment) {
            Ok(text) => Some(text),
            Err(wrong) => {
                self.error(item.span(), wrong.message, wrong.help);
                None
            }
        }
    }

    /// The same for who only compares: what is wrong is noted elsewhere.
    pub(crate) fn expanded(&self, item: &Item<'_>) -> Option<String> {
        environment::expand(item.get_ref().as_str()?, self.source.environment).ok()
    }

    /// The file's own text at a span: what may be shown of a value that came from the environment.
    pub(crate) fn written_at(&self, span: &Range<usize>) -> &'a str {
        self.source.text.get(span.clone()).unwrap_or_default()
    }

    /// The number of the line that a span begins on.
    pub(crate) fn line_of(&self, span: &Range<usize>) -> usize {
        self.lines.number_at(span.start)
    }
}

/// A table whose name is the operator's.
pub(crate) struct Child<'r, 'a> {
    pub(crate) name: &'r str,
    /// None if it is no table.
    pub(crate) section: Option<Section<'r, 'a>>,
}

/// One table of the file, which may be absent: then every default holds.
pub(crate) struct Section<'r, 'a> {
    pub(crate) reader: &'r Reader<'a>,
    table: Option<&'r DeTable<'a>>,
    shape: &'static Table,
    /// Its header.
    pub(crate) span: Option<Range<usize>>,
    pub(crate) shown: Shown,
}

impl<'r, 'a> Section<'r, 'a> {
    /// Opens the whole file.
    pub(crate) fn root(
        reader: &'r Reader<'a>,
        table: &'r DeTable<'a>,
        shape: &'static Table,
    ) -> Self {
        let shown = Shown::default();
        let section = Self { reader, table: Some(table), shape, span: None, shown };
        section.refuse_unknown_keys();
        section
    }

    /// Opens one item as a table, to be shown as `shown`; nothing if it is none.
    pub(crate) fn open(
        reader: &'r Reader<'a>,
        item: &'r Item<'a>,
        shape: &'static Table,
        shown: Shown,
    ) -> Option<Self> {
        let DeValue::Table(table) = item.get_ref() else {
            refuse_non_table(reader, item, shape);
            return None;
        };
        let section = Self { reader, table: Some(table), shape, span: Some(item.span()), shown };
        section.refuse_unknown_keys();
        Some(section)
    }

    /// Opens a table inside this one; an absent one is open and empty.
    pub(crate) fn child(&self, key: &str, shape: &'static Table) -> Option<Self> {
        let (reader, shown) = (self.reader, self.shown.table(key));
        match self.item(key) {
            Some(item) => Self::open(reader, item, shape, shown),
            None => Some(Self { reader, table: None, shape, span: None, shown }),
        }
    }

    /// The tables inside the one called `key`, sorted by their names.
    pub(crate) fn named_children(
        &self,
        key: &str,
        shape: &'static Table,
        children_max: usize,
    ) -> Vec<Child<'r, 'a>> {
        let reader = self.reader;
        let Some(item) = self.item(key) else { return Vec::new() };
        let DeValue::Table(table) = item.get_ref() else {
            refuse_non_table(reader, item, shape);
            return Vec::new();
        };
        if table.len() > children_max {
            let message = format!("there are more than {children_max} of `{}`", shape.header);
            reader.error(item.span(), message, None);
            return Vec::new();
        }
        let shown = self.shown.table(key);
        let open = |(name, item): (&'r Spanned<DeString<'a>>, &'r Item<'a>)| {
            if let Err(wrong) = Name::from_text(name.get_ref()) {
                reader.error(name.span(), wrong.message, wrong.help);
            }
            let shown = shown.table(name.get_ref());
            Child { name: name.get_ref(), section: Self::open(reader, item, shape, shown) }
        };
        let mut children: Vec<Child<'r, 'a>> = table.iter().map(open).collect();
        // The parser's own order is a feature of its crate, which any other crate may switch.
        children.sort_unstable_by_key(|child| child.name);
        children
    }

    /// Reads one setting; nothing if it is absent and has no default, or if it is wrong.
    pub(crate) fn get<T: Value>(&self, setting: &Setting<T>) -> Option<T> {
        let Some(item) = self.item(setting.key) else {
            return self.absent(setting);
        };
        self.shown.set(setting.key, T::show(item));
        let value = T::read(self.reader, item)?;
        let Some((min, max)) = setting.bounds else { return Some(value) };
        if (min..=max).contains(&value.measure()) {
            return Some(value);
        }
        self.reader.error(
            item.span(),
            format!("`{}` is out of range: {}", setting.key, T::show_bounds(min, max)),
            None,
        );
        None
    }

    fn absent<T: Value>(&self, setting: &Setting<T>) -> Option<T> {
        match setting.presence {
            Presence::Default(text) => {
                if let Ok(item) = DeValue::parse(text) {
                    self.shown.set(setting.key, T::show(&item));
                }
                setting.default(self.reader, text)
            }
            Presence::Optional(_) => None,
            Presence::Required(help) => {
                self.reader.absence(
                    self.span.clone(),
                    format!("`{}` is missing in `{}`", setting.key, self.shape.header),
                    Some(help.to_owned()),
                );
                None
            }
        }
    }

    pub(crate) fn item(&self, key: &str) -> Option<&'r Item<'a>> {
        self.table?.get(key)
    }

    /// Where the value of `key` is, if the file has one.
    pub(crate) fn span_of(&self, key: &str) -> Option<Range<usize>> {
        self.item(key).map(Spanned::span)
    }

    /// Where one element of the list under `key` is.
    pub(crate) fn span_of_element(&self, key: &str, at: usize) -> Option<Range<usize>> {
        self.item(key)?.get_ref().as_array()?.get(at).map(Spanned::span)
    }

    /// Where `key` itself is, if the file has it.
    pub(crate) fn span_of_key(&self, key: &str) -> Option<Range<usize>> {
        self.table?.get_key_value(key).map(|(key, _)| key.span())
    }

    /// Notes that the file has `key` where it must not: `why` follows the key's name.
    pub(crate) fn refuse_key(&self, key: &str, why: &str, help: &str) {
        if let Some(span) = self.span_of_key(key) {
            self.reader.error(span, format!("`{key}` {why}"), Some(help.to_owned()));
        }
    }

    /// Notes every element of the list under `key` that stands there before.
    pub(crate) fn refuse_repeats<T: PartialEq>(&self, key: &str, list: &[T]) {
        for (at, value) in list.iter().enumerate() {
            if list.iter().take(at).any(|earlier| earlier == value)
                && let Some(span) = self.span_of_element(key, at)
            {
                self.reader.error(span, "this is in the list already", None);
            }
        }
    }

    fn refuse_unknown_keys(&self) {
        for (key, _) in self.table.into_iter().flat_map(|table| table.iter()) {
            let name: &str = key.get_ref();
            if self.shape.keys().all(|known| known != name) {
                let help = nearest(name, self.shape.keys());
                self.reader.error(
                    key.span(),
                    format!("unknown key {} in `{}`", quoted(name), self.shape.header),
                    help.map(|key| format!("did you mean `{key}`?")),
                );
            }
        }
    }
}

fn refuse_non_table(reader: &Reader<'_>, item: &Item<'_>, shape: &'static Table) {
    reader.error(
        item.span(),
        format!("expected a table, found {}", found(item)),
        Some(format!("write `{}`", shape.header)),
    );
}

/// A key as a message may show it: on one line and not without end.
fn quoted(key: &str) -> String {
    const SHOWN_CHARS_MAX: usize = 64;
    let shown: String = key.chars().take(SHOWN_CHARS_MAX).flat_map(char::escape_debug).collect();
    if key.chars().nth(SHOWN_CHARS_MAX).is_some() {
        format!("`{shown}…`")
    } else {
        format!("`{shown}`")
    }
}
