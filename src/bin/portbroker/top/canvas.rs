//! What panels are drawn with: columns that fit, bars, and letters that the terminal has.

use crate::bar::{Letters, bar};
use crate::output::{Cell, Paint, cut};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Modifier, Style};
use std::time::{SystemTime, UNIX_EPOCH};
use unicode_width::UnicodeWidthStr as _;

/// What the terminal has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Theme {
    pub(crate) colours: bool,
    pub(crate) alphabet: Letters,
}

impl Theme {
    pub(crate) fn style(self, paint: Paint) -> Style {
        // What is bold is so without colours too.
        if self.colours || paint == Paint::Heading { paint.style() } else { Style::new() }
    }

    /// A text in the letters that there are.
    pub(crate) fn letters(self, text: &str) -> String {
        if self.alphabet == Letters::Unicode {
            text.to_owned()
        } else {
            text.chars().map(|c| if c.is_ascii() { c } else { '?' }).collect()
        }
    }

    /// A bar of so many columns: what is in use, and what cools, as shares of the whole.
    pub(crate) fn bar(self, columns: u16, used: f64, cooling: f64) -> String {
        bar(self.alphabet, columns, used, cooling)
    }
}

/// A column of a panel.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Column {
    pub(crate) title: &'static str,
    pub(crate) least: u16,
    /// The last one that is shown has all that is left.
    pub(crate) most: u16,
    pub(crate) right: bool,
}

pub(crate) const fn left(title: &'static str, least: u16, most: u16) -> Column {
    Column { title, least, most, right: false }
}

pub(crate) const fn right(title: &'static str, least: u16, most: u16) -> Column {
    Column { title, least, most, right: true }
}

/// How wide each column is: as many of the first ones as have room, with a blank between two.
pub(crate) fn widths(columns: &[Column], total: u16) -> Vec<u16> {
    let mut widths: Vec<u16> = Vec::new();
    let mut rest = total;
    for column in columns {
        let gap = u16::from(!widths.is_empty());
        let Some(left) = rest.checked_sub(column.least + gap) else { break };
        rest = left;
        widths.push(column.least);
    }
    if widths.is_empty() && total > 0 {
        return vec![total];
    }
    for (width, column) in widths.iter_mut().zip(columns) {
        // On a wide terminal there is more room for names.
        let most = column.most.saturating_mul((total / 100).max(1));
        let more = rest.min(most.saturating_sub(column.least));
        *width += more;
        rest -= more;
    }
    if let Some(last) = widths.last_mut() {
        *last += rest;
    }
    widths
}

/// Draws a row of cells into a line of the screen.
pub(crate) fn draw_row(
    buffer: &mut Buffer,
    line: Rect,
    theme: Theme,
    columns: &[Column],
    widths: &[u16],
    cells: &[Cell],
) {
    let mut x = line.x;
    for ((cell, column), width) in cells.iter().zip(columns).zip(widths) {
        let text = theme.letters(cell.text());
        let text = cut(&text, usize::from(*width));
        let blank = u16::try_from(text.width()).map_or(0, |taken| width.saturating_sub(taken));
        let at = if column.right { x.saturating_add(blank) } else { x };
        buffer.set_string(at, line.y, text, theme.style(cell.paint()));
        x = x.saturating_add(*width).saturating_add(1);
    }
}

/// Draws pieces of text one after the other, as far as there is room.
pub(crate) fn draw_line(buffer: &mut Buffer, line: Rect, theme: Theme, cells: &[Cell]) {
    let mut x = line.x;
    for cell in cells {
        let room = usize::from(line.right().saturating_sub(x));
        let text = theme.letters(cell.text());
        let text = cut(&text, room);
        buffer.set_string(x, line.y, text, theme.style(cell.paint()));
        x = x.saturating_add(u16::try_from(text.width()).unwrap_or(u16::MAX));
    }
}

/// Marks a line as a heading: that of the panel which has the keys stands out.
pub(crate) fn mark(buffer: &mut Buffer, line: Rect, modifier: Modifier) {
    buffer.set_style(line, Style::new().add_modifier(modifier));
}

/// `21:55:03`, in UTC.
pub(crate) fn clock(time: SystemTime) -> String {
    let of_day = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() % 86_400;
    format!("{:02}:{:02}:{:02}", of_day / 3600, of_day / 60 % 60, of_day % 60)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    #[test]
    fn letters_that_a_terminal_has_not_are_told() {
        let theme = |alphabet| Theme { colours: false, alphabet };
        assert_eq!(theme(Letters::Ascii).letters("é端-"), "??-");
        assert_eq!(theme(Letters::Unicode).letters("é端-"), "é端-");
    }

    #[test]
    fn columns_that_have_no_room_are_left_out() {
        let columns = [left("A", 4, 10), right("B", 3, 5), left("C", 8, 8)];
        assert_eq!(widths(&columns, 80), [10, 5, 63]);
        assert_eq!(widths(&columns, 17), [4, 3, 8]);
        assert_eq!(widths(&columns, 16), [10, 5]);
        assert_eq!(widths(&columns, 7), [7]);
        assert_eq!(widths(&columns, 3), [3]);
        assert!(widths(&columns, 0).is_empty());
    }

    #[test]
    fn times_are_short() {
        assert_eq!(clock(UNIX_EPOCH + Duration::from_secs(86_399)), "23:59:59");
    }

    proptest! {
        #[test]
        fn columns_fill_the_line_and_no_more(total in 0_u16..300, least in prop::collection::vec((1_u16..30, 0_u16..30), 1..8)) {
            let columns: Vec<Column> = least.iter().map(|(least, more)| left("x", *least, least + more)).collect();
            let widths = widths(&columns, total);
            let blanks = u16::try_from(widths.len().saturating_sub(1)).unwrap();
            prop_assert_eq!(widths.iter().sum::<u16>() + blanks, total);
        }
    }
}
