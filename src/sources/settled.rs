//! Waits until nobody writes the configuration any more.
//!
//! Half a file may be a valid one, and mean that listeners are to go. Nobody can tell it from a whole one; but whoever
//! writes a file in place does it within a moment, so what was changed a moment ago is read again. (A writer who pauses
//! for longer is not noticed: a file that is put in the place of the old one by rename(2) is never half.)

use crate::config::{Fault, Origin, Sources};
use std::time::{Duration, SystemTime};

/// What was not changed for so long is whole. Longer than the kernel's clock for files takes from one step to the next.
const QUIET: Duration = Duration::from_millis(20);
/// After so long somebody writes again and again, and the configuration is refused.
const PATIENCE: Duration = Duration::from_secs(2);

/// Reads until what was read is quiet.
pub fn settled(read: impl FnMut() -> Sources) -> Sources {
    settled_by(read, SystemTime::now, std::thread::sleep)
}

fn settled_by(
    mut read: impl FnMut() -> Sources,
    now: impl Fn() -> SystemTime,
    mut sleep: impl FnMut(Duration),
) -> Sources {
    let mut waited = Duration::ZERO;
    loop {
        let mut sources = read();
        // `None`: there is nothing, or the clock was set back meanwhile.
        let age = sources.changed.and_then(|changed| now().duration_since(changed).ok());
        let Some(age) = age.filter(|age| *age < QUIET) else { return sources };
        if waited > PATIENCE {
            let message = "the files of the configuration are being written all the time";
            let fault = Fault::error(Origin::default(), message);
            sources.faults.push(fault.help("reload again when that is done"));
            return sources;
        }
        let rest = QUIET.saturating_sub(age);
        waited += rest;
        sleep(rest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    const START: SystemTime = SystemTime::UNIX_EPOCH;

    /// Reads what was changed at the times that `changed` says, on a clock that only sleeping moves.
    fn read(changed: impl Fn(Duration) -> SystemTime) -> (u32, Sources) {
        let (clock, reads) = (Cell::new(Duration::from_secs(10)), Cell::new(0));
        let read = || {
            reads.set(reads.get() + 1);
            // To read takes a while too.
            clock.set(clock.get() + Duration::from_millis(1));
            Sources { changed: Some(changed(clock.get())), ..Sources::default() }
        };
        let sources = settled_by(read, || START + clock.get(), |rest| clock.set(clock.get() + rest));
        (reads.get(), sources)
    }

    #[test]
    fn what_was_changed_just_now_is_read_again_and_old_files_once() {
        let (reads, sources) = read(|_| START + Duration::from_secs(10));
        assert_eq!((reads, sources.faults), (2, vec![]));
        // The last write is 30 ms after the beginning.
        let end = Duration::from_millis(10_030);
        let (reads, sources) = read(|now| START + now.min(end));
        assert_eq!((reads, sources.faults), (4, vec![]));
        assert_eq!(read(|_| START).0, 1);
        assert_eq!(read(|now| START + now + Duration::from_secs(3600)).0, 1, "of a clock that was set back");
    }

    #[test]
    fn what_never_comes_to_rest_is_a_fault() {
        let (_, sources) = read(|now| START + now);
        assert!(sources.faults.iter().any(Fault::is_error));
    }
}
