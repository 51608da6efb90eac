//! Text from elsewhere, as a terminal may be shown it.

/// A name may hold anything; a terminal must not be told to do anything by it.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
