//! What keys have used. A hash for each key and run of windows, of a line for each window and route: one
//! is a few dozen bytes, and Redis itself forgets the hash when it is old. A batch is one script, and who reads
//! a hash finds all of a batch in it or nothing. Several hashes are not read at one moment: that would hold
//! up everybody else.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, LazyLock};

use redis::{Script, Value};

use super::layout::{Chunk, Names, place};
use super::primary::{Primary, Written, unavailable};
use super::reply::{self, Dangling, Malformed, unreadable};
use super::script::Call;
use crate::codec::usage::{decode_counts, encode_counts, encode_last};
use crate::keys::StoreError;
use crate::usage::records::{
    Retention, SourceId, Spender, Step, UsageBatch, UsageCounts, UsagePoint, UsageQuery,
};

static ADD: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("add_usage.lua")));

/// Hashes that are asked for at a time.
const PART: usize = 200;
/// In a field: a route's number times this, and the place of a window among its run's.
const PLACES: u64 = 64;
/// How often one route is read: once more for each primary that takes over meanwhile.
const TRIES: usize = 3;

#[derive(Debug, thiserror::Error)]
#[error("the numbers of routes change again and again")]
struct Renumbered;

pub(super) async fn add(
    primary: &Primary,
    names: &Names,
    batch: &UsageBatch,
    keep: &Retention,
) -> Result<(), StoreError> {
    let call = call(names, batch, keep);
    // Also when it had the batch: an earlier try may have ended before its replicas had it.
    let run = async |to: &mut _| call.run(to).await.map(Written::Changed);
    let [did, had, damaged] = reply::array(primary.write(run).await?)?;
    match reply::text(&did)? {
        "had" => return Ok(()),
        "gap" => return Err(StoreError::Conflict),
        "added" => {}
        _ => return Err(unreadable(Malformed)),
    }
    let had: u64 = reply::number(&had)?;
    if batch.number - had > 1 {
        batch.log_loss(had);
    }
    let lines: u64 = reply::number(&damaged)?;
    if lines > 0 {
        tracing::error!(lines, "use that was stored is damaged; it begins anew");
    }
    Ok(())
}

pub(super) async fn number(
    primary: &Primary,
    names: &Names,
    source: SourceId,
) -> Result<u64, StoreError> {
    let mut get = redis::cmd("GET");
    get.arg(names.usage_source(source));
    let answer = primary.read(async |to| get.query_async(to).await).await?;
    if answer == Value::Nil { Ok(0) } else { reply::number(&answer) }
}

pub(super) async fn read(
    primary: &Primary,
    names: &Names,
    query: &UsageQuery,
) -> Result<Vec<UsagePoint>, StoreError> {
    let mut points = Vec::new();
    for part in chunks(query).chunks(PART) {
        points.extend(match &query.route {
            None => of_all_routes(primary, names, part).await?,
            Some(route) => of_route(primary, names, part, route).await?,
        });
    }
    let turns: HashMap<Spender, usize> =
        query.of.iter().enumerate().map(|(turn, of)| (*of, turn)).collect();
    points.sort_by(|a: &UsagePoint, b| {
        let order = |point: &UsagePoint| (turns.get(&point.of).copied(), point.start);
        order(a).cmp(&order(b)).then_with(|| a.route.cmp(&b.route))
    });
    Ok(points)
}

/// The names of routes are asked for after the hashes, and with them: a batch that comes in meanwhile may
/// bring a route, and another primary may give a number to another one.
async fn of_all_routes(
    primary: &Primary,
    names: &Names,
    part: &[ChunkOf],
) -> Result<Vec<UsagePoint>, StoreError> {
    let mut ask = redis::pipe();
    for chunk in part {
        ask.cmd("HGETALL").arg(names.usage(chunk.of, chunk.chunk));
    }
    ask.cmd("HGETALL").arg(names.usage_routes());
    let mut answers = reply::items(primary.read(async |to| ask.query_async(to).await).await?)?;
    let mut routes: HashMap<u64, Arc<str>> = HashMap::new();
    for (name, number) in reply::pairs(answers.pop().ok_or_else(|| unreadable(Malformed))?)? {
        routes.insert(reply::number(&number)?, reply::text(&name)?.into());
    }
    let mut points = Vec::new();
    for (chunk, answer) in part.iter().zip(answers) {
        for (field, line) in reply::pairs(answer)? {
            let field: u64 = reply::number(&field)?;
            let (number, place) = (field / PLACES, field % PLACES);
            // They come in order.
            if chunk.places.binary_search(&place).is_ok() {
                let route = routes.get(&number).ok_or_else(|| unreadable(Dangling("route")))?;
                points.push(chunk.point(place, route, &line)?);
            }
        }
    }
    Ok(points)
}

