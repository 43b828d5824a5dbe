//! A peer that says what a test tells it to: for answers that a real daemon gives only when it is broken, new,
//! or being killed.

use futures_util::StreamExt;
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use tokio::io::AsyncWriteExt;
use zbus::Message;
use zbus::connection::Builder;
use zbus::wire::{Fd, ObjectPath, OwnedVariant, Variant};

/// One call, and which connection it came over (from 1).
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) connection: usize,
    pub(crate) member: String,
    pub(crate) path: String,
    pub(crate) names: Vec<String>,
    pub(crate) holder: String,
    /// Of a call for a lease.
    pub(crate) lease: Option<Lease>,
    /// Of Release.
    pub(crate) released: u64,
}

/// What a lease is asked for.
#[derive(Debug, Clone)]
pub(crate) struct Lease {
    pub(crate) session: String,
    pub(crate) pool: String,
    pub(crate) protocol: String,
    pub(crate) destination: String,
    pub(crate) count: u32,
    pub(crate) minimum: Option<u32>,
    pub(crate) wait: Option<u32>,
    pub(crate) ahead: bool,
}

/// What to answer.
pub(crate) enum Reply {
    Sockets(Vec<(String, OwnedFd)>),
    Properties(HashMap<String, OwnedVariant>),
    Objects(portbroker_client::wire::ManagedObjects),
    /// A session with this number, and its lifeline.
    Session(u64, OwnedFd),
    Pairs(u64, Vec<(String, u16)>),
    Blocks(u64, Vec<(String, u16, u16)>),
    LeasedSockets(u64, Vec<(String, u16, OwnedFd)>),
    /// Number, session's number and state of leases; none above a number that was asked for.
    Leases(Vec<(u64, u64, &'static str)>),
    /// Exhausted, with its facts.
    Exhausted(HashMap<String, OwnedVariant>),
    /// What others lack.
    Wanted(Vec<(String, String, String)>),
    /// The signal that somebody lacks ports, and blocks.
    SignalAndBlocks(u64, Vec<(String, u16, u16)>),
    Done,
    /// A method return of another type than it should have.
    Nonsense,
    Error(&'static str, &'static str),
    HangUp,
    Silence,
}

/// Listens until dropped.
pub(crate) struct Peer {
    path: PathBuf,
    calls: Arc<Mutex<Vec<Call>>>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    _folder: tempfile::TempDir,
}

type Answer = Box<dyn Fn(&Call) -> Reply + Send>;

impl Peer {
    pub(crate) fn start(answer: impl Fn(&Call) -> Reply + Send + 'static) -> Self {
        Self::run(move |listener, calls| Box::pin(serve(listener, calls, Box::new(answer))))
    }

    /// Something that is no D-Bus at all.
    pub(crate) fn chatter(text: &'static [u8]) -> Self {
        Self::run(move |listener, _| {
            Box::pin(async move {
                loop {
                    let (mut stream, _) = listener.accept().await.unwrap();
                    let _ = stream.write_all(text).await;
                }
            })
        })
    }

    fn run<F>(service: F) -> Self
    where
        F: FnOnce(
                tokio::net::UnixListener,
                Arc<Mutex<Vec<Call>>>,
            ) -> std::pin::Pin<Box<dyn Future<Output = ()>>>
            + Send
            + 'static,
    {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bus");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        listener.set_nonblocking(true).unwrap();
        let calls = Arc::new(Mutex::new(Vec::new()));
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let seen = Arc::clone(&calls);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = tokio::net::UnixListener::from_std(listener).unwrap();
                tokio::select! {
                    () = service(listener, seen) => {}
                    _ = stopped => {}
                }
            });
        });
        Self { path, calls, stop: Some(stop), thread: Some(thread), _folder: folder }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn calls(&self) -> Vec<Call> {
        self.calls.lock().unwrap().clone()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let result = thread.join();
            assert!(std::thread::panicking() || result.is_ok(), "the peer failed");
        }
    }
}

async fn serve(listener: tokio::net::UnixListener, calls: Arc<Mutex<Vec<Call>>>, answer: Answer) {
    let guid = zbus::Guid::generate();
    // Kept, so that silence is not a hang-up.
    let mut silent = Vec::new();
    for number in 1.. {
        let (stream, _) = listener.accept().await.unwrap();
        let builder = Builder::unix_stream(stream.into_std().unwrap()).server(guid.clone()).p2p();
        // The reader has not run yet when this returns, on this one thread: no message is lost.
        // A client may go before it has asked anything.
        let Ok(connection) = builder.build().await else { continue };
        let mut messages = zbus::MessageStream::from(&connection);
        while let Some(Ok(message)) = messages.next().await {
            let call = read(number, &message);
            calls.lock().unwrap().push(call.clone());
            match answer(&call) {
                Reply::HangUp => break,
                Reply::Silence => {
                    silent.push(connection.clone());
                    break;
                }
                reply => send(&connection, &message, reply).await,
            }
        }
    }
}

