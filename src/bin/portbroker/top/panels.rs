//! The rows of each panel.

use super::canvas::{Column, Theme, clock, draw_row, left, mark, right, widths};
use super::model::{Depth, Happening, Level, Model, ports_of_zone};
use super::ui::{Panel, PoolRow, Ui};
use crate::bar::{paint_of_share, percent, share};
use crate::forecast::{destination, per_second};
use crate::output::{Cell, Paint, span};
use portbroker_client::inspect::ListenerStatus;
use portbroker_client::pools::{Forecast, PoolAddress, PoolStatus};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Modifier;

const LISTENERS: [Column; 6] = [
    left("", 12, 16),
    left("STATE", 9, 9),
    right("QUEUE", 9, 9),
    right("DROPS", 5, 6),
    left("HOLDER", 12, 18),
    left("SOCKETS", 12, 60),
];
const POOLS: [Column; 6] = [
    left("", 15, 20),
    left("STATE", 8, 8),
    right("LEASED", 6, 7),
    right("COOLING", 7, 7),
    left("USE", 10, 60),
    left("", 5, 5),
];
const DESTINATIONS: [Column; 6] = [
    left("", 18, 25),
    left("POOL", 8, 10),
    right("USED", 6, 6),
    right("RATE", 7, 7),
    right("FULL IN", 7, 7),
    left("USE", 10, 60),
];
const EVENTS: [Column; 3] = [left("", 10, 10), left("WHAT", 10, 14), left("", 1, 500)];

/// How many rows a panel has.
pub(crate) fn rows_of(model: &Model, ui: &Ui, panel: Panel) -> usize {
    match panel {
        Panel::Listeners => ui.listeners(model).len(),
        Panel::Pools => ui.pools(model).len(),
        Panel::Destinations => ui.destinations(model).len(),
        Panel::Events => ui.events(model).len(),
    }
}

/// How a panel is drawn.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Look {
    pub(crate) theme: Theme,
    /// The row that is chosen is shown.
    pub(crate) live: bool,
}

/// Draws a panel: its heading, and as many of its rows as there is room for.
pub(crate) fn draw(model: &Model, ui: &mut Ui, look: Look, panel: Panel, area: Rect, buffer: &mut Buffer) {
    if area.is_empty() {
        return;
    }
    match panel {
        Panel::Listeners => {
            let rows = ui.listeners(model);
            let cells = |row: &(&ListenerStatus, Depth), _: &[u16]| listener(row.0, row.1);
            draw_rows(ui, look, (panel, "Listeners"), &LISTENERS, &rows, cells, area, buffer);
        }
        Panel::Pools => {
            let rows = ui.pools(model);
            let cells = |row: &PoolRow<'_>, widths: &[u16]| match row {
                PoolRow::Pool(pool) => of_pool(pool),
                PoolRow::Address(pool, address) => of_address(pool, address, look.theme, widths),
            };
            draw_rows(ui, look, (panel, "Pools"), &POOLS, &rows, cells, area, buffer);
        }
        Panel::Destinations => {
            let rows = ui.destinations(model);
            let cells = |row: &&Forecast, widths: &[u16]| of_destination(row, look.theme, widths);
            draw_rows(ui, look, (panel, "Destinations"), &DESTINATIONS, &rows, cells, area, buffer);
        }
        Panel::Events => {
            let rows = ui.events(model);
            let cells = |row: &&Happening, _: &[u16]| of_happening(row);
            draw_rows(ui, look, (panel, "Events"), &EVENTS, &rows, cells, area, buffer);
        }
    }
}

#[expect(clippy::too_many_arguments, reason = "what all four panels have in common")]
fn draw_rows<T>(
    ui: &mut Ui,
    look: Look,
    (panel, title): (Panel, &str),
    columns: &[Column],
    rows: &[T],
    cells: impl Fn(&T, &[u16]) -> Vec<Cell>,
    area: Rect,
    buffer: &mut Buffer,
) {
    let widths = widths(columns, area.width);
    let line = |n: u16| Rect { y: area.y + n, height: 1, ..area };
    let mut heading: Vec<Cell> = columns.iter().map(|column| Cell::plain(column.title)).collect();
    if let Some(first) = heading.first_mut() {
        *first = Cell::plain(format!("{} {title} {}", panel.number() + 1, rows.len()));
    }
    draw_row(buffer, line(0), look.theme, columns, &widths, &heading);
    let is_focused = look.live && ui.panel == panel;
    mark(buffer, line(0), if is_focused { Modifier::REVERSED | Modifier::BOLD } else { Modifier::REVERSED });
    let place = ui.place(panel);
    place.show(usize::from(area.height - 1), rows.len());
    let (first, chosen) = (place.first, place.chosen);
    for (n, (row, y)) in rows.iter().skip(first).zip(1..area.height).enumerate() {
        draw_row(buffer, line(y), look.theme, columns, &widths, &cells(row, &widths));
        if is_focused && first + n == chosen {
            mark(buffer, line(y), Modifier::REVERSED);
        }
    }
}

