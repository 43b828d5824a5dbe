//! All the ports that an address has, at once, for one destination: the most connections that one address can have.

use crate::crew::{Filled, Worker, fill, most};
use crate::daemon::Daemon;
use crate::ground::{destination, pool, prepare_apart};
use crate::measure::{Samples, Table, Target, row};
use crate::netns::in_netns;
use crate::way::{Lender, Way};

/// Those from 1,024 up.
pub(crate) const ALL: u32 = 64_512;
const PORT: u16 = 8_080;

pub(crate) fn measure() -> Vec<Table> {
    let connections = in_netns(run);
    let missing = f64::from(ALL - connections);
    vec![Table {
        title: format!(
            "connections from one address to one destination in another namespace: {connections} at a time"
        ),
        unit: "",
        ours: row(format!("less than {ALL}, before the broker says Exhausted"), Samples::from(missing)),
        target: Target { limit: 0.0, says: "none".to_owned() },
        others: vec![row(
            "by the kernel's choice from its default range, at most",
            Samples::from(f64::from(ALL) - f64::from(60_999 - 32_768 + 1)),
        )],
    }]
}

/// How many there are when the broker has no more. Panics where another error came before.
pub(crate) fn run() -> u32 {
    // The kernel's own range is where the pool's ports are not.
    let _listening = prepare_apart((1_000, 1_023), 1, PORT);
    let daemon = Daemon::start(&pool("egress", 1, "1024-65535"));
    let way = Way::Connector(Lender { socket: daemon.socket(), pool: "egress".to_owned() });
    // One more than are needed: each is done when there is nothing left, not before.
    let count = ALL / most() + 2;
    let mut workers: Vec<_> = (0..count).map(|_| Worker::start(&way, destination(PORT))).collect();
    let Filled { connections, exhausted, failures } = fill(&mut workers, most(), 200);
    assert_eq!((failures, exhausted), (Vec::<String>::new(), count));
    connections
}
