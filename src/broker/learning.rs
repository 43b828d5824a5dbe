//! Looks at who listens, keeps what is learned of it, and says what there was no room for.
//!
//! A look is one question to the kernel, and one to systemd's files for each service that listens. It is taken once
//! a minute with the reserved ports, and soon after services have started; never more often than [`Schedule`] says.

use super::authority::administrator;
use super::command::Refusal;
use super::learned_file::LearnedFile;
use super::lookout::{Listened, Lookout};
use super::{Broker, until};
use crate::config::Config;
use crate::kernel::unit_starts::UnitStarts;
use crate::learn::{Learned, MOST_PORTS, Memory, Moment, Named, Outcome, Rules, SHARE, Schedule};
use crate::model::PortSet;
use crate::policy::Caller;
use std::path::Path;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// What is learned, and what looking takes.
pub(super) struct Learning {
    memory: Memory,
    rules: Rules,
    file: LearnedFile,
    schedule: Schedule,
    lookout: Lookout,
    starts: Option<UnitStarts>,
    /// Why nobody can look, if so.
    fault: Option<String>,
    /// What is to be reserved, as of the last change.
    wanted: PortSet,
    /// What there is no room for, said in a sentence.
    full: Option<String>,
}

impl Learning {
    /// Reads what was learned. Must be called within a tokio runtime.
    pub(super) fn new(directory: &Path) -> Self {
        let now = Instant::now();
        let mut file = LearnedFile::new(directory, now);
        let memory = file.read();
        let starts = UnitStarts::watch().unwrap_or_else(|error| {
            tracing::warn!(%error, "starts of services are not seen, and their ports once a minute: {error}");
            None
        });
        let rules =
            Rules { learn: false, exclude: PortSet::default(), held: PortSet::default(), range: None };
        let schedule = Schedule::new(now);
        Self {
            memory,
            rules,
            file,
            schedule,
            lookout: Lookout::new(),
            starts,
            fault: None,
            wanted: PortSet::default(),
            full: None,
        }
    }

    /// Returns when it is time to look, or when what was learned is written.
    pub(super) async fn due(&mut self) -> Due {
        loop {
            let started = async {
                match &mut self.starts {
                    Some(starts) => starts.next().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = until(self.schedule.due()) => return Due::Look,
                () = self.file.written() => return Due::Written,
                started = started => match started {
                    Ok(()) => self.schedule.unit_started(Instant::now()),
                    Err(error) => {
                        tracing::warn!(%error, "starts of services are not seen any more: {error}");
                        self.starts = None;
                    }
                },
            }
        }
    }

    /// Writes what is not written yet.
    pub(super) async fn finish(&mut self) {
        self.file.finish(&self.memory).await;
    }

    /// What is not as it should be.
    pub(super) fn faults(&self) -> Vec<String> {
        if !self.rules.learn {
            return Vec::new();
        }
        let all = [self.fault.as_deref(), self.file.fault(), self.full.as_deref()];
        let all = all.into_iter().flatten().map(str::to_owned);
        all.chain(self.file.lies_aside()).collect()
    }

    /// Works out what follows of a change. Here and not where it is asked for, which is with every acquisition.
    fn settle(&mut self) -> PortSet {
        self.wanted = self.memory.wanted(&self.rules);
        let left_out = self.memory.without_room(&self.rules);
        self.full = (!left_out.is_empty()).then(|| {
            format!(
                "services listen on ports that are not kept out of ephemeral allocation: {}; at most {MOST_PORTS} \
                 ports, and one in {SHARE} of the ephemeral range, are learned: forget some with \"portbroker forget\", \
                 or name these under [protect] ports",
                shortened(&left_out),
            )
        });
        self.wanted.clone()
    }

    /// These ports are kept by other means. Returns what is to be protected of what is learned.
    pub(super) fn set_held(&mut self, held: PortSet) -> PortSet {
        self.rules.held = held;
        self.settle()
    }

    /// Looks who listens on what, whether anything is learned of it or not.
    pub(super) fn see_ports(&mut self) {
        if let Err(error) = self.lookout.see_ports() {
            tracing::warn!(%error, "cannot see who listens: {error}");
        }
    }

    /// What somebody listened on at the last look, which is taken now where nothing is learned.
    pub(super) fn listened(&mut self) -> &Listened {
        if !self.rules.learn {
            self.see_ports();
        }
        self.lookout.listened()
    }

    /// What is learned, by port; nothing where nothing is to be.
    pub(super) fn learned(&self) -> Vec<Learned> {
        if self.rules.learn { self.memory.learned() } else { Vec::new() }
    }

    /// How many ports are protected by it.
    pub(super) fn count(&self) -> usize {
        self.wanted.len()
    }
}

/// What there is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    Look,
    Written,
}

