//! `portbroker plan`: how many addresses and ports a load of connections takes. Asks no broker and changes nothing.
//!
//! The ports are those of this host, as a pool would have them: the kernel's range, what the configuration holds and
//! protects, what somebody listens on; of another host, with `--range`, the kernel's range alone.

use crate::failure::{Failure, complain};
use crate::output::{Cell, Output, Paint};
use crate::plot;
use crate::terminal;
use clap::Args;
use portbroker::config::{PortsSpec, build};
use portbroker::kernel::addresses::present;
use portbroker::kernel::listening::listening;
use portbroker::kernel::reserved_ports::ReservedPorts;
use portbroker::model::{PortRange, PortSet, Protocol};
use portbroker::plan::{Asked, Curve, Load, Plan, Rate, Surroundings, count, shown, span};
use portbroker::pools::Host;
use portbroker::sources::{Locations, survey};
use serde::Serialize;
use std::net::IpAddr;
use std::process::ExitCode;
use std::time::Duration;

/// A plot that is wider shows no more.
const WIDEST: usize = 100;
/// So many moments are told in JSON.
const MOMENTS: u32 = 100;

#[derive(Debug, Args)]
pub(crate) struct Planned {
    /// Connections that are open at once, at most: 2M, 500k
    #[arg(long, value_name = "N", value_parser = count)]
    pub(crate) connections: Option<u64>,
    /// New connections: 20k/s, 90/min
    #[arg(long, value_name = "N/s")]
    pub(crate) rate: Option<Rate>,
    /// How long each connection is open: 30s, 5min
    #[arg(long, value_name = "TIME", value_parser = span)]
    pub(crate) lifetime: Option<Duration>,
    /// How many destinations (ADDRESS:PORT) share them evenly
    #[arg(long, value_name = "N", default_value = "1", value_parser = count)]
    pub(crate) destinations: u64,
    /// What the connections speak
    #[arg(long, default_value = "tcp", value_parser = ["tcp", "udp"])]
    pub(crate) protocol: String,
    /// How long a source stays taken after its connection; 0s where the destination closes first [default: 60s, of TCP]
    #[arg(long, value_name = "TIME", value_parser = span)]
    pub(crate) time_wait: Option<Duration>,
    /// The ports of the pool: auto, or ranges as in 10000-32767,61000-65535
    #[arg(long, value_name = "PORTS", default_value = "auto", value_parser = ports)]
    pub(crate) ports: PortsSpec,
    /// Plan for a host with this net.ipv4.ip_local_port_range, and not for this one
    #[arg(long, value_name = "FIRST-LAST")]
    pub(crate) range: Option<PortRange>,
}

fn ports(text: &str) -> Result<PortsSpec, String> {
    if text == "auto" {
        return Ok(PortsSpec::Auto);
    }
    let ports: PortSet = text.parse().map_err(|error: portbroker::model::PortSetError| error.to_string())?;
    if ports.is_empty() {
        Err("write auto, or ranges of ports".to_owned())
    } else {
        Ok(PortsSpec::Ports(ports))
    }
}

pub(crate) fn run(output: Output, arguments: &Planned) -> Result<ExitCode, Failure> {
    let protocol = if arguments.protocol == "udp" { Protocol::Udp } else { Protocol::Tcp };
    let asked = Asked {
        connections: arguments.connections,
        rate: arguments.rate,
        lifetime: arguments.lifetime,
        time_wait: arguments.time_wait,
        destinations: arguments.destinations,
        protocol,
    };
    let load = Load::new(&asked)?;
    let Found { host, reserved, own } = match arguments.range {
        Some(range) => Found::of_another(range),
        None => Found::of_this(protocol)?,
    };
    let around = Surroundings { host: &host, reserved: &reserved, own: &own };
    let plan = portbroker::plan::plan(load, &arguments.ports, &around)?;
    output.print_text(&Document::of(&plan, &host), || text(&plan, &host, output))?;
    Ok(ExitCode::SUCCESS)
}

/// What the host is like.
struct Found {
    host: Host,
    reserved: PortSet,
    own: Vec<IpAddr>,
}

