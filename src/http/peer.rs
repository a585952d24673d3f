//! The source address of a request: the peer of the connection, or the address that a trusted proxy
//! names.

use std::fmt;
use std::net::{IpAddr, SocketAddrV4};
use std::str::FromStr;
use std::sync::Arc;

use actix_web::http::header::{HeaderMap, HeaderName};
use arc_swap::{ArcSwap, Guard};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// The field in which proxies name their clients. It has no standard. All proxies append the
/// address of their own peer.
pub(super) const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The addresses of proxies: one address, or a network in CIDR notation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Network(IpNet);

impl Network {
    /// All IPv4 addresses.
    pub(super) fn all_v4() -> Self {
        Self(Ipv4Net::default().into())
    }

    /// All IPv6 addresses.
    pub(super) fn all_v6() -> Self {
        Self(Ipv6Net::default().into())
    }

    /// Returns true if the address is in the network. An IPv4 address in IPv6 counts as IPv4.
    pub(super) fn contains(self, address: IpAddr) -> bool {
        self.0.contains(&address.to_canonical())
    }

    /// Returns true if all addresses of the other network are in this one.
    pub(super) fn covers(self, other: Self) -> bool {
        self.0.contains(&other.0)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An error: the text is neither an address nor a network.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("expected an address or a network, e.g. 192.0.2.7, 10.0.0.0/8 or fd00::/8")]
pub struct NetworkError;

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let network = match text.parse::<IpAddr>() {
            Ok(address) => IpNet::from(address.to_canonical()),
            Err(_) => text.parse().map_err(|_| NetworkError)?,
        };
        // IPv4 addresses in IPv6 count as IPv4, so such a network would contain none.
        if matches!(network, IpNet::V6(v6) if v6.addr().to_ipv4_mapped().is_some()) {
            return Err(NetworkError);
        }
        // Bits beyond the prefix are a mistake, because one address or another network was meant.
        if network.trunc() == network { Ok(Self(network)) } else { Err(NetworkError) }
    }
}

/// The proxies whose X-Forwarded-For is trusted. Clones share the list, which can be replaced while
/// the server runs.
#[derive(Clone, Debug, Default)]
pub struct TrustedProxies(Arc<ArcSwap<Vec<Network>>>);

impl TrustedProxies {
    /// Makes a list of these networks.
    #[must_use]
    pub fn new(networks: Vec<Network>) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(networks)))
    }

    /// Trusts these networks, and no others, from the next request on.
    pub fn replace(&self, networks: Vec<Network>) {
        self.0.store(Arc::new(networks));
    }

    pub(super) fn load(&self) -> Guard<Arc<Vec<Network>>> {
        self.0.load()
    }

    /// Returns true if this is the address of one of the proxies.
    pub(super) fn contains(&self, address: IpAddr) -> bool {
        is_trusted(&self.load(), address)
    }
}

/// The maximum number of entries of X-Forwarded-For that are read. Each is one proxy in a chain.
const MAX_HOPS: usize = 64;

/// The source address, and a hint at a wrong configuration.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Origin {
    pub(super) source: IpAddr,
    /// The peer is a trusted proxy, so what it forwards is believed.
    pub(super) is_trusted: bool,
    pub(super) oddity: Option<Oddity>,
}

/// Hints at a proxy that is configured wrongly.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Oddity {
    /// The peer sends X-Forwarded-For and is not a trusted proxy.
    UntrustedProxy,
    /// A trusted proxy has sent an entry that is not an address.
    NotAnAddress,
}

/// Returns the address that a request comes from. `peer` is the other end of the connection. If it
/// is a trusted proxy, the address is the last one in X-Forwarded-For that is not itself such a
/// proxy. Entries before that were written by the client and are ignored.
#[must_use]
pub fn source(trusted: &[Network], peer: IpAddr, headers: &HeaderMap) -> IpAddr {
    origin(trusted, peer, headers).source
}

/// Returns the same with a hint.
pub(super) fn origin(trusted: &[Network], peer: IpAddr, headers: &HeaderMap) -> Origin {
    let peer = peer.to_canonical();
    if !is_trusted(trusted, peer) {
        let forwards = headers.contains_key(FORWARDED_FOR);
        let oddity = forwards.then_some(Oddity::UntrustedProxy);
        return Origin { source: peer, is_trusted: false, oddity };
    }
    let mut source = peer;
    let fields: Vec<_> = headers.get_all(FORWARDED_FOR).collect();
    // Several fields are one list (RFC 9110 section 5.3).
    let hops = fields.iter().rev().flat_map(|field| field.as_bytes().rsplit(|&c| c == b','));
    for hop in hops.take(MAX_HOPS) {
        // All entries so far were written by trusted proxies. The last of them has written this
        // one.
        let Some(address) = address(hop) else {
            return Origin { source, is_trusted: true, oddity: Some(Oddity::NotAnAddress) };
        };
        source = address;
        if !is_trusted(trusted, address) {
            break;
        }
    }
    Origin { source, is_trusted: true, oddity: None }
}

