//! How the ports of a pool for a destination stand, as `status` and `top` show it.

use portbroker_client::pools::Forecast;
use serde::Serialize;

/// As JSON.
#[derive(Debug, Serialize)]
pub(crate) struct Row<'a> {
    pool: &'a str,
    protocol: &'a str,
    destination: Option<&'a str>,
    used: u32,
    cooling: u32,
    capacity: u32,
    rate: f64,
    exhausted_in: Option<u64>,
    ahead: bool,
}

impl<'a> From<&'a Forecast> for Row<'a> {
    fn from(of: &'a Forecast) -> Self {
        Self {
            pool: &of.pool,
            protocol: &of.protocol,
            destination: of.destination.as_deref(),
            used: of.used,
            cooling: of.cooling,
            capacity: of.capacity,
            rate: of.rate,
            exhausted_in: of.exhausted_in.map(|time| time.as_secs()),
            ahead: of.ahead,
        }
    }
}

/// As in `tcp 198.51.100.7:443`.
pub(crate) fn destination(of: &Forecast) -> String {
    format!("{} {}", of.protocol, of.destination.as_deref().unwrap_or("any"))
}

/// As in `+40/s`; nothing where it stands still.
pub(crate) fn per_second(rate: f64) -> String {
    match rate {
        rate if rate.abs() < 0.05 => String::new(),
        rate if rate.abs() < 10.0 => format!("{rate:+.1}/s"),
        rate => format!("{rate:+.0}/s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_keys_of_the_document_are_those_documented() {
        let forecast = Forecast {
            pool: "egress".into(),
            protocol: "tcp".into(),
            destination: None,
            used: 5,
            cooling: 1,
            capacity: 10,
            rate: 0.5,
            exhausted_in: Some(Duration::from_secs(8)),
            ahead: true,
        };
        let json = serde_json::to_string(&Row::from(&forecast)).unwrap();
        let expected = r#"{"pool":"egress","protocol":"tcp","destination":null,"used":5,"cooling":1,"capacity":10,"rate":0.5,"exhausted_in":8,"ahead":true}"#;
        assert_eq!((json.as_str(), destination(&forecast).as_str()), (expected, "tcp any"));
    }

    #[test]
    fn a_rate_has_its_sign() {
        assert_eq!([0.01, 0.5, -3.25, 40.4].map(per_second), ["", "+0.5/s", "-3.2/s", "+40/s"]);
    }
}