impl Found {
    fn of_another(ephemeral: PortRange) -> Self {
        let nothing = PortSet::default;
        let host = Host {
            ephemeral,
            brokered: Vec::new(),
            protected: nothing(),
            learned: Vec::new(),
            listened: nothing(),
        };
        Self { host, reserved: nothing(), own: Vec::new() }
    }

    /// Of what cannot be seen it is said that it is not counted.
    fn of_this(protocol: Protocol) -> Result<Self, Failure> {
        let files = ReservedPorts::default();
        let mut found = Self::of_another(files.ephemeral_range()?);
        match files.read() {
            Ok(reserved) => found.reserved = reserved,
            Err(error) => complain(&error.to_string()),
        }
        let config = build(&survey(&Locations::default())).config;
        found.host.protected = config.protect.ports;
        for (name, listener) in &config.listeners {
            let ports = listener.endpoints.iter().filter_map(|endpoint| endpoint.port());
            let ranges = ports.filter_map(|port| PortRange::new(port, port).ok());
            found.host.brokered.extend(ranges.map(|range| (range, name.to_string())));
        }
        match listening(&[]) {
            Ok(sockets) => {
                let of_protocol = sockets.iter().filter(|socket| socket.protocol == protocol);
                found.host.listened = of_protocol.map(|socket| socket.port).collect();
            }
            Err(error) => complain(&format!("cannot see who listens: {error}")),
        }
        match present() {
            Ok(present) => {
                let global = present.interfaces().iter().filter(|of| of.global && of.ready);
                found.own = global.map(|of| of.address).collect();
                found.own.sort();
                found.own.dedup();
            }
            Err(error) => complain(&format!("cannot see the addresses of this host: {error}")),
        }
        Ok(found)
    }
}

/// The JSON document: numbers are for each destination unless they say otherwise, times in seconds.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Document<'a> {
    connections: u64,
    rate: f64,
    lifetime: f64,
    time_wait: f64,
    burst: u64,
    destinations: u64,
    protocol: &'static str,
    tuples: u128,
    tuples_without_time_wait: u128,
    ports_of_each_address: usize,
    ports: String,
    addresses: u128,
    addresses_without_time_wait: u128,
    pools: u128,
    capacity: u128,
    kernel: Kernel,
    curve: Vec<At>,
    configuration: &'a str,
    notes: &'a [String],
}

/// What the kernel alone does with one address: null for a time means never.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Kernel {
    range: String,
    sources: usize,
    slow_from: usize,
    slow_after: Option<f64>,
    exhausted_after: Option<f64>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct At {
    time: f64,
    open: u128,
    time_wait: u128,
}

impl<'a> Document<'a> {
    fn of(plan: &'a Plan, host: &Host) -> Self {
        let load = &plan.load;
        let seconds = |time: Option<Duration>| time.map(|time| time.as_secs_f64());
        let at = Curve::new(load).sampled(MOMENTS).into_iter().map(|moment| At {
            time: moment.time.as_secs_f64(),
            open: moment.open,
            time_wait: moment.waiting,
        });
        Self {
            connections: load.connections,
            rate: load.rate.per_second(),
            lifetime: load.lifetime.as_secs_f64(),
            time_wait: load.time_wait.as_secs_f64(),
            burst: load.burst,
            destinations: load.destinations,
            protocol: load.protocol.as_str(),
            tuples: plan.peak,
            tuples_without_time_wait: plan.peak_without_time_wait,
            ports_of_each_address: plan.zone.ports.len(),
            ports: plan.zone.ports.to_string(),
            addresses: plan.addresses,
            addresses_without_time_wait: plan.addresses_without_time_wait,
            pools: plan.pools,
            capacity: plan.capacity,
            kernel: Kernel {
                range: host.ephemeral.to_string(),
                sources: plan.kernel.sources,
                slow_from: plan.kernel.slow_from,
                slow_after: seconds(plan.kernel.slow_after),
                exhausted_after: seconds(plan.kernel.exhausted_after),
            },
            curve: at.collect(),
            configuration: &plan.configuration,
            notes: &plan.notes,
        }
    }
}

