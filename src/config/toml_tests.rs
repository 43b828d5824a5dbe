//! Tests of the TOML schema.

use super::*;
use crate::config::{Checked, Idle, Sources, StreamProtocol, build};
use proptest::prelude::*;

fn checked(text: &str) -> Checked {
    let file = TomlFile { path: "/a.toml".into(), text: text.into() };
    build(&Sources { files: vec![file], inherited: Some(Vec::new()), ..Sources::default() })
}

fn faults(text: &str) -> Vec<String> {
    checked(text).faults.iter().map(|fault| fault.to_string().replacen("/a.toml:", "", 1)).collect()
}

#[test]
fn every_key_is_taken() {
    let checked = checked(
        r#"
        [protect]
        ports = ["6379", "8000-8002"]
        [[listener]]
        name = "web"
        stream = ["0.0.0.0:443", "[::]:443", "/run/web.sock"]
        datagram = "127.0.0.1:443"
        allow = ["unit:nginx.service", "user:1000", "unit:a.service+group:33"]
        idle = "queue 30s"
        backlog = 512
        free-bind = false
        bind-ipv6-only = "default"
        bind-to-device = "lo"
        socket-mode = "0660"
        socket-user = "1000"
        socket-group = "33"
        directory-mode = 0o700
        protocol = "mptcp"
        symlinks = ["/run/a//b.sock", "/run/c.sock"]
        remove-on-stop = true
        keep-alive = true
        keep-alive-time = "10min"
        keep-alive-interval = 30
        keep-alive-probes = 5
        no-delay = true
        defer-accept = "5s"
        fast-open = 256
        tcp-congestion = "reno"
        receive-buffer = "8M"
        send-buffer = 65536
        ip-tos = "low-delay"
        ip-ttl = 64
        mark = 0x10
        priority = 6
        transparent = true
        broadcast = true
        pass-credentials = true
        pass-security = false
        pass-packet-info = true
        timestamping = "ns"
        [[listener]]
        name = "xtra"
        seqpacket = ["/run/x.sock", "@x"]
        "#,
    );
    assert_eq!(checked.faults, []);
    assert_eq!(checked.config.protect.ports.to_string(), "6379,8000-8002");
    let web = checked.config.listeners.values().next().unwrap();
    let endpoints: Vec<_> = web.endpoints.iter().map(ToString::to_string).collect();
    assert_eq!(
        endpoints,
        ["tcp 0.0.0.0:443%lo", "tcp [::]:443%lo", "unix /run/web.sock", "udp 127.0.0.1:443%lo"]
    );
    let allow: Vec<_> = web.allow.iter().map(ToString::to_string).collect();
    assert_eq!(allow, ["unit:nginx.service", "user:1000", "unit:a.service+group:33"]);
    assert_eq!(web.idle, Idle::QueueFor(std::time::Duration::from_secs(30)));
    assert_eq!((web.options.backlog, web.options.free_bind), (512, false));
    assert_eq!((web.options.socket_mode, web.options.directory_mode), (0o660, 0o700));
    assert_eq!(web.options.socket_user.as_ref().unwrap().id, Some(1000));
    assert_eq!(web.options.socket_group.as_ref().unwrap().id, Some(33));
    assert_eq!((web.origin.line, web.origin.column), (5, 16));
    assert_eq!(web.options.protocol, StreamProtocol::Mptcp);
    assert_eq!(web.options.symlinks, ["/run/a/b.sock", "/run/c.sock"].map(PathBuf::from));
    assert!(web.options.remove_on_stop);
    let xtra = checked.config.listeners.values().next_back().unwrap();
    let endpoints: Vec<_> = xtra.endpoints.iter().map(ToString::to_string).collect();
    assert_eq!(endpoints, ["unix-seqpacket /run/x.sock", "unix-seqpacket @x"]);
    let tuned: Vec<_> =
        web.options.tuning.iter().map(|(tunable, value)| format!("{}={value}", tunable.toml())).collect();
    assert_eq!(
        tuned.join(" "),
        "keep-alive=true keep-alive-time=600 keep-alive-interval=30 keep-alive-probes=5 no-delay=true \
         defer-accept=5 fast-open=256 tcp-congestion=reno receive-buffer=8388608 send-buffer=65536 ip-tos=16 \
         ip-ttl=64 mark=16 priority=6 transparent=true broadcast=true pass-credentials=true \
         pass-security=false pass-packet-info=true timestamping=ns"
    );
    assert_eq!(crate::config::Tunable::all().count(), web.options.tuning.len());
}

#[test]
fn unknown_keys_are_said_with_what_was_probably_meant() {
    assert_eq!(
        faults(
            "[[listener]]\nname = \"a\"\nsteam = \"80\"\nstream = \"80\"\nquux = 1\n[protect]\nport = []\n[[listner]]\n[x]\n"
        ),
        [
            "3:1: error: unknown key in [[listener]] \"steam\"; did you mean \"stream\"?",
            "5:1: error: unknown key in [[listener]] \"quux\"; take it out; portbroker.toml(5) has all keys",
            "7:1: error: unknown key in [protect] \"port\"; did you mean \"ports\"?",
            "8:3: error: unknown section \"listner\"; did you mean \"listener\"?",
            "9:2: error: unknown section \"x\"; take it out; there is protect, limits, metrics, listener, pool",
        ]
    );
}

