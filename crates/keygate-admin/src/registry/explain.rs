//! What the gateway would do with a request, step by step, and why: with the pieces that it decides
//! with, and in its order. Steps after one that fails are taken too, so that an operator sees all there
//! is to mend. Charges nothing, and leaves the cache as it is.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use keygate_config::Config;
use keygate_config::live::Current;
use keygate_core::decide::Check;
use keygate_core::explain::{Outcome, Situation, explain};
use keygate_core::limit::policy::{Policy, Use};
use keygate_core::limit::terms::Terms;
use keygate_core::rewrite::PathRewrite;
use keygate_core::{Access, Code, Denial, KeyId, KeyRecord, Pepper, Standing};
use keygate_store::cached::Peeked;
use keygate_store::keys::KeyStore;
use keygate_store::records::Key;

use super::call::Reading;
use super::verify::identify;
use super::{Actor, Call, Registry, RegistryError};

const PUBLIC: &str = "the route is public";
const NO_KEY: &str = "there is no key to look at";

/// A request, and the key that it is to come with.
pub struct Inquiry<'a> {
    pub about: About<'a>,
    pub call: Call<'a>,
    pub ip: Option<IpAddr>,
    pub origin: Option<&'a str>,
}

/// A key, by its text or by its id.
pub enum About<'a> {
    Key(&'a [u8]),
    Id(KeyId),
}

/// What the gateway would do.
pub struct Explanation {
    /// If it was looked up and is known.
    pub key: Option<KeyId>,
    pub route: Option<String>,
    /// In the order in which a request takes them.
    pub steps: Vec<Step>,
}

pub struct Step {
    pub name: &'static str,
    pub result: StepResult,
    /// What it looked at, in plain words. Never a secret.
    pub detail: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepResult {
    Pass,
    Fail(Code),
    /// Not taken, or what it has to look at is not known.
    Skip,
}

impl Explanation {
    /// What the client would be told: the first failure. Nothing if the request would be admitted.
    #[must_use]
    pub fn code(&self) -> Option<Code> {
        self.steps.iter().find_map(|step| match step.result {
            StepResult::Fail(code) => Some(code),
            StepResult::Pass | StepResult::Skip => None,
        })
    }
}

impl Step {
    fn pass(name: &'static str, detail: impl Into<String>) -> Self {
        Self { name, result: StepResult::Pass, detail: detail.into() }
    }

    fn fail(name: &'static str, code: Code, detail: impl Into<String>) -> Self {
        Self { name, result: StepResult::Fail(code), detail: detail.into() }
    }

    fn skip(name: &'static str, detail: impl Into<String>) -> Self {
        Self { name, result: StepResult::Skip, detail: detail.into() }
    }
}

/// What there is to go by.
enum Named<'a> {
    Key(&'a [u8]),
    Id(Box<Key>),
}

/// The key as far as it could be followed.
struct Found {
    /// How it was named, and whether that can be a key.
    credential: Step,
    lookup: Step,
    record: Option<Arc<KeyRecord>>,
    is_cached: bool,
}

impl<S: KeyStore> Registry<S> {
    /// Takes every step of a request's way.
    ///
    /// # Errors
    /// [`RegistryError::NotFound`] for the id of a key that there is not, or that the actor does not
    /// see, and [`RegistryError::Store`]: an outage says nothing about a key.
    pub async fn explain(
        &self,
        by: &Actor,
        inquiry: Inquiry<'_>,
    ) -> Result<Explanation, RegistryError> {
        let Inquiry { about, call, ip, origin } = inquiry;
        let current = self.parts.live.current();
        let config = &*current.config;
        let (mut steps, place) = find_route(config, call);
        let route = place.and_then(|place| config.routes.routes().get(place));
        let named = match &about {
            About::Id(id) => Named::Id(Box::new(self.named(by, *id).await?)),
            About::Key(text) => Named::Key(text),
        };
        let is_public = route.is_some_and(|route| matches!(route.access, Access::Public(_)));
        let found = if is_public { None } else { Some(self.find(by, &current, named).await?) };
        let record = found.as_ref().and_then(|found| found.record.clone());
        let situation = record.as_deref().map(|key| Situation {
            key,
            access: route.and_then(|route| match &route.access {
                Access::Key(access) => Some(access),
                Access::Public(_) => None,
            }),
            address: ip,
            // As a header can hold it.
            origin: origin.filter(|text| text.bytes().all(|b| b == b'\t' || !b.is_ascii_control())),
            now: self.now(),
        });
        steps.push(self.failed_auth(ip, found.as_ref()));
        match found {
            Some(Found { credential, lookup, .. }) => steps.extend([credential, lookup]),
            None => steps.extend(["credential", "lookup"].map(|name| Step::skip(name, PUBLIC))),
        }
        match situation {
            Some(situation) => {
                steps.extend(checks(situation));
                steps.extend(self.limits(config, situation).await);
            }
            None => {
                let why = if is_public { PUBLIC } else { NO_KEY };
                steps.extend(OF_A_KEY.map(|name| Step::skip(name, why)));
            }
        }
        steps.push(upstream(config, place, call));
        let id = match about {
            About::Id(id) => Some(id),
            About::Key(_) => record.map(|record| record.id),
        };
        Ok(Explanation { key: id, route: route.map(|route| route.name.to_string()), steps })
    }

