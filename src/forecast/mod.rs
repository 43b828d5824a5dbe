//! When source ports will be used up: how many are taken of each (pool, destination), how fast that grows, and how long
//! the rest lasts.
//!
//! Pure: `now` is an argument. Whoever keeps the ledger says how many ports are taken when that may have changed; in
//! between they count as unchanged, so nobody has to look at what rests. What always holds:
//! - To hear the same again at any time changes no forecast but by the time that has passed.
//! - What does not grow is not foretold to end, and what was foretold is said once, until it is averted for good.
//! - At most [`MOST_LINES`] are followed, those of which most is taken; what comes new waits for its place in a list of
//!   at most [`MOST_NEW`].
//!
//! It must not know the ledger, nor what a line is.

mod lines;
#[cfg(test)]
mod tests;
mod trend;

pub use lines::{Forecasts, MOST_LINES, MOST_NEW, News};
pub use trend::{AHEAD, Level, Outlook};
