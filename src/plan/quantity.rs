//! Numbers, rates and spans of time as people write them: `2M`, `20k/s`, `90/min`, `30s`.

use std::fmt;
use std::time::Duration;

/// Why a text is no quantity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// Not a number.
    #[error("{0:?} is no number: write it as in 500, 20k, 1.5M or 2G")]
    NoNumber(String),
    /// A number with more digits than its suffix makes whole.
    #[error("{0:?} is no whole number")]
    NotWhole(String),
    /// A number that is larger than anything that is counted here.
    #[error("{0} is too large a number: {MOST} is the largest")]
    TooLarge(String),
    /// Nothing.
    #[error("0 is nothing to plan for: write a number of at least 1")]
    Zero,
    /// A rate of something else.
    #[error("{0:?} is no rate: write it as in 20k/s, 90/min or 5/h; a number alone is per second")]
    NoRate(String),
    /// Not a span of time.
    #[error("{0:?} is no span of time: write it as in 500ms, 30s or 5min")]
    NoTime(String),
}

/// The largest number, a hundred times more than the connections of any host.
pub(super) const MOST: u64 = 1_000_000_000_000;

/// New connections in a span of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// How many, at least 1.
    pub count: u64,
    /// In which time, never none.
    pub per: Duration,
}

/// Texts of others are shown to this length.
fn cut(text: &str) -> String {
    text.chars().take(40).collect()
}

/// A number from 1 on: `500`, `2_000_000`, `20k`, `1.5M`, `2G`.
pub fn count(text: &str) -> Result<u64, QuantityError> {
    let (digits, factor) = match text.char_indices().next_back() {
        Some((at, 'k' | 'K')) => (text.get(..at).unwrap_or_default(), 1_000),
        Some((at, 'M')) => (text.get(..at).unwrap_or_default(), 1_000_000),
        Some((at, 'G')) => (text.get(..at).unwrap_or_default(), 1_000_000_000),
        _ => (text, 1),
    };
    let (whole, part) = digits.split_once('.').unwrap_or((digits, "0"));
    let plain =
        |text: &str| text.starts_with(|c: char| c.is_ascii_digit()) && text.bytes().all(is_digit_or_gap);
    if !plain(whole) || !plain(part) {
        return Err(QuantityError::NoNumber(cut(text)));
    }
    let too_large = || QuantityError::TooLarge(cut(text));
    let mut number = 0u64;
    for digit in whole.bytes().filter(u8::is_ascii_digit) {
        number = number.checked_mul(10).ok_or_else(too_large)?;
        number = number.checked_add(u64::from(digit - b'0')).ok_or_else(too_large)?;
    }
    number = number.checked_mul(factor).ok_or_else(too_large)?;
    let mut place = factor;
    for digit in part.bytes().filter(u8::is_ascii_digit) {
        if !place.is_multiple_of(10) && digit != b'0' {
            return Err(QuantityError::NotWhole(cut(text)));
        }
        place /= 10;
        number = number.checked_add(u64::from(digit - b'0') * place).ok_or_else(too_large)?;
    }
    match number {
        0 => Err(QuantityError::Zero),
        number if number > MOST => Err(too_large()),
        number => Ok(number),
    }
}

fn is_digit_or_gap(byte: u8) -> bool {
    byte.is_ascii_digit() || byte == b'_'
}

/// A span of time that is not none: `500ms`, `30s`, `5min`, `1h 30min`.
pub fn span(text: &str) -> Result<Duration, QuantityError> {
    humantime::parse_duration(text).map_err(|_| QuantityError::NoTime(cut(text)))
}

impl std::str::FromStr for Rate {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let (number, unit) = text.split_once('/').unwrap_or((text, "s"));
        let per = match unit {
            "s" | "sec" | "second" => 1,
            "min" | "m" | "minute" => 60,
            "h" | "hour" => 3600,
            _ => return Err(QuantityError::NoRate(cut(text))),
        };
        let count = count(number).map_err(|error| match error {
            QuantityError::NoNumber(_) => QuantityError::NoRate(cut(text)),
            error => error,
        })?;
        Ok(Self { count, per: Duration::from_secs(per) })
    }
}

