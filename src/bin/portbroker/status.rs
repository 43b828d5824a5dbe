//! `portbroker status`: whether the broker runs and holds all that it should.

use crate::args::block_on;
use crate::bar::share;
use crate::failure::{Failure, complain};
use crate::forecast::{self, destination, per_second};
use crate::output::{Cell, Output, Paint, span};
use portbroker::config::Limit;
use portbroker_client::inspect::{LimitStatus, Status, Takeover};
use portbroker_client::pools::Forecast;
use portbroker_client::{Broker, Error};
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::{self, IsTerminal as _};
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
    forecasts: Vec<forecast::Row<'a>>,
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

pub(crate) fn run(broker: &Broker, output: Output, full: bool) -> Result<ExitCode, Failure> {
    // A program that reads it has no screen.
    let full = full || !io::stdout().is_terminal();
    let asked = block_on(async {
        let status = broker.status().await?;
        // Where the broker is short of something it may not say this, and then that is what counts.
        let forecasts = match broker.forecasts().await {
            Err(Error::Refused { .. }) => Vec::new(),
            forecasts => forecasts?,
        };
        Ok((status, forecasts))
    });
    match asked {
        Ok((status, forecasts)) => {
            report(&Screen { status: &status, forecasts: near(&forecasts), full }, output)
        }
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
                forecasts: vec![],
            };
            output.print(&stopped, || {
                vec![vec![Cell::plain("portbroker"), Cell::new("stopped", Paint::Bad)]]
            })?;
            Ok(NOT_RUNNING.into())
        }
        Err(failure) => Err(failure),
    }
}

/// Destinations of which most ports are taken, or will be soon.
fn near(forecasts: &[Forecast]) -> Vec<&Forecast> {
    forecasts.iter().filter(|of| of.ahead || of.taken() >= NEAR).collect()
}

fn report(screen: &Screen<'_>, output: Output) -> Result<ExitCode, Failure> {
    let status = screen.status;
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
        forecasts: screen.forecasts.iter().map(|of| forecast::Row::from(*of)).collect(),
    };
    output.print(&document, || screen.lines(counts, pools))?;
    Ok(if status.state == "running" { ExitCode::SUCCESS } else { DEGRADED.into() })
}

/// So many of a kind are on the one screen.
const ON_A_SCREEN: usize = 6;
/// A limit, or the ports for a destination, of which less is in use need not be looked at.
const NEAR: f64 = 0.8;

/// What is well and what is not, on one screen unless `full` is wanted: what is not comes first.
struct Screen<'a> {
    status: &'a Status,
    forecasts: Vec<&'a Forecast>,
    full: bool,
}

impl Screen<'_> {
    fn lines(&self, counts: Counts, pools: Pools) -> Vec<Vec<Cell>> {
        let Status { state, version, faults, notes, learned_ports, .. } = self.status;
        let mut lines = vec![
            vec![Cell::plain("portbroker"), Cell::plain(version)],
            vec![Cell::plain("state"), Cell::new(state, Paint::of_state(state))],
        ];
        self.some("fault", faults, Paint::Bad, &mut lines);
        lines.push(vec![Cell::plain("listeners"), listeners(counts)]);
        let learned = learned_ports.map(|ports| match ports {
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
            let paint = if failed > 0 {
                Paint::Bad
            } else if degraded > 0 {
                Paint::Waiting
            } else {
                Paint::Plain
            };
            lines.push(vec![Cell::plain("pools"), Cell::new(text, paint)]);
        }
        let forecasts: Vec<String> = self.forecasts.iter().map(|of| forecast_text(of)).collect();
        self.some("forecast", &forecasts, Paint::Waiting, &mut lines);
        self.limits(&mut lines);
        self.takeover(&mut lines);
        self.some("note", notes, Paint::Waiting, &mut lines);
        lines
    }

    /// A line for each, as far as the screen has room.
    fn some(&self, word: &str, texts: &[String], paint: Paint, lines: &mut Vec<Vec<Cell>>) {
        let most = if self.full || texts.len() <= ON_A_SCREEN { texts.len() } else { ON_A_SCREEN - 1 };
        lines.extend(texts.iter().take(most).map(|text| vec![Cell::plain(word), Cell::new(text, paint)]));
        if most < texts.len() {
            let more = texts.len() - most;
            let text = format!("and {more} more: see \"portbroker status --full\"");
            lines.push(vec![Cell::plain(word), Cell::new(text, paint)]);
        }
    }

    /// Those that were hit or nearly are; the others are well.
    fn limits(&self, lines: &mut Vec<Vec<Cell>>) {
        let Some(limits) = &self.status.limits else { return };
        let is_near = |limit: &&LimitStatus| self.full || limit.hits > 0 || nearness(limit) >= NEAR;
        let near = limits.iter().filter(is_near);
        let before = lines.len();
        lines.extend(near.map(limit_line));
        let others = limits.len() - (lines.len() - before);
        if others > 0 {
            let most = limits.iter().filter(|limit| !is_near(limit));
            let most = most.max_by(|a, b| nearness(a).total_cmp(&nearness(b)));
            let nearest = most.map(|limit| format!(", the nearest is {}", limit_text(limit)));
            let text = format!("{others} are well{}", nearest.unwrap_or_default());
            lines.push(vec![Cell::plain("limits"), Cell::plain(text)]);
        }
    }

    fn takeover(&self, lines: &mut Vec<Vec<Cell>>) {
        let Some(takeover) = &self.status.takeover else { return };
        lines.push(vec![Cell::plain("takeover"), Cell::plain(taken_over(takeover))]);
        self.some("differed", &takeover.differences, Paint::Plain, lines);
    }
}

