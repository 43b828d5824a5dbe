//! `portbroker list pools`, `portbroker show pool` and `portbroker drain`.

use crate::agent::{AskPassword, administer};
use crate::args::block_on;
use crate::failure::Failure;
use crate::output::{Cell, Output, Paint};
use portbroker_client::Broker;
use portbroker_client::pools::{PoolAddress, PoolStatus};
use serde::Serialize;
use std::net::IpAddr;
use std::process::ExitCode;

/// The JSON document of one pool.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Document<'a> {
    name: &'a str,
    state: &'a str,
    addresses: Vec<Address<'a>>,
    zone: &'a str,
    left_out: Vec<LeftOut<'a>>,
    capacity: u64,
    spread: &'a str,
    quota: &'a str,
    minimum: u32,
    waiting: u32,
    allow: &'a [String],
    origin: &'a str,
    faults: &'a [String],
}

#[derive(Debug, Serialize)]
struct Address<'a> {
    address: &'a str,
    state: &'a str,
    leased: u32,
    cooling: u32,
}

#[derive(Debug, Serialize)]
struct LeftOut<'a> {
    ports: &'a str,
    reason: &'a str,
}

#[derive(Debug, Serialize)]
struct Drained<'a> {
    address: &'a str,
    draining: bool,
}

impl<'a> From<&'a PoolStatus> for Document<'a> {
    fn from(pool: &'a PoolStatus) -> Self {
        let address = |row: &'a PoolAddress| Address {
            address: &row.address,
            state: &row.state,
            leased: row.leased,
            cooling: row.cooling,
        };
        let left_out = pool.left_out.iter();
        Self {
            name: &pool.name,
            state: &pool.state,
            addresses: pool.addresses.iter().map(address).collect(),
            zone: &pool.zone,
            left_out: left_out.map(|l| LeftOut { ports: &l.ports, reason: &l.reason }).collect(),
            capacity: pool.capacity,
            spread: &pool.spread,
            quota: &pool.quota,
            minimum: pool.minimum,
            waiting: pool.waiting,
            allow: &pool.allow,
            origin: &pool.origin,
            faults: &pool.faults,
        }
    }
}

pub(crate) fn list(broker: &Broker, output: Output) -> Result<ExitCode, Failure> {
    let pools = block_on(broker.pools())?;
    let documents: Vec<Document<'_>> = pools.iter().map(Document::from).collect();
    output.print(&documents, || {
        let heading = ["NAME", "STATE", "ADDRESSES", "CAPACITY", "LEASED", "COOLING", "ZONE"];
        let heading = heading.map(|text| Cell::new(text, Paint::Heading)).to_vec();
        std::iter::once(heading).chain(pools.iter().map(row)).collect()
    })?;
    Ok(ExitCode::SUCCESS)
}

fn sum(pool: &PoolStatus, of: impl Fn(&PoolAddress) -> u32) -> u64 {
    pool.addresses.iter().map(|address| u64::from(of(address))).sum()
}

fn in_use(pool: &PoolStatus) -> usize {
    pool.addresses.iter().filter(|address| address.state == "in-use").count()
}

fn row(pool: &PoolStatus) -> Vec<Cell> {
    vec![
        Cell::plain(&pool.name),
        Cell::new(&pool.state, Paint::of_state(&pool.state)),
        Cell::plain(format!("{} of {}", in_use(pool), pool.addresses.len())),
        Cell::plain(pool.capacity.to_string()),
        Cell::plain(sum(pool, |address| address.leased).to_string()),
        Cell::plain(sum(pool, |address| address.cooling).to_string()),
        Cell::plain(&pool.zone),
    ]
}

pub(crate) fn show(broker: &Broker, output: Output, name: &str) -> Result<ExitCode, Failure> {
    let pool = block_on(broker.pool(name))?;
    output.print(&Document::from(&pool), || details(&pool))?;
    Ok(ExitCode::SUCCESS)
}