impl Rate {
    /// How many begin in a time, at most.
    pub(super) fn in_time(self, time: Duration) -> u128 {
        (u128::from(self.count) * time.as_nanos()).div_ceil(self.per.as_nanos().max(1))
    }

    /// How many begin in a second.
    #[must_use]
    pub fn per_second(self) -> f64 {
        self.count as f64 / self.per.as_secs_f64()
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rate = self.per_second();
        match rate {
            rate if rate >= 100.0 => write!(f, "{}/s", shown(rounded(rate))),
            rate if rate >= 1.0 => write!(f, "{rate:.1}/s"),
            rate if rate >= 1.0 / 60.0 => write!(f, "{:.1}/min", rate * 60.0),
            rate => write!(f, "{:.2}/h", rate * 3600.0),
        }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "rates are neither negative nor that large"
)]
fn rounded(rate: f64) -> u128 {
    rate.round() as u128
}

/// A number with commas between its thousands.
#[must_use]
pub fn shown(number: impl Into<u128>) -> String {
    let digits = number.into().to_string();
    let mut text = String::new();
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_are_read_with_their_suffixes() {
        for (text, number) in [
            ("1", 1),
            ("2_000_000", 2_000_000),
            ("20k", 20_000),
            ("20K", 20_000),
            ("2M", 2_000_000),
            ("1.5M", 1_500_000),
            ("0.001k", 1),
            ("7.0", 7),
            ("1000G", 1_000_000_000_000),
        ] {
            assert_eq!(count(text), Ok(number), "{text}");
        }
        let error = |text: &str| count(text).unwrap_err().to_string();
        for text in ["", "k", "-1", "+1", "1e6", "1.", ".5", "2m", "2 M", "1,000", "_1", "１"] {
            assert!(error(text).contains("is no number"), "{text}");
        }
        for text in ["0", "0k", "0.0M", "0000"] {
            assert!(error(text).contains("nothing to plan for"), "{text}");
        }
        for text in ["1.5", "1.0001k", "0.5"] {
            assert!(error(text).contains("no whole number"), "{text}");
        }
        for text in ["1001G", "99999999999999999999", "18446744073709551615G", "1000000000001"] {
            assert!(error(text).contains("too large"), "{text}");
        }
    }

    #[test]
    fn rates_are_read_with_their_units() {
        let rate = |text: &str| text.parse::<Rate>();
        assert_eq!(rate("20k/s"), Ok(Rate { count: 20_000, per: Duration::from_secs(1) }));
        assert_eq!(rate("20k"), rate("20k/s"));
        assert_eq!(rate("90/min"), Ok(Rate { count: 90, per: Duration::from_secs(60) }));
        assert_eq!(rate("1.5M/h"), Ok(Rate { count: 1_500_000, per: Duration::from_secs(3600) }));
        for text in ["", "/s", "20k/", "20k/day", "20k/s/s", "fast", "20 k/s"] {
            assert!(rate(text).unwrap_err().to_string().contains("is no rate"), "{text}");
        }
        assert_eq!(rate("0/s"), Err(QuantityError::Zero));
        let shown = |text: &str| rate(text).unwrap().to_string();
        let all = ["20k/s", "66.6k/s", "90/min", "5/h"].map(shown);
        assert_eq!(all, ["20,000/s", "66,600/s", "1.5/s", "5.00/h"]);
    }

    #[test]
    fn times_are_read_as_people_write_them() {
        assert_eq!(span("1m 30s"), Ok(Duration::from_secs(90)));
        assert_eq!(span("250ms"), Ok(Duration::from_millis(250)));
        for text in ["", "30", "soon", "-1s"] {
            assert!(span(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_number_that_is_shown_is_read_again(number in 1..=MOST) {
            prop_assert_eq!(count(&shown(number).replace(',', "_")), Ok(number));
        }

        #[test]
        fn no_text_is_too_odd(text in "[0-9kKMG._/a-z -]{0,24}", any in any::<String>()) {
            for text in [text, any] {
                let _ = (count(&text), text.parse::<Rate>(), span(&text));
            }
        }
    }
}
