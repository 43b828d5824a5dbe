//! The journal of leases in a file system that is full.

use nix::mount::{MsFlags, mount};
use portbroker::kernel::journal::{Journal, JournalError};
use std::fs;
use std::path::Path;

/// Runs a test on a thread of its own that alone sees a tmpfs of one MiB at this directory.
fn in_small_tmpfs(directory: &Path, test: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)
                .expect("unshare(CLONE_NEWNS) takes root");
            let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
            mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
            mount(Some("tmpfs"), directory, Some("tmpfs"), MsFlags::empty(), Some("size=1m")).unwrap();
            test();
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

#[test]
fn a_full_directory_is_a_clear_error_and_the_journal_stays_as_it_was() {
    let root = tempfile::tempdir().unwrap();
    in_small_tmpfs(root.path(), || {
        let path = root.path().join("leases");
        let mut journal = Journal::open(&path).unwrap().journal;
        let mut kept = 0;
        // Not a part of a page, so that the last one is torn.
        let error = loop {
            match journal.append(&[7; 10_007]) {
                Ok(()) => kept += 1,
                Err(error) => break error,
            }
        };
        assert!(kept > 50, "{kept}");
        assert_eq!(
            error.to_string(),
            format!(
                "cannot append to {}: no space is left in its file system; make room, or enlarge that tmpfs",
                path.display()
            )
        );
        assert!(matches!(error, JournalError::Full { .. }));
        assert_eq!(fs::metadata(&path).unwrap().len(), journal.length(), "nothing is left of it");
        // No snapshot either; and it leaves nothing behind.
        let refused = journal.rewrite((0..90).map(|_| [8; 10_007])).unwrap_err();
        assert!(matches!(refused, JournalError::Full { .. }), "{refused}");
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
        journal.mark_gap().unwrap();
        assert!(Journal::open(&path).unwrap().has_gap, "it takes no room");
        // With room again it goes on.
        journal.rewrite([b"snapshot"]).unwrap();
        journal.append(b"more").unwrap();
        let again = Journal::open(&path).unwrap();
        assert_eq!(again.records, [b"snapshot".to_vec(), b"more".to_vec()]);
        assert_eq!(again.lost, None);
    });
}

#[test]
fn a_directory_with_no_room_at_all_is_a_clear_error() {
    let root = tempfile::tempdir().unwrap();
    in_small_tmpfs(root.path(), || {
        let path = root.path().join("leases");
        assert!(fs::write(root.path().join("rest"), vec![0; 2 << 20]).is_err());
        let refused = Journal::open(&path).unwrap_err();
        assert!(matches!(refused, JournalError::Full { .. }), "{refused}");
        assert!(!path.exists(), "no journal without a header");
    });
}
