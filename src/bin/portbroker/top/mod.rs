//! `portbroker top`: the broker, live.
//!
//! [`feed`] hears and asks, [`model`] is what is known, [`ui`] what was chosen, [`view`] the picture of both, and
//! [`screen`] the terminal that it is drawn on. [`picture`] is `--once`.

mod canvas;
mod feed;
mod model;
mod panels;
mod picture;
mod screen;
mod ui;
mod view;

use crate::args;
use crate::failure::{self, Failure};
use crate::output::Output;
use crate::terminal;
use canvas::Theme;
use feed::Feed;
use model::{Model, Said, Update};
use nix::sys::signal::{Signal, kill};
use nix::unistd::getpid;
use portbroker_client::{Broker, Error};
use ratatui::crossterm::event::{self, Event, KeyEventKind};
use screen::Screen;
use std::io::{self, IsTerminal as _};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};
use tokio::signal::unix::{Signal as Signals, SignalKind, signal};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use ui::{Action, Ui};

/// Updates that may wait to be taken.
const WAITING: usize = 256;
/// The screen is not drawn more often than this for what the broker says.
const BETWEEN: Duration = Duration::from_millis(100);
/// What a shell adds the number of a signal to.
const BY_SIGNAL: i32 = 128;

pub(crate) fn run(broker: &Broker, output: Output, arguments: &args::Top) -> Result<ExitCode, Failure> {
    // A document of JSON is one picture.
    if arguments.once || output.is_json() {
        return picture::run(broker, output);
    }
    if !io::stdin().is_terminal() || !io::stdout().is_terminal() || terminal::is_dumb() {
        return Err(Failure::NoTerminal);
    }
    // Without a broker there is nothing to see, and the screen is left as it is.
    args::block_on(async { broker.condition().await })?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build();
    runtime.map_err(failure::no_runtime)?.block_on(live(broker, output, arguments.interval))
}

/// What came of a turn of the loop.
enum Turn {
    /// What is seen may have changed: at once, or when it is time.
    Draw,
    DrawSoon,
    Nothing,
    End(ExitCode),
}

async fn live(broker: &Broker, output: Output, interval: Duration) -> Result<ExitCode, Failure> {
    let mut signals = Received::new().map_err(failure::no_runtime)?;
    let (updates, mut news) = mpsc::channel(WAITING);
    let feed = Feed { broker: broker.clone(), updates: updates.clone(), interval, again: Notify::new() };
    let mut input = keys().map_err(failure::no_runtime)?;
    let theme = Theme { colours: output.colours(), alphabet: terminal::letters() };
    let mut top = Top {
        model: Model::default(),
        ui: Ui::default(),
        screen: Screen::take().map_err(Failure::Output)?,
        theme,
        feed: &feed,
        updates,
    };
    let mut running = std::pin::pin!(feed.run());
    let mut draw_at = Some(Instant::now());
    let mut clock = tokio::time::interval(Duration::from_secs(1));
    loop {
        let turn = tokio::select! {
            biased;
            signal = signals.next() => top.signal(signal).map_err(Failure::Output)?,
            event = input.recv() => match event {
                Some(event) => top.input(event).map_err(Failure::Output)?,
                // The terminal is gone.
                None => Turn::End(ExitCode::SUCCESS),
            },
            () = until(draw_at) => {
                draw_at = None;
                top.draw().map_err(Failure::Output)?;
                Turn::Nothing
            }
            Some(update) = news.recv() => top.take(update),
            _ = clock.tick() => Turn::DrawSoon,
            never = &mut running => never,
        };
        match turn {
            Turn::Draw => draw_at = Some(Instant::now()),
            Turn::DrawSoon => draw_at = draw_at.or(Some(Instant::now() + BETWEEN)),
            Turn::Nothing => {}
            Turn::End(status) => return Ok(status),
        }
    }
}

