//! Request paths and the patterns of access rules.
//!
//! A rule protects a resource only if the proxy and the upstream read the same path. The readings
//! of RFC 3986 section 6.2 differ between servers, and some servers add their own. Hence a path
//! with more than one reading is refused, and is never normalized.

use std::borrow::Cow;
use std::fmt;

use percent_encoding::percent_decode_str;

/// An error: the upstream may read the path differently from the access rules.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("ambiguous path: {0}")]
pub struct AmbiguousPath(pub Ambiguity);

/// The reason why a request path has more than one reading.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Ambiguity {
    /// A path without a leading slash, e.g. `*` of OPTIONS.
    #[error("it does not begin with a slash")]
    NotAbsolute,
    /// A space that is not encoded. It ends the path in a request line.
    #[error("it holds a space that is not encoded")]
    Space,
    /// A byte above 0x7F that is not encoded. Servers disagree on its character set.
    #[error("it holds a non-ASCII character that is not encoded")]
    NonAscii,
    /// A percent sign without two hexadecimal digits.
    #[error("it holds a malformed percent-encoding")]
    MalformedEncoding,
    /// An encoded percent sign. A second decoding reads another path.
    #[error("it holds an encoded percent sign")]
    DoubleEncoding,
    /// An encoded slash or backslash. Some servers split segments there.
    #[error("it holds an encoded slash or backslash")]
    EncodedSlash,
    /// A backslash. Some servers read it as a slash.
    #[error("it holds a backslash")]
    Backslash,
    /// Bytes that are not UTF-8 after decoding, e.g. an overlong form.
    #[error("it is not valid UTF-8 after decoding")]
    InvalidUtf8,
    /// A control character, encoded or not. NUL ends a path in C.
    #[error("it holds a control character")]
    Control,
    /// A question mark or a number sign, encoded or not. They end a path that is decoded early.
    #[error("it holds a question mark or a number sign")]
    Delimiter,
    /// A semicolon, encoded or not. Some servers drop the text behind it.
    #[error("it holds a semicolon")]
    Semicolon,
    /// Two slashes in a row. Some servers merge them.
    #[error("it holds two slashes in a row")]
    DoubleSlash,
    /// A segment `.` or `..`, encoded or not. Some servers resolve it.
    #[error("it holds a dot segment")]
    DotSegment,
    /// A path that another rule matches without regard to letter case or a trailing slash.
    #[error("its letter case or trailing slash, or the case of the method, selects another rule")]
    Folding,
}

/// Decodes the path of a request target once. The result borrows from a path without encoding.
pub(super) fn decode(path: &str) -> Result<Cow<'_, str>, AmbiguousPath> {
    if !path.starts_with('/') {
        return Err(AmbiguousPath(Ambiguity::NotAbsolute));
    }
    for byte in path.bytes() {
        match byte {
            b' ' => return Err(AmbiguousPath(Ambiguity::Space)),
            0x80.. => return Err(AmbiguousPath(Ambiguity::NonAscii)),
            _ => {}
        }
    }
    for encoding in path.split('%').skip(1) {
        match encoded_byte(encoding) {
            None => return Err(AmbiguousPath(Ambiguity::MalformedEncoding)),
            Some(b'%') => return Err(AmbiguousPath(Ambiguity::DoubleEncoding)),
            Some(b'/' | b'\\') => return Err(AmbiguousPath(Ambiguity::EncodedSlash)),
            Some(_) => {}
        }
    }
    let decoded = percent_decode_str(path).decode_utf8();
    let decoded = decoded.map_err(|_| AmbiguousPath(Ambiguity::InvalidUtf8))?;
    for c in decoded.chars() {
        match c {
            '\\' => return Err(AmbiguousPath(Ambiguity::Backslash)),
            '?' | '#' => return Err(AmbiguousPath(Ambiguity::Delimiter)),
            ';' => return Err(AmbiguousPath(Ambiguity::Semicolon)),
            _ if c.is_control() => return Err(AmbiguousPath(Ambiguity::Control)),
            _ => {}
        }
    }
    if decoded.contains("//") {
        return Err(AmbiguousPath(Ambiguity::DoubleSlash));
    }
    if has_dot_segment(&decoded) {
        return Err(AmbiguousPath(Ambiguity::DotSegment));
    }
    Ok(decoded)
}

