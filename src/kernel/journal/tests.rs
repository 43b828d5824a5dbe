use super::*;

const THIS: &str = "11111111-2222-3333-4444-555555555555";
const OTHER: &str = "99999999-2222-3333-4444-555555555555";

fn open(path: &Path) -> Opened {
    Journal::open_of_boot(path, THIS).unwrap()
}

fn directory() -> (tempfile::TempDir, PathBuf) {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("leases");
    (root, path)
}

fn filled(path: &Path) -> Vec<Vec<u8>> {
    let records = vec![b"one".to_vec(), Vec::new(), vec![9; 300], b"four".to_vec()];
    let mut journal = open(path).journal;
    for record in &records {
        journal.append(record).unwrap();
    }
    records
}

#[test]
fn what_was_appended_is_there_again_and_goes_on() {
    let (_root, path) = directory();
    let opened = open(&path);
    assert_eq!((opened.records, opened.lost), (Vec::new(), None));
    let mut records = filled(&path);
    let mut opened = open(&path);
    assert_eq!((&opened.records, &opened.lost), (&records, &None));
    opened.journal.append(b"five").unwrap();
    records.push(b"five".to_vec());
    assert_eq!(open(&path).records, records);
    let metadata = fs::metadata(&path).unwrap();
    assert_eq!((metadata.mode() & 0o7777, metadata.len()), (0o600, opened.journal.length()));
    assert_eq!(Journal::open(&path).unwrap().records.len(), 0, "this host was started anew");
}

#[test]
fn a_gap_stays_until_a_snapshot_of_who_made_it() {
    let (_root, path) = directory();
    let records = filled(&path);
    let mut first = open(&path).journal;
    first.mark_gap().unwrap();
    let opened = open(&path);
    assert_eq!((&opened.records, opened.has_gap), (&records, true), "nothing else is changed");
    first.append(b"five").unwrap();
    assert_eq!(open(&path).records.len(), 5);
    first.rewrite([b"all of it"]).unwrap();
    assert!(!open(&path).has_gap, "who made it has filled it");
    first.mark_gap().unwrap();
    let mut second = open(&path).journal;
    second.rewrite([b"what is known"]).unwrap();
    assert!(open(&path).has_gap, "nobody else can");
}

#[test]
fn a_tail_that_was_torn_at_any_byte_is_dropped_and_told_of() {
    let (root, path) = directory();
    let records = filled(&path);
    let whole = fs::read(&path).unwrap();
    let mut ends = vec![HEADER];
    for record in &records {
        ends.push(ends.last().unwrap() + FRAME + record.len());
    }
    assert_eq!(ends.last(), Some(&whole.len()));
    let torn = root.path().join("torn");
    for length in HEADER..=whole.len() {
        fs::write(&torn, &whole[..length]).unwrap();
        let kept = ends.iter().filter(|end| **end <= length).count() - 1;
        let mut opened = open(&torn);
        assert_eq!(opened.records, records[..kept], "{length}");
        let tail = bytes(length - ends[kept]);
        let lost = (tail > 0).then(|| Lost::Tail { path: torn.clone(), bytes: tail });
        assert_eq!(opened.lost, lost, "{length}");
        opened.journal.append(b"next").unwrap();
        let again = open(&torn);
        assert_eq!((again.records.len(), again.records.last().unwrap().as_slice()), (kept + 1, &b"next"[..]));
        assert_eq!(again.lost, None);
    }
}

#[test]
fn a_record_that_was_changed_and_zeros_are_no_records() {
    let (_root, path) = directory();
    let records = filled(&path);
    let mut whole = fs::read(&path).unwrap();
    whole.extend([0; 4096]);
    fs::write(&path, &whole).unwrap();
    let copied = path.with_extension("unreadable");
    let opened = open(&path);
    assert_eq!(opened.records, records);
    let damaged = |bytes| Some(Lost::Damaged { path: path.clone(), copied: copied.clone(), bytes });
    assert_eq!((opened.lost, opened.has_gap), (damaged(4096), true));
    assert_eq!(fs::read(&copied).unwrap(), whole, "it is kept");
    let last = whole.len() - 4096 - 1;
    whole[last] ^= 1;
    fs::write(&path, &whole[..=last]).unwrap();
    let opened = open(&path);
    assert_eq!((&opened.records[..], opened.has_gap), (&records[..3], true), "nobody knows what it said");
    let mut journal = opened.journal;
    journal.rewrite(&opened.records).unwrap();
    let opened = open(&path);
    assert_eq!((opened.lost, opened.has_gap), (None, true), "nor does anybody later");
}

