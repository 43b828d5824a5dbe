//! A timer that wakes the process once a period and not more often.
//!
//! The runtime's own timers are kept in a wheel of 64 milliseconds, 4 seconds and so on, and wake it at every
//! step down: three times for a minute. For something that goes on for ever that is two times too many.

use super::async_fd::{OwnsDescriptor, Registered};
use nix::errno::Errno;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use std::io;
use std::os::fd::{AsFd, AsRawFd as _};
use std::time::Duration;

impl OwnsDescriptor for TimerFd {}

/// The timer.
pub struct Every(Registered<TimerFd>);

impl Every {
    /// Begins now; the first period ends after one. Must be called within a tokio runtime.
    pub fn new(period: Duration) -> io::Result<Self> {
        let timer =
            TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)?;
        timer.set(Expiration::Interval(TimeSpec::from_duration(period)), TimerSetTimeFlags::empty())?;
        Ok(Self(Registered::new(timer)?))
    }

    /// Returns at the end of the period. Periods that nobody waited for are one.
    pub async fn next(&self) {
        let read = |timer: &TimerFd| match nix::unistd::read(timer.as_fd(), &mut [0; 8]) {
            Ok(_) => Ok(Some(())),
            Err(Errno::EAGAIN) => Ok(None),
            Err(error) => Err(error.into()),
        };
        if let Err(error) = self.0.wait(read).await {
            tracing::error!(%error, timer = self.0.get().as_fd().as_raw_fd(), "a timer does not work any more");
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[tokio::test]
    async fn it_comes_once_a_period_and_late_ones_are_one() {
        let every = Every::new(Duration::from_millis(50)).unwrap();
        let begin = Instant::now();
        every.next().await;
        every.next().await;
        assert!(begin.elapsed() >= Duration::from_millis(100));
        tokio::time::sleep(Duration::from_millis(220)).await;
        let late = Instant::now();
        every.next().await;
        assert!(late.elapsed() < Duration::from_millis(40));
        every.next().await;
        assert!(late.elapsed() >= Duration::from_millis(10));
    }
}