/// Returns the byte that two hexadecimal digits at the start of `text` stand for.
fn encoded_byte(text: &str) -> Option<u8> {
    let digits = text.get(..2)?;
    // `from_str_radix` alone accepts a sign.
    let is_hex = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    is_hex.then(|| u8::from_str_radix(digits, 16).ok()).flatten()
}

fn has_dot_segment(path: &str) -> bool {
    path.split('/').any(|segment| matches!(segment, "." | ".."))
}

/// Folds letter case and removes a trailing slash, because many upstreams ignore both. Servers
/// differ in their case mappings. A character is mapped to upper and then to lower case, which
/// equates all characters that either mapping equates.
pub(super) fn fold(path: &str) -> Cow<'_, str> {
    let path = match path.strip_suffix('/') {
        Some(rest) if !rest.is_empty() => rest,
        _ => path,
    };
    if path.bytes().all(|byte| byte.is_ascii() && !byte.is_ascii_uppercase()) {
        return Cow::Borrowed(path);
    }
    Cow::Owned(path.chars().flat_map(char::to_uppercase).flat_map(char::to_lowercase).collect())
}

/// The reason why a pattern of a rule is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PatternError {
    /// A pattern without a leading slash.
    #[error("it does not begin with a slash")]
    NotAbsolute,
    /// A wildcard that is not the whole last segment.
    #[error("it holds * elsewhere than in /* at the end")]
    Wildcard,
    /// A percent sign. Patterns are compared with decoded paths.
    #[error("it holds %, but patterns are written decoded, e.g. /caf\u{e9} for /caf%C3%A9")]
    Encoding,
    /// A question mark. Rules do not see the query.
    #[error("it holds ?, but rules match the path without the query")]
    Query,
    /// A character that a request path cannot hold without being refused.
    #[error("it can never match, because requests with {0:?} in the path are refused")]
    Character(char),
    /// Two slashes in a row.
    #[error("it can never match, because requests with two slashes in a row are refused")]
    DoubleSlash,
    /// A segment `.` or `..`.
    #[error("it can never match, because requests with a . or .. segment are refused")]
    DotSegment,
}

/// A set of decoded paths: one path, or one path and all paths below it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct PathSet {
    /// Without the trailing slash if the set has paths below it. Empty for the set of all paths.
    path: String,
    below: bool,
}

impl PathSet {
    /// Returns the set of all paths.
    pub(super) fn all() -> Self {
        Self { path: String::new(), below: true }
    }

    fn contains(&self, path: &str) -> bool {
        match path.strip_prefix(self.path.as_str()) {
            Some("") => true,
            Some(rest) => self.below && rest.starts_with('/'),
            None => false,
        }
    }

    /// Returns true if all paths of the other set are in this one.
    pub(super) fn covers(&self, other: &Self) -> bool {
        self.contains(&other.path) && (self.below || !other.below)
    }
}

/// A pattern of paths, e.g. `/health` or `/orders/*`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct PathPattern {
    exact: PathSet,
    folded: PathSet,
}

impl PathPattern {
    /// Parses a pattern. It is written decoded.
    pub(super) fn parse(text: &str) -> Result<Self, PatternError> {
        if !text.starts_with('/') {
            return Err(PatternError::NotAbsolute);
        }
        let (path, below) = match text.strip_suffix("/*") {
            Some(path) => (path, true),
            None => (text, false),
        };
        for c in path.chars() {
            match c {
                '*' => return Err(PatternError::Wildcard),
                '%' => return Err(PatternError::Encoding),
                '?' => return Err(PatternError::Query),
                '#' | '\\' | ';' => return Err(PatternError::Character(c)),
                _ if c.is_control() => return Err(PatternError::Character(c)),
                _ => {}
            }
        }
        // Includes the slash before the wildcard.
        if text.contains("//") {
            return Err(PatternError::DoubleSlash);
        }
        if has_dot_segment(path) {
            return Err(PatternError::DotSegment);
        }
        let exact = PathSet { path: path.to_owned(), below };
        let folded = PathSet { path: fold(path).into_owned(), below };
        Ok(Self { exact, folded })
    }

