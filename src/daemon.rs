//! Wiring: configuration, kernel, broker, READY, the bus, and the end.

mod events;
mod journal;
mod log;
mod recent;

use crate::broker::{Broker, Handle, History, Inheritance, LogGauge, Start, StartError, Stop};
use crate::bus::{
    PrivateSocketError, bind_private_socket, is_stopped_for_good, serve_private_socket, serve_system_bus,
};
use crate::generator::{DAEMON, PRIVILEGES, STAMP};
use crate::keeper::{KEEPER, Keeper, KeeperError, LOCK, Plan};
use crate::kernel::child::end_with_parent;
use crate::kernel::descriptors::{self, Spare};
use crate::kernel::inotify::watch_generator_stamp;
use crate::kernel::store;
use crate::scrape;
use crate::sources::Locations;
use clap::Parser;
use log::{Log, Sink};
use std::ffi::OsString;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Exit status of a daemon whose configuration has faults (sysexits.h, EX_CONFIG).
const EXIT_CONFIGURATION: u8 = 78;
/// How long a start takes that cannot succeed and must not be the last.
const STUCK: Duration = Duration::from_secs(1);
/// How long the end waits for a log that takes nothing.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Holds listening ports from boot on and hands their sockets to services.
///
/// Runs in the foreground and logs to the journal, or to stderr. Configuration: see "portbroker check" and
/// "portbroker cat-config". Without privileges it does what an unprivileged process may do.
#[derive(Debug, Parser)]
#[command(name = "portbrokerd", version)]
struct Options {
    /// Read this one TOML file in place of the default files and of the units' sections
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Go before the default paths of configuration, units and state
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
    /// Where the private socket is, unless systemd passes it
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Do not join the system bus
    #[arg(long)]
    no_bus: bool,
    /// Where there is no systemd: be a parent of the daemon that keeps its sockets and starts it again when it dies
    ///
    /// SIGTERM and SIGINT stop both, SIGHUP reloads, SIGUSR2 makes the keeper itself the program that is installed now; the
    /// daemon becomes that with its next start. The daemon gets all other options. Tells a NOTIFY_SOCKET of its own READY.
    #[arg(long)]
    keeper: bool,
}

/// The name that systemd gives to the private socket.
const PRIVATE_SOCKET: &str = "portbroker";

#[derive(Debug, thiserror::Error)]
enum DaemonError {
    #[error(transparent)]
    Start(#[from] StartError),
    #[error(transparent)]
    PrivateSocket(#[from] PrivateSocketError),
    #[error("cannot use {directory}: {source}")]
    Directory { directory: String, source: std::io::Error },
    #[error("another portbrokerd runs with {0}: give each its own --root")]
    Running(String),
    #[error(transparent)]
    Keeper(#[from] KeeperError),
    #[error(
        "{KEEPER} does not name the parent of this process: its keeper has ended; unset it where there was none"
    )]
    KeeperGone,
    #[error("cannot start the runtime: {0}")]
    Runtime(#[source] std::io::Error),
}

/// Runs the daemon until it is told to stop.
#[must_use]
pub fn main() -> ExitCode {
    let options = Options::parse();
    let history = History::default();
    let log = start_logging(&history);
    // Before the runtime and its threads: this changes the environment.
    let inherited = store::take_listen_fds();
    let watched = Watched { log: log.as_ref().map(Log::gauge).unwrap_or_default(), history };
    let result =
        if options.keeper { keep(&options, inherited) } else { run(options, inherited, watched).map(|()| 0) };
    let status = match result {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            tracing::error!("{error}");
            match error {
                DaemonError::Start(StartError::Configuration(_)) => ExitCode::from(EXIT_CONFIGURATION),
                DaemonError::Start(StartError::Stuck { .. }) => {
                    // It is started again at once, with the sockets, for as long as nobody puts it right.
                    std::thread::sleep(STUCK);
                    ExitCode::FAILURE
                }
                _ => ExitCode::FAILURE,
            }
        }
    };
    if let Some(log) = log {
        log.finish(LAST_LINES);
    }
    status
}

/// Logs to the journal where stderr is connected to it, else to stderr, and the last lines to `history`. RUST_LOG
/// filters. Without a standard error there is no log.
fn start_logging(history: &History) -> Option<Log> {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info,zbus=warn"));
    let registry = tracing_subscriber::registry().with(filter).with(recent::Layer(history.clone()));
    let sink = std::env::var_os("JOURNAL_STREAM").and_then(|_| Sink::journal().ok());
    if let Some(sink) = sink {
        let log = Log::new(sink);
        registry.with(journal::Layer(log.clone())).init();
        return Some(log);
    }
    let log = Log::new(Sink::stderr().ok()?);
    let terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let written = log.clone();
    let layer = tracing_subscriber::fmt::layer().with_writer(move || written.clone());
    registry.with(layer.with_ansi(terminal)).init();
    Some(log)
}

/// Every socket takes a descriptor.
fn raise_descriptor_limit() {
    if let Err(error) = descriptors::raise_limit() {
        tracing::warn!(%error, "cannot raise the limit of open descriptors: {error}");
    }
}

/// Is the daemon's keeper, until both are to end.
fn keep(options: &Options, mut inherited: Vec<(String, OwnedFd)>) -> Result<u8, DaemonError> {
    raise_descriptor_limit();
    let directory = runtime_directory(&options.root)?;
    let lock = match inherited.extract_if(.., |(name, _)| name == LOCK).next() {
        Some((_, lock)) => lock,
        None => lock(&directory, LOCK)?.into(),
    };
    let arguments = std::env::args_os().skip(1).filter(|argument| argument != "--keeper").collect();
    let plan = Plan { notify_path: directory.join("keeper.notify"), arguments, inherited, lock };
    let private = || {
        let path = options.socket.clone().unwrap_or_else(|| directory.join("bus"));
        Ok::<_, DaemonError>(bind_private_socket(&path)?.into())
    };
    Ok(Keeper::new(plan, PRIVATE_SOCKET, private)?.run()?)
}

/// Who starts the daemon again when it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Supervisor {
    Nobody,
    Systemd,
    Keeper,
}

