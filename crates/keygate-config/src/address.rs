//! Addresses as settings: what to listen on, whom to trust, where to connect to.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;
use keygate_core::path::canonical_host;

use crate::settings::Target;
use crate::value::{FromText, Wrong};

const HOST_LENGTH_MAX: usize = 253;

impl FromText for SocketAddr {
    const TYPE: &'static str = "address";
    const RULE: &'static str = "`ip:port`";

    fn from_text(text: &str) -> Result<Self, Wrong> {
        text.parse().map_err(|_| {
            let wrong = Wrong::new("not an address to listen on");
            match text.rsplit_once(':') {
                Some(("" | "*" | "localhost", port)) if port.parse::<u16>().is_ok() => wrong
                    .help_telling_text(format!(
                        "write `\"127.0.0.1:{port}\"` for this machine only, \
                         or `\"0.0.0.0:{port}\"` for every address of it"
                    )),
                Some(_) | None => wrong.help(
                    "write an IP address and a port, \
                     such as `\"127.0.0.1:8080\"` or `\"[::]:8080\"`",
                ),
            }
        })
    }
}

/// Whether the machine would refuse the second of two listeners. On one port, `0.0.0.0` takes every
/// IPv4 address, and `[::]` every address.
pub(crate) fn clash(one: SocketAddr, other: SocketAddr) -> bool {
    let (ip, other_ip) = (one.ip().to_canonical(), other.ip().to_canonical());
    let takes = |one: IpAddr, other: IpAddr| match one {
        IpAddr::V4(ip) => ip.is_unspecified() && other.is_ipv4(),
        IpAddr::V6(ip) => ip.is_unspecified(),
    };
    one.port() == other.port()
        && one.port() != 0
        && (ip == other_ip || takes(ip, other_ip) || takes(other_ip, ip))
}

impl FromText for IpNet {
    const TYPE: &'static str = "network";
    const RULE: &'static str = "an address or CIDR";

    fn from_text(text: &str) -> Result<Self, Wrong> {
        let network = text.parse::<Self>().or_else(|_| text.parse::<IpAddr>().map(Self::from));
        network.map_err(|_| {
            Wrong::new("not a network")
                .help("write an address or CIDR, such as `\"10.0.0.0/8\"` or `\"192.0.2.7\"`")
        })
    }
}

impl FromText for Target {
    const TYPE: &'static str = "target";
    const RULE: &'static str = "`host:port`";

    fn from_text(text: &str) -> Result<Self, Wrong> {
        const EXAMPLE: &str = "write `host:port`, such as `\"127.0.0.1:9000\"`";
        let wrong = |message: &str| Wrong::new(message).help(EXAMPLE);
        if text.contains("://") {
            return Err(wrong("a target has no `http://`"));
        }
        if text.contains('/') {
            return Err(wrong("a target has no path"));
        }
        let Some((host, port)) = text.rsplit_once(':') else {
            return Err(wrong("a target needs a port"));
        };
        let port = match port.parse() {
            Ok(port) if port > 0 && !text.ends_with(']') => port,
            Ok(_) | Err(_) => return Err(wrong("a target needs a port from 1 to 65535")),
        };
        match read_host(host) {
            Ok(host) => Ok(Self { host, port }),
            Err(not @ NotAHost::LacksBrackets) => {
                Err(Wrong::new(not.message()).help("write `\"[2001:db8::1]:9000\"`"))
            }
            Err(not @ (NotAHost::BadV6 | NotAHost::BadName)) => Err(wrong(not.message())),
        }
    }
}

/// Why a text is not the host of a server.
#[derive(Clone, Copy)]
enum NotAHost {
    BadV6,
    LacksBrackets,
    BadName,
}

impl NotAHost {
    const fn message(self) -> &'static str {
        match self {
            Self::BadV6 => "not an IPv6 address",
            Self::LacksBrackets => "an IPv6 address needs brackets",
            Self::BadName => "not a host name",
        }
    }
}

/// A name in its one form or an address, in brackets if it is of IPv6; without them afterwards.
fn read_host(host: &str) -> Result<Box<str>, NotAHost> {
    match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(v6) if v6.parse::<Ipv6Addr>().is_ok() => Ok(v6.into()),
        Some(_) => Err(NotAHost::BadV6),
        None if host.contains(':') => Err(NotAHost::LacksBrackets),
        None => match canonical_host(host) {
            Ok(name) if !name.is_empty() && name.len() <= HOST_LENGTH_MAX => Ok(name.into()),
            Ok(_) | Err(_) => Err(NotAHost::BadName),
        },
    }
}

/// Where a Redis, or one of its sentinels, is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RedisUrl {
    pub(crate) scheme: RedisScheme,
    pub(crate) host: Box<str>,
    pub(crate) port: Option<u16>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RedisScheme {
    Plain,
    Tls,
}

impl RedisUrl {
    /// Whether what is sent there stays on this machine.
    pub(crate) fn is_loopback(&self) -> bool {
        match self.host.parse::<IpAddr>() {
            Ok(ip) => ip.to_canonical().is_loopback(),
            Err(_) => &*self.host == "localhost",
        }
    }
}

impl FromText for RedisUrl {
    const TYPE: &'static str = "URL";
    const RULE: &'static str = "`redis://host:port`, or `rediss://host:port` for TLS";

    fn from_text(text: &str) -> Result<Self, Wrong> {
        const EXAMPLE: &str =
            "write `\"redis://127.0.0.1:6379\"`, or `\"rediss://127.0.0.1:6379\"` for TLS";
        let wrong = |message: &str| Wrong::new(message).help(EXAMPLE);
        let (scheme, rest) = match text.split_once("://") {
            Some(("redis", rest)) => (RedisScheme::Plain, rest),
            Some(("rediss", rest)) => (RedisScheme::Tls, rest),
            Some(_) | None => return Err(wrong("not the URL of a Redis")),
        };
        refuse_more_than_an_address(rest)?;
        let has_port = rest.rsplit_once(']').map_or(rest, |(_, after)| after).contains(':');
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) if has_port => (host, Some(port)),
            Some(_) | None => (rest, None),
        };
        let host = read_host(host).map_err(|not| match not {
            NotAHost::LacksBrackets => {
                Wrong::new(not.message()).help("write `\"redis://[2001:db8::1]:6379\"`")
            }
            NotAHost::BadV6 | NotAHost::BadName => wrong(not.message()),
        })?;
        let port = match port.map(str::parse) {
            None => None,
            Some(Ok(port)) if port > 0 => Some(port),
            Some(Ok(_) | Err(_)) => return Err(wrong("a port is a number from 1 to 65535")),
        };
        Ok(Self { scheme, host, port })
    }
}

/// Other programs take more from the URL. Here each of those things is a setting.
fn refuse_more_than_an_address(rest: &str) -> Result<(), Wrong> {
    if rest.contains('@') {
        return Err(Wrong::new("a URL here holds no user and no password").help(
            "write `username`, and `password_file` or `password = \"${NAME}\"`; \
             for sentinels `sentinel_username` and `sentinel_password_file`",
        ));
    }
    if rest.contains(['?', '#']) {
        return Err(Wrong::new("a URL here holds no query and no fragment")
            .help("timeouts, certificates and all else are settings of `[store]`"));
    }
    match rest.split_once('/') {
        None => Ok(()),
        Some((_, number)) if number.parse::<u16>().is_ok() => {
            Err(Wrong::new("a URL here holds no database")
                .help_telling_text(format!("write `database = {number}` under `[store]`")))
        }
        Some(_) => Err(Wrong::new("a URL here holds no path")
            .help("end it with the port; the database is the setting `database`")),
    }
}