fn listener(listener: &ListenerStatus, depth: Depth) -> Vec<Cell> {
    let queue = match depth {
        Depth { waiting: 0, bytes: 0, .. } => String::new(),
        Depth { waiting: 0, bytes, .. } => format!("{bytes} B"),
        Depth { waiting, limit: 0, .. } => waiting.to_string(),
        Depth { waiting, limit, .. } => format!("{waiting}/{limit}"),
    };
    let fill = share(depth.waiting, depth.limit);
    let queue_paint = if depth.limit > 0 { paint_of_share(fill) } else { Paint::Plain };
    let drops = if depth.overflows > 0 { depth.overflows.to_string() } else { String::new() };
    let error = listener.sockets.iter().find_map(|socket| socket.error.as_deref());
    let sockets = match error {
        Some(error) => Cell::new(error, Paint::Bad),
        None => {
            let endpoints: Vec<&str> = listener.sockets.iter().map(|s| s.endpoint.as_str()).collect();
            Cell::plain(endpoints.join(", "))
        }
    };
    vec![
        Cell::plain(&listener.name),
        Cell::new(&listener.state, Paint::of_state(&listener.state)),
        Cell::new(queue, queue_paint),
        Cell::new(drops, Paint::Waiting),
        Cell::plain(if listener.holders.is_empty() { "-".to_owned() } else { listener.holders.join(", ") }),
        sockets,
    ]
}

fn of_pool(pool: &PoolStatus) -> Vec<Cell> {
    let sum = |of: fn(&PoolAddress) -> u32| {
        let sum: u64 = pool.addresses.iter().map(|address| u64::from(of(address))).sum();
        sum.to_string()
    };
    let mut room = format!("{} a destination", pool.capacity);
    if pool.waiting > 0 {
        room.push_str(&format!(", {} wait", pool.waiting));
    }
    let about = match pool.faults.first() {
        Some(fault) => Cell::new(fault, Paint::Bad),
        None => Cell::new(room, if pool.waiting > 0 { Paint::Waiting } else { Paint::Plain }),
    };
    vec![
        Cell::new(&pool.name, Paint::Heading),
        Cell::new(&pool.state, Paint::of_state(&pool.state)),
        Cell::plain(sum(|address| address.leased)),
        Cell::plain(sum(|address| address.cooling)),
        about,
    ]
}

fn of_address(pool: &PoolStatus, address: &PoolAddress, theme: Theme, widths: &[u16]) -> Vec<Cell> {
    // A port that ten destinations share counts ten times, so that there may be more than the zone has.
    let zone = ports_of_zone(pool);
    let used = share(address.leased.into(), zone);
    let columns = widths.get(4).copied().unwrap_or_default();
    let bar = theme.bar(columns, used, share(address.cooling.into(), zone));
    vec![
        Cell::plain(format!("  {}", address.address)),
        Cell::new(&address.state, Paint::of_state(&address.state)),
        Cell::plain(address.leased.to_string()),
        Cell::plain(address.cooling.to_string()),
        Cell::new(bar, paint_of_share(used)),
        Cell::plain(percent(used)),
    ]
}

fn of_destination(of: &Forecast, theme: Theme, widths: &[u16]) -> Vec<Cell> {
    let taken = of.taken();
    let paint = if of.ahead { Paint::Bad } else { paint_of_share(taken) };
    let full_in = of.exhausted_in.map(span).unwrap_or_default();
    let columns = widths.get(5).copied().unwrap_or_default().saturating_sub(5);
    let bar = theme.bar(
        columns,
        share(of.used.into(), of.capacity.into()),
        share(of.cooling.into(), of.capacity.into()),
    );
    vec![
        Cell::plain(destination(of)),
        Cell::plain(&of.pool),
        Cell::plain(of.used.to_string()),
        Cell::plain(per_second(of.rate)),
        Cell::new(full_in, if of.ahead { Paint::Bad } else { Paint::Plain }),
        Cell::new(format!("{bar} {:>4}", percent(taken).replace(' ', "")), paint),
    ]
}

fn of_happening(of: &Happening) -> Vec<Cell> {
    let paint = match of.level {
        Level::Info => Paint::Plain,
        Level::Warning => Paint::Waiting,
        Level::Error => Paint::Bad,
    };
    let message = of.message.replace('\n', " ");
    vec![Cell::plain(clock(of.time)), Cell::new(&of.event, paint), Cell::new(message, paint)]
}
