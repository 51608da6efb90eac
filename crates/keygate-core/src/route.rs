//! Routes: which policy and which upstream a request falls under, by host, path and method.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::decide::{Denial, Permit};
use crate::key::Environment;
use crate::path::{PathError, matching_form, normalize};
use crate::scope::RequiredScopes;

/// One route of the configuration.
#[derive(Debug)]
pub struct Route {
    pub name: Box<str>,
    /// In the form of [`canonical_host`](crate::path::canonical_host); any host if absent.
    pub host: Option<Box<str>>,
    pub path: PathPattern,
    pub methods: Methods,
    pub access: Access,
    /// The upstream's place in the configuration's list. None if the gateway itself answers.
    pub upstream: Option<usize>,
    /// Whether a request that still runs when its key is no longer good is cut off.
    pub ends_when_revoked: bool,
}

/// Who may use a route.
#[derive(Debug, PartialEq, Eq)]
pub enum Access {
    /// Anyone, without a key.
    Public(PublicAccess),
    /// Holders of a key that meets this.
    Key(KeyAccess),
}

/// `auth = "public"`, written by an operator: the only way to a permit without a key.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct PublicAccess {}

impl PublicAccess {
    pub fn permit(&self) -> Permit {
        Permit::public()
    }
}

/// `auth = "key"`, and what the key must be.
#[derive(Debug, PartialEq, Eq)]
pub struct KeyAccess {
    pub environment: Environment,
    pub scopes: RequiredScopes,
    /// The query parameter that may carry the key, besides the headers.
    pub query_param: Option<Box<str>>,
    /// How many units of its limits a request costs. At least 1.
    pub cost: u64,
}

/// The methods that a route serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Methods {
    Any,
    Listed(Vec<Box<str>>),
}

impl Methods {
    pub(crate) fn contains(&self, method: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Listed(listed) => listed.iter().any(|one| **one == *method),
        }
    }

    fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Any, _) | (_, Self::Any) => true,
            (Self::Listed(ours), Self::Listed(_)) => ours.iter().any(|one| other.contains(one)),
        }
    }
}

/// A path as a prefix of whole segments; `{name}` stands for one segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathPattern {
    text: Box<str>,
    segments: Vec<Segment>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    Literal(Box<str>),
    Param,
}

/// A text is not a path pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPattern {
    #[error("a path begins with `/`")]
    NoLeadingSlash,
    #[error("a path is a prefix: write it without the slash at its end")]
    TrailingSlash,
    #[error("a parameter is a whole segment: `/orders/{{id}}`")]
    PartialParam,
    #[error("{0}")]
    Ambiguous(PathError),
}

impl FromStr for PathPattern {
    type Err = InvalidPattern;

    fn from_str(text: &str) -> Result<Self, InvalidPattern> {
        let rest = text.strip_prefix('/').ok_or(InvalidPattern::NoLeadingSlash)?;
        if rest.is_empty() {
            return Ok(Self { text: text.into(), segments: Vec::new() });
        }
        if rest.ends_with('/') {
            return Err(InvalidPattern::TrailingSlash);
        }
        let segments = rest.split('/').map(Segment::from_str).collect::<Result<_, _>>()?;
        Ok(Self { text: text.into(), segments })
    }
}

impl FromStr for Segment {
    type Err = InvalidPattern;

