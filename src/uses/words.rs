//! What the uses of a port mean, in plain words, and the command that mends it.
//!
//! The rules behind the sentences, as they were measured:
//!
//! - A connection whose source port the *kernel* chose keeps every service from listening on that port, with SO_REUSEADDR
//!   or without; in TIME_WAIT too, for a minute.
//! - What came in on the port keeps nobody out who sets SO_REUSEADDR, as nearly all services do.
//! - A source port that was bound with SO_REUSEADDR, as leases are, keeps nobody out either.
//! - A UDP socket keeps everybody else off its port.

use super::{Broker, Kind, Network, Question, Use, Users, known};
use crate::model::{Protocol, SocketState};
use std::fmt::Write as _;
use std::time::Duration;

/// How a sentence is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tone {
    /// It keeps a service out.
    Bad,
    /// It may come to that.
    Warning,
    /// It is as it should be.
    Good,
}

impl Tone {
    /// The word that JSON has for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bad => "bad",
            Self::Warning => "warning",
            Self::Good => "good",
        }
    }
}

/// A sentence, and the command that mends it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sentence {
    /// How it is meant.
    pub tone: Tone,
    /// What is so.
    pub text: String,
    /// What to do, as a command; `None`: nothing, or nobody can say.
    pub remedy: Option<String>,
}

/// What sentences are made of, beside the uses.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// What was asked about.
    pub question: Question,
    /// The network namespaces, the caller's own first.
    pub networks: &'a [Network],
    /// What the broker says; `None`: there is none.
    pub broker: Option<&'a Broker>,
    /// Names of users.
    pub users: &'a Users,
    /// The name of the port in services(5).
    pub service: Option<&'a str>,
}

/// The sentences about these uses, in their order.
#[must_use]
pub fn explain(context: &Context<'_>, uses: &[Use]) -> Vec<Sentence> {
    let port = context.question.port;
    let mut sentences: Vec<Sentence> = uses
        .iter()
        .map(|one| match one.kind {
            Kind::Brokered => context.brokered(one),
            Kind::Listener => context.listener(one),
            Kind::Bound => context.bound(one),
            Kind::Datagrams => context.datagrams(one),
            Kind::Source => context.source(one, uses),
            Kind::Served => context.served(one, uses),
            Kind::TimeWait => context.time_wait(one, uses),
            Kind::Wanted => context.wanted(one),
            Kind::Leased => context.leased(one),
            Kind::Learned => context.learned(one),
            Kind::Reserved => good(format!(
                "{port} is in net.ipv4.ip_local_reserved_ports: the kernel gives it to no connection by itself"
            )),
            Kind::Ephemeral => context.ephemeral(one, uses),
            Kind::Zone => context.zone(one),
            Kind::LeftOut => good(format!(
                "pool {} leaves {port} out: {}",
                name(one),
                one.detail.as_deref().unwrap_or("it is not free")
            )),
        })
        .collect();
    sentences.dedup();
    if !uses.iter().any(|one| one.socket.is_some()) {
        sentences.insert(0, good(format!("no socket uses {}", context.question)));
    }
    if let Some(outside) = context.outside(uses) {
        sentences.push(outside);
    }
    sentences
}

fn good(text: String) -> Sentence {
    Sentence { tone: Tone::Good, text, remedy: None }
}

fn name(one: &Use) -> &str {
    one.name.as_deref().unwrap_or_default()
}

/// `43 s`, as the kernel would round it up.
fn seconds(time: Duration) -> String {
    format!("{} s", time.as_millis().div_ceil(1000))
}

