//! When ports leave TIME_WAIT, counted by the moment: for the answer to when there will be one again.

/// A moment, in steps since the ledger was made.
pub(super) type Tick = u32;

/// How many ports become free at which moment. TIME_WAIT lasts a minute, so there are few moments.
#[derive(Debug, Clone, Default)]
pub(super) struct Waits(Vec<(Tick, u32)>);

impl Waits {
    pub(super) fn add(&mut self, at: Tick) {
        match self.0.binary_search_by_key(&at, |(tick, _)| *tick) {
            Ok(found) => {
                if let Some((_, count)) = self.0.get_mut(found) {
                    *count += 1;
                }
            }
            Err(place) => self.0.insert(place, (at, 1)),
        }
    }

    pub(super) fn take(&mut self, at: Tick) {
        if let Ok(found) = self.0.binary_search_by_key(&at, |(tick, _)| *tick)
            && let Some((_, count)) = self.0.get_mut(found)
        {
            *count -= 1;
            if *count == 0 {
                self.0.remove(found);
            }
        }
        if self.0.is_empty() {
            self.0 = Vec::new();
        }
    }

    pub(super) fn first(&self) -> Option<Tick> {
        self.0.first().map(|(tick, _)| *tick)
    }
}
