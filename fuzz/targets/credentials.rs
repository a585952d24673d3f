//! Header to credentials. The input is the values of Authorization fields, a line each.
#![no_main]

use actix_web::http::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use libfuzzer_sys::fuzz_target;
use resttool::testing::{
    Credentials, CredentialsField, NoCredentials, Password, basic_credentials,
};

fuzz_target!(|input: &[u8]| {
    let mut headers = HeaderMap::new();
    for field in input.split(|&c| c == b'\n') {
        let Ok(value) = HeaderValue::from_bytes(field) else { return };
        headers.append(AUTHORIZATION, value);
    }
    read(&headers);
    // What stands behind the scheme is seldom base64 by chance.
    let encoded = format!("Basic {}", STANDARD.encode(input));
    let Ok(value) = HeaderValue::from_str(&encoded) else { return };
    let mut headers = HeaderMap::new();
    headers.insert(AUTHORIZATION, value);
    if let Some(shown) = read(&headers) {
        // Other octets than UTF-8 are Latin-1. The name ends at the first colon (RFC 7617 section 2).
        let latin1 = || input.iter().map(|octet| char::from(*octet)).collect();
        let text = std::str::from_utf8(input).map_or_else(|_| latin1(), str::to_owned);
        let (user, password) = text.split_once(':').unwrap();
        assert_eq!(resttool::testing::UserName::parse(user).unwrap(), shown.user);
        let octets = &input[input.iter().position(|octet| *octet == b':').unwrap() + 1..];
        assert_eq!(shown.password.candidates().next().unwrap(), octets);
        if let Ok(password) = Password::parse(password) {
            assert_eq!(shown.password.candidates().last().unwrap(), password.reveal().as_bytes());
        }
    }
});

/// Returns the credentials. Checks that they have a canonical form that decodes to the same.
fn read(headers: &HeaderMap) -> Option<Credentials> {
    let fields: Vec<_> = headers.get_all(AUTHORIZATION).collect();
    let shown = match basic_credentials(headers, &CredentialsField::default()) {
        Ok(encoded) => encoded.decode().ok()?,
        Err(why) => {
            assert_eq!(why == NoCredentials::Repeated, fields.len() > 1);
            assert_eq!(why == NoCredentials::TooLong, fields.len() == 1 && fields[0].len() > 8192);
            return None;
        }
    };
    assert_eq!(fields.len(), 1);
    let user = shown.user.as_str();
    let candidates: Vec<_> = shown.password.candidates().collect();
    assert!((1..=2).contains(&candidates.len()) && (1..=1024).contains(&candidates[0].len()));
    let password = std::str::from_utf8(candidates.last().unwrap()).unwrap();
    assert!((1..=128).contains(&user.len()) && !password.is_empty());
    assert!(!password.chars().any(char::is_control));
    if password.len() > 1024 {
        return Some(shown.clone());
    }
    let canonical = format!("Basic {}", STANDARD.encode(format!("{user}:{password}")));
    let mut again = HeaderMap::new();
    again.insert(AUTHORIZATION, HeaderValue::from_str(&canonical).unwrap());
    let again = basic_credentials(&again, &CredentialsField::default()).unwrap().decode().unwrap();
    assert_eq!(again.user.as_str(), user);
    assert!(again.password.candidates().eq([password.as_bytes()]));
    Some(shown.clone())
}
