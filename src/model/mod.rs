//! The words of the system as types: names, endpoints, port sets, units, leases.
//!
//! Every value is checked when it is made, so whoever holds one need not check again.
//! This room imports nothing of ours and does no I/O.

mod endpoint;
mod lease;
mod name;
mod ports;
mod present;
mod process;
mod protocol;
mod reuse;
mod socket;
mod unit;

pub use endpoint::{
    DeviceName, Endpoint, EndpointError, InetEndpoint, SocketKind, UnixAddress, UnixEndpoint,
};
pub use lease::{LeaseId, Owner, Seen, SessionId, SourceRange, Tuple};
pub use name::{ListenerName, NameError, PoolName, PoolNameError};
pub use ports::{PortRange, PortSet, PortSetError};
pub use present::{InterfaceAddress, Present};
pub use process::Process;
pub use protocol::{Protocol, ProtocolError};
pub use reuse::Reuse;
pub use socket::{Socket, SocketState};
pub use unit::{UnitName, UnitNameError};
