//! What is measured, and how it is written for those who scrape it: OpenMetrics 1.0.
//!
//! Pure: counts in, text out. How much text there is has a limit, whatever is counted: the busiest listeners, addresses
//! and destinations are named, and how many there are of all is told besides.

mod counters;
mod encode;
mod snapshot;

pub use counters::{Counters, Request};
pub use encode::encode;
pub use snapshot::{
    AddressRow, ForecastView, LimitRow, MOST_ADDRESSES, MOST_LISTENERS, MOST_POOLS, PoolRow, Process,
    QueueRow, Snapshot,
};

/// What the text is, for HTTP.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
