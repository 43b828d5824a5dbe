//! systemd's descriptor store: sockets that outlive the daemon, and come back as LISTEN_FDS.
//!
//! - Stored with `FDPOLL=0`: a bound socket that does not listen hangs up, and systemd would drop it at once.
//! - The manager may be busy and its queue full: sending waits in the runtime and never blocks it.
//! - systemd answers nothing. [`Store::barrier`] returns when it has read all that was sent; a full store drops
//!   what is too much, so `FileDescriptorStoreMax=` has to be large enough.
//! - A second descriptor of the same socket is ignored, whatever its name; one of a replaced socket is another.
#![expect(unsafe_code, reason = "takes ownership of the inherited descriptors")]

use super::async_fd::{Owner, register};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use sd_notify::NotifyState;
use std::ffi::OsStr;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A descriptor that the starter of the daemon gave to it.
#[derive(Debug)]
pub struct Inherited {
    /// Its name in LISTEN_FDNAMES.
    pub name: String,
    /// Close-on-exec.
    pub fd: OwnedFd,
}

/// Why something could not be stored, or taken.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The notification socket cannot be used.
    #[error("cannot reach the service manager at {address:?}, as NOTIFY_SOCKET says")]
    Unreachable {
        /// NOTIFY_SOCKET.
        address: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A message was not sent.
    #[error("cannot {action} {name:?} in the service manager's descriptor store")]
    Send {
        /// What was tried.
        action: &'static str,
        /// The name in the store.
        name: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The manager did not read in time.
    #[error("the service manager did not take what was sent to it within {} s", .0.as_secs())]
    Late(Duration),
    /// LISTEN_FDS, LISTEN_FDNAMES or the descriptors are wrong.
    #[error("cannot take the inherited descriptors: LISTEN_FDS or LISTEN_FDNAMES do not fit what is open")]
    Environment(#[source] io::Error),
    /// Other threads run.
    #[error("the inherited descriptors have to be taken before any thread is started")]
    Threads,
}

/// Takes the inherited descriptors and clears their variables. Nothing inherited is an empty list.
///
/// To be called first thing in `main`: the environment cannot be changed once there is a second thread.
pub fn take_inherited() -> Result<Vec<Inherited>, StoreError> {
    let threads = std::fs::read_dir("/proc/self/task").map_err(StoreError::Environment)?;
    if threads.count() != 1 {
        return Err(StoreError::Threads);
    }
    // SAFETY: there is no other thread, so nobody reads the environment meanwhile.
    let taken = unsafe { sd_notify::listen_fds_with_names_and_unset_env() };
    // The same; sd-notify does not know this one yet (systemd 259).
    #[expect(clippy::disallowed_methods, reason = "there is no other thread")]
    // SAFETY: as above.
    unsafe {
        std::env::remove_var("LISTEN_PIDFDID");
    }
    let own = |(fd, name)| {
        // SAFETY: the starter opened it for us, sd-notify found it open, and since the variables are gone now
        // nobody takes it a second time.
        Inherited { name, fd: unsafe { OwnedFd::from_raw_fd(fd) } }
    };
    Ok(taken.map_err(StoreError::Environment)?.map(own).collect())
}

/// The way to the service manager.
#[derive(Debug)]
pub struct Store {
    socket: AsyncFd<Owner<UnixDatagram>>,
}

impl Store {
    /// The manager that started us; `None` where there is none. To be called in a runtime.
    pub fn from_env() -> Result<Option<Self>, StoreError> {
        std::env::var_os("NOTIFY_SOCKET").map(|address| Self::connect(&address)).transpose()
    }

    /// The manager at an address as NOTIFY_SOCKET has it: a path, or `@` and an abstract name.
    pub fn connect(address: &OsStr) -> Result<Self, StoreError> {
        let connect = || {
            let socket = UnixDatagram::unbound()?;
            socket.set_nonblocking(true)?;
            socket.connect_addr(&match address.as_bytes().strip_prefix(b"@") {
                Some(name) => SocketAddr::from_abstract_name(name)?,
                None => SocketAddr::from_pathname(address)?,
            })?;
            register(socket, Interest::WRITABLE)
        };
        connect().map(|socket| Self { socket }).map_err(|source| StoreError::Unreachable {
            address: address.to_string_lossy().into_owned(),
            source,
        })
    }

    /// Stores a copy of a descriptor under a name, beside others that have it.
    pub async fn put(&self, name: &str, fd: BorrowedFd<'_>) -> Result<(), StoreError> {
        let states = [NotifyState::FdStore, NotifyState::FdName(name), NotifyState::Custom("FDPOLL=0")];
        self.send(&states, &[fd]).await.map_err(failed("store", name))
    }

    /// Removes every descriptor of a name.
    pub async fn remove(&self, name: &str) -> Result<(), StoreError> {
        let states = [NotifyState::FdStoreRemove, NotifyState::FdName(name)];
        self.send(&states, &[]).await.map_err(failed("remove", name))
    }

    /// Tells a change of state, such as READY.
    pub async fn notify(&self, states: &[NotifyState<'_>]) -> Result<(), StoreError> {
        self.send(states, &[]).await.map_err(failed("tell", "state"))
    }

    /// Waits until the manager has read everything that was sent before: it closes the pipe end that it is
    /// sent, sd_notify_barrier(3). BARRIER=1 travels alone.
    pub async fn barrier(&self, within: Duration) -> Result<(), StoreError> {
        let failed = || failed("wait for", "barrier");
        let (reader, writer) = io::pipe().map_err(failed())?;
        self.send(&[NotifyState::Custom("BARRIER=1")], &[writer.as_fd()]).await.map_err(failed())?;
        drop(writer);
        let reader = register(OwnedFd::from(reader), Interest::READABLE).map_err(failed())?;
        match tokio::time::timeout(within, reader.readable()).await {
            Ok(closed) => closed.map(drop).map_err(failed()),
            Err(_) => Err(StoreError::Late(within)),
        }
    }

    async fn send(&self, states: &[NotifyState<'_>], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let text: String = states.iter().map(|state| format!("{state}\n")).collect();
        let raw: Vec<_> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&raw)];
        let rights = if raw.is_empty() { &[] } else { rights.as_slice() };
        self.socket
            .async_io(Interest::WRITABLE, |socket| {
                let socket = socket.get().as_raw_fd();
                let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
                sendmsg::<()>(socket, &[IoSlice::new(text.as_bytes())], rights, flags, None)?;
                Ok(())
            })
            .await
    }
}

fn failed(action: &'static str, name: &str) -> impl FnOnce(io::Error) -> StoreError + use<> {
    let name = name.to_owned();
    move |source| StoreError::Send { action, name, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{ControlMessageOwned, recvmsg};
    use std::io::IoSliceMut;

    /// A manager of the test's own, and the way to it.
    fn manager() -> (UnixDatagram, Store, tempfile::TempDir) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        manager.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let store = Store::connect(path.as_os_str()).unwrap();
        (manager, store, directory)
    }

    fn receive(manager: &UnixDatagram) -> (String, Vec<OwnedFd>) {
        let mut buffer = [0; 1000];
        let mut space = nix::cmsg_space!([i32; 4]);
        let mut slices = [IoSliceMut::new(&mut buffer)];
        let message =
            recvmsg::<()>(manager.as_raw_fd(), &mut slices, Some(&mut space), MsgFlags::empty()).unwrap();
        let mut fds = Vec::new();
        for control in message.cmsgs().unwrap() {
            if let ControlMessageOwned::ScmRights(raw) = control {
                // SAFETY: recvmsg made these descriptors for us.
                fds.extend(raw.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
            }
        }
        let length = message.bytes;
        (String::from_utf8(buffer[..length].to_vec()).unwrap(), fds)
    }

    fn inode(fd: impl AsFd) -> u64 {
        nix::sys::stat::fstat(fd).unwrap().st_ino
    }

    #[tokio::test]
    async fn a_socket_is_stored_under_its_name_without_polling_and_removed() {
        let (manager, store, _directory) = manager();
        let socket = UnixDatagram::unbound().unwrap();
        store.put("web", socket.as_fd()).await.unwrap();
        store.remove("web").await.unwrap();
        let (text, fds) = receive(&manager);
        assert_eq!(text, "FDSTORE=1\nFDNAME=web\nFDPOLL=0\n");
        assert_eq!(fds.iter().map(inode).collect::<Vec<_>>(), [inode(&socket)]);
        let (text, fds) = receive(&manager);
        assert_eq!((text.as_str(), fds.len()), ("FDSTOREREMOVE=1\nFDNAME=web\n", 0));
    }

    #[tokio::test]
    async fn a_barrier_is_passed_when_the_manager_closes_it() {
        let (manager, store, _directory) = manager();
        let reader = std::thread::spawn(move || {
            let (text, fds) = receive(&manager);
            assert_eq!((text.as_str(), fds.len()), ("BARRIER=1\n", 1));
            manager
        });
        store.barrier(Duration::from_secs(5)).await.unwrap();
        let _manager = reader.join().unwrap();
        let late = store.barrier(Duration::from_millis(50)).await;
        assert!(matches!(late, Err(StoreError::Late(_))), "nobody reads");
    }

    #[tokio::test]
    async fn a_manager_whose_queue_is_full_is_waited_for() {
        let (manager, store, _directory) = manager();
        let mut sent = 0;
        let full = loop {
            let put = store.remove("web");
            match tokio::time::timeout(Duration::from_millis(200), put).await {
                Ok(result) => result.unwrap(),
                Err(_) => break true,
            }
            sent += 1;
            assert!(sent < 100_000, "the queue never fills");
        };
        assert!(full);
        let reader = std::thread::spawn(move || {
            for _ in 0..=sent {
                receive(&manager);
            }
        });
        tokio::time::timeout(Duration::from_secs(5), store.remove("web")).await.unwrap().unwrap();
        reader.join().unwrap();
    }

    #[tokio::test]
    async fn a_manager_that_is_not_there_is_an_error_with_its_address() {
        let error = Store::connect(OsStr::new("/nonexistent/notify")).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/notify"), "{error}");
        assert!(Store::connect(OsStr::new("@portbroker-nonexistent")).is_err());
    }
}
