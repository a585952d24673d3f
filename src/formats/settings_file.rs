//! A TOML file with settings: keys with a text, a number, `true`, `false`, or a list of texts and
//! numbers.
//!
//! Decides how settings are written down. Knows no setting.

use std::fmt;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::text::printable;

/// A setting of a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct FileSetting {
    pub(crate) key: String,
    pub(crate) value: FileValue,
    pub(crate) position: FilePosition,
}

/// The value of a setting.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum FileValue {
    /// A text, or a number as text.
    One(String),
    Flag(bool),
    List(Vec<String>),
}

/// A position in a file. Both numbers begin with 1, and columns count characters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct FilePosition {
    line: usize,
    column: usize,
}

impl FilePosition {
    fn of(text: &str, span: &Range<usize>) -> Self {
        let before = text.get(..span.start).unwrap_or(text);
        let line = before.rsplit('\n').next().unwrap_or_default();
        Self { line: before.matches('\n').count() + 1, column: line.chars().count() + 1 }
    }
}

impl fmt::Display for FilePosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}", self.line, self.column)
    }
}

/// The reason why a part of the file is refused.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{position}: {why}")]
pub(crate) struct SettingsFileError {
    pub(crate) position: FilePosition,
    pub(crate) why: String,
}

/// Parses a file. Returns the result of each setting, in the order of the file.
///
/// # Errors
/// Fails if the text is no TOML.
pub(crate) fn parse(
    text: &str,
) -> Result<Vec<Result<FileSetting, SettingsFileError>>, SettingsFileError> {
    let table = DeTable::parse(text).map_err(|e| SettingsFileError {
        position: FilePosition::of(text, &e.span().unwrap_or(0..0)),
        why: printable(e.message()),
    })?;
    let mut settings: Vec<_> = table
        .into_inner()
        .into_iter()
        .map(|(key, value)| {
            let position = FilePosition::of(text, &key.span());
            (position, setting(text, key.into_inner().into_owned(), position, &value))
        })
        .collect();
    settings.sort_by_key(|(position, _)| *position);
    Ok(settings.into_iter().map(|(_, setting)| setting).collect())
}

fn setting(
    text: &str,
    key: String,
    position: FilePosition,
    value: &Spanned<DeValue<'_>>,
) -> Result<FileSetting, SettingsFileError> {
    let refused = |span: &Range<usize>, why: &str| SettingsFileError {
        position: FilePosition::of(text, span),
        why: why.to_owned(),
    };
    const EXPECTED: &str = "expected a text in quotes, a number, true, false, or a list of texts";
    let value = match value.get_ref() {
        DeValue::Boolean(flag) => FileValue::Flag(*flag),
        DeValue::Array(items) => {
            let items = items.iter().map(|item| {
                one(item.get_ref())
                    .ok_or_else(|| refused(&item.span(), "expected a text in quotes"))
            });
            FileValue::List(items.collect::<Result<_, _>>()?)
        }
        other => FileValue::One(one(other).ok_or_else(|| refused(&value.span(), EXPECTED))?),
    };
    Ok(FileSetting { key, value, position })
}

/// Returns a text, or a number as text.
fn one(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) => {
            let number = i64::from_str_radix(number.as_str(), number.radix()).ok()?;
            Some(number.to_string())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Vec<Result<FileSetting, String>> {
        let settings = parse(text).unwrap().into_iter();
        settings.map(|setting| setting.map_err(|e| e.to_string())).collect()
    }

    /// M-06
    #[test]
    fn settings_have_texts_numbers_flags_and_lists() {
        let text = "# a comment\nport = 8_080\nrehash = true\n\nrealm = \"é\"\nlist = [\"a\", 2]\n";
        let expected = [
            ("port", FileValue::One("8080".to_owned()), 2),
            ("rehash", FileValue::Flag(true), 3),
            ("realm", FileValue::One("é".to_owned()), 5),
            ("list", FileValue::List(vec!["a".to_owned(), "2".to_owned()]), 6),
        ];
        let expected = expected.map(|(key, value, line)| {
            let position = FilePosition { line, column: 1 };
            Ok(FileSetting { key: key.to_owned(), value, position })
        });
        assert_eq!(parsed(text), expected);
        assert_eq!(parsed(""), []);
    }

    /// M-06
    #[test]
    fn other_values_are_refused_with_their_position() {
        let expected = "expected a text in quotes, a number, true, false, or a list of texts";
        for (text, why) in [
            ("a = 1.5", format!("line 1, column 5: {expected}")),
            ("\na = 2027-01-31", format!("line 2, column 5: {expected}")),
            ("[serve]\nport = 1", format!("line 1, column 1: {expected}")),
            (
                "é = [[1]]",
                "line 1, column 1: invalid unquoted key, expected letters, numbers, `-`, `_`"
                    .to_owned(),
            ),
            ("a = [1, [2]]", "line 1, column 9: expected a text in quotes".to_owned()),
        ] {
            let error = match parse(text) {
                Ok(settings) => settings[0].clone().unwrap_err(),
                Err(e) => e,
            };
            assert_eq!(error.to_string(), why, "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_text_does_not_panic(text in "(?s).{0,80}") {
            let _ = parse(&text);
        }
    }
}
