//! One look at who listens: what the kernel says of sockets, put together with what systemd says of units.

use crate::kernel::cgroups::Cgroups;
use crate::kernel::listening::{Listening, listening};
use crate::learn::{Life, Sightings, service_of};
use crate::model::UnitName;
use std::collections::{BTreeSet, HashMap};
use std::io;

/// Looks, and remembers whose cgroup is whose from one look to the next.
#[derive(Debug)]
pub struct Lookout {
    cgroups: Option<Cgroups>,
    /// The service of each cgroup that was seen, by number. Numbers are not used twice.
    services: HashMap<u64, Option<UnitName>>,
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
        Self { cgroups, services: HashMap::new() }
    }

    /// What services listen on now.
    pub fn see(&mut self) -> io::Result<Sightings> {
        let Some(cgroups) = &self.cgroups else { return Ok(Sightings::new()) };
        let mut sockets = listening()?;
        sockets.sort_unstable();
        sockets.dedup();
        if sockets.iter().any(|socket| !self.services.contains_key(&socket.cgroup)) {
            let paths = cgroups.paths();
            self.services = paths.into_iter().map(|(id, path)| (id, service_of(&path))).collect();
        }
        let mut seen = Sightings::new();
        for of_one in sockets.chunk_by(|a, b| a.cgroup == b.cgroup) {
            let Some(&Listening { cgroup, .. }) = of_one.first() else { continue };
            // Below a unit, or gone already: not to be looked for again.
            let Some(unit) = self.services.entry(cgroup).or_default() else { continue };
            let Some(life) = Life::new(&cgroups.life(unit.as_str(), cgroup)) else { continue };
            let ports: BTreeSet<_> = of_one.iter().map(|socket| (socket.protocol, socket.port)).collect();
            seen.insert(unit.clone(), (life, ports));
        }
        Ok(seen)
    }
}

impl Default for Lookout {
    fn default() -> Self {
        Self::new()
    }
}
