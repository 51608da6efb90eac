//! `keygate keys rotate`: makes the new key, and waits until the old one has gone quiet.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use keygate_core::KeyId;
use serde_json::Value;

use super::body::Body;
use super::confirm::sure;
use super::keys::show_new;
use crate::cli::{AdminOptions, RotateKey};
use crate::client::{Call, Client};
use crate::failure::{Exit, Failure};
use crate::output::Style;

/// How long a use may take to be seen: it is noted in the gateway first, and told to the store later. While
/// many keys are in use that begins at the turn of the minute, and takes a while with a million of them.
const SEEN_AFTER: Duration = Duration::from_secs(120);
const LOOK_EVERY_MIN: Duration = Duration::from_secs(1);
const LOOK_EVERY_MAX: Duration = Duration::from_secs(15);
const TOLD_EVERY: Duration = Duration::from_secs(60);

pub(super) fn rotate(admin: &AdminOptions, options: &RotateKey) -> Result<(), Failure> {
    check_timeout(options.timeout)?;
    let client = Client::new(admin)?;
    if cuts_off(options.overlap.as_deref()) {
        let (id, path) = (options.id, format!("/v1/keys/{}", options.id));
        sure(&options.sure, &client, &format!("rotate key {id} and refuse it at once"), &path)?;
    }
    let answer = client.send(&rotate_call(options))?;
    show_new(&answer, Style::of(admin))?;
    match options.wait_idle {
        Some(idle) => wait(&client, options.id, idle, options.timeout),
        None => Ok(()),
    }
}

/// Before anything is rotated: a wait that is shorter could only fail.
fn check_timeout(timeout: Option<Duration>) -> Result<(), Failure> {
    if timeout.is_none_or(|timeout| timeout >= SEEN_AFTER) {
        return Ok(());
    }
    let least = humantime::format_duration(SEEN_AFTER);
    let why = format!("a use may take {least} to be seen: give a --timeout of {least} or more");
    Err(Failure::new(Exit::Usage, why))
}

/// Whether the old key stops working with the rotation, as if it were revoked.
fn cuts_off(overlap: Option<&str>) -> bool {
    let span = overlap.map(humantime::parse_duration);
    span.is_some_and(|span| span.is_ok_and(|span| span.is_zero()))
}

fn rotate_call(options: &RotateKey) -> Call {
    let body = Body::default().text("overlap", options.overlap.as_deref());
    Call::post(format!("/v1/keys/{}/rotate", options.id), body.done())
        .with_header("if-match", options.expected.if_match.as_deref())
        .with_header("idempotency-key", options.new.idempotency_key.as_deref())
}

fn wait(
    client: &Client,
    old: KeyId,
    idle: Duration,
    timeout: Option<Duration>,
) -> Result<(), Failure> {
    let begun = Instant::now();
    let mut told = None;
    eprintln!("Waiting until {old} has not been used for {}.", humantime::format_duration(idle));
    // Until then a gateway that does not answer may come back: a restart is no end of the wait.
    let mut patience = timeout;
    loop {
        let looked = look(client, old);
        let waited = begun.elapsed();
        let look = match looked {
            Ok(look) => look,
            Err(failure)
                if may_pass(failure.exit()) && patience.is_some_and(|end| waited < end) =>
            {
                std::thread::sleep(LOOK_EVERY_MIN);
                continue;
            }
            Err(failure) => return Err(failure),
        };
        patience = timeout.or_else(|| Some(waited.saturating_add(look.left?)));
        match look.verdict(idle, waited, timeout) {
            Verdict::Done(word) => {
                eprintln!("{word}");
                return Ok(());
            }
            Verdict::InUse(why) => return Err(Failure::new(Exit::Failed, why)),
            Verdict::Wait(pause) => {
                if told.is_none_or(|told| waited >= told + TOLD_EVERY) {
                    eprintln!("{}", look.words());
                    told = Some(waited);
                }
                std::thread::sleep(pause);
            }
        }
    }
}

fn look(client: &Client, old: KeyId) -> Result<Look, Failure> {
    let usage = client.send(&Call::get(format!("/v1/keys/{old}/usage")))?;
    Ok(Look::new(&usage, &client.send(&Call::get(format!("/v1/keys/{old}")))?))
}

/// Not so a refusal, or a key that is not there.
fn may_pass(exit: Exit) -> bool {
    matches!(exit, Exit::Unreachable | Exit::Failed)
}

/// What is seen of the old key at one moment.
#[derive(Debug, PartialEq, Eq)]
struct Look {
    /// Nothing if it was never used.
    last_used: Option<Duration>,
    status: String,
    /// To the end of the overlap.
    left: Option<Duration>,
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Done(String),
    InUse(String),
    Wait(Duration),
}

impl Look {
    fn new(usage: &Value, key: &Value) -> Self {
        let time = |of: &Value, name: &str| of.get(name)?.as_str()?.parse::<Timestamp>().ok();
        let between = |from: Timestamp, to: Timestamp| {
            Duration::try_from(to.duration_since(from)).unwrap_or_default()
        };
        let idle = usage.get("idle_s").and_then(Value::as_u64);
        let (as_of, end) = (time(usage, "as_of"), time(key, "expires_at"));
        Self {
            last_used: idle.map(Duration::from_secs),
            status: key.get("status").and_then(Value::as_str).unwrap_or_default().to_owned(),
            left: as_of.zip(end).map(|(now, end)| between(now, end)),
        }
    }

