//! Bad input, no privilege, and readers that go away.

use crate::daemon::run;
use crate::netns::{NOBODY, in_netns};
use crate::support::{Program, alone, broker, json, own};
use std::io::Read as _;
use std::process::Stdio;

#[test]
fn a_user_is_told_what_may_be_seen_and_what_may_not() {
    in_netns(|| {
        let daemon = broker("");
        let theirs = "s = socket.socket(*TCP); s.bind(('127.0.0.1', 7701)); s.listen()";
        let _other = Program::new(1004, theirs);
        let own_one =
            Program::new(NOBODY, "s = socket.socket(*TCP); s.bind(('127.0.0.1', 7702)); s.listen()");
        let who = |port: &str| daemon.portbroker_as(NOBODY, &["who", port]);
        let document = json(&mut who("7701"), 0);
        let row = own(&document, "listener")[0];
        assert_eq!(row["uid"], 1004, "the kernel tells the user");
        assert_eq!(row["processes"].as_array().unwrap().len(), 0);
        let unseen = document["unseen"].to_string();
        assert!(
            unseen.contains(" processes has a socket of which only the user is told: run it as root"),
            "{unseen}"
        );
        assert!(unseen.contains("network namespaces"), "{unseen}");
        let (_, out, _) = run(&mut who("7701"));
        assert!(out.contains("a process of user 1004") && out.contains("\nnot seen: "), "{out}");
        let document = json(&mut who("7702"), 0);
        assert_eq!(own(&document, "listener")[0]["processes"][0]["pid"], own_one.pid());
        assert!(!document["unseen"].to_string().contains("only the user is told"), "{document}");
    });
}

#[test]
fn what_is_no_port_is_a_matter_of_usage() {
    for no in ["0", "65536", "http", "53/sctp", "53/", "-1", ""] {
        let (status, out, errors) = run(&mut alone(&["who", no]));
        assert_eq!((status, out.as_str()), (2, ""), "{no}: {errors}");
        assert!(!errors.contains("panicked"), "{errors}");
    }
    for no in [&["who"][..], &["who", "1", "--force"], &["who", "1", "2"]] {
        assert_eq!(run(&mut alone(no)).0, 2, "{no:?}");
    }
}

#[test]
fn a_reader_that_goes_away_and_a_terminal_of_no_width_are_no_trouble() {
    for arguments in [&["who", "7703"][..], &["--json", "who", "7703"]] {
        let mut command = alone(arguments);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let status = child.wait().unwrap();
        let mut errors = String::new();
        child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
        assert!(status.success() && errors.is_empty(), "{status}: {errors}");
    }
    let (status, out, errors) = run(alone(&["who", "7703"]).env("COLUMNS", "0").env("TERM", "dumb"));
    assert_eq!(status, 0, "{errors}");
    assert!(out.contains("7703"), "{out}");
}
