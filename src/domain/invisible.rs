//! Characters that the author of a password cannot see, and cannot type at every login.
//!
//! Decides which characters of a new password are refused. Knows nothing of the password's length
//! or policy.

use precis_profiles::precis_core::{DerivedPropertyValue, FreeformClass, StringClass};
use unicode_normalization::char::canonical_combining_class;
use unicode_properties::UnicodeEmoji;

/// The canonical combining class of a virama (RFC 5892 appendix A.1).
const VIRAMA: u8 = 9;

const ZERO_WIDTH_NON_JOINER: char = '\u{200C}';
const ZERO_WIDTH_JOINER: char = '\u{200D}';
const EMOJI_PRESENTATION: char = '\u{FE0F}';
const ENCLOSING_KEYCAP: char = '\u{20E3}';

/// Returns the first invisible character and its position, counted in characters from 1.
///
/// Joiners that change the look of their neighbours (RFC 5892 appendices A.1 and A.2) are visible,
/// and so is U+FE0F behind an emoji.
pub(super) fn find_invisible(text: &str) -> Option<(usize, char)> {
    if text.is_ascii() {
        return None;
    }
    let chars: Vec<char> = text.chars().collect();
    let at = (0..chars.len()).find(|at| is_invisible(&chars, *at))?;
    Some((at + 1, chars[at]))
}

fn is_invisible(chars: &[char], at: usize) -> bool {
    let before = at.checked_sub(1).map(|before| chars[before]);
    match chars[at] {
        ZERO_WIDTH_JOINER => !before.is_some_and(is_virama),
        ZERO_WIDTH_NON_JOINER => {
            !before.is_some_and(is_virama) && !breaks_cursive_connection(chars, at)
        }
        EMOJI_PRESENTATION => !before.is_some_and(|before| {
            // Digits are emoji as keycaps only.
            let keycap = chars.get(at + 1) == Some(&ENCLOSING_KEYCAP);
            before.is_emoji_char() && (keycap || !before.is_ascii())
        }),
        c => is_default_ignorable(c) || is_separator(c),
    }
}

fn is_virama(c: char) -> bool {
    canonical_combining_class(c) == VIRAMA
}

/// The rule of U+200C for cursive scripts, applied to the letters and marks around it.
fn breaks_cursive_connection(chars: &[char], at: usize) -> bool {
    let class = FreeformClass::default();
    let is_letter = |c: &&char| class.get_value_from_char(**c) == DerivedPropertyValue::PValid;
    let before = chars[..at].iter().rev().take_while(is_letter).count();
    let after = chars[at + 1..].iter().take_while(is_letter).count();
    let label: String = chars[at - before..=at + after].iter().collect();
    class.allows(label).is_ok()
}

/// The property `Default_Ignorable_Code_Point` of Unicode 17.0 (DerivedCoreProperties.txt).
fn is_default_ignorable(c: char) -> bool {
    matches!(c,
        '\u{AD}' | '\u{34F}' | '\u{61C}' | '\u{115F}'..='\u{1160}' | '\u{17B4}'..='\u{17B5}'
        | '\u{180B}'..='\u{180F}' | '\u{200B}'..='\u{200F}' | '\u{202A}'..='\u{202E}'
        | '\u{2060}'..='\u{206F}' | '\u{3164}' | '\u{FE00}'..='\u{FE0F}' | '\u{FEFF}'
        | '\u{FFA0}' | '\u{FFF0}'..='\u{FFF8}' | '\u{1BCA0}'..='\u{1BCA3}'
        | '\u{1D173}'..='\u{1D17A}' | '\u{E0000}'..='\u{E0FFF}')
}

/// Separators of lines, paragraphs and annotations, which are neither ignorable nor shown.
fn is_separator(c: char) -> bool {
    matches!(c, '\u{2028}' | '\u{2029}' | '\u{FFF9}'..='\u{FFFB}')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// W-02
    #[test]
    fn ignorable_characters_are_invisible() {
        for invisible in "\u{AD}\u{200B}\u{2060}\u{FEFF}\u{202E}\u{2066}\u{E0041}\u{2028}".chars() {
            assert_eq!(find_invisible(&format!("pä{invisible}b")), Some((3, invisible)));
        }
        assert_eq!(find_invisible("a b\u{1F972}é\u{627}\u{2009}"), None);
    }

    /// W-02: the joiners of RFC 5892 appendices A.1 and A.2.
    #[test]
    fn joiner_is_visible_where_it_changes_its_neighbours() {
        // The Persian "mi-khaham" (A.1), and the Hindi "ksha" with a visible virama (A.2).
        assert_eq!(find_invisible("\u{645}\u{6CC}\u{200C}\u{62E}\u{648}"), None);
        assert_eq!(find_invisible("\u{915}\u{94D}\u{200D}\u{937}"), None);
        assert_eq!(find_invisible("\u{915}\u{94D}\u{200C}\u{937}"), None);
        assert_eq!(find_invisible("1\u{200B}\u{200C}"), Some((2, '\u{200B}')));
        for wrong in ["a\u{200C}b", "\u{200C}b", "a\u{200C}", "a\u{200D}b", "\u{1F469}\u{200D}"] {
            assert!(find_invisible(wrong).is_some(), "{wrong:?}");
        }
        let twice = "\u{645}\u{6CC}\u{200C}\u{200C}\u{62E}";
        assert_eq!(find_invisible(twice), Some((3, '\u{200C}')));
    }

    /// W-02
    #[test]
    fn emoji_presentation_is_visible_behind_an_emoji() {
        for emoji in ["\u{2764}\u{FE0F}", "\u{2139}\u{FE0F}", "1\u{FE0F}\u{20E3}", "\u{1F972}"] {
            assert_eq!(find_invisible(emoji), None, "{emoji}");
        }
        for letter in ["a\u{FE0F}", "1\u{FE0F}", "\u{FE0F}", "\u{E9}\u{FE0F}"] {
            assert!(find_invisible(letter).is_some(), "{letter:?}");
        }
    }

    /// W-02: no character that RFC 8264 permits in free text is refused.
    #[test]
    fn permitted_characters_are_visible() {
        let class = FreeformClass::default();
        for c in '\u{80}'..=char::MAX {
            let value = class.get_value_from_char(c);
            let permitted = [DerivedPropertyValue::PValid, DerivedPropertyValue::SpecClassPval];
            if permitted.contains(&value) {
                assert!(!is_default_ignorable(c) && !is_separator(c), "{c:?}");
            }
        }
    }
}
