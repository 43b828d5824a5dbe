//! Client library of portbroker, which holds listening ports from boot on and hands their sockets to services.
//!
//! A service that takes its listening sockets from the broker can never find its port taken:
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let listener = portbroker_client::listen("web").or_bind("0.0.0.0:443").blocking()?.tcp_listener()?;
//! # Ok(())
//! # }
//! ```
//!
//! A program that opens very many connections makes them from source addresses and ports that the broker leases, over
//! several addresses, and never runs out of them by surprise:
//!
//! ```no_run
//! # async fn fetch() -> Result<(), Box<dyn std::error::Error>> {
//! let egress = portbroker_client::Connector::new("egress").or_kernel();
//! let stream = egress.connect("192.0.2.7:443").await?;   // or connect_blocking, connect_udp
//! # Ok(())
//! # }
//! ```
//!
//! - [`listen`]: the sockets of one listener, for std and tokio, with a fall-back to binding.
//! - [`Connector`]: connections from leased sources, for std and tokio; see [`outbound`].
//! - [`Session`]: the leases themselves, as pairs, blocks or sockets; [`Session::waiting`] for who can wait for them.
//! - [`Broker`]: the questions themselves: sockets as plain descriptors, state, reload.
//! - [`wire`]: the D-Bus interface, for programs that speak it on their own.
//!
//! Errors tell apart what a service has to tell apart: [`Error::NotReachable`] (there is no broker),
//! [`Error::Refused`] (there is one, and it says no), [`Error::Protocol`].

mod bind;
pub mod connect;
pub mod error;
pub mod evict;
mod inherited;
pub mod inspect;
mod kept;
mod lease;
mod listen;
pub mod outbound;
pub mod pools;
mod session;
mod shard;
mod socket;
pub mod watch;
pub mod wire;

pub use bind::BindError;
pub use connect::{Broker, Holder};
pub use error::Error;
pub use lease::{Block, Exhausted, Lease, Protocol, Target};
pub use listen::{Listen, ListenError, Sockets, Source, listen};
pub use outbound::{ConnectError, Connector};
pub use session::{Session, Waiting};
pub use socket::Socket;

/// Sockets of the named listeners as plain descriptors, from the broker at the usual places, in the order asked
/// for, all sockets of a name together: [`Broker::acquire`].
///
/// At most 16 sockets at a time over the system bus and 253 over the private socket.
pub async fn acquire(
    names: &[impl AsRef<str> + Sync],
    holder: Holder,
) -> Result<Vec<(String, std::os::fd::OwnedFd)>, Error> {
    Broker::new().acquire(names, holder).await
}
