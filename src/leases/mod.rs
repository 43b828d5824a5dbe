//! Leases: who has which source ports for which destination, what cools after it ended, and what is next.
//!
//! Pure: `now` is an argument, and what the kernel says of a tuple is, too.
