//! What must hold whatever bytes come: run by the fuzz targets of `fuzz/`, and by every test run over
//! their corpus. Each panics where it does not.

use crate::chunks::{BadChunks, Chunks};
use crate::credential::{CredentialRules, ImportedRules, Place, Places, Source, nothing_known};
use crate::decide::Denial;
use crate::key::{
    Brand, Environment, KeyKind, MintedKey, Pepper, Peppers, PresentedKey, has_our_shape,
    holds_our_shape,
};
use crate::path::{canonical_host, normalize};
use crate::route::{Access, Methods, PathPattern, PublicAccess, Route, RouteTable};

/// A request's places: the first byte says which rules hold, and each line what is in a place: `a` in
/// `Authorization`, `x` in `X-API-Key`, `f` in a further header, `q` in the query.
pub fn credential(data: &[u8]) {
    let Some((&flags, rest)) = data.split_first() else { return };
    let on = |bit: u8| if flags & bit == 0 { Source::On } else { Source::Off };
    let imported = ImportedRules { headers: Box::from(["x-old-key".into()]) };
    let rules = CredentialRules {
        bearer: on(1),
        basic: on(2),
        x_api_key: on(4),
        brand: (flags & 8 != 0).then(brand),
        imported: (flags & 16 != 0).then_some(imported),
    };
    let values = |place: u8| {
        let lines = rest.split(|byte| *byte == b'\n');
        lines.filter_map(move |line| line.split_first().filter(|(one, _)| **one == place))
    };
    let values = |place: u8| values(place).map(|(_, value)| value);
    let further = || values(b'f').filter(|_| rules.imported.is_some());
    let query = values(b'q').next().and_then(|query| str::from_utf8(query).ok());
    let found = rules.extract(
        &mut nothing_known,
        Places {
            authorization: values(b'a'),
            x_api_key: values(b'x'),
            further: further().map(|value| (0, value)),
            query: query.map(|query| (query, "api_key")),
        },
    );
    let Ok(found) = found else { return };
    assert!(values(b'a').count() < 2 && values(b'x').count() < 2, "one was chosen of several");
    let holds = |value: &&[u8]| holds_our_shape(value.trim_ascii());
    let held = values(b'a').chain(values(b'x')).chain(further()).filter(holds).count();
    assert!(held < 2, "one was chosen of several");
    let in_authorization = values(b'a').any(CredentialRules::authorization_is_ours);
    assert!(
        !in_authorization || found.place == Place::Authorization,
        "a key is left in Authorization"
    );
}

/// A credential: no text but one of the right shape is a key, and none is one of ours that we have not
/// made. The first 32 bytes make one that is.
pub fn key(data: &[u8]) {
    let brand = brand();
    let peppers = Peppers::new(Pepper::new(&[7; 32]), vec![Pepper::new(&[8; 32])]);
    for brand in [None, Some(&brand)] {
        if let Ok(key) = PresentedKey::parse(data, brand) {
            assert!(has_our_shape(data, brand) && holds_our_shape(data) && data.is_ascii());
            assert_eq!(peppers.identify(&key), peppers.identify(&key), "two names for a key");
        }
        if let Some(entropy) = data.first_chunk::<32>() {
            let (kind, environment) = (KeyKind::Secret, Environment::Live);
            let minted = MintedKey::mint(kind, environment, brand, peppers.current(), entropy);
            let digest = minted.digest;
            let text = minted.reveal();
            let key = PresentedKey::parse(text.as_bytes(), brand).ok();
            let known = key.and_then(|key| peppers.identify(&key));
            assert_eq!(known, Some(digest), "a key of ours is not known");
        }
    }
}

