//! Tables for people.

use unicode_width::UnicodeWidthStr;

/// Formats rows in aligned columns.
pub(super) fn table<const N: usize>(rows: &[[String; N]]) -> impl Iterator<Item = String> {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.width());
        }
    }
    rows.iter().map(move |row| {
        let mut line = String::new();
        for (width, cell) in widths.iter().zip(row) {
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', width + 2 - cell.width()));
        }
        line.truncate(line.trim_end().len());
        line
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_with_wide_characters() {
        let rows = [["name", "cost"], ["日本", "12"], ["é", "4"]].map(|row| row.map(str::to_owned));
        let lines: Vec<_> = table(&rows).collect();
        assert_eq!(lines, ["name  cost", "日本  12", "é     4"]);
    }
}
