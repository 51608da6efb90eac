//! The rules for values in requests. Each says what to write; none repeats what was written.

use std::borrow::Cow;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};
use keygate_core::Scope;
use keygate_core::scope::SCOPES_MAX;
use keygate_store::records::Metadata;
use keygate_telemetry::logging::mask;

use crate::problem::Problem;

/// In characters.
pub(crate) const NAME_LENGTH_MAX: usize = 100;
pub(crate) const REASON_LENGTH_MAX: usize = 500;
const METADATA_ENTRIES_MAX: usize = 16;
const METADATA_KEY_LENGTH_MAX: usize = 64;
const METADATA_VALUE_LENGTH_MAX: usize = 512;
const CIDRS_MAX: usize = 64;
const ORIGINS_MAX: usize = 32;
const ORIGIN_LENGTH_MAX: usize = 255;

pub(crate) fn name(text: String) -> Result<String, Problem> {
    line("name", text, NAME_LENGTH_MAX)
}

/// Who answers for something, such as a team or an address.
pub(crate) fn owner(text: String) -> Result<String, Problem> {
    line("owner", text, NAME_LENGTH_MAX)
}

pub(crate) fn purpose(text: String) -> Result<String, Problem> {
    line("purpose", text, NAME_LENGTH_MAX)
}

/// For a field of a change, where `null` takes away what is there.
pub(crate) fn or_null<T, U>(
    given: Option<Option<T>>,
    read: impl Fn(T) -> Result<U, Problem>,
) -> Result<Option<Option<U>>, Problem> {
    given.map(|value| value.map(read).transpose()).transpose()
}

pub(crate) fn reason(text: String) -> Result<String, Problem> {
    line("reason", text, REASON_LENGTH_MAX)
}

/// Text of one line that people read: in lists, in the audit log, in a terminal.
fn line(field: &'static str, text: String, length_max: usize) -> Result<String, Problem> {
    if !(1..=length_max).contains(&text.chars().count()) || text.trim().is_empty() {
        return Err(Problem::field(field, format!("write 1 to {length_max} characters")));
    }
    if text.chars().any(is_unreadable) {
        return Err(Problem::field(
            field,
            "leave out line breaks, and control and invisible characters",
        ));
    }
    check_secret(field, &text)?;
    Ok(text)
}

/// Control characters, line separators, and what Unicode calls format characters (category Cf):
/// those that cannot be seen or turn the text around make one name look like another.
fn is_unreadable(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}'
            | '\u{890}'..='\u{891}' | '\u{8e2}' | '\u{180e}' | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}' | '\u{110bd}' | '\u{110cd}' | '\u{13430}'..='\u{1343f}'
            | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e007f}')
}

/// What is stored must not hold a key, by accident or by habit.
fn check_secret(field: &'static str, text: &str) -> Result<(), Problem> {
    match mask(text) {
        Cow::Borrowed(_) => Ok(()),
        Cow::Owned(_) => Err(Problem::field(field, "leave out the key: it is never stored")),
    }
}

pub(crate) fn metadata(metadata: Metadata) -> Result<Metadata, Problem> {
    const FIELD: &str = "metadata";
    if metadata.len() > METADATA_ENTRIES_MAX {
        return Err(Problem::field(FIELD, format!("write at most {METADATA_ENTRIES_MAX} entries")));
    }
    for (key, value) in &metadata {
        let length = key.chars().count();
        if !(1..=METADATA_KEY_LENGTH_MAX).contains(&length) || key.chars().any(is_unreadable) {
            let rule = format!(
                "name entries with 1 to {METADATA_KEY_LENGTH_MAX} characters, none a control or invisible one"
            );
            return Err(Problem::field(FIELD, rule));
        }
        if value.chars().count() > METADATA_VALUE_LENGTH_MAX {
            let rule = format!("write values of at most {METADATA_VALUE_LENGTH_MAX} characters");
            return Err(Problem::field(FIELD, rule));
        }
        check_secret(FIELD, key)?;
        check_secret(FIELD, value)?;
    }
    Ok(metadata)
}

