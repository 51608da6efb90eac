//! Numbers as a person reads them at a glance, in few columns: texts, bars, lines of blocks.

/// Up to four digits that matter: `999`, `12,345`, `1.23M`.
pub(super) fn count(value: u64) -> String {
    if value < 100_000 {
        return match value {
            0..1_000 => value.to_string(),
            _ => format!("{},{:03}", value / 1_000, value % 1_000),
        };
    }
    scaled(value as f64, &["", "k", "M", "G", "T", "P", "E"])
}

/// `512 B`, `1.23 MB`.
pub(super) fn bytes(value: u64) -> String {
    match value {
        0..1_000 => format!("{value} B"),
        _ => scaled(value as f64, &["", " kB", " MB", " GB", " TB", " PB", " EB"]),
    }
}

/// So many a second: `0`, `0.4`, `12.5`, `1,234`.
pub(super) fn rate(value: f64) -> String {
    match value {
        ..0.05 => "0".to_owned(),
        ..99.95 => format!("{value:.1}"),
        _ => count(whole(value)),
    }
}

/// So many bytes a second.
pub(super) fn byte_rate(value: f64) -> String {
    bytes(whole(value))
}

/// `250 ns`, `1.20 ms`, `3.50 s`.
pub(super) fn seconds(value: Option<f64>) -> String {
    let Some(value) = value else { return "-".to_owned() };
    let nanos = value * 1e9;
    if nanos >= 1e12 {
        return format!("{value:.0} s");
    }
    scaled(nanos, &[" ns", " µs", " ms", " s"])
}

/// `5s`, `4m 5s`, `3h 4m`, `2d 3h`.
pub(super) fn span(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m {}s", seconds % 60),
        (0, _, _) => format!("{hours}h {}m", minutes % 60),
        _ => format!("{days}d {}h", hours % 24),
    }
}

/// `42.0%`.
pub(super) fn percent(part: f64) -> String {
    format!("{:.1}%", part * 100.0)
}

/// Three digits and a unit of thousands.
fn scaled(mut value: f64, units: &[&str]) -> String {
    let mut units = units.iter().peekable();
    let mut unit = units.next();
    // What would be written as 1000 is one of the next unit.
    while value >= 999.5 && units.peek().is_some() {
        value /= 1_000.0;
        unit = units.next();
    }
    let unit = unit.copied().unwrap_or_default();
    match value {
        ..9.995 => format!("{value:.2}{unit}"),
        ..99.95 => format!("{value:.1}{unit}"),
        _ => format!("{value:.0}{unit}"),
    }
}

/// The nearest whole number; none below zero.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
pub(super) fn whole(value: f64) -> u64 {
    value.round() as u64
}

/// A bar of at most `width` columns for a part of the whole, to an eighth of a column.
pub(super) fn bar(part: f64, width: usize) -> String {
    const EIGHTHS: [char; 8] = [' ', '▏', '▎', '▍', '▌', '▋', '▊', '▉'];
    let eighths = whole(part.clamp(0.0, 1.0) * (width * 8) as f64);
    // Whatever is something can be seen.
    let eighths = if part > 0.0 { eighths.max(1) } else { 0 };
    let (full, rest) = (usize::try_from(eighths / 8).unwrap_or(width), (eighths % 8) as usize);
    let mut bar = "█".repeat(full);
    if rest > 0 {
        bar.extend(EIGHTHS.get(rest));
    }
    bar
}

/// The last `width` values, each as high as it is beside the highest of them.
pub(super) fn sparkline(values: &[u64], width: usize) -> String {
    const HEIGHTS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let last = values.get(values.len().saturating_sub(width)..).unwrap_or_default();
    let most = last.iter().copied().max().unwrap_or_default().max(1);
    let missing = width.saturating_sub(last.len());
    let height = |value: &u64| {
        let height = usize::try_from(u128::from(*value) * 8 / u128::from(most)).unwrap_or(8);
        let height = if *value > 0 { height.max(1) } else { 0 };
        HEIGHTS.get(height).copied().unwrap_or(' ')
    };
    std::iter::repeat_n(' ', missing).chain(last.iter().map(height)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_bytes_are_short() {
        for (value, text) in [
            (0, "0"),
            (999, "999"),
            (1_000, "1,000"),
            (99_999, "99,999"),
            (100_000, "100k"),
            (999_499, "999k"),
            (999_500, "1.00M"),
            (12_345_678, "12.3M"),
            (u64::MAX, "18.4E"),
        ] {
            assert_eq!(count(value), text);
        }
        for (value, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1_500, "1.50 kB"),
            (999_600, "1.00 MB"),
            (u64::MAX, "18.4 EB"),
        ] {
            assert_eq!(bytes(value), text);
        }
        assert_eq!(["0", "0.4", "12.5", "1,234"], [0.0, 0.4, 12.5, 1_234.4].map(rate)[..]);
    }

    #[test]
    fn times_have_a_fitting_unit() {
        let texts = [0.000_000_25, 0.000_001_5, 0.0012, 3.5, 15_000.0].map(|s| seconds(Some(s)));
        assert_eq!(texts, ["250 ns", "1.50 µs", "1.20 ms", "3.50 s", "15000 s"]);
        assert_eq!(seconds(None), "-");
        assert_eq!([5, 65, 7_260, 180_000].map(span), ["5s", "1m 5s", "2h 1m", "2d 2h"]);
    }

    #[test]
    fn bars_and_lines_have_their_width() {
        assert_eq!(
            (bar(0.5, 4), bar(1.0, 4), bar(0.0, 4)),
            ("██".into(), "████".into(), "".into())
        );
        assert_eq!((bar(0.3, 4), bar(0.0001, 4)), ("█▎".into(), "▏".into()));
        assert_eq!(bar(7.0, 3), "███");
        assert_eq!(sparkline(&[0, 1, 4, 8], 6), "   ▁▄█");
        assert_eq!(sparkline(&[9, 9, 0, 0], 2), "  ");
        assert_eq!(sparkline(&[1, 100], 2), "▁█");
        assert_eq!(sparkline(&[], 3), "   ");
        assert_eq!(sparkline(&[u64::MAX, u64::MAX / 2], 2), "█▃");
    }
}
