//! The only room with system calls and unsafe code.

mod async_fd;
pub mod hangups;
pub mod holder;
pub mod inotify;
pub mod peer;
mod process;
pub mod store;
