//! Tests of what is read and what is not.

use super::*;
use crate::config::Services;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use tempfile::TempDir;

/// A root with files in it, writable by their owner only whatever the umask.
fn root(files: &[(&str, &str)]) -> TempDir {
    let root = TempDir::new().unwrap();
    for (path, text) in files {
        let path = root.path().join(path);
        let parent = path.parent().unwrap();
        fs::create_dir_all(parent).unwrap();
        for folder in parent.ancestors().take_while(|folder| *folder != root.path()) {
            fs::set_permissions(folder, Permissions::from_mode(0o755)).unwrap();
        }
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    }
    root
}

fn read(root: &TempDir) -> Sources {
    survey(&Locations { root: root.path().to_owned(), config: None })
}

fn shown(root: &TempDir) -> Vec<(String, String)> {
    let files = read(root).files;
    files.into_iter().map(|file| (file.path.display().to_string(), file.text)).collect()
}

fn faults(root: &TempDir) -> Vec<String> {
    let sources = read(root);
    assert!(sources.files.is_empty(), "{:?}", sources.files);
    sources.faults.iter().map(ToString::to_string).collect()
}

const FILE: &str = "etc/portbroker/portbroker.toml";
const DROP_IN: &str = "etc/portbroker/portbroker.conf.d/a.toml";

#[test]
fn drop_ins_are_sorted_over_all_folders_and_the_later_folder_wins() {
    let root = root(&[
        (FILE, "main"),
        ("usr/lib/portbroker/portbroker.conf.d/20-a.toml", "usr"),
        ("usr/lib/portbroker/portbroker.conf.d/50-b.toml", "usr"),
        ("usr/local/lib/portbroker/portbroker.conf.d/10-c.toml", "local"),
        ("run/portbroker/portbroker.conf.d/50-b.toml", "run"),
        ("etc/portbroker/portbroker.conf.d/20-a.toml", "etc"),
        ("etc/portbroker/portbroker.conf.d/.hidden.toml", "hidden"),
        ("etc/portbroker/portbroker.conf.d/30.toml~", "backup"),
    ]);
    let file = |path: &str, text: &str| (path.to_owned(), text.to_owned());
    assert_eq!(
        shown(&root),
        [
            file("/etc/portbroker/portbroker.toml", "main"),
            file("/usr/local/lib/portbroker/portbroker.conf.d/10-c.toml", "local"),
            file("/etc/portbroker/portbroker.conf.d/20-a.toml", "etc"),
            file("/run/portbroker/portbroker.conf.d/50-b.toml", "run"),
        ]
    );
    assert_eq!(read(&root).faults, []);
}

#[test]
fn a_link_to_dev_null_and_an_empty_file_mask() {
    let root = root(&[
        ("usr/lib/portbroker/portbroker.conf.d/a.toml", "a"),
        ("usr/lib/portbroker/portbroker.conf.d/b.toml", "b"),
        ("usr/lib/portbroker/portbroker.conf.d/c.toml", "c"),
        ("etc/portbroker/portbroker.conf.d/b.toml", ""),
        ("etc/portbroker/c-is-here", "linked"),
    ]);
    let folder = root.path().join("etc/portbroker/portbroker.conf.d");
    symlink("/dev/null", folder.join("a.toml")).unwrap();
    symlink("/etc/portbroker/c-is-here", folder.join("c.toml")).unwrap();
    let c = ("/etc/portbroker/portbroker.conf.d/c.toml".to_owned(), "linked".to_owned());
    assert_eq!(shown(&root), [c]);
}

#[test]
fn nothing_at_all_is_no_fault() {
    let root = TempDir::new().unwrap();
    assert_eq!(read(&root), Sources { services: Some(Services::default()), ..Sources::default() });
}

#[test]
fn a_file_that_others_can_write_is_refused() {
    let root = root(&[(FILE, "x")]);
    let file = root.path().join(FILE);
    fs::set_permissions(&file, Permissions::from_mode(0o666)).unwrap();
    assert_eq!(
        faults(&root),
        [
            "/etc/portbroker/portbroker.toml: error: the file can be written by everyone, who could give any port to anyone; \
          run \"chmod go-w /etc/portbroker/portbroker.toml\" after looking at what is in it"
        ]
    );
    chown(&file, None, Some(33)).unwrap();
    fs::set_permissions(&file, Permissions::from_mode(0o664)).unwrap();
    assert!(faults(&root)[0].contains("can be written by group 33"));
    chown(&file, None, Some(0)).unwrap();
    fs::set_permissions(&file, Permissions::from_mode(0o664)).unwrap();
    assert_eq!(read(&root).faults, []);
    chown(&file, Some(33), None).unwrap();
    assert!(faults(&root)[0].contains("belongs to uid 33"));
}

