//! One look at who listens: what the kernel says of sockets, put together with what systemd says of units.

use crate::kernel::cgroups::Cgroups;
use crate::kernel::listening::{Listening, MOST_LEFT_OUT, listening};
use crate::learn::{Life, Sightings, service_of};
use crate::model::{PortSet, Protocol, UnitName};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;

/// More sockets of one cgroup are a crowd: more than are learned of all. To be told of each of them takes longer than
/// all the rest, and so it is asked for anew only in a new life of its unit, and now and then.
const CROWD: usize = 1000;
/// After so many looks a crowd is asked for anew.
const LOOKS: u32 = 10;

/// Very many sockets of one cgroup.
#[derive(Debug)]
struct Crowd {
    /// The life of its service; `None` for what is no service's, and never of interest.
    life: Option<Life>,
    /// As many as a crowd begins with.
    ports: BTreeSet<(Protocol, u16)>,
    looks: u32,
    /// All of them.
    listened: Listened,
}

/// The ports that somebody waits on.
#[derive(Debug, Clone, Default)]
pub struct Listened {
    /// Those of TCP sockets that listen.
    pub tcp: PortSet,
    /// Those of UDP sockets that are not connected.
    pub udp: PortSet,
}

impl Listened {
    fn of(sockets: &[Listening]) -> Self {
        let mut listened = Self::default();
        for socket in sockets {
            match socket.protocol {
                Protocol::Tcp => listened.tcp.insert(socket.port),
                Protocol::Udp => listened.udp.insert(socket.port),
            };
        }
        listened
    }

    fn add(&mut self, other: &Self) {
        self.tcp = self.tcp.union(&other.tcp);
        self.udp = self.udp.union(&other.udp);
    }
}

/// Looks, and remembers whose cgroup is whose from one look to the next.
#[derive(Debug)]
pub struct Lookout {
    cgroups: Option<Cgroups>,
    /// The service of each cgroup that was seen, by number. Numbers are not used twice.
    services: HashMap<u64, Option<UnitName>>,
    crowds: BTreeMap<u64, Crowd>,
    listened: Listened,
}

impl Lookout {
    /// Finds out what there is to go by.
    #[must_use]
    pub fn new() -> Self {
        let cgroups = Cgroups::find();
        if cgroups.is_none() {
            tracing::warn!(
                "there is no unified cgroup hierarchy, so nobody can tell whose ports are listened on: of services, \
                 only the ports that enabled socket units name are learned; name others under [protect] ports"
            );
        }
        Self { cgroups, services: HashMap::new(), crowds: BTreeMap::new(), listened: Listened::default() }
    }

    /// What somebody listened on at the last look, whoever that is.
    #[must_use]
    pub fn listened(&self) -> &Listened {
        &self.listened
    }

    /// Looks for that alone.
    pub fn see_ports(&mut self) -> io::Result<()> {
        self.listened = Listened::of(&listening(&[])?);
        Ok(())
    }

    /// What services listen on now.
    pub fn see(&mut self) -> io::Result<Sightings> {
        let Some(cgroups) = &self.cgroups else {
            self.see_ports()?;
            return Ok(Sightings::new());
        };
        let mut seen = Sightings::new();
        let services = &self.services;
        self.crowds.retain(|cgroup, crowd| {
            let Some(unit) = services.get(cgroup).and_then(Option::as_ref) else {
                return crowd.life.is_none();
            };
            crowd.looks += 1;
            let life = Life::new(&cgroups.life(unit.as_str(), *cgroup));
            let stays = crowd.looks < LOOKS && life == crowd.life;
            if let Some(life) = life.filter(|_| stays) {
                seen.insert(unit.clone(), (life, crowd.ports.clone()));
            }
            stays
        });
        let left_out: Vec<u64> = self.crowds.keys().copied().collect();
        let mut sockets = listening(&left_out)?;
        self.listened = Listened::of(&sockets);
        self.crowds.values().for_each(|crowd| self.listened.add(&crowd.listened));
        sockets.sort_unstable();
        sockets.dedup();
        if sockets.iter().any(|socket| !self.services.contains_key(&socket.cgroup)) {
            let paths = cgroups.paths();
            self.services = paths.into_iter().map(|(id, path)| (id, service_of(&path))).collect();
        }
        for of_one in sockets.chunk_by(|a, b| a.cgroup == b.cgroup) {
            let Some(&Listening { cgroup, .. }) = of_one.first() else { continue };
            // Below a unit, or gone already: not to be looked for again.
            let unit = self.services.entry(cgroup).or_default();
            let life = unit.as_ref().and_then(|unit| Life::new(&cgroups.life(unit.as_str(), cgroup)));
            let of_interest = of_one.iter().take(if unit.is_some() { CROWD } else { 0 });
            let ports: BTreeSet<_> = of_interest.map(|socket| (socket.protocol, socket.port)).collect();
            if of_one.len() > CROWD && self.crowds.len() < MOST_LEFT_OUT {
                let listened = Listened::of(of_one);
                self.crowds
                    .insert(cgroup, Crowd { life: life.clone(), ports: ports.clone(), looks: 0, listened });
            }
            if let (Some(unit), Some(life)) = (unit, life) {
                seen.insert(unit.clone(), (life, ports));
            }
        }
        Ok(seen)
    }
}

impl Default for Lookout {
    fn default() -> Self {
        Self::new()
    }
}
