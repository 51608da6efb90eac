//! What must hold whatever Redis answers or publishes.

use super::change::Change;
use super::reply;

/// What is published, and the same bytes as an answer: a change is the same when it is written down
/// again, and an entry of the log is there however it looks.
pub fn change(data: &[u8]) {
    let text = str::from_utf8(data).ok();
    if let Some(change) = text.and_then(|text| text.parse::<Change>().ok()) {
        assert_eq!(change.to_string().parse().ok(), Some(change), "another change");
    }
    drop(reply::key(data));
    let Ok(value) = redis::parse_redis_value(data) else { return };
    drop(reply::number::<u64>(&value));
    drop(reply::pairs(value.clone()));
    if let Ok(logged) = reply::log_entry(value)
        && let Some(seal) = logged.seal
    {
        assert!(seal.bytes.len() <= data.len());
    }
}
