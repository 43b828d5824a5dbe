//! Metrics over HTTP, on a unix socket and on loopback: one answer a connection.
//!
//! Whoever scrapes must not keep anybody else waiting, be it for want of patience, of manners or of number:
//! - The broker is asked once a second at most, whoever asks how often; others have the same answer.
//! - At most 32 connections are open. One more ends the oldest: who asks at once is answered before that, and who hangs
//!   gives way to who does not.
//! - At most a hundred connections a second are taken, and the others wait in the kernel's queue.
//! - A request has at most 8 KiB, and each half of a conversation five seconds.
//!
//! While nobody scrapes there is nothing that wakes.

mod http;
mod pace;

use crate::broker::{Handle, LogGauge, ScrapeChange, ScrapePlace, ScrapeSocket};
use crate::kernel::descriptors::{Purpose, leaves_room};
use crate::kernel::own_usage::{OwnUsage, own_usage};
use crate::metrics::{self, Process};
use http::Answer;
use pace::Pace;
use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::AbortHandle;
use tokio::time::timeout;

/// Connections that are open at a time.
const MOST: usize = 32;
/// Connections that are taken in a second.
const A_SECOND: u32 = 100;
/// How long a scraper may take to ask, and again to read its answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long an answer is as good as a new one.
const FRESH: Duration = Duration::from_secs(1);
/// How long to wait where a connection cannot be taken.
const PAUSE: Duration = Duration::from_millis(200);

/// What all who serve share.
struct Shared {
    broker: Handle,
    /// Lines of the log that were lost.
    log: LogGauge,
    started: Duration,
    scrapes: AtomicU64,
    ended: AtomicU64,
    /// The last answer, and when it was made.
    answer: tokio::sync::Mutex<Option<(Instant, Arc<str>)>>,
    /// Conversations, the oldest first.
    open: Mutex<VecDeque<AbortHandle>>,
}

/// Serves metrics where the broker says, for as long as it runs.
pub async fn serve(broker: Handle, mut changes: UnboundedReceiver<ScrapeChange>, log: LogGauge) {
    let shared = Arc::new(Shared {
        broker,
        log,
        started: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
        scrapes: AtomicU64::new(0),
        ended: AtomicU64::new(0),
        answer: tokio::sync::Mutex::new(None),
        open: Mutex::default(),
    });
    let mut serving: HashMap<ScrapePlace, AbortHandle> = HashMap::new();
    while let Some(change) = changes.recv().await {
        let (place, socket) = match change {
            ScrapeChange::Open(place, socket) => (place, Some(socket)),
            ScrapeChange::Close(place) => (place, None),
        };
        if let Some(before) = serving.remove(&place) {
            before.abort();
        }
        let Some(socket) = socket else { continue };
        match begin(socket, Arc::clone(&shared)) {
            Ok(task) => drop(serving.insert(place, task)),
            Err(error) => {
                tracing::error!(event = "metrics", %place, "metrics are not served at {place}: {error}")
            }
        }
    }
}

fn begin(socket: ScrapeSocket, shared: Arc<Shared>) -> io::Result<AbortHandle> {
    let task = match socket {
        ScrapeSocket::Unix(listener) => {
            let listener = UnixListener::from_std(listener)?;
            tokio::spawn(take_all(shared, move |context| {
                listener.poll_accept(context).map_ok(|(stream, _)| stream)
            }))
        }
        ScrapeSocket::Tcp(listener) => {
            let listener = TcpListener::from_std(listener)?;
            tokio::spawn(take_all(shared, move |context| {
                listener.poll_accept(context).map_ok(|(stream, _)| stream)
            }))
        }
    };
    Ok(task.abort_handle())
}

/// Each connection is served, no faster than they are taken; where there is no descriptor for one, it waits in the queue,
/// or is closed.
async fn take_all<S>(shared: Arc<Shared>, accept: impl Fn(&mut Context<'_>) -> Poll<io::Result<S>>)
where
    S: AsyncRead + AsyncWrite + AsFd + Unpin + Send + 'static,
{
    let mut pace = Pace::new(A_SECOND, Instant::now());
    loop {
        pace.wait().await;
        match poll_fn(&accept).await {
            Ok(stream) if leaves_room(&stream, Purpose::Anybody) => {
                let own = Arc::clone(&shared);
                let task = tokio::spawn(async move { own.converse(stream).await }).abort_handle();
                shared.make_room_for(task);
            }
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(%error, "cannot take a connection of a scraper");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

impl Shared {
    fn make_room_for(&self, task: AbortHandle) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|task| !task.is_finished());
        if open.len() >= MOST
            && let Some(oldest) = open.pop_front()
        {
            oldest.abort();
            self.cut_off();
        }
        open.push_back(task);
    }

    /// Counts one more that was ended before it had its answer.
    fn cut_off(&self) {
        self.ended.fetch_add(1, Ordering::Relaxed);
    }

    async fn converse(&self, mut stream: impl AsyncRead + AsyncWrite + Unpin) {
        let answer = match timeout(PATIENCE, http::request(&mut stream)).await {
            Ok(Ok(Answer::Metrics { head })) => match self.text().await {
                Ok(text) => http::metrics(text, head),
                Err(()) => http::unavailable(),
            },
            Ok(Ok(Answer::Refuse(refusal))) => refusal,
            // It went away: nobody waits for an answer.
            Ok(Err(_)) => return,
            Err(_) => return self.cut_off(),
        };
        let sent = timeout(PATIENCE, async {
            stream.write_all(answer.head.as_bytes()).await?;
            if let Some(body) = &answer.body {
                stream.write_all(body.as_bytes()).await?;
            }
            stream.shutdown().await
        });
        match sent.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "a scraper went away"),
            Err(_) => self.cut_off(),
        }
    }

    /// The text, made anew where the last one is not good any more.
    async fn text(&self) -> Result<Arc<str>, ()> {
        self.scrapes.fetch_add(1, Ordering::Relaxed);
        let mut answer = self.answer.lock().await;
        if let Some((made, text)) = answer.as_ref()
            && made.elapsed() < FRESH
        {
            return Ok(Arc::clone(text));
        }
        *answer = None;
        let snapshot = self.broker.measure().await.map_err(drop)?;
        let OwnUsage { resident, descriptors, most_descriptors, cpu } = own_usage();
        let process = Process {
            resident,
            descriptors,
            most_descriptors,
            cpu,
            started: self.started,
            lines_lost: self.log.lost(),
            scrapes: self.scrapes.load(Ordering::Relaxed),
            scrapes_ended: self.ended.load(Ordering::Relaxed),
        };
        let text: Arc<str> = metrics::encode(snapshot, process).map_err(drop)?.into();
        *answer = Some((Instant::now(), Arc::clone(&text)));
        Ok(text)
    }
}
