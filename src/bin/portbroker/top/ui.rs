//! What the person at the terminal has chosen to see, and what the keys do. No I/O.

use super::model::{Depth, Happening, Model, badness};
use portbroker_client::inspect::ListenerStatus;
use portbroker_client::pools::{Forecast, PoolAddress, PoolStatus};
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use std::cmp::Reverse;

/// The parts of the screen, from above.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Panel {
    Listeners,
    Pools,
    Destinations,
    Events,
}

impl Panel {
    pub(crate) const ALL: [Self; 4] = [Self::Listeners, Self::Pools, Self::Destinations, Self::Events];

    pub(crate) fn number(self) -> usize {
        Self::ALL.iter().position(|panel| *panel == self).unwrap_or_default()
    }

    fn beside(self, step: usize) -> Self {
        Self::ALL.iter().cycle().nth(self.number() + step).copied().unwrap_or(self)
    }
}

/// The order of the listeners.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sort {
    Name,
    /// The worst first.
    State,
    /// The longest first.
    Queue,
    Holder,
}

impl Sort {
    const ALL: [Self; 4] = [Self::Name, Self::State, Self::Queue, Self::Holder];

    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::State => "state",
            Self::Queue => "queue",
            Self::Holder => "holder",
        }
    }

    fn next(self) -> Self {
        let at = Self::ALL.iter().position(|sort| *sort == self).unwrap_or_default();
        Self::ALL.iter().cycle().nth(at + 1).copied().unwrap_or(self)
    }
}

/// What lies over the screen, and has the keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Overlay {
    Help,
    /// The filter is being written.
    Filter,
    /// Whether to drain this address, or (`undo`) to give it out again.
    Drain {
        address: String,
        undo: bool,
    },
}

/// What is to be done for a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    Quit,
    Suspend,
    /// Everything is to be drawn anew.
    Redraw,
    Drain {
        address: String,
        undo: bool,
    },
}

/// A row of the pools' panel.
#[derive(Debug, Clone, Copy)]
pub(crate) enum PoolRow<'a> {
    Pool(&'a PoolStatus),
    Address(&'a PoolStatus, &'a PoolAddress),
}

#[derive(Debug)]
pub(crate) struct Ui {
    pub(crate) panel: Panel,
    /// Only that panel is shown.
    pub(crate) enlarged: bool,
    pub(crate) sort: Sort,
    pub(crate) reversed: bool,
    pub(crate) filter: String,
    pub(crate) overlay: Option<Overlay>,
    /// Nothing new is shown.
    pub(crate) paused: bool,
    places: [Place; 4],
}

/// Where one is in a panel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Place {
    /// The row that is chosen.
    pub(crate) chosen: usize,
    /// The first row that is shown.
    pub(crate) first: usize,
    /// How many rows were shown last.
    pub(crate) shown: usize,
}

impl Place {
    /// Moves so that the chosen row is among so many that are shown, of so many that there are.
    pub(crate) fn show(&mut self, shown: usize, rows: usize) {
        self.shown = shown;
        self.chosen = self.chosen.min(rows.saturating_sub(1));
        if shown == 0 {
            return;
        }
        let least = (self.chosen + 1).saturating_sub(shown);
        self.first = self.first.clamp(least, self.chosen.max(least)).min(rows.saturating_sub(shown));
    }
}

impl Default for Ui {
    fn default() -> Self {
        Self {
            panel: Panel::Listeners,
            enlarged: false,
            sort: Sort::Name,
            reversed: false,
            filter: String::new(),
            overlay: None,
            paused: false,
            places: [Place::default(); 4],
        }
    }
}

/// Whether any of these texts has the words that are looked for, in whatever case.
fn has(filter: &str, texts: &[&str]) -> bool {
    filter.is_empty() || texts.iter().any(|text| text.to_lowercase().contains(filter))
}

impl Ui {
    /// Where one is in a panel.
    pub(crate) fn place(&mut self, panel: Panel) -> &mut Place {
        let [listeners, pools, destinations, events] = &mut self.places;
        match panel {
            Panel::Listeners => listeners,
            Panel::Pools => pools,
            Panel::Destinations => destinations,
            Panel::Events => events,
        }
    }

