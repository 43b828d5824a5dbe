//! What is known of the broker: what was said and asked goes in, what is drawn comes out of it. No I/O and no clock.
//!
//! Between two snapshots it is kept up by what the broker announces; what is not announced (addresses of pools, queues,
//! destinations) is as it was asked for last.

use portbroker::model::PortSet;
use portbroker_client::inspect::{ListenerStatus, Queue, Status};
use portbroker_client::pools::{Forecast, PoolStatus};
use portbroker_client::watch::{Change, Event, SocketQueue};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::SystemTime;

/// So many happenings are kept.
const KEPT: usize = 1000;

/// What happened to what is known.
#[derive(Debug, Clone)]
pub(crate) enum Update {
    /// Everything, at one moment.
    Snapshot(Box<Status>),
    /// Something changed.
    Changed(Change),
    /// A listener as it is now.
    Listener(Box<ListenerStatus>),
    /// A pool as it is now; `None`: it is gone.
    Pool(String, Option<Box<PoolStatus>>),
    /// What waits anywhere.
    Queues(Vec<SocketQueue>),
    /// Those with the most in use.
    Destinations(Vec<Forecast>),
    /// What was said in the log.
    Events(Vec<Event>),
    /// The log is not for us: what is announced has to do.
    NoEvents,
    /// The broker is gone, or does not answer.
    Lost(String),
    /// What came of what the keys asked for.
    Said(Said),
}

/// A line about what the keys asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Said {
    Done(String),
    Failed(String),
}

/// How bad something is that happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    Info,
    Warning,
    Error,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Happening {
    pub(crate) time: SystemTime,
    pub(crate) level: Level,
    pub(crate) event: String,
    pub(crate) message: String,
}

/// Whether there is a broker to hear of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Link {
    /// Nothing is known yet.
    New,
    Up,
    /// Gone since then, for this reason; what is known is what was.
    Away(SystemTime, String),
}

/// What waits in the sockets of a listener.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Depth {
    /// Connections.
    pub(crate) waiting: u64,
    /// Room for them, of those sockets in which something waits.
    pub(crate) limit: u64,
    /// Bytes of datagrams.
    pub(crate) bytes: u64,
    pub(crate) overflows: u64,
}

#[derive(Debug)]
pub(crate) struct Model {
    pub(crate) link: Link,
    pub(crate) version: String,
    pub(crate) state: String,
    pub(crate) faults: Vec<String>,
    pub(crate) listeners: BTreeMap<String, ListenerStatus>,
    queues: HashMap<String, HashMap<u64, Queue>>,
    pub(crate) pools: BTreeMap<String, PoolStatus>,
    pub(crate) destinations: Vec<Forecast>,
    /// The last one first.
    pub(crate) events: VecDeque<Happening>,
    /// Whether the log tells of hand-overs and refusals.
    pub(crate) hears_log: bool,
    pub(crate) said: Option<Said>,
}

impl Default for Model {
    fn default() -> Self {
        Self {
            link: Link::New,
            version: String::new(),
            state: String::new(),
            faults: Vec::new(),
            listeners: BTreeMap::new(),
            queues: HashMap::new(),
            pools: BTreeMap::new(),
            destinations: Vec::new(),
            events: VecDeque::new(),
            hears_log: true,
            said: None,
        }
    }
}

impl Model {
    /// Takes what was heard. What was asked for tells nobody that it is the same as before; the screen finds that out.
    pub(crate) fn take(&mut self, update: Update, now: SystemTime) {
        match update {
            Update::Snapshot(status) => self.take_snapshot(*status, now),
            Update::Changed(change) => self.take_change(change, now),
            Update::Listener(listener) => {
                self.listeners.insert(listener.name.clone(), *listener);
            }
            Update::Pool(name, Some(pool)) => {
                self.pools.insert(name, *pool);
            }
            Update::Pool(name, None) => {
                self.pools.remove(&name);
            }
            Update::Queues(queues) => {
                self.queues.clear();
                for SocketQueue { listener, inode, queue } in queues {
                    self.queues.entry(listener).or_default().insert(inode, queue);
                }
            }
            Update::Destinations(destinations) => self.destinations = destinations,
            Update::Events(events) => {
                for Event { time, level, event, message, .. } in events {
                    let level = match level.as_str() {
                        "error" => Level::Error,
                        "warning" => Level::Warning,
                        _ => Level::Info,
                    };
                    self.tell(Happening { time, level, event, message });
                }
            }
            Update::NoEvents => self.hears_log = false,
            Update::Lost(why) => {
                if !matches!(self.link, Link::Away(..)) {
                    self.say(now, Level::Error, "away", format!("the broker is gone: {why}"));
                    self.link = Link::Away(now, why);
                }
            }
            Update::Said(said) => self.said = Some(said),
        }
    }

    fn take_snapshot(&mut self, status: Status, now: SystemTime) {
        if let Link::Away(since, _) = &self.link {
            let away = now.duration_since(*since).unwrap_or_default().as_secs();
            self.say(now, Level::Warning, "back", format!("the broker is back after {away} s"));
        }
        self.link = Link::Up;
        let Status { state, version, faults, listeners, pools, .. } = status;
        (self.state, self.version, self.faults) = (state, version, faults);
        self.listeners = listeners.into_iter().map(|listener| (listener.name.clone(), listener)).collect();
        self.pools = pools.into_iter().map(|pool| (pool.name.clone(), pool)).collect();
    }

