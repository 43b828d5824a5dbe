//! `portbroker status`: whether the broker runs and holds all that it should.

use crate::args::block_on;
use crate::failure::{Failure, complain};
use crate::output::{Cell, Output, Paint};
use portbroker::config::Limit;
use portbroker_client::inspect::{LimitStatus, Status, Takeover};
use portbroker_client::{Broker, Error};
use serde::Serialize;
use std::collections::BTreeMap;
use std::process::ExitCode;

const DEGRADED: u8 = 1;
const NOT_RUNNING: u8 = 3;

/// The JSON document. `version`, `listeners`, `learned`, `pools` and `limits` are null where there is no broker to say,
/// and `takeover` also where it began with nothing.
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
    limits: Option<Vec<LimitRow<'a>>>,
}

/// One of `limits`: `limit` is the value in effect, `used` what is in use of it (of a limit for each user, by who has
/// most: `greatest`, or null), `hits` how often it was hit since the start, `hit_by` who did. Sizes are in bytes, times
/// in milliseconds.
#[derive(Debug, Serialize)]
struct LimitRow<'a> {
    name: &'a str,
    limit: u64,
    used: u64,
    greatest: Option<&'a str>,
    hits: u64,
    hit_by: Vec<HitBy<'a>>,
}

#[derive(Debug, Serialize)]
struct HitBy<'a> {
    who: &'a str,
    times: u64,
}

impl<'a> LimitRow<'a> {
    fn of(status: &'a LimitStatus) -> Self {
        let LimitStatus { name, limit, used, greatest, hits, hit_by } = status;
        let hit_by = hit_by.iter().map(|(who, times)| HitBy { who, times: *times }).collect();
        Self { name, limit: *limit, used: *used, greatest: greatest.as_deref(), hits: *hits, hit_by }
    }
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
                limits: None,
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
        limits: status.limits.as_ref().map(|limits| limits.iter().map(LimitRow::of).collect()),
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
    lines.extend(status.limits.iter().flatten().map(limit_line));
    if let Some(takeover) = &status.takeover {
        lines.push(vec![Cell::plain("takeover"), Cell::plain(taken_over(takeover))]);
        lines
            .extend(takeover.differences.iter().map(|text| vec![Cell::plain("differed"), Cell::plain(text)]));
    }
    lines.extend(status.faults.iter().map(|fault| vec![Cell::plain("fault"), Cell::new(fault, Paint::Bad)]));
    lines.extend(status.notes.iter().map(|note| vec![Cell::plain("note"), Cell::new(note, Paint::Waiting)]));
    lines
}

/// As in `limit  connections: 12 of 4096, most of them user 1000; hit 3 times by user 1000`.
fn limit_line(limit: &LimitStatus) -> Vec<Cell> {
    let LimitStatus { name, limit: most, used, greatest, hits, hit_by } = limit;
    let known = Limit::of_key(name);
    let written = |value: u64| {
        known.map_or_else(|| value.to_string(), |limit| limit.written(value).trim_matches('"').to_owned())
    };
    let mut text = match known {
        Some(Limit::UnreadTime | Limit::LogLinesPerUser) => format!("{name}: {}", written(*most)),
        _ => format!("{name}: {} of {}", written(*used), written(*most)),
    };
    if let Some(greatest) = greatest {
        text.push_str(&format!(", most of it {greatest}"));
    }
    if *hits > 0 && known == Some(Limit::LogBuffer) {
        text.push_str(&format!("; {hits} lines of the log lost"));
    } else if *hits > 0 {
        let by: Vec<String> = hit_by.iter().take(3).map(|(who, times)| format!("{who} ({times})")).collect();
        text.push_str(&format!("; hit {hits} times, last by {}", by.join(", ")));
    }
    let paint = if *hits > 0 { Paint::Waiting } else { Paint::Plain };
    vec![Cell::plain("limit"), Cell::new(text, paint)]
}

/// `300 sockets stored, 298 kept, 2 let go; 1 holder`.
fn taken_over(takeover: &Takeover) -> String {
    let count = |word| takeover.counts.get(word).copied().unwrap_or_default();
    let mut text = format!("{} sockets stored, {} kept", count("stored"), count("kept"));
    let words = [
        "draining",
        "lingering",
        "let-go",
        "unusable",
        "left",
        "missing",
        "new",
        "changed",
        "mended",
        "replaced",
    ];
    for (word, count) in words.map(|word| (word, count(word))).into_iter().filter(|(_, count)| *count > 0) {
        text.push_str(&format!(", {count} {}", word.replace('-', " ")));
    }
    text.push_str(&format!("; {} holders, {} gone", count("holders"), count("holders-gone")));
    text
}
