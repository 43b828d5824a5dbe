//! `idle` as it is written: `queue`, `refuse`, `queue 30s`, `drop`.

use super::Idle;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// The longest time to queue before refusing: what is longer is meant to be for ever.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// Why a text is no value of `idle`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdleError {
    /// Another word.
    #[error(
        "{0:?} is not what a listener can do while it is idle: write queue, refuse, drop, or a time as in \"queue 30s\""
    )]
    Unknown(String),
    /// `queue` with something that is no time.
    #[error("{0:?} is no span of time: write it as in \"queue 30s\" or \"queue 5min\"")]
    Time(String),
    /// Zero, or more than a day.
    #[error(
        "a listener queues for at least 1 ms and at most 24 h before it refuses: write \"refuse\" or \"queue\" for what is beyond"
    )]
    Bounds,
}

impl FromStr for Idle {
    type Err = IdleError;

    fn from_str(text: &str) -> Result<Self, IdleError> {
        let shortened = |text: &str| text.chars().take(40).collect::<String>();
        let text = text.trim();
        match text {
            "queue" => return Ok(Self::Queue),
            "refuse" => return Ok(Self::Refuse),
            "drop" => return Ok(Self::Drop),
            _ => {}
        }
        let time = text
            .strip_prefix("queue")
            .filter(|rest| rest.starts_with([' ', '\t']))
            .ok_or_else(|| IdleError::Unknown(shortened(text)))?
            .trim();
        let span = humantime::parse_duration(time).map_err(|_| IdleError::Time(shortened(time)))?;
        if span < Duration::from_millis(1) || span > LONGEST {
            return Err(IdleError::Bounds);
        }
        Ok(Self::QueueFor(span))
    }
}

/// As it is written.
impl fmt::Display for Idle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Queue => f.write_str("queue"),
            Self::Refuse => f.write_str("refuse"),
            Self::Drop => f.write_str("drop"),
            Self::QueueFor(span) => write!(f, "queue {}", humantime::format_duration(*span)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn idle_is_a_word_or_a_time() {
        let idle = |text: &str| text.parse::<Idle>();
        assert_eq!(idle("queue"), Ok(Idle::Queue));
        assert_eq!(idle(" refuse "), Ok(Idle::Refuse));
        assert_eq!(idle("drop"), Ok(Idle::Drop));
        assert_eq!(idle("queue 30s"), Ok(Idle::QueueFor(Duration::from_secs(30))));
        assert_eq!(idle("queue 1min 30s"), Ok(Idle::QueueFor(Duration::from_secs(90))));
        assert_eq!(idle("queue 500ms").unwrap().to_string(), "queue 500ms");
        assert_eq!(idle("queue30s"), Err(IdleError::Unknown("queue30s".into())));
        assert_eq!(idle("Queue"), Err(IdleError::Unknown("Queue".into())));
        assert_eq!(idle("queue 30"), Err(IdleError::Time("30".into())));
        assert_eq!(idle("queue 0s"), Err(IdleError::Bounds));
        assert_eq!(idle("queue 2days"), Err(IdleError::Bounds));
        assert_eq!(idle("queue 99999999999999999y"), Err(IdleError::Time("99999999999999999y".into())));
    }

    proptest! {
        #[test]
        fn idle_reads_as_it_is_shown(millis in 1u64..86_400_000) {
            let idle = Idle::QueueFor(Duration::from_millis(millis));
            prop_assert_eq!(idle.to_string().parse(), Ok(idle));
        }

        #[test]
        fn no_text_is_too_much(text in "(queue )?.{0,30}") {
            drop(text.parse::<Idle>());
        }
    }
}