fn details(pool: &PoolStatus) -> Vec<Vec<Cell>> {
    let line = |key, value: &str| vec![Cell::plain(key), Cell::plain(value)];
    let state = Cell::new(&pool.state, Paint::of_state(&pool.state));
    let mut lines = vec![line("name", &pool.name), vec![Cell::plain("state"), state]];
    lines.extend(pool.addresses.iter().map(|address| {
        let PoolAddress { address, state, leased, cooling } = address;
        let text = format!("{address} {state}, {leased} leased, {cooling} cooling");
        vec![Cell::plain("address"), Cell::new(text, Paint::of_state(state))]
    }));
    lines.push(line("zone", if pool.zone.is_empty() { "no port at all" } else { &pool.zone }));
    lines.extend(pool.left_out.iter().map(|l| line("left out", &format!("{}: {}", l.ports, l.reason))));
    lines.push(line("capacity", &format!("{} connections to one destination", pool.capacity)));
    lines.push(line("spread", &pool.spread));
    lines.push(line("quota", if pool.quota.is_empty() { "none" } else { &pool.quota }));
    if pool.minimum > 0 {
        lines.push(line("minimum", &format!("{} ports for each caller and destination", pool.minimum)));
    }
    if pool.waiting > 0 {
        lines.push(line("waiting", &format!("{} requests", pool.waiting)));
    }
    let allow = if pool.allow.is_empty() { "root only".to_owned() } else { pool.allow.join(", ") };
    lines.push(line("allow", &allow));
    lines.push(line("origin", &pool.origin));
    lines.extend(pool.faults.iter().map(|fault| vec![Cell::plain("fault"), Cell::new(fault, Paint::Bad)]));
    lines
}

pub(crate) fn drain(
    broker: &Broker,
    output: Output,
    address: IpAddr,
    undo: bool,
    password: AskPassword,
) -> Result<ExitCode, Failure> {
    let address = address.to_string();
    administer(broker, password, |broker| {
        let address = &address;
        async move { broker.drain(address, undo).await }
    })?;
    output.print(&Drained { address: &address, draining: !undo }, Vec::new)?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use portbroker_client::pools::LeftOut;

    fn pool() -> PoolStatus {
        let address = |address: &str, state: &str| PoolAddress {
            address: address.into(),
            state: state.into(),
            leased: 3,
            cooling: 1,
        };
        PoolStatus {
            name: "egress".into(),
            state: "degraded".into(),
            addresses: vec![address("192.0.2.1", "in-use"), address("192.0.2.2", "absent")],
            zone: "10000-10099".into(),
            left_out: vec![LeftOut { ports: "10050".into(), reason: "held by listener web".into() }],
            capacity: 99,
            spread: "least-used".into(),
            quota: String::new(),
            minimum: 5,
            waiting: 1,
            allow: vec![],
            origin: "/etc/x.toml:3".into(),
            faults: vec!["192.0.2.2 is not on this host".into()],
        }
    }

    #[test]
    fn the_keys_of_the_document_are_those_documented() {
        let json = serde_json::to_string(&Document::from(&pool())).unwrap();
        assert_eq!(
            json,
            r#"{"name":"egress","state":"degraded","addresses":[{"address":"192.0.2.1","state":"in-use","leased":3,"cooling":1},{"address":"192.0.2.2","state":"absent","leased":3,"cooling":1}],"zone":"10000-10099","left-out":[{"ports":"10050","reason":"held by listener web"}],"capacity":99,"spread":"least-used","quota":"","minimum":5,"waiting":1,"allow":[],"origin":"/etc/x.toml:3","faults":["192.0.2.2 is not on this host"]}"#
        );
    }

    #[test]
    fn a_row_sums_its_addresses_up_and_details_say_what_was_left_out() {
        let row = format!("{:?}", row(&pool()));
        assert!(row.contains("1 of 2") && row.contains("\"6\"") && row.contains("\"2\""), "{row}");
        let details = format!("{:?}", details(&pool()));
        assert!(
            details.contains("10050: held by listener web") && details.contains("root only"),
            "{details}"
        );
    }
}
