//! Tables for people.

use std::borrow::Cow;

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// The blanks between two columns.
const GAP: usize = 2;

/// Formats rows in aligned columns. If they are wider than `limit`, cells of the widest columns are
/// cut and end with an ellipsis.
pub(super) fn table<const N: usize>(
    rows: &[[String; N]],
    limit: Option<usize>,
) -> impl Iterator<Item = String> {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.width());
        }
    }
    if let Some(limit) = limit {
        fit(&mut widths, limit.saturating_sub(GAP * N.saturating_sub(1)));
    }
    rows.iter().map(move |row| {
        let mut line = String::new();
        for (width, cell) in widths.iter().zip(row) {
            let cell = cut(cell, *width);
            line.push_str(&cell);
            line.extend(std::iter::repeat_n(' ', width.saturating_sub(cell.width()) + GAP));
        }
        line.truncate(line.trim_end().len());
        line
    })
}

/// Narrows the widest columns until all fit into `room`, or are one character wide.
fn fit(widths: &mut [usize], room: usize) {
    while widths.iter().sum::<usize>() > room {
        match widths.iter_mut().max() {
            Some(widest) if *widest > 1 => *widest -= 1,
            _ => return,
        }
    }
}

/// Cuts a text to a width in terminal cells.
fn cut(text: &str, width: usize) -> Cow<'_, str> {
    if text.width() <= width {
        return text.into();
    }
    let mut kept = String::new();
    let mut room = width.saturating_sub(1);
    for c in text.chars() {
        let Some(left) = room.checked_sub(c.width().unwrap_or(0)) else { break };
        room = left;
        kept.push(c);
    }
    kept.push('…');
    kept.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_with_wide_characters() {
        let rows = [["name", "cost"], ["日本", "12"], ["é", "4"]].map(|row| row.map(str::to_owned));
        let lines: Vec<_> = table(&rows, None).collect();
        assert_eq!(lines, ["name  cost", "日本  12", "é     4"]);
    }

    /// W-19
    #[test]
    fn widest_columns_are_cut_to_the_limit() {
        let rows = [["NAME", "GROUPS", "STATE"], ["roy", "admin,staff,日本語", "active"]];
        let rows = rows.map(|row| row.map(str::to_owned));
        let lines = |limit| table(&rows, Some(limit)).collect::<Vec<_>>();
        assert_eq!(lines(32)[1], "roy   admin,staff,日本語  active");
        assert_eq!(lines(31)[1], "roy   admin,staff,日本…  active");
        assert_eq!(lines(24)[1], "roy   admin,sta…  active");
        assert_eq!(lines(24)[0], "NAME  GROUPS      STATE");
        assert_eq!(lines(13)[1], "roy  ad…  ac…");
        assert_eq!(lines(0)[1], "…  …  …");
        for limit in 7..40 {
            assert!(lines(limit).iter().all(|line| line.width() <= limit), "{limit}");
        }
    }
}
