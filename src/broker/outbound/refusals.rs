//! What the ledger refuses, in the words of the interface.

use super::super::command::Refusal;
use super::command::Shortage;
use crate::leases::{Full, Refused};

impl From<Refused> for Refusal {
    fn from(refused: Refused) -> Self {
        let text = refused.to_string();
        let number = |ports: u64| u32::try_from(ports).unwrap_or(u32::MAX);
        match refused {
            Refused::NoSuchSession(_) => Self::NoSuchSession(text),
            Refused::NoPorts
            | Refused::TooManyPorts { .. }
            | Refused::Destination(_)
            | Refused::NoAddress { .. } => Self::BadArgument(text),
            Refused::TooManySessions { .. } => {
                Self::NotAllowed { action: format!("open a session: {text}"), reason: "too many sessions" }
            }
            Refused::TooManyLeases { .. }
            | Refused::TooMuchCooling { .. }
            | Refused::QuotaExceeded { .. } => Self::QuotaExceeded(text),
            Refused::SharedQuotaExceeded { .. } => Self::SharedQuotaExceeded(text),
            Refused::NoMoreSessions(_) | Refused::NoMoreLeases(_) | Refused::NothingMoreCools { .. } => {
                Self::CannotLease(text)
            }
            Refused::EmptyZone { .. } => {
                let shortage = Shortage { capacity: 0, used: 0, cooling: 0, free: 0, kept: 0, next: None };
                Self::Exhausted { text, shortage }
            }
            Refused::Exhausted { capacity, used, cooling, free, kept, next, .. } => {
                let shortage = Shortage {
                    capacity: number(capacity),
                    used: number(used),
                    cooling: number(cooling),
                    free: number(free),
                    kept: number(kept),
                    next,
                };
                Self::Exhausted { text, shortage }
            }
        }
    }
}

impl From<Full> for Refusal {
    fn from(full: Full) -> Self {
        let text = full.to_string();
        match full {
            Full::OfOwner { .. } => Self::QuotaExceeded(text),
            Full::OfAll(_) => Self::CannotLease(text),
        }
    }
}
