//! The daemon under `portbrokerd --keeper`, in network namespaces made by the tests: nothing is lost, as under systemd.

#[cfg(test)]
#[path = "../support/daemon.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod daemon;
#[cfg(test)]
#[path = "../support/egress.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod egress;
#[cfg(test)]
#[path = "../support/leases.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod leases;
#[cfg(test)]
#[path = "../support/memory.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod memory;
#[cfg(test)]
#[path = "../support/netns.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod netns;
#[cfg(test)]
#[path = "../support/served.rs"]
mod served;

#[cfg(test)]
mod end;
#[cfg(test)]
mod few;
#[cfg(test)]
mod figure;
#[cfg(test)]
mod lives;
#[cfg(test)]
mod places;
#[cfg(test)]
mod protocol;
#[cfg(test)]
mod support;
#[cfg(test)]
mod upgrade;
