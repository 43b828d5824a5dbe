//! The names of the metrics, and what each means.

use super::{Process, Snapshot};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use std::fmt;

/// The text for a scraper.
pub fn encode(snapshot: Snapshot, process: Process) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(All { snapshot, process }));
    let mut written = String::new();
    text::encode(&mut written, &registry)?;
    Ok(written)
}

#[derive(Debug)]
struct All {
    snapshot: Snapshot,
    process: Process,
}

impl Collector for All {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut page = Page(encoder);
        let Self { snapshot, process } = self;
        listeners(&mut page, snapshot)?;
        calls(&mut page, snapshot)?;
        pools(&mut page, snapshot)?;
        forecasts(&mut page, snapshot)?;
        own(&mut page, snapshot, process)
    }
}

type Label<'a> = (&'static str, &'a str);

/// Where the families are written, one after the other.
struct Page<'a>(DescriptorEncoder<'a>);

impl Page<'_> {
    fn gauge(&mut self, name: &str, help: &str, value: f64) -> Result<(), fmt::Error> {
        let family = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        ConstGauge::new(value).encode(family)
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> Result<(), fmt::Error> {
        let family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        ConstCounter::new(value).encode(family)
    }

    /// A family of gauges, by their labels.
    fn gauges<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (L, f64)>,
    ) -> Result<(), fmt::Error> {
        let mut values = values.into_iter().peekable();
        if values.peek().is_none() {
            return Ok(());
        }
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in values {
            ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }

    /// A family of counters, by their labels.
    fn counters<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (L, u64)>,
    ) -> Result<(), fmt::Error> {
        let mut values = values.into_iter().peekable();
        if values.peek().is_none() {
            return Ok(());
        }
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in values {
            ConstCounter::new(value).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

/// Counts are far below 2^52.
#[expect(
    clippy::cast_precision_loss,
    reason = "a gauge is a floating-point number for everybody who reads it"
)]
fn float(count: u64) -> f64 {
    count as f64
}

fn one<'a>(key: &'static str, value: &'a str) -> [Label<'a>; 1] {
    [(key, value)]
}

fn listeners(page: &mut Page<'_>, of: &Snapshot) -> Result<(), fmt::Error> {
    let by_state = |rows: &[(&'static str, u64)]| -> Vec<([Label<'static>; 1], f64)> {
        rows.iter().map(|(state, count)| (one("state", state), float(*count))).collect()
    };
    page.gauges("portbroker_listeners", "Listeners by the state of their sockets", by_state(&of.listeners))?;
    page.gauges("portbroker_sockets", "Sockets of listeners by state", by_state(&of.sockets))?;
    page.gauge(
        "portbroker_listeners_unheld",
        "Listeners that no process and no unit holds",
        float(of.unheld),
    )?;
    let rows = || of.queues.iter();
    page.gauges(
        "portbroker_listener_queue",
        "Connections that nobody has accepted, or bytes of datagrams that nobody has read",
        rows().map(|row| (one("listener", &row.listener), float(row.waiting))),
    )?;
    page.gauges(
        "portbroker_listener_queue_limit",
        "How much the queues of a listener have room for",
        rows().filter_map(|row| Some((one("listener", &row.listener), float(row.limit?)))),
    )?;
    page.counters(
        "portbroker_listener_queue_overflows",
        "Connections or datagrams that found no room, since the sockets were made",
        rows().filter_map(|row| Some((one("listener", &row.listener), row.overflows?))),
    )?;
    page.gauge(
        "portbroker_learned_ports",
        "Ports that are protected because services listen on them",
        float(of.learned),
    )
}

fn calls(page: &mut Page<'_>, of: &Snapshot) -> Result<(), fmt::Error> {
    let counters = &of.counters;
    page.counter("portbroker_handovers", "Calls that were answered with sockets", counters.handovers)?;
    page.counter("portbroker_handed_over_sockets", "Sockets that were handed over", counters.sockets)?;
    page.counters(
        "portbroker_refusals",
        "Calls that were refused, by what they asked for and the name of the error",
        counters
            .refusals
            .iter()
            .map(|((request, reason), count)| ([("request", request.as_str()), ("reason", reason)], *count)),
    )?;
    let rows = || of.limits.iter();
    page.gauges(
        "portbroker_limit",
        "Limits as they are in effect",
        rows().map(|row| (one("limit", row.limit), float(row.most))),
    )?;
    page.gauges(
        "portbroker_limit_used",
        "How much of a limit is in use; of a limit for each user, by who has most",
        rows().map(|row| (one("limit", row.limit), float(row.used))),
    )?;
    page.counters(
        "portbroker_limit_hits",
        "How often somebody was kept within a limit",
        rows().map(|row| (one("limit", row.limit), row.hits)),
    )
}