/// A path, a method and a host, a line each, and then a route in each line: host, methods and path
/// between spaces, `-` for any. The router sends the request where a plain reading of both sends it.
pub fn route(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let mut lines = text.lines();
    let mut next = || lines.next().unwrap_or_default();
    let (path, method, host) = (next(), next(), next());
    let asked: Vec<Asked<'_>> = lines.filter_map(Asked::read).collect();
    let Ok(table) = RouteTable::new(asked.iter().map(Asked::route).collect()) else { return };
    let (Ok(normal), Ok(host)) = (normalize(path), canonical_host(host)) else { return };
    assert_eq!(normalize(&normal).as_deref(), Ok(&*normal), "a second reading differs");
    assert_eq!(segments(&normal), segments(path), "the normal path is another");
    let found = match table.find(&host, &normal, method) {
        Ok(route) => Some(&*route.name),
        Err(Denial::MethodNotAllowed(_)) => None,
        Err(denial) => {
            assert_eq!(denial, Denial::RouteNotFound);
            Some("")
        }
    };
    assert_eq!(found, reference(&asked, &host, path, method), "another route");
}

fn brand() -> Brand {
    let Ok(brand) = "acme".parse() else { unreachable!("it is a brand") };
    brand
}

/// A route as it is written down.
struct Asked<'a> {
    line: &'a str,
    host: Option<&'a str>,
    methods: Vec<&'a str>,
    path: &'a str,
    pattern: PathPattern,
}

impl<'a> Asked<'a> {
    fn read(line: &'a str) -> Option<Self> {
        let mut words = line.split(' ');
        let (host, methods, path) = (words.next()?, words.next()?, words.next()?);
        let host = Some(host).filter(|host| *host != "-");
        if host.is_some_and(|host| canonical_host(host).ok().as_deref() != Some(host)) {
            return None;
        }
        let methods = methods.split(',').filter(|method| *method != "-").collect();
        Some(Self { line, host, methods, path, pattern: path.parse().ok()? })
    }

    fn route(&self) -> Route {
        let listed = || self.methods.iter().map(|method| Box::from(*method)).collect();
        Route {
            name: self.line.into(),
            host: self.host.map(Box::from),
            path: self.pattern.clone(),
            methods: if self.methods.is_empty() { Methods::Any } else { Methods::Listed(listed()) },
            access: Access::Public(PublicAccess {}),
            upstream: Some(0),
            ends_when_revoked: true,
        }
    }

    /// The pattern's segments, decoded; nothing for a parameter.
    fn parts(&self) -> Vec<Option<Vec<u8>>> {
        let is_param = |segment: &str| segment.starts_with('{');
        let split = self.path.split('/').skip(1).filter(|segment| !segment.is_empty());
        split.map(|segment| (!is_param(segment)).then(|| decoded(segment))).collect()
    }
}

/// The name of the route that a request belongs to, empty if it belongs to none, and nothing if its
/// method is wrong: by looking at each route in turn.
fn reference<'a>(asked: &[Asked<'a>], host: &str, path: &str, method: &str) -> Option<&'a str> {
    let request = segments(path);
    let fits = |one: &&Asked<'a>| {
        let parts = one.parts();
        parts.len() <= request.len()
            && parts.iter().zip(&request).all(|(part, segment)| match part {
                Some(literal) => literal == segment,
                None => !segment.is_empty(),
            })
    };
    // The longest, and of those the one with a literal where others first have a parameter.
    let rank = |one: &&Asked<'a>| {
        let parts = one.parts();
        (parts.len(), parts.iter().map(Option::is_some).collect::<Vec<bool>>())
    };
    let best =
        |on: Option<&str>| asked.iter().filter(|one| one.host == on).filter(fits).max_by_key(rank);
    let Some(best) = best(Some(host)).or_else(|| best(None)) else { return Some("") };
    let is_same = |one: &&Asked<'a>| one.host == best.host && one.parts() == best.parts();
    let mut same = asked.iter().filter(is_same);
    let serves = |one: &&Asked<'a>| one.methods.is_empty() || one.methods.contains(&method);
    same.find(serves).map(|one| one.line)
}

/// A path's segments, every escape of which is decoded.
fn segments(path: &str) -> Vec<Vec<u8>> {
    path.split('/').skip(1).map(decoded).collect()
}

fn decoded(segment: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = segment.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let digits = after.split_at_checked(2).filter(|_| byte == b'%');
        let number = digits.and_then(|(digits, rest)| {
            let digits = str::from_utf8(digits).ok()?;
            Some((u8::from_str_radix(digits, 16).ok()?, rest))
        });
        let (byte, next) = number.unwrap_or((byte, after));
        bytes.push(byte);
        rest = next;
    }
    bytes
}

