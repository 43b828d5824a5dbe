//! Who has how much of one thing of which there is so much.

use super::Who;
use std::collections::HashMap;

/// How much there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bounds {
    /// For each.
    pub(super) each: u64,
    /// For all that are neither root nor a unit.
    pub(super) common: u64,
    /// For all.
    pub(super) all: u64,
}

/// Why somebody gets no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Short {
    /// It has its own share.
    Each,
    /// All together have theirs.
    All,
}

/// The shares.
#[derive(Debug, Default)]
pub(super) struct Shares {
    used: HashMap<Who, u64>,
    common: u64,
    all: u64,
}

impl Shares {
    /// Takes so much, or nothing.
    pub(super) fn take(&mut self, who: &Who, amount: u64, bounds: Bounds) -> Result<(), Short> {
        let used = self.of(who);
        let fits = |used: u64, most: u64| used.checked_add(amount).is_some_and(|sum| sum <= most);
        if !fits(used, bounds.each) {
            return Err(Short::Each);
        }
        let is_common = !who.is_preferred();
        if !fits(self.all, bounds.all) || (is_common && !fits(self.common, bounds.common)) {
            return Err(Short::All);
        }
        if amount > 0 {
            self.used.insert(who.clone(), used.saturating_add(amount));
        }
        self.all = self.all.saturating_add(amount);
        if is_common {
            self.common = self.common.saturating_add(amount);
        }
        Ok(())
    }

    /// Gives back what was taken.
    pub(super) fn give_back(&mut self, who: &Who, amount: u64) {
        let left = self.of(who).saturating_sub(amount);
        if left == 0 {
            self.used.remove(who);
        } else if let Some(used) = self.used.get_mut(who) {
            *used = left;
        }
        self.all = self.all.saturating_sub(amount);
        if !who.is_preferred() {
            self.common = self.common.saturating_sub(amount);
        }
    }

    pub(super) fn of(&self, who: &Who) -> u64 {
        self.used.get(who).copied().unwrap_or_default()
    }

    pub(super) fn all(&self) -> u64 {
        self.all
    }

    /// How much all have that are neither root nor a unit.
    pub(super) fn common(&self) -> u64 {
        self.common
    }

    /// Who has most, and how much.
    pub(super) fn greatest(&self) -> Option<(&Who, u64)> {
        self.used.iter().map(|(who, used)| (who, *used)).max_by(|a, b| a.1.cmp(&b.1).then(b.0.cmp(a.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::UnitName;
    use proptest::prelude::*;

    fn who(n: u32) -> Who {
        match n {
            9 => Who::Unit(UnitName::try_from("a.service").unwrap()),
            n => Who::User(n),
        }
    }

    proptest! {
        #[test]
        fn nobody_has_more_than_its_share_and_what_is_kept_free_is_for_root_and_units(
            steps in proptest::collection::vec((prop_oneof![0u32..5, Just(9)], 0u64..12, any::<bool>()), 0..200)
        ) {
            let bounds = Bounds { each: 20, common: 30, all: 40 };
            let mut shares = Shares::default();
            let mut taken: Vec<(u32, u64)> = Vec::new();
            for (n, amount, gives) in steps {
                if gives {
                    if let Some(at) = taken.iter().position(|(of, _)| *of == n) {
                        let (_, amount) = taken.swap_remove(at);
                        shares.give_back(&who(n), amount);
                    }
                } else {
                    let sum = |of: &dyn Fn(u32) -> bool| taken.iter().filter(|(n, _)| of(*n)).map(|(_, a)| a).sum::<u64>();
                    let own = sum(&|of| of == n) + amount;
                    let common = sum(&|of| of != 0 && of != 9) + amount;
                    let all = sum(&|_| true) + amount;
                    let expected = if own > 20 { Err(Short::Each) }
                        else if all > 40 || (n != 0 && n != 9 && common > 30) { Err(Short::All) }
                        else { Ok(()) };
                    prop_assert_eq!(shares.take(&who(n), amount, bounds), expected);
                    if expected.is_ok() {
                        taken.push((n, amount));
                    }
                }
                let all: u64 = taken.iter().map(|(_, amount)| amount).sum();
                prop_assert_eq!(shares.all(), all);
                prop_assert!(shares.greatest().is_none_or(|(who, used)| used == shares.of(who) && used > 0));
            }
            for (n, amount) in taken {
                shares.give_back(&who(n), amount);
            }
            prop_assert_eq!((shares.all(), shares.common(), shares.greatest()), (0, 0, None));
        }
    }
}