#[test]
fn wrong_types_are_said_with_what_to_write() {
    let text = "[[listener]]\nname = 5\nstream = 80\n[[listener]]\nname = \"b\"\nstream = [\"80\", 81]\nbacklog = \"5\"\n\
                free-bind = \"no\"\nsocket-mode = 660\nidle = true\nallow = [[]]\n[protect]\nports = 80\n";
    assert_eq!(
        faults(text),
        [
            "2:8: error: \"name\" takes a string, and this is an integer; write it as in name = \"web\"",
            "3:10: error: \"stream\" takes strings, and this is an integer; write it as in stream = [\"127.0.0.1:80\", \"/run/web.sock\"]",
            "6:17: error: \"stream\" takes strings, and this is an integer; write it as in stream = [\"127.0.0.1:80\", \"/run/web.sock\"]",
            "7:11: error: \"backlog\" takes a decimal integer, and this is a string; write it as in backlog = 512",
            "8:13: error: \"free-bind\" takes true or false, and this is a string; write it as in free-bind = false",
            "9:15: error: \"socket-mode\" takes a string of octal digits, and this is an integer; write it as in socket-mode = \"0660\"",
            "10:8: error: \"idle\" takes a string, and this is a boolean; write it as in idle = \"queue 30s\"",
            "11:10: error: \"allow\" takes strings, and this is an array; write it as in allow = [\"unit:nginx.service\", \"user:deploy\"]",
            "13:9: error: \"ports\" takes strings, and this is an integer; write it as in ports = [\"6379\", \"8000-8010\"]",
        ]
    );
    assert_eq!(
        faults("protect = 1\n[listener]\nname = \"a\"\n"),
        [
            "1:11: error: \"protect\" takes a table, and this is an integer; write it as in [protect]",
            "2:1: error: \"listener\" takes a list of tables, and this is a table; write it as in [[listener]], with two brackets",
        ]
    );
}

#[test]
fn what_is_learned_can_be_switched_off_and_excluded() {
    let file = |text: &str| TomlFile { path: "/a.toml".into(), text: text.into() };
    let protect = |texts: &[&str]| {
        let files = texts.iter().map(|text| file(text)).collect();
        let checked = build(&Sources { files, ..Sources::default() });
        assert_eq!(checked.faults, []);
        (checked.config.protect.learn, checked.config.protect.exclude.to_string())
    };
    assert_eq!(protect(&[]), (true, String::new()));
    assert_eq!(protect(&["[protect]\nexclude = [\"8000-8001\", \"80\"]"]), (true, "80,8000-8001".into()));
    // Lists grow with every file, and of a single value the last one counts.
    let later = "[protect]\nexclude = \"81\"\nlearn = true";
    assert_eq!(protect(&["[protect]\nexclude = \"80\"\nlearn = false", later]), (true, "80-81".into()));
    assert_eq!(protect(&["[protect]\nlearn = false", "[protect]\nexclude = \"81\""]), (false, "81".into()));
    assert_eq!(
        faults("[protect]\nlearn = \"no\"\nexclude = [8000]\n"),
        [
            "2:9: error: \"learn\" takes true or false, and this is a string; write it as in learn = false",
            "3:12: error: \"exclude\" takes strings, and this is an integer; write it as in exclude = [\"8000-8100\"]",
        ]
    );
}

#[test]
fn what_a_later_version_has_is_refused_honestly() {
    let not_yet = |place: &str, what: &str| {
        format!("{place}: error: {what} is not available in this version; take it out")
    };
    assert_eq!(
        faults("[[socket]]\npath = \"/x\"\n[[listener]]\nname = \"a\"\nstream = \"80\"\n"),
        [not_yet("1:3", "[[socket]]")]
    );
}

#[test]
fn a_syntax_error_hides_no_other_fault() {
    assert_eq!(
        faults(
            "[[listener]]\nname = \"a\"\nsteam = \"80\"\n[[listener]]\nname = \"b\"\nstream = \"80\n\n[protect]\nports = [\"0\"]\n"
        ),
        [
            "3:1: error: unknown key in [[listener]] \"steam\"; did you mean \"stream\"?",
            "6:13: error: no valid TOML: invalid basic string, expected `\"`",
            "9:10: error: \"0\" is no port: ports are numbers from 1 to 65535",
        ]
    );
    assert!(faults("name = \"a\"\nname = \"b\"\n").iter().any(|fault| fault.contains("duplicate key")));
}