/// Returns true if this is one of the proxies.
fn is_trusted(trusted: &[Network], address: IpAddr) -> bool {
    trusted.iter().any(|network| network.contains(address))
}

/// Parses an address, with or without a port. The zone of an IPv6 address (RFC 4007 section 11) is
/// dropped, since it has a meaning on the proxy alone.
fn address(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?.trim_matches([' ', '\t']);
    let address = match text.strip_prefix('[').map(|text| text.split_once(']')) {
        Some(bracketed) => {
            let (address, port) = bracketed?;
            port.strip_prefix(':').map_or(port.is_empty().then_some(0), |p| p.parse().ok())?;
            without_zone(address).parse().map(IpAddr::V6).ok()?
        }
        None => without_zone(text)
            .parse()
            .or_else(|_| text.parse::<SocketAddrV4>().map(|socket| IpAddr::V4(*socket.ip())))
            .ok()?,
    };
    Some(address.to_canonical())
}

fn without_zone(address: &str) -> &str {
    match address.split_once('%') {
        Some((address, zone)) if address.contains(':') && !zone.is_empty() => address,
        _ => address,
    }
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::HeaderValue;

    use super::*;

    /// Returns the source of a request from `peer` with these fields, if 10.0.0.0/8 and fd00::/8
    /// are trusted.
    fn source_of(peer: &str, fields: &[&str]) -> String {
        let trusted = ["10.0.0.0/8", "fd00::/8"].map(|network| network.parse().unwrap());
        let mut headers = HeaderMap::new();
        for field in fields {
            headers.append(FORWARDED_FOR, HeaderValue::from_str(field).unwrap());
        }
        source(&trusted, peer.parse().unwrap(), &headers).to_string()
    }

    /// B-11
    #[test]
    fn forwarded_address_is_believed_from_trusted_proxies_only() {
        assert_eq!(source_of("192.0.2.1", &["198.51.100.1"]), "192.0.2.1");
        assert_eq!(source_of("10.0.0.1", &["198.51.100.1"]), "198.51.100.1");
        assert_eq!(source_of("::ffff:10.0.0.1", &["198.51.100.1"]), "198.51.100.1");
        assert_eq!(source_of("fd00::1", &["2001:db8::1"]), "2001:db8::1");
        assert_eq!(source_of("10.0.0.1", &[]), "10.0.0.1");
        let none = source(&[], "10.0.0.1".parse().unwrap(), &HeaderMap::new());
        assert_eq!(none.to_string(), "10.0.0.1");
    }

    /// B-11
    #[test]
    fn source_is_the_last_address_that_is_no_proxy() {
        for (fields, source) in [
            (&["198.51.100.1, 192.0.2.9"][..], "192.0.2.9"),
            (&["198.51.100.1, 192.0.2.9, 10.1.1.1, 10.2.2.2"], "192.0.2.9"),
            (&["198.51.100.1", "192.0.2.9"], "192.0.2.9"),
            (&["192.0.2.9", "10.1.1.1"], "192.0.2.9"),
            (&["192.0.2.9,10.1.1.1", "10.2.2.2"], "192.0.2.9"),
            (&["10.3.3.3, 10.1.1.1"], "10.3.3.3"),
            (&["192.0.2.9\t,  fd00::7 "], "192.0.2.9"),
        ] {
            assert_eq!(source_of("10.0.0.1", fields), source, "{fields:?}");
        }
    }

    /// B-11: an entry that is no address ends the list. The proxy that passed it on is the source.
    #[test]
    fn entries_before_one_that_is_no_address_are_ignored() {
        for (fields, source) in [
            (&["192.0.2.9, unknown"][..], "10.0.0.1"),
            (&["192.0.2.9, unknown, 10.1.1.1"], "10.1.1.1"),
            (&["192.0.2.9,"], "10.0.0.1"),
            (&[""], "10.0.0.1"),
            (&["192.0.2.9, 10.0.0.256"], "10.0.0.1"),
            (&["192.0.2.9:4711"], "192.0.2.9"),
            (&["[2001:db8::1]:4711"], "2001:db8::1"),
            (&["[2001:db8::1]"], "2001:db8::1"),
            (&["::ffff:192.0.2.9"], "192.0.2.9"),
            (&["::ffff:10.1.1.1"], "10.1.1.1"),
            (&["192.0.2.9, [10.1.1.1]"], "10.0.0.1"),
            (&["192.0.2.9, [2001:db8::1]x"], "10.0.0.1"),
            (&["192.0.2.9, [2001:db8::1]:x"], "10.0.0.1"),
        ] {
            assert_eq!(source_of("10.0.0.1", fields), source, "{fields:?}");
        }
    }

    /// R-16, B-11
    #[test]
    fn zone_of_a_forwarded_address_is_dropped() {
        for (field, source) in [
            ("fe80::1%eth0", "fe80::1"),
            ("192.0.2.9, fd00::7%2", "192.0.2.9"),
            ("[fe80::1%eth0]", "fe80::1"),
            ("[fe80::1%eth0]:4711", "fe80::1"),
            ("fe80::1%", "10.0.0.1"),
            ("192.0.2.9%eth0", "10.0.0.1"),
        ] {
            assert_eq!(source_of("10.0.0.1", &[field]), source, "{field}");
        }
    }

    ///
    #[test]
    fn oddities_of_a_forwarded_address_are_named() {
        let trusted = ["10.0.0.0/8".parse().unwrap()];
        let oddity = |peer: &str, field: &'static str| {
            let mut headers = HeaderMap::new();
            headers.append(FORWARDED_FOR, HeaderValue::from_static(field));
            origin(&trusted, peer.parse().unwrap(), &headers).oddity
        };
        assert_eq!(oddity("192.0.2.1", "192.0.2.9"), Some(Oddity::UntrustedProxy));
        assert_eq!(oddity("10.0.0.1", "192.0.2.9, unknown"), Some(Oddity::NotAnAddress));
        assert_eq!(oddity("10.0.0.1", "unknown, 192.0.2.9"), None, "written by the client");
        assert_eq!(oddity("10.0.0.1", "fe80::1%eth0"), None);
        let none = origin(&trusted, "192.0.2.1".parse().unwrap(), &HeaderMap::new());
        assert_eq!(none.oddity, None);
    }

    ///
    #[test]
    fn chain_of_proxies_is_followed_to_a_bound() {
        let chain = format!("192.0.2.9{}", ", 10.1.1.1".repeat(MAX_HOPS));
        assert_eq!(source_of("10.0.0.1", &[&chain]), "10.1.1.1");
        let chain = format!("192.0.2.9{}", ", 10.1.1.1".repeat(MAX_HOPS - 1));
        assert_eq!(source_of("10.0.0.1", &[&chain]), "192.0.2.9");
    }

    #[test]
    fn network_covers_networks_of_its_own_family() {
        let network = |text: &str| text.parse::<Network>().unwrap();
        let covers = |outer, inner| network(outer).covers(network(inner));
        assert!(covers("10.0.0.0/8", "10.1.0.0/16"));
        assert!(covers("10.0.0.0/8", "10.0.0.0/8"));
        assert!(covers("10.0.0.0/8", "::ffff:10.0.0.1"));
        assert!(!covers("10.1.0.0/16", "10.0.0.0/8"));
        assert!(!covers("0.0.0.0/0", "::/0"));
        assert!(!covers("::/0", "10.0.0.1"));
        assert!(network("10.0.0.0/8").contains("::ffff:10.0.0.1".parse().unwrap()));
        assert!("::ffff:10.0.0.0/104".parse::<Network>().is_err(), "it would contain no address");
    }

    #[test]
    fn network_is_an_address_or_cidr_without_stray_bits() {
        for good in ["127.0.0.1", "10.0.0.0/8", "0.0.0.0/0", "::1", "fd00::/8", "::ffff:10.0.0.1"] {
            assert!(good.parse::<Network>().is_ok(), "{good}");
        }
        for bad in
            ["", "localhost", "10.0.0.1/8", "10.0.0.0/33", "fd00::1/8", "10.0.0", "10.0.0.0-9"]
        {
            assert_eq!(bad.parse::<Network>(), Err(NetworkError), "{bad}");
        }
    }

    proptest::proptest! {
        /// B-11: the address that the last proxy has appended counts, not the text before it.
        #[test]
        fn text_before_the_last_address_is_ignored(forged in "[ -~]{0,60}") {
            assert_eq!(source_of("10.0.0.1", &[&format!("{forged}, 192.0.2.9")]), "192.0.2.9");
            assert_eq!(source_of("10.0.0.1", &[&forged, "192.0.2.9, 10.2.2.2"]), "192.0.2.9");
            assert_eq!(source_of("192.0.2.1", &[&forged]), "192.0.2.1");
        }
    }
}
