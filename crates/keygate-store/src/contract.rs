//! One suite for every store: what [`KeyStore`](crate::keys::KeyStore) promises, checked.
