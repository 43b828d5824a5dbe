//! A plot of letters: the sources that are in use over time, as columns.
//!
//! Pure: how wide, and which letters there are, is said by the caller.

use crate::bar::Letters;
use crate::output::{Cell, Paint};
use portbroker::plan::Moment;
use std::time::Duration;

const ROWS: u32 = 10;
/// A plot with fewer columns shows nothing.
const LEAST: usize = 12;
/// The numbers on the left, with a blank.
const LABEL: usize = 6;

struct Set {
    open: &'static str,
    waiting: &'static str,
    axis: &'static str,
    corner: &'static str,
    floor: &'static str,
}

impl Letters {
    fn set(self) -> Set {
        match self {
            Self::Unicode => Set { open: "█", waiting: "▒", axis: "┤", corner: "└", floor: "─" },
            Self::Ascii => Set { open: "#", waiting: ":", axis: "|", corner: "+", floor: "-" },
        }
    }
}

/// How many columns of samples fit beside the numbers; `None`: too few to show anything.
pub(crate) fn columns(width: usize) -> Option<usize> {
    width.checked_sub(LABEL + 1).filter(|columns| *columns >= LEAST)
}

/// The lines, with `top` at the upper end. Each moment is a column.
pub(crate) fn plot(moments: &[Moment], top: u128, letters: Letters) -> Vec<Vec<Cell>> {
    let set = letters.set();
    let top = top.max(1);
    let mut lines: Vec<Vec<Cell>> = Vec::new();
    for row in (1..=u128::from(ROWS)).rev() {
        // What the row reaches up to.
        let label = top * row / u128::from(ROWS);
        let mut cells = vec![Cell::plain(format!("{:>width$}{}", short(label), set.axis, width = LABEL))];
        cells.extend(runs(moments.iter().map(|moment| kind(moment, top, row))).map(|(kind, length)| {
            let letter = match kind {
                Kind::Open => set.open,
                Kind::Waiting => set.waiting,
                Kind::Nothing => " ",
            };
            Cell::new(letter.repeat(length), kind.paint())
        }));
        lines.push(cells);
    }
    let end = moments.last().map_or(Duration::ZERO, |moment| moment.time);
    let (begin, end) = ("0".to_owned(), time(end));
    let gap = moments.len().saturating_sub(begin.len() + end.len());
    let zero = format!("{:>LABEL$}{}{}", "0", set.corner, set.floor.repeat(moments.len()));
    lines.push(vec![Cell::plain(zero)]);
    lines.push(vec![Cell::plain(format!("{}{begin}{}{end}", " ".repeat(LABEL + 1), " ".repeat(gap)))]);
    lines
}

/// What the letters mean.
pub(crate) fn legend(letters: Letters) -> Vec<Cell> {
    let set = letters.set();
    vec![
        Cell::plain(" ".repeat(LABEL + 1)),
        Cell::new(set.open, Kind::Open.paint()),
        Cell::plain(" open   "),
        Cell::new(set.waiting, Kind::Waiting.paint()),
        Cell::plain(" TIME_WAIT"),
    ]
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Open,
    Waiting,
    Nothing,
}

impl Kind {
    fn paint(self) -> Paint {
        match self {
            Self::Open => Paint::Good,
            Self::Waiting => Paint::Waiting,
            Self::Nothing => Paint::Plain,
        }
    }
}

/// What of a moment is to be seen in a row. Whatever there is at all is seen; how much is open is rounded.
fn kind(moment: &Moment, top: u128, row: u128) -> Kind {
    let rows = u128::from(ROWS);
    let all = ((moment.open + moment.waiting) * rows).div_ceil(top);
    let open = ((moment.open * rows * 2 / top).div_ceil(2)).max(u128::from(moment.open > 0));
    if row <= open {
        Kind::Open
    } else if row <= all {
        Kind::Waiting
    } else {
        Kind::Nothing
    }
}

/// Equal ones beside each other, with how many they are.
fn runs(kinds: impl Iterator<Item = Kind>) -> impl Iterator<Item = (Kind, usize)> {
    let mut runs: Vec<(Kind, usize)> = Vec::new();
    for kind in kinds {
        match runs.last_mut() {
            Some((last, length)) if *last == kind => *length += 1,
            _ => runs.push((kind, 1)),
        }
    }
    runs.into_iter()
}

/// A number in at most five letters: `14`, `28.2k`, `3.2M`.
pub(crate) fn short(number: u128) -> String {
    let units = [(1_000_000_000_000, "T"), (1_000_000_000, "G"), (1_000_000, "M"), (1_000, "k")];
    let Some((unit, suffix)) = units.into_iter().find(|(unit, _)| number >= *unit) else {
        return number.to_string();
    };
    let tenths = number * 10 / unit;
    if tenths.is_multiple_of(10) || tenths >= 1000 {
        format!("{}{suffix}", tenths / 10)
    } else {
        format!("{}.{}{suffix}", tenths / 10, tenths % 10)
    }
}

/// A span of time to a thousandth of a second, and long ones to a second.
pub(crate) fn time(span: Duration) -> String {
    let rounded = if span >= Duration::from_secs(10) {
        Duration::from_secs(span.as_secs())
    } else if span >= Duration::from_millis(1) {
        Duration::from_millis(span.as_millis().try_into().unwrap_or(u64::MAX))
    } else {
        span
    };
    humantime::format_duration(rounded).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(time: u64, open: u128, waiting: u128) -> Moment {
        Moment { time: Duration::from_secs(time), open, waiting }
    }

    fn text(lines: &[Vec<Cell>]) -> Vec<String> {
        lines.iter().map(|line| line.iter().map(Cell::text).collect()).collect()
    }

    #[test]
    fn columns_grow_with_what_is_in_use() {
        let moments = [moment(0, 0, 0), moment(10, 50, 0), moment(20, 50, 50), moment(30, 1, 0)];
        let lines = text(&plot(&moments, 100, Letters::Ascii));
        let expected = [
            "   100|  : ",
            "    90|  : ",
            "    80|  : ",
            "    70|  : ",
            "    60|  : ",
            "    50| ## ",
            "    40| ## ",
            "    30| ## ",
            "    20| ## ",
            "    10| ###",
            "     0+----",
            "       030s",
        ];
        assert_eq!(lines, expected);
        let blocks = text(&plot(&moments, 100, Letters::Unicode));
        assert_eq!((blocks[0].as_str(), blocks[9].as_str()), ("   100┤  ▒ ", "    10┤ ███"));
    }

    #[test]
    fn no_width_is_too_small_and_no_number_too_large() {
        assert_eq!((columns(0), columns(18), columns(19), columns(80)), (None, None, Some(12), Some(73)));
        for top in [0, 1, 9, u128::from(u64::MAX)] {
            for count in [0, 1, 2, 300] {
                let moments: Vec<Moment> = (0..count).map(|n| moment(n, u128::from(n), top)).collect();
                let lines = plot(&moments, top, Letters::Ascii);
                assert_eq!(lines.len(), 12);
            }
        }
    }

    #[test]
    fn numbers_are_short() {
        let all = [0, 999, 1_000, 28_232, 100_500, 3_200_000, 1_000_000_000_000].map(short);
        assert_eq!(all, ["0", "999", "1k", "28.2k", "100k", "3.2M", "1T"]);
        assert_eq!(time(Duration::from_micros(1_411_600)), "1s 411ms");
        assert_eq!(time(Duration::from_millis(135_900)), "2m 15s");
        assert_eq!(time(Duration::ZERO), "0s");
    }
}
