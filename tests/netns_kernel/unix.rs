//! Unix stream sockets: their file, its mode and owner, and how a path refuses without ever being gone.

use crate::netns::{NOBODY, Thief, in_netns, undisturbed};
use crate::support::{bind, is_reserved, unix};
use portbroker::config::{Account, SocketOptions};
use portbroker::kernel::socket::{AdoptError, BindError, ListenerSocket, SocketError, SocketState};
use portbroker::model::{Endpoint, SocketKind};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

fn stream(path: &Path) -> Endpoint {
    unix(SocketKind::Stream, path.to_str().unwrap())
}

fn connect(path: &Path) -> Result<UnixStream, ErrorKind> {
    UnixStream::connect(path).map_err(|error| error.kind())
}

fn refuses(path: &Path) -> bool {
    connect(path).is_err_and(|kind| kind == ErrorKind::ConnectionRefused)
}

fn accept(socket: &ListenerSocket) -> UnixStream {
    UnixListener::from(socket.as_fd().try_clone_to_owned().unwrap()).accept().unwrap().0
}

fn place() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.sock");
    (directory, path)
}

fn names_in(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn a_path_refuses_serves_and_refuses_again_with_one_and_the_same_socket() {
    let (directory, path) = place();
    let mut socket = bind(&stream(&path));
    let inode = socket.inode().unwrap();
    for _ in 0..3 {
        assert!(is_reserved(&socket) && refuses(&path));
        socket.listen().unwrap();
        assert!(!is_reserved(&socket));
        let mut client = connect(&path).unwrap();
        let mut accepted = accept(&socket);
        let mut queued = connect(&path).unwrap();
        socket.refuse().unwrap();
        assert!(matches!(queued.read(&mut [0]), Ok(0) | Err(_)), "what was queued is reset");
        accepted.write_all(b"x").unwrap();
        client.read_exact(&mut [0]).unwrap();
    }
    assert_eq!(socket.inode().unwrap(), inode);
    assert_eq!(socket.inspect(), []);
    socket.listen().unwrap();
    assert_eq!(names_in(directory.path()), ["x.sock"]);
    socket.release().unwrap();
    assert!(names_in(directory.path()).is_empty());
}

#[test]
fn the_kernel_knows_a_socket_by_its_own_path() {
    let (_directory, path) = place();
    let mut socket = bind(&stream(&path));
    for _ in 0..2 {
        socket.listen().unwrap();
        let name = connect(&path).unwrap().peer_addr().unwrap();
        assert_eq!(name.as_pathname(), Some(path.as_path()));
        socket.refuse().unwrap();
    }
}

#[test]
fn a_path_is_there_at_every_moment_while_it_refuses_and_serves() {
    let (_directory, path) = place();
    let mut socket = bind(&stream(&path));
    socket.listen().unwrap();
    let end = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let client = scope.spawn(|| {
            let mut seen = [0, 0];
            while !end.load(Ordering::Relaxed) {
                match connect(&path) {
                    Ok(_) => seen[0] += 1,
                    Err(ErrorKind::ConnectionRefused) => seen[1] += 1,
                    Err(kind) => panic!("a client got {kind:?}"),
                }
            }
            seen
        });
        for _ in 0..3_000 {
            socket.refuse().unwrap();
            socket.listen().unwrap();
        }
        end.store(true, Ordering::Relaxed);
        let seen = client.join().unwrap();
        assert!(seen[0] > 100 && seen[1] > 100, "{seen:?}");
    });
}

#[test]
fn a_thief_who_may_write_in_the_directory_never_gets_the_name() {
    in_netns(|| {
        let (directory, path) = place();
        std::os::unix::fs::chown(directory.path(), Some(NOBODY), None).unwrap();
        for name in [path.to_str().unwrap(), "@portbroker-thief"] {
            let mut socket = bind(&unix(SocketKind::Stream, name));
            socket.listen().unwrap();
            let thief = Thief::unix(name, false);
            for _ in 0..3_000 {
                if name.starts_with('/') {
                    socket.refuse().unwrap();
                }
                socket.listen().unwrap();
            }
            let loot = thief.stop();
            assert_eq!(loot.binds, 0, "{name}: {loot:?}");
        }
    });
}

#[test]
fn an_abstract_name_is_reserved_until_it_listens_and_then_cannot_refuse() {
    in_netns(|| {
        use std::os::linux::net::SocketAddrExt;
        let name = std::os::unix::net::SocketAddr::from_abstract_name("portbroker-x").unwrap();
        let mut socket = bind(&unix(SocketKind::Stream, "@portbroker-x"));
        assert!(is_reserved(&socket));
        assert_eq!(UnixStream::connect_addr(&name).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        socket.refuse().unwrap();
        socket.listen().unwrap();
        UnixStream::connect_addr(&name).unwrap();
        assert!(matches!(socket.refuse(), Err(SocketError::CannotRefuse { .. })));
        assert!(!is_reserved(&socket));
        assert_eq!(socket.inspect(), []);
    });
}

#[test]
fn mode_owner_and_missing_directories_are_made_as_configured() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a/b/x.sock");
    let account = |id| Some(Account { name: "x".into(), id: Some(id) });
    let options = SocketOptions {
        socket_mode: 0o640,
        socket_user: account(1001),
        socket_group: account(1002),
        directory_mode: 0o711,
        ..SocketOptions::default()
    };
    for kind in [SocketKind::Stream, SocketKind::Datagram] {
        let endpoint = unix(kind, path.to_str().unwrap());
        let socket = ListenerSocket::bind(&endpoint, &options).unwrap();
        let file = std::fs::symlink_metadata(&path).unwrap();
        assert!(file.file_type().is_socket());
        assert_eq!((file.mode() & 0o7777, file.uid(), file.gid()), (0o640, 1001, 1002));
        for made in ["a", "a/b"] {
            let mode = std::fs::metadata(directory.path().join(made)).unwrap().mode();
            assert_eq!(mode & 0o7777, 0o711, "{made}");
        }
        assert_eq!(socket.inspect(), []);
        socket.release().unwrap();
    }
    let unknown = SocketOptions {
        socket_user: Some(Account { name: "nemo".into(), id: None }),
        ..SocketOptions::default()
    };
    let error = ListenerSocket::bind(&stream(&path), &unknown).unwrap_err();
    assert!(error.to_string().contains("user \"nemo\" does not exist"), "{error}");
    assert!(!path.exists());
}

