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

/// Free memory beyond this, at the end of the heap, goes back to the system.
#[cfg(target_env = "gnu")]
const KEPT: libc::c_int = 512 * 1024;

/// Keeps malloc(3) from taking its habits from its largest user: once a list of ten thousand listeners has been
/// asked for, it would keep the room for another one for ever. To be called after the start, whose growth it would
/// slow down.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "mallopt(3), which no crate here has as a safe call")]
pub fn keep_little_free() {
    // SAFETY: it takes two numbers, locks what it works on, and where it refuses (0) nothing has changed.
    unsafe {
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT);
        libc::mallopt(libc::M_MMAP_THRESHOLD, KEPT);
    }
}

/// Other allocators have no such habits.
#[cfg(not(target_env = "gnu"))]
pub fn keep_little_free() {}
