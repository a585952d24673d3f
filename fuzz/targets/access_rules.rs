//! Access rules, with arbitrary paths of request targets. The input is the path.
#![no_main]

use std::net::{IpAddr, Ipv4Addr};
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use resttool::testing::{AccessRule, AccessRules, Requirement};

const SOURCE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 9));

/// All patterns are in lower case, so that a path in lower case cannot leave a pattern.
static RULES: LazyLock<AccessRules> = LazyLock::new(|| {
    let rules = [
        AccessRule::require("/public/admin/*=admins"),
        AccessRule::public("/public/*"),
        AccessRule::require("DELETE:/orders/*=admins"),
        AccessRule::public("GET:/orders/catalog"),
        AccessRule::require("/orders/*=readers"),
        AccessRule::require("/caf\u{e9}/*=staff"),
        AccessRule::public("/status"),
    ];
    AccessRules::new(rules.map(|rule| rule.unwrap()).to_vec()).unwrap()
});

/// Changes that servers make to a path after they have decoded it. Each is applied or not.
const NORMALIZATIONS: [fn(&[u8]) -> Vec<u8>; 6] =
    [decode, replace_backslashes, strip_parameters, merge_slashes, resolve_dots, |path| {
        path.to_ascii_lowercase()
    }];

fn decode(path: &[u8]) -> Vec<u8> {
    let digit = |index: usize| path.get(index).and_then(|&c| char::from(c).to_digit(16));
    let mut decoded = Vec::new();
    let mut index = 0;
    while let Some(&c) = path.get(index) {
        match (c, digit(index + 1), digit(index + 2)) {
            (b'%', Some(high), Some(low)) => {
                decoded.push((high * 16 + low) as u8);
                index += 3;
            }
            _ => {
                decoded.push(c);
                index += 1;
            }
        }
    }
    decoded
}

fn replace_backslashes(path: &[u8]) -> Vec<u8> {
    path.iter().map(|&c| if c == b'\\' { b'/' } else { c }).collect()
}

fn segments(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|&c| c == b'/').skip(1)
}

fn join<'a>(segments: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut path = segments.flat_map(|segment| [b"/", segment].concat()).collect::<Vec<_>>();
    if path.is_empty() {
        path.push(b'/');
    }
    path
}

fn strip_parameters(path: &[u8]) -> Vec<u8> {
    join(segments(path).map(|segment| segment.split(|&c| c == b';').next().unwrap_or_default()))
}

fn merge_slashes(path: &[u8]) -> Vec<u8> {
    let last = path.ends_with(b"/").then_some(b"".as_slice());
    join(segments(path).filter(|segment| !segment.is_empty()).chain(last))
}

fn resolve_dots(path: &[u8]) -> Vec<u8> {
    let mut resolved = Vec::new();
    for segment in segments(path) {
        match segment {
            b"." => {}
            b".." => drop(resolved.pop()),
            _ => resolved.push(segment),
        }
    }
    join(resolved.into_iter())
}

/// Encodes all bytes but slashes and unreserved characters (RFC 3986 section 2.3).
fn encode(path: &[u8]) -> String {
    path.iter()
        .map(|&c| match c {
            b'/' | b'-' | b'.' | b'_' | b'~' => char::from(c).to_string(),
            _ if c.is_ascii_alphanumeric() => char::from(c).to_string(),
            _ => format!("%{c:02X}"),
        })
        .collect()
}

/// Returns true if a public rule of any method matches the path.
fn is_public(path: &[u8]) -> bool {
    let path = path.to_ascii_lowercase();
    let below = path.strip_prefix(b"/public").is_some_and(|p| p.is_empty() || p.starts_with(b"/"));
    below || path == b"/status" || path == b"/orders/catalog"
}

fuzz_target!(|path: &str| {
    for method in ["GET", "DELETE", "get", "PURGE"] {
        let Ok(requirement) = RULES.requirement(method, path, SOURCE) else { continue };
        for applied in 0..1_u32 << NORMALIZATIONS.len() {
            let mut normalized = decode(path.as_bytes());
            for (index, normalize) in NORMALIZATIONS.iter().enumerate() {
                if applied >> index & 1 == 1 {
                    normalized = normalize(&normalized);
                }
            }
            // Each reading of the path needs the same credentials.
            let again = RULES.requirement(method, &encode(&normalized), SOURCE);
            assert_eq!(again, Ok(requirement), "{method} {path} {normalized:?}");
            assert!(requirement != Requirement::Nothing || is_public(&normalized), "{path}");
        }
    }
});
