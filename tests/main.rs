//! The real binary, driven from outside: one file per guarantee, real servers, nothing mocked.
//!
//! `KEYGATE_BIN` names another binary to drive than the one that was just built.

#![allow(
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::let_underscore_must_use,
    clippy::cast_possible_truncation,
    reason = "a test ends by panicking, and what it prints is its report"
)]

mod harness;

mod access_log;
mod access_log_sinks;
mod alert_tests;
mod alerts;
mod audit_log;
mod backup;
mod balance;
mod bounds;
mod chaos;
mod cli;
mod commands;
mod conformance;
mod connections;
mod corpus;
mod cors;
mod crash;
mod dashboards;
mod decisions;
mod demo;
mod deploy;
mod downgrade;
mod drain;
mod dress;
mod explained;
mod express;
mod failover;
mod fleet;
mod fleet_admin;
mod fleet_harness;
mod fleet_limits;
mod fleet_outage;
mod fleet_tls;
mod flood;
mod forwarding;
mod framing;
mod grpc;
mod hostile;
mod hot_reload;
mod import;
mod imported;
mod keyring;
mod lifecycle;
mod limits;
mod limits_admin;
mod limits_crash;
mod limits_last;
mod limits_slots;
mod live_streams;
mod openapi;
mod operators;
mod operators_tokens;
mod peppers;
mod prometheus;
mod proxy_protocol;
mod readme;
mod registry_model;
mod reload;
mod resets;
mod respond;
mod rewriting;
mod robust;
mod rotation_load;
mod running;
mod secrets;
mod series;
mod shutdown;
mod spelling;
mod spellings;
mod streaming;
mod tls_clients;
mod top;
mod trace_page;
mod traces;
mod upgrade;
mod upstream_tls;
mod usage;
mod usage_crash;
mod versions;
mod websockets;
