//! Guarantees of the admin API, asked for over HTTP, with a real store in a folder of its own.
//!
//! Whatever a test does, no answer but the one that creates a key may hold a key or the token: the
//! harness looks at each.

mod access;
mod audit;
mod bad_input;
mod census;
mod durability;
mod etags;
mod explain;
mod faulty;
mod fleet;
mod import;
mod keys;
mod limits;
mod once;
mod openapi;
mod outage;
mod peppers;
mod policy;
mod readiness;
mod records;
mod reload;
mod retire;
mod roles;
mod rotation;
mod search;
mod tokens;
mod top;
mod usage;
mod verify;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use axum::http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use keygate_config::{Config, Live, Source};
use keygate_core::key::sha256;
use keygate_core::{KeyId, UnixMillis};
use keygate_store::cached::CachedKeys;
use keygate_store::coherence::Coherence;
use keygate_store::embedded::EmbeddedStore;
use keygate_store::failures::FailureLimiter;
use keygate_store::fleet::Gateway;
use keygate_store::keys::KeyStore;
use keygate_store::limits::Limiter;
use keygate_store::usage::records::{
    LastUse, Retention, SourceId, UsageBatch, UsageCounts, UsageRow,
};
use keygate_telemetry::Metrics;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::tests::faulty::FaultyStore;
use crate::{AdminParts, Readiness, Registry, RegistryParts, Reloader, router};

const TOKEN: &str = "kga_0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
/// 2030-01-01T00:00:00Z.
const NOW: UnixMillis = UnixMillis(1_893_456_000_000);
const DAY_MS: u64 = 86_400_000;
/// Of use: each call is another one's.
static NEXT_SOURCE: AtomicU64 = AtomicU64::new(1_000);

const CONFIG: &str = r#"
[server]
listen = ["127.0.0.1:8080"]
[upstreams.main]
targets = ["127.0.0.1:9000"]
[tiers.free]
rate = "10/s"
[tiers.team]
rate = "1/hour"
burst = 10
quotas = ["1000/day"]
concurrency = 5
share = "app"
[[routes]]
name = "orders.read"
path = "/v1/orders"
methods = ["GET"]
upstream = "main"
auth = "key"
environment = "live"
scopes = ["read:orders"]
[[routes]]
name = "internal"
host = "internal.example"
path = "/v1/orders"
upstream = "main"
auth = "key"
environment = "live"
scopes = ["admin:orders"]
[[routes]]
name = "sandbox"
path = "/v1/sandbox"
upstream = "main"
auth = "key"
environment = "test"
[[routes]]
name = "status"
path = "/status"
upstream = "main"
auth = "public"
[tiers.short]
max_age = "90d"
"#;

fn config() -> Config {
    let source = Source::alone("gateway.toml", CONFIG, Path::new("/nowhere"));
    keygate_config::parse(source).unwrap_or_else(|report| panic!("{report}"))
}

fn this_gateway() -> Gateway {
    Gateway { id: "gw_1".into(), name: "edge-1".into(), version: "1.2.3".into(), started_at: NOW }
}

/// Which addresses have failed too often, as the gateway would say.
fn blocked(client: IpAddr) -> Option<std::time::Duration> {
    let is_blocked = client.to_canonical() == BLOCKED.parse::<IpAddr>().unwrap();
    is_blocked.then_some(std::time::Duration::from_millis(1_500))
}

const BLOCKED: &str = "203.0.113.66";

fn limiter(rate: &str) -> Arc<FailureLimiter> {
    Arc::new(FailureLimiter::new(rate.parse().unwrap(), 100))
}

/// A running admin API.
struct Api {
    address: SocketAddr,
    client: Client<HttpConnector, Full<axum::body::Bytes>>,
    cache: Arc<CachedKeys<FaultyStore>>,
    limiter: Limiter,
    metrics: Metrics,
    failures: Arc<FailureLimiter>,
    live: Live,
    /// What a reload finds.
    next: Arc<reload::Next>,
    /// What no answer may hold.
    secrets: Arc<Mutex<Vec<String>>>,
    _folder: Arc<TempDir>,
}

#[derive(Debug)]
struct Answer {
    status: u16,
    headers: HeaderMap,
    text: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("not JSON: {}", self.text))
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

impl Api {
    async fn start() -> Self {
        Self::start_with(Coherence::alone()).await
    }

