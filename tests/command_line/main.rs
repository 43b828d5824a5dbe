//! The `portbroker` program against a peer that answers as the test says, and a notification socket that is the
//! test's own: what it does with every kind of answer. (What a real daemon answers is in `cli.rs`.)

#![cfg(test)]

mod deposit;
mod exec;
#[path = "../../client/tests/peer/mod.rs"]
#[expect(dead_code, reason = "the client's own tests need more of it")]
mod peer;

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use peer::{Call, Peer, Reply};
use std::collections::HashMap;
use std::io::{IoSliceMut, Read};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use zbus::wire::{OwnedVariant, Variant};

const NO_SUCH_LISTENER: &str = "org.portbroker.PortBroker1.Error.NoSuchListener";

fn portbroker(socket: &Path, arguments: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portbroker"));
    command.env("PORTBROKER_SOCKET", socket).env_remove("NOTIFY_SOCKET");
    command.args(arguments.split(' ')).stdin(Stdio::null());
    command
}

fn run(command: &mut Command) -> (i32, String, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    (status.code().unwrap(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

fn inode(fd: impl AsFd) -> u64 {
    nix::sys::stat::fstat(fd).unwrap().st_ino
}

/// A peer with `count` sockets for each name, whatever the name, and their inodes.
fn giver(count: usize) -> (Peer, Vec<u64>) {
    let sockets: Vec<OwnedFd> = (0..count).map(|_| UnixDatagram::unbound().unwrap().into()).collect();
    let inodes = sockets.iter().map(inode).collect();
    let peer = Peer::start(move |call: &Call| {
        let of = |name: &String| {
            let copies: Vec<_> = sockets.iter().map(|s| (name.clone(), s.try_clone().unwrap())).collect();
            copies
        };
        Reply::Sockets(call.names.iter().flat_map(of).collect())
    });
    (peer, inodes)
}

fn properties(state: &str) -> HashMap<String, OwnedVariant> {
    let row = ("tcp 127.0.0.1:80".to_owned(), state.to_owned(), 7_u64, String::new());
    let pairs: [(&str, Variant<'static>); 7] = [
        ("Name", "web".into()),
        ("State", state.to_owned().into()),
        ("Sockets", vec![row].into()),
        ("Holders", vec!["evil\x1b[2J[7]".to_owned()].into()),
        ("Idle", "queue".into()),
        ("Allow", vec!["user:www".to_owned()].into()),
        ("Origin", "/etc/x.toml:3".into()),
    ];
    pairs.into_iter().map(|(k, v)| (k.to_owned(), OwnedVariant::try_from(v).unwrap())).collect()
}

/// A broker in this state, with one listener.
fn stateful(state: &'static str) -> Peer {
    use portbroker_client::wire;
    Peer::start(move |call| match (call.member.as_str(), call.path.as_str()) {
        ("Reload", _) => Reply::Done,
        ("GetAll", wire::MANAGER_PATH) => {
            let faults: Vec<String> = if state == "degraded" { vec!["one".into()] } else { vec![] };
            let mut pairs: Vec<(&str, Variant<'static>)> =
                vec![("State", state.into()), ("Version", "1.2".into()), ("Faults", faults.into())];
            if state == "degraded" {
                let counts = HashMap::from([("stored".to_owned(), 3_u32), ("kept".to_owned(), 2)]);
                pairs.push(("Takeover", Variant::new(counts)));
                pairs.push(("TakeoverDifferences", vec!["one is let go".to_owned()].into()));
            }
            Reply::Properties(
                pairs.into_iter().map(|(k, v)| (k.to_owned(), OwnedVariant::try_from(v).unwrap())).collect(),
            )
        }
        ("GetAll", _) => Reply::Properties(properties("listening")),
        ("Queues" | "ListForecasts", _) => {
            Reply::Error("org.freedesktop.DBus.Error.UnknownMethod", "of a later version")
        }
        _ => {
            let path = wire::listener_path("web").try_into().unwrap();
            let interfaces = HashMap::from([(wire::LISTENER_INTERFACE.to_owned(), properties("listening"))]);
            Reply::Objects(HashMap::from([(path, interfaces)]))
        }
    })
}

#[test]
fn status_tells_well_from_degraded_from_stopped() {
    let healthy = stateful("running");
    let (status, text, _) = run(&mut portbroker(healthy.path(), "status"));
    assert_eq!(
        (status, text.as_str()),
        (0, "portbroker  1.2\nstate       running\nlisteners   1 listening, 0 reserved, 0 failed\n")
    );
    let degraded = stateful("degraded");
    let (status, text, _) = run(&mut portbroker(degraded.path(), "--json status"));
    assert_eq!(status, 1);
    assert_eq!(
        text,
        "{\"state\":\"degraded\",\"version\":\"1.2\",\"faults\":[\"one\"],\"notes\":[],\"listeners\":{\"listening\":1,\"reserved\":0,\"failed\":0,\"lingering\":0},\"learned\":null,\"pools\":{\"ready\":0,\"degraded\":0,\"failed\":0,\"leased\":0,\"cooling\":0},\"takeover\":{\"kept\":2,\"stored\":3,\"differences\":[\"one is let go\"]},\"limits\":null,\"forecasts\":[]}\n"
    );
    let (_, text, _) = run(&mut portbroker(degraded.path(), "status"));
    assert!(
        text.contains(
            "\ntakeover    3 sockets stored, 2 kept; 0 holders, 0 gone\ndiffered    one is let go\n"
        ),
        "{text}"
    );
    let (status, text, message) = run(&mut portbroker(Path::new("/nonexistent/bus"), "status --json"));
    assert_eq!(status, 3);
    assert_eq!(
        text,
        "{\"state\":\"stopped\",\"version\":null,\"faults\":[],\"notes\":[],\"listeners\":null,\"learned\":null,\"pools\":null,\"takeover\":null,\"limits\":null,\"forecasts\":[]}\n"
    );
    assert!(message.contains("not reachable"), "{message}");
}

#[test]
fn the_socket_of_the_command_line_comes_before_that_of_the_environment() {
    let peer = stateful("running");
    let mut command = portbroker(Path::new("/nonexistent/bus"), "status --socket");
    assert_eq!(run(command.arg(peer.path())).0, 0);
}

#[test]
fn a_list_is_a_table_or_one_line_of_json() {
    let peer = stateful("running");
    let (status, text, _) = run(&mut portbroker(peer.path(), "list listeners"));
    let expected =
        "NAME  STATE      HOLDER            SOCKETS\nweb   listening  evil\\u{1b}[2J[7]  tcp 127.0.0.1:80\n";
    assert_eq!((status, text.as_str()), (0, expected));
    let (_, list, _) = run(&mut portbroker(peer.path(), "--json list listeners"));
    let (_, one, _) = run(&mut portbroker(peer.path(), "--json show listener web"));
    assert_eq!(list, format!("[{}]\n", one.trim_end()));
    let one: serde_json::Value = serde_json::from_str(&one).unwrap();
    assert_eq!(one["holder"], "evil\u{1b}[2J[7]");
    assert_eq!(one["sockets"][0]["inode"], 7);
    let (_, text, _) = run(&mut portbroker(peer.path(), "show listener web"));
    assert!(text.contains("socket  tcp 127.0.0.1:80 listening, inode 7\n"), "{text}");
}

#[test]
fn a_reload_says_that_it_is_done() {
    let peer = stateful("running");
    assert_eq!(run(&mut portbroker(peer.path(), "reload")), (0, String::new(), String::new()));
    assert_eq!(
        run(&mut portbroker(peer.path(), "--json reload")).1,
        "{\"reloaded\":true,\"faults\":[],\"notes\":[]}\n"
    );
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let peer = stateful("running");
    let (reader, writer) = nix::unistd::pipe().unwrap();
    drop(reader);
    let output = portbroker(peer.path(), "status").stdout(Stdio::from(writer)).output().unwrap();
    assert_eq!((output.status.code(), output.stderr), (Some(0), vec![]));
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let output = portbroker(peer.path(), "status").stdout(Stdio::from(full)).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains("No space left"));
}

#[test]
fn a_wrong_command_line_is_usage() {
    for line in ["", "frobnicate", "list", "exec web", "show listener a:b", "deposit"] {
        let (status, out, text) = run(&mut portbroker(Path::new("/nonexistent/bus"), line));
        assert_eq!((status, out.as_str()), (2, ""), "{line}");
        assert!(!text.is_empty());
    }
    let mut command = portbroker(Path::new("/nonexistent/bus"), "--help");
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert!(child.wait().unwrap().code().is_some(), "help into a closed pipe ended by a signal");
}

#[test]
fn packages_get_completions_and_manual_pages() {
    let nowhere = Path::new("/nonexistent/bus");
    for shell in ["bash", "zsh", "fish"] {
        let (status, text, _) = run(&mut portbroker(nowhere, &format!("completions {shell}")));
        assert_eq!(status, 0);
        assert!(text.contains("deposit") && text.contains("required"), "{shell}");
    }
    let folder = tempfile::tempdir().unwrap();
    let mut command = portbroker(nowhere, "manual");
    assert_eq!(run(command.arg(folder.path())).0, 0);
    let page = std::fs::read_to_string(folder.path().join("portbroker-deposit.1")).unwrap();
    assert!(page.contains("ExecStartPre=+portbroker deposit"), "{page}");
    let (status, _, text) = run(&mut portbroker(nowhere, "manual /nonexistent/directory"));
    assert_eq!(status, 1);
    assert!(text.contains("/nonexistent/directory"), "{text}");
}
