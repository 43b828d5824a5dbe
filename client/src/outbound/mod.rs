//! Outgoing connections from source addresses and ports that the broker leased.
//!
//! A [`Connector`] leases blocks of source ports of a pool for each destination (64 ports at first, more at a time as
//! more are in use) and gives them out itself. It asks for the next block before the last is used up, and returns what
//! was not needed for a minute; of a destination that was not used for five minutes it keeps nothing.
//!
//! **Used ports.** The least recently closed comes first, and never without the kernel being asked what is on it:
//! nothing, then it is used; TIME_WAIT, then only where TCP timestamps let the kernel tell the old connection from the
//! new; FIN_WAIT2 or an open connection (of a child, a clone of the socket), then not. A port that bind(2) or
//! connect(2) refuses, because somebody uses it without the broker, is left alone for a while, and the next is tried.
//!
//! **No port left.** [`ConnectError::Exhausted`] says how full the pool is, and when the next port is expected;
//! [`Connector::waiting`] has a connection wait for it, by turns with others. Where little is left of a pool, little of
//! that is leased ahead; and what others lack and is not in use here is returned, at once by a process that asked the
//! broker for something in the last two seconds, and within fifteen by one that did not. (Of a block of which a port is
//! in use nothing is returned.) What
//! the peer or the network says ([`ConnectError::Connect`]) is never hidden.
//!
//! **Restarts of the broker** are not noticed: leases stay valid while it is away, and local allocation does not need
//! it. A connection that needs a new block waits up to five seconds for it to be back.
//!
//! **The end.** When the last clone of a connector is dropped its session ends, and with it all its leases. Connections
//! that are open live on; the broker sees them and leases their ports to nobody.
//!
//! **Forks.** A child that is forked and runs no other program must not use its parent's connector
//! ([`ConnectError::Forked`]): both would give out the same ports. It makes its own. Its copy of the lifeline keeps
//! the parent's leases until it ends.
//!
//! **Network namespaces.** A connector is for one: that of the threads that use it, which is also the broker's.

mod allocator;
mod blocks;
mod connection;
mod connector;
mod demand;
mod destination;
mod destinations;
mod error;
mod held;
mod helper;
mod lookup;
mod prefix;
mod queue;
mod socket;
mod wait;

pub use connection::Connection;
pub use connector::Connector;
pub use error::ConnectError;
