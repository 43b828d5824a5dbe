//! Memory that is free and still resident.

#[cfg(target_env = "gnu")]
use nix::libc;

/// Gives the pages of freed memory back to the system. Reading a configuration takes several times the memory that
/// is kept of it, and malloc(3) by itself gives back only what happens to lie at the end.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "malloc_trim(3), which no crate here has as a safe call")]
pub fn give_back_freed() {
    // SAFETY: it takes no pointers, may be called at any time, and locks what it works on.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Other allocators do so by themselves.
#[cfg(not(target_env = "gnu"))]
pub fn give_back_freed() {}
