//! The reading half of `keygate keys import`, as it is.

#[path = "../../../crates/keygate/src/import/csv.rs"]
mod csv;
#[path = "../../../crates/keygate/src/import/findings.rs"]
mod findings;
#[path = "../../../crates/keygate/src/import/format.rs"]
mod format;
#[path = "../../../crates/keygate/src/import/fuzzing.rs"]
pub(crate) mod fuzzing;
#[path = "../../../crates/keygate/src/import/jsonl.rs"]
mod jsonl;
#[path = "../../../crates/keygate/src/import/kong.rs"]
mod kong;
#[path = "../../../crates/keygate/src/import/record.rs"]
mod record;
#[path = "../../../crates/keygate/src/import/row.rs"]
mod row;
#[path = "../../../crates/keygate/src/import/scopes.rs"]
mod scopes;
#[path = "../../../crates/keygate/src/import/tyk.rs"]
mod tyk;
#[path = "../../../crates/keygate/src/import/unkey.rs"]
mod unkey;
#[path = "../../../crates/keygate/src/import/values.rs"]
mod values;