    async fn named(&self, by: &Actor, id: KeyId) -> Result<Key, RegistryError> {
        let key = self.store().key(id).await?.filter(|key| by.sees(key.account));
        key.ok_or(RegistryError::NotFound("the key"))
    }

    async fn find(
        &self,
        by: &Actor,
        current: &Current,
        named: Named<'_>,
    ) -> Result<Found, RegistryError> {
        const NAME: &str = "credential";
        let malformed = |why: String| Step::fail(NAME, Denial::KeyMalformed.code(), why);
        let (digest, credential) = match named {
            Named::Id(key) => match why_unreadable(current, &key) {
                Some(why) => (Some(key.digest), malformed(why)),
                None => (Some(key.digest), Step::skip(NAME, "the key was named by its id")),
            },
            Named::Key(text) => match identify(current, text) {
                Some(digest) => (Some(digest), Step::pass(NAME, "it can be a key")),
                None => {
                    let why = "it has not the form of a key, or none of the peppers made it";
                    (None, malformed(why.to_owned()))
                }
            },
        };
        let Some(digest) = digest else {
            let lookup = Step::skip("lookup", NO_KEY);
            return Ok(Found { credential, lookup, record: None, is_cached: false });
        };
        let peeked = self.parts.keys.peek(digest).await.map_err(RegistryError::Store)?;
        let Peeked { key, is_cached } = peeked;
        let record = key.filter(|key| by.sees(key.account));
        let lookup = match (&record, is_cached) {
            (Some(_), true) => Step::pass("lookup", "the key is known, and cached here"),
            (Some(_), false) => Step::pass("lookup", "the key is known, and not cached here"),
            (None, _) => Step::fail("lookup", Denial::KeyUnknown.code(), "no such key is stored"),
        };
        Ok(Found { credential, lookup, record, is_cached })
    }

    /// Who fails too often is refused, but for a key that works without a look-up.
    fn failed_auth(&self, ip: Option<IpAddr>, found: Option<&Found>) -> Step {
        const NAME: &str = "failed_auth";
        let Some(found) = found else { return Step::skip(NAME, PUBLIC) };
        let Some(ip) = ip else { return Step::skip(NAME, "send `ip` to have it checked") };
        let Some(wait) = (self.parts.blocked)(ip) else {
            let ip = ip.to_canonical();
            return Step::pass(NAME, format!("{ip} has not failed to authenticate too often"));
        };
        let works = found.record.as_ref().is_some_and(|key| key.standing == Standing::Active);
        if works && found.is_cached {
            let why =
                "the address has failed to authenticate too often, but the key is cached here";
            return Step::pass(NAME, why);
        }
        let wait = seconds(wait);
        let why = format!("the address has failed to authenticate too often: it waits {wait}");
        Step::fail(NAME, Denial::TooManyFailures { retry_after: Duration::ZERO }.code(), why)
    }