    fn from_str(text: &str) -> Result<Self, InvalidPattern> {
        let param = text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
        match param {
            Some(name) if !name.is_empty() && !name.contains(['{', '}']) => Ok(Self::Param),
            None if !text.contains(['{', '}']) => {
                // The same rules as for a request's path, or the route could never match.
                let path = format!("/{text}/");
                let normal = normalize(&path).map_err(InvalidPattern::Ambiguous)?;
                Ok(Self::Literal(matching_form(&normal).trim_matches('/').into()))
            }
            Some(_) | None => Err(InvalidPattern::PartialParam),
        }
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Two routes that a request could not choose between, by their place in the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conflict {
    pub first: usize,
    pub second: usize,
}

/// All routes, ready to be asked.
#[derive(Debug)]
pub struct RouteTable {
    routes: Vec<Route>,
    /// Sorted by host.
    by_host: Vec<(Box<str>, Node)>,
    any_host: Node,
}

/// A place in the tree of path segments. Routes live where their pattern ends.
#[derive(Debug, Default)]
struct Node {
    /// Sorted by segment.
    literals: Vec<(Box<str>, Self)>,
    param: Option<Box<Self>>,
    routes: Vec<usize>,
    /// The value of `Allow` for a method that none of the routes serves.
    allow: Option<Arc<str>>,
}

impl RouteTable {
    /// Builds the table.
    ///
    /// # Errors
    /// Every pair of routes with the same host, the same path and a method in common. Patterns
    /// that differ only in their parameters' names are the same path.
    pub fn new(routes: Vec<Route>) -> Result<Self, Vec<Conflict>> {
        let mut by_host: Vec<(Box<str>, Node)> = Vec::new();
        let mut any_host = Node::default();
        let mut conflicts = Vec::new();
        for (index, route) in routes.iter().enumerate() {
            let root = match &route.host {
                Some(host) => child(&mut by_host, host),
                None => &mut any_host,
            };
            let node = route.path.segments.iter().fold(root, |node, segment| match segment {
                Segment::Literal(text) => child(&mut node.literals, text),
                Segment::Param => node.param.get_or_insert_default(),
            });
            let methods = |other: usize| routes.get(other).map(|route| &route.methods);
            let clash = node
                .routes
                .iter()
                .find(|&&other| methods(other).is_some_and(|m| m.overlaps(&route.methods)));
            conflicts.extend(clash.map(|&first| Conflict { first, second: index }));
            node.routes.push(index);
            let served = node.routes.iter().filter_map(|&other| methods(other));
            node.allow = Some(allow_header(served));
        }
        if conflicts.is_empty() { Ok(Self { routes, by_host, any_host }) } else { Err(conflicts) }
    }

    /// The route of a request, by the most specific host and then the longest path.
    ///
    /// `host` is canonical and `path` normalised. A literal segment beats a parameter in its place.
    ///
    /// # Errors
    /// [`Denial::RouteNotFound`], or [`Denial::MethodNotAllowed`] when only the method is wrong:
    /// a shorter path's route never stands in for a longer one's.
    pub fn find(&self, host: &str, path: &str, method: &str) -> Result<&Route, Denial> {
        let place = self.place(host, path, method)?;
        self.routes.get(place).ok_or(Denial::RouteNotFound)
    }

    /// The same, as the route's place in [`routes`](Self::routes).
    ///
    /// # Errors
    /// As [`find`](Self::find).
    pub fn place(&self, host: &str, path: &str, method: &str) -> Result<usize, Denial> {
        let segments = path.get(1..).unwrap_or_default();
        let on_host = self
            .by_host
            .binary_search_by(|(name, _)| (**name).cmp(host))
            .ok()
            .and_then(|at| self.by_host.get(at))
            .and_then(|(_, root)| root.deepest(Some(segments), 0));
        let (_, node) = on_host
            .or_else(|| self.any_host.deepest(Some(segments), 0))
            .ok_or(Denial::RouteNotFound)?;
        let serves = |&place: &usize| {
            self.routes.get(place).is_some_and(|route| route.methods.contains(method))
        };
        let refusal = || Denial::MethodNotAllowed(node.allow.clone().unwrap_or_default());
        node.routes.iter().copied().find(serves).ok_or_else(refusal)
    }

    /// Every route, in the order of the configuration.
    #[must_use]
    pub fn routes(&self) -> &[Route] {
        &self.routes
    }
}

impl Node {
    /// The deepest node with routes along `rest`, and its depth. Visits each node at most once, so
    /// the cost is bounded by the configuration, not by the request.
    fn deepest(&self, rest: Option<&str>, depth: usize) -> Option<(usize, &Self)> {
        let here = (!self.routes.is_empty()).then_some((depth, self));
        let Some(rest) = rest.filter(|_| self.has_children()) else { return here };
        let (segment, after) = first_segment(rest);
        let segment = &*segment;
        let literal = self
            .literals
            .binary_search_by(|(text, _)| (**text).cmp(segment))
            .ok()
            .and_then(|at| self.literals.get(at))
            .and_then(|(_, node)| node.deepest(after, depth + 1));
        // An empty segment, after a trailing slash, is nobody's parameter.
        let param = self
            .param
            .as_deref()
            .filter(|_| !segment.is_empty())
            .and_then(|node| node.deepest(after, depth + 1));
        let below = match (literal, param) {
            (Some(literal), Some(param)) if param.0 > literal.0 => Some(param),
            (Some(literal), _) => Some(literal),
            (None, param) => param,
        };
        below.or(here)
    }

    fn has_children(&self) -> bool {
        !self.literals.is_empty() || self.param.is_some()
    }
}

/// The first segment, in the form that routes are matched by, and what follows its slash. One pass: most
/// paths go on where no route looks any more. By hand, since segments are short.
#[inline]
fn first_segment(path: &str) -> (Cow<'_, str>, Option<&str>) {
    let (mut end, mut has_escape) = (0, false);
    for byte in path.bytes().take_while(|&byte| byte != b'/') {
        has_escape |= byte == b'%';
        end += 1;
    }
    let segment = path.get(..end).unwrap_or_default();
    // No form has a slash that was not one before, so segments can be brought to it one by one.
    let segment = if has_escape { matching_form(segment) } else { Cow::Borrowed(segment) };
    (segment, path.get(end + 1..))
}

fn child<'a>(children: &'a mut Vec<(Box<str>, Node)>, name: &str) -> &'a mut Node {
    let at = match children.binary_search_by(|(text, _)| (**text).cmp(name)) {
        Ok(at) => at,
        Err(at) => {
            children.insert(at, (name.into(), Node::default()));
            at
        }
    };
    #[expect(clippy::indexing_slicing, reason = "the search found or made this place just above")]
    &mut children[at].1
}

