//! The only room with system calls and unsafe code.
//!
//! What the kernel says is the truth: nothing here remembers a fact that it could ask for. The room knows
//! [`crate::model`] and the plain types of [`crate::config`], and decides nothing: who may have a socket, and
//! when it refuses, is said by the rooms that call it.

pub mod addresses;
pub mod arrivals;
mod async_fd;
pub mod boot;
pub mod cgroups;
pub mod child;
pub mod descriptors;
pub mod destroyed;
pub mod exec;
pub mod hangups;
pub mod holder;
mod inet_diag;
pub mod inotify;
pub mod journal;
pub mod lifeline;
pub mod listening;
pub mod memory;
pub mod migrate_requests;
pub mod notify_socket;
pub mod oom;
pub mod outbound_socket;
pub mod own_usage;
pub mod peer;
pub mod process;
mod received;
pub mod reserved_ports;
pub mod reuse;
pub mod scan;
pub mod scrape_socket;
mod sock_diag;
pub mod socket;
pub mod socket_owner;
mod socket_set;
mod sockets_box;
mod sockopt;
pub mod store;
pub mod stored_sockets;
pub mod stream;
pub mod sysctl;
pub mod timer;
pub mod triggers;
pub mod tuple_close;
pub mod tuple_user;
pub mod tuples;
pub mod unit_starts;
mod unix_diag;
