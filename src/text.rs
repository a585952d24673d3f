//! Untrusted text on terminals, in logs and in shell commands.
//!
//! Decides which characters are escaped and quoted. Knows nothing of the meaning of a text. A
//! message shows text by [`printable`]. A command that an operator may run contains text by
//! [`shell_word`] or [`shell_operand`], always from the raw text.

pub(crate) mod figures;
mod log_fields;

use std::ffi::OsStr;
use std::fmt::Write as _;

pub(crate) use log_fields::log_fields;

/// Escapes text for one line of a terminal or log. Characters that do not print as themselves
/// (controls, ESC, line separators, direction overrides) become escapes. Cuts the text after 200
/// characters.
#[must_use]
pub(crate) fn printable(text: &str) -> String {
    const MOST: usize = 200;
    let mut out = String::new();
    for (n, c) in text.chars().enumerate() {
        if n == MOST {
            out.push('…');
            break;
        }
        match c {
            '\'' | '"' => out.push(c),
            c => out.extend(c.escape_debug()),
        }
    }
    out
}

/// Quotes text as the value of a field in a log line. Escapes it like [`printable`], and quotation
/// marks too, so that it ends at the closing one.
#[must_use]
pub(crate) fn quoted(text: &str) -> String {
    format!("\"{}\"", printable(text).replace('"', "\\\""))
}

/// Quotes text as one word of a shell command that stands for exactly these bytes. The command
/// itself prints on one line without harm. Text with other characters or bytes is quoted as
/// `$'...'` (POSIX.1-2024 section 2.2.4).
#[must_use]
pub(crate) fn shell_word(text: impl AsRef<OsStr>) -> String {
    let text = text.as_ref();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+,:@".contains(c);
    let prints = |c: char| "'\"\\".contains(c) || c.escape_debug().eq([c]);
    match text.to_str() {
        Some(text) if !text.is_empty() && text.chars().all(plain) => text.to_owned(),
        Some(text) if text.chars().all(prints) => format!("'{}'", text.replace('\'', r"'\''")),
        _ => {
            let mut word = "$'".to_owned();
            for byte in text.as_encoded_bytes() {
                match byte {
                    b' '..=b'~' if !b"'\\".contains(byte) => word.push(char::from(*byte)),
                    // Writing to a string cannot fail.
                    _ => drop(write!(word, "\\{byte:03o}")),
                }
            }
            word.push('\'');
            word
        }
    }
}

/// Quotes text as the last operand of a shell command, behind `--` where it would be read as an
/// option.
#[must_use]
pub(crate) fn shell_operand(text: impl AsRef<OsStr>) -> String {
    let text = text.as_ref();
    let end = if text.as_encoded_bytes().starts_with(b"-") { "-- " } else { "" };
    format!("{end}{}", shell_word(text))
}

/// The reason why bytes are not text. It completes a sentence about them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum NotText {
    #[error("is UTF-16 and not UTF-8")]
    Utf16,
    #[error("is not UTF-8")]
    NotUtf8,
}

impl NotText {
    /// Returns advice, if there is any.
    pub(crate) fn hint(self) -> Option<&'static str> {
        match self {
            Self::Utf16 => Some("save it as UTF-8 (PowerShell: Set-Content -Encoding utf8)"),
            Self::NotUtf8 => None,
        }
    }
}

