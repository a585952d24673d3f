//! Who a request comes from, by X-Forwarded-For. The input is the values of such fields, a line each.
#![no_main]

use std::net::{IpAddr, Ipv4Addr};

use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use libfuzzer_sys::fuzz_target;
use resttool::testing::{Network, source_address};

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const PROXY: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 9));

fuzz_target!(|input: &[u8]| {
    let trusted = ["10.0.0.0/8", "fd00::/8"].map(|text| text.parse::<Network>().unwrap());
    let mut headers = HeaderMap::new();
    for field in input.split(|&c| c == b'\n') {
        let Ok(value) = HeaderValue::from_bytes(field) else { return };
        headers.append(FORWARDED_FOR, value);
    }
    // A peer that is not a trusted proxy cannot choose its address.
    assert_eq!(source_address(&trusted, CLIENT, &headers), CLIENT);
    assert_eq!(source_address(&[], PROXY, &headers), PROXY);
    // Through one proxy: it is the proxy itself, or one address of the list, and never an IPv4 address in IPv6.
    let source = source_address(&trusted, PROXY, &headers);
    assert_eq!(source, source.to_canonical());
    // All that stands before what the proxy has seen itself counts for nothing.
    headers.append(FORWARDED_FOR, HeaderValue::from_static("192.0.2.9"));
    assert_eq!(source_address(&trusted, PROXY, &headers), CLIENT);
    headers.append(FORWARDED_FOR, HeaderValue::from_static("10.9.9.9, fd00::7"));
    assert_eq!(source_address(&trusted, PROXY, &headers), CLIENT);
});
