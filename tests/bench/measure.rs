//! Samples, and the table that they become.

use std::fmt;
use std::time::{Duration, Instant};

/// What was measured of one thing, in the unit of its [`Table`].
#[derive(Debug, Clone, Default)]
pub(crate) struct Samples(Vec<f64>);

impl Samples {
    pub(crate) const fn new() -> Self {
        Self(Vec::new())
    }

    pub(crate) fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    /// All of them in another unit.
    pub(crate) fn map(&self, change: impl Fn(f64) -> f64) -> Self {
        Self(self.0.iter().copied().map(change).collect())
    }

    pub(crate) fn mean(&self) -> f64 {
        self.0.iter().sum::<f64>() / self.0.len() as f64
    }

    /// The value below which this share of the samples is.
    pub(crate) fn quantile(&self, share: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().checked_sub(1).expect("something was measured");
        // The share is at most 1, and so the index at most the last one.
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "an index below the length"
        )]
        let index = (last as f64 * share).round() as usize;
        sorted[index]
    }

    pub(crate) fn median(&self) -> f64 {
        self.quantile(0.5)
    }
}

impl From<f64> for Samples {
    fn from(value: f64) -> Self {
        Self(vec![value])
    }
}

/// How long something takes, in milliseconds.
pub(crate) fn milliseconds<T>(work: impl FnOnce() -> T) -> (f64, T) {
    let begin = Instant::now();
    let result = work();
    (in_milliseconds(begin.elapsed()), result)
}

pub(crate) fn in_milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

pub(crate) fn in_microseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// What the figures depend on beside us.
pub(crate) fn machine() -> String {
    let read = |path| std::fs::read_to_string(path).unwrap();
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name"));
    let cpus = std::thread::available_parallelism().unwrap();
    format!(
        "{cpus} x {}, Linux {}, load {}",
        model.unwrap_or("CPU").trim_start_matches(['\t', ':', ' ']),
        read("/proc/sys/kernel/osrelease").trim(),
        read("/proc/loadavg").split(' ').next().unwrap()
    )
}

/// The most that our figure should be.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) limit: f64,
    pub(crate) says: String,
}

/// One line.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) what: String,
    pub(crate) samples: Samples,
}

pub(crate) fn row(what: impl Into<String>, samples: Samples) -> Row {
    Row { what: what.into(), samples }
}

/// Our figure, and what it is measured against.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) title: String,
    pub(crate) unit: &'static str,
    pub(crate) ours: Row,
    pub(crate) target: Target,
    pub(crate) others: Vec<Row>,
}

impl Table {
    fn reached(&self) -> bool {
        self.ours.samples.median() <= self.target.limit
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = self.unit;
        writeln!(f, "\n{}", self.title)?;
        writeln!(f, "  {:<58}{:>12}{:>11}{:>11}{:>11}", "", "median", "10 %", "90 %", "ours is")?;
        let ours = self.ours.samples.median();
        for (row, ratio) in std::iter::once((&self.ours, None)).chain(self.others.iter().map(|row| {
            let theirs = row.samples.median();
            (row, Some(ours / theirs).filter(|ratio| ratio.is_finite()))
        })) {
            let samples = &row.samples;
            let value = format!("{:.2} {unit}", samples.median());
            write!(f, "  {:<58}{value:>12}", row.what)?;
            write!(f, "{:>11.2}{:>11.2}", samples.quantile(0.1), samples.quantile(0.9))?;
            match ratio {
                Some(ratio) => writeln!(f, "{:>11}", format!("{ratio:.2} x"))?,
                None => writeln!(f)?,
            }
        }
        let verdict = if self.reached() { "reached" } else { "NOT reached" };
        writeln!(f, "  {verdict}: {ours:.2} {unit}, target {}", self.target.says)
    }
}
