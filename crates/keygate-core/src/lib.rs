//! Decides. What a key, a scope, a route and a request are, and whether one may use the other.
//!
//! Pure: no IO, no async, no clock, no randomness, no logging. Time and entropy are arguments,
//! so every rule can be tested with plain values. Start with [`decide`](decide()).

pub mod balance;
pub mod cells;
pub mod chunks;
pub mod cors;
pub mod credential;
pub mod decide;
pub mod explain;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod health;
pub mod id;
pub mod key;
pub mod limit;
pub mod network;
pub mod path;
pub mod problem;
pub mod record;
pub mod rewrite;
pub mod route;
pub mod scope;
pub mod time;
pub mod top;
pub mod trace_context;

pub use decide::{Caller, Denial, Permit, Refused, decide};
pub use id::{AccountId, AppId, KeyId, TokenId};
pub use key::{Environment, KeyDigest, KeyKind, Pepper, Peppers, PresentedKey};
pub use problem::Code;
pub use record::{KeyRecord, Standing};
pub use route::{Access, Route, RouteTable};
pub use scope::{Scope, ScopeSet};
pub use time::UnixMillis;
pub use trace_context::{SpanId, TraceId, TraceParent};
