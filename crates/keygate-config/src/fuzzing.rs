//! What must hold whatever a `gateway.toml` says: run by the fuzz target of `fuzz/`, and by every test
//! run over its corpus. Panics where it does not.

use std::io;
use std::path::Path;

use crate::{Colours, Source, parse};

/// A text: it is a configuration, or there is at least one problem in it with something to say, and
/// in a line that there is.
pub fn config(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    // Every secret is there, and is one.
    let files = |_: &Path, _: usize| io::Result::Ok(vec![b'5'; 64]);
    let environment = |name: &str| (!name.is_empty()).then(|| "5".repeat(64));
    let alone = Source::alone("gateway.toml", text, Path::new("/nowhere"));
    let whole = Source { environment: &environment, files: &files, ..alone };
    for source in [alone, whole] {
        let Err(report) = parse(source) else { continue };
        assert!(!report.problems().is_empty(), "refused, without a problem");
        for problem in report.problems() {
            assert!(!problem.message().contains("cannot say why"), "refused, without a reason");
            assert!(problem.line().is_none_or(|line| line <= text.split('\n').count()));
        }
        let shown = report.render(Colours::Off);
        assert!(!shown.is_empty(), "nothing to show");
    }
}

#[cfg(test)]
#[path = "../../../fuzz/smoke.rs"]
mod smoke;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_text_is_a_configuration_or_has_a_problem() {
        smoke::replay("config", 300, config);
    }
}
