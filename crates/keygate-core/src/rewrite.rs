//! The path that an upstream is asked for: the request's own, with its front taken off and another put
//! before what is left.

use std::borrow::Cow;

/// What a route does to paths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathRewrite {
    /// Segments that go. Counted and not compared: the route has matched them already, and a client may
    /// spell them otherwise (`%3A` for `:`).
    segments_off: usize,
    /// Begins with a slash and ends without one, or is empty.
    front: Box<str>,
}

impl PathRewrite {
    /// Both are whole segments of a normalised path, without a slash at the end; `strip` is what the
    /// route's own path begins with. Nothing if there is nothing to do.
    #[must_use]
    pub fn new(strip: Option<&str>, add: Option<&str>) -> Option<Self> {
        if strip.is_none() && add.is_none() {
            return None;
        }
        let segments = |path: &str| path.bytes().filter(|&byte| byte == b'/').count();
        Some(Self {
            segments_off: strip.map_or(0, segments),
            front: add.unwrap_or_default().into(),
        })
    }

    /// Rewrites a normalised path that the route has matched. What comes out is as normal as what went
    /// in.
    #[must_use]
    pub fn apply<'a>(&self, path: &'a str) -> Cow<'a, str> {
        let mut slashes = path.bytes().enumerate().filter(|&(_, byte)| byte == b'/');
        let rest = slashes.nth(self.segments_off).and_then(|(at, _)| path.get(at..));
        match (rest.unwrap_or_default(), &*self.front) {
            ("", "") => Cow::Borrowed("/"),
            (rest, "") => Cow::Borrowed(rest),
            // "/" alone is the whole of a site, not a segment with a slash after it.
            ("/", front) if path == "/" => Cow::Owned(front.to_owned()),
            (rest, front) => Cow::Owned(format!("{front}{rest}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::path::normalize;

    fn check(strip: Option<&str>, add: Option<&str>, path: &str, expect: &str) {
        let rewrite = PathRewrite::new(strip, add).unwrap();
        assert_eq!(rewrite.apply(path), expect, "-{strip:?} +{add:?} {path}");
    }

    #[test]
    fn a_front_is_taken_off_and_another_put_before_the_rest() {
        check(Some("/v1"), None, "/v1/orders/7", "/orders/7");
        check(Some("/v1/orders"), None, "/v1/orders/7", "/7");
        check(Some("/v1"), Some("/internal/api"), "/v1/orders", "/internal/api/orders");
        check(None, Some("/internal"), "/v1/orders", "/internal/v1/orders");
        assert_eq!(PathRewrite::new(None, None), None);
    }

    #[test]
    fn what_is_left_of_a_path_that_is_taken_off_whole_is_the_root() {
        check(Some("/v1"), None, "/v1", "/");
        check(Some("/v1"), None, "/v1/", "/");
        check(Some("/v1"), Some("/x"), "/v1", "/x");
        check(Some("/v1"), Some("/x"), "/v1/", "/x/");
        check(None, Some("/x"), "/", "/x");
    }

    #[test]
    fn segments_go_however_they_are_spelt() {
        check(Some("/v1:x"), None, "/v1%3Ax/orders", "/orders");
        check(Some("/v1"), None, "/v1/v1/v1", "/v1/v1");
    }

    proptest! {
        /// One clean path: no parser behind the gateway may read it otherwise than the gateway did.
        #[test]
        fn what_comes_out_is_normal(
            strip in proptest::option::of("(/[a-c]{1,2}){1,3}"),
            add in proptest::option::of("(/[a-c.~]{1,3}){1,3}"),
            rest in "(/[a-c%:.]{0,3}){0,4}",
        ) {
            prop_assume!(add.as_deref().is_none_or(|add| normalize(add).is_ok()));
            let path = format!("{}{rest}", strip.as_deref().unwrap_or_default());
            let Some(rewrite) = PathRewrite::new(strip.as_deref(), add.as_deref()) else {
                return Ok(());
            };
            if let Ok(path) = normalize(&path) {
                let rewritten = rewrite.apply(&path);
                let again = normalize(&rewritten);
                prop_assert_eq!(again.as_deref(), Ok(&*rewritten));
                prop_assert!(rewritten.starts_with(add.as_deref().unwrap_or("/")));
            }
        }

        #[test]
        fn any_path_is_answered(off in "(/[a-z]{1,2}){0,5}", path in "\\PC{0,20}") {
            let rewrite = PathRewrite::new(Some(&off), None).unwrap();
            prop_assert!(rewrite.apply(&path).starts_with('/'));
        }
    }
}
