//! What must hold whatever is in a file that is to be imported: run by the fuzz target of `fuzz/`, and
//! by every test run over its corpus. Panics where it does not.

use keygate_core::Environment;

use super::findings::Findings;
use super::format::Format;
use super::record::RECORDS_MAX;
use super::scopes::ScopeRules;
use crate::failure::Failure;

/// A file, of a format that the first byte tells. What is said of it is fit for a terminal, and what
/// is read of it is bounded.
pub(crate) fn import(data: &[u8]) {
    let Some((kind, text)) = data.split_first() else { return };
    let format = match kind {
        b'c' => Format::Csv,
        b'j' => Format::Jsonl,
        b'k' => Format::Kong,
        b't' => Format::Tyk,
        b'u' => Format::Unkey,
        _ => match Format::detect(text) {
            Some(format) => format,
            None => return,
        },
    };
    let (rules, mut findings) = (ScopeRules::default(), Findings::default());
    let records = format.read(text, &rules, None, Environment::Live, &mut findings);
    assert!(records.len() <= RECORDS_MAX && records.len() <= text.len(), "records of nothing");
    let mut said = findings.notes();
    if let Err(Failure::Other(_, why)) = findings.check("the file") {
        said.extend(why.to_string().lines().map(str::to_owned));
    }
    assert!(said.iter().all(|line| !line.contains(char::is_control)), "not for a terminal");
}

#[cfg(test)]
#[path = "../../../../fuzz/smoke.rs"]
mod smoke;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_file_is_read_or_has_a_problem() {
        smoke::replay("import", 5_000, import);
    }
}