/// Only the route's own fields, or those of all others would be read to be thrown away. Its number is
/// asked for again with them: if it has changed, another primary took over, where those fields may be
/// another route's.
async fn of_route(
    primary: &Primary,
    names: &Names,
    part: &[ChunkOf],
    route: &str,
) -> Result<Vec<UsagePoint>, StoreError> {
    let mut ask = redis::cmd("HGET");
    ask.arg(names.usage_routes()).arg(route);
    let mut number: Value = primary.read(async |to| ask.query_async(to).await).await?;
    let route: Arc<str> = route.into();
    for _ in 0..TRIES {
        if number == Value::Nil {
            return Ok(Vec::new());
        }
        let first = PLACES * reply::number::<u64>(&number)?;
        let mut ask = redis::pipe();
        for chunk in part {
            let fields: Vec<_> = chunk.places.iter().map(|place| first + place).collect();
            ask.cmd("HMGET").arg(names.usage(chunk.of, chunk.chunk)).arg(fields);
        }
        ask.cmd("HGET").arg(names.usage_routes()).arg(&*route);
        let mut answers = reply::items(primary.read(async |to| ask.query_async(to).await).await?)?;
        let after = answers.pop().ok_or_else(|| unreadable(Malformed))?;
        if number == after {
            return points_of(part, answers, &route);
        }
        number = after;
    }
    Err(unavailable(Renumbered))
}

fn points_of(
    part: &[ChunkOf],
    answers: Vec<Value>,
    route: &Arc<str>,
) -> Result<Vec<UsagePoint>, StoreError> {
    let mut points = Vec::new();
    for (chunk, answer) in part.iter().zip(answers) {
        for (place, line) in chunk.places.iter().zip(reply::items(answer)?) {
            if line != Value::Nil {
                points.push(chunk.point(*place, route, &line)?);
            }
        }
    }
    Ok(points)
}

fn call(names: &Names, batch: &UsageBatch, keep: &Retention) -> Call<'static> {
    let rows = rows(batch);
    let uses = batch.last_uses();
    let room = 3 * rows.len() + 3 * uses.len() + 20;
    let mut call = Call::new(&ADD, &names.usage_source(batch.source), room, 30 * room);
    let remembered = keep.of_sources().div_ceil(1_000);
    call.push((names.prefix(), batch.number, u8::from(batch.after_loss), remembered));

    let kept: Vec<Step> = Step::ALL.into_iter().filter(|step| keep.of(*step) > 0).collect();
    call.push(kept.len());
    for step in kept {
        let (chunk, place) = Chunk::of(step, batch.minute);
        let forgotten = chunk.end().0.saturating_add(keep.of(step)).div_ceil(1_000);
        call.push((names.usage(Spender::Everybody, chunk), place, forgotten));
    }

    let mut routes: Vec<&str> = batch.rows.iter().map(|row| &*row.route).collect();
    routes.sort_unstable();
    routes.dedup();
    call.push(routes.len());
    routes.iter().for_each(|route| call.push(*route));
    // Lua counts from one.
    let turns: HashMap<&str, usize> = routes.into_iter().zip(1..).collect();

    call.push(rows.len());
    for ((id, route), counts) in &rows {
        let turn = turns.get(route).copied().unwrap_or(0);
        call.push((id.as_slice(), turn, encode_counts(counts)));
    }

    call.push(uses.len());
    for (key, last) in uses {
        call.push((place(key.as_u128()).as_slice(), last.at.0, encode_last(last)));
    }
    call
}

/// What is added, by key, or none for everybody, and route.
fn rows(batch: &UsageBatch) -> BTreeMap<(Vec<u8>, &str), UsageCounts> {
    let mut rows: BTreeMap<_, UsageCounts> = BTreeMap::new();
    for row in &batch.rows {
        for id in [Vec::new(), place(row.key.as_u128()).to_vec()] {
            rows.entry((id, &*row.route)).or_default().add(&row.counts);
        }
    }
    rows
}

/// Windows that are asked for and whose use lies in one hash.
struct ChunkOf {
    of: Spender,
    chunk: Chunk,
    /// The windows' places, in order.
    places: Arc<[u64]>,
}

impl ChunkOf {
    fn point(&self, place: u64, route: &Arc<str>, line: &Value) -> Result<UsagePoint, StoreError> {
        let counts = decode_counts(reply::bytes(line)?).map_err(unreadable)?;
        let (start, route) = (self.chunk.start(place), Arc::clone(route));
        Ok(UsagePoint { of: self.of, start, route, counts })
    }
}

fn chunks(query: &UsageQuery) -> Vec<ChunkOf> {
    let mut chunks: Vec<(Chunk, Vec<u64>)> = Vec::new();
    for start in query.windows() {
        let (chunk, place) = Chunk::of(query.step, start);
        match chunks.last_mut().filter(|(last, _)| *last == chunk) {
            Some((_, places)) => places.push(place),
            None => chunks.push((chunk, vec![place])),
        }
    }
    let chunks: Vec<(Chunk, Arc<[u64]>)> =
        chunks.into_iter().map(|(chunk, places)| (chunk, places.into())).collect();
    let of = |of: Spender| {
        let all = chunks.iter();
        all.map(move |(chunk, places)| ChunkOf { of, chunk: *chunk, places: Arc::clone(places) })
    };
    query.of.iter().flat_map(|spender| of(*spender)).collect()
}
