//! The importers are a part of the program, and of no library: what reads files is taken in here as
//! it is, with the little that it knows of the rest.
#![no_main]

#[path = "../../crates/keygate/src/failure.rs"]
mod failure;
#[path = "importers/mod.rs"]
mod import;
#[path = "importers/output.rs"]
mod output;

libfuzzer_sys::fuzz_target!(|data: &[u8]| import::fuzzing::import(data));
