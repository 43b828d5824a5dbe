//! How much of something is in use, as a share, as a bar, and as a colour.

use crate::output::Paint;

/// A part of a whole that may be nothing, from 0 to 1.
#[expect(clippy::cast_precision_loss, reason = "a bar has a hundred columns")]
pub(crate) fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { (part as f64 / whole as f64).clamp(0.0, 1.0) }
}

/// As in `43 %`.
pub(crate) fn percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}

/// How a share that is in use looks.
pub(crate) fn paint_of_share(share: f64) -> Paint {
    match share {
        share if share >= 0.9 => Paint::Bad,
        share if share >= 0.7 => Paint::Waiting,
        _ => Paint::Good,
    }
}

/// The letters that there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Letters {
    Ascii,
    Unicode,
}

/// A bar of so many columns: what is in use, what cools, what is free, as shares of the whole.
pub(crate) fn bar(letters: Letters, columns: u16, used: f64, cooling: f64) -> String {
    let [full, partly, empty] = match letters {
        Letters::Unicode => ["█", "▒", "░"],
        Letters::Ascii => ["#", "=", "."],
    };
    let columns = usize::from(columns);
    let used = part(columns, used);
    let cooling = part(columns, cooling).min(columns - used);
    [full.repeat(used), partly.repeat(cooling), empty.repeat(columns - used - cooling)].concat()
}

/// So much of a number of columns; something is seen of whatever there is, and of what is free.
fn part(columns: usize, share: f64) -> usize {
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of a few hundred columns"
    )]
    let part = (columns as f64 * share.clamp(0.0, 1.0)).round() as usize;
    let least = usize::from(share > 0.0).min(columns);
    let most = if share < 1.0 { columns.saturating_sub(1).max(least) } else { columns };
    part.clamp(least, most)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_bar_shows_something_of_whatever_there_is() {
        let plain = |columns, used, cooling| bar(Letters::Ascii, columns, used, cooling);
        assert_eq!(plain(10, 0.0, 0.0), "..........");
        assert_eq!(plain(10, 0.001, 0.0), "#.........");
        assert_eq!(plain(10, 0.999, 0.0), "#########.");
        assert_eq!(plain(10, 1.0, 0.5), "##########");
        assert_eq!(plain(10, 0.5, 0.2), "#####==...");
        assert_eq!(plain(1, 0.5, 0.5), "#");
        assert_eq!(plain(0, 0.5, 0.5), "");
        assert_eq!(bar(Letters::Unicode, 4, 0.5, 0.25), "██▒░");
    }

    #[test]
    fn nothing_of_nothing_is_nothing() {
        assert_eq!((share(0, 0), share(5, 0), share(9, 3), share(1, 2)), (0.0, 0.0, 1.0, 0.5));
        assert_eq!((percent(0.434), percent(1.0)), ("43 %".to_owned(), "100 %".to_owned()));
    }

    proptest! {
        #[test]
        fn a_bar_is_as_wide_as_it_should_be(columns in 0_u16..300, used in -1.0..2.0, cooling in -1.0..2.0) {
            prop_assert_eq!(bar(Letters::Ascii, columns, used, cooling).len(), usize::from(columns));
        }
    }
}