    /// `waited` since the rotation: a use before that may not be seen yet.
    fn verdict(&self, idle: Duration, waited: Duration, timeout: Option<Duration>) -> Verdict {
        // A use that is younger than that may not be seen yet, however short a quiet is wanted.
        let surely = idle.max(SEEN_AFTER);
        let is_quiet = self.last_used.is_none_or(|since| since >= surely);
        let words = self.words();
        if self.status != "active" {
            let over = format!("The old key is {}", self.status);
            return match is_quiet || self.status == "revoked" {
                true => Verdict::Done(format!("{over}. {words}")),
                false => Verdict::InUse(format!("{over}, and was still in use. {words}")),
            };
        }
        if is_quiet && waited >= SEEN_AFTER {
            return Verdict::Done(format!("{words} It can be revoked."));
        }
        if timeout.is_some_and(|timeout| waited >= timeout) {
            return Verdict::InUse(match self.last_used.is_none_or(|since| since >= idle) {
                true => format!("whether the old key is still in use cannot be known yet. {words}"),
                false => format!("the old key is still in use. {words}"),
            });
        }
        let to_go = match is_quiet {
            true => SEEN_AFTER.saturating_sub(waited),
            false => surely.saturating_sub(self.last_used.unwrap_or_default()),
        };
        let to_go = timeout.map_or(to_go, |timeout| to_go.min(timeout.saturating_sub(waited)));
        let to_go = self.left.map_or(to_go, |left| to_go.min(left));
        Verdict::Wait(to_go.clamp(LOOK_EVERY_MIN, LOOK_EVERY_MAX))
    }

    fn words(&self) -> String {
        let used = match self.last_used {
            None => "It was never used".to_owned(),
            Some(since) => format!("It was last used {} ago", humantime::format_duration(since)),
        };
        let left = self.left.filter(|left| !left.is_zero()).map(|left| {
            let left = Duration::from_secs(left.as_secs());
            format!("; its overlap ends in {}", humantime::format_duration(left))
        });
        format!("{used}{}.", left.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn look(idle_s: Option<u64>, status: &str) -> Look {
        Look::new(
            &json!({ "idle_s": idle_s, "as_of": "2030-01-01T00:00:00Z" }),
            &json!({ "status": status, "expires_at": "2030-01-01T01:00:00Z" }),
        )
    }

    fn verdict(idle_s: Option<u64>, status: &str, waited_s: u64) -> Verdict {
        let waited = Duration::from_secs(waited_s);
        look(idle_s, status).verdict(10 * MINUTE, waited, Some(5 * MINUTE))
    }

    #[test]
    fn the_wait_ends_when_the_old_key_has_gone_quiet() {
        assert_eq!(verdict(Some(3), "active", 130), Verdict::Wait(LOOK_EVERY_MAX));
        assert_eq!(verdict(Some(598), "active", 130), Verdict::Wait(Duration::from_secs(2)));
        let Verdict::Done(word) = verdict(Some(600), "active", 130) else { panic!() };
        assert_eq!(word, "It was last used 10m ago; its overlap ends in 1h. It can be revoked.");
        assert!(matches!(verdict(None, "active", 130), Verdict::Done(_)));
    }

    #[test]
    fn a_use_just_before_the_rotation_has_time_to_be_seen() {
        assert_eq!(verdict(None, "active", 0), Verdict::Wait(LOOK_EVERY_MAX));
        assert_eq!(verdict(Some(600), "active", 110), Verdict::Wait(Duration::from_secs(10)));
        assert_eq!(verdict(Some(600), "active", 119), Verdict::Wait(LOOK_EVERY_MIN));
    }

    #[test]
    fn only_an_overlap_of_nothing_cuts_the_old_key_off() {
        assert!(cuts_off(Some("0s")) && cuts_off(Some("0ms")));
        assert!(!cuts_off(Some("1s")) && !cuts_off(None) && !cuts_off(Some("soon")));
    }

    #[test]
    fn a_short_quiet_is_not_taken_for_one_before_a_use_could_be_seen() {
        let end = SEEN_AFTER + LOOK_EVERY_MIN;
        let verdict = |idle_s, end| {
            look(idle_s, "active").verdict(15 * LOOK_EVERY_MIN, SEEN_AFTER + LOOK_EVERY_MIN, end)
        };
        assert_eq!(verdict(Some(113), None), Verdict::Wait(Duration::from_secs(7)));
        assert!(matches!(verdict(Some(120), None), Verdict::Done(_)));
        let Verdict::InUse(why) = verdict(Some(113), Some(end)) else { panic!() };
        assert!(why.contains("cannot be known yet"), "{why}");
        let Verdict::InUse(why) = verdict(Some(14), Some(end)) else { panic!() };
        assert!(why.contains("is still in use"), "{why}");
    }

    #[test]
    fn a_wait_in_which_nothing_can_be_known_is_refused_before_the_key_is_rotated() {
        let failure = check_timeout(Some(MINUTE)).unwrap_err();
        assert_eq!(failure.exit(), Exit::Usage);
        assert!(check_timeout(Some(2 * MINUTE)).is_ok() && check_timeout(None).is_ok());
    }

    #[test]
    fn the_wait_fails_if_the_old_key_is_in_use_to_the_end() {
        let Verdict::InUse(why) = verdict(Some(3), "expired", 20) else { panic!() };
        assert!(why.contains("expired") && why.contains("3s ago"), "{why}");
        assert!(matches!(verdict(Some(3), "active", 300), Verdict::InUse(_)));
        assert!(matches!(verdict(Some(600), "expired", 20), Verdict::Done(_)));
        assert!(matches!(verdict(Some(3), "revoked", 20), Verdict::Done(_)));
    }
}
