//! What answers and properties consist of.

use std::collections::HashMap;
use zbus::wire::{OwnedObjectPath, OwnedVariant};

/// A row of the property Limits: the key of `[limits]`, its value as it is in effect, how much of it is in use (of a
/// limit for each, by who has most), how often it was hit since the start, who has most, and who hit it how often.
pub type LimitRow = (String, u64, u64, u64, String, Vec<(String, u64)>);

/// A learned port, as ListLearned has it: port, protocol (`tcp`, `udp`), unit, first and last seen, in seconds since
/// the epoch.
pub type LearnedRow = (u16, String, String, u64, u64);

/// What waits in a socket, as ListQueues has it: listener, inode, how much waits, for how much there is room (0: not
/// known), how much found no room since the socket was made. See [`ListenerProxy::queues`](super::ListenerProxy::queues).
pub type WaitingRow = (String, u64, u32, u32, u32);

/// Something that happened, as ListEvents has it: number, microseconds since the epoch, level (`error`, `warning`, `info`),
/// the log's word for it, such as `hand-over` (or empty), message.
pub type EventRow = (u64, u64, String, String, String);
/// A socket, as Evict has it: protocol, own address, whom it was connected to (empty: nobody), state, what became of it (`closed`;
/// `kept`: it is in nobody's way; `refused`: it serves; `failed`), and why it was not closed (empty where it was).
pub type EvictedRow = (String, String, String, String, String, String);

/// A lease, as ListLeases has it: number, session's number, pool, protocol, destination (empty: any), kind (`pairs`,
/// `blocks`, `sockets`), ports, state (`held`, or `cooling` after its end), owner (`crawler.service`, `uid 1000`),
/// ranges as `(address, first, last)`, and of a cooling one how many ports cool still.
pub type LeaseRow =
    (u64, u64, String, String, String, String, u32, String, String, Vec<(String, u16, u16)>, u32);

/// A forecast, as ListForecasts has it: pool, protocol (`tcp`, `udp`), destination, then `used` (leased), `cooling` and
/// `capacity` ports, by how many a second used and cooling grow together (below zero where they fall), in how many seconds
/// nothing is left ([`NEVER`]: it does not grow), and whether that was told by the signal `ExhaustionAhead` and is not
/// averted.
///
/// Destination is `192.0.2.1:443`, or empty: leases for any destination. UDP ports are the same for all destinations, and
/// theirs is `0.0.0.0:0` or `[::]:0`.
pub type ForecastRow = (String, String, String, u32, u32, u32, f64, u64, bool);

/// The seconds of a [`ForecastRow`] that does not end.
pub const NEVER: u64 = u64::MAX;

/// What others lack, as ListWanted has it: pool, protocol, destination (empty: any).
pub type WantedRow = (String, String, String);

/// What the error Exhausted has beside its text (the body is `sa{sv}`): `capacity`, `used`, `cooling` and `free` ports
/// for that destination (`u`), `kept` (`u`): how many of the free ones are for others, by their minimum or because they
/// wait, and `next` (`t`, left out where nobody knows): in how many milliseconds the next one is
/// expected.
pub type ExhaustedRow = HashMap<String, OwnedVariant>;

/// An address of a pool, as the property `Addresses` has it: address, state (`in-use`, `absent`, `draining`,
/// `drained`), leased ports, cooling ports (both protocols together).
pub type PoolAddressRow = (String, String, u32, u32);

/// What was left out of a pool's zone, as the property `LeftOut` has it: ports as `80,8000-8010`, and why.
pub type LeftOutRow = (String, String);

/// One socket of a listener, as the property `Sockets` has it: `(endpoint, state, inode, error)`.
///
/// Endpoint as in `tcp 127.0.0.1:3306`, `udp [::]:53%eth0`, `unix /run/x.sock`, `unix-datagram @x`; state
/// is `reserved`, `listening`, `failed` or, for an old socket beside its successor, `draining`, or, for one that is no
/// longer configured and that somebody still has, `lingering`; inode 0 and a message where it failed. A message beside an
/// inode says what could not be changed of it.
pub type SocketRow = (String, String, u64, String);

/// What waits in one socket, as the method `Queues` has it: inode, and facts by name.
pub type QueueRow = (u64, HashMap<String, OwnedVariant>);

/// The reply of `org.freedesktop.DBus.ObjectManager.GetManagedObjects`: properties by interface by path.
pub type ManagedObjects = HashMap<OwnedObjectPath, HashMap<String, HashMap<String, OwnedVariant>>>;
