//! Lifelines: who keeps a session alive, and that a broker that was started anew notices its end too.

use crate::netns::{NOBODY, undisturbed};
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use portbroker::kernel::lifeline::{
    Lifeline, LifelineError, LifelineWatch, open, prepare, remove_others, reopen,
};
use portbroker::model::SessionId;
use std::fs;
use std::future::Future;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::PathBuf;
use std::time::Duration;

const ID: SessionId = SessionId(7);

/// A directory for lifelines, as the broker's own.
struct Sessions {
    directory: PathBuf,
    _root: tempfile::TempDir,
}

impl Sessions {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("sessions");
        prepare(&directory).unwrap();
        Self { directory, _root: root }
    }

    fn has(&self, id: SessionId) -> bool {
        self.directory.join(id.to_string()).exists()
    }
}

fn run<F: Future>(task: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(task)
}

async fn ended(watch: &LifelineWatch) -> SessionId {
    tokio::time::timeout(Duration::from_secs(5), watch.next()).await.expect("the end of a session")
}

async fn is_quiet(watch: &LifelineWatch) -> bool {
    tokio::time::timeout(Duration::from_millis(100), watch.next()).await.is_err()
}

fn watched(lifeline: &Lifeline) -> LifelineWatch {
    let watch = LifelineWatch::new().unwrap();
    watch.add(ID, lifeline).unwrap();
    watch
}

#[test]
fn a_session_ends_when_the_last_copy_of_its_lifeline_is_closed() {
    let sessions = Sessions::new();
    run(async {
        let watch = LifelineWatch::new().unwrap();
        let (writer, lifeline) = open(&sessions.directory, ID).unwrap();
        let (other_writer, other) = open(&sessions.directory, SessionId(8)).unwrap();
        watch.add(ID, &lifeline).unwrap();
        watch.add(SessionId(8), &other).unwrap();
        let copy = writer.try_clone().unwrap();
        undisturbed(|| drop(writer));
        assert!(is_quiet(&watch).await);
        undisturbed(|| drop(copy));
        assert_eq!(ended(&watch).await, ID);
        assert!(is_quiet(&watch).await, "told once");
        lifeline.remove().unwrap();
        assert!(!sessions.has(ID) && sessions.has(SessionId(8)));
        undisturbed(|| drop(other_writer));
        assert_eq!(ended(&watch).await, SessionId(8));
    });
}

#[test]
fn a_child_of_another_user_keeps_the_session_until_it_ends() {
    let sessions = Sessions::new();
    run(async {
        let (writer, lifeline) = open(&sessions.directory, ID).unwrap();
        let watch = watched(&lifeline);
        let child = Keeper::new(&writer);
        undisturbed(|| drop(writer));
        assert!(is_quiet(&watch).await);
        drop(child);
        assert_eq!(ended(&watch).await, ID);
    });
}

/// A process of another user that has a lifeline and does nothing.
struct Keeper(std::process::Child);

impl Keeper {
    fn new(writer: &std::os::fd::OwnedFd) -> Self {
        use std::os::unix::process::CommandExt as _;
        let copy = writer.try_clone().unwrap();
        let mut command = std::process::Command::new("sleep");
        Self(crate::netns::spawn(command.arg("1000").uid(NOBODY).gid(NOBODY).stdout(copy)))
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn after_a_restart_the_session_lives_while_its_owner_does() {
    let sessions = Sessions::new();
    run(async {
        let (writer, before) = open(&sessions.directory, ID).unwrap();
        undisturbed(|| drop(before));
        let again = reopen(&sessions.directory, ID).unwrap();
        let watch = watched(&again);
        assert!(is_quiet(&watch).await);
        undisturbed(|| drop(writer));
        assert_eq!(ended(&watch).await, ID);
    });
}

#[test]
fn after_a_restart_a_session_whose_owner_ended_meanwhile_ends_at_once() {
    let sessions = Sessions::new();
    run(async {
        let (writer, before) = open(&sessions.directory, ID).unwrap();
        undisturbed(|| drop(before));
        undisturbed(|| drop(writer));
        let again = reopen(&sessions.directory, ID).unwrap();
        assert_eq!(ended(&watched(&again)).await, ID);
        again.remove().unwrap();
        let gone = reopen(&sessions.directory, ID).unwrap_err();
        assert!(matches!(gone, LifelineError::Gone { .. }), "{gone}");
    });
}

#[test]
fn what_an_owner_writes_wakes_nobody_and_blocks_nobody() {
    let sessions = Sessions::new();
    run(async {
        let (writer, lifeline) = open(&sessions.directory, ID).unwrap();
        let watch = watched(&lifeline);
        let full = (0..100_000).find_map(|_| nix::unistd::write(&writer, &[0; 4096]).err());
        assert_eq!(full, Some(nix::errno::Errno::EAGAIN));
        assert!(is_quiet(&watch).await);
        undisturbed(|| drop(writer));
        assert_eq!(ended(&watch).await, ID);
    });
}

#[test]
fn lifelines_are_our_users_alone_and_no_program_that_is_started_gets_them() {
    let sessions = Sessions::new();
    fs::set_permissions(&sessions.directory, fs::Permissions::from_mode(0o755)).unwrap();
    prepare(&sessions.directory).unwrap();
    assert_eq!(fs::metadata(&sessions.directory).unwrap().mode() & 0o7777, 0o700);
    let (writer, lifeline) = open(&sessions.directory, ID).unwrap();
    assert_eq!(fs::metadata(sessions.directory.join("7")).unwrap().mode() & 0o7777, 0o600);
    let flags = |fd: &dyn std::os::fd::AsFd| {
        let descriptor = FdFlag::from_bits_retain(fcntl(fd.as_fd(), FcntlArg::F_GETFD).unwrap());
        let file = OFlag::from_bits_retain(fcntl(fd.as_fd(), FcntlArg::F_GETFL).unwrap());
        (descriptor, file & OFlag::O_ACCMODE, file.contains(OFlag::O_NONBLOCK))
    };
    assert_eq!(flags(&writer), (FdFlag::FD_CLOEXEC, OFlag::O_WRONLY, true));
    assert_eq!(flags(&lifeline), (FdFlag::FD_CLOEXEC, OFlag::O_RDONLY, true));
}

#[test]
fn what_is_no_lifeline_is_refused_and_what_is_nobodys_is_removed() {
    let sessions = Sessions::new();
    fs::write(sessions.directory.join("7"), "text").unwrap();
    let refused = reopen(&sessions.directory, ID).unwrap_err();
    assert!(matches!(refused, LifelineError::NoFifo { .. }), "{refused}");
    fs::remove_file(sessions.directory.join("7")).unwrap();
    std::os::unix::fs::symlink("/dev/null", sessions.directory.join("7")).unwrap();
    assert!(reopen(&sessions.directory, ID).is_err(), "a link is not followed");
    let (_writer, _lifeline) = open(&sessions.directory, ID).unwrap();
    let (_other_writer, _other) = open(&sessions.directory, SessionId(8)).unwrap();
    fs::write(sessions.directory.join("what"), "").unwrap();
    assert_eq!(remove_others(&sessions.directory, |id| id == ID).unwrap(), 2);
    assert!(sessions.has(ID) && !sessions.has(SessionId(8)));
    let missing = open(&sessions.directory.join("no"), ID).unwrap_err();
    assert!(missing.to_string().starts_with("cannot make the lifeline"), "{missing}");
}
