//! What is set about a port: by sysctl in the caller's network namespace, and in the broker.

use super::{Broker, Held, Kind, Network, Question, Use};

/// What is set about it, whether or not any socket uses it.
#[must_use]
pub fn of_configuration(question: &Question, networks: &[Network], broker: Option<&Broker>) -> Vec<Use> {
    let mut uses = Vec::new();
    if let Some(broker) = broker {
        uses.extend(broker.listeners.iter().filter_map(|held| wanted(question, held)));
        uses.extend(leased(question, broker));
        uses.extend(learned(question, broker));
    }
    if let Some(own) = networks.first() {
        uses.extend(by_sysctl(question, own));
    }
    if let Some(broker) = broker {
        uses.extend(pooled(question, broker));
    }
    uses
}

/// A socket that the broker should hold and does not.
fn wanted(question: &Question, held: &Held) -> Option<Use> {
    let (protocol, port) = held.port()?;
    let is_it = held.inode.is_none() && port == question.port && question.is_about(protocol);
    is_it.then(|| Use {
        name: Some(held.listener.clone()),
        detail: held.error.clone().or_else(|| Some(held.state.clone())),
        ..Use::new(Kind::Wanted, Some(protocol), 0)
    })
}

fn leased(question: &Question, broker: &Broker) -> Vec<Use> {
    let of_it = broker.leases.iter().filter_map(|lease| {
        let protocol = lease.protocol.parse().ok()?;
        question.is_about(protocol).then(|| Use {
            name: Some(lease.pool.clone()),
            detail: Some(format!(
                "lease {} of {} on {} for {}, {}",
                lease.number,
                lease.owner,
                lease.addresses.join(", "),
                lease.destination.as_deref().unwrap_or("any destination"),
                lease.state
            )),
            ..Use::new(Kind::Leased, Some(protocol), 0)
        })
    });
    super::summed_up(of_it.collect())
}

fn learned(question: &Question, broker: &Broker) -> Vec<Use> {
    let of_it = broker.learned.iter().filter(|learned| learned.port == question.port).filter_map(|learned| {
        let protocol = learned.protocol.parse().ok()?;
        question
            .is_about(protocol)
            .then(|| Use { name: Some(learned.unit.clone()), ..Use::new(Kind::Learned, Some(protocol), 0) })
    });
    of_it.collect()
}

fn by_sysctl(question: &Question, own: &Network) -> Option<Use> {
    if own.reserved.contains(question.port) {
        return Some(Use {
            detail: Some("net.ipv4.ip_local_reserved_ports".to_owned()),
            ..Use::new(Kind::Reserved, None, 0)
        });
    }
    let range = own.range.filter(|range| (range.first()..=range.last()).contains(&question.port))?;
    Some(Use {
        detail: Some(format!("net.ipv4.ip_local_port_range {range}")),
        ..Use::new(Kind::Ephemeral, None, 0)
    })
}

fn pooled(question: &Question, broker: &Broker) -> Vec<Use> {
    let of_pool = broker.pools.iter().filter_map(|pool| {
        let (kind, detail) = if pool.zone.contains(question.port) {
            (Kind::Zone, None)
        } else {
            let mut left_out = pool.left_out.iter();
            let (_, why) = left_out.find(|(ports, _)| ports.contains(question.port))?;
            (Kind::LeftOut, Some(why.clone()))
        };
        Some(Use { name: Some(pool.name.clone()), detail, ..Use::new(kind, None, 0) })
    });
    of_pool.collect()
}
