//! One picture, for scripts: as text, or as JSON.

use super::canvas::Theme;
use super::feed;
use super::model::{Happening, Level, Model, Update};
use super::view;
use crate::args::block_on;
use crate::failure::Failure;
use crate::forecast;
use crate::output::Output;
use crate::terminal;
use portbroker_client::Broker;
use portbroker_client::pools::{PoolAddress, PoolStatus};
use ratatui::buffer::Buffer;
use ratatui::style::{Color, Modifier};
use serde::Serialize;
use std::fmt::Write as _;
use std::io::{self, IsTerminal as _};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};
use unicode_width::UnicodeWidthStr as _;

/// The JSON document.
#[derive(Debug, Serialize)]
struct Document<'a> {
    state: &'a str,
    version: &'a str,
    faults: &'a [String],
    listeners: Vec<Listener<'a>>,
    pools: Vec<Pool<'a>>,
    destinations: Vec<forecast::Row<'a>>,
    events: Vec<Happened<'a>>,
}

#[derive(Debug, Serialize)]
struct Listener<'a> {
    name: &'a str,
    state: &'a str,
    holders: &'a [String],
    sockets: Vec<&'a str>,
    queue: u64,
    backlog: Option<u64>,
    bytes: u64,
    overflows: u64,
}

#[derive(Debug, Serialize)]
struct Pool<'a> {
    name: &'a str,
    state: &'a str,
    capacity: u64,
    waiting: u32,
    addresses: Vec<Address<'a>>,
}

#[derive(Debug, Serialize)]
struct Address<'a> {
    address: &'a str,
    state: &'a str,
    leased: u32,
    cooling: u32,
}

#[derive(Debug, Serialize)]
struct Happened<'a> {
    time: u64,
    level: &'static str,
    event: &'a str,
    message: &'a str,
}

/// Asks, and prints the picture.
pub(super) fn run(broker: &Broker, output: Output) -> Result<ExitCode, Failure> {
    let updates = block_on(feed::look(broker))?;
    let now = SystemTime::now();
    let model = modelled(updates, now);
    output.print_text(&document(&model), || {
        let theme = Theme { colours: output.colours(), alphabet: terminal::letters() };
        let width = if io::stdout().is_terminal() { terminal::size().0 } else { terminal::usual_width() };
        text(&view::draw_all(&model, theme, now, width), theme)
    })?;
    Ok(ExitCode::SUCCESS)
}

fn modelled(updates: Vec<Update>, now: SystemTime) -> Model {
    let mut model = Model::default();
    updates.into_iter().for_each(|update| model.take(update, now));
    model
}

fn document(model: &Model) -> Document<'_> {
    let listeners = model.listeners.values().map(|of| {
        let depth = model.depth(of);
        Listener {
            name: &of.name,
            state: &of.state,
            holders: &of.holders,
            sockets: of.sockets.iter().map(|socket| socket.endpoint.as_str()).collect(),
            queue: depth.waiting,
            backlog: (depth.limit > 0).then_some(depth.limit),
            bytes: depth.bytes,
            overflows: depth.overflows,
        }
    });
    Document {
        state: &model.state,
        version: &model.version,
        faults: &model.faults,
        listeners: listeners.collect(),
        pools: model.pools.values().map(pool).collect(),
        destinations: model.destinations.iter().map(forecast::Row::from).collect(),
        events: model.events.iter().map(happening).collect(),
    }
}

fn pool(of: &PoolStatus) -> Pool<'_> {
    let addresses = of.addresses.iter().map(|of| {
        let PoolAddress { address, state, leased, cooling } = of;
        Address { address, state, leased: *leased, cooling: *cooling }
    });
    let addresses = addresses.collect();
    Pool { name: &of.name, state: &of.state, capacity: of.capacity, waiting: of.waiting, addresses }
}

fn happening(of: &Happening) -> Happened<'_> {
    let level = match of.level {
        Level::Info => "info",
        Level::Warning => "warning",
        Level::Error => "error",
    };
    let time = of.time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    Happened { time, level, event: &of.event, message: &of.message }
}

/// A picture as lines of text.
fn text(picture: &Buffer, theme: Theme) -> String {
    let width = usize::from(picture.area.width).max(1);
    let mut text = String::new();
    for line in picture.content.chunks(width) {
        let end = line.iter().rposition(|cell| cell.symbol() != " " || reversed(cell.modifier));
        let (mut style, mut covered) = (String::new(), 0);
        for cell in line.iter().take(end.map_or(0, |end| end + 1)) {
            // By a letter of two columns before it.
            if covered > 0 {
                covered -= 1;
                continue;
            }
            covered = cell.symbol().width().saturating_sub(1);
            let wanted = if theme.colours { escape(cell.fg, cell.modifier) } else { String::new() };
            if wanted != style {
                if !style.is_empty() {
                    text.push_str("\x1b[0m");
                }
                text.push_str(&wanted);
                style = wanted;
            }
            text.push_str(cell.symbol());
        }
        if !style.is_empty() {
            text.push_str("\x1b[0m");
        }
        text.truncate(text.trim_end_matches(' ').len());
        text.push('\n');
    }
    text
}

fn reversed(modifier: Modifier) -> bool {
    modifier.contains(Modifier::REVERSED)
}

fn escape(colour: Color, modifier: Modifier) -> String {
    let mut escape = String::new();
    // Writing into a String cannot fail.
    for (is, code) in [(modifier.contains(Modifier::BOLD), 1), (reversed(modifier), 7)] {
        if is {
            let _ = write!(escape, "\x1b[{code}m");
        }
    }
    let code = match colour {
        Color::Green => 32,
        Color::Yellow => 33,
        Color::Red => 31,
        _ => return escape,
    };
    let _ = write!(escape, "\x1b[{code}m");
    escape
}
