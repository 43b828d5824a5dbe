//! Links to the path of a unix socket: made with it, turned by one rename, removed with it, others' left alone.

use crate::support::unix;
use portbroker::config::SocketOptions;
use portbroker::kernel::socket::{ListenerSocket, Unmet};
use portbroker::model::{Endpoint, SocketKind};
use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

fn options(links: &[PathBuf]) -> SocketOptions {
    SocketOptions { symlinks: links.to_vec(), ..SocketOptions::default() }
}

fn stream(path: &Path) -> Endpoint {
    unix(SocketKind::Stream, path.to_str().unwrap())
}

#[test]
fn links_come_and_go_with_the_socket() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("x.sock");
    let links = [place.path().join("a.sock"), place.path().join("deep/er/b.sock")];
    let mut socket = ListenerSocket::bind(&stream(&path), &options(&links)).unwrap();
    socket.listen().unwrap();
    for link in &links {
        assert_eq!(fs::read_link(link).unwrap(), path);
        UnixStream::connect(link).unwrap();
    }
    assert_eq!((socket.unmet(), socket.inspect()), (vec![], vec![]));
    socket.refuse().unwrap();
    assert!(UnixStream::connect(&links[0]).is_err());
    let third = place.path().join("c.sock");
    socket.adjust(&options(&[links[0].clone(), third.clone()])).unwrap();
    assert!(links[0].is_symlink() && third.is_symlink() && !links[1].is_symlink());
    socket.release().unwrap();
    assert!(!links[0].is_symlink() && !third.is_symlink() && !path.exists());
}

#[test]
fn a_link_of_ours_goes_over_to_another_path_without_a_moment_without_it() {
    let place = tempfile::tempdir().unwrap();
    let (old, new) = (place.path().join("old.sock"), place.path().join("new.sock"));
    let link = place.path().join("link.sock");
    let first = ListenerSocket::bind(&stream(&old), &options(std::slice::from_ref(&link))).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut looks = 0u64;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                assert!(fs::read_link(&link).is_ok(), "the link was gone");
                looks += 1;
            }
            looks
        });
        let mut current = first;
        for round in 0..200 {
            let path = if round % 2 == 0 { &new } else { &old };
            let next = ListenerSocket::bind(&stream(path), &options(std::slice::from_ref(&link))).unwrap();
            // The old one's link leads elsewhere by now, and stays.
            std::mem::replace(&mut current, next).release().unwrap();
            assert_eq!(fs::read_link(&link).unwrap(), *path);
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(watch.join().unwrap() > 0);
        current.release().unwrap();
    });
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0, "nothing is left behind");
}

#[test]
fn what_others_made_is_left_alone_and_said() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("x.sock");
    let (file, theirs) = (place.path().join("file"), place.path().join("theirs"));
    fs::write(&file, "x").unwrap();
    symlink("/nowhere", &theirs).unwrap();
    std::os::unix::fs::lchown(&theirs, Some(65534), Some(65534)).unwrap();
    let wanted = [file.clone(), theirs.clone()];
    let socket = ListenerSocket::bind(&stream(&path), &options(&wanted)).unwrap();
    assert_eq!(fs::read_to_string(&file).unwrap(), "x");
    assert_eq!(fs::read_link(&theirs).unwrap(), Path::new("/nowhere"));
    let found = "something else has the name; move it away";
    assert_eq!(socket.unmet(), wanted.clone().map(|link| Unmet::Link { link, found }));
    socket.release().unwrap();
    assert!(file.exists() && theirs.is_symlink());
}
