//! Numbers for people.

/// A count with three digits: `123`, `1.23 K`, `45.6 M`.
pub fn count(value: u64) -> String {
    scaled(value, 1000.0, &["", " K", " M", " G", " T", " P", " E"])
}

/// Bytes with three digits: `512 B`, `1.5 KiB`.
pub fn bytes(value: u64) -> String {
    scaled(value, 1024.0, &[" B", " KiB", " MiB", " GiB", " TiB", " PiB"])
}

/// A context length: `1 Ki`, `128 Ki`.
pub fn positions(value: u64) -> String {
    scaled(value, 1024.0, &["", " Ki", " Mi", " Gi"])
}

fn scaled(value: u64, step: f64, units: &[&str]) -> String {
    let (mut number, mut unit) = (value as f64, 0);
    // 999.5 would round to a fourth digit.
    while number >= step.min(999.5) && unit + 1 < units.len() {
        number /= step;
        unit += 1;
    }
    let digits = if unit == 0 || number >= 99.95 {
        0
    } else if number >= 9.995 {
        1
    } else {
        2
    };
    let text = format!("{number:.digits$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{}", units[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_digits() {
        assert_eq!([0, 999, 1000, 1234, 999_999, 45_600_000].map(count), ["0", "999", "1 K", "1.23 K", "1 M", "45.6 M"]);
        assert_eq!([512, 1023, 1536, 1 << 20].map(bytes), ["512 B", "1 KiB", "1.5 KiB", "1 MiB"]);
        assert_eq!([1024, 131_072].map(positions), ["1 Ki", "128 Ki"]);
    }
}