fn moment() -> Moment {
    Moment(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()))
}

/// A list of ports of a bearable length.
fn shortened(ports: &PortSet) -> String {
    const MOST: usize = 20;
    let ranges = ports.ranges();
    let text: Vec<String> = ranges.iter().take(MOST).map(ToString::to_string).collect();
    let more = if ranges.len() > MOST { format!(" and more, {} in all", ports.len()) } else { String::new() };
    format!("{}{more}", text.join(","))
}

impl Broker {
    /// Takes what the configuration says of learning. `known`: whether its socket units are those of the host.
    pub(super) fn configure_learning(&mut self, config: &Config, socket_units_are_known: bool) {
        let mut held = config.protect.ports.clone();
        held.extend(self.brokered_ports().map(|(port, _)| port));
        let rules = &mut self.learning.rules;
        let was_on = rules.learn;
        rules.learn = config.protect.learn;
        rules.exclude.clone_from(&config.protect.exclude);
        rules.held = held;
        self.read_range();
        if socket_units_are_known && self.learning.rules.learn {
            let named: Vec<Named> = config
                .socket_units
                .iter()
                .map(|port| Named { unit: port.unit.clone(), protocol: port.protocol, port: port.port })
                .collect();
            let Learning { memory, rules, .. } = &mut self.learning;
            let outcome = memory.configure(rules, &named, moment());
            self.take_outcome(outcome, Instant::now());
        }
        let wanted = self.learning.settle();
        self.protection.set_learned(wanted);
        if self.learning.rules.learn || was_on {
            self.learning.schedule.unit_started(Instant::now());
        }
    }

    /// The range may be changed at any time, and what may be learned goes by it.
    fn read_range(&mut self) {
        self.learning.rules.range = self.protection.ephemeral_range().ok();
    }

    /// Looks, and protects what is learned from it.
    pub(super) fn look(&mut self) {
        let now = Instant::now();
        if !self.learning.rules.learn {
            self.learning.schedule.looked(now, false);
            return;
        }
        self.read_range();
        let fault = match self.learning.lookout.see() {
            Ok(seen) => {
                let Learning { memory, rules, .. } = &mut self.learning;
                let outcome = memory.look(&seen, rules, moment(), now);
                self.learning.schedule.looked(now, outcome.unsettled);
                self.take_outcome(outcome, now);
                None
            }
            Err(error) => {
                self.learning.schedule.looked(now, false);
                Some(format!("cannot see who listens, so no ports are learned: {error}"))
            }
        };
        if let Some(text) = &fault
            && fault != self.learning.fault
        {
            tracing::error!(event = "look", "{text}");
        }
        self.learning.fault = fault;
        let wanted = self.learning.settle();
        if self.protection.set_learned(wanted) {
            self.assert_reserved_ports();
        }
        self.touched = true;
    }

    fn take_outcome(&mut self, outcome: Outcome, now: Instant) {
        for (unit, protocol, port) in &outcome.learned {
            tracing::info!(event = "learned", port, %protocol, %unit, "learned port {port} ({protocol}) of {unit}");
        }
        for (unit, protocol, port) in &outcome.refused {
            tracing::warn!(event = "not-learned", port, %protocol, %unit, "port {port} ({protocol}) of {unit} is not learned: there is no room for more");
        }
        let Learning { memory, file, .. } = &mut self.learning;
        file.keep(memory, outcome.changed, now);
    }

    /// The file was written, or could not be.
    pub(super) fn learned_is_written(&mut self) {
        let Learning { memory, file, .. } = &mut self.learning;
        // What is new since.
        file.keep(memory, false, Instant::now());
        self.touched = true;
    }

    /// Forgets a learned port, until it is seen in two new lives of its unit.
    pub(super) fn forget(&mut self, caller: &Caller, port: u16) -> Result<(), Refusal> {
        administrator(caller, &self.gate, "forget learned ports", &format!("forget port {port}"))?;
        if !self.learning.rules.learn || self.learning.memory.forget(port) == 0 {
            let text = format!("port {port} is not learned: see \"portbroker list learned\"");
            return Err(Refusal::BadArgument(text));
        }
        tracing::info!(event = "forgotten", port, "forgot port {port}");
        let Learning { memory, file, .. } = &mut self.learning;
        file.keep(memory, true, Instant::now());
        let wanted = self.learning.settle();
        self.protection.set_learned(wanted);
        self.look_at_pools();
        self.assert_reserved_ports();
        self.touched = true;
        Ok(())
    }
}
