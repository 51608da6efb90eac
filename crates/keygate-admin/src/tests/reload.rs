//! A reload takes all over or nothing, says what it was, and drops no pepper that keys depend on.

use std::sync::atomic::Ordering;

use keygate_config::Inputs;
use keygate_config::live::Current;
use keygate_store::keys::{KeyStore, Page};
use keygate_store::records::Role;

use super::*;
use crate::registry::{Actor, Force, Source, Unusable};

/// What stands in the files: the text of the configuration, and bytes that stand for peppers.
#[derive(Default)]
pub(super) struct Next(Mutex<Option<(String, Vec<u8>)>>);

/// Takes texts for files.
pub(super) struct Files {
    pub(super) next: Arc<Next>,
    pub(super) live: Live,
}

impl Source for Files {
    fn read(&self) -> Result<Current, Unusable> {
        let next = self.next.0.lock().unwrap().clone();
        let (text, peppers) = next.unwrap_or_else(|| (CONFIG.to_owned(), vec![9]));
        let source = keygate_config::Source::alone("gateway.toml", &text, Path::new("/nowhere"));
        let config = keygate_config::parse(source)?;
        let peppers = Arc::new(peppers::of(&peppers));
        Ok(Current { config: Arc::new(config), peppers, inputs: Arc::default() })
    }

    fn file(&self) -> String {
        "/etc/keygate/gateway.toml".to_owned()
    }

    fn take_over(&self, next: Current) -> Result<(), Unusable> {
        self.live.replace(next);
        Ok(())
    }

    fn needs_restart(&self, next: &Config) -> Vec<&'static str> {
        config().needs_restart(next)
    }
}

impl Api {
    fn write(&self, text: &str, peppers: &[u8]) {
        *self.next.0.lock().unwrap() = Some((text.to_owned(), peppers.to_vec()));
    }

    async fn reload(&self) -> Answer {
        self.call("POST", "/v1/reload", None).await
    }

    fn counted(&self, result: &str) -> bool {
        let line = format!("keygate_config_reloads_total{{result=\"{result}\"}} 1\n");
        self.metrics.render().contains(&line)
    }

    fn is_unchanged(&self) -> bool {
        self.live.config().differences(&config()).is_empty()
    }
}

fn with_tier(rate: &str) -> String {
    CONFIG.replace("[tiers.free]\nrate = \"10/s\"", &format!("[tiers.free]\nrate = \"{rate}\""))
}

#[tokio::test]
async fn a_changed_file_is_taken_over_logged_and_counted() {
    let api = Api::start().await;
    api.write(&with_tier("99/s"), &[9]);
    let answer = api.reload().await;
    let expected = json!({
        "changed": true, "hash": Inputs::default().hash().to_string(), "needs_restart": [],
        "warnings": [], "loaded_at": "2030-01-01T00:00:00Z",
    });
    assert_eq!((answer.status, answer.json()), (200, expected));
    let rate = api.live.config().tier("free").unwrap().rate.unwrap();
    assert_eq!(rate.burst(), 99);
    let log = api.cache.store().audit(Page { after: None, limit: 9 }).await.unwrap();
    let entry = &log[0].entry;
    assert_eq!((&*entry.action, &*entry.subject), ("config.reload", "config"));
    assert_eq!(json!(entry.changes), json!({ "sections": [null, ["tiers"]] }));
    assert!(api.counted("success"));
    let again = api.reload().await.json();
    assert_eq!(again["changed"], false);
    assert_eq!(api.actions().await, ["config.reload"], "nothing was done the second time");
}

#[tokio::test]
async fn what_takes_effect_at_the_next_start_is_named_until_then() {
    let api = Api::start().await;
    api.write(&CONFIG.replace("8080", "8081"), &[9]);
    for changed in [true, false] {
        let answer = api.reload().await.json();
        assert_eq!(answer["changed"], changed);
        assert_eq!(answer["needs_restart"], json!(["[server] listen"]));
    }
}

#[tokio::test]
async fn a_broken_file_changes_nothing_and_its_problems_have_lines() {
    let api = Api::start().await;
    api.write(&with_tier("lots").replace("\"1000/day\"", "\"1000\""), &[1]);
    let answer = api.reload().await;
    let detail = assert_problem(&answer, 422, "invalid_config");
    assert!(detail.contains("gateway.toml:7: tiers.free.rate:"), "{detail}");
    let problem = answer.json();
    assert_eq!(problem["file"], "gateway.toml");
    let problems = problem["problems"].as_array().unwrap();
    let places: Vec<_> = problems.iter().map(|one| (&one["line"], &one["setting"])).collect();
    assert_eq!(
        places,
        [(&json!(7), &json!("tiers.free.rate")), (&json!(11), &json!("tiers.team.quotas")),]
    );
    assert!(api.is_unchanged() && api.counted("failure") && !api.counted("success"));
    assert_eq!(api.get("/v1/peppers").await.json()["peppers"][0]["id"], peppers::name(9));
}

