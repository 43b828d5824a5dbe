//! No privilege, files that may not be read, readers that go away.

use crate::netns::{NOBODY, in_netns};
use crate::support::{Program, Root, report};
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};

#[test]
fn a_user_is_told_what_could_not_be_seen_and_that_all_else_is_well() {
    in_netns(|| {
        let root =
            Root::new(&[("/etc/ssh/sshd_config", "Port 22\n"), ("/etc/redis/redis.conf", "port 6379\n")]);
        let toml = "/etc/portbroker/portbroker.toml";
        fs::create_dir_all(root.join("/etc/portbroker")).unwrap();
        fs::write(root.join(toml), "[protect]\nlearn = false\n").unwrap();
        for closed in ["/etc/redis/redis.conf", toml] {
            fs::set_permissions(root.join(closed), fs::Permissions::from_mode(0o600)).unwrap();
        }
        let _other = Program::new(1002, "s = made(UDP, ADDRESS); s.bind(('127.0.0.1', 5140))");
        let seen = report(&mut root.doctor_as(NOBODY));
        assert_eq!((seen.status, &seen.document["state"]), (0, &"well".into()), "{}", seen.document);
        let unseen = seen.document["unseen"].to_string();
        for part in [
            "/etc/redis/redis.conf: Permission denied",
            "/etc/portbroker/portbroker.toml: the file cannot be read",
            "what their options let others do",
            "network namespaces of",
        ] {
            assert!(unseen.contains(part), "{part} is not in {unseen}");
        }
        let seen = report(&mut root.doctor());
        assert!(seen.has("listener-stealable", "udp 127.0.0.1:5140"), "{}", seen.document);
        assert!(!seen.document["unseen"].to_string().contains("redis"), "{}", seen.document);
    });
}

#[test]
fn a_root_that_is_not_there_and_odd_files_are_no_trouble() {
    in_netns(|| {
        let odd = "\u{0}\"'{{{ [[[ Include * include *; !includedir / <<< \\";
        let root = Root::new(&[
            ("/etc/ssh/sshd_config", odd),
            ("/etc/nginx/nginx.conf", odd),
            ("/etc/mysql/my.cnf", odd),
            ("/etc/postgresql/15/main/postgresql.conf", odd),
            ("/etc/apache2/apache2.conf", odd),
            ("/etc/redis/redis.conf", odd),
        ]);
        report(&mut root.doctor());
        fs::remove_file(root.join("/etc/ssh/sshd_config")).unwrap();
        nix::unistd::mkfifo(&root.join("/etc/ssh/sshd_config"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let seen = report(&mut root.doctor());
        assert!(seen.document["unseen"].to_string().contains("no regular file"), "{}", seen.document);
        let mut nowhere = Command::new(env!("CARGO_BIN_EXE_portbroker"));
        report(nowhere.env("PORTBROKER_SOCKET", "/nonexistent/bus").args([
            "doctor",
            "--root",
            "/nonexistent",
        ]));
    });
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let root = Root::new(&[]);
    for json in [false, true] {
        let mut command = root.doctor();
        if json {
            command.arg("--json");
        }
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let status = child.wait().unwrap();
        let mut errors = String::new();
        child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
        assert!(status.success() && errors.is_empty(), "{status}: {errors}");
    }
}
