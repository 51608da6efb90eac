//! What gateways report of themselves, and how it is written down: JSON whose last field, the time
//! of the report by the store's clock, is put there by the store.

use std::sync::LazyLock;
use std::time::Duration;

use keygate_core::UnixMillis;
use keygate_core::key::PepperId;
use redis::aio::MultiplexedConnection;
use redis::{RedisResult, Script};
use serde::{Deserialize, Serialize};

use super::layout::Names;
use super::primary::{Primary, unavailable};
use super::reply;
use super::script::Call;
use crate::fleet::{Fleet, Gateway, LinkState, Member};
use crate::keys::{ChangeNumber, StoreError};

/// A gateway that is silent for so long is gone, and its entry goes too.
const SILENCE_MAX: Duration = Duration::from_secs(600);
const VERSION: u32 = 1;

static REPORT: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("report.lua")));
static FLEET: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("fleet.lua")));

/// What changes from one report to the next.
pub(super) struct Said {
    pub link: LinkState,
    pub applied: ChangeNumber,
    pub peppers: Option<Vec<PepperId>>,
}

/// Notes that this gateway is there.
pub(super) async fn report(
    connection: &mut MultiplexedConnection,
    names: &Names,
    gateway: &Gateway,
    said: &Said,
) -> RedisResult<()> {
    let call = Call::new(&REPORT, &names.fleet(), 3, 256)
        .arg(&gateway.id)
        .arg(encode_member(gateway, said)?)
        .arg(SILENCE_MAX.as_millis().to_string());
    call.run(connection).await.map(drop)
}

/// Notes that this gateway is no more.
pub(super) async fn leave(
    connection: &mut MultiplexedConnection,
    names: &Names,
    gateway: &Gateway,
) -> RedisResult<()> {
    redis::cmd("HDEL").arg(names.fleet()).arg(&gateway.id).query_async(connection).await
}

/// The gateways that reported not long ago, and the newest change.
pub(super) async fn fleet(primary: &Primary, names: &Names) -> Result<Fleet, StoreError> {
    let call = Call::new(&FLEET, &names.fleet(), 1, 64).arg(names.meta());
    let answer = primary.read(async |connection| call.run(connection).await).await?;
    let [newest, now, members] = reply::array(answer)?;
    if newest == redis::Value::Nil {
        return Err(unavailable(super::transaction::NoStore));
    }
    let (newest, now) = (ChangeNumber(reply::number(&newest)?), UnixMillis(reply::number(&now)?));
    let silence_max = u64::try_from(SILENCE_MAX.as_millis()).unwrap_or(u64::MAX);
    let members = reply::items(members)?;
    let mut members: Vec<Member> = members
        .as_chunks::<2>()
        .0
        .iter()
        // What a newer gateway says in a way that this one does not know is left out.
        .filter_map(|[id, json]| decode_member(reply::text(id).ok()?, reply::bytes(json).ok()?))
        .filter(|member| member.seen_at.0.saturating_add(silence_max) > now.0)
        .collect();
    members.sort_unstable_by(|a, b| a.gateway.id.cmp(&b.gateway.id));
    Ok(Fleet { newest, now, members })
}

#[derive(Serialize, Deserialize)]
struct Form<'a> {
    v: u32,
    #[serde(borrow)]
    name: std::borrow::Cow<'a, str>,
    version: std::borrow::Cow<'a, str>,
    started_at: u64,
    link: LinkForm,
    applied: u64,
    /// Their ids. Versions before this one did not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    peppers: Option<Vec<String>>,
    #[serde(skip_serializing)]
    seen_at: u64,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum LinkForm {
    Live,
    Polling,
    Down,
}

/// The JSON up to where the time comes.
fn encode_member(gateway: &Gateway, said: &Said) -> RedisResult<String> {
    let link = match said.link {
        LinkState::Live => LinkForm::Live,
        LinkState::Polling => LinkForm::Polling,
        LinkState::Down => LinkForm::Down,
    };
    let form = Form {
        v: VERSION,
        name: gateway.name.as_str().into(),
        version: gateway.version.as_str().into(),
        started_at: gateway.started_at.0,
        link,
        applied: said.applied.0,
        peppers: said.peppers.as_ref().map(|ids| ids.iter().map(ToString::to_string).collect()),
        seen_at: 0,
    };
    let json = serde_json::to_string(&form).map_err(std::io::Error::from)?;
    let open = json.strip_suffix('}').unwrap_or_default();
    Ok(format!("{open},\"seen_at\":"))
}

fn decode_member(id: &str, json: &[u8]) -> Option<Member> {
    let form: Form<'_> =
        serde_json::from_slice(json).ok().filter(|form: &Form<'_>| form.v == VERSION)?;
    let link = match form.link {
        LinkForm::Live => LinkState::Live,
        LinkForm::Polling => LinkState::Polling,
        LinkForm::Down => LinkState::Down,
    };
    let gateway = Gateway {
        id: id.to_owned(),
        name: form.name.into_owned(),
        version: form.version.into_owned(),
        started_at: UnixMillis(form.started_at),
    };
    let (applied, seen_at) = (ChangeNumber(form.applied), UnixMillis(form.seen_at));
    // What is no id is no pepper of ours.
    let peppers = form.peppers.map(|ids| ids.iter().filter_map(|id| id.parse().ok()).collect());
    Some(Member { gateway, link, applied, peppers, seen_at })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gateway() -> Gateway {
        let (name, version) = ("edge".to_owned(), "1.2.3".to_owned());
        Gateway { id: "gw_1".into(), name, version, started_at: UnixMillis(5) }
    }

    fn told(peppers: Option<Vec<PepperId>>) -> Member {
        let said = Said { link: LinkState::Live, applied: ChangeNumber(7), peppers };
        let json = format!("{}9}}", encode_member(&gateway(), &said).unwrap());
        decode_member("gw_1", json.as_bytes()).unwrap()
    }

    #[test]
    fn a_report_says_which_peppers_a_gateway_has_once_that_is_known() {
        let ids = [[1; 8], [0xff; 8]].map(PepperId::from_bytes).to_vec();
        let member = told(Some(ids.clone()));
        assert_eq!(member.peppers, Some(ids));
        assert_eq!((member.gateway, member.seen_at), (gateway(), UnixMillis(9)));
        assert_eq!(told(None).peppers, None);
    }

    #[test]
    fn a_report_of_an_older_version_says_nothing_of_peppers() {
        let older = r#"{"v":1,"name":"edge","version":"1.0.0","started_at":5,"link":"live","applied":7,"seen_at":9}"#;
        assert_eq!(decode_member("gw_1", older.as_bytes()).unwrap().peppers, None);
    }
}