/// What a person reads.
fn text(plan: &Plan, host: &Host, output: Output) -> String {
    let row = |name: &str, text: String| vec![Cell::new(name, Paint::Heading), Cell::plain(text)];
    let mut rows = vec![
        row("load", load_text(&plan.load)),
        row("sources", sources_text(plan)),
        row("ports", ports_text(plan)),
        row("addresses", addresses_text(plan)),
        vec![Cell::new("kernel", Paint::Heading), kernel_cell(plan, host)],
    ];
    rows.extend(plan.notes.iter().map(|note| row("note", note.clone())));
    let mut text = output.table(&rows);
    let heading = |text: &str| output.joined(&[Cell::new(text, Paint::Heading)]);
    let width = usize::from(terminal::size().0).min(WIDEST);
    if let Some(columns) = plot::columns(width) {
        let letters = terminal::letters();
        let moments = Curve::new(&plan.load).sampled(u32::try_from(columns).unwrap_or(u32::MAX));
        let of = if plan.load.sharers() > 1 { " of each destination" } else { "" };
        text.push('\n');
        text.push_str(&heading(&format!("Sources in use{of}, over time; the pool ends at the top")));
        let mut lines = plot::plot(&moments, plan.capacity, letters);
        lines.push(plot::legend(letters));
        lines.iter().for_each(|line| text.push_str(&output.joined(line)));
    }
    text.push('\n');
    text.push_str(&heading("Configuration"));
    text.push_str(&plan.configuration);
    text
}

fn load_text(load: &Load) -> String {
    let protocol = load.protocol.as_str().to_uppercase();
    let mut text = format!(
        "{} {protocol} connections open at once: {} that live {} each",
        shown(load.connections),
        load.rate,
        plot::time(load.lifetime)
    );
    if load.burst > 0 {
        text.push_str(&format!(
            " are {}, and a burst of {} on top",
            shown(load.connections - load.burst),
            shown(load.burst)
        ));
    }
    match load.destinations {
        1 => text.push_str("; to one destination"),
        n => text.push_str(&format!("; to {} destinations, evenly", shown(n))),
    }
    text
}

fn sources_text(plan: &Plan) -> String {
    let load = &plan.load;
    let waiting = plan.peak.saturating_sub(plan.peak_without_time_wait);
    let of = if load.sharers() > 1 { " for each destination" } else { "" };
    let mut text = format!("{} in use at once{of}, at most", shown(plan.peak));
    if waiting > 0 {
        let (open, time) = (shown(plan.peak_without_time_wait), plot::time(load.time_wait));
        text.push_str(&format!(": {open} open, {} in TIME_WAIT for {time}", shown(waiting)));
    }
    text
}

fn ports_text(plan: &Plan) -> String {
    let mut text = format!("{} of each address: {}", shown(plan.zone.ports.len() as u128), plan.zone.ports);
    if !plan.zone.reserve.is_empty() {
        text.push_str(&format!(
            "; {} of them are taken from the kernel's own range",
            shown(plan.zone.reserve.len() as u128)
        ));
    }
    text
}

fn addresses_text(plan: &Plan) -> String {
    let used = plan.peak * 100 / plan.capacity.max(1);
    let mut text =
        format!("{}, with room for {} ({used} % in use)", shown(plan.addresses), shown(plan.capacity));
    if plan.addresses_without_time_wait < plan.addresses {
        text.push_str(&format!(
            "; {} where a source in TIME_WAIT is taken again at once, as the Connector does with TCP timestamps",
            shown(plan.addresses_without_time_wait)
        ));
    }
    text
}

fn kernel_cell(plan: &Plan, host: &Host) -> Cell {
    let kernel = &plan.kernel;
    let text = format!(
        "alone, with one address: {} sources ({}); connect() is slow from {} on",
        shown(kernel.sources as u128),
        host.ephemeral,
        shown(kernel.slow_from as u128)
    );
    match (kernel.slow_after, kernel.exhausted_after) {
        (_, Some(end)) => {
            let slow =
                kernel.slow_after.map_or_else(String::new, |slow| format!(", after {}", plot::time(slow)));
            Cell::new(format!("{text}{slow}, and fails after {}", plot::time(end)), Paint::Bad)
        }
        (Some(slow), None) => Cell::new(format!("{text}, after {}", plot::time(slow)), Paint::Waiting),
        (None, None) => Cell::plain(format!("{text}: that is enough for this load")),
    }
}