/// As in `egress, tcp 198.51.100.7:443: 1800 of 2000 ports taken, +40/s, none left in 5 s`.
fn forecast_text(of: &Forecast) -> String {
    let taken = of.used.saturating_add(of.cooling);
    let mut text = format!("{}, {}: {taken} of {} ports taken", of.pool, destination(of), of.capacity);
    let rate = per_second(of.rate);
    if !rate.is_empty() {
        text.push_str(&format!(", {rate}"));
    }
    if let Some(time) = of.exhausted_in {
        text.push_str(&format!(", none left in {}", span(time)));
    }
    text
}

fn listeners(Counts { listening, reserved, failed, lingering }: Counts) -> Cell {
    let lingering = if lingering == 0 { String::new() } else { format!(", {lingering} lingering") };
    let text = format!("{listening} listening, {reserved} reserved, {failed} failed{lingering}");
    Cell::new(text, if failed > 0 { Paint::Bad } else { Paint::Plain })
}

/// The share of a limit that is in use; of those that are no amounts nothing is.
fn nearness(limit: &LimitStatus) -> f64 {
    match Limit::of_key(&limit.name) {
        Some(Limit::UnreadTime | Limit::LogLinesPerUser) => 0.0,
        _ => share(limit.used, limit.limit),
    }
}

fn limit_line(limit: &LimitStatus) -> Vec<Cell> {
    let paint = if limit.hits > 0 || nearness(limit) >= NEAR { Paint::Waiting } else { Paint::Plain };
    vec![Cell::plain("limit"), Cell::new(limit_text(limit), paint)]
}

/// As in `connections: 12 of 4096, most of it user 1000; hit 3 times, last by user 1000 (3)`.
fn limit_text(limit: &LimitStatus) -> String {
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
    text
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn limit(name: &str, used: u64, limit: u64, hits: u64) -> LimitStatus {
        let hit_by = if hits > 0 { vec![("user 7".to_owned(), hits)] } else { vec![] };
        LimitStatus { name: name.to_owned(), limit, used, greatest: None, hits, hit_by }
    }

    fn status() -> Status {
        Status {
            state: "degraded".into(),
            version: "1.2".into(),
            faults: (0..20).map(|n| format!("fault {n}")).collect(),
            notes: vec!["a note".into()],
            learned_ports: Some(1),
            limits: Some(vec![
                limit("connections", 12, 4096, 0),
                limit("connections-per-user", 64, 128, 0),
                limit("calls-per-user", 1, 64, 3),
                limit("unread-time", 99, 100, 0),
            ]),
            takeover: None,
            listeners: vec![],
            pools: vec![],
        }
    }

    fn text(status: &Status, forecasts: Vec<&Forecast>, full: bool) -> Vec<String> {
        let lines = Screen { status, forecasts, full }.lines(Counts::of(status), Pools::of(status));
        let line = |cells: &Vec<Cell>| cells.iter().map(Cell::text).collect::<Vec<_>>().join(" ");
        lines.iter().map(line).collect()
    }

    #[test]
    fn what_is_not_well_comes_first_and_all_is_on_one_screen() {
        let forecast = Forecast {
            pool: "egress".into(),
            protocol: "tcp".into(),
            destination: Some("198.51.100.7:443".into()),
            used: 90,
            cooling: 5,
            capacity: 100,
            rate: 1.0,
            exhausted_in: Some(Duration::from_secs(5)),
            ahead: true,
        };
        assert_eq!(
            near(&[forecast.clone(), Forecast { used: 5, ahead: false, ..forecast.clone() }]),
            [&forecast]
        );
        let expected = [
            "portbroker 1.2",
            "state degraded",
            "fault fault 0",
            "fault fault 1",
            "fault fault 2",
            "fault fault 3",
            "fault fault 4",
            "fault and 15 more: see \"portbroker status --full\"",
            "listeners 0 listening, 0 reserved, 0 failed",
            "learned 1 port",
            "forecast egress, tcp 198.51.100.7:443: 95 of 100 ports taken, +1.0/s, none left in 5 s",
            "limit calls-per-user: 1 of 64; hit 3 times, last by user 7 (3)",
            "limits 3 are well, the nearest is connections-per-user: 64 of 128",
            "note a note",
        ];
        assert_eq!(text(&status(), vec![&forecast], false), expected);
    }

    #[test]
    fn everything_can_be_had() {
        let lines = text(&status(), vec![], true);
        let count = |word: &str| lines.iter().filter(|line| line.starts_with(word)).count();
        assert_eq!((count("fault "), count("limit "), count("limits ")), (20, 4, 0), "{lines:#?}");
    }
}