#[test]
fn a_listener_has_a_name_and_addresses() {
    assert_eq!(
        faults("[[listener]]\nstream = \"80\"\n[[listener]]\nname = \"\"\n[[listener]]\nname = \"x\"\n"),
        [
            "1:1: error: a [[listener]] without a name; add a line as in name = \"web\"",
            "4:8: error: a listener's name must not be empty",
            "6:8: error: the listener \"x\" has no address, and no socket of that name was inherited; add a line as in stream = [\"0.0.0.0:80\"]",
        ]
    );
}

#[test]
fn lengths_are_capped_before_anything_is_made_of_them() {
    let list = |n: usize| {
        format!("[[listener]]\nname = \"a\"\nallow = [{}]\nstream = \"80\"", "\"user:0\",".repeat(n))
    };
    assert_eq!(faults(&list(4096)), [""; 0]);
    assert_eq!(
        faults(&list(4097)),
        ["3:9: error: \"allow\" has more than 4096 elements; use ranges of ports, or several listeners"]
    );
    assert_eq!(
        faults(&format!("x = [{}]", " ".repeat(70_000))),
        ["1:1: error: unknown section \"x\"; take it out; there is protect, limits, metrics, listener, pool"]
    );
    let far = format!("{} y", " ".repeat(70_000));
    assert!(faults(&far)[0].starts_with("1: error: no valid TOML"), "{:?}", faults(&far));
    // Nothing but errors, each of them a line of its own.
    let start = std::time::Instant::now();
    assert!((1..=200).contains(&faults(&"=\n".repeat(100_000)).len()));
    assert!(start.elapsed() < std::time::Duration::from_secs(20), "{:?}", start.elapsed());
}

#[test]
fn a_mistyped_key_hides_no_fault_and_makes_none() {
    assert_eq!(
        faults("[[listener]]\nname = \"a\"\nsteam = \"80\"\nbacklog = -1\n"),
        [
            "3:1: error: unknown key in [[listener]] \"steam\"; did you mean \"stream\"?",
            "4:11: error: \"-1\" is no backlog: a number from 0 to 4294967295",
        ]
    );
}

#[test]
fn columns_are_counted_in_characters() {
    assert_eq!(
        faults("[[listener]]\nname = \"a\"\nstream = [\"/run/ü\", \"x\"]\n")[0],
        "3:21: error: \"x\" is no address; write PORT, ADDRESS:PORT, [IPV6-ADDRESS]:PORT, /PATH or @NAME; host names are not looked up"
    );
}

proptest! {
    #[test]
    fn no_text_is_too_much(text in ".{0,300}") {
        drop(checked(&text));
    }

    #[test]
    fn no_text_like_a_configuration_is_too_much(
        lines in proptest::collection::vec(
            "(\\[{1,2}(listener|protect|pool)\\]{1,2}|(name|stream|datagram|allow|idle|backlog|socket-mode|ports|addresses|spread|quota) = (\\{ ports = [0-9]{1,12} \\}|\"[0-9a-z:/@.%\\[\\]-]{0,12}\"|\\[\"[0-9-]{0,9}\"(, \"@[a-z]\")?\\]|[0-9]{1,3}|true|\"ü))",
            0..12,
        )
    ) {
        let checked = checked(&lines.join("\n"));
        for fault in &checked.faults {
            prop_assert!(fault.origin.line <= lines.len().max(1), "{fault}");
        }
    }
}

#[test]
fn options_that_nothing_takes_are_said() {
    let text = "[[listener]]\nname = \"a\"\nstream = \"/run/a\"\nno-delay = true\nprotocol = \"mptcp\"\nmark = 1\n\
                pass-credentials = true\nsymlinks = \"/run/b\"\n[[listener]]\nname = \"b\"\nstream = \"80\"\n\
                symlinks = [\"/run/c\"]\nseqpacket = \"127.0.0.1:81\"\nip-ttl = 0\nprotocol = \"sctp\"\n";
    assert_eq!(
        faults(text),
        [
            "4:12: warning: \"no-delay\" does nothing for \"a\", which has no TCP socket; take it out",
            "5:12: warning: \"protocol\" does nothing for \"a\", which has no TCP socket; take it out",
            "6:8: warning: \"mark\" does nothing for \"a\", which has no TCP or UDP socket; take it out",
            "13:13: error: sequential packets are of unix sockets only: name a /path or an @name",
            "14:10: error: \"0\" is no value of \"ip-ttl\": it takes a number from 1 to 255",
            "15:12: error: \"sctp\" is no protocol that can be held; write \"mptcp\", or \"tcp\", which is the default; SCTP and UDP-Lite are not held",
        ]
    );
    assert_eq!(
        faults(
            "[[listener]]\nname = \"b\"\nstream = [\"/run/x\", \"/run/y\"]\nsymlinks = [\"/run/c\", \"d\"]\n"
        ),
        [
            "4:13: error: links need one path to lead to, and \"b\" has 2; give the path a listener of its own",
            "4:23: error: \"d\" is no absolute path for a link",
        ]
    );
}
