//! `portbroker deposit`, run as `ExecStartPre=`: puts a unit's sockets into its descriptor store, from where
//! systemd passes them to the main process as socket activation.
//!
//! The service starts after this. Where there is no broker that is right: it binds for itself, as it did before
//! there was one. In every other case it would bind *against* the broker, so the unit must fail.

use crate::args::{Deposit, block_on};
use crate::failure::{Failure, complain};
use crate::output::Output;
use crate::store::Store;
use portbroker_client::wire::ErrorName;
use portbroker_client::{Broker, Error, Holder};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::ExitCode;

type Sockets = Vec<(String, OwnedFd)>;

/// What the generator writes for a systemd that has it.
const PRESERVE: (&str, &str) =
    ("/run/systemd/generator/portbroker.service.d/50-systemd.conf", "FileDescriptorStorePreserve=yes");
const STILL_KEPT: &str = "; if it cannot, systemd keeps the sockets of the broker that was stopped for its next start: \
                          \"systemctl clean --what=fdstore portbroker.service\" gives them up";

/// Whether systemd keeps the sockets of a broker that was stopped, as far as is known.
fn keeps_the_stopped() -> bool {
    let (file, key) = PRESERVE;
    std::fs::read_to_string(file).is_ok_and(|text| text.lines().any(|line| line == key))
}

/// The JSON document.
#[derive(Debug, Serialize)]
struct Document<'a> {
    deposited: Vec<Deposited<'a>>,
}

#[derive(Debug, Serialize)]
struct Deposited<'a> {
    name: &'a str,
    sockets: usize,
}

pub(crate) fn run(broker: &Broker, output: Output, arguments: &Deposit) -> Result<ExitCode, Failure> {
    let store = Store::open()?;
    let sockets = match acquire_or_make_room(broker, &store, &arguments.names) {
        Ok(sockets) => sockets,
        Err(Failure::Broker(error @ Error::NotReachable { .. })) if !arguments.required => {
            let names = arguments.names.join(", ");
            let kept = if keeps_the_stopped() { STILL_KEPT } else { "" };
            complain(&format!(
                "{error}; the service now binds {names} for itself, as without a broker{kept}"
            ));
            return Ok(ExitCode::SUCCESS);
        }
        Err(failure) => return Err(failure),
    };
    let asked = sockets;
    let sockets = by_name(&asked);
    // All removals first: systemd ignores a socket that is still in the store under another name. What the unit
    // had under names that it has no more goes too, for it would take the place of the new ones; a broker that
    // cannot tell (one of an older version) is no reason to fail.
    let earlier = block_on(broker.deposits()).unwrap_or_default();
    let names: BTreeSet<&str> = earlier.iter().map(String::as_str).chain(sockets.keys().copied()).collect();
    for name in names {
        store.remove(name)?;
    }
    // systemd hands out first what was stored last, and what came in one message in no order at all.
    for (name, socket) in asked.iter().rev() {
        store.add(name, socket.as_fd())?;
    }
    store.barrier()?;
    let deposited =
        sockets.iter().map(|(name, sockets)| Deposited { name, sockets: sockets.len() }).collect();
    output.print(&Document { deposited }, Vec::new)?;
    Ok(ExitCode::SUCCESS)
}

fn by_name(sockets: &Sockets) -> BTreeMap<&str, Vec<BorrowedFd<'_>>> {
    let mut names: BTreeMap<&str, Vec<BorrowedFd<'_>>> = BTreeMap::new();
    for (name, socket) in sockets {
        names.entry(name).or_default().push(socket.as_fd());
    }
    names
}

/// The sockets, also where the unit's own store has those of an earlier broker, which keep this one from binding.
fn acquire_or_make_room(broker: &Broker, store: &Store, names: &[String]) -> Result<Sockets, Failure> {
    match acquire(broker, names) {
        Err(Failure::Broker(Error::Refused { name: ErrorName::NotReady, .. })) => {
            for name in names {
                store.remove(name)?;
            }
            store.barrier()?;
            acquire(broker, names)
        }
        answer => answer,
    }
}

/// The sockets, after a reload where the broker does not know a name: the unit file may be newer than its
/// configuration.
fn acquire(broker: &Broker, names: &[String]) -> Result<Sockets, Failure> {
    match acquire_in_parts(broker, names) {
        Err(Failure::Broker(unknown @ Error::Refused { name: ErrorName::NoSuchListener, .. })) => {
            match block_on(broker.reload()) {
                Ok(()) => acquire_in_parts(broker, names),
                Err(Failure::Broker(reload)) => Err(Failure::Reload { unknown, reload }),
                Err(failure) => Err(failure),
            }
        }
        answer => answer,
    }
}

/// All at once, or name by name where that is more than a message takes: whoever wrote the unit cannot know.
fn acquire_in_parts(broker: &Broker, names: &[String]) -> Result<Sockets, Failure> {
    block_on(async {
        match broker.acquire(names, Holder::Unit).await {
            Err(Error::Refused { name: ErrorName::TooManySockets, .. }) if names.len() > 1 => {
                let mut sockets = Sockets::new();
                for name in names {
                    sockets.extend(broker.acquire(&[name], Holder::Unit).await?);
                }
                Ok(sockets)
            }
            answer => answer,
        }
    })
}