    /// The listeners that are to be seen, in their order.
    pub(crate) fn listeners<'a>(&self, model: &'a Model) -> Vec<(&'a ListenerStatus, Depth)> {
        let filter = self.filter.to_lowercase();
        let fits = |listener: &&ListenerStatus| {
            has(&filter, &[&listener.name, &listener.state])
                || listener.holders.iter().any(|holder| has(&filter, &[holder]))
                || listener.sockets.iter().any(|socket| has(&filter, &[&socket.endpoint]))
        };
        let all = model.listeners.values().filter(fits);
        let mut all: Vec<_> = all.map(|listener| (listener, model.depth(listener))).collect();
        match self.sort {
            // They come so.
            Sort::Name => {}
            Sort::State => all.sort_by_key(|(listener, _)| badness(&listener.state)),
            Sort::Queue => {
                all.sort_by_key(|(_, depth)| Reverse((depth.waiting, depth.bytes, depth.overflows)));
            }
            Sort::Holder => all.sort_by(|(a, _), (b, _)| a.holders.cmp(&b.holders)),
        }
        if self.reversed {
            all.reverse();
        }
        all
    }

    /// The pools with their addresses. What the filter finds of a pool's own name is shown with all its addresses.
    pub(crate) fn pools<'a>(&self, model: &'a Model) -> Vec<PoolRow<'a>> {
        let filter = self.filter.to_lowercase();
        let mut rows = Vec::new();
        for pool in model.pools.values() {
            let whole = has(&filter, &[&pool.name, &pool.state]);
            let fits = |address: &&PoolAddress| whole || has(&filter, &[&address.address, &address.state]);
            let addresses: Vec<&PoolAddress> = pool.addresses.iter().filter(fits).collect();
            if whole || !addresses.is_empty() {
                rows.push(PoolRow::Pool(pool));
                rows.extend(addresses.into_iter().map(|address| PoolRow::Address(pool, address)));
            }
        }
        rows
    }

    /// The destinations, the fullest first.
    pub(crate) fn destinations<'a>(&self, model: &'a Model) -> Vec<&'a Forecast> {
        let filter = self.filter.to_lowercase();
        let to = |of: &'a Forecast| of.destination.as_deref().unwrap_or_default();
        let fits = |of: &&'a Forecast| has(&filter, &[&of.pool, to(of), &of.protocol]);
        let mut all: Vec<_> = model.destinations.iter().filter(fits).collect();
        all.sort_by(|a, b| b.taken().total_cmp(&a.taken()));
        all
    }

    /// What happened, the last first.
    pub(crate) fn events<'a>(&self, model: &'a Model) -> Vec<&'a Happening> {
        let filter = self.filter.to_lowercase();
        let fits = |of: &&Happening| has(&filter, &[&of.event, &of.message]);
        model.events.iter().filter(fits).collect()
    }

    fn rows(&self, model: &Model) -> usize {
        match self.panel {
            Panel::Listeners => self.listeners(model).len(),
            Panel::Pools => self.pools(model).len(),
            Panel::Destinations => self.destinations(model).len(),
            Panel::Events => self.events(model).len(),
        }
    }

    /// The address that is chosen, with its state.
    fn chosen_address<'a>(&mut self, model: &'a Model) -> Option<&'a PoolAddress> {
        let chosen = self.place(Panel::Pools).chosen;
        match self.pools(model).get(chosen)? {
            PoolRow::Address(_, address) => Some(address),
            PoolRow::Pool(_) => None,
        }
    }

    /// Does what a key says; what is left to be done by others is returned.
    pub(crate) fn key(&mut self, key: KeyEvent, model: &mut Model) -> Option<Action> {
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Char('c') if control => return Some(Action::Quit),
            KeyCode::Char('z') if control => return Some(Action::Suspend),
            KeyCode::Char('l') if control => return Some(Action::Redraw),
            _ if control => return None,
            _ => {}
        }
        model.said = None;
        match self.overlay.take() {
            None => self.plain_key(key.code, model),
            // Any key closes it.
            Some(Overlay::Help) => None,
            Some(Overlay::Filter) => {
                self.filter_key(key.code);
                None
            }
            Some(Overlay::Drain { address, undo }) => match key.code {
                KeyCode::Char('y' | 'Y') => Some(Action::Drain { address, undo }),
                _ => None,
            },
        }
    }

    fn filter_key(&mut self, key: KeyCode) {
        match key {
            KeyCode::Enter => return,
            KeyCode::Esc => {
                self.filter.clear();
                return;
            }
            KeyCode::Backspace => drop(self.filter.pop()),
            KeyCode::Char(c) if !c.is_control() && self.filter.len() < 100 => self.filter.push(c),
            _ => {}
        }
        self.overlay = Some(Overlay::Filter);
        self.places = [Place::default(); 4];
    }

    fn plain_key(&mut self, key: KeyCode, model: &mut Model) -> Option<Action> {
        let page = self.place(self.panel).shown.max(1);
        match key {
            KeyCode::Char('q') => return Some(Action::Quit),
            KeyCode::Char('?' | 'h') | KeyCode::F(1) => self.overlay = Some(Overlay::Help),
            KeyCode::Char('/') => self.overlay = Some(Overlay::Filter),
            KeyCode::Esc => self.filter.clear(),
            KeyCode::Tab => self.panel = self.panel.beside(1),
            KeyCode::BackTab => self.panel = self.panel.beside(Panel::ALL.len() - 1),
            KeyCode::Char(c @ '1'..='4') => {
                let at = c.to_digit(10).and_then(|n| usize::try_from(n).ok()).unwrap_or(1) - 1;
                self.panel = Panel::ALL.get(at).copied().unwrap_or(self.panel);
            }
            KeyCode::Enter | KeyCode::Char('z') => self.enlarged = !self.enlarged,
            KeyCode::Char('s') => self.sort = self.sort.next(),
            KeyCode::Char('r') => self.reversed = !self.reversed,
            KeyCode::Char(' ' | 'p') => self.paused = !self.paused,
            KeyCode::Down | KeyCode::Char('j') => self.go(model, |at| at + 1),
            KeyCode::Up | KeyCode::Char('k') => self.go(model, |at| at.saturating_sub(1)),
            KeyCode::PageDown => self.go(model, |at| at + page),
            KeyCode::PageUp => self.go(model, |at| at.saturating_sub(page)),
            KeyCode::Home | KeyCode::Char('g') => self.go(model, |_| 0),
            KeyCode::End | KeyCode::Char('G') => self.go(model, |_| usize::MAX),
            KeyCode::Char('d') => self.ask_to_drain(model, false),
            KeyCode::Char('u') => self.ask_to_drain(model, true),
            _ => {}
        }
        None
    }

    fn go(&mut self, model: &Model, step: impl FnOnce(usize) -> usize) {
        let last = self.rows(model).saturating_sub(1);
        let chosen = &mut self.place(self.panel).chosen;
        *chosen = step((*chosen).min(last)).min(last);
    }

    fn ask_to_drain(&mut self, model: &mut Model, undo: bool) {
        use super::model::Said;
        let chosen = if self.panel == Panel::Pools { self.chosen_address(model) } else { None };
        let Some(PoolAddress { address, state, .. }) = chosen else {
            let text = "choose an address of a pool first: 2, and the arrows";
            model.said = Some(Said::Failed(text.to_owned()));
            return;
        };
        let drains = state.starts_with("drain");
        if drains == undo {
            self.overlay = Some(Overlay::Drain { address: address.clone(), undo });
        } else {
            let text = if undo { "is not drained" } else { "is drained already: u undoes it" };
            model.said = Some(Said::Failed(format!("{address} {text}")));
        }
    }
}

#[cfg(test)]
#[path = "ui_tests.rs"]
mod tests;
