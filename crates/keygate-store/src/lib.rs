//! Remembers. Accounts, apps, keys and the audit log, and the cache in front of them.

mod boil;
pub mod cached;
mod codec;
#[cfg(test)]
mod contract;
pub mod embedded;
mod epochs;
pub mod failures;
mod flights;
pub mod keys;
mod known;
pub mod observed;
pub mod records;
#[cfg(test)]
mod testing;