async fn until(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

/// What is typed. Reading it waits, so that a thread does it, which ends with the process.
fn keys() -> io::Result<mpsc::Receiver<Event>> {
    let (sender, receiver) = mpsc::channel(WAITING);
    std::thread::Builder::new().name("keys".to_owned()).spawn(move || {
        while let Ok(event) = event::read() {
            if sender.blocking_send(event).is_err() {
                return;
            }
        }
    })?;
    Ok(receiver)
}

struct Top<'a> {
    model: Model,
    ui: Ui,
    screen: Screen,
    theme: Theme,
    feed: &'a Feed,
    updates: mpsc::Sender<Update>,
}

impl Top<'_> {
    fn draw(&mut self) -> io::Result<()> {
        let Self { model, ui, theme, screen, .. } = self;
        screen.draw(|area, buffer| view::draw(model, ui, *theme, SystemTime::now(), area, buffer))
    }

    fn take(&mut self, update: Update) -> Turn {
        // What is said to the keys is seen also where the picture stands still.
        if self.ui.paused && !matches!(update, Update::Said(_)) {
            return Turn::Nothing;
        }
        self.model.take(update, SystemTime::now());
        Turn::DrawSoon
    }

    fn input(&mut self, event: Event) -> io::Result<Turn> {
        let Event::Key(key) = event else { return Ok(Turn::Nothing) };
        if key.kind == KeyEventKind::Release {
            return Ok(Turn::Nothing);
        }
        let was_paused = self.ui.paused;
        let action = self.ui.key(key, &mut self.model);
        if was_paused && !self.ui.paused {
            // What was passed over.
            self.feed.again.notify_one();
        }
        match action {
            None => {}
            Some(Action::Quit) => return Ok(Turn::End(ExitCode::SUCCESS)),
            Some(Action::Suspend) => self.suspend()?,
            Some(Action::Redraw) => self.screen.resize()?,
            Some(Action::Drain { address, undo }) => self.drain(address, undo),
        }
        Ok(Turn::Draw)
    }

    /// Asks for it; who may is the daemon's to decide.
    fn drain(&mut self, address: String, undo: bool) {
        let (broker, updates) = (self.feed.broker.clone(), self.updates.clone());
        tokio::spawn(async move {
            let said = match broker.drain(&address, undo).await {
                Ok(()) if undo => Said::Done(format!("{address} is given out again")),
                Ok(()) => Said::Done(format!("{address} is drained")),
                // The screen is not wide, and who says it is clear.
                Err(Error::Refused { message, .. }) => Said::Failed(message),
                Err(error) => Said::Failed(error.to_string()),
            };
            let _ = updates.send(Update::Said(said)).await;
        });
    }

    fn signal(&mut self, signal: Signal) -> io::Result<Turn> {
        match signal {
            Signal::SIGWINCH => self.screen.resize()?,
            Signal::SIGTSTP => self.suspend()?,
            // Somebody else stopped us, and the terminal is not as it was.
            Signal::SIGCONT => self.screen.resume()?,
            signal => {
                let status = u8::try_from(BY_SIGNAL + signal as i32).unwrap_or(failure::FAILED);
                return Ok(Turn::End(status.into()));
            }
        }
        Ok(Turn::Draw)
    }

    /// Stops, and goes on here when somebody lets it.
    fn suspend(&mut self) -> io::Result<()> {
        self.screen.suspend();
        kill(getpid(), Signal::SIGSTOP)?;
        self.screen.resume()
    }
}

/// The signals that are something to do for.
struct Received([(Signal, Signals); 7]);

impl Received {
    fn new() -> io::Result<Self> {
        let one = |name: Signal| Ok::<_, io::Error>((name, signal(SignalKind::from_raw(name as i32))?));
        Ok(Self([
            one(Signal::SIGTERM)?,
            one(Signal::SIGINT)?,
            one(Signal::SIGHUP)?,
            one(Signal::SIGQUIT)?,
            one(Signal::SIGTSTP)?,
            one(Signal::SIGCONT)?,
            one(Signal::SIGWINCH)?,
        ]))
    }

    async fn next(&mut self) -> Signal {
        let all = self.0.iter_mut().map(|(name, signals)| {
            Box::pin(async move {
                signals.recv().await;
                *name
            })
        });
        futures_util::future::select_all(all).await.0
    }
}
