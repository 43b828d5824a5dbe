//! The keeper: what systemd is to the daemon, where there is no systemd.
//!
//! A parent that does next to nothing, so that it has nothing to die of: it starts the daemon, keeps what the daemon
//! wants kept (sd_notify(3), `FDSTORE=1`), owns the private socket, and starts the daemon again when it dies, with all of
//! it (`LISTEN_FDS`). It has one thread and waits for signals and messages; what they mean is said by `message`, `store`
//! and `life`, which are pure.
//!
//! What always holds: all that a daemon has said before its death is read before its death is looked at, so that a kill
//! loses no socket that was stored. Only the daemon is listened to. And no daemon outlives its keeper: the kernel kills
//! it. It could serve on, but the sockets would be lost with it, and nobody could start another beside it.
//!
//! It must not look at a configuration, nor at what a socket is.

mod life;
mod message;
mod store;

use crate::kernel::child::{self, Asked, End, Signals};
use crate::kernel::exec::exec;
use crate::kernel::notify_socket::{NotifySocket, Received, socket_number};
use crate::kernel::oom::{OomKills, oom_kills};
use crate::kernel::store::notify_lines;
use life::{Act, Death, Life};
use message::Message;
use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use store::{Store, Stored};

/// Tells the daemon that it has a keeper, by its pid.
pub const KEEPER: &str = "PORTBROKER_KEEPER";
/// Tells a keeper that it is one already: the daemon's pid, and how many sockets were given to it by its starter.
const EARLIER: &str = "PORTBROKER_KEEPER_STATE";
/// The names of the notify socket and of the lock between two images of a keeper.
const NOTIFY: &str = "keeper.notify";
/// See [`Plan::lock`].
pub const LOCK: &str = "keeper.lock";
/// `FileDescriptorStoreMax=` of portbroker.service.
const MOST: usize = 65_536;
/// SIGKILL: what the kernel kills by.
const KILL: i32 = 9;
/// How long a program may take to say its version; nobody follows a daemon that dies meanwhile.
const TRIAL: Duration = Duration::from_secs(5);
/// How many messages are read before signals are looked at.
const AT_ONCE: usize = 256;

/// What a keeper is to keep.
#[derive(Debug)]
pub struct Plan {
    /// Where it listens to the daemon; it need not be there.
    pub notify_path: PathBuf,
    /// The arguments of the daemon.
    pub arguments: Vec<OsString>,
    /// What came with LISTEN_FDS, by name.
    pub inherited: Vec<(String, OwnedFd)>,
    /// What is locked for as long as there is a keeper; another image of it inherits it as [`LOCK`].
    pub lock: OwnedFd,
}