#[tokio::test]
async fn a_pepper_that_live_keys_depend_on_is_dropped_by_force_only() {
    let api = Api::start().await;
    let app = api.app().await;
    api.key(&app, json!({})).await;
    api.write(&with_tier("99/s"), &[1]);
    let refused = api.reload().await;
    let detail = assert_problem(&refused, 409, "pepper_in_use");
    assert!(detail.contains(&peppers::name(9)) && detail.contains("1 live key)"), "{detail}");
    assert_eq!(refused.json()["peppers"], json!([{ "id": peppers::name(9), "live_keys": 1 }]));
    assert!(api.is_unchanged());
    let forced = api.post("/v1/reload", json!({ "force": true })).await;
    assert_eq!(forced.status, 200, "{}", forced.text);
    assert_eq!(api.get("/v1/peppers").await.json()["peppers"][1]["use"], "missing");
    // What is gone already is not dropped again.
    assert_eq!(api.reload().await.status, 200);
}

#[tokio::test]
async fn a_pepper_that_no_live_key_depends_on_is_dropped() {
    let api = Api::start().await;
    let app = api.app().await;
    let key = api.key(&app, json!({})).await;
    api.post(&format!("/v1/keys/{}/revoke", id(&key)), json!({})).await;
    api.write(CONFIG, &[1]);
    let answer = api.reload().await;
    assert_eq!((answer.status, &answer.json()["changed"]), (200, &json!(true)), "{}", answer.text);
}

#[tokio::test]
async fn without_the_store_no_pepper_is_dropped_and_all_else_goes_through() {
    let api = Api::start().await;
    api.cache.store().down.store(true, Ordering::SeqCst);
    api.write(CONFIG, &[1]);
    assert_problem(&api.reload().await, 503, "store_unavailable");
    api.write(&with_tier("99/s"), &[1, 9]);
    let answer = api.reload().await.json();
    assert_eq!(answer["changed"], true);
    assert!(answer["warnings"][0].as_str().unwrap().contains("audit log"), "{answer}");
    assert!(!api.is_unchanged());
}

#[tokio::test]
async fn reloads_at_one_time_are_done_one_after_the_other() {
    let api = Api::start().await;
    api.write(&with_tier("99/s"), &[9]);
    let reload = |api: Api| async move { api.reload().await.json()["changed"] == true };
    let all: Vec<_> = (0..20).map(|_| tokio::spawn(reload(api.clone_parts()))).collect();
    let mut changed = 0;
    for one in all {
        changed += u32::from(one.await.unwrap());
    }
    assert_eq!(changed, 1);
    assert_eq!(api.actions().await, ["config.reload"]);
}

#[tokio::test]
async fn a_viewer_looks_at_peppers_and_only_an_admin_reloads() {
    let api = Api::start().await;
    let registry = api.registry(|| NOW);
    let files = Files { next: Arc::clone(&api.next), live: api.live.clone() };
    let reloader = Reloader::new(registry.clone(), Arc::new(files), api.metrics.reload());
    let issuer = Role::Issuer(Vec::new());
    for (role, looks, reloads) in
        [(Role::Viewer, true, false), (issuer, false, false), (Role::Admin, true, true)]
    {
        let by = Actor { name: "token:test".into(), from: None, role };
        assert_eq!(registry.pepper_views(&by).await.is_ok(), looks, "{by:?}");
        assert_eq!(reloader.running(&by).is_ok(), looks, "{by:?}");
        let reloaded = reloader.reload(&by, Force::Yes).await;
        assert_eq!(reloaded.is_ok(), reloads, "{by:?}");
    }
}

#[tokio::test]
async fn the_running_configuration_is_shown_with_its_defaults_and_what_has_failed_since() {
    let api = Api::start().await;
    let first = api.get("/v1/config").await.json();
    assert_eq!(first["file"], "/etc/keygate/gateway.toml");
    assert_eq!(first["loaded_at"], "2030-01-01T00:00:00Z");
    assert_eq!(first["settings"]["tiers"]["free"]["rate"], "10/s");
    assert_eq!(first["settings"]["server"]["headers_max"], 100);
    assert_eq!((&first["failed_reload"], &first["needs_restart"]), (&Value::Null, &json!([])));

    api.write(&with_tier("lots").replace("8080", "8081"), &[9]);
    assert_eq!(api.reload().await.status, 422);
    let failed = api.get("/v1/config").await.json();
    assert_eq!(failed["settings"], first["settings"]);
    assert_eq!(failed["failed_reload"]["actor"], "token:bootstrap");
    let problem = failed["failed_reload"]["problems"][0].as_str().unwrap();
    assert!(problem.starts_with("gateway.toml:7: tiers.free.rate:"), "{problem}");

    api.write(&with_tier("99/s").replace("8080", "8081"), &[9]);
    assert_eq!(api.reload().await.status, 200);
    let next = api.get("/v1/config").await.json();
    assert_eq!(next["settings"]["tiers"]["free"]["rate"], "99/s");
    assert_eq!(next["failed_reload"], Value::Null);
    assert_eq!(next["needs_restart"], json!(["[server] listen"]));
}