/// Reads text that a user or another program has written: UTF-8, without one leading byte order mark.
///
/// # Errors
/// Fails if it is UTF-16, which some editors and shells write, or not UTF-8.
pub(crate) fn read_text(bytes: &[u8]) -> Result<&str, NotText> {
    if bytes.starts_with(b"\xFF\xFE") || bytes.starts_with(b"\xFE\xFF") {
        return Err(NotText::Utf16);
    }
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
    std::str::from_utf8(bytes).map_err(|_| NotText::NotUtf8)
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;
    use std::process::Command;

    use super::*;

    /// X-02
    #[test]
    fn printable_text_is_one_short_line() {
        assert_eq!(printable("a'b\"ü"), "a'b\"ü");
        assert_eq!(printable("a\n\x1B[2J\u{2028}\u{202E}\\"), r"a\n\u{1b}[2J\u{2028}\u{202e}\\");
        let long = printable(&"n".repeat(8192));
        assert_eq!(long, format!("{}…", "n".repeat(200)));
    }

    /// W-06
    #[test]
    fn quoted_text_ends_at_its_closing_quotation_mark() {
        assert_eq!(quoted("Jane Doe"), r#""Jane Doe""#);
        assert_eq!(quoted(r#"x request="y"#), r#""x request=\"y""#);
        assert_eq!(quoted("CORP\\"), r#""CORP\\""#);
        assert_eq!(quoted("a\nb"), r#""a\nb""#);
    }

    /// R-12
    #[test]
    fn shell_word_is_quoted_from_the_raw_text() {
        assert_eq!(shell_word("/a/b-1.db"), "/a/b-1.db");
        assert_eq!(shell_word("/a b/it's.db"), r"'/a b/it'\''s.db'");
        assert_eq!(shell_word(r"CORP\roy"), r"'CORP\roy'");
        assert_eq!(shell_word("$(id)"), "'$(id)'");
        assert_eq!(shell_word(""), "''");
        assert_eq!(shell_word("/ä"), "'/ä'");
        assert_eq!(shell_word("/a\nb'\\"), r"$'/a\012b\047\134'");
        assert_eq!(shell_word("\u{202E}"), r"$'\342\200\256'");
        assert_eq!(shell_word(OsStr::from_bytes(b"/\xFF0")), r"$'/\3770'");
        assert_eq!(shell_word("n".repeat(300)).len(), 300, "a command is never cut");
        assert_eq!(shell_operand("-f"), "-- -f");
        assert_eq!(shell_operand("f"), "f");
    }

    /// Reads a word as a shell does.
    fn read_by_shell(word: &str) -> Vec<u8> {
        if let Some(escaped) = word.strip_prefix("$'").and_then(|rest| rest.strip_suffix('\'')) {
            let mut bytes = escaped.bytes();
            let mut read = Vec::new();
            while let Some(byte) = bytes.next() {
                read.push(if byte == b'\\' {
                    let digits: Vec<_> = bytes.by_ref().take(3).collect();
                    u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 8).unwrap()
                } else {
                    byte
                });
            }
            return read;
        }
        let script = format!("printf %s {word}");
        Command::new("sh").args(["-c", &script]).output().unwrap().stdout
    }

    /// W-01
    #[test]
    fn one_byte_order_mark_is_dropped_and_utf16_is_named() {
        assert_eq!(read_text(b"roy"), Ok("roy"));
        assert_eq!(read_text(b"\xEF\xBB\xBFroy"), Ok("roy"));
        assert_eq!(read_text(b"\xEF\xBB\xBF\xEF\xBB\xBFroy"), Ok("\u{FEFF}roy"));
        assert_eq!(read_text(b""), Ok(""));
        assert_eq!(read_text(b"\xFF\xFEr\0o\0y\0"), Err(NotText::Utf16));
        assert_eq!(read_text(b"\xFE\xFF\0r\0o\0y"), Err(NotText::Utf16));
        assert_eq!(read_text(b"caf\xE9"), Err(NotText::NotUtf8));
    }

    proptest::proptest! {
        #![proptest_config(proptest::test_runner::Config::with_cases(64))]

        /// R-12
        #[test]
        fn shell_reads_a_word_as_the_raw_text(
            bytes in proptest::collection::vec(1u8..=255, 0..40),
            text in "\\PC{0,40}",
            ascii in "[ -~]{0,40}",
        ) {
            for raw in [bytes.as_slice(), text.as_bytes(), ascii.as_bytes()] {
                let word = shell_word(OsStr::from_bytes(raw));
                assert_eq!(read_by_shell(&word), raw, "{word}");
                assert!(!word.chars().any(|c| c.is_control() || "\u{2028}\u{2029}\u{202E}".contains(c)));
            }
        }

        /// X-02
        #[test]
        fn arbitrary_text_is_printed_on_one_line(text in "\\PC{0,300}|(?s).{0,300}") {
            let shown = printable(&text);
            assert!(!shown.chars().any(|c| c.is_control() || "\u{2028}\u{2029}\u{202E}".contains(c)));
        }
    }
}