    /// Returns true if the pattern matches this decoded path.
    pub(super) fn matches(&self, decoded: &str) -> bool {
        self.exact.contains(decoded)
    }

    /// Returns true if the pattern matches a path that [`fold`] has returned, without regard to
    /// letter case and a trailing slash.
    pub(super) fn matches_folded(&self, folded: &str) -> bool {
        self.folded.contains(folded)
    }

    /// Returns the paths that the pattern matches.
    pub(super) fn paths(&self) -> &PathSet {
        &self.exact
    }

    /// Returns true if the pattern matches all paths of the other one after folding.
    pub(super) fn covers_folded(&self, other: &Self) -> bool {
        self.folded.covers(&other.folded)
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.exact.path)?;
        f.write_str(if self.exact.below { "/*" } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use proptest::prelude::*;

    use super::*;

    fn reason(path: &str) -> Option<Ambiguity> {
        decode(path).err().map(|AmbiguousPath(reason)| reason)
    }

    #[test]
    fn paths_with_more_than_one_reading_are_refused() {
        for (reading, paths) in [
            (Ambiguity::NotAbsolute, &["", "*", "a", "a/b", "%2Fa", ".", "http://a/b", "?"][..]),
            (Ambiguity::Space, &["/a b", "/ ", "/a "]),
            (Ambiguity::NonAscii, &["/\u{e9}", "/a\u{80}", "/\u{ff0e}\u{ff0e}/a"]),
            (Ambiguity::MalformedEncoding, &["/%", "/%4", "/a%4g", "/%%41", "/%+1", "/%u002f"]),
            (Ambiguity::MalformedEncoding, &["/%-1", "/a%/b", "/%x41", "/a%"]),
            (Ambiguity::DoubleEncoding, &["/%25", "/%2541", "/a%252fb", "/%252e%252e/a"]),
            (Ambiguity::EncodedSlash, &["/a%2fb", "/a%2Fb", "/a%5cb", "/a%5Cb", "/..%2fa"]),
            (Ambiguity::Backslash, &["/a\\b", "/\\a", "/..\\a"]),
            (Ambiguity::InvalidUtf8, &["/%ff", "/%c0%af", "/%c0%ae", "/%e0%80%af", "/%c3"]),
            (Ambiguity::InvalidUtf8, &["/%ed%a0%80", "/%f4%90%80%80", "/%80"]),
            (Ambiguity::Control, &["/a\0", "/%00", "/a\tb", "/%0a", "/%0D%0A", "/\u{7f}"]),
            (Ambiguity::Control, &["/%1f", "/%7F", "/%C2%85", "/\u{1}"]),
            (Ambiguity::Delimiter, &["/a#b", "/a%23", "/a?b", "/a%3F"]),
            (Ambiguity::Semicolon, &["/a;b", "/a%3Bb", "/a/..;/b", "/a/..%3b/b", "/;"]),
            (Ambiguity::DoubleSlash, &["//", "//a", "/a//b", "/a//", "/a///"]),
            (Ambiguity::DotSegment, &["/.", "/..", "/a/../b", "/./a", "/a/.", "/a/..", "/../"]),
            (Ambiguity::DotSegment, &["/%2e", "/.%2E", "/a/%2e%2e/b", "/a/%2e."]),
        ] {
            for path in paths {
                assert_eq!(reason(path), Some(reading), "{path:?}");
            }
        }
    }

    #[test]
    fn encoded_byte_is_two_hexadecimal_digits() {
        assert_eq!(encoded_byte("41"), Some(0x41));
        assert_eq!(encoded_byte("fFz"), Some(0xff));
        for bad in ["", "4", "g1", "+1", "-1", " 1", "1\u{e9}", "\u{e9}1", "\u{20ac}"] {
            assert_eq!(encoded_byte(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn path_is_decoded_once() {
        for (path, decoded) in [
            ("/", "/"),
            ("/%61dmin", "/admin"),
            ("/%41", "/A"),
            ("/caf%C3%A9", "/caf\u{e9}"),
            ("/a%20b", "/a b"),
            ("/a+b", "/a+b"),
            ("/...", "/..."),
            ("/.a/b./..c", "/.a/b./..c"),
            ("/a:b@c=d&e,f!", "/a:b@c=d&e,f!"),
            ("/%2a", "/*"),
            ("/a/", "/a/"),
        ] {
            assert_eq!(decode(path).as_deref(), Ok(decoded), "{path}");
        }
    }

    #[test]
    fn plain_path_is_borrowed() {
        for path in ["/", "/orders/1", "/a/b/"] {
            let decoded = decode(path).unwrap();
            assert!(matches!(decoded, Cow::Borrowed(_)), "{path}");
            assert!(matches!(fold(&decoded), Cow::Borrowed(_)), "{path}");
        }
        assert!(matches!(fold("/A"), Cow::Owned(_)));
    }

    #[test]
    fn folding_equates_case_and_one_trailing_slash() {
        for (path, folded) in [
            ("/", "/"),
            ("/a/", "/a"),
            ("/A/B", "/a/b"),
            ("/a//", "/a/"),
            ("/CAF\u{c9}", "/caf\u{e9}"),
            // The Kelvin sign, the long s and the dotless i have ASCII letters as counterparts.
            ("/\u{212a}\u{17f}\u{131}", "/ksi"),
            ("/\u{3a3}\u{3c3}\u{3c2}", "/\u{3c3}\u{3c3}\u{3c3}"),
        ] {
            assert_eq!(fold(path), folded, "{path}");
        }
    }

    fn pattern(text: &str) -> PathPattern {
        PathPattern::parse(text).unwrap()
    }

    #[test]
    fn pattern_matches_segment_by_segment() {
        for (text, good, bad) in [
            ("/a", &["/a"][..], &["/a/", "/A", "/ab", "/", "/a/b"][..]),
            ("/a/", &["/a/"], &["/a", "/a/b", "/"]),
            ("/", &["/"], &["/a"]),
            ("/*", &["/", "/a", "/a/b/"], &[]),
            ("/a/*", &["/a", "/a/", "/a/1", "/a/1/2"], &["/ab", "/", "/A", "/A/1", "/b/a"]),
            ("/a b/\u{e9}/*", &["/a b/\u{e9}", "/a b/\u{e9}/x"], &["/a b", "/a b/e"]),
        ] {
            for path in good {
                assert!(pattern(text).matches(path), "{text} {path}");
                assert!(pattern(text).matches_folded(&fold(path)), "{text} {path}");
            }
            for path in bad {
                assert!(!pattern(text).matches(path), "{text} {path}");
            }
        }
    }

    #[test]
    fn folded_match_ignores_case_and_a_trailing_slash() {
        for (text, path) in [
            ("/a", "/A"),
            ("/A", "/a"),
            ("/a/", "/a"),
            ("/a", "/a/"),
            ("/Ab/*", "/aB/c"),
            ("/\u{e9}/*", "/\u{c9}/c"),
        ] {
            assert!(!pattern(text).matches(path), "{text} {path}");
            assert!(pattern(text).matches_folded(&fold(path)), "{text} {path}");
        }
        assert!(!pattern("/a/*").matches_folded(&fold("/AB")));
        assert!(!pattern("/a").matches_folded(&fold("/A/b")));
    }

    #[test]
    fn pattern_that_can_never_match_is_refused() {
        let character = PatternError::Character;
        for (error, patterns) in [
            (PatternError::NotAbsolute, &["", "a", "*", "*/a", "./a", "%2Fa"][..]),
            (PatternError::Wildcard, &["/a*", "/*/a", "/**", "/a/*/*", "/a/*b", "/*/", "/*a"]),
            (PatternError::Encoding, &["/%", "/%41", "/caf%C3%A9", "/a%2fb/*"]),
            (PatternError::Query, &["/a?b", "/?", "/?/*"]),
            (character('#'), &["/a#b"]),
            (character('\\'), &["/a\\b"]),
            (character(';'), &["/a;b", "/..;/a"]),
            (character('\0'), &["/\0"]),
            (character('\n'), &["/a\n"]),
            (character('\u{7f}'), &["/\u{7f}/*"]),
            (character('\u{85}'), &["/\u{85}"]),
            (PatternError::DoubleSlash, &["//", "//a", "/a//b", "//*", "/a//*"]),
            (PatternError::DotSegment, &["/.", "/..", "/a/../b", "/a/./b", "/../*", "/a/./*"]),
        ] {
            for text in patterns {
                assert_eq!(PathPattern::parse(text), Err(error), "{text:?}");
            }
        }
    }

    #[test]
    fn pattern_covers_patterns_with_a_part_of_its_paths() {
        for (outer, inner) in [
            ("/*", "/*"),
            ("/*", "/"),
            ("/*", "/a/*"),
            ("/a/*", "/a"),
            ("/a/*", "/a/"),
            ("/a/*", "/a/*"),
            ("/a/*", "/a/b/*"),
            ("/a", "/a"),
        ] {
            assert!(pattern(outer).paths().covers(pattern(inner).paths()), "{outer} {inner}");
            assert!(PathSet::all().covers(pattern(inner).paths()), "{inner}");
        }
        for (outer, inner) in [
            ("/a", "/a/*"),
            ("/a/", "/a"),
            ("/", "/*"),
            ("/a/*", "/*"),
            ("/a/*", "/ab"),
            ("/a/*", "/ab/*"),
            ("/a/b/*", "/a/*"),
            ("/a", "/A"),
        ] {
            assert!(!pattern(outer).paths().covers(pattern(inner).paths()), "{outer} {inner}");
        }
        assert!(!pattern("/a/*").paths().covers(&PathSet::all()));
        assert!(pattern("/*").paths().covers(&PathSet::all()));
    }

    /// Returns what a server makes of a path that it decodes once more.
    fn decode_leniently(path: &str) -> String {
        percent_decode_str(path).decode_utf8_lossy().into_owned()
    }

    const PIECES: [&str; 30] = [
        "/", "/", "/", "a", "A", "b", ".", "..", "%2e", "%2F", "%5c", "\\", ";", "%3b", "%", "%25",
        "%2", "%61", "%C3%A9", "%c0%af", " ", "\0", "%00", "#", "?", "%3f", "\u{e9}", "*",
        "%u0061", "%ff",
    ];

    fn raw_path() -> impl Strategy<Value = String> {
        let piece = proptest::sample::select(&PIECES[..]);
        let pieces = proptest::collection::vec(piece, 0..8);
        prop_oneof![pieces.prop_map(|pieces| format!("/{}", pieces.concat())), any::<String>()]
    }

    proptest! {
        #[test]
        fn decoded_path_has_one_reading(path in raw_path()) {
            if let Ok(decoded) = decode(&path) {
                prop_assert_eq!(decode_leniently(&decoded), decoded.as_ref());
                prop_assert!(decoded.starts_with('/'));
                prop_assert!(!decoded.contains("//") && !decoded.contains(['\\', ';', '?', '#']));
                prop_assert!(decoded.split('/').all(|segment| segment != "." && segment != ".."));
                prop_assert_eq!(decoded.matches('/').count(), path.matches('/').count());
                prop_assert!(fold(&decoded).starts_with('/'));
            }
        }

        #[test]
        fn match_implies_folded_match(
            path in raw_path(),
            text in "/[aAb]{0,2}(/[aAb]{0,2})?(/\\*)?",
        ) {
            if let (Ok(decoded), Ok(pattern)) = (decode(&path), PathPattern::parse(&text)) {
                let folded = pattern.matches_folded(&fold(&decoded));
                prop_assert!(folded || !pattern.matches(&decoded));
            }
        }

        #[test]
        fn accepted_pattern_matches_the_path_that_it_is(path in any::<String>()) {
            let text = format!("/{path}");
            if let Ok(pattern) = PathPattern::parse(&text) {
                prop_assert_eq!(pattern.to_string(), text.as_str());
                let path = text.strip_suffix('*').unwrap_or(&text);
                let encoded = percent_encoding::utf8_percent_encode(path, ENCODED).to_string();
                let decoded = decode(&encoded).unwrap();
                prop_assert!(pattern.matches(&decoded));
            }
        }
    }

    const ENCODED: &percent_encoding::AsciiSet = &percent_encoding::CONTROLS.add(b' ');
}