impl Supervisor {
    /// Of this process, which from here on ends with its keeper if it has one.
    fn find() -> Result<Self, DaemonError> {
        let keeper = std::env::var_os(KEEPER);
        let is_parent =
            |pid: &OsString| pid.to_str().and_then(|pid| pid.parse().ok()).is_some_and(end_with_parent);
        match keeper {
            Some(pid) if is_parent(&pid) => Ok(Self::Keeper),
            Some(_) => Err(DaemonError::KeeperGone),
            None if std::env::var_os("NOTIFY_SOCKET").is_some() => Ok(Self::Systemd),
            None => Ok(Self::Nobody),
        }
    }
}

/// What is known of the log.
struct Watched {
    log: LogGauge,
    history: History,
}

fn run(options: Options, inherited: Vec<(String, OwnedFd)>, watched: Watched) -> Result<(), DaemonError> {
    let supervisor = Supervisor::find()?;
    raise_descriptor_limit();
    let (private, inherited): (Vec<_>, Vec<_>) =
        inherited.into_iter().partition(|(name, _)| name == PRIVATE_SOCKET);
    let inheritance = Inheritance::new(inherited);
    // Before there are many others, so that lowering the limit does not cut them off.
    let spare = Spare::new();
    let directory = runtime_directory(&options.root)?;
    let _lock = lock(&directory, "lock")?;
    let private = match private.into_iter().next() {
        Some((_, socket)) => UnixListener::from(socket),
        None => bind_private_socket(&options.socket.unwrap_or_else(|| directory.join("bus")))?,
    };
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(DaemonError::Runtime)?;
    runtime.block_on(async {
        let state_directory = state_directory(&options.root);
        let (mut broker, handle) = Broker::start(Start {
            locations: Locations { root: options.root, config: options.config },
            runtime_directory: directory,
            state_directory,
            inheritance,
            log: watched.log.clone(),
        })?;
        let handle = handle.with_history(watched.history);
        if let Some(sockets) = broker.scrape_sockets() {
            tokio::spawn(scrape::serve(handle.clone(), sockets, watched.log));
        }
        serve(broker, handle, (private, spare), !options.no_bus, supervisor)
            .await
            .map_err(DaemonError::Runtime)
    })
}

/// Where state that lives as long as the kernel does is kept: of systemd's making, or of our own.
fn runtime_directory(root: &Path) -> Result<PathBuf, DaemonError> {
    let user = std::env::var_os("XDG_RUNTIME_DIR").filter(|_| !nix::unistd::geteuid().is_root());
    let directory = match (std::env::var_os("RUNTIME_DIRECTORY"), user) {
        (Some(given), _) if root == Path::new("/") => PathBuf::from(given),
        (_, Some(user)) if root == Path::new("/") => PathBuf::from(user).join("portbroker"),
        _ => root.join("run/portbroker"),
    };
    let fault = |source| DaemonError::Directory { directory: directory.display().to_string(), source };
    std::fs::create_dir_all(&directory).map_err(fault)?;
    Ok(directory)
}

