//! Parses. `gateway.toml` becomes a [`Config`]; every mistake in it becomes one line of a [`Report`].
//!
//! The only crate that reads files and the environment. What leaves it is valid: strings die here.

mod settings;

pub use settings::{
    Admin, Cache, Config, EmbeddedStore, FailedAuth, Keys, Log, LogLevel, Server, Store, Target,
    Tier, Upstream,
};
