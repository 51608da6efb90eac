//! Did you mean: the known word that is closest to one that is not.

/// Longer words are not typed by hand, and comparing them costs the product of the lengths.
const WORD_BYTES_MAX: usize = 64;
/// So that ten thousand mistakes against ten thousand names stay cheap.
const CANDIDATES_MAX: usize = 1_000;

/// The candidate that `word` was probably meant to be, if any is close enough.
pub(crate) fn nearest<'a>(
    word: &str,
    candidates: impl Iterator<Item = &'a str>,
) -> Option<&'a str> {
    if word.len() > WORD_BYTES_MAX {
        return None;
    }
    let word = word.to_ascii_lowercase();
    let distance =
        |candidate: &str| strsim::damerau_levenshtein(&word, &candidate.to_ascii_lowercase());
    let (distance, candidate) = candidates
        .take(CANDIDATES_MAX)
        .filter(|candidate| candidate.len() <= WORD_BYTES_MAX)
        .map(|candidate| (distance(candidate), candidate))
        .min_by_key(|&(distance, _)| distance)?;
    // One slip in three letters still looks like the word that was meant.
    (distance <= word.chars().count().div_ceil(3)).then_some(candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(word: &str, expect: Option<&str>) {
        let known = ["listen", "threads", "headers_max", "GET", "body_bytes_max"];
        assert_eq!(nearest(word, known.into_iter()), expect, "{word}");
    }

    #[test]
    fn slips_are_recognised_and_other_words_are_not() {
        check("lisen", Some("listen"));
        check("max_headers", None);
        check("header_max", Some("headers_max"));
        check("get", Some("GET"));
        check("workers", None);
        check("", None);
        check(&"listen".repeat(100), None);
    }
}
