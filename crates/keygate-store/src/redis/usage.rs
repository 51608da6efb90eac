//! What keys have used. A hash for each key and run of windows, of a line for each window and route: one
//! is a few dozen bytes, and Redis itself forgets the hash when it is old. A batch is one script.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, LazyLock};

use redis::{Script, Value};

use super::layout::{Chunk, Names, place};
use super::primary::{Primary, Written};
use super::reply::{self, Malformed, unreadable};
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
    let routes = routes(primary, names, query.route.as_deref()).await?;
    let hashes = hashes(query);
    if routes.is_empty() || hashes.is_empty() {
        return Ok(Vec::new());
    }
    // Of one route only its own fields, or those of all others would be read to be thrown away.
    let of_route = query.route.as_ref().and_then(|_| routes.keys().next().copied());
    let mut points = Vec::new();
    for part in hashes.chunks(PART) {
        let mut ask = redis::pipe();
        for (of, chunk, places) in part {
            let name = names.usage(*of, *chunk);
            match of_route {
                None => ask.cmd("HGETALL").arg(name),
                Some(route) => {
                    let fields: Vec<_> = places.iter().map(|at| route * PLACES + at).collect();
                    ask.cmd("HMGET").arg(name).arg(fields)
                }
            };
        }
        let answers = primary.read(async |to| ask.query_async(to).await).await?;
        for ((of, chunk, places), answer) in part.iter().zip(reply::items(answers)?) {
            let lines = lines(answer, of_route, places)?;
            let chunk = ChunkOf { of: *of, chunk: *chunk, places };
            chunk.points(&lines, &routes, &mut points)?;
        }
    }
    let turns: HashMap<Spender, usize> =
        query.of.iter().enumerate().map(|(turn, of)| (*of, turn)).collect();
    points.sort_by(|a: &UsagePoint, b| {
        let order = |point: &UsagePoint| (turns.get(&point.of).copied(), point.start);
        order(a).cmp(&order(b)).then_with(|| a.route.cmp(&b.route))
    });
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

/// The names of routes by their numbers: of one, or of all.
async fn routes(
    primary: &Primary,
    names: &Names,
    wanted: Option<&str>,
) -> Result<HashMap<u64, Arc<str>>, StoreError> {
    let mut ask = redis::cmd(if wanted.is_some() { "HGET" } else { "HGETALL" });
    ask.arg(names.usage_routes()).arg(wanted);
    let answer = primary.read(async |to| ask.query_async(to).await).await?;
    if let Some(route) = wanted {
        let is_known = answer != Value::Nil;
        let number = is_known.then(|| reply::number(&answer)).transpose()?;
        return Ok(number.map(|number| (number, route.into())).into_iter().collect());
    }
    let pairs = reply::pairs(answer)?.into_iter();
    pairs.map(|(name, number)| Ok((reply::number(&number)?, reply::text(&name)?.into()))).collect()
}

/// The hashes that hold what is asked for, each with the places of the windows in it.
fn hashes(query: &UsageQuery) -> Vec<(Spender, Chunk, Vec<u64>)> {
    let mut chunks: Vec<(Chunk, Vec<u64>)> = Vec::new();
    for start in query.windows() {
        let (chunk, place) = Chunk::of(query.step, start);
        match chunks.last_mut().filter(|(last, _)| *last == chunk) {
            Some((_, places)) => places.push(place),
            None => chunks.push((chunk, vec![place])),
        }
    }
    let of_all = query
        .of
        .iter()
        .flat_map(|of| chunks.iter().map(|(chunk, places)| (*of, *chunk, places.clone())));
    of_all.collect()
}

/// What a hash answered: its fields with their lines.
fn lines(
    answer: Value,
    of_route: Option<u64>,
    places: &[u64],
) -> Result<Vec<(u64, Value)>, StoreError> {
    if let Some(route) = of_route {
        let fields = places.iter().map(|at| route * PLACES + at).zip(reply::items(answer)?);
        return Ok(fields.filter(|(_, line)| *line != Value::Nil).collect());
    }
    let pairs = reply::pairs(answer)?.into_iter();
    pairs.map(|(field, line)| Ok((reply::number(&field)?, line))).collect()
}

struct ChunkOf<'a> {
    of: Spender,
    chunk: Chunk,
    /// Those asked for.
    places: &'a [u64],
}

impl ChunkOf<'_> {
    fn points(
        &self,
        lines: &[(u64, Value)],
        routes: &HashMap<u64, Arc<str>>,
        points: &mut Vec<UsagePoint>,
    ) -> Result<(), StoreError> {
        for (field, line) in lines {
            let place = field % PLACES;
            // They come in order.
            if self.places.binary_search(&place).is_err() {
                continue;
            }
            let route = routes.get(&(field / PLACES)).ok_or_else(|| unreadable(Malformed))?;
            points.push(UsagePoint {
                of: self.of,
                start: self.chunk.start(place),
                route: Arc::clone(route),
                counts: decode_counts(reply::bytes(line)?).map_err(unreadable)?,
            });
        }
        Ok(())
    }
}
