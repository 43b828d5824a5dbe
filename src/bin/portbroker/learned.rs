//! `portbroker list learned` and `portbroker forget`.

use crate::args::block_on;
use crate::failure::Failure;
use crate::output::{Cell, Output, Paint};
use portbroker_client::Broker;
use portbroker_client::inspect::LearnedPort;
use serde::Serialize;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

/// The JSON document of one port.
#[derive(Debug, Serialize)]
struct Document<'a> {
    port: u16,
    protocol: &'a str,
    unit: &'a str,
    first_seen: u64,
    last_seen: u64,
}

#[derive(Debug, Serialize)]
struct Forgotten {
    forgotten: u16,
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

impl<'a> From<&'a LearnedPort> for Document<'a> {
    fn from(learned: &'a LearnedPort) -> Self {
        Self {
            port: learned.port,
            protocol: &learned.protocol,
            unit: &learned.unit,
            first_seen: seconds(learned.first_seen),
            last_seen: seconds(learned.last_seen),
        }
    }
}

pub(crate) fn list(broker: &Broker, output: Output) -> Result<ExitCode, Failure> {
    let learned = block_on(broker.learned())?;
    let documents: Vec<Document<'_>> = learned.iter().map(Document::from).collect();
    output.print(&documents, || {
        let heading = ["PORT", "PROTOCOL", "FIRST SEEN", "LAST SEEN", "UNIT"];
        let heading = heading.map(|text| Cell::new(text, Paint::Heading)).to_vec();
        std::iter::once(heading).chain(learned.iter().map(row)).collect()
    })?;
    Ok(ExitCode::SUCCESS)
}

fn row(learned: &LearnedPort) -> Vec<Cell> {
    // A time beyond the year 9999 cannot be written, and is not shown.
    let time = |time: SystemTime| {
        let last = UNIX_EPOCH + std::time::Duration::from_secs(253_402_300_799);
        humantime::format_rfc3339_seconds(time.min(last)).to_string()
    };
    vec![
        Cell::plain(learned.port.to_string()),
        Cell::plain(&learned.protocol),
        Cell::plain(time(learned.first_seen)),
        Cell::plain(time(learned.last_seen)),
        Cell::plain(&learned.unit),
    ]
}

pub(crate) fn forget(broker: &Broker, output: Output, port: u16) -> Result<ExitCode, Failure> {
    block_on(broker.forget(port))?;
    output.print(&Forgotten { forgotten: port }, Vec::new)?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn learned() -> LearnedPort {
        LearnedPort {
            port: 5432,
            protocol: "tcp".into(),
            unit: "postgresql@15-main.service".into(),
            first_seen: UNIX_EPOCH + Duration::from_secs(1_700_000_000),
            last_seen: UNIX_EPOCH + Duration::from_secs(u64::from(u32::MAX) * 100),
        }
    }

    #[test]
    fn the_keys_of_the_document_are_those_documented() {
        let json = serde_json::to_string(&Document::from(&learned())).unwrap();
        let expected = r#"{"port":5432,"protocol":"tcp","unit":"postgresql@15-main.service","first_seen":1700000000,"last_seen":429496729500}"#;
        assert_eq!(json, expected);
    }

    #[test]
    fn any_time_can_be_shown() {
        let text = format!("{:?}", row(&learned()));
        assert!(text.contains("2023-11-14T22:13:20Z") && text.contains("9999-12-31T23:59:59Z"), "{text}");
    }
}