    async fn start_with(coherence: Coherence) -> Self {
        let folder = TempDir::new().unwrap();
        let store = EmbeddedStore::open(&folder.path().join("keygate.db")).unwrap();
        let store = FaultyStore::new(store);
        let cache = Arc::new(CachedKeys::new(store, Arc::new(coherence), &config().cache));
        let metrics = Metrics::new("test");
        let client = Client::builder(TokioExecutor::new()).build_http();
        let mut api = Self {
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            client,
            cache,
            limiter: Limiter::in_memory(|| NOW),
            metrics,
            // Most tests send more wrong tokens than anybody should.
            failures: limiter("1000000/s"),
            live: Live::new(Arc::new(config()), Arc::new(peppers::of(&[9]))),
            next: Arc::default(),
            secrets: Arc::new(Mutex::new(vec![TOKEN.to_owned()])),
            _folder: Arc::new(folder),
        };
        api.address = api.serve(|| NOW, Readiness::Ready).await;
        api
    }

    /// The same gateway as it will be at another time.
    async fn at(&self, clock: fn() -> UnixMillis) -> Self {
        Self { address: self.serve(clock, Readiness::Ready).await, ..self.clone_parts() }
    }

    async fn not_ready(&self, why: &'static str) -> Self {
        let readiness = Readiness::NotReady(why.into());
        Self { address: self.serve(|| NOW, readiness).await, ..self.clone_parts() }
    }

    async fn with_failures(&self, rate: &str) -> Self {
        let api = Self { failures: limiter(rate), ..self.clone_parts() };
        Self { address: api.serve(|| NOW, Readiness::Ready).await, ..api }
    }

    fn clone_parts(&self) -> Self {
        Self {
            address: self.address,
            client: self.client.clone(),
            cache: Arc::clone(&self.cache),
            limiter: self.limiter.clone(),
            metrics: self.metrics.clone(),
            failures: Arc::clone(&self.failures),
            live: self.live.clone(),
            next: Arc::clone(&self.next),
            secrets: Arc::clone(&self.secrets),
            _folder: Arc::clone(&self._folder),
        }
    }

    fn registry(&self, clock: fn() -> UnixMillis) -> Registry<FaultyStore> {
        Registry::new(RegistryParts {
            keys: Arc::clone(&self.cache),
            limiter: self.limiter.clone(),
            blocked: Arc::new(blocked),
            top: Arc::new(top::of),
            live: self.live.clone(),
            metrics: self.metrics.keys(),
            clock,
            gateway: this_gateway(),
        })
    }

    /// Serves until the test's runtime ends.
    async fn serve(&self, clock: fn() -> UnixMillis, readiness: Readiness) -> SocketAddr {
        let registry = self.registry(clock);
        let files = reload::Files { next: Arc::clone(&self.next), live: self.live.clone() };
        let reloader = Reloader::new(registry.clone(), Arc::new(files), self.metrics.reload());
        let router = router(AdminParts {
            registry,
            reloader,
            token_sha256: sha256(TOKEN.as_bytes()),
            failures: Arc::clone(&self.failures),
            ready: Arc::new(move || readiness.clone()),
            metrics: self.metrics.clone(),
        });
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let service = router.into_make_service_with_connect_info::<SocketAddr>();
        tokio::spawn(async move { axum::serve(listener, service).await.unwrap() });
        address
    }

