//! Which start of the kernel this is.

use std::{fs, io};

/// Where the kernel tells it.
pub const BOOT: &str = "/proc/sys/kernel/random/boot_id";

/// Its id, in 36 characters.
pub fn boot_id() -> io::Result<String> {
    fs::read_to_string(BOOT).map(|id| id.trim().to_owned())
}
