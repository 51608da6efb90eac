//! Reads the upstreams: the services behind the gateway.

use std::ops::Range;

use crate::catalogue::{UPSTREAMS_MAX, upstream};
use crate::reader::{Reader, Section};
use crate::settings::Upstream;

/// The upstreams of a file: the settings if all are right, and every name in any case.
pub(crate) struct Upstreams<'r> {
    pub(crate) list: Option<Vec<Upstream>>,
    /// In the order of the list, which is that of the alphabet.
    names: Vec<(&'r str, Option<Range<usize>>)>,
}

impl<'r> Upstreams<'r> {
    pub(crate) fn read(root: &Section<'r, '_>) -> Self {
        let children = root.named_children("upstreams", &upstream::TABLE, UPSTREAMS_MAX);
        let list: Vec<Option<Upstream>> = children
            .iter()
            .map(|child| read_upstream(child.name, child.section.as_ref()?))
            .collect();
        let names = children
            .into_iter()
            .map(|child| (child.name, child.section.and_then(|section| section.span)))
            .collect();
        Self { list: list.into_iter().collect(), names }
    }

    /// The place of an upstream in the list.
    pub(crate) fn find(&self, name: &str) -> Option<usize> {
        self.names.binary_search_by(|(known, _)| (**known).cmp(name)).ok()
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &'r str> {
        self.names.iter().map(|(name, _)| *name)
    }

    /// Warns of each that no route uses. `used` holds places in the list, sorted.
    pub(crate) fn warn_of_unused(&self, reader: &Reader<'_>, used: &[usize]) {
        for (at, (name, span)) in self.names.iter().enumerate() {
            if used.binary_search(&at).is_err() {
                let help = format!("write `upstream = \"{name}\"` in a route, or remove it");
                reader.warning(span.clone(), format!("no route uses upstream `{name}`"), &help);
            }
        }
    }
}

fn read_upstream(name: &str, section: &Section<'_, '_>) -> Option<Upstream> {
    let targets = section.get(&upstream::TARGETS);
    if let Some(targets) = &targets {
        section.refuse_repeats("targets", targets);
    }
    let connect_timeout = section.get(&upstream::CONNECT_TIMEOUT);
    let read_timeout = section.get(&upstream::READ_TIMEOUT);
    let write_timeout = section.get(&upstream::WRITE_TIMEOUT);
    let idle_timeout = section.get(&upstream::IDLE_TIMEOUT);
    Some(Upstream {
        name: name.into(),
        targets: targets?,
        connect_timeout: connect_timeout?,
        read_timeout: read_timeout?,
        write_timeout: write_timeout?,
        idle_timeout: idle_timeout?,
    })
}
