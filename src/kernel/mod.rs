//! TODO

pub mod exec;