impl Context<'_> {
    /// Who would like to have the port.
    fn wanter(&self, protocol: Option<Protocol>) -> String {
        let port = self.question.port;
        let is_it = |of: Protocol| protocol.is_none_or(|protocol| protocol == of);
        let of_listener = || {
            let listeners = self.broker.into_iter().flat_map(|broker| &broker.listeners);
            let mut units = listeners
                .filter(|held| held.port().is_some_and(|(of, number)| number == port && is_it(of)))
                .flat_map(|held| &held.allow);
            units.find_map(|grant| grant.strip_prefix("unit:").map(str::to_owned))
        };
        let learned = || {
            let mut learned = self.broker.into_iter().flat_map(|broker| &broker.learned);
            let of_it =
                learned.find(|learned| learned.port == port && learned.protocol.parse().is_ok_and(is_it));
            of_it.map(|learned| learned.unit.clone())
        };
        let by_name = || self.service.map(|service| format!("a service ({service})"));
        of_listener()
            .or_else(learned)
            .or_else(|| known(port).map(str::to_owned))
            .or_else(by_name)
            .unwrap_or_else(|| "a service".to_owned())
    }

    fn network(&self, one: &Use) -> Option<&Network> {
        self.networks.get(one.network)
    }

    /// ` in network namespace blue`, or nothing.
    fn within(&self, one: &Use) -> String {
        let name = self.network(one).and_then(|network| network.name.as_deref());
        name.map_or_else(String::new, |name| format!(" in network namespace {name}"))
    }

    fn local(&self, one: &Use) -> String {
        one.socket.map_or_else(|| self.question.to_string(), |socket| socket.local.to_string())
    }

    /// A command, in the network namespace of the use.
    fn command(&self, one: &Use, command: &str) -> String {
        match self.network(one).and_then(|network| network.enter.as_deref()) {
            Some(enter) => format!("{enter} {command}"),
            None => command.to_owned(),
        }
    }

    /// What ends a service.
    fn stop(one: &Use) -> Option<String> {
        let process = one.processes.first()?;
        let unit = process.unit.as_ref().map(|unit| unit.as_str());
        Some(match unit.filter(|unit| unit.ends_with(".service") && !unit.starts_with("user@")) {
            Some(unit) => format!("systemctl stop {unit}"),
            None => format!("kill {}", process.pid),
        })
    }

    /// What closes a connection.
    fn close(&self, one: &Use) -> Option<String> {
        let socket = one.socket?;
        let is_own = self.network(one).is_none_or(|network| network.name.is_none());
        if self.broker.is_some() && is_own {
            return Some(format!("portbroker who {} --evict", self.question));
        }
        let state = if socket.state == SocketState::TimeWait { " state time-wait" } else { "" };
        let udp = if socket.protocol == Protocol::Udp { " --udp" } else { "" };
        let command = format!("ss --kill{udp}{state} src {} dst {}", socket.local, socket.remote?);
        Some(self.command(one, &command))
    }

    /// Whether something has the port for good, beside which connections are in nobody's way.
    fn is_served(one: &Use, uses: &[Use]) -> bool {
        uses.iter().any(|other| {
            let holds =
                matches!(other.kind, Kind::Listener | Kind::Brokered) && other.protocol == one.protocol;
            let both = other.socket.zip(one.socket);
            holds
                && other.network == one.network
                && both.is_some_and(|(other, socket)| other.serves(socket.local))
        })
    }

    fn brokered(&self, one: &Use) -> Sentence {
        let mut listeners = self.broker.into_iter().flat_map(|broker| &broker.listeners);
        let holders = listeners
            .find(|held| Some(&held.listener) == one.name.as_ref())
            .map(|held| held.holders.join(", "));
        let has = match holders.filter(|holders| !holders.is_empty()) {
            Some(holders) => format!("{holders} has it"),
            None => "nobody has it now".to_owned(),
        };
        good(format!(
            "the broker holds {} as listener {}, {}; {has}",
            self.local(one),
            name(one),
            one.detail.as_deref().unwrap_or("held"),
        ))
    }

    fn listener(&self, one: &Use) -> Sentence {
        let text = format!(
            "{} listens on {}{}: no other service can",
            one.owner(self.users),
            self.local(one),
            self.within(one)
        );
        Sentence { tone: Tone::Good, text, remedy: Self::stop(one) }
    }

    fn bound(&self, one: &Use) -> Sentence {
        let text = format!(
            "{} has bound {}{} and does not listen on it: {} cannot start until that process closes it, and \
             connections are refused",
            one.owner(self.users),
            self.local(one),
            self.within(one),
            self.wanter(one.protocol)
        );
        Sentence { tone: Tone::Bad, text, remedy: Self::stop(one) }
    }

    fn datagrams(&self, one: &Use) -> Sentence {
        let text = format!(
            "{} receives the datagrams to {}{}: no other service can",
            one.owner(self.users),
            self.local(one),
            self.within(one)
        );
        Sentence { tone: Tone::Good, text, remedy: Self::stop(one) }
    }

    /// The lease that has this source.
    fn lease_of(&self, one: &Use) -> Option<u64> {
        let socket = one.socket?;
        let (address, protocol) = (socket.local.ip().to_string(), socket.protocol.as_str());
        let mut leases = self.broker?.leases.iter();
        let is_own = self.network(one).is_none_or(|network| network.name.is_none());
        leases
            .find(|lease| is_own && lease.protocol == protocol && lease.addresses.contains(&address))
            .map(|lease| lease.number)
    }

    fn source(&self, one: &Use, uses: &[Use]) -> Sentence {
        let port = self.question.port;
        let remote =
            one.socket.and_then(|socket| socket.remote).map_or_else(String::new, |to| format!(" to {to}"));
        let mut text = if one.count > 1 {
            format!("{port} is the source port of {} more connections{}", one.count, self.within(one))
        } else {
            let owner = one.owner(self.users);
            format!("{port} is the source port of a connection that {owner} made{remote}{}", self.within(one))
        };
        if one.protocol == Some(Protocol::Udp) {
            let wanter = self.wanter(one.protocol);
            let _ = write!(text, ", by UDP; {wanter} cannot have it until the socket is closed");
        } else if let Some(lease) = self.lease_of(one) {
            let _ = write!(
                text,
                ", by lease {lease}; it keeps no service from starting that sets SO_REUSEADDR, as nearly all do"
            );
            return good(text);
        } else if Self::is_served(one, uses) {
            let _ = write!(
                text,
                "; it was made before anything listened there, or beside it, and keeps nobody out now"
            );
            return good(text);
        } else {
            let it = if one.count > 1 { "they close" } else { "it closes" };
            let _ = write!(text, "; {} cannot start until {it}", self.wanter(one.protocol));
        }
        Sentence { tone: Tone::Bad, text, remedy: self.close(one) }
    }

    fn served(&self, one: &Use, uses: &[Use]) -> Sentence {
        let remote = one.socket.and_then(|socket| socket.remote);
        let who = match remote {
            _ if one.count > 1 => format!("{} more connections came in on", one.count),
            Some(remote) => format!("a connection came in from {remote} on"),
            None => "a connection came in on".to_owned(),
        };
        let end = if Self::is_served(one, uses) {
            "it belongs to the service that listens there".to_owned()
        } else {
            format!(
                "{} has it still, though nothing listens there; a service that sets SO_REUSEADDR, as nearly all do, \
                 starts beside it",
                one.owner(self.users)
            )
        };
        good(format!("{who} {}{}: {end}", self.local(one), self.within(one)))
    }

    fn time_wait(&self, one: &Use, uses: &[Use]) -> Sentence {
        let Some(socket) = one.socket else { return good(String::new()) };
        let left = seconds(socket.expires.unwrap_or_default());
        let within = self.within(one);
        let text = match socket.remote.filter(|_| one.count == 1) {
            Some(remote) => format!(
                "a closed connection between {} and {remote}{within} is kept by the kernel for {left} more (TIME_WAIT)",
                socket.local
            ),
            None => format!(
                "{} more closed connections{within} are kept by the kernel for up to {left} more (TIME_WAIT)",
                one.count
            ),
        };
        if Self::is_served(one, uses) {
            return good(format!("{text}: it is in nobody's way"));
        }
        if self.came_in(one) {
            return Sentence {
                tone: Tone::Warning,
                text: format!("{text}: only a service that does not set SO_REUSEADDR has to wait for it"),
                remedy: self.close(one),
            };
        }
        Sentence {
            tone: Tone::Bad,
            text: format!(
                "{text}: {} may have to wait so long before it can start",
                self.wanter(one.protocol)
            ),
            remedy: self.close(one),
        }
    }

    fn came_in(&self, one: &Use) -> bool {
        let around = self
            .network(one)
            .map(|network| super::Surroundings::new(&network.sockets, &network.listening, network.range));
        around.zip(one.socket).is_some_and(|(around, socket)| around.came_in(&socket))
    }

    fn wanted(&self, one: &Use) -> Sentence {
        let text = format!(
            "the broker is to hold {} as listener {} and does not: {}",
            self.question,
            name(one),
            one.detail.as_deref().unwrap_or("it could not be bound")
        );
        Sentence { tone: Tone::Bad, text, remedy: Some(format!("portbroker show listener {}", name(one))) }
    }

    fn leased(&self, one: &Use) -> Sentence {
        let port = self.question.port;
        let text = match one.detail.as_deref().filter(|_| one.count == 1) {
            Some(lease) => format!("pool {} leased {port}: {lease}", name(one)),
            None => format!("{} more leases of pool {} have {port}", one.count, name(one)),
        };
        good(text)
    }

    fn learned(&self, one: &Use) -> Sentence {
        let port = self.question.port;
        let text = format!(
            "the broker keeps {port} out of ephemeral allocation for {}, which it saw listening on it",
            name(one)
        );
        Sentence { tone: Tone::Good, text, remedy: Some(format!("portbroker forget {port}")) }
    }

    /// In the range, and not reserved.
    fn ephemeral(&self, one: &Use, uses: &[Use]) -> Sentence {
        let port = self.question.port;
        let range = one.detail.as_deref().unwrap_or_default();
        let holds =
            |one: &Use| matches!(one.kind, Kind::Listener | Kind::Brokered | Kind::Bound) && one.network == 0;
        if uses.iter().any(holds) {
            let text = format!(
                "{port} is in {range} and not reserved: when it is closed, as in a restart, the kernel may give it to \
                 any connection"
            );
            return Sentence { tone: Tone::Warning, text, remedy: Some(self.protect()) };
        }
        let text = format!(
            "{port} is in {range} and not reserved: the kernel may give it to any connection at any moment"
        );
        Sentence { tone: Tone::Warning, text, remedy: Some(self.protect()) }
    }

    /// What keeps the port out of ephemeral allocation.
    fn protect(&self) -> String {
        let port = self.question.port;
        if self.broker.is_some() {
            return format!(
                "printf '[protect]\\nports = [\"{port}\"]\\n' > /etc/portbroker/portbroker.conf.d/port-{port}.toml && \
                 portbroker reload"
            );
        }
        // What others have reserved stays.
        let mut reserved = self.networks.first().map(|own| own.reserved.clone()).unwrap_or_default();
        reserved.insert(port);
        format!("sysctl -w net.ipv4.ip_local_reserved_ports={reserved}")
    }

    fn zone(&self, one: &Use) -> Sentence {
        let port = self.question.port;
        good(format!(
            "{port} is in the zone of pool {}: it may be leased as the source of outgoing connections",
            name(one)
        ))
    }

    /// Where nothing is set about it, why it is safe.
    fn outside(&self, uses: &[Use]) -> Option<Sentence> {
        let range = self.networks.first()?.range?;
        let is_told = uses.iter().any(|one| matches!(one.kind, Kind::Reserved | Kind::Ephemeral));
        (!is_told).then(|| {
            good(format!(
                "{} is outside of net.ipv4.ip_local_port_range ({range}): the kernel gives it to no connection by itself",
                self.question.port
            ))
        })
    }
}