/// Scopes, each once, in the order given.
pub(crate) fn scopes(field: &'static str, texts: &[String]) -> Result<Vec<Scope>, Problem> {
    // None at all is legal: a route may ask for no more than a valid key.
    if texts.len() > SCOPES_MAX {
        return Err(Problem::field(field, format!("name at most {SCOPES_MAX} scopes")));
    }
    once_each(texts, |text| text.parse().map_err(|error| Problem::field(field, error)))
}

/// Networks; an address alone is a network of one.
pub(crate) fn cidrs(texts: &[String]) -> Result<Vec<IpNet>, Problem> {
    const FIELD: &str = "allowed_cidrs";
    if texts.len() > CIDRS_MAX {
        return Err(Problem::field(FIELD, format!("name at most {CIDRS_MAX} networks")));
    }
    once_each(texts, |text| cidr(text).map_err(|rule| Problem::field(FIELD, rule)))
}

/// What the texts say, without repetitions, in the order given. The lists are short.
pub(crate) fn once_each<T: PartialEq>(
    texts: &[String],
    read: impl Fn(&str) -> Result<T, Problem>,
) -> Result<Vec<T>, Problem> {
    let mut all = Vec::with_capacity(texts.len());
    for text in texts {
        let one = read(text)?;
        if !all.contains(&one) {
            all.push(one);
        }
    }
    Ok(all)
}

fn cidr(text: &str) -> Result<IpNet, String> {
    let net = text
        .parse::<IpNet>()
        .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
        .map_err(|_| "write networks as `203.0.113.0/24` or `2001:db8::/32`".to_owned())?;
    if net.trunc() != net {
        // Whether the network or the address was meant, only the writer knows.
        return Err(format!(
            "{net} has bits beyond its prefix: write {} or {}",
            net.trunc(),
            net.addr()
        ));
    }
    // Clients on a dual-stack socket are compared by their IPv4 address.
    Ok(match net {
        IpNet::V6(v6) => match (v6.addr().to_ipv4_mapped(), v6.prefix_len().checked_sub(96)) {
            (Some(v4), Some(length)) => Ipv4Net::new(v4, length).map_or(net, IpNet::V4),
            _ => net,
        },
        IpNet::V4(_) => net,
    })
}

/// Origins as browsers send them (RFC 6454 section 6.2), in lower case.
pub(crate) fn origins(texts: &[String]) -> Result<Vec<String>, Problem> {
    const FIELD: &str = "allowed_origins";
    if texts.len() > ORIGINS_MAX {
        return Err(Problem::field(FIELD, format!("name at most {ORIGINS_MAX} origins")));
    }
    once_each(texts, |text| {
        let origin = text.to_ascii_lowercase();
        check_origin(&origin).map_err(|rule| Problem::field(FIELD, rule))?;
        Ok(origin)
    })
}