fn pools(page: &mut Page<'_>, of: &Snapshot) -> Result<(), fmt::Error> {
    let counters = &of.counters;
    page.gauge("portbroker_sessions", "Sessions that are open", float(of.sessions))?;
    page.gauge("portbroker_leases", "Leases, those that cool included", float(of.leases))?;
    page.counter("portbroker_leases_made", "Leases that were made", counters.leases)?;
    page.counter("portbroker_leased_ports", "Ports of the leases that were made", counters.ports)?;
    page.counter("portbroker_leases_ended", "Leases that ended", counters.ended)?;
    let rows = || of.pools.iter();
    page.gauges(
        "portbroker_pool_ready",
        "1: the pool is as it was configured; 0: it is degraded, or nothing can be leased",
        rows().map(|row| (one("pool", &row.pool), float(u64::from(row.state == "ready")))),
    )?;
    page.gauges(
        "portbroker_pool_capacity_ports",
        "Connections to one destination that the pool has ports for",
        rows().map(|row| (one("pool", &row.pool), float(row.capacity))),
    )?;
    page.gauges(
        "portbroker_pool_addresses",
        "Source addresses of the pool that are in use",
        rows().map(|row| (one("pool", &row.pool), float(row.addresses))),
    )?;
    page.gauges(
        "portbroker_pool_leases",
        "Leases of the pool, those that cool included",
        rows().map(|row| (one("pool", &row.pool), float(row.leases))),
    )?;
    page.gauges(
        "portbroker_pool_leased_ports",
        "Ports of the pool that are leased, over all destinations",
        rows().map(|row| (one("pool", &row.pool), float(row.leased))),
    )?;
    page.gauges(
        "portbroker_pool_waiting_requests",
        "Requests that wait for ports",
        rows().map(|row| (one("pool", &row.pool), float(row.waiting))),
    )?;
    let address = |pool, address, state| [("pool", pool), ("address", address), ("state", state)];
    page.gauges(
        "portbroker_address_ports",
        "Ports of a source address over all destinations, leased or cooling",
        of.addresses.iter().flat_map(|row| {
            let labels = |state| address(row.pool.as_str(), row.address.as_str(), state);
            [(labels("leased"), float(row.leased)), (labels("cooling"), float(row.cooling))]
        }),
    )
}

fn forecasts(page: &mut Page<'_>, of: &Snapshot) -> Result<(), fmt::Error> {
    let rows = || of.forecasts.iter();
    page.gauges(
        "portbroker_destination_ports",
        "Ports of a pool for a destination: used, cooling or free",
        rows().flat_map(|row| {
            let labels = |state| {
                let [pool, protocol, destination] = way(row);
                [pool, protocol, destination, ("state", state)]
            };
            let free = row.capacity.saturating_sub(row.used).saturating_sub(row.cooling);
            [("used", row.used), ("cooling", row.cooling), ("free", free)]
                .map(|(state, ports)| (labels(state), float(ports)))
        }),
    )?;
    page.gauges(
        "portbroker_destination_ports_rate",
        "By how many ports a second used and cooling grow together",
        rows().map(|row| (way(row), row.rate)),
    )?;
    page.gauges(
        "portbroker_destination_exhaustion_seconds",
        "In how many seconds nothing is left, if it goes on so; absent where it does not come to that",
        rows().filter_map(|row| Some((way(row), row.exhausted_in?.as_secs_f64()))),
    )?;
    page.gauges(
        "portbroker_destination_exhaustion_ahead",
        "1: the end was told as near, by a signal and in the log, and is not averted",
        rows().map(|row| (way(row), float(u64::from(row.ahead)))),
    )?;
    page.counter("portbroker_exhaustions_foretold", "Ends that were told as near", of.counters.foretold)
}

fn way(row: &super::ForecastView) -> [Label<'_>; 3] {
    let destination = if row.destination.is_empty() { "any" } else { &row.destination };
    [("pool", &row.pool), ("protocol", &row.protocol), ("destination", destination)]
}

fn own(page: &mut Page<'_>, of: &Snapshot, process: &Process) -> Result<(), fmt::Error> {
    let version = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
    let family = page.0.encode_descriptor("portbroker_build", "The daemon", None, version.metric_type())?;
    version.encode(family)?;
    page.gauge("portbroker_faults", "What is not as it was configured; 0: all is well", float(of.faults))?;
    page.gauge(
        "portbroker_loop_delay_seconds",
        "How long the last scrape waited for its turn",
        of.delay.as_secs_f64(),
    )?;
    page.counter("portbroker_log_lines_lost", "Lines of the log that found no room", process.lines_lost)?;
    page.counter("portbroker_scrapes", "How often this was asked for", process.scrapes)?;
    page.counter(
        "portbroker_scrapes_cut_off",
        "Connections of scrapers that were ended before they had their answer",
        process.scrapes_ended,
    )?;
    page.gauge("process_resident_memory_bytes", "Resident memory", float(process.resident))?;
    page.gauge("process_open_fds", "Open descriptors", float(process.descriptors))?;
    page.gauge("process_max_fds", "How many descriptors may be open", float(process.most_descriptors))?;
    page.gauge(
        "process_start_time_seconds",
        "When the daemon was started, since the epoch",
        process.started.as_secs_f64(),
    )?;
    let cpu = "process_cpu_seconds";
    let family = page.0.encode_descriptor(cpu, "Processor time", None, MetricType::Counter)?;
    ConstCounter::new(process.cpu.as_secs_f64()).encode(family)
}
