//! Who a request comes from: the address of the connection, or what a trusted proxy says.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use actix_web::http::header::{HeaderMap, HeaderName};
use ipnet::IpNet;

/// The field in which proxies say whom they forward. It has no standard; what they all do is to add the address
/// of their own peer at its end.
pub(super) const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The addresses of a proxy, or of several: one address, or a network in CIDR notation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Network(IpNet);

/// A text that is neither an address nor a network.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NetworkError;

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let network = match text.parse::<IpAddr>() {
            Ok(address) => IpNet::from(address.to_canonical()),
            Err(_) => text.parse().map_err(|_| NetworkError)?,
        };
        // Bits beyond the prefix are a slip: one address was meant, or another network.
        if network.trunc() == network { Ok(Self(network)) } else { Err(NetworkError) }
    }
}

impl fmt::Display for NetworkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("expected an address or a network, as 192.0.2.7, 10.0.0.0/8 or fd00::/8")
    }
}

impl std::error::Error for NetworkError {}

/// The address that a request comes from. `peer` is the other end of the connection; if it is a proxy that is
/// trusted, it is the last address in X-Forwarded-For that is not such a proxy. All that stands before that was
/// written by whoever has it, and is not looked at.
#[must_use]
pub fn source(trusted: &[Network], peer: IpAddr, headers: &HeaderMap) -> IpAddr {
    let peer = peer.to_canonical();
    if !is_trusted(trusted, peer) {
        return peer;
    }
    let mut source = peer;
    let fields: Vec<_> = headers.get_all(FORWARDED_FOR).collect();
    // Several fields are one list (RFC 9110 section 5.3).
    for hop in fields.iter().rev().flat_map(|field| field.as_bytes().rsplit(|&c| c == b',')) {
        // Up to here it was said by proxies that are trusted; whoever said this is the last of them.
        let Some(address) = address(hop) else { break };
        source = address;
        if !is_trusted(trusted, address) {
            break;
        }
    }
    source
}

/// Whether this is one of the proxies.
pub(super) fn is_trusted(trusted: &[Network], address: IpAddr) -> bool {
    trusted.iter().any(|network| network.0.contains(&address.to_canonical()))
}

/// An address, with or without a port.
fn address(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?.trim_matches([' ', '\t']);
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse().or_else(|_| text.parse::<SocketAddr>().map(|socket| socket.ip()));
    address.ok().map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::HeaderValue;

    use super::*;

    /// The source of a request from `peer`, with these fields, when 10.0.0.0/8 and fd00::/8 are trusted.
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
    fn a_forwarded_address_is_believed_from_trusted_proxies_only() {
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
    fn it_is_the_last_one_that_is_no_proxy_in_all_fields_together() {
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

    /// B-11: what is no address ends the list; whoever passed it on is the source.
    #[test]
    fn what_is_no_address_is_not_looked_beyond() {
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
        ] {
            assert_eq!(source_of("10.0.0.1", fields), source, "{fields:?}");
        }
    }

    #[test]
    fn a_network_is_an_address_or_cidr_without_stray_bits() {
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
        /// B-11: whatever a client writes before it, what the last proxy has seen counts.
        #[test]
        fn nothing_that_stands_before_the_last_address_counts(forged in "[ -~]{0,60}") {
            assert_eq!(source_of("10.0.0.1", &[&format!("{forged}, 192.0.2.9")]), "192.0.2.9");
            assert_eq!(source_of("10.0.0.1", &[&forged, "192.0.2.9, 10.2.2.2"]), "192.0.2.9");
            assert_eq!(source_of("192.0.2.1", &[&forged]), "192.0.2.1");
        }
    }
}
