//! How many source addresses and ports a load of outgoing connections takes, by the arithmetic of the pools.
//!
//! Pure: what is asked and what the host is like are arguments. What always holds:
//! - The numbers are upper bounds that are reached: connections that come evenly, and a burst on top of them at the worst
//!   moment, need as many sources as are said, and no more (held by a simulation that knows no formula).
//! - The ports of an address are those that a pool with the same `ports` has on the same host: [`crate::pools::zone()`].
//!
//! It must not know the broker, nor what is leased now: a plan is for a host that has not yet the load.

mod curve;
mod load;
mod quantity;
mod sizing;
#[cfg(test)]
mod tests;

pub use curve::{Curve, Moment};
pub use load::{Asked, Load, LoadError, MOST_CONNECTIONS, MOST_TIME, TIME_WAIT};
pub use quantity::{QuantityError, Rate, count, shown, span};
pub use sizing::{KernelAlone, MOST_POOLS, Plan, PlanError, Surroundings, plan};
