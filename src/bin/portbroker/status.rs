//! `portbroker status`: whether the broker runs and holds all that it should.

use crate::args::block_on;
use crate::failure::{Failure, complain};
use crate::output::{Cell, Output, Paint};
use portbroker_client::inspect::{Status, Takeover};
use portbroker_client::{Broker, Error};
use serde::Serialize;
use std::collections::BTreeMap;
use std::process::ExitCode;

const DEGRADED: u8 = 1;
const NOT_RUNNING: u8 = 3;

/// The JSON document. `version`, `listeners`, `learned` and `pools` are null where there is no broker to say, and
/// `takeover` also where it began with nothing.
#[derive(Debug, Serialize)]
struct Document<'a> {
    state: &'a str,
    version: Option<&'a str>,
    faults: &'a [String],
    notes: &'a [String],
    listeners: Option<Counts>,
    learned: Option<u32>,
    pools: Option<Pools>,
    takeover: Option<Found<'a>>,
}

#[derive(Debug, Serialize)]
struct Found<'a> {
    #[serde(flatten)]
    counts: &'a BTreeMap<String, u32>,
    differences: &'a [String],
}

impl<'a> From<&'a Takeover> for Found<'a> {
    fn from(takeover: &'a Takeover) -> Self {
        Self { counts: &takeover.counts, differences: &takeover.differences }
    }
}

#[derive(Debug, Clone, Copy, Serialize)]
struct Counts {
    listening: usize,
    reserved: usize,
    failed: usize,
    lingering: usize,
}

#[derive(Debug, Clone, Copy, Serialize)]
struct Pools {
    ready: usize,
    degraded: usize,
    failed: usize,
    leased: u64,
    cooling: u64,
}

impl Pools {
    fn of(status: &Status) -> Self {
        let count = |state| status.pools.iter().filter(|pool| pool.state == state).count();
        // An address of several pools has the same ports in all of them.
        let addresses = status.pools.iter().flat_map(|pool| &pool.addresses);
        let ports: BTreeMap<&str, (u32, u32)> =
            addresses.map(|of| (of.address.as_str(), (of.leased, of.cooling))).collect();
        let sum = |of: fn(&(u32, u32)) -> u32| ports.values().map(|ports| u64::from(of(ports))).sum();
        Self {
            ready: count("ready"),
            degraded: count("degraded"),
            failed: count("failed"),
            leased: sum(|ports| ports.0),
            cooling: sum(|ports| ports.1),
        }
    }
}

impl Counts {
    fn of(status: &Status) -> Self {
        let count = |state| status.listeners.iter().filter(|listener| listener.state == state).count();
        Self {
            listening: count("listening"),
            reserved: count("reserved"),
            failed: count("failed"),
            lingering: count("lingering"),
        }
    }
}

pub(crate) fn run(broker: &Broker, output: Output) -> Result<ExitCode, Failure> {
    match block_on(broker.status()) {
        Ok(status) => report(&status, output),
        Err(Failure::Broker(error @ Error::NotReachable { .. })) => {
            complain(&error.to_string());
            let stopped = Document {
                state: "stopped",
                version: None,
                faults: &[],
                notes: &[],
                listeners: None,
                learned: None,
                pools: None,
                takeover: None,
            };
            output.print(&stopped, || {
                vec![vec![Cell::plain("portbroker"), Cell::new("stopped", Paint::Bad)]]
            })?;
            Ok(NOT_RUNNING.into())
        }
        Err(failure) => Err(failure),
    }
}

fn report(status: &Status, output: Output) -> Result<ExitCode, Failure> {
    let (counts, pools) = (Counts::of(status), Pools::of(status));
    let document = Document {
        state: &status.state,
        version: Some(&status.version),
        faults: &status.faults,
        notes: &status.notes,
        listeners: Some(counts),
        learned: status.learned_ports,
        pools: Some(pools),
        takeover: status.takeover.as_ref().map(Found::from),
    };
    output.print(&document, || lines(status, counts, pools))?;
    Ok(if status.state == "running" { ExitCode::SUCCESS } else { DEGRADED.into() })
}

fn lines(status: &Status, counts: Counts, pools: Pools) -> Vec<Vec<Cell>> {
    let Counts { listening, reserved, failed, lingering } = counts;
    let lingering = if lingering == 0 { String::new() } else { format!(", {lingering} lingering") };
    let state = Cell::new(&status.state, Paint::of_state(&status.state));
    let mut lines = vec![
        vec![Cell::plain("portbroker"), Cell::plain(&status.version)],
        vec![Cell::plain("state"), state],
        vec![
            Cell::plain("listeners"),
            Cell::plain(format!("{listening} listening, {reserved} reserved, {failed} failed{lingering}")),
        ],
    ];
    let learned = status.learned_ports.map(|ports| match ports {
        1 => "1 port".to_owned(),
        ports => format!("{ports} ports"),
    });
    lines.extend(learned.map(|learned| vec![Cell::plain("learned"), Cell::plain(learned)]));
    let Pools { ready, degraded, failed, leased, cooling } = pools;
    // A broker of before there were pools.
    if ready + degraded + failed > 0 {
        let text = format!(
            "{ready} ready, {degraded} degraded, {failed} failed; {leased} ports leased, {cooling} cooling"
        );
        lines.push(vec![Cell::plain("pools"), Cell::plain(text)]);
    }
    if let Some(takeover) = &status.takeover {
        lines.push(vec![Cell::plain("takeover"), Cell::plain(taken_over(takeover))]);
        lines
            .extend(takeover.differences.iter().map(|text| vec![Cell::plain("differed"), Cell::plain(text)]));
    }
    lines.extend(status.faults.iter().map(|fault| vec![Cell::plain("fault"), Cell::new(fault, Paint::Bad)]));
    lines.extend(status.notes.iter().map(|note| vec![Cell::plain("note"), Cell::new(note, Paint::Waiting)]));
    lines
}

/// `300 sockets stored, 298 kept, 2 let go; 1 holder`.
fn taken_over(takeover: &Takeover) -> String {
    let count = |word| takeover.counts.get(word).copied().unwrap_or_default();
    let mut text = format!("{} sockets stored, {} kept", count("stored"), count("kept"));
    let words =
        ["draining", "lingering", "let-go", "unusable", "missing", "new", "changed", "mended", "replaced"];
    for (word, count) in words.map(|word| (word, count(word))).into_iter().filter(|(_, count)| *count > 0) {
        text.push_str(&format!(", {count} {}", word.replace('-', " ")));
    }
    text.push_str(&format!("; {} holders, {} gone", count("holders"), count("holders-gone")));
    text
}