/// Why a keeper cannot be one.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// It cannot hear the daemon.
    #[error("cannot listen on {path} for what the daemon says: {source}")]
    Notify {
        /// Where.
        path: String,
        /// Why not.
        source: io::Error,
    },
    /// It cannot hear signals, or wait.
    #[error("cannot wait for signals: {0}")]
    Wait(#[source] io::Error),
    /// It does not know what to start.
    #[error("cannot find out which program this is: {0}")]
    Program(#[source] io::Error),
    /// What an earlier image of this keeper left is not there.
    #[error("{EARLIER} is set, and the sockets that belong to it are not there: unset it")]
    Earlier,
}

/// A keeper, with or without a daemon.
#[derive(Debug)]
pub struct Keeper {
    notify: NotifySocket,
    notify_path: PathBuf,
    signals: Signals,
    program: PathBuf,
    arguments: Vec<OsString>,
    /// The private socket and what a starter gave, which every daemon gets and none can remove.
    given: Vec<(String, OwnedFd)>,
    store: Store<OwnedFd>,
    lock: OwnedFd,
    life: Life,
    daemon: Option<i32>,
    /// How many processes had been killed for want of memory when the daemon was started, where that is known.
    oom_kills: Option<u64>,
    /// Said once.
    complained: bool,
}

/// Which program to start: the one that has the name by which this one was started, which may be another by then.
fn program() -> io::Result<PathBuf> {
    let own = std::env::current_exe()?;
    let named = std::env::args_os().next().map(PathBuf::from).filter(|name| name.components().count() > 1);
    let named = named.and_then(|name| std::path::absolute(name).ok());
    // A link to it says more: an upgrade may change where it points to. But a name can be a lie.
    let is_own = |path: &PathBuf| match (path.canonicalize(), own.canonicalize()) {
        (Ok(path), Ok(own)) => path == own,
        // This one has just been replaced.
        (Ok(_), Err(_)) => true,
        (Err(_), _) => false,
    };
    Ok(named.filter(is_own).unwrap_or(own))
}

/// The daemon's pid and the number of sockets that a starter gave, as an earlier image of this process left them.
fn earlier() -> Option<(i32, usize)> {
    let text = std::env::var(EARLIER).ok()?;
    let (daemon, given) = text.split_once(' ')?;
    Some((daemon.parse().ok()?, given.parse().ok()?))
}

impl Keeper {
    /// Makes one. `private_socket` is called where there is no private socket yet.
    pub fn new<E: From<KeeperError>>(
        plan: Plan,
        private_name: &str,
        private_socket: impl FnOnce() -> Result<OwnedFd, E>,
    ) -> Result<Self, E> {
        let signals = Signals::new().map_err(KeeperError::Wait)?;
        let program = program().map_err(KeeperError::Program)?;
        let mut inherited: VecDeque<_> = plan.inherited.into();
        let mut store = Store::new(MOST);
        let now = Instant::now();
        let (notify, life, daemon) = match earlier() {
            Some((daemon, given)) => {
                let notify = inherited.pop_front().filter(|(name, _)| name == NOTIFY);
                let (_, notify) = notify.ok_or(KeeperError::Earlier)?;
                for (name, socket) in inherited.split_off(given.min(inherited.len())) {
                    let _ = store.add(&name, socket_number(&socket), socket);
                }
                let daemon = Some(daemon).filter(|daemon| child::is_child(*daemon));
                let life = if daemon.is_some() { Life::running(now) } else { Life::new(now) };
                (NotifySocket::from_earlier(notify), life, daemon)
            }
            None => (listen(&plan.notify_path)?, Life::new(now), None),
        };
        let mut given = Vec::from(inherited);
        if !given.iter().any(|(name, _)| name == private_name) {
            given.push((private_name.to_owned(), private_socket()?));
        }
        Ok(Self {
            notify,
            notify_path: plan.notify_path,
            signals,
            program,
            arguments: plan.arguments,
            given,
            store,
            lock: plan.lock,
            life,
            daemon,
            oom_kills: oom_kills().map(|counted| counted.kills),
            complained: false,
        })
    }

    /// Keeps the daemon, until it is to be no more. Returns with what status to end.
    pub fn run(mut self) -> Result<u8, KeeperError> {
        // One may have ended while this process became another program.
        self.look_at_children();
        loop {
            while let Some(act) = self.life.next(Instant::now()) {
                match act {
                    Act::Start => self.start(),
                    Act::Reload => self.send(child::Send::Hangup),
                    Act::Stop => {
                        notify_lines(&["STOPPING=1"]);
                        self.send(child::Send::Interrupt);
                    }
                    Act::Kill => {
                        tracing::error!(
                            event = "hang",
                            "the daemon does not answer its keeper, and is killed"
                        );
                        self.send(child::Send::Kill);
                    }
                    Act::Renew => self.renew(),
                    Act::End(status) => {
                        let _ = std::fs::remove_file(&self.notify_path);
                        return Ok(status);
                    }
                }
            }
            let time = self.life.due().map(|due| due.saturating_duration_since(Instant::now()));
            self.signals.wait(self.notify.as_fd(), time).map_err(KeeperError::Wait)?;
            self.listen(AT_ONCE);
            while let Some(asked) = self.signals.next() {
                match asked {
                    Asked::Child => self.look_at_children(),
                    Asked::Stop => self.life.asked_to_stop(Instant::now()),
                    Asked::Reload => self.life.asked_to_reload(),
                    Asked::Renew => self.life.asked_to_renew(),
                }
            }
        }
    }

    /// Everything that there is for the next daemon.
    fn sockets(&self) -> impl Iterator<Item = (&str, BorrowedFd<'_>)> {
        let given = self.given.iter().map(|(name, socket)| (name.as_str(), socket));
        given.chain(self.store.iter()).map(|(name, socket)| (name, socket.as_fd()))
    }

    fn start(&mut self) {
        let mut command = Command::new(self.current_program());
        command.args(&self.arguments).env("NOTIFY_SOCKET", &self.notify_path);
        command.env(KEEPER, std::process::id().to_string()).env_remove(EARLIER);
        // It is not the daemon that another supervisor watches.
        command.env_remove("WATCHDOG_USEC").env_remove("WATCHDOG_PID");
        let result = copies(self.sockets()).and_then(|sockets| {
            child::make_child(move || {
                exec(command, sockets, |error| {
                    tracing::error!("the keeper cannot start the daemon: {error}");
                    1
                })
            })
        });
        match result {
            Ok(daemon) => {
                tracing::info!(
                    event = "start",
                    pid = daemon,
                    stored = self.store.len(),
                    "the daemon is started"
                );
                self.daemon = Some(daemon);
                self.oom_kills = oom_kills().map(|counted| counted.kills);
            }
            Err(error) => {
                tracing::error!(%error, "the keeper cannot start the daemon, and tries again: {error}");
                self.life.not_started(Instant::now());
            }
        }
    }

    /// What is installed now, or this one where nothing is: between two lives a program may be about to be replaced.
    fn current_program(&self) -> &Path {
        if self.program.exists() { &self.program } else { Path::new("/proc/self/exe") }
    }

    fn send(&self, what: child::Send) {
        if let Some(daemon) = self.daemon
            && let Err(error) = child::send(daemon, what)
        {
            tracing::error!(%error, ?what, "cannot send the daemon a signal");
        }
    }

    /// Reads messages, at most so many.
    fn listen(&mut self, most: usize) {
        for _ in 0..most {
            match self.notify.receive() {
                Ok(Some(received)) => self.hear(received),
                Ok(None) => return,
                Err(error) => return tracing::error!(%error, "cannot read what the daemon says"),
            }
        }
    }

    fn hear(&mut self, received: Received) {
        if Some(received.pid) != self.daemon {
            // Whoever can write here is our user or root, and may be mistaken: a program that the daemon's variables
            // came to.
            if !std::mem::replace(&mut self.complained, true) {
                tracing::warn!(pid = received.pid, "the keeper hears nobody but its daemon");
            }
            return;
        }
        let message = Message::read(&received.text);
        if received.cut {
            tracing::error!(
                "not all that is to be kept can be: no descriptor is left; raise the limit (ulimit -n)"
            );
        }
        if let Some(name) = message.remove {
            self.store.remove(name);
        }
        if let Some(name) = message.store {
            for descriptor in received.descriptors {
                if self.store.add(name, socket_number(&descriptor), descriptor) == Stored::Full {
                    tracing::error!(name, "the keeper has {MOST} descriptors, and keeps no more");
                }
            }
        }
        if message.ready {
            self.life.ready();
        }
        if !message.above.is_empty() {
            notify_lines(&message.above);
        }
    }

    /// Reaps those that have ended: the daemon, and as PID 1 whoever had nobody else.
    fn look_at_children(&mut self) {
        while let Some(ended) = child::ended_child() {
            if Some(ended) != self.daemon {
                child::reap(ended);
                continue;
            }
            // What it has said is read first, and not what others go on to say. Until it is reaped, nobody else has its
            // number.
            self.listen(self.notify.longest_queue());
            self.daemon = None;
            let death = match child::reap(ended) {
                Some(End::Killed(signal)) => Death::Killed(signal),
                Some(End::Exited(status)) => Death::Exited(status),
                None => Death::Exited(1),
            };
            tracing::info!(
                event = "death",
                pid = ended,
                ?death,
                stored = self.store.len(),
                "the daemon has ended"
            );
            if death == Death::Killed(KILL) {
                self.see_whether_for_want_of_memory();
            }
            self.life.died(death, self.store.is_empty(), Instant::now());
        }
    }

    /// The daemon was killed: by the kernel, most likely, where that has killed somebody beside us meanwhile.
    fn see_whether_for_want_of_memory(&self) {
        let Some((before, now)) = self.oom_kills.zip(oom_kills()) else { return };
        if now.kills > before {
            let OomKills { limit, .. } = now;
            let limit = limit.map_or_else(
                || "there is no limit but the host's memory, or one of a group further up".to_owned(),
                |limit| format!("together they may have {limit} bytes"),
            );
            tracing::error!(
                event = "memory",
                stored = self.store.len(),
                "the kernel has killed the daemon, or others of its control group, for want of memory ({limit}): all that \
                 is stored goes to the next daemon; see what else uses memory there, or give it more"
            );
        }
    }

    /// Becomes the program that is installed now, with all that it has; the daemon notices nothing.
    fn renew(&mut self) {
        let program = self.current_program().to_owned();
        // There is no way back from exec: so another process tries it first.
        if let Err(error) = try_out(&program) {
            let program = program.display();
            return tracing::error!(%error, "{program} does not run ({error}): the keeper stays what it is");
        }
        let own = [(NOTIFY, self.notify.as_fd()), (LOCK, self.lock.as_fd())];
        let sockets = match copies(own.into_iter().chain(self.sockets())) {
            Ok(sockets) => sockets,
            Err(error) => {
                return tracing::error!(%error, "the keeper stays what it is: no descriptor is left");
            }
        };
        tracing::info!(event = "renew", program = %program.display(), "the keeper becomes what is installed now");
        let mut command = Command::new(program);
        command.args(std::env::args_os().skip(1));
        command.env(EARLIER, format!("{} {}", self.daemon.unwrap_or_default(), self.given.len()));
        exec(command, sockets, |error| {
            tracing::error!("the keeper is lost: {error}");
            1
        })
    }
}

/// Whether a program runs at all, and to its end.
fn try_out(program: &Path) -> io::Result<()> {
    let mut command = Command::new(program);
    command.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut tried = command.spawn()?;
    let deadline = Instant::now() + TRIAL;
    loop {
        match tried.try_wait()? {
            Some(status) if status.success() => return Ok(()),
            Some(status) => return Err(io::Error::other(status.to_string())),
            None if Instant::now() >= deadline => break,
            None => std::thread::sleep(TRIAL / 1000),
        }
    }
    tried.kill()?;
    tried.wait()?;
    Err(io::Error::other(format!("--version takes longer than {TRIAL:?}")))
}

fn listen(path: &Path) -> Result<NotifySocket, KeeperError> {
    let fault = |source| KeeperError::Notify { path: path.display().to_string(), source };
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(fault(error)),
        _ => {}
    }
    NotifySocket::bind(path).map_err(fault)
}

/// Descriptors for another program.
fn copies<'a>(
    sockets: impl Iterator<Item = (&'a str, BorrowedFd<'a>)>,
) -> io::Result<Vec<(String, OwnedFd)>> {
    sockets.map(|(name, socket)| Ok((name.to_owned(), socket.try_clone_to_owned()?))).collect()
}