/// Where state is kept over reboots: of systemd's making, or of our own; it need not be there.
fn state_directory(root: &Path) -> PathBuf {
    let user = || {
        let own = |name, below: &str| std::env::var_os(name).map(|path| PathBuf::from(path).join(below));
        own("XDG_STATE_HOME", "portbroker").or_else(|| own("HOME", ".local/state/portbroker"))
    };
    match std::env::var_os("STATE_DIRECTORY") {
        Some(given) if root == Path::new("/") => PathBuf::from(given),
        None if root == Path::new("/") && !nix::unistd::geteuid().is_root() => {
            user().unwrap_or_else(|| root.join("var/lib/portbroker"))
        }
        _ => root.join("var/lib/portbroker"),
    }
}

/// Two daemons must not share their state, nor two keepers a daemon.
fn lock(directory: &Path, name: &str) -> Result<File, DaemonError> {
    let shown = directory.display().to_string();
    let file = File::create(directory.join(name))
        .map_err(|source| DaemonError::Directory { directory: shown.clone(), source })?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(DaemonError::Running(shown)),
        Err(std::fs::TryLockError::Error(source)) => Err(DaemonError::Directory { directory: shown, source }),
    }
}

async fn serve(
    broker: Broker,
    handle: Handle,
    (private, spare): (UnixListener, Spare),
    bus: bool,
    supervisor: Supervisor,
) -> std::io::Result<()> {
    let (stop, stopped) = oneshot::channel();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let hangup = signal(SignalKind::hangup())?;
    let reloading = tokio::spawn(reload_when_told(handle.clone(), hangup, supervisor));
    if bus {
        tokio::spawn(serve_system_bus(handle.clone()));
    }
    let serving = tokio::spawn(serve_private_socket(private, handle, spare, bus));
    let mut running = tokio::spawn(broker.run(stopped));
    store::notify_ready();
    // What is for good: a keeper says it by SIGINT, systemd is asked.
    let for_good = tokio::select! {
        _ = terminate.recv() => supervisor != Supervisor::Keeper,
        _ = interrupt.recv() => true,
        Ok(()) = reloading => false,
        // It ends only where it could not begin.
        ended = serving => return ended.unwrap_or_else(|error| Err(std::io::Error::other(error))),
        // By a panic, such as of a thread that cannot be made for want of memory: without it this process is of no use,
        // and the next one has all that is stored.
        ended = &mut running => return ended.map_err(std::io::Error::other),
    };
    store::notify_stopping();
    let for_good = for_good && (supervisor != Supervisor::Systemd || is_stopped_for_good().await);
    let end = if for_good { Stop::ForGood } else { Stop::Restart };
    let _ = stop.send(end);
    running.await.map_err(std::io::Error::other)
}

/// What the generator of systemd's has written for our own unit: privileges that the configuration asks for.
fn own_drop_in() -> Option<String> {
    std::fs::read_to_string(format!("/run/systemd/generator/{DAEMON}.d/{PRIVILEGES}")).ok()
}

/// Reloads at SIGHUP, and at `systemctl daemon-reload`, which runs our generator, which leaves a mark.
///
/// Returns when the daemon has to be started anew: the new configuration asks for other privileges than this
/// process was started with, and systemd knows of them by now. Nobody notices such a restart: the sockets are in
/// the descriptor store, and calls wait in the private socket.
async fn reload_when_told(handle: Handle, mut hangup: tokio::signal::unix::Signal, supervisor: Supervisor) {
    let mut stamps = match watch_generator_stamp(STAMP) {
        Ok(stamps) => Some(stamps),
        Err(error) => {
            tracing::debug!(%error, "no generator of systemd's to watch");
            None
        }
    };
    let privileges = own_drop_in();
    loop {
        let stamped = async {
            match &mut stamps {
                Some(stamps) => stamps.next().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            told = hangup.recv() => if told.is_none() { std::future::pending().await },
            result = stamped => if let Err(error) = result {
                tracing::warn!(%error, "\"systemctl daemon-reload\" is not seen any more: use \"portbroker reload\"");
                stamps = None;
                continue;
            },
        }
        let taken = matches!(handle.reload(None).await, Ok(Ok(())));
        if taken && supervisor == Supervisor::Systemd && own_drop_in() != privileges {
            tracing::info!(
                event = "restart",
                "the configuration asks for other privileges: starting anew with them"
            );
            return;
        }
    }
}
