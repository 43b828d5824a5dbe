//! Spans of time as systemd writes them, systemd.time(7): `30`, `5min 20s`, `1.5h`, `1h30m`.

use std::time::Duration;

/// Unit and its length in microseconds, systemd's table in `extract_multiplier()`.
const UNITS: [(&str, u64); 31] = [
    ("seconds", 1_000_000),
    ("second", 1_000_000),
    ("sec", 1_000_000),
    ("s", 1_000_000),
    ("minutes", 60_000_000),
    ("minute", 60_000_000),
    ("min", 60_000_000),
    ("months", 2_629_800_000_000),
    ("month", 2_629_800_000_000),
    ("M", 2_629_800_000_000),
    ("msec", 1_000),
    ("ms", 1_000),
    ("m", 60_000_000),
    ("hours", 3_600_000_000),
    ("hour", 3_600_000_000),
    ("hr", 3_600_000_000),
    ("h", 3_600_000_000),
    ("days", 86_400_000_000),
    ("day", 86_400_000_000),
    ("d", 86_400_000_000),
    ("weeks", 604_800_000_000),
    ("week", 604_800_000_000),
    ("w", 604_800_000_000),
    ("years", 31_557_600_000_000),
    ("year", 31_557_600_000_000),
    ("y", 31_557_600_000_000),
    ("usec", 1),
    ("us", 1),
    ("µs", 1),
    ("μs", 1),
    ("", 1_000_000),
];

/// A span of time; without a unit a number is seconds. `None` where it is none, or is longer than can be said.
pub(super) fn read(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    let mut total: u64 = 0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let (number, after) = number(rest)?;
        let after = after.trim_start();
        let end = after.find(|c: char| !c.is_alphabetic()).unwrap_or(after.len());
        let (unit, after) = after.split_at_checked(end)?;
        let (_, length) = UNITS.iter().find(|(name, _)| *name == unit)?;
        total = total.checked_add(micros(number, *length)?)?;
        rest = after.trim_start();
    }
    Some(Duration::from_micros(total))
}

/// The digits before and behind the point, and what follows.
type Number<'a> = (&'a str, &'a str);

fn number(text: &str) -> Option<(Number<'_>, &str)> {
    let digits = |text: &str| text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (whole, rest) = text.split_at_checked(digits(text))?;
    let (part, rest) = match rest.strip_prefix('.') {
        Some(rest) => rest.split_at_checked(digits(rest))?,
        None => ("", rest),
    };
    (!whole.is_empty() || !part.is_empty()).then_some(((whole, part), rest))
}

fn micros((whole, part): Number<'_>, length: u64) -> Option<u64> {
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let mut sum = whole.checked_mul(length)?;
    let mut place = length;
    for digit in part.bytes() {
        place /= 10;
        sum = sum.checked_add(place.checked_mul(u64::from(digit.wrapping_sub(b'0')))?)?;
    }
    Some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn spans_are_read_as_systemd_reads_them() {
        let millis = |text| read(text).map(|span| span.as_millis());
        for (text, expected) in [
            ("30", 30_000),
            ("0", 0),
            (" 5min 20s ", 320_000),
            ("1h30m", 5_400_000),
            ("1.5h", 5_400_000),
            (".5", 500),
            ("2 h", 7_200_000),
            ("5min 20", 320_000),
            ("100ms", 100),
            ("1w", 604_800_000),
            ("3µs", 0),
            ("2M", 5_259_600_000),
        ] {
            assert_eq!(millis(text), Some(expected), "{text}");
        }
        for text in
            ["", " ", "x", "5 parsecs", "-1", "1.", "99999999999999999999", "99999999999999y", "5min,"]
        {
            assert_eq!(millis(text), if text == "1." { Some(1000) } else { None }, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn a_number_is_seconds(seconds in 0u64..1_000_000_000) {
            prop_assert_eq!(read(&seconds.to_string()), Some(Duration::from_secs(seconds)));
            prop_assert_eq!(read(&format!("{seconds}s 5ms")), Some(Duration::from_millis(seconds * 1000 + 5)));
        }

        #[test]
        fn no_text_is_too_much(text in "[0-9.a-z µ]{0,40}") {
            let _ = read(&text);
        }
    }
}
