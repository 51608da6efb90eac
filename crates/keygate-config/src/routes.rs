//! Reads the routes: what each needs, where each goes, and that no two are alike.

use std::collections::HashMap;
use std::ops::Range;

use keygate_core::route::{KeyAccess, Methods, PublicAccess};
use keygate_core::scope::RequiredScopes;
use keygate_core::{Access, Route, RouteTable};
use toml::de::DeValue;

use crate::catalogue::{ROUTES_MAX, route};
use crate::reader::{Item, Reader, Section};
use crate::route_settings::read_route_settings;
use crate::services::Upstreams;
use crate::settings::RouteSettings;
use crate::suggest::nearest;
use crate::tiers::Ceilings;
use crate::value::found;
use crate::word::{Auth, Host, Method, Name, QueryParam, UpstreamName};

/// What metrics call the route of a request that matches none.
const NO_ROUTE: &str = "none";

pub(crate) fn read_routes(
    reader: &Reader<'_>,
    root: &Section<'_, '_>,
    upstreams: &Upstreams<'_>,
    ceilings: &Ceilings<'_>,
) -> Option<(RouteTable, Vec<RouteSettings>)> {
    let items = route_items(reader, root)?;
    if items.is_empty() {
        let help = "add `[[routes]]`, or every request is answered with 404";
        reader.warning(None, "there is no route", help);
    }
    let open = |item| Section::open(reader, item, &route::TABLE, root.shown.next_table("routes"));
    let sections: Vec<Section<'_, '_>> = items.iter().filter_map(open).collect();
    refuse_repeated_names(&sections);
    let read: Vec<(&Section<'_, '_>, Option<(Route, RouteSettings)>)> = sections
        .iter()
        .map(|section| (section, read_route(section, upstreams, ceilings)))
        .collect();
    let whole = read.len() == items.len() && read.iter().all(|(_, route)| route.is_some());
    let (sections, routes): (Vec<_>, Vec<_>) =
        read.into_iter().filter_map(|(section, route)| Some((section, route?))).unzip();
    let (routes, settings): (Vec<Route>, Vec<RouteSettings>) = routes.into_iter().unzip();
    let mut used: Vec<usize> = routes.iter().filter_map(|route| route.upstream).collect();
    used.sort_unstable();
    used.dedup();
    upstreams.warn_of_unused(reader, &used);
    match RouteTable::new(routes) {
        Ok(table) => whole.then_some((table, settings)),
        Err(conflicts) => {
            for conflict in conflicts {
                if let (Some(first), Some(second)) =
                    (sections.get(conflict.first), sections.get(conflict.second))
                {
                    refuse_conflict(first, second);
                }
            }
            None
        }
    }
}

