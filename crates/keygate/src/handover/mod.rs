//! A new program takes over from the one that runs, without a connection refused: on SIGQUIT the
//! gateway starts its program once more, hands it the listeners, and, when that one serves, finishes
//! what it had begun. Until then nothing has changed: a program that fails to start changes nothing.
//!
//! The two share a socket, which is the new one's standard input: there is no path that somebody
//! else could listen on.

mod channel;
mod heir;
mod successor;

pub(crate) use channel::Role;
pub(crate) use heir::{Inheritance, NOT_TAKEN_OVER};
pub(crate) use successor::{Handles, Program, Successor, same_file};
