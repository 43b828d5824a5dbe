//! The picture: a function of what is known, of what was chosen, of the time and of the size. No I/O and no clock.

use super::canvas::{Theme, clock, draw_line, mark};
use super::model::{Link, Model, Said};
use super::panels::{self, Look};
use super::ui::{Overlay, Panel, Ui};
use crate::output::{Cell, Paint, span};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Modifier;
use ratatui::widgets::{Clear, Widget as _};
use std::time::SystemTime;

/// What the keys do.
const HELP: [&str; 18] = [
    "Keys of portbroker top",
    "",
    "1 2 3 4, Tab      listeners, pools, destinations, events",
    "arrows, j k, PgUp PgDn, Home End   choose a row",
    "Enter, z          this part alone, and back",
    "s, r              sort listeners by name, state, queue, holder; reverse",
    "/                 show only what has these letters; Esc: everything",
    "d, u              drain the chosen address of a pool, undo that; it is asked before",
    "Space, p          stop the picture, and go on",
    "Ctrl-L, Ctrl-Z    draw anew; suspend",
    "q, Ctrl-C         quit",
    "",
    "QUEUE: connections that wait to be accepted, of how many there is room for; B: bytes of datagrams.",
    "DROPS: what found no room since the socket was made.",
    "USE of an address: leases of all destinations, beside the ports of the zone.",
    "FULL IN: when nothing is left for that destination, as it goes on now.",
    "",
    "Any key closes this.",
];

/// A picture of the terminal's size.
pub(crate) fn draw(
    model: &Model,
    ui: &mut Ui,
    theme: Theme,
    now: SystemTime,
    area: Rect,
    buffer: &mut Buffer,
) {
    let mut lines = (area.y..area.bottom()).map(|y| Rect { y, height: 1, ..area });
    let Some(first) = lines.next() else { return };
    draw_line(buffer, first, theme, &header(model, now, area.width));
    let mut top = 1;
    if let Some(fault) = fault_line(model).filter(|_| area.height > 4) {
        if let Some(second) = lines.next() {
            draw_line(buffer, second, theme, &[fault]);
        }
        top = 2;
    }
    let footer = u16::from(area.height > 2);
    let rows = area.height.saturating_sub(top + footer);
    let wants = Panel::ALL.map(|panel| panels::rows_of(model, ui, panel).saturating_add(1));
    let heights = heights(rows, wants, ui.panel, ui.enlarged);
    let look = Look { theme, live: true };
    draw_panels(model, ui, look, heights, Rect { y: area.y + top, height: rows, ..area }, buffer);
    if footer > 0 {
        let line = Rect { y: area.bottom() - 1, height: 1, ..area };
        draw_line(buffer, line, theme, &self::footer(model, ui));
    }
    if ui.overlay == Some(Overlay::Help) {
        draw_help(theme, area, buffer);
    }
}

/// A picture with everything in it, as high as it has to be: for `--once`.
pub(crate) fn draw_all(model: &Model, theme: Theme, now: SystemTime, width: u16) -> Buffer {
    let mut ui = Ui::default();
    let wants = Panel::ALL.map(|panel| {
        let rows = panels::rows_of(model, &ui, panel);
        // What happened long ago is in the journal.
        let rows = if panel == Panel::Events { rows.min(20) } else { rows };
        u16::try_from(rows + 1).unwrap_or(u16::MAX)
    });
    let top = 1 + u16::from(fault_line(model).is_some());
    let height = wants.iter().fold(top, |sum, rows| sum.saturating_add(*rows));
    let area = Rect { x: 0, y: 0, width, height };
    let mut buffer = Buffer::empty(area);
    let line = |y| Rect { y, height: 1, ..area };
    draw_line(&mut buffer, line(0), theme, &header(model, now, width));
    if let Some(fault) = fault_line(model) {
        draw_line(&mut buffer, line(1), theme, &[fault]);
    }
    let look = Look { theme, live: false };
    let below = Rect { y: top, height: height.saturating_sub(top), ..area };
    draw_panels(model, &mut ui, look, wants, below, &mut buffer);
    buffer
}

fn draw_panels(
    model: &Model,
    ui: &mut Ui,
    look: Look,
    heights: [u16; 4],
    mut area: Rect,
    buffer: &mut Buffer,
) {
    for (panel, height) in Panel::ALL.into_iter().zip(heights) {
        let height = height.min(area.height);
        panels::draw(model, ui, look, panel, Rect { height, ..area }, buffer);
        area = Rect { y: area.y + height, height: area.height - height, ..area };
    }
}

