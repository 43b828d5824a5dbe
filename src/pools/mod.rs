//! Pools: which source addresses and ports there are to lease, and which were left out and why.
//!
//! Pure: addresses of the host, the kernel's ranges and the ports that are taken are arguments.
