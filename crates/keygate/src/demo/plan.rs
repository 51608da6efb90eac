//! Which route the demo calls, and with which scopes: read from the configuration, so that the
//! calls work with any that has a route to show. Pure.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use keygate_config::{Config, Target};
use keygate_core::route::{KeyAccess, Methods};
use keygate_core::{Access, Environment, Route, Scope, ScopeSet};

/// The calls to show.
pub(super) struct Plan<'a> {
    route: &'a Route,
    /// Where the sample upstream stands in for the real one.
    pub(super) upstream: SocketAddr,
    pub(super) environment: Environment,
    /// What the key that may make the call holds.
    pub(super) enough: Vec<Scope>,
    /// What the key that may not holds; nothing if any key may.
    pub(super) not_enough: Option<Scope>,
}

impl<'a> Plan<'a> {
    /// Picks the first route that a GET with a key can show, scopes preferred.
    pub(super) fn of(config: &'a Config) -> Result<Self, String> {
        let keyed = || config.routes.routes().iter().filter_map(shows);
        let (route, access) = keyed()
            .find(|(_, access)| access.scopes.iter().next().is_some())
            .or_else(|| keyed().next())
            .ok_or("the demo needs a route with `auth = \"key\"` that serves GET")?;
        let target = route.upstream.and_then(|place| config.upstreams.get(place)?.targets.first());
        let upstream = target.ok_or("the route has no upstream").map_err(str::to_owned)?;
        Ok(Self {
            route,
            upstream: local(&upstream.target)?,
            environment: access.environment,
            enough: access.scopes.all.iter().chain(access.scopes.any.first()).cloned().collect(),
            not_enough: not_enough(config, access),
        })
    }

    /// The route's path with something in the place of its parameters.
    pub(super) fn path(&self) -> String {
        let pattern = self.route.path.to_string();
        let fill = |segment: &str| match segment.starts_with('{') {
            true => "1".to_owned(),
            false => segment.to_owned(),
        };
        pattern.split('/').map(fill).collect::<Vec<_>>().join("/")
    }

    /// The host that the route insists on.
    pub(super) fn host(&self) -> Option<&str> {
        self.route.host.as_deref()
    }
}

fn shows(route: &Route) -> Option<(&Route, &KeyAccess)> {
    let serves_get = match &route.methods {
        Methods::Any => true,
        Methods::Listed(listed) => listed.iter().any(|method| &**method == "GET"),
    };
    match &route.access {
        Access::Key(access) if serves_get => Some((route, access)),
        Access::Key(_) | Access::Public(_) => None,
    }
}

/// The sample upstream never takes another machine's place, nor listens beyond this one.
fn local(target: &Target) -> Result<SocketAddr, String> {
    let ip = match &*target.host {
        "localhost" => Some(Ipv4Addr::LOCALHOST.into()),
        host => host.trim_matches(['[', ']']).parse::<IpAddr>().ok(),
    };
    match ip.filter(IpAddr::is_loopback) {
        Some(ip) => Ok(SocketAddr::new(ip, target.port)),
        None => Err(format!(
            "the demo brings its own upstream and cannot stand in for {}: use `keygate run`, or a \
             target such as 127.0.0.1:9000",
            target.host
        )),
    }
}

/// A scope that is not enough for the route; one that another route asks for, if there is one.
fn not_enough(config: &Config, access: &KeyAccess) -> Option<Scope> {
    let others = config.routes.routes().iter().filter_map(|route| match &route.access {
        Access::Key(other) => Some(other.scopes.iter()),
        Access::Public(_) => None,
    });
    let fallback = "demo:nothing".parse().ok();
    others
        .flatten()
        .cloned()
        .chain(fallback)
        .find(|scope| !access.scopes.are_met_by(&ScopeSet::new([scope])))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use keygate_config::Source;

    use super::*;

    fn config(routes: &str) -> Config {
        let text = format!(
            "[server]\nlisten = [\"127.0.0.1:8080\"]\n\
             [upstreams.orders]\ntargets = [\"127.0.0.1:9000\"]\n{routes}"
        );
        keygate_config::parse(Source::alone("gateway.toml", &text, Path::new(""))).unwrap()
    }

    fn route(name: &str, rest: &str) -> String {
        format!(
            "[[routes]]\nname = \"{name}\"\nupstream = \"orders\"\nauth = \"key\"\n\
             environment = \"live\"\n{rest}\n"
        )
    }

    #[test]
    fn the_calls_are_of_a_route_with_scopes() {
        let toml = route("any", "path = \"/any\"")
            + &route("write", "path = \"/o\"\nmethods = [\"POST\"]\nscopes = [\"write:o\"]")
            + &route("read", "path = \"/o/{id}\"\nmethods = [\"GET\"]\nscopes = [\"read:o\"]");
        let config = config(&toml);
        let plan = Plan::of(&config).unwrap();
        assert_eq!(plan.path(), "/o/1");
        assert_eq!(plan.enough, ["read:o".parse().unwrap()]);
        assert_eq!(plan.not_enough, "write:o".parse().ok());
        assert_eq!(plan.upstream, "127.0.0.1:9000".parse().unwrap());
    }

    #[test]
    fn a_key_that_may_not_is_found_without_another_route() {
        let config = config(&route("read", "path = \"/o\"\nscopes = [\"read:o\"]"));
        assert_eq!(Plan::of(&config).unwrap().not_enough, "demo:nothing".parse().ok());
    }

    #[test]
    fn without_scopes_there_is_no_key_that_may_not() {
        let config = config(&route("any", "path = \"/any\""));
        let plan = Plan::of(&config).unwrap();
        assert_eq!((plan.enough.len(), plan.not_enough), (0, None));
    }

    #[test]
    fn no_route_to_show_is_said() {
        let config = config(&route("write", "path = \"/o\"\nmethods = [\"POST\"]"));
        assert!(Plan::of(&config).err().unwrap().contains("serves GET"));
    }

    #[test]
    fn another_machine_is_not_stood_in_for() {
        let target = |host: &str| Target { host: host.into(), port: 80 };
        assert!(local(&target("192.0.2.1")).is_err());
        assert!(local(&target("orders.example")).is_err());
        assert_eq!(local(&target("localhost")), Ok("127.0.0.1:80".parse().unwrap()));
        assert_eq!(local(&target("[::1]")), Ok("[::1]:80".parse().unwrap()));
    }
}