fn allow_header<'a>(served: impl Iterator<Item = &'a Methods>) -> Arc<str> {
    let mut all: Vec<&str> = served
        .flat_map(|methods| match methods {
            Methods::Any => [].iter(),
            Methods::Listed(listed) => listed.iter(),
        })
        .map(|method| &**method)
        .collect();
    all.sort_unstable();
    all.dedup();
    all.join(", ").into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn route(name: &str, host: Option<&str>, path: &str, methods: &[&str]) -> Route {
        Route {
            name: name.into(),
            host: host.map(Into::into),
            path: path.parse().unwrap(),
            methods: match methods {
                [] => Methods::Any,
                listed => Methods::Listed(listed.iter().map(|&m| m.into()).collect()),
            },
            access: Access::Public(PublicAccess::default()),
            upstream: Some(0),
            ends_when_revoked: true,
        }
    }

    fn table() -> RouteTable {
        RouteTable::new(vec![
            route("root", None, "/", &["GET"]),
            route("orders.read", None, "/v1/orders", &["GET", "HEAD"]),
            route("orders.write", None, "/v1/orders", &["POST"]),
            route("order", None, "/v1/orders/{id}", &[]),
            route("items", None, "/v1/{kind}/x/items", &[]),
            route("export", None, "/v1/orders/export", &[]),
            route("host", Some("api.example.com"), "/v1/orders", &["GET"]),
        ])
        .unwrap()
    }

    fn check(host: &str, method: &str, path: &str, expect: &str) {
        let table = table();
        let found = match table.find(host, path, method) {
            Ok(route) => route.name.to_string(),
            Err(Denial::MethodNotAllowed(allow)) => format!("405 {allow}"),
            Err(denial) => denial.code().as_str().to_owned(),
        };
        assert_eq!(found, expect, "{method} {host}{path}");
    }

    #[test]
    fn the_longest_path_wins_and_literals_beat_parameters() {
        check("x", "GET", "/", "root");
        check("x", "GET", "/v1", "root");
        check("x", "GET", "/v1/orders", "orders.read");
        check("x", "GET", "/v1/orders/", "orders.read");
        check("x", "POST", "/v1/orders", "orders.write");
        check("x", "GET", "/v1/orders/7", "order");
        check("x", "GET", "/v1/orders/7/lines", "order");
        check("x", "GET", "/v1/orders/export", "export");
        check("x", "GET", "/v1/orders/exports", "order");
        check("x", "GET", "/v1/orders/x/items", "items");
        check("x", "GET", "/v1/other/x/items", "items");
    }

    #[test]
    fn a_stricter_route_is_not_passed_by_spelling_it_otherwise() {
        let routes =
            || vec![route("all", None, "/v1", &[]), route("verb", None, "/v1/orders:delete", &[])];
        let table = RouteTable::new(routes()).unwrap();
        for path in ["/v1/orders:delete", "/v1/orders%3Adelete", "/v1/orders:delete/x"] {
            assert_eq!(
                table.find("x", path, "GET").map(|route| &*route.name),
                Ok("verb"),
                "{path}"
            );
        }
    }

    #[test]
    fn each_segment_is_matched_by_its_own_form() {
        let routes = vec![
            route("all", None, "/", &[]),
            route("deep", None, "/a:b/{id}/c@d", &[]),
            route("escape", None, "/a:b/%25/x", &[]),
        ];
        let table = RouteTable::new(routes).unwrap();
        let name = |path| table.find("x", path, "GET").map(|route| &*route.name);
        for path in ["/a:b/1/c@d", "/a%3Ab/1%20%2B/c%40d", "/a%3Ab/%25/c@d/%40", "/a:b/%3A/c%40d/"]
        {
            assert_eq!(name(path), Ok("deep"), "{path}");
        }
        for path in ["/a:b/%25/x", "/a%3Ab/%25/x/%3A"] {
            assert_eq!(name(path), Ok("escape"), "{path}");
        }
        for path in ["/a%25b/1/c@d", "/a%20b/1/c@d", "/a:b%3A/1/c@d", "/a%3Ab//c@d"] {
            assert_eq!(name(path), Ok("all"), "{path}");
        }
    }

    #[test]
    fn segments_are_whole() {
        check("x", "GET", "/v1/ordersabc", "root");
        check("x", "GET", "/v1/orders.json", "root");
    }

    #[test]
    fn a_wrong_method_never_falls_back_to_a_shorter_path() {
        check("x", "DELETE", "/v1/orders", "405 GET, HEAD, POST");
        check("x", "POST", "/elsewhere", "405 GET");
    }

    #[test]
    fn a_named_host_goes_first_and_falls_back_only_where_it_has_no_path() {
        check("api.example.com", "GET", "/v1/orders/7", "host");
        check("api.example.com", "POST", "/v1/orders", "405 GET");
        check("api.example.com", "GET", "/v2", "root");
    }

    #[test]
    fn no_match_is_not_found() {
        let table = RouteTable::new(vec![route("a", None, "/a", &[])]).unwrap();
        assert_eq!(table.find("x", "/b", "GET").err(), Some(Denial::RouteNotFound));
    }

    #[test]
    fn routes_that_cannot_be_told_apart_are_conflicts() {
        let conflicts = |routes| RouteTable::new(routes).err();
        let pair = |a: (&str, &[&str]), b: (&str, &[&str])| {
            conflicts(vec![route("a", None, a.0, a.1), route("b", None, b.0, b.1)])
        };
        let both = Some(vec![Conflict { first: 0, second: 1 }]);
        assert_eq!(pair(("/a", &["GET"]), ("/a", &["POST", "GET"])), both);
        assert_eq!(pair(("/a/{x}", &[]), ("/a/{y}", &["GET"])), both);
        assert_eq!(pair(("/a/%62", &[]), ("/a/b", &[])), both);
        assert_eq!(pair(("/a/%3a", &[]), ("/a/:", &[])), both);
        assert_eq!(pair(("/a", &["GET"]), ("/a", &["POST"])), None);
        assert_eq!(pair(("/a/{x}", &[]), ("/a/b", &[])), None);
    }

    #[test]
    fn what_is_not_a_pattern_is_refused() {
        for wrong in ["", "a", "/a/", "/a//b", "/a/../b", "/a/x{id}", "/a/{}", "/a/{x}{y}", "/a;b"]
        {
            assert!(wrong.parse::<PathPattern>().is_err(), "{wrong}");
        }
    }

    /// What the tree does, said slowly: try every route, keep the best.
    fn naive<'a>(routes: &'a [Route], path: &str) -> Option<&'a str> {
        let segments: Vec<&str> = path.split('/').skip(1).collect();
        let matches = |route: &Route| {
            route.path.segments.len() <= segments.len()
                && route.path.segments.iter().zip(&segments).all(|(pattern, given)| match pattern {
                    Segment::Literal(text) => **text == **given,
                    Segment::Param => !given.is_empty(),
                })
        };
        let rank = |route: &&Route| {
            let literal = |s: &Segment| matches!(s, Segment::Literal(_));
            (route.path.segments.len(), route.path.segments.iter().map(literal).collect::<Vec<_>>())
        };
        routes.iter().filter(|route| matches(route)).max_by_key(rank).map(|route| &*route.name)
    }

    proptest! {
        #[test]
        fn the_tree_agrees_with_the_naive_matcher(
            patterns in prop::collection::btree_set("(/([ab]|\\{p\\})){1,4}", 1..12),
            path in "(/[abc]){1,5}/?",
        ) {
            let routes = || patterns.iter().map(|p| route(p, None, p, &[])).collect::<Vec<_>>();
            let table = RouteTable::new(routes()).unwrap();
            let found = table.find("x", &path, "GET").ok().map(|route| &*route.name);
            prop_assert_eq!(found, naive(table.routes(), &path));
        }
    }
}