/// A body in chunks: the first byte says how long the pieces are in which it comes, 0 that it comes whole.
/// It ends where a plain reading of the whole has its end, or nowhere, however it comes.
pub fn chunks(data: &[u8]) {
    let Some((&piece, body)) = data.split_first() else { return };
    let whole = Chunks::default().advance(body);
    assert_eq!(whole.ok().flatten(), end_of_chunks(body), "{whole:?}");
    let pieces = body.chunks(usize::from(piece).max(1));
    assert_eq!(in_pieces(pieces), whole);
    if let Ok(Some(end)) = whole {
        assert_eq!(in_pieces([body.get(..end).unwrap_or_default()].into_iter()), whole);
        let all_but_one = body.get(..end - 1).unwrap_or_default();
        assert_eq!(Chunks::default().advance(all_but_one), Ok(None));
    }
}

fn in_pieces<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Result<Option<usize>, BadChunks> {
    let mut chunks = Chunks::default();
    let mut before = 0;
    for piece in pieces {
        match chunks.advance(piece) {
            Ok(None) => before += piece.len(),
            Ok(Some(end)) => {
                assert_eq!(chunks.advance(b"more"), Ok(Some(0)), "an end is one");
                return Ok(Some(before + end));
            }
            Err(fault) => {
                assert_eq!(chunks.advance(b"0\r\n\r\n"), Err(fault), "a fault stays one");
                return Err(fault);
            }
        }
    }
    Ok(None)
}

/// The end of a body in chunks, read line by line.
fn end_of_chunks(body: &[u8]) -> Option<usize> {
    let is_text = |byte: &u8| matches!(byte, b'\t' | b' '..=b'~' | 0x80..);
    let mut rest = body;
    loop {
        let (line, behind) = first_line(rest)?;
        let at = line.iter().position(|byte| b" \t;".contains(byte)).unwrap_or(line.len());
        let (digits, extension) = line.split_at(at);
        let is_size = (1..=15).contains(&digits.len()) && digits.iter().all(u8::is_ascii_hexdigit);
        let named = extension.trim_ascii_start();
        let is_extension = named.is_empty() || named.starts_with(b";");
        if !is_size || !is_extension || extension.len() > 256 || !extension.iter().all(is_text) {
            return None;
        }
        let size = usize::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()?;
        if size == 0 {
            rest = behind;
            break;
        }
        rest = behind.get(size..)?.strip_prefix(b"\r\n")?;
    }
    let mut trailers = 0;
    let section = rest;
    loop {
        let (line, behind) = first_line(rest)?;
        if line.is_empty() {
            return Some(body.len() - behind.len());
        }
        let colon = line.iter().position(|byte| *byte == b':')?;
        let (name, value) = line.split_at(colon);
        let is_token =
            |byte: &u8| byte.is_ascii_graphic() && !b"\"(),/:;<=>?@[\\]{}".contains(byte);
        trailers += 1;
        let bytes = section.len() - behind.len();
        let is_bounded = trailers <= 64 && bytes <= 8192;
        if name.is_empty()
            || !name.iter().all(is_token)
            || !value.iter().all(is_text)
            || !is_bounded
        {
            return None;
        }
        rest = behind;
    }
}

fn first_line(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = bytes.windows(2).position(|two| two == b"\r\n")?;
    Some((bytes.get(..at)?, bytes.get(at + 2..)?))
}

#[cfg(test)]
#[path = "../../../fuzz/smoke.rs"]
mod smoke;

#[cfg(test)]
mod tests {
    use super::smoke::replay;
    use super::*;

    #[test]
    fn one_credential_at_most_is_found() {
        replay("credential", 20_000, credential);
    }

    #[test]
    fn a_body_in_chunks_has_one_end_however_it_comes() {
        replay("chunks", 20_000, chunks);
    }

    #[test]
    fn keys_are_what_was_made() {
        replay("key", 2_000, key);
    }

    #[test]
    fn the_router_and_a_plain_reading_agree() {
        replay("route", 20_000, route);
    }
}
