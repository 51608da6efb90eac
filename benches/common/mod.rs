//! What the benches that drive real servers share. Names neither Pingora nor a crate of the gateway but
//! its core, so that such a bench links fast.

#![allow(dead_code, reason = "each bench uses its own part")]

pub(crate) mod gateway;
pub(crate) mod histogram;
pub(crate) mod keys;
pub(crate) mod load;
pub(crate) mod options;
pub(crate) mod process;
pub(crate) mod redis;
pub(crate) mod rivals;
pub(crate) mod service;
pub(crate) mod wire;

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
