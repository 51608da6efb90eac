//! How many keys there are, in the metrics.

use serde_json::json;

use super::*;

#[tokio::test]
async fn keys_are_counted_by_what_operators_watch() {
    let api = Api::start().await;
    let old = api.app().await;
    api.key(&old, json!({})).await;
    api.key(&old, json!({ "ttl": "33d" })).await;
    let revoked = id(&api.key(&old, json!({})).await);
    api.post(&format!("/v1/keys/{revoked}/revoke"), json!({})).await;
    api.key(&old, json!({ "ttl": "1d" })).await;
    api.patch(&format!("/v1/apps/{old}"), json!({ "max_age": "30d" })).await;
    let new = api.app().await;
    api.key(&new, json!({ "ttl": "31d" })).await;
    api.key(&new, json!({ "tier": "short" })).await;
    let registry = api.registry(|| UnixMillis(NOW.0 + 30 * DAY_MS));
    let census = registry.census().await.unwrap_or_else(|error| panic!("{error}"));
    let counts = (census.live, census.past_policy, census.expiring_soon, census.imported);
    assert_eq!(counts, (4, 2, 2, 0));
}

#[tokio::test]
async fn the_metrics_show_no_count_before_there_is_a_whole_one() {
    let api = Api::start().await;
    api.key(&api.app().await, json!({})).await;
    let is_shown = || api.metrics.render().contains("\nkeygate_keys_live 1\n");
    assert!(!api.metrics.render().contains("keygate_keys_live"));
    let counting = tokio::spawn(api.registry(|| NOW).count_keys_for_ever(api.metrics.clone()));
    let shown = async {
        while !is_shown() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), shown).await.unwrap();
    for gauge in ["past_policy", "expiring_soon", "imported"] {
        let line = format!("\nkeygate_keys_{gauge} 0\n");
        assert!(api.metrics.render().contains(&line), "{line}");
    }
    counting.abort();
}