    fn take_change(&mut self, change: Change, now: SystemTime) {
        match change {
            Change::Listener(listener) => self.take_listener(*listener, now),
            Change::ListenerGone(name) => {
                if self.listeners.remove(&name).is_some() {
                    self.say(now, Level::Info, "listener", format!("{name} is no longer there"));
                }
            }
            Change::PoolGone(name) => {
                if self.pools.remove(&name).is_some() {
                    self.say(now, Level::Info, "pool", format!("pool {name} is no longer there"));
                }
            }
            Change::Wanted(name) => {
                self.say(now, Level::Warning, "wanted", format!("somebody lacks ports of pool {name}"));
            }
            // The log says it better.
            Change::ExhaustionAhead(name) if !self.hears_log => {
                let text = format!("ports of pool {name} will be used up soon");
                self.say(now, Level::Warning, "exhaustion-ahead", text);
            }
            Change::ExhaustionAhead(_) => {}
            Change::Manager { state, faults } => {
                let new: Vec<&String> = faults.iter().filter(|f| !self.faults.contains(f)).collect();
                // The log has them too.
                if !self.hears_log {
                    let new: Vec<String> = new.into_iter().cloned().collect();
                    new.into_iter().for_each(|fault| self.say(now, Level::Error, "fault", fault));
                }
                if self.state != state {
                    let level = if state == "running" { Level::Info } else { Level::Warning };
                    self.say(now, level, "state", format!("the broker was {}, is {state}", self.state));
                }
                (self.state, self.faults) = (state, faults);
            }
            // It is asked for.
            Change::Pool(_) => {}
        }
    }

    fn take_listener(&mut self, listener: ListenerStatus, now: SystemTime) {
        let name = &listener.name;
        match self.listeners.get(name) {
            None => self.say(now, Level::Info, "listener", format!("{name} is new, and {}", listener.state)),
            Some(before) => {
                let level = if listener.state == "failed" { Level::Error } else { Level::Info };
                let was = before.state.clone();
                let (had, has) = (before.holders.join(", "), listener.holders.join(", "));
                if was != listener.state {
                    self.say(now, level, "state", format!("{name} was {was}, is {}", listener.state));
                }
                if had != has && !self.hears_log {
                    let text =
                        if has.is_empty() { format!("{had} is gone") } else { format!("held by {has}") };
                    self.say(now, Level::Info, "holder", format!("{name}: {text}"));
                }
            }
        }
        self.listeners.insert(listener.name.clone(), listener);
    }

    fn say(&mut self, time: SystemTime, level: Level, event: &str, message: String) {
        self.tell(Happening { time, level, event: event.to_owned(), message });
    }

    fn tell(&mut self, happening: Happening) {
        // What was announced may be older than what the log said meanwhile.
        let at = self.events.iter().position(|other| other.time <= happening.time);
        self.events.insert(at.unwrap_or(self.events.len()), happening);
        self.events.truncate(KEPT);
    }

    /// What waits for a listener.
    pub(crate) fn depth(&self, listener: &ListenerStatus) -> Depth {
        let mut depth = Depth::default();
        let Some(queues) = self.queues.get(&listener.name) else { return depth };
        for (inode, queue) in queues {
            let socket = listener.sockets.iter().find(|socket| socket.inode == Some(*inode));
            let is_datagram = socket
                .is_some_and(|s| s.endpoint.starts_with("udp") || s.endpoint.starts_with("unix-datagram"));
            let waiting = u64::from(queue.waiting.unwrap_or_default());
            if is_datagram {
                depth.bytes += waiting;
            } else {
                depth.waiting += waiting;
                depth.limit += u64::from(queue.limit.unwrap_or_default());
            }
            depth.overflows += u64::from(queue.overflows.unwrap_or_default());
        }
        depth
    }

    /// How many listeners there are in each state, the worst first.
    pub(crate) fn states(&self) -> Vec<(&str, usize)> {
        let mut counts: BTreeMap<(u8, &str), usize> = BTreeMap::new();
        for listener in self.listeners.values() {
            *counts.entry((badness(&listener.state), &listener.state)).or_default() += 1;
        }
        counts.into_iter().map(|((_, state), count)| (state, count)).collect()
    }
}

/// The order of states: what somebody has to look at comes first.
pub(crate) fn badness(state: &str) -> u8 {
    match state {
        "failed" => 0,
        "degraded" | "absent" => 1,
        "lingering" | "draining" => 2,
        "drained" => 3,
        "reserved" => 4,
        _ => 5,
    }
}

/// How many ports a pool has of each address; 0 where what it says cannot be read.
pub(crate) fn ports_of_zone(pool: &PoolStatus) -> u64 {
    let ports = pool.zone.parse::<PortSet>().map(|zone| zone.len()).unwrap_or_default();
    u64::try_from(ports).unwrap_or_default()
}

#[cfg(test)]
#[path = "model_tests.rs"]
pub(super) mod tests;
