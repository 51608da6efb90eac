//! Remembers. Accounts, apps, keys and the audit log, and the cache in front of them.

pub mod keys;
pub mod records;
