//! Scopes: what a key may do, `action:resource`, and what a route asks for.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The longest scope, in bytes.
pub const SCOPE_LENGTH_MAX: usize = 64;
/// The most scopes on one key, app or route.
pub const SCOPES_MAX: usize = 64;

/// One right: `action:resource`, or `action:*` for the action on every resource.
///
/// `admin:x` implies `read:x` and `write:x`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Scope(Box<str>);

/// A text is not a scope.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a scope: write `action:resource`, such as `read:orders`, or `read:*`; \
     lower-case letters, digits, `_`, `-` and `.`, at most 64 characters"
)]
pub struct InvalidScope;

impl FromStr for Scope {
    type Err = InvalidScope;

    fn from_str(text: &str) -> Result<Self, InvalidScope> {
        let (action, resource) = text.split_once(':').ok_or(InvalidScope)?;
        let fits = text.len() <= SCOPE_LENGTH_MAX
            && is_word(action)
            && (resource == "*" || is_word(resource));
        if fits { Ok(Self(text.into())) } else { Err(InvalidScope) }
    }
}

fn is_word(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && text.bytes().all(|b| {
            b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-' | b'.')
        })
}

impl Scope {
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn parts(&self) -> (&str, &str) {
        self.0.split_once(':').unwrap_or((&self.0, ""))
    }

    /// The scope and what it implies.
    fn expanded(&self) -> impl Iterator<Item = Self> {
        let implied: &[&str] = match self.parts() {
            ("admin", _) => &["read", "write"],
            _ => &[],
        };
        let (_, resource) = self.parts();
        std::iter::once(self.clone()).chain(
            implied.iter().map(move |action| Self(format!("{action}:{resource}").into_boxed_str())),
        )
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// A set of scopes with everything they imply written out, as one text: sorted, space-separated.
///
/// One text, because that is what the upstream is sent, and because a million cached keys hold one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScopeSet(Arc<str>);

impl ScopeSet {
    /// The set of `scopes` and all that they imply.
    pub fn new<'a>(scopes: impl IntoIterator<Item = &'a Scope>) -> Self {
        let mut all: Vec<Scope> = scopes.into_iter().flat_map(Scope::expanded).collect();
        all.sort();
        all.dedup();
        let texts: Vec<&str> = all.iter().map(Scope::as_str).collect();
        Self(texts.join(" ").into())
    }

    /// What both sets allow.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let ours = self.iter().filter(|scope| other.allows_text(scope));
        let theirs = other.iter().filter(|scope| self.allows_text(scope));
        let mut both: Vec<&str> = ours.chain(theirs).collect();
        both.sort_unstable();
        both.dedup();
        Self(both.join(" ").into())
    }

    /// The same set, with its text as somebody keeps it for all who have the same.
    #[must_use]
    pub fn shared(self, keep: impl FnOnce(Arc<str>) -> Arc<str>) -> Self {
        let text = keep(Arc::clone(&self.0));
        if *text == *self.0 { Self(text) } else { self }
    }

    /// Whether the set holds `scope` or its action on every resource.
    #[must_use]
    pub fn allows(&self, scope: &Scope) -> bool {
        self.allows_text(scope.as_str())
    }

    fn allows_text(&self, scope: &str) -> bool {
        let scope = scope.as_bytes();
        let action = scope.split(|&byte| byte == b':').next().unwrap_or(scope);
        // Bytes, because a search for a short text costs more to set up than to do.
        self.0.as_bytes().split(|&byte| byte == b' ').any(|held| {
            held == scope || held.strip_suffix(b":*").is_some_and(|held| held == action)
        })
    }

    /// Whether every scope of `other` is allowed here.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        other.iter().all(|scope| self.allows_text(scope))
    }

    fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.split(' ').filter(|scope| !scope.is_empty())
    }

    /// Sorted and space-separated, as RFC 6749 section 3.3 writes scopes.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What a route asks for: every one of `all`, and at least one of `any` unless that is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequiredScopes {
    pub all: Vec<Scope>,
    pub any: Vec<Scope>,
}

impl RequiredScopes {
    #[must_use]
    pub fn are_met_by(&self, held: &ScopeSet) -> bool {
        self.all.iter().all(|scope| held.allows(scope))
            && (self.any.is_empty() || self.any.iter().any(|scope| held.allows(scope)))
    }

    /// Every scope that is named, for the refusal that lists them.
    pub fn iter(&self) -> impl Iterator<Item = &Scope> {
        self.all.iter().chain(&self.any)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn scope(text: &str) -> Scope {
        text.parse().unwrap()
    }

    fn set(text: &str) -> ScopeSet {
        let scopes: Vec<Scope> = text.split_whitespace().map(scope).collect();
        ScopeSet::new(&scopes)
    }

    fn check(held: &str, wanted: &str, allowed: bool) {
        assert_eq!(set(held).allows(&scope(wanted)), allowed, "{held} / {wanted}");
    }

    #[test]
    fn a_scope_allows_itself_and_what_it_implies() {
        check("read:orders", "read:orders", true);
        check("read:orders", "write:orders", false);
        check("read:orders", "read:order", false);
        check("read:order", "read:orders", false);
        check("admin:orders", "read:orders", true);
        check("admin:orders", "write:orders", true);
        check("admin:orders", "delete:orders", false);
        check("read:*", "read:orders", true);
        check("read:*", "read:*", true);
        check("read:*", "write:orders", false);
        check("read:orders", "read:*", false);
        check("admin:*", "write:orders", true);
        check("", "read:orders", false);
    }

    #[test]
    fn what_is_not_a_scope_is_refused() {
        for wrong in [
            "",
            "read",
            ":",
            "read:",
            ":orders",
            "*:orders",
            "read:or ders",
            "Read:orders",
            "read:a:b",
            "read:**",
            "read:-",
        ] {
            assert!(wrong.parse::<Scope>().is_err(), "{wrong}");
        }
        assert!(format!("read:{}", "a".repeat(60)).parse::<Scope>().is_err());
    }

    fn any_scopes() -> impl Strategy<Value = Vec<Scope>> {
        let action = prop::sample::select(vec!["read", "write", "admin", "run"]);
        let resource = prop::sample::select(vec!["*", "a", "b", "c"]);
        let one = (action, resource).prop_map(|(a, r)| scope(&format!("{a}:{r}")));
        prop::collection::vec(one, 0..6)
    }

    proptest! {
        /// The intersection of a key's and an app's scopes allows exactly what both allow.
        #[test]
        fn the_intersection_allows_what_both_allow(
            key in any_scopes(), app in any_scopes(), wanted in any_scopes(),
        ) {
            let (key, app) = (ScopeSet::new(&key), ScopeSet::new(&app));
            let both = key.intersection(&app);
            for scope in &wanted {
                prop_assert_eq!(both.allows(scope), key.allows(scope) && app.allows(scope));
            }
        }

        /// Taking scopes away never opens a route.
        #[test]
        fn fewer_scopes_never_meet_more(
            held in any_scopes(), all in any_scopes(), any in any_scopes(), kept in 0usize..6,
        ) {
            let required = RequiredScopes { all, any };
            let fewer = ScopeSet::new(held.iter().take(kept));
            let more = ScopeSet::new(&held);
            prop_assert!(!required.are_met_by(&fewer) || required.are_met_by(&more));
        }
    }
}
