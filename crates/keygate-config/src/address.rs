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
        match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            Some(v6) if v6.parse::<Ipv6Addr>().is_ok() => Ok(Self { host: v6.into(), port }),
            Some(_) => Err(wrong("not an IPv6 address")),
            None if host.contains(':') => {
                Err(Wrong::new("an IPv6 address needs brackets")
                    .help("write `\"[2001:db8::1]:9000\"`"))
            }
            None => match canonical_host(host) {
                Ok(name) if !name.is_empty() && name.len() <= HOST_LENGTH_MAX => {
                    Ok(Self { host: name.into(), port })
                }
                Ok(_) | Err(_) => Err(wrong("not a host name")),
            },
        }
    }
}
