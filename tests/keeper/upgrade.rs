//! Upgrades: of the daemon by its next start, of the keeper by a signal.

use crate::netns::in_netns;
use crate::served::{Served, Storm, eventually};
use crate::support::{
    ADDRESS, WEB, child_of, inode, install, install_script, kept_by_a_copy, kill_daemon, logged, send,
};
use nix::sys::signal::Signal;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// The inode of the program that a process is.
fn program_of(pid: u32) -> u64 {
    std::fs::metadata(format!("/proc/{pid}/exe")).unwrap().ino()
}

fn file(path: &Path) -> u64 {
    std::fs::metadata(path).unwrap().ino()
}

#[test]
fn the_next_daemon_is_what_is_installed_by_then() {
    in_netns(|| {
        let (keeper, program) = kept_by_a_copy(WEB);
        let before = inode(&keeper, "web");
        let old = file(&program);
        install(&program);
        let daemon = kill_daemon(&keeper);
        assert_ne!(file(&program), old);
        assert_eq!((program_of(daemon), program_of(keeper.pid())), (file(&program), old));
        assert_eq!(inode(&keeper, "web"), before);

        // And where it is gone, what the keeper itself is.
        std::fs::remove_file(&program).unwrap();
        let daemon = kill_daemon(&keeper);
        assert_eq!(program_of(daemon), old);
        assert_eq!(inode(&keeper, "web"), before);
    });
}

#[test]
fn a_keeper_becomes_another_program_with_all_that_it_has() {
    in_netns(|| {
        let (mut keeper, program) = kept_by_a_copy(WEB);
        let before = inode(&keeper, "web");
        let service = Served::start(&keeper, "web");
        let storm = Storm::start(ADDRESS, 2);
        let daemon = child_of(&keeper).unwrap();
        for _ in 0..3 {
            install(&program);
            send(keeper.pid(), Signal::SIGUSR2);
            eventually("the other program", || program_of(keeper.pid()) == file(&program));
            assert_eq!(child_of(&keeper), Some(daemon), "the daemon is as before");
            assert_eq!(inode(&keeper, "web"), before);
        }
        kill_daemon(&keeper);
        kill_daemon(&keeper);
        assert_eq!(inode(&keeper, "web"), before);

        // One that does not run is not taken.
        let now = program_of(keeper.pid());
        install_script(&program, "#!/bin/sh\nexit 1\n");
        send(keeper.pid(), Signal::SIGUSR2);
        logged(&keeper, "the keeper stays what it is");
        assert_eq!(program_of(keeper.pid()), now);
        // Nor one that never ends, and nobody waits for it for long.
        install_script(&program, "#!/bin/sh\nexec sleep 10000\n");
        send(keeper.pid(), Signal::SIGUSR2);
        logged(&keeper, "--version takes longer than");
        assert_eq!(program_of(keeper.pid()), now);
        install(&program);
        kill_daemon(&keeper);
        assert_eq!(inode(&keeper, "web"), before);
        assert!(storm.stop() > 0);
        service.end();
        keeper.terminate();
    });
}

#[test]
fn a_daemon_that_dies_while_its_keeper_becomes_another_program_is_followed_too() {
    in_netns(|| {
        let (keeper, program) = kept_by_a_copy(WEB);
        let before = inode(&keeper, "web");
        for round in 0..8_u64 {
            install(&program);
            let daemon = child_of(&keeper).unwrap();
            send(keeper.pid(), Signal::SIGUSR2);
            std::thread::sleep(std::time::Duration::from_millis(round * 5));
            send(daemon, Signal::SIGKILL);
            eventually("the next daemon", || child_of(&keeper).is_some_and(|next| next != daemon));
            assert_eq!(inode(&keeper, "web"), before);
            eventually("the other program", || program_of(keeper.pid()) == file(&program));
        }
    });
}