#[test]
fn the_file_of_a_dead_socket_is_replaced_and_that_of_a_living_one_is_not() {
    let (_directory, path) = place();
    undisturbed(|| drop(UnixListener::bind(&path).unwrap()));
    assert!(path.exists());
    undisturbed(|| drop(bind(&stream(&path))));
    assert!(path.exists());
    let living = UnixListener::bind(path.with_file_name("other")).unwrap();
    std::fs::rename(path.with_file_name("other"), &path).unwrap();
    for kind in [SocketKind::Stream, SocketKind::Datagram] {
        let endpoint = unix(kind, path.to_str().unwrap());
        let error = ListenerSocket::bind(&endpoint, &SocketOptions::default()).unwrap_err();
        assert!(matches!(error, BindError::InUse { .. }), "{error}");
    }
    UnixStream::connect(&path).unwrap();
    assert!(living.accept().is_ok(), "the only connection is ours: nobody else was there to look");
    living.set_nonblocking(true).unwrap();
    assert!(living.accept().is_err());
    undisturbed(|| drop(living));
    let receiver = UnixDatagram::bind(path.with_file_name("d")).unwrap();
    let endpoint = stream(&path.with_file_name("d"));
    let error = ListenerSocket::bind(&endpoint, &SocketOptions::default()).unwrap_err();
    assert!(matches!(error, BindError::InUse { .. }), "{error}");
    drop(receiver);
}

#[test]
fn what_is_no_socket_is_left_alone() {
    let (_directory, path) = place();
    let options = SocketOptions::default();
    std::fs::write(&path, "precious").unwrap();
    assert!(matches!(ListenerSocket::bind(&stream(&path), &options), Err(BindError::NotASocket { .. })));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    let link = path.with_file_name("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    assert!(matches!(ListenerSocket::bind(&stream(&link), &options), Err(BindError::NotASocket { .. })));
    let beside = path.join("below");
    let error = ListenerSocket::bind(&stream(&beside), &options).unwrap_err();
    assert!(matches!(error, BindError::Path { .. }), "{error}");
}

/// The daemon's copy outlives it in the descriptor store; everything else of it is gone.
fn crash(socket: ListenerSocket) -> std::os::fd::OwnedFd {
    let stored = socket.as_fd().try_clone_to_owned().unwrap();
    undisturbed(|| drop(socket));
    stored
}

#[test]
fn a_crash_while_a_path_refuses_leaves_it_refusing_until_the_socket_is_adopted() {
    let (directory, path) = place();
    let mut socket = bind(&stream(&path));
    socket.listen().unwrap();
    let inode = socket.inode().unwrap();
    socket.refuse().unwrap();
    let stored = crash(socket);
    assert!(refuses(&path));
    let mut adopted = ListenerSocket::adopt(stored, &stream(&path), &SocketOptions::default()).unwrap();
    assert_eq!((adopted.state().unwrap(), adopted.inode().unwrap()), (SocketState::Listening, inode));
    assert_eq!(adopted.inspect(), []);
    connect(&path).unwrap();
    adopted.refuse().unwrap();
    assert!(refuses(&path));
    adopted.listen().unwrap();
    assert_eq!(names_in(directory.path()), ["x.sock"]);
}

#[test]
fn a_crash_while_reserved_or_listening_changes_nothing() {
    let (_directory, path) = place();
    let stored = crash(bind(&stream(&path)));
    let mut adopted = ListenerSocket::adopt(stored, &stream(&path), &SocketOptions::default()).unwrap();
    assert!(is_reserved(&adopted) && refuses(&path));
    adopted.listen().unwrap();
    let stored = crash(adopted);
    let adopted = ListenerSocket::adopt(stored, &stream(&path), &SocketOptions::default()).unwrap();
    assert!(!is_reserved(&adopted));
    connect(&path).unwrap();
    assert_eq!(adopted.inspect(), []);
}

#[test]
fn a_socket_of_another_path_is_not_adopted() {
    let (_directory, path) = place();
    let stored = crash(bind(&stream(&path)));
    let other = stream(&path.with_file_name("other"));
    let error = ListenerSocket::adopt(stored, &other, &SocketOptions::default()).unwrap_err();
    assert!(matches!(error, AdoptError::Mismatch { .. }), "{error}");
    let pipe = std::os::fd::OwnedFd::from(std::io::pipe().unwrap().0);
    let error = ListenerSocket::adopt(pipe, &other, &SocketOptions::default()).unwrap_err();
    assert!(matches!(error, AdoptError::Unusable { .. }), "{error}");
}