fn route_items<'r, 'a>(reader: &Reader<'_>, root: &Section<'r, 'a>) -> Option<&'r [Item<'a>]> {
    const HELP: &str = "write each route under `[[routes]]`, with two brackets";
    let Some(item) = root.item("routes") else { return Some(&[]) };
    let DeValue::Array(items) = item.get_ref() else {
        let message = format!("expected a list of tables, found {}", found(item));
        reader.error(item.span(), message, Some(HELP.to_owned()));
        return None;
    };
    if items.len() > ROUTES_MAX {
        reader.error(item.span(), format!("there are more than {ROUTES_MAX} routes"), None);
        return None;
    }
    Some(items)
}

fn read_route(
    section: &Section<'_, '_>,
    upstreams: &Upstreams<'_>,
    ceilings: &Ceilings<'_>,
) -> Option<(Route, RouteSettings)> {
    let name = section.get(&route::NAME);
    let host = section.get(&route::HOST);
    let path = section.get(&route::PATH);
    let methods = read_methods(section);
    let upstream = match section.item("respond") {
        Some(_) => Some(None),
        None => read_upstream(section, upstreams).map(Some),
    };
    let settings = read_route_settings(section, path.as_ref());
    let access = read_access(section, ceilings);
    let ends_when_revoked = section.get(&route::END_WHEN_REVOKED);
    let Name(name) = name?;
    if &*name == NO_ROUTE
        && let Some(span) = section.span_of("name")
    {
        section.reader.error(
            span,
            "a route cannot be called `none`: metrics call requests so that match no route",
            Some("choose another name".to_owned()),
        );
    }
    // An absent host means any; a wrong one must not.
    let host = match (host, section.item("host")) {
        (Some(Host(host)), _) => Some(host),
        (None, None) => None,
        (None, Some(_)) => return None,
    };
    let route = Route {
        name,
        host,
        path: path?,
        methods: methods?,
        access: access?,
        upstream: upstream?,
        ends_when_revoked: ends_when_revoked?,
    };
    Some((route, settings?))
}

fn read_methods(section: &Section<'_, '_>) -> Option<Methods> {
    if section.item("methods").is_none() {
        return Some(Methods::Any);
    }
    let methods = section.get(&route::METHODS)?;
    section.refuse_repeats("methods", &methods);
    Some(Methods::Listed(methods.into_iter().map(|Method(method)| method).collect()))
}

fn read_upstream(section: &Section<'_, '_>, upstreams: &Upstreams<'_>) -> Option<usize> {
    let UpstreamName(name) = section.get(&route::UPSTREAM)?;
    let place = upstreams.find(&name);
    if place.is_none() {
        let help = match nearest(&name, upstreams.names()) {
            Some(known) => format!("did you mean `\"{known}\"`?"),
            None => "say where it is under `[upstreams.NAME]`".to_owned(),
        };
        let span = section.span_of("upstream");
        section.reader.absence(span, "this upstream is not defined", Some(help));
    }
    place
}

fn read_access(section: &Section<'_, '_>, ceilings: &Ceilings<'_>) -> Option<Access> {
    let auth = section.get(&route::AUTH);
    if auth == Some(Auth::Public) {
        for key in
            ["environment", "scopes", "any_scopes", "query_param", "cost", "end_when_revoked"]
        {
            let help = "remove it, or write `auth = \"key\"`";
            section.refuse_key(key, "means nothing on a public route", help);
        }
        return Some(Access::Public(PublicAccess::default()));
    }
    let environment = section.get(&route::ENVIRONMENT);
    let all = section.get(&route::SCOPES);
    let any = section.get(&route::ANY_SCOPES);
    let query_param = section.get(&route::QUERY_PARAM).map(|QueryParam(name)| name);
    let cost = section.get(&route::COST);
    if let Some(cost) = cost {
        ceilings.check(section, cost);
    }
    for (key, scopes) in [("scopes", &all), ("any_scopes", &any)] {
        if let Some(scopes) = scopes {
            section.refuse_repeats(key, scopes);
        }
    }
    match auth? {
        Auth::Key => Some(Access::Key(KeyAccess {
            environment: environment?,
            scopes: RequiredScopes { all: all?, any: any? },
            cost: cost?,
            query_param,
        })),
        Auth::Public => None,
    }
}

fn refuse_repeated_names(sections: &[Section<'_, '_>]) {
    let mut first_of: HashMap<String, Range<usize>> = HashMap::new();
    for section in sections {
        let Some(item) = section.item("name") else { continue };
        // What cannot be expanded is noted when the route itself is read.
        let Some(name) = section.reader.expanded(item) else { continue };
        let span = item.span();
        if let Some(first) = first_of.get(&name) {
            let line = section.reader.line_of(first);
            let help = format!("the route on line {line} is called that too: change one of them");
            section.reader.error(span, "two routes have this name", Some(help));
        } else {
            first_of.insert(name, span);
        }
    }
}

/// Notes at the second route that a request could be meant for either.
fn refuse_conflict(first: &Section<'_, '_>, second: &Section<'_, '_>) {
    let reader = second.reader;
    let place =
        |section: &Section<'_, '_>| section.span_of("path").or_else(|| section.span.clone());
    let (Some(first_place), Some(second_place)) = (first.span_of("name"), place(second)) else {
        return;
    };
    // As the file has it: a name from the environment is not told.
    let name = reader.written_at(&first_place);
    let line = reader.line_of(&first_place);
    reader.error(
        second_place,
        format!("this route and {name} on line {line} serve the same requests"),
        Some("give one of them another `host`, another `path` or other `methods`".to_owned()),
    );
}
