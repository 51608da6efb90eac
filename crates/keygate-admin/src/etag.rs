//! Says in answers which version of a record they show (`ETag`), and reads for which version a change is
//! meant (`If-Match`, RFC 9110 section 13.1.1).

use axum::Json;
use axum::extract::FromRequestParts;
use axum::http::header::{ETAG, IF_MATCH, LOCATION};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, StatusCode};
use keygate_store::records::Version;

use crate::problem::{Problem, ProblemCode};
use crate::registry::Expected;

/// The most tags that one request may name.
const TAGS_MAX: usize = 32;

/// A record, with its version.
pub(crate) type Tagged<A> = ([(HeaderName, String); 1], Json<A>);
/// A record that was made, with its version and its place.
pub(crate) type TaggedNew<A> = (StatusCode, [(HeaderName, String); 2], Json<A>);

pub(crate) fn tagged<A>(version: Version, answer: A) -> Tagged<A> {
    ([(ETAG, tag(version))], Json(answer))
}

pub(crate) fn tagged_new<A>(version: Version, location: String, answer: A) -> TaggedNew<A> {
    (StatusCode::CREATED, [(ETAG, tag(version)), (LOCATION, location)], Json(answer))
}

fn tag(Version(number): Version) -> String {
    format!("\"{number}\"")
}

/// The versions that a request's change is meant for.
pub(crate) struct IfMatch(pub(crate) Expected);

impl<S: Send + Sync> FromRequestParts<S> for IfMatch {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        read(&parts.headers).map(Self).ok_or_else(|| {
            let detail = format!(
                "`If-Match` is the `ETag` of an earlier answer, such as `\"3\"`, a list of at most \
                 {TAGS_MAX} of them, or `*`."
            );
            Problem::new(ProblemCode::BadRequest, detail)
        })
    }
}

fn read(headers: &HeaderMap) -> Option<Expected> {
    let lines: Option<Vec<&str>> =
        headers.get_all(IF_MATCH).iter().map(|line| line.to_str().ok()).collect();
    let lines = lines?;
    if lines.is_empty() {
        return Some(Expected::Any);
    }
    let list = lines.join(",");
    // Whichever version there is: a change to a record that is not there is refused anyway.
    if list.trim() == "*" {
        return Some(Expected::Any);
    }
    let mut versions = Vec::new();
    let (mut rest, mut tags) = (list.as_str(), 0);
    loop {
        // A list may have empty elements (RFC 9110 section 5.6.1.2).
        rest = rest.trim_start_matches([' ', '\t', ',']);
        if rest.is_empty() {
            break;
        }
        let (version, after) = read_tag(rest)?;
        tags += 1;
        versions.extend(version);
        rest = after.trim_start_matches([' ', '\t']);
        if !(rest.is_empty() || rest.starts_with(',')) {
            return None;
        }
    }
    (1..=TAGS_MAX).contains(&tags).then_some(Expected::OneOf(versions))
}

/// One tag, as a version if it is a tag of ours, and what comes after it.
fn read_tag(text: &str) -> Option<(Option<Version>, &str)> {
    // A weak tag is no name of one version, and so matches none.
    let (is_weak, text) = text.strip_prefix("W/").map_or((false, text), |rest| (true, rest));
    let (opaque, after) = text.strip_prefix('"')?.split_once('"')?;
    if opaque.bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
        return None;
    }
    let version = opaque.parse().ok().map(Version).filter(|version| {
        // One version has one tag.
        !is_weak && version.0.to_string() == opaque
    });
    Some((version, after))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn expected(lines: &[&'static str]) -> Option<Expected> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(IF_MATCH, HeaderValue::from_static(line));
        }
        read(&headers)
    }

    fn one_of(numbers: &[u64]) -> Option<Expected> {
        Some(Expected::OneOf(numbers.iter().map(|number| Version(*number)).collect()))
    }

    #[test]
    fn a_tag_names_the_version_that_it_was_made_of() {
        for number in [0, 7, u64::MAX] {
            let tag = tag(Version(number));
            assert_eq!(read_tag(&tag), Some((Some(Version(number)), "")));
        }
    }

    #[test]
    fn a_list_may_come_in_one_line_or_in_several() {
        assert_eq!(expected(&[]), Some(Expected::Any));
        assert_eq!(expected(&["*"]), Some(Expected::Any));
        assert_eq!(expected(&["\"1\""]), one_of(&[1]));
        assert_eq!(expected(&["\"1\", \"2\""]), one_of(&[1, 2]));
        assert_eq!(expected(&["\"1\"", "\"2\" ,, \"3\""]), one_of(&[1, 2, 3]));
    }

    #[test]
    fn what_is_no_tag_of_ours_matches_nothing() {
        for tag in ["W/\"1\"", "\"\"", "\"abc\"", "\"01\"", "\"+1\"", "\"1,2\"", "\"-1\""] {
            assert_eq!(expected(&[tag]), one_of(&[]), "{tag}");
        }
        assert_eq!(expected(&["\"x\", \"2\""]), one_of(&[2]));
    }

    #[test]
    fn what_is_no_list_of_tags_is_refused() {
        let many: &'static str = Box::leak(["\"1\""; TAGS_MAX + 1].join(",").into_boxed_str());
        for line in [
            "",
            ",",
            "1",
            "\"1",
            "1\"",
            "\"1\"\"2\"",
            "\"1\" \"2\"",
            "*, \"1\"",
            "w/\"1\"",
            "\"a b\"",
            many,
        ] {
            assert_eq!(expected(&[line]), None, "{line}");
        }
    }

    proptest! {
        #[test]
        fn any_list_of_versions_is_read_as_it_was_written(
            numbers in prop::collection::vec(any::<u64>(), 1..=TAGS_MAX),
            gaps in prop::collection::vec("[ \t]{0,2},[ \t,]{0,3}", TAGS_MAX),
        ) {
            let tags = numbers.iter().map(|number| tag(Version(*number)));
            let list: String = tags.zip(gaps).flat_map(|(tag, gap)| [tag, gap]).collect();
            let mut headers = HeaderMap::new();
            headers.append(IF_MATCH, HeaderValue::try_from(list).unwrap());
            prop_assert_eq!(read(&headers), one_of(&numbers));
        }

        #[test]
        fn no_text_names_more_versions_than_are_allowed(text in "[ -~]{0,300}") {
            let mut headers = HeaderMap::new();
            headers.append(IF_MATCH, HeaderValue::try_from(text).unwrap());
            if let Some(Expected::OneOf(versions)) = read(&headers) {
                prop_assert!(versions.len() <= TAGS_MAX);
            }
        }
    }
}