/// How many lines each panel has. Each has its part, what one does not need goes to the others, and what nobody needs to
/// the events; where there is room for less than two lines of each, the one that was chosen has all.
pub(crate) fn heights(rows: u16, wants: [usize; 4], panel: Panel, enlarged: bool) -> [u16; 4] {
    let all = Panel::ALL.len();
    let mut heights = [0; 4];
    if enlarged || usize::from(rows) < 2 * all {
        if let Some(height) = heights.get_mut(panel.number()) {
            *height = rows;
        }
        return heights;
    }
    let mut rest = rows;
    while rest > 0 {
        let before = rest;
        for (height, want) in heights.iter_mut().zip(wants) {
            if rest > 0 && usize::from(*height) < want.max(2) {
                *height += 1;
                rest -= 1;
            }
        }
        if rest == before {
            break;
        }
    }
    if let Some(last) = heights.last_mut() {
        *last += rest;
    }
    heights
}

fn header(model: &Model, now: SystemTime, width: u16) -> Vec<Cell> {
    let mut cells = vec![Cell::new(format!("portbroker {}  ", model.version), Paint::Heading)];
    match &model.link {
        Link::New => cells.push(Cell::new("asking …", Paint::Waiting)),
        Link::Up => cells.push(Cell::new(&model.state, Paint::of_state(&model.state))),
        Link::Away(since, why) => {
            let time = span(now.duration_since(*since).unwrap_or_default());
            let text = format!("GONE for {time}, trying again; below is what was. {why}");
            cells.push(Cell::new(text, Paint::Bad));
            return cells;
        }
    }
    for (state, count) in model.states() {
        cells.push(Cell::plain("  "));
        cells.push(Cell::new(format!("{count} {state}"), Paint::of_state(state)));
    }
    let clock = format!("{} UTC", clock(now));
    let taken: usize = cells.iter().map(Cell::width).sum();
    if let Some(blank) = usize::from(width).checked_sub(taken + clock.len()) {
        cells.push(Cell::plain(format!("{}{clock}", " ".repeat(blank))));
    }
    cells
}

fn fault_line(model: &Model) -> Option<Cell> {
    let first = model.faults.first()?.replace('\n', " ");
    let more = match model.faults.len() - 1 {
        0 => String::new(),
        more => format!("and {more} more, see \"portbroker status\": "),
    };
    Some(Cell::new(format!("{more}{first}"), Paint::Bad))
}

fn footer(model: &Model, ui: &Ui) -> Vec<Cell> {
    match &ui.overlay {
        Some(Overlay::Filter) => {
            return vec![
                Cell::plain(format!("/{}_", ui.filter)),
                Cell::plain("   Enter keeps it, Esc ends it"),
            ];
        }
        Some(Overlay::Drain { address, undo: false }) => {
            let text = format!("Drain {address}? No pool gives out more of it, what is leased lives on. y/n");
            return vec![Cell::new(text, Paint::Waiting)];
        }
        Some(Overlay::Drain { address, undo: true }) => {
            return vec![Cell::new(format!("Give {address} out again? y/n"), Paint::Waiting)];
        }
        Some(Overlay::Help) | None => {}
    }
    match &model.said {
        Some(Said::Done(text)) => return vec![Cell::new(text, Paint::Good)],
        Some(Said::Failed(text)) => return vec![Cell::new(text.replace('\n', " "), Paint::Bad)],
        None => {}
    }
    let mut cells = Vec::new();
    if ui.paused {
        cells.push(Cell::new("STOPPED: space goes on  ", Paint::Waiting));
    }
    if !ui.filter.is_empty() {
        cells.push(Cell::new(format!("only {:?}: Esc shows all  ", ui.filter), Paint::Waiting));
    }
    let reversed = if ui.reversed { ", reversed" } else { "" };
    let keys = format!("q quit  ? help  Tab part  z alone  / filter  s by {}{reversed}", ui.sort.word());
    cells.push(Cell::plain(keys));
    if ui.panel == Panel::Pools {
        cells.push(Cell::plain("  d drain  u undo"));
    }
    cells
}

fn draw_help(theme: Theme, area: Rect, buffer: &mut Buffer) {
    let width = HELP.iter().map(|line| line.len()).max().unwrap_or_default() + 4;
    let width = u16::try_from(width).unwrap_or(u16::MAX).min(area.width);
    let height = u16::try_from(HELP.len() + 2).unwrap_or(u16::MAX).min(area.height);
    let place =
        Rect { x: area.x + (area.width - width) / 2, y: area.y + (area.height - height) / 2, width, height };
    Clear.render(place, buffer);
    mark(buffer, place, Modifier::REVERSED);
    let margin = u16::from(height > 2);
    for (text, y) in HELP.iter().zip(place.y + margin..place.bottom().saturating_sub(margin)) {
        let line = Rect { y, height: 1, x: place.x + 2.min(width), width: width.saturating_sub(4) };
        draw_line(buffer, line, theme, &[Cell::plain(text)]);
    }
}

#[cfg(test)]
#[path = "view_tests.rs"]
mod tests;
