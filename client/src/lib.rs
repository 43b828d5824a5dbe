//! Client library of portbroker.

pub mod wire;
