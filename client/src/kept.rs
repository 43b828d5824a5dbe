//! One connection to the private socket for several questions, as long as there are some: for a thread that asks often.
//!
//! It is made with the first question, made anew when it is lost, and closed when nothing was asked for a while: the
//! broker lets a user have so many connections, and no more. While it is open the broker says on it when somebody lacks
//! ports.

use futures_util::StreamExt as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;
use zbus::message::Type;
use zbus::{Connection, MessageStream};

/// Closed when nothing was asked for so long.
const IDLE: Duration = Duration::from_secs(2);

/// The signal of a pool of which somebody lacks ports.
const WANTED: &str = "Wanted";

/// The connection, or none at the moment.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    open: Mutex<Option<Open>>,
    /// Held while one is made: whoever else needs it meanwhile takes that one.
    making: tokio::sync::Mutex<()>,
    /// How many were made: each has a number of its own, so that one that was lost long ago is not taken for this one.
    made: AtomicU64,
    opened: Notify,
    wanted: Notify,
}

#[derive(Debug)]
struct Open {
    connection: Connection,
    number: u64,
    used: Instant,
    questions: usize,
    hears: tokio::task::JoinHandle<()>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.hears.abort();
    }
}

/// The connection while a question is asked.
pub(crate) struct Use {
    kept: Arc<Kept>,
    pub(crate) connection: Connection,
    number: u64,
    /// It was there already, and may have been lost since it was used last.
    pub(crate) again: bool,
}

impl Kept {
    /// The connection that is there, or a new one.
    pub(crate) async fn get<E>(
        self: &Arc<Self>,
        make: impl AsyncFnOnce() -> Result<Connection, E>,
    ) -> Result<Use, E> {
        if let Some(open) = self.open() {
            return Ok(open);
        }
        let _making = self.making.lock().await;
        match self.open() {
            Some(open) => Ok(open),
            None => Ok(self.keep(make().await?)),
        }
    }

    fn open(self: &Arc<Self>) -> Option<Use> {
        let mut open = self.lock();
        let open = open.as_mut()?;
        open.questions += 1;
        let (connection, number) = (open.connection.clone(), open.number);
        Some(Use { kept: Arc::clone(self), connection, number, again: true })
    }

    fn keep(self: &Arc<Self>, connection: Connection) -> Use {
        let kept = Arc::clone(self);
        let mut messages = MessageStream::from(&connection);
        let hears = tokio::spawn(async move {
            while let Some(Ok(message)) = messages.next().await {
                let is_signal = message.message_type() == Type::Signal;
                if is_signal && message.header().member().is_some_and(|member| member.as_str() == WANTED) {
                    kept.wanted.notify_one();
                }
            }
        });
        let mut open = self.lock();
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        let new = Open { connection: connection.clone(), number, used: Instant::now(), questions: 1, hears };
        *open = Some(new);
        drop(open);
        self.opened.notify_one();
        Use { kept: Arc::clone(self), connection, number, again: false }
    }

    /// Waits until the broker says that somebody lacks ports.
    pub(crate) async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// Closes the connection whenever it is idle; for ever.
    pub(crate) async fn close_when_idle(&self) {
        loop {
            let idle_from = self.lock().as_ref().map(|open| open.used + IDLE);
            match idle_from {
                None => self.opened.notified().await,
                Some(from) => {
                    tokio::time::sleep_until(from).await;
                    let mut open = self.lock();
                    let now = Instant::now();
                    match open.as_mut() {
                        Some(open) if open.questions > 0 => open.used = now,
                        Some(idle) if idle.used + IDLE <= now => *open = None,
                        _ => {}
                    }
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Use {
    /// It is lost: the next question makes another.
    pub(crate) fn lost(&self) {
        let mut open = self.kept.lock();
        if open.as_ref().is_some_and(|open| open.number == self.number) {
            *open = None;
        }
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        if let Some(open) = self.kept.lock().as_mut().filter(|open| open.number == self.number) {
            open.questions = open.questions.saturating_sub(1);
            open.used = Instant::now();
        }
    }
}