#[test]
fn a_directory_that_others_can_write_is_refused() {
    for (file, folder) in [(DROP_IN, "etc/portbroker/portbroker.conf.d"), (FILE, "etc/portbroker")] {
        let root = root(&[(file, "x")]);
        fs::set_permissions(root.path().join(folder), Permissions::from_mode(0o777)).unwrap();
        let sources = read(&root);
        assert_eq!(sources.faults.len(), 1, "{:?}", sources.faults);
        assert!(sources.faults[0].to_string().contains("the directory can be written by everyone"));
        assert!(sources.faults[0].is_error());
    }
}

#[test]
fn what_cannot_be_read_as_text_is_refused() {
    let root = root(&[(FILE, "")]);
    let file = root.path().join(FILE);
    fs::write(&file, b"a = 1\nb = \"\xc3\xbc\xff\"\n").unwrap();
    assert_eq!(
        faults(&root),
        ["/etc/portbroker/portbroker.toml:2:7: error: the file is not UTF-8 from here on; write it in UTF-8"]
    );
    fs::write(&file, vec![b' '; 1024 * 1024 + 1]).unwrap();
    assert!(faults(&root)[0].contains("larger than 1048576 bytes"));
    fs::write(&file, vec![b' '; 1024 * 1024]).unwrap();
    assert_eq!(read(&root).faults, []);
}

#[test]
fn what_is_no_file_is_refused_and_does_not_stop_us() {
    let root = root(&[(FILE, "x")]);
    let file = root.path().join(FILE);
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    assert!(faults(&root)[0].contains("this is no regular file"));
    fs::remove_dir(&file).unwrap();
    nix::unistd::mkfifo(&file, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    assert!(faults(&root)[0].contains("this is no regular file"));
}

#[test]
fn one_file_replaces_all_others_and_the_units() {
    let root = root(&[
        (FILE, "main"),
        ("etc/systemd/system/a.service", "[X-PortBroker]\nListenStream=80\n"),
        ("mine.toml", "mine"),
        ("etc/passwd", "deploy:x:1000:1000::/:\n"),
    ]);
    let mine = root.path().join("mine.toml");
    let locations = Locations { root: root.path().to_owned(), config: Some(mine.clone()) };
    let sources = gather(&locations, Vec::new());
    assert_eq!(sources.inherited, Some(Vec::new()));
    assert_eq!(sources.files, [TomlFile { path: mine.clone(), text: "mine".into() }]);
    assert_eq!(sources.units, []);
    assert_eq!(sources.accounts.user("deploy").unwrap().id, Some(1000));
    assert_eq!(text_of(&locations, &mine).as_deref(), Some("mine"));
    assert_eq!(text_of(&locations, Path::new(MAIN)).as_deref(), Some("main"));
    assert_eq!(read(&root).units.len(), 1);
    fs::remove_file(&mine).unwrap();
    assert!(survey(&locations).faults[0].to_string().contains("there is no such file"));
}

#[test]
fn a_template_is_read_as_one_of_its_instances() {
    let root = root(&[("web@.service", "[X-PortBroker]\nListenStream=127.0.0.1:%i\n")]);
    let path = root.path().join("web@.service");
    let sources = gather_unit(root.path(), &path, unit_of_file(&path).unwrap());
    assert_eq!(sources.units[0].name.as_str(), "web@1.service");
    let checked = crate::config::build(&sources);
    assert_eq!(checked.faults, []);
    assert_eq!(checked.config.listeners.len(), 1);
}

#[test]
fn the_generator_reads_no_socket_units_and_all_else() {
    let root = root(&[
        (FILE, "main"),
        ("etc/systemd/system/a.service", "[X-PortBroker]\nListenStream=80\n"),
        ("etc/systemd/system/b.socket", "[Socket]\nListenStream=81\n"),
    ]);
    let sources = gather_services(root.path());
    assert_eq!((sources.files.len(), sources.units.len()), (1, 1));
    assert_eq!(sources.units[0].settings[0].origin.file, "/etc/systemd/system/a.service".into());
    assert_eq!(read(&root).units.len(), 2);
}

#[test]
fn a_files_name_says_which_unit_it_is_of() {
    let unit = |path: &str| unit_of_file(Path::new(path)).map(|unit| unit.to_string());
    assert_eq!(unit("/x/a.service").as_deref(), Some("a.service"));
    assert_eq!(unit("a@.service").as_deref(), Some("a@.service"));
    assert_eq!(unit("/etc/systemd/system/a.service.d/x.conf").as_deref(), Some("a.service"));
    assert_eq!(unit("/etc/portbroker/portbroker.toml"), None);
    assert_eq!(unit("x.conf"), None);
}
