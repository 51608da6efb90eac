//! Which setting a place in the text belongs to. Knows the names that the file holds, no value.

use std::ops::Range;

use toml::de::{DeTable, DeValue};

/// No setting of ours is deeper; what a file nests deeper is not looked at.
const DEPTH_MAX: usize = 4;

/// Where every key and every value is.
pub(crate) struct Tree {
    /// In the order of their starts.
    settings: Vec<(Range<usize>, String)>,
}

impl Tree {
    pub(crate) fn of(root: &DeTable<'_>) -> Self {
        let mut settings = Vec::new();
        collect(root, "", DEPTH_MAX, &mut settings);
        settings.sort_by_key(|(span, _)| span.start);
        Self { settings }
    }

    /// The setting that holds the byte at `at`, such as `tiers.free.rate`; the innermost of several.
    pub(crate) fn setting_at(&self, at: usize) -> Option<String> {
        let before = self.settings.partition_point(|(span, _)| span.start <= at);
        let (before, _) = self.settings.split_at(before);
        let holds = |(span, _): &&(Range<usize>, String)| span.contains(&at);
        before.iter().rev().find(holds).map(|(_, name)| name.clone())
    }
}

fn collect(
    table: &DeTable<'_>,
    within: &str,
    depth: usize,
    settings: &mut Vec<(Range<usize>, String)>,
) {
    let Some(depth) = depth.checked_sub(1) else { return };
    for (key, value) in table {
        let dot = if within.is_empty() { "" } else { "." };
        let name = format!("{within}{dot}{}", key.get_ref());
        settings.push((key.span(), name.clone()));
        match value.get_ref() {
            DeValue::Table(table) => {
                settings.push((value.span(), name.clone()));
                collect(table, &name, depth, settings);
            }
            DeValue::Array(items) => {
                for (place, item) in items.iter().enumerate() {
                    let DeValue::Table(table) = item.get_ref() else { continue };
                    let name = format!("{name}[{}]", place + 1);
                    settings.push((item.span(), name.clone()));
                    collect(table, &name, depth, settings);
                }
                settings.push((value.span(), name));
            }
            DeValue::String(_)
            | DeValue::Integer(_)
            | DeValue::Float(_)
            | DeValue::Boolean(_)
            | DeValue::Datetime(_) => settings.push((value.span(), name)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
[server]
listen = [
    "127.0.0.1:8080",
]
[tiers.free]
rate = "10/s"
[[routes]]
name = "a"
[[routes]]
name = "b"
scopes = ["read:b"]
limits = { rate = "1/s" }
"#;

    #[test]
    fn a_place_belongs_to_the_innermost_setting_around_it() {
        let (tree, _) = DeTable::parse_recoverable(TEXT);
        let tree = Tree::of(tree.get_ref());
        let at = |text: &str| tree.setting_at(TEXT.rfind(text).unwrap()).unwrap_or_default();
        assert_eq!(at("[server]"), "server");
        assert_eq!(at("listen"), "server.listen");
        assert_eq!(at("\"127"), "server.listen");
        assert_eq!(at("\"10/s"), "tiers.free.rate");
        assert_eq!(at("[tiers.free]"), "tiers.free");
        assert_eq!(at("\"a\""), "routes[1].name");
        assert_eq!(at("\"read:b"), "routes[2].scopes");
        assert_eq!(at("\"1/s"), "routes[2].limits.rate");
        assert_eq!(at("[[routes]]"), "routes[2]");
        assert_eq!(tree.setting_at(0), None);
        assert_eq!(tree.setting_at(usize::MAX), None);
    }
}