    /// Sends a request as it is, and looks for secrets in the answer.
    async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let answer = self.exchange(method, path, headers, body).await;
        let all = format!("{:?} {}", answer.headers, answer.text);
        for secret in self.secrets.lock().unwrap().iter() {
            assert!(!all.contains(secret), "{method} {path} shows a secret: {all}");
        }
        answer
    }

    async fn exchange(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Answer {
        let mut request = Request::builder()
            .method(Method::from_bytes(method.as_bytes()).unwrap())
            .uri(format!("http://{}{path}", self.address));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::from(body.to_owned())).unwrap();
        let (parts, body) = self.client.request(request).await.unwrap().into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        Answer { status: parts.status.as_u16(), headers: parts.headers, text }
    }

    async fn call(&self, method: &str, path: &str, body: Option<&Value>) -> Answer {
        let bearer = format!("Bearer {TOKEN}");
        let mut headers = vec![("authorization", bearer.as_str())];
        headers.extend(body.map(|_| ("content-type", "application/json")));
        self.send(method, path, &headers, &body.map(Value::to_string).unwrap_or_default()).await
    }

    /// The same with more headers. An answer that makes something may show a secret, which no other may
    /// hold from here on.
    async fn call_with(
        &self,
        method: &str,
        path: &str,
        more: &[(&str, &str)],
        body: Value,
    ) -> Answer {
        let bearer = format!("Bearer {TOKEN}");
        let mut headers = vec![("authorization", bearer.as_str())];
        headers.push(("content-type", "application/json"));
        headers.extend(more);
        let answer = self.exchange(method, path, &headers, &body.to_string()).await;
        let mut secrets = self.secrets.lock().unwrap();
        for secret in secrets.iter() {
            assert!(!answer.text.contains(secret), "{method} {path}: {}", answer.text);
        }
        if answer.status == 201 {
            let made = answer.json();
            let shown = ["key", "token"].iter().filter_map(|name| made[*name].as_str());
            secrets.extend(shown.map(ToOwned::to_owned));
        }
        drop(secrets);
        answer
    }

    async fn get(&self, path: &str) -> Answer {
        self.call("GET", path, None).await
    }

    async fn post(&self, path: &str, body: Value) -> Answer {
        self.call("POST", path, Some(&body)).await
    }

    async fn patch(&self, path: &str, body: Value) -> Answer {
        self.call("PATCH", path, Some(&body)).await
    }

    async fn account(&self) -> String {
        let answer = self.post("/v1/accounts", json!({ "name": "Acme" })).await;
        assert_eq!(answer.status, 201, "{}", answer.text);
        id(&answer.json())
    }

    async fn app(&self) -> String {
        self.app_with(json!({})).await
    }

    async fn app_with(&self, more: Value) -> String {
        let account = self.account().await;
        let scopes = ["read:orders", "write:orders"];
        let mut app = json!({ "name": "web", "environment": "live", "granted_scopes": scopes });
        merge(&mut app, more);
        let answer = self.post(&format!("/v1/accounts/{account}/apps"), app).await;
        assert_eq!(answer.status, 201, "{}", answer.text);
        id(&answer.json())
    }

    /// Creates a key of `app`: the answer, whose `key` no other answer may hold from here on.
    async fn key(&self, app: &str, more: Value) -> Value {
        let mut key = json!({ "kind": "sk", "scopes": ["read:orders"] });
        merge(&mut key, more);
        let bearer = format!("Bearer {TOKEN}");
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        let path = format!("/v1/apps/{app}/keys");
        let answer = self.exchange("POST", &path, &headers, &key.to_string()).await;
        assert_eq!(answer.status, 201, "{}", answer.text);
        let created = answer.json();
        self.secrets.lock().unwrap().push(created["key"].as_str().unwrap().to_owned());
        created
    }

    /// Notes when keys were last used.
    async fn mark_used(&self, uses: &[(KeyId, UnixMillis)]) {
        let row = |&(key, at): &(KeyId, UnixMillis)| UsageRow {
            key,
            route: "orders.read".into(),
            counts: UsageCounts::default(),
            last: Some(LastUse { at, address: None, route: None }),
        };
        let batch = UsageBatch {
            source: SourceId(NEXT_SOURCE.fetch_add(1, Ordering::Relaxed).into()),
            number: 1,
            after_loss: false,
            minute: NOW,
            rows: uses.iter().map(row).collect(),
        };
        let keep = Retention { minutes: 0, hours: 0, days: 0 };
        self.cache.store().add_usage(Arc::new(batch), keep).await.unwrap();
    }

    /// Asks until the answer has this status, for what a probe sees a moment later.
    async fn until_ready_is(&self, status: u16) -> Answer {
        self.until_ready(|answer| answer.status == status).await
    }

    async fn until_ready(&self, is_so: impl Fn(&Answer) -> bool) -> Answer {
        let wait = async {
            loop {
                let answer = self.send("GET", "/readyz", &[], "").await;
                if is_so(&answer) {
                    return answer;
                }
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(20), wait).await.unwrap()
    }

    /// The changes in the audit log, oldest first.
    async fn actions(&self) -> Vec<String> {
        let audit = self.get("/v1/audit?limit=200&refused=false").await.json();
        let entries = audit["items"].as_array().unwrap().iter();
        entries.map(|entry| entry["action"].as_str().unwrap().to_owned()).collect()
    }
}

fn id(record: &Value) -> String {
    record["id"].as_str().unwrap_or_else(|| panic!("no id in {record}")).to_owned()
}

fn merge(into: &mut Value, more: Value) {
    let Value::Object(more) = more else { panic!("not an object: {more}") };
    into.as_object_mut().unwrap().extend(more);
}

/// The answer is a whole problem with this status and code. Returns its detail.
#[track_caller]
fn assert_problem(answer: &Answer, status: u16, code: &str) -> String {
    assert_eq!(answer.status, status, "{}", answer.text);
    assert_eq!(answer.header("content-type"), "application/problem+json");
    assert_eq!(answer.header("cache-control"), "no-store");
    let problem = answer.json();
    assert_eq!(problem["type"], format!("urn:keygate:problem:{code}"));
    assert_eq!(problem["code"], code);
    assert_eq!(problem["status"], status);
    assert_eq!(problem["request_id"], answer.header("x-request-id"));
    assert!(!answer.header("x-request-id").is_empty());
    for member in ["title", "detail"] {
        assert!(problem[member].as_str().is_some_and(|text| !text.is_empty()), "{problem}");
    }
    assert!(StatusCode::from_u16(status).is_ok());
    problem["detail"].as_str().unwrap().to_owned()
}