#[test]
fn a_snapshot_takes_the_place_of_all_records_and_is_due_when_it_pays() {
    let (root, path) = directory();
    let mut journal = open(&path).journal;
    let snapshot = vec![vec![1; 700_000]];
    journal.rewrite(&snapshot).unwrap();
    assert!(!journal.is_due_for_rewrite());
    journal.append(&vec![2; 650_000]).unwrap();
    assert!(!journal.is_due_for_rewrite(), "not twice the snapshot");
    journal.append(&vec![3; 100_000]).unwrap();
    assert!(journal.is_due_for_rewrite());
    assert!(open(&path).journal.is_due_for_rewrite(), "nor is it forgotten by a restart");
    journal.rewrite(&snapshot).unwrap();
    journal.append(b"after").unwrap();
    let opened = open(&path);
    assert_eq!(opened.records, [snapshot[0].clone(), b"after".to_vec()]);
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1, "nothing is left beside it");
    assert_eq!(fs::metadata(&path).unwrap().len(), journal.length());
}

#[test]
fn a_snapshot_that_was_killed_half_way_leaves_the_journal_as_it_was() {
    let (root, path) = directory();
    let records = filled(&path);
    fs::write(root.path().join("leases.new"), "half").unwrap();
    let mut opened = open(&path);
    assert_eq!(opened.records, records);
    opened.journal.rewrite(&records).unwrap();
    assert_eq!(open(&path).records, records);
}

fn moved_aside(path: &Path) -> Unreadable {
    let before = fs::symlink_metadata(path).unwrap();
    let opened = open(path);
    assert!(opened.records.is_empty());
    let Some(Lost::All { moved, why, .. }) = opened.lost else { panic!("{:?}", opened.lost) };
    assert_eq!(moved, path.with_extension("unreadable"));
    assert_eq!(fs::symlink_metadata(moved).unwrap().ino(), before.ino(), "it is kept");
    let mut journal = opened.journal;
    journal.append(b"new").unwrap();
    assert_eq!(open(path).records, [b"new"]);
    why
}

#[test]
fn a_journal_of_another_boot_is_moved_aside() {
    let (_root, path) = directory();
    Journal::open_of_boot(&path, OTHER).unwrap().journal.append(b"old").unwrap();
    assert_eq!(moved_aside(&path), Unreadable::OtherBoot);
}

#[test]
fn a_journal_of_another_version_is_moved_aside() {
    let (_root, path) = directory();
    filled(&path);
    let mut whole = fs::read(&path).unwrap();
    whole[MAGIC.len()] = 3;
    fs::write(&path, &whole).unwrap();
    assert_eq!(moved_aside(&path), Unreadable::OtherVersion(3));
    whole[MAGIC.len()] = 0;
    fs::write(&path, &whole).unwrap();
    assert_eq!(moved_aside(&path), Unreadable::NoJournal);
}

#[test]
fn a_journal_of_version_1_is_gone_on_with() {
    let (_root, path) = directory();
    let mut records = filled(&path);
    let mut whole = fs::read(&path).unwrap();
    whole[MAGIC.len()] = 1;
    fs::write(&path, &whole).unwrap();
    let mut opened = open(&path);
    assert_eq!((&opened.records, &opened.lost, opened.has_gap), (&records, &None, false));
    opened.journal.append(b"five").unwrap();
    records.push(b"five".to_vec());
    assert_eq!(fs::read(&path).unwrap()[MAGIC.len()], 2, "an earlier broker does not take it for its own");
    assert_eq!(open(&path).records, records);
}

#[test]
fn what_is_no_journal_is_moved_aside() {
    let (_root, path) = directory();
    for content in [&b""[..], b"pblease", &[0; 200]] {
        fs::write(&path, content).unwrap();
        assert_eq!(moved_aside(&path), Unreadable::NoJournal);
    }
    let target = path.with_extension("target");
    fs::rename(&path, &target).unwrap();
    std::os::unix::fs::symlink(&target, &path).unwrap();
    assert!(matches!(moved_aside(&path), Unreadable::Io(_)), "a link is not followed");
    fs::remove_file(path.with_extension("unreadable")).unwrap();
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert_eq!(moved_aside(&path), Unreadable::NoJournal);
}

#[test]
fn a_sparse_file_that_is_too_large_is_not_read() {
    let (_root, path) = directory();
    filled(&path);
    File::options().write(true).open(&path).unwrap().set_len(MOST + 1).unwrap();
    assert_eq!(moved_aside(&path), Unreadable::TooLarge);
}

#[test]
fn what_was_lost_is_told_in_words() {
    let path = PathBuf::from("/run/portbroker/leases");
    let moved = path.with_extension("unreadable");
    let lost = Lost::All { path, moved, why: Unreadable::OtherVersion(3) };
    assert_eq!(
        lost.to_string(),
        "/run/portbroker/leases is of version 3, and this broker knows versions 1 to 2: it was moved to \
         /run/portbroker/leases.unreadable, and no lease of before is known"
    );
}
