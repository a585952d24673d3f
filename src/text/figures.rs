//! Figures in words, for people.

/// Formats whole seconds with their two largest units, e.g. `3 d 4 h`.
#[must_use]
pub(crate) fn duration(seconds: u64) -> String {
    let units = [("d", 86_400), ("h", 3600), ("min", 60), ("s", 1)];
    let first = units.iter().position(|(_, size)| seconds >= *size).unwrap_or(units.len() - 1);
    let mut left = seconds;
    let mut words = Vec::new();
    for (unit, size) in units.iter().skip(first).take(2) {
        let count = left / size;
        left %= size;
        if count > 0 || words.is_empty() {
            words.push(format!("{count} {unit}"));
        }
    }
    words.join(" ")
}

/// Formats a time in a fitting unit, e.g. `231 ms`.
#[must_use]
pub(crate) fn seconds(seconds: f64) -> String {
    match seconds {
        ..0.001 => format!("{:.0} us", seconds * 1e6),
        ..1.0 => format!("{:.0} ms", seconds * 1e3),
        ..120.0 => format!("{seconds:.1} s"),
        _ => duration(seconds as u64),
    }
}

/// Formats a number of bytes, in units of 1,000.
#[must_use]
pub(crate) fn bytes(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}

/// Formats a part of 1 in percent.
#[must_use]
pub(crate) fn percent(part: f64) -> String {
    format!("{:.1} %", part * 100.0)
}

/// Formats events per second.
#[must_use]
pub(crate) fn rate(per_second: f64) -> String {
    if per_second >= 100.0 { format!("{per_second:.0}") } else { format!("{per_second:.1}") }
}

/// Returns a number with its noun, e.g. `2 lines`.
#[must_use]
pub(crate) fn plural(count: u64, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_a_fitting_unit() {
        for (time, words) in [
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 min"),
            (3599, "59 min 59 s"),
            (3600, "1 h"),
            (86_400 * 3 + 3600 * 4 + 59, "3 d 4 h"),
        ] {
            assert_eq!(duration(time), words);
        }
        let times = [0.000_05, 0.231, 1.25, 119.0, 7200.0].map(seconds);
        assert_eq!(times, ["50 us", "231 ms", "1.2 s", "119.0 s", "2 h"]);
        let sizes = [999, 1000, 23_100_000, 4_000_000_000].map(bytes);
        assert_eq!(sizes, ["999 B", "1.0 kB", "23.1 MB", "4.0 GB"]);
        assert_eq!([0.25, 99.96, 12_345.6].map(rate), ["0.2", "100.0", "12346"]);
        assert_eq!(percent(0.9973), "99.7 %");
    }
}
