//! Numbers as people read them: three significant digits and a unit.

/// `x` with about three significant digits, never in exponent form: `0.0123`, `1.23`, `12.3`, `123`, `1234`.
pub fn significant(x: f64) -> String {
    if !x.is_finite() {
        return format!("{x}");
    }
    if x == 0.0 {
        return "0".into();
    }
    let digits = 2 - x.abs().log10().floor() as i32;
    // Rounding can add a digit: 9.996 has two decimals by its logarithm, and would read 10.00.
    let rounded: f64 = format!("{x:.*}", digits.clamp(0, 12) as usize).parse().unwrap_or(x);
    let digits = if rounded == 0.0 { digits } else { 2 - rounded.abs().log10().floor() as i32 };
    format!("{x:.*}", digits.clamp(0, 12) as usize)
}

/// Seconds with a fitting unit: `12.3 ns`, `1.23 µs`, `12.3 ms`, `1.23 s`.
pub fn seconds(s: f64) -> String {
    let (factor, unit) = match s.abs() {
        x if x == 0.0 || x >= 0.9995 => (1.0, "s"),
        x if x >= 0.9995e-3 => (1e3, "ms"),
        x if x >= 0.9995e-6 => (1e6, "µs"),
        _ => (1e9, "ns"),
    };
    format!("{} {unit}", significant(s * factor))
}

/// Bytes in powers of 1024: `512 B`, `1.50 KiB`, `32.0 MiB`.
pub fn bytes(b: f64) -> String {
    let power = if b < 1.0 { 0 } else { (b.log2() / 10.0).floor().clamp(0.0, 4.0) as usize };
    let unit = ["B", "KiB", "MiB", "GiB", "TiB"][power];
    format!("{} {unit}", significant(b / 1024f64.powi(power as i32)))
}

/// A share in percent, without decimals from 10 % on.
pub fn percent(x: f64) -> String {
    if x < 0.0995 { format!("{:.1} %", 100.0 * x) } else { format!("{:.0} %", 100.0 * x) }
}

/// A ratio of times: `1.84×`, `12.3×`.
pub fn ratio(x: f64) -> String {
    format!("{}×", significant(x))
}

/// The day of a moment in seconds since the beginning of 1970, UTC: `2026-11-23`.
pub fn date(seconds: u64) -> String {
    let moment = i64::try_from(seconds).ok().and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    moment.map_or_else(|| "another age".into(), |moment| moment.strftime("%Y-%m-%d").to_string())
}

/// A whole number with thin groups of three: `1 048 576`.
pub fn grouped(n: usize) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) && digits.len() > 4 {
            out.push('\u{202f}');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days() {
        assert_eq!(
            [0, 86_399, 86_400, 1_763_856_000].map(date),
            ["1970-01-01", "1970-01-01", "1970-01-02", "2025-11-23"]
        );
        assert_eq!(date(u64::MAX), "another age");
    }

    #[test]
    fn three_digits() {
        let all = [0.0, 0.012_345, 1.2345, 9.996, 12.345, 99.96, 123.45, 1234.5];
        let text: Vec<String> = all.into_iter().map(significant).collect();
        assert_eq!(text, ["0", "0.0123", "1.23", "10.0", "12.3", "100", "123", "1234"]);
        assert_eq!(significant(f64::NAN), "NaN");
        assert_eq!(significant(-0.5), "-0.500");
    }

    #[test]
    fn units() {
        assert_eq!(seconds(3.214e-5), "32.1 µs");
        assert_eq!(seconds(9.999e-4), "1.00 ms");
        assert_eq!(seconds(4.2e-8), "42.0 ns");
        assert_eq!(seconds(2.5), "2.50 s");
        assert_eq!(bytes(1_610_612_736.0), "1.50 GiB");
        assert_eq!(bytes(12.0), "12.0 B");
        assert_eq!(percent(0.0312), "3.1 %");
        assert_eq!(percent(0.846), "85 %");
        assert_eq!(ratio(1.8432), "1.84×");
        assert_eq!(grouped(1_048_576), "1\u{202f}048\u{202f}576");
        assert_eq!(grouped(4096), "4096");
    }
}
