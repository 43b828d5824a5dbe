//! `portbroker list leases` and `portbroker release`.

use crate::agent::{AskPassword, administer};
use crate::args::block_on;
use crate::failure::Failure;
use crate::output::{Cell, Output, Paint};
use portbroker_client::pools::LeaseStatus;
use portbroker_client::{Broker, Error};
use serde::Serialize;
use std::process::ExitCode;

/// How many of a lease's ranges a line of the list has room for.
const ON_A_LINE: usize = 3;

/// The JSON document of one lease.
#[derive(Debug, Serialize)]
struct Document<'a> {
    lease: u64,
    session: u64,
    pool: &'a str,
    protocol: &'a str,
    destination: Option<&'a str>,
    kind: &'a str,
    ports: u32,
    state: &'a str,
    owner: &'a str,
    ranges: Vec<Range<'a>>,
    cooling: u32,
}

#[derive(Debug, Serialize)]
struct Range<'a> {
    address: &'a str,
    first: u16,
    last: u16,
}

#[derive(Debug, Serialize)]
struct Released {
    released: u64,
}

impl<'a> From<&'a LeaseStatus> for Document<'a> {
    fn from(lease: &'a LeaseStatus) -> Self {
        let range =
            |(address, first, last): &'a (String, u16, u16)| Range { address, first: *first, last: *last };
        Self {
            lease: lease.lease,
            session: lease.session,
            pool: &lease.pool,
            protocol: &lease.protocol,
            destination: lease.destination.as_deref(),
            kind: &lease.kind,
            ports: lease.ports,
            state: &lease.state,
            owner: &lease.owner,
            ranges: lease.ranges.iter().map(range).collect(),
            cooling: lease.cooling,
        }
    }
}

pub(crate) fn list(broker: &Broker, output: Output) -> Result<ExitCode, Failure> {
    let leases = block_on(all(broker))?;
    let documents: Vec<Document<'_>> = leases.iter().map(Document::from).collect();
    output.print(&documents, || {
        let heading =
            ["LEASE", "STATE", "POOL", "PROTOCOL", "DESTINATION", "KIND", "PORTS", "OWNER", "SOURCES"];
        let heading = heading.map(|text| Cell::new(text, Paint::Heading)).to_vec();
        std::iter::once(heading).chain(leases.iter().map(row)).collect()
    })?;
    Ok(ExitCode::SUCCESS)
}

/// As many answers as it takes: one has so many leases at most.
async fn all(broker: &Broker) -> Result<Vec<LeaseStatus>, Error> {
    let mut leases: Vec<LeaseStatus> = Vec::new();
    loop {
        let after = leases.last().map_or(0, |lease| lease.lease);
        let more = broker.leases(after).await?;
        // A broker that counts backwards would keep us here for ever.
        if more.last().is_none_or(|lease| lease.lease <= after) {
            return Ok(leases);
        }
        leases.extend(more);
    }
}

fn row(lease: &LeaseStatus) -> Vec<Cell> {
    let source = |(address, first, last): &(String, u16, u16)| {
        let address = if address.contains(':') { format!("[{address}]") } else { address.clone() };
        if first == last { format!("{address}:{first}") } else { format!("{address}:{first}-{last}") }
    };
    let sources: Vec<String> = lease.ranges.iter().take(ON_A_LINE).map(source).collect();
    let more = match lease.ranges.len().saturating_sub(ON_A_LINE) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let state = match lease.state.as_str() {
        "cooling" => format!("cooling ({})", lease.cooling),
        state => state.to_owned(),
    };
    vec![
        Cell::plain(lease.lease.to_string()),
        Cell::new(state, Paint::of_state(&lease.state)),
        Cell::plain(&lease.pool),
        Cell::plain(&lease.protocol),
        Cell::plain(lease.destination.as_deref().unwrap_or("any")),
        Cell::plain(&lease.kind),
        Cell::plain(lease.ports.to_string()),
        Cell::plain(&lease.owner),
        Cell::plain(format!("{}{more}", sources.join(", "))),
    ]
}

pub(crate) fn release(
    broker: &Broker,
    output: Output,
    lease: u64,
    password: AskPassword,
) -> Result<ExitCode, Failure> {
    administer(broker, password, |broker| async move { broker.release(lease).await })?;
    output.print(&Released { released: lease }, Vec::new)?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(ranges: u16) -> LeaseStatus {
        LeaseStatus {
            lease: 7,
            session: 2,
            pool: "egress".into(),
            protocol: "tcp".into(),
            destination: Some("198.51.100.7:443".into()),
            kind: "blocks".into(),
            ports: 65,
            state: "held".into(),
            owner: "crawler.service".into(),
            ranges: (1..=ranges).map(|n| ("2001:db8::1".into(), n, n + 64 * (n % 2))).collect(),
            cooling: 0,
        }
    }

    #[test]
    fn the_keys_of_the_document_are_those_documented() {
        let json = serde_json::to_string(&Document::from(&lease(1))).unwrap();
        assert_eq!(
            json,
            r#"{"lease":7,"session":2,"pool":"egress","protocol":"tcp","destination":"198.51.100.7:443","kind":"blocks","ports":65,"state":"held","owner":"crawler.service","ranges":[{"address":"2001:db8::1","first":1,"last":65}],"cooling":0}"#
        );
    }

    #[test]
    fn a_row_has_room_for_three_ranges() {
        let text = format!("{:?}", row(&lease(5)));
        assert!(
            text.contains("[2001:db8::1]:1-65, [2001:db8::1]:2, [2001:db8::1]:3-67 and 2 more"),
            "{text}"
        );
    }
}
