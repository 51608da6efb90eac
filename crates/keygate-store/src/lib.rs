//! Remembers. Accounts, apps, keys and the audit log, and the cache in front of them.

pub mod audit;
pub mod backup;
mod boil;
pub mod cached;
mod codec;
pub mod coherence;
#[cfg(test)]
mod contract;
pub mod embedded;
mod epochs;
pub mod failures;
pub mod fleet;
mod flights;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod heir;
pub mod keys;
mod known;
pub mod limits;
pub mod observed;
pub mod records;
pub mod redis;
pub mod store;
mod subject;
#[cfg(test)]
mod testing;
pub mod usage;
