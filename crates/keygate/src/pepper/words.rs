//! What `keygate pepper rotate` says of each step.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::{Made, Place, Step, View};
use crate::output::{Style, printable};

impl Place {
    pub(super) fn say(&self, step: &Step, style: Style) -> String {
        let current = self.local.ids.first().map(ToString::to_string).unwrap_or_default();
        match style {
            Style::Json => {
                let says = self.words(step, &current);
                let (step, pepper) = (step.name(), &current);
                format!("{:#}\n", json!({ "step": step, "pepper": pepper, "says": says }))
            }
            Style::Ids => format!("{}\n", step.name()),
            Style::Table => self.words(step, &current),
        }
    }

    fn words(&self, step: &Step, current: &str) -> String {
        match step {
            Step::Make => String::new(),
            Step::Choose(paths) => self.choose(paths),
            Step::Name(made) => self.name_it(made),
            Step::Reload => self.reload(),
            Step::Spread { without, minting } => format!(
                "This gateway has pepper {current}. These do not yet:\n{}\n\
                 Until they do, new keys are made under {minting}.\n\n\
                 On each of them: copy {} there, change [keys] of its gateway.toml as here, and run \
                 `keygate reload`.\n\
                 `keygate pepper rotate --wait` waits for them.\n",
                without.iter().map(|name| format!("  {name}\n")).collect::<String>(),
                self.shown(&self.local.pepper_file),
            ),
            Step::Wait { previous } => self.wait(current, previous),
        }
    }

    fn name_it(&self, made: &Made) -> String {
        let path = self.shown(&made.path);
        let began = match made.is_new {
            true => format!("Made {path}. Nothing goes by it yet."),
            false => format!(
                "{path} was made before. Nothing goes by it yet. If it has had its time (it was in \
                 previous_pepper_files once), move it out of this folder instead, and run this again."
            ),
        };
        let previous = std::iter::once(&self.local.pepper_file).chain(&self.local.previous_files);
        let previous: Vec<String> = previous.map(|path| quoted(&self.shown(path))).collect();
        let file = self.local.file.display();
        let (copy, of_each) = match self.is_fleet {
            true => (
                "  2. Copy it to the same place on every gateway, for its owner alone (mode 0600).\n",
                ", of every gateway",
            ),
            false => ("", ""),
        };
        let (third, fourth) = if self.is_fleet { (3, 4) } else { (2, 3) };
        format!(
            "{began} Next:\n\
             \x20 1. Back it up where you keep the one before it.\n\
             {copy}\
             \x20 {third}. Under [keys] in {file}{of_each}:\n\
             \x20      pepper_file = {}\n\
             \x20      previous_pepper_files = [{}]\n\
             \x20 {fourth}. Run `keygate reload`{of_each}, and then `keygate pepper rotate` again.\n",
            quoted(&path),
            previous.join(", "),
        )
    }

    pub(super) fn choose(&self, paths: &[PathBuf]) -> String {
        format!(
            "nothing goes by these peppers, and any of them may be the new one:\n{}\
             Move those that have had their time, or that no gateway ever had, out of this folder, and \
             run this again: with one left it goes on with that one, with none it makes one",
            paths.iter().map(|path| format!("  {}\n", self.shown(path))).collect::<String>(),
        )
    }

    fn reload(&self) -> String {
        let file = self.local.file.display();
        format!(
            "The gateway does not go by the peppers in {file} yet. Run `keygate reload`, and then \
             `keygate pepper rotate` again.\n"
        )
    }

    fn wait(&self, current: &str, previous: &[(String, u64)]) -> String {
        let all = if self.is_fleet { "Every gateway has it, and new" } else { "New" };
        let mut text = format!("{all} keys are made under pepper {current}.\n");
        for (id, keys) in previous {
            text.push_str(&match keys {
                0 => format!(
                    "Pepper {id}: no live key depends on it. Take its file out of \
                     previous_pepper_files{}, run `keygate reload`, move the file out of its \
                     folder, and keep it as long as backups of that time.\n",
                    if self.is_fleet { ", on every gateway" } else { "" }
                ),
                keys => format!(
                    "Pepper {id}: {} on it. Keep it in previous_pepper_files until they are rotated \
                     or expired.\n",
                    match keys {
                        1 => "1 live key depends".to_owned(),
                        keys => format!("{keys} live keys depend"),
                    }
                ),
            });
        }
        text
    }

    /// A path as one would write it in the file: those beside the file from its folder on.
    fn shown(&self, path: &Path) -> String {
        let folder = self.local.file.parent().unwrap_or_else(|| Path::new(""));
        path.strip_prefix(folder).unwrap_or(path).display().to_string()
    }
}

impl Step {
    /// For scripts.
    fn name(&self) -> &'static str {
        match self {
            Self::Make | Self::Name(_) => "name",
            Self::Choose(_) => "choose",
            Self::Reload => "reload",
            Self::Spread { .. } => "spread",
            Self::Wait { previous } if previous.iter().all(|(_, keys)| *keys == 0) => "drop",
            Self::Wait { .. } => "done",
        }
    }
}

/// One pepper a line.
pub(super) fn table(views: &[View]) -> String {
    const HEADER: [&str; 5] = ["ID", "USE", "LIVE KEYS", "NEW KEYS", "GATEWAYS WITHOUT IT"];
    let mut rows = vec![HEADER.map(str::to_owned)];
    rows.extend(views.iter().map(|view| {
        let without: Vec<String> = view.gateways_without.iter().map(ToString::to_string).collect();
        let without = if without.is_empty() { "-".to_owned() } else { without.join(", ") };
        let new_keys = if view.minting { "here" } else { "-" }.to_owned();
        let (id, role) = (printable(&view.id), printable(&view.role));
        [id, role, view.live_keys.to_string(), new_keys, without]
    }));
    let mut widths = [0; HEADER.len()];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |row: &[String; 5]| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
        format!("{}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

/// How many, in words.
pub(super) fn live_keys(count: u64) -> String {
    format!("{count} live key{}", if count == 1 { "" } else { "s" })
}

/// As TOML has it.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}
