//! Forwards. The only crate that names Pingora. Start with `gateway.rs`: a request's whole life.

mod answer;
mod attempts;
mod bodies;
mod calendar;
mod certificates;
mod client;
mod connection;
mod context;
mod cors;
mod expiry;
mod express;
mod facts;
mod failure;
mod forward;
mod gateway;
mod head;
mod identify;
mod limits;
mod line;
mod lookup;
mod pace;
pub mod report;
mod resets;
mod respond;
mod route_work;
mod server;
mod snapshot;
mod streams;
mod sweep;
mod trace;
mod upgrade;
mod upstreams;

pub use client::accept::Listener;
pub use gateway::{Gateway, GatewayParts, Groundwork};
pub use server::{ProxyError, Running, start};
pub use snapshot::Changer;