fn check_origin(origin: &str) -> Result<(), &'static str> {
    const RULE: &str = "write origins as `https://app.example.com`: scheme, host, and a port if it \
                        is not the usual one; no path and no slash at the end";
    let (scheme, authority) = origin.split_once("://").ok_or(RULE)?;
    let scheme_fits = scheme.starts_with(|c: char| c.is_ascii_lowercase())
        && scheme.bytes().all(|b| {
            b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'+' | b'-' | b'.')
        });
    if !scheme_fits || origin.len() > ORIGIN_LENGTH_MAX {
        return Err(RULE);
    }
    // The same reading of host and port as for a request's `Host`.
    let host = keygate_core::path::canonical_host(authority).map_err(|_| RULE)?;
    match authority.strip_prefix(&*host).ok_or(RULE)? {
        "" => Ok(()),
        port => match (scheme, port.strip_prefix(':').and_then(|port| port.parse::<u16>().ok())) {
            (_, None | Some(0)) => Err(RULE),
            ("http", Some(80)) | ("https", Some(443)) => {
                Err("leave out the usual port: browsers do")
            }
            (_, Some(number)) if port.len() == number.to_string().len() + 1 => Ok(()),
            (_, Some(_)) => Err(RULE),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn names_are_one_readable_line() {
        for good in ["a", "Bücher & Co", &"x".repeat(100), &"é".repeat(100)] {
            assert!(name(good.to_string()).is_ok(), "{good}");
        }
        for bad in ["", "  ", "a\nb", "\u{1b}[2J", "a\0", "a\u{85}b", &"x".repeat(101)]
            .into_iter()
            .chain(["x\u{202e}y", "x\u{2066}y", "x\u{200b}", "x\u{feff}", "x\u{2028}y", "\u{ad}x"])
        {
            assert!(name(bad.to_string()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn no_field_that_is_stored_takes_a_key() {
        let key = format!("sk_live_{}", "a".repeat(50));
        assert!(name(key.clone()).is_err());
        assert!(reason(format!("leaked: {key}")).is_err());
        assert!(metadata([("k".to_owned(), key.clone())].into()).is_err());
        assert!(metadata([(key, "v".to_owned())].into()).is_err());
        assert!(reason("leaked: sk_live_abcd".to_owned()).is_ok(), "a hint is no key");
    }

    #[test]
    fn metadata_is_bounded() {
        let entries = |count: usize| (0..count).map(|n| (n.to_string(), String::new())).collect();
        assert!(metadata(entries(16)).is_ok() && metadata(entries(17)).is_err());
        let one = |key: usize, value: usize| Metadata::from([("k".repeat(key), "v".repeat(value))]);
        assert!(metadata(one(64, 512)).is_ok());
        assert!(metadata(one(0, 1)).is_err());
        assert!(metadata(one(65, 1)).is_err() && metadata(one(1, 513)).is_err());
    }

    #[test]
    fn scopes_are_kept_once_each() {
        let two = scopes("scopes", &strings(&["read:b", "read:a", "read:b"])).unwrap();
        assert_eq!(two.iter().map(Scope::as_str).collect::<Vec<_>>(), ["read:b", "read:a"]);
        assert_eq!(scopes("scopes", &[]).unwrap(), []);
        assert!(scopes("scopes", &strings(&["read"])).is_err());
        assert!(scopes("scopes", &vec!["read:a".to_owned(); 65]).is_err());
    }

    #[test]
    fn a_network_is_written_in_one_way() {
        let shown = |text: &str| cidr(text).map(|net| net.to_string());
        assert_eq!(shown("203.0.113.0/24").unwrap(), "203.0.113.0/24");
        assert_eq!(shown("203.0.113.7").unwrap(), "203.0.113.7/32");
        assert_eq!(shown("2001:db8::/32").unwrap(), "2001:db8::/32");
        assert_eq!(shown("::ffff:203.0.113.0/120").unwrap(), "203.0.113.0/24");
        assert!(shown("203.0.113.7/24").unwrap_err().contains("203.0.113.0/24 or 203.0.113.7"));
        for bad in ["", "203.0.113", "203.0.113.0/33", "example.com", "*", " 203.0.113.7"] {
            assert!(shown(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn networks_and_origins_are_kept_once_each() {
        let nets = cidrs(&strings(&["192.0.2.7", "10.0.0.0/8", "192.0.2.7/32"])).unwrap();
        assert_eq!(
            nets.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["192.0.2.7/32", "10.0.0.0/8"]
        );
        let all = origins(&strings(&["https://a.example", "https://A.example"])).unwrap();
        assert_eq!(all, ["https://a.example"]);
    }

    #[test]
    fn only_what_a_browser_would_send_is_an_origin() {
        for good in [
            "https://app.example.com",
            "http://localhost:3000",
            "http://[::1]:8080",
            "https://xn--bcher-kva.example",
            "capacitor://localhost",
        ] {
            assert!(check_origin(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "null",
            "*",
            "example.com",
            "https://",
            "https://a/",
            "https://a/b",
            "https://user@a",
            "https://a:",
            "https://a:443",
            "http://a:80",
            "https://a:0",
            "https://a:08443",
            "https://a:65536",
            "https://a.",
            "https://*.a",
            "https://a?b",
            "https://a b",
            "://a",
        ] {
            assert!(check_origin(bad).is_err(), "{bad}");
        }
        let mixed_case = origins(&strings(&["HTTPS://App.Example.com"])).unwrap();
        assert_eq!(mixed_case, ["https://app.example.com"]);
    }
}
