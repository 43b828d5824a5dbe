//! Finds and reads the files that the configuration is made of. What they mean is `config`'s matter.

pub mod units;
