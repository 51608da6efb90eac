//! What it knows of output.

#[path = "../../../crates/keygate/src/output/printable.rs"]
mod text;

pub(crate) use text::printable;
