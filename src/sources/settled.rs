//! Waits until nobody writes the configuration any more.
//!
//! Half a file may be a valid one, and mean that listeners are to go. Nobody can tell it from a whole one; but whoever
//! writes a file in place does it within a moment, so what was changed a moment ago is read again. (A writer who pauses
//! for longer is not noticed: a file that is put in the place of the old one by rename(2) is never half.)

use crate::config::{Fault, Origin, Sources};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

/// What was not changed for so long is whole. Longer than the kernel's clock for files takes from one step to the next.
const QUIET: Duration = Duration::from_millis(20);
/// After so long somebody writes again and again, and the configuration is refused.
const PATIENCE: Duration = Duration::from_secs(2);

/// Reads until what was read is quiet.
pub fn settled(read: impl Fn() -> Sources) -> Sources {
    let begun = Instant::now();
    loop {
        let mut sources = read();
        let Some(age) = age(&sources).filter(|age| *age < QUIET) else { return sources };
        if begun.elapsed() > PATIENCE {
            let fault =
                Fault::error(Origin::default(), "files of the configuration are being written all the time");
            sources.faults.push(fault.help("reload again when that is done"));
            return sources;
        }
        sleep(QUIET.saturating_sub(age));
    }
}

/// How long nothing was changed; `None`: there is nothing, or the clock was set back meanwhile.
fn age(sources: &Sources) -> Option<Duration> {
    SystemTime::now().duration_since(sources.changed?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    fn changed(at: SystemTime) -> Sources {
        Sources { changed: Some(at), ..Sources::default() }
    }

    #[test]
    fn what_was_changed_just_now_is_read_again_and_old_files_once() {
        let reads = Cell::new(0);
        let begun = SystemTime::now();
        let sources = settled(|| {
            reads.set(reads.get() + 1);
            changed(begun)
        });
        assert!(reads.get() >= 2 && sources.faults.is_empty());
        for old in [begun - Duration::from_secs(1), begun + Duration::from_secs(3600)] {
            reads.set(0);
            settled(|| {
                reads.set(reads.get() + 1);
                changed(old)
            });
            assert_eq!(reads.get(), 1, "old, or of a clock that was set back");
        }
        settled(Sources::default);
    }

    #[test]
    fn what_never_comes_to_rest_is_a_fault() {
        let sources = settled(|| changed(SystemTime::now()));
        assert!(sources.faults.iter().any(Fault::is_error));
    }
}
