//! Looks at who listens, keeps what is learned of it, and says what there was no room for.
//!
//! A look is one question to the kernel, and one to systemd's files for each service that listens. It is taken once
//! a minute with the reserved ports, and soon after services have started; never more often than [`Schedule`] says.

use super::command::Refusal;
use super::learned_file::LearnedFile;
use super::{Broker, until};
use crate::config::Config;
use crate::kernel::cgroups::Cgroups;
use crate::kernel::listening::{Listening, listening};
use crate::kernel::unit_starts::UnitStarts;
use crate::learn::{
    Learned, Life, MOST_PORTS, Memory, Moment, Named, Outcome, Rules, SHARE, Schedule, Sightings, service_of,
};
use crate::model::{PortSet, UnitName};
use crate::policy::{Caller, Decision, may_administer};
use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// What is learned, and what looking takes.
pub(super) struct Learning {
    memory: Memory,
    rules: Rules,
    file: LearnedFile,
    schedule: Schedule,
    cgroups: Option<Cgroups>,
    /// The service of each cgroup that was seen, by number. Numbers are not used twice.
    services: HashMap<u64, Option<UnitName>>,
    starts: Option<UnitStarts>,
    /// Why nobody can look, if so.
    fault: Option<String>,
}

impl Learning {
    /// Reads what was learned. Must be called within a tokio runtime.
    pub(super) fn new(directory: &Path) -> Self {
        let now = Instant::now();
        let mut file = LearnedFile::new(directory, now);
        let memory = file.read();
        let cgroups = Cgroups::find();
        if cgroups.is_none() {
            tracing::warn!(
                "there is no unified cgroup hierarchy, so nobody can tell whose ports are listened on: of services, \
                 only the ports that enabled socket units name are learned; name others under [protect] ports"
            );
        }
        let starts = UnitStarts::watch().unwrap_or_else(|error| {
            tracing::warn!(%error, "starts of services are not seen, and their ports once a minute: {error}");
            None
        });
        let rules =
            Rules { learn: false, exclude: PortSet::default(), held: PortSet::default(), range: None };
        let schedule = Schedule::new(now);
        Self { memory, rules, file, schedule, cgroups, services: HashMap::new(), starts, fault: None }
    }

    /// Returns when it is time to look.
    pub(super) async fn due(&mut self) {
        loop {
            let started = async {
                match &mut self.starts {
                    Some(starts) => starts.next().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = until(self.schedule.due()) => return,
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

    /// What there is to see now, or why there is nothing.
    fn see(&mut self) -> std::io::Result<Sightings> {
        let Some(cgroups) = &self.cgroups else { return Ok(Sightings::new()) };
        let sockets: BTreeSet<Listening> = listening()?.into_iter().collect();
        if sockets.iter().any(|socket| !self.services.contains_key(&socket.cgroup)) {
            let paths = cgroups.paths();
            self.services = paths.into_iter().map(|(id, path)| (id, service_of(&path))).collect();
        }
        let mut seen = Sightings::new();
        for Listening { cgroup, protocol, port } in sockets {
            // Below a unit, or gone already: not to be looked for again.
            let Some(unit) = self.services.entry(cgroup).or_default() else { continue };
            if let Some((_, ports)) = seen.get_mut(unit) {
                ports.insert((protocol, port));
            } else if let Some(life) = Life::new(&cgroups.life(unit.as_str(), cgroup)) {
                seen.insert(unit.clone(), (life, BTreeSet::from([(protocol, port)])));
            }
        }
        Ok(seen)
    }

    /// What is not as it should be.
    pub(super) fn faults(&self) -> Vec<String> {
        if !self.rules.learn {
            return Vec::new();
        }
        let left_out = self.memory.without_room(&self.rules);
        let full = (!left_out.is_empty()).then(|| {
            format!(
                "{} ports that services listen on are not kept out of ephemeral allocation ({}): at most {MOST_PORTS} \
                 ports, and one in {SHARE} of the ephemeral range, are learned; forget some with \"portbroker forget\", \
                 or name these under [protect] ports",
                left_out.len(),
                shortened(&left_out),
            )
        });
        self.fault.iter().cloned().chain(self.file.fault().map(str::to_owned)).chain(full).collect()
    }

    /// What is learned, by port; nothing where nothing is to be.
    pub(super) fn learned(&self) -> Vec<Learned> {
        if self.rules.learn { self.memory.learned() } else { Vec::new() }
    }

    /// How many ports are protected by it.
    pub(super) fn count(&self) -> usize {
        self.memory.wanted(&self.rules).len()
    }
}

fn moment() -> Moment {
    Moment(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()))
}

/// A list of ports of a bearable length.
fn shortened(ports: &PortSet) -> String {
    const MOST: usize = 20;
    let ranges = ports.ranges();
    let text: Vec<String> = ranges.iter().take(MOST).map(ToString::to_string).collect();
    format!("{}{}", text.join(","), if ranges.len() > MOST { ", …" } else { "" })
}

impl Broker {
    /// Takes what the configuration says of learning. `known`: whether its socket units are those of the host.
    pub(super) fn configure_learning(&mut self, config: &Config, socket_units_are_known: bool) {
        let mut held = config.protect.ports.clone();
        held.extend(self.table.iter().flat_map(|(_, l)| l.config.endpoints.iter().filter_map(|e| e.port())));
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
        self.protection.set_learned(self.learning.memory.wanted(&self.learning.rules));
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
        let fault = match self.learning.see() {
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
        let wanted = self.learning.memory.wanted(&self.learning.rules);
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

    /// Forgets a learned port, until it is seen in two new lives of its unit.
    pub(super) fn forget(&mut self, caller: &Caller, port: u16) -> Result<(), Refusal> {
        if let Decision::Denied(reason) = may_administer(caller) {
            let Caller { uid, pid, .. } = caller;
            tracing::warn!(
                event = "refusal",
                reason,
                uid,
                pid,
                "refused pid {pid} of user {uid} to forget port {port}: {reason}"
            );
            let action = "forget learned ports: only root may".to_owned();
            return Err(Refusal::NotAllowed { action, reason });
        }
        if !self.learning.rules.learn || self.learning.memory.forget(port) == 0 {
            let text = format!("port {port} is not learned: see \"portbroker list learned\"");
            return Err(Refusal::BadArgument(text));
        }
        tracing::info!(event = "forgotten", port, "forgot port {port}");
        let Learning { memory, file, rules, .. } = &mut self.learning;
        file.keep(memory, true, Instant::now());
        self.protection.set_learned(memory.wanted(rules));
        self.assert_reserved_ports();
        self.touched = true;
        Ok(())
    }
}
