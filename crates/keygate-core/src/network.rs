//! Client addresses: which networks a key may be used from, and what counts as one client.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;

/// A list of networks; empty allows every address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks(Box<[IpNet]>);

impl Networks {
    #[must_use]
    pub fn new(networks: Vec<IpNet>) -> Self {
        Self(networks.into_boxed_slice())
    }

    pub fn iter(&self) -> impl Iterator<Item = &IpNet> {
        self.0.iter()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `address` is in one of the networks.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        // ::ffff:192.0.2.1 is 192.0.2.1 on a dual-stack socket; a v4 rule must see it as such.
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }

    /// Whether the list lets `address` through: it is empty or contains it.
    #[must_use]
    pub fn allows(&self, address: IpAddr) -> bool {
        self.0.is_empty() || self.contains(address)
    }
}

/// What the failed-authentication limit takes for one client: an IPv4 address, or the /64 that an
/// IPv6 client can pick its addresses from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientNetwork(IpAddr);

impl From<IpAddr> for ClientNetwork {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            v4 @ IpAddr::V4(_) => Self(v4),
            IpAddr::V6(v6) => {
                const PREFIX: u128 = u128::MAX << 64;
                Self(IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & PREFIX)))
            }
        }
    }
}

impl fmt::Display for ClientNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpAddr::V4(address) => address.fmt(f),
            IpAddr::V6(address) => write!(f, "{address}/64"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_mapped_address_is_the_v4_address() {
        let v4_only = Networks::new(vec!["192.0.2.0/24".parse().unwrap()]);
        assert!(v4_only.allows(ip("::ffff:192.0.2.9")));
        assert!(!v4_only.allows(ip("::ffff:198.51.100.9")));
        assert_eq!(ClientNetwork::from(ip("::ffff:192.0.2.9")), ip("192.0.2.9").into());
    }

    #[test]
    fn an_ipv6_client_is_its_64() {
        assert_eq!(ClientNetwork::from(ip("2001:db8::1")), ip("2001:db8::ffff:2").into());
        assert_ne!(ClientNetwork::from(ip("2001:db8::1")), ip("2001:db8:0:1::1").into());
        assert_eq!(ClientNetwork::from(ip("2001:db8::1")).to_string(), "2001:db8::/64");
        assert_eq!(ClientNetwork::from(ip("::ffff:192.0.2.9")).to_string(), "192.0.2.9");
    }

    #[test]
    fn an_empty_list_allows_all() {
        assert!(Networks::default().allows(ip("192.0.2.1")));
    }
}