    async fn limits(&self, config: &Config, situation: Situation<'_>) -> Vec<Step> {
        let Situation { key, access, .. } = situation;
        let cost = access.map_or(1, |access| access.cost);
        let tier = key.tier.as_deref();
        let limits = tier.and_then(|tier| config.tier(tier));
        let none = match tier {
            Some(tier) if limits.is_none() => format!("the configuration has no tier `{tier}`"),
            Some(_) | None => "no limit".to_owned(),
        };
        let uses: Vec<Use> = match Terms::of(limits, key.overrides()) {
            Some(terms) => {
                let room = self.parts.limiter.room(terms.party(key), &terms, cost).await;
                room.iter().collect()
            }
            None => Vec::new(),
        };
        let mut steps = Vec::new();
        for name in ["concurrency", "rate", "quota"] {
            let mut of_kind =
                uses.iter().filter(|used| kind(used.policy) == name).map(|used| fits(used, cost));
            match of_kind.next() {
                Some(first) => steps.extend(std::iter::once(first).chain(of_kind)),
                None => steps.push(Step::pass(name, none.as_str())),
            }
        }
        steps
    }
}

/// The steps that look at a key's record.
const OF_A_KEY: [&str; 9] = [
    "status",
    "expiry",
    "environment",
    "network",
    "origin",
    "scopes",
    "concurrency",
    "rate",
    "quota",
];

/// Why this gateway would not know the text of a key for one.
fn why_unreadable(current: &Current, key: &Key) -> Option<String> {
    match key.pepper {
        None if current.config.keys.credentials.imported.is_none() => {
            Some("another system made it, and `[keys] accept_imported` is off".to_owned())
        }
        Some(id) if !current.peppers.iter().map(Pepper::id).any(|ours| ours == id) => {
            Some(format!("it was made under pepper {id}, which this gateway does not have"))
        }
        Some(_) | None => None,
    }
}

/// Steps 1 and 2.
fn find_route(config: &Config, call: Call<'_>) -> (Vec<Step>, Option<usize>) {
    let reading = match call.read(config) {
        Ok(reading) => reading,
        Err(denial) => {
            let request = Step::fail("request", denial.code(), why(&denial));
            return (vec![request, Step::skip("route", "the request is refused as it is")], None);
        }
    };
    let Reading { method, host, path } = reading;
    let on = if host.is_empty() { "no host".to_owned() } else { format!("host {host}") };
    let request = Step::pass("request", format!("{method} {path}, {on}"));
    match config.routes.place(&host, &path, method) {
        Ok(place) => {
            let route = config.routes.routes().get(place);
            let detail = route.map(|route| format!("{}, for {}", route.name, route.path));
            (vec![request, Step::pass("route", detail.unwrap_or_default())], Some(place))
        }
        Err(denial) => (vec![request, Step::fail("route", denial.code(), why(&denial))], None),
    }
}

fn why(denial: &Denial) -> String {
    if let Denial::BadRequest(why) | Denial::AmbiguousPath(why) = denial {
        (*why).to_owned()
    } else if let Denial::MethodNotAllowed(allow) = denial {
        format!("what is there serves {allow}")
    } else {
        denial.code().detail().to_owned()
    }
}

/// Steps 6 to 10.
fn checks(situation: Situation<'_>) -> impl Iterator<Item = Step> {
    explain(situation).into_iter().map(|finding| Step {
        name: match finding.check {
            Check::Standing => "status",
            Check::Expiry => "expiry",
            Check::Environment => "environment",
            Check::Network => "network",
            Check::Origin => "origin",
            Check::Scopes => "scopes",
        },
        result: match finding.outcome {
            Outcome::Pass => StepResult::Pass,
            Outcome::Fail(denial) => StepResult::Fail(denial.code()),
            Outcome::Skip => StepResult::Skip,
        },
        detail: finding.detail,
    })
}

fn kind(policy: Policy) -> &'static str {
    match policy {
        Policy::Concurrency => "concurrency",
        Policy::Rate => "rate",
        Policy::Quota(_) => "quota",
    }
}

/// Whether a request of this cost has room in what is left.
fn fits(used: &Use, cost: u64) -> Step {
    let Use { policy, limit, remaining, .. } = *used;
    let needs = if policy == Policy::Concurrency { 1 } else { cost };
    let name = kind(policy);
    let detail = format!("{}: {remaining} of {limit} left, it takes {needs}", policy.name());
    if remaining >= needs {
        Step::pass(name, detail)
    } else {
        Step::fail(name, policy.code(), detail)
    }
}

/// Where an admitted request goes.
fn upstream(config: &Config, place: Option<usize>, call: Call<'_>) -> Step {
    const NAME: &str = "upstream";
    let at = |place| config.routes.routes().get(place).zip(config.route_settings.get(place));
    let Some((route, settings)) = place.and_then(at) else {
        return Step::skip(NAME, "there is no route");
    };
    if let Some(respond) = &settings.respond {
        return Step::pass(NAME, format!("none: the route answers with {} itself", respond.status));
    }
    let name = route.upstream.and_then(|place| config.upstreams.get(place)).map(|up| &*up.name);
    let name = name.unwrap_or_default();
    let rewrite =
        PathRewrite::new(settings.strip_prefix.as_deref(), settings.add_prefix.as_deref());
    match (rewrite, call.read(config)) {
        (Some(rewrite), Ok(reading)) => {
            Step::pass(NAME, format!("{name}, asked for {}", rewrite.apply(&reading.path)))
        }
        (Some(_) | None, _) => Step::pass(NAME, name),
    }
}

/// Rounded up: who waits so long has waited long enough.
fn seconds(wait: Duration) -> String {
    format!("{} s", wait.as_secs() + u64::from(wait.subsec_nanos() > 0))
}