type LeaseBody<'a> = (ObjectPath<'a>, String, String, String, u32, HashMap<String, Variant<'a>>);

fn read(connection: usize, message: &Message) -> Call {
    let header = message.header();
    let member = header.member().unwrap().to_string();
    let mut call = Call {
        connection,
        path: header.path().unwrap().to_string(),
        names: Vec::new(),
        holder: String::new(),
        member,
        lease: None,
        released: 0,
    };
    if call.member.starts_with("Lease") {
        let body = message.body();
        let (session, pool, protocol, destination, count, options): LeaseBody<'_> =
            body.deserialize().unwrap();
        let minimum = options.get("minimum").map(|minimum| u32::try_from(minimum).unwrap());
        let wait = options.get("wait").map(|wait| u32::try_from(wait).unwrap());
        let ahead = options.get("ahead").is_some_and(|ahead| bool::try_from(ahead).unwrap());
        let session = session.to_string();
        call.lease = Some(Lease { session, pool, protocol, destination, count, minimum, wait, ahead });
    }
    if call.member == "Release" {
        call.released = message.body().deserialize().unwrap();
    }
    if call.member == "AcquireListeners" {
        let body = message.body();
        let (names, options): (Vec<String>, HashMap<String, Variant<'_>>) = body.deserialize().unwrap();
        call.names = names;
        call.holder = options.get("holder").map(|v| String::try_from(v).unwrap()).unwrap_or_default();
    }
    call
}

async fn send(connection: &zbus::Connection, message: &Message, reply: Reply) {
    let header = message.header();
    let sent = match &reply {
        Reply::Sockets(sockets) => {
            let body: Vec<(&str, Fd<'_>)> =
                sockets.iter().map(|(n, fd)| (n.as_str(), Fd::from(fd))).collect();
            connection.reply(&header, &body).await
        }
        Reply::Properties(properties) => connection.reply(&header, properties).await,
        Reply::Objects(objects) => connection.reply(&header, objects).await,
        Reply::Session(id, lifeline) => {
            let path =
                ObjectPath::try_from(format!("{}{id}", portbroker_client::wire::SESSION_PREFIX)).unwrap();
            connection.reply(&header, &(path, Fd::from(lifeline))).await
        }
        Reply::Pairs(id, rows) => connection.reply(&header, &(id, rows)).await,
        Reply::Blocks(id, rows) => connection.reply(&header, &(id, rows)).await,
        Reply::Wanted(rows) => connection.reply(&header, rows).await,
        Reply::SignalAndBlocks(id, rows) => {
            let (path, interface) =
                (portbroker_client::wire::pool_path("egress"), "org.portbroker.PortBroker1.Pool");
            let signal = connection.emit_signal(None::<&str>, path, interface, "Wanted", &()).await;
            assert!(signal.is_ok(), "{signal:?}");
            connection.reply(&header, &(id, rows)).await
        }
        Reply::LeasedSockets(id, rows) => {
            let rows: Vec<(&str, u16, Fd<'_>)> =
                rows.iter().map(|(address, port, fd)| (address.as_str(), *port, Fd::from(fd))).collect();
            connection.reply(&header, &(id, rows)).await
        }
        Reply::Leases(rows) => {
            let (after, _): (u64, u32) = message.body().deserialize().unwrap();
            let rows = rows.iter().filter(|row| row.0 > after);
            let rows: Vec<portbroker_client::wire::LeaseRow> = rows
                .map(|&(id, session, state)| {
                    let text = String::new;
                    (id, session, text(), text(), text(), text(), 1, state.to_owned(), text(), vec![], 0)
                })
                .collect();
            connection.reply(&header, &rows).await
        }
        Reply::Exhausted(facts) => {
            let name = "org.portbroker.PortBroker1.Error.Exhausted";
            connection.reply_error(&header, name, &("nothing left", facts)).await
        }
        Reply::Done => connection.reply(&header, &()).await,
        Reply::Nonsense => connection.reply(&header, &("nonsense", 7_u8)).await,
        Reply::Error(name, text) => connection.reply_error(&header, *name, text).await,
        Reply::HangUp | Reply::Silence => unreachable!(),
    };
    // A client may go with its question unanswered.
    assert!(matches!(sent, Ok(()) | Err(zbus::Error::InputOutput(_))), "{sent:?}");
}
