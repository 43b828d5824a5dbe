//! What is said to be stealable is, and what is not said to be is not: a thief of another user tries.

use crate::netns::in_netns;
use crate::support::{Program, Root, evidence, report};
use nix::libc::EADDRINUSE;

#[test]
fn datagrams_are_taken_by_any_user_where_reuse_address_is_on_and_not_where_it_is_off() {
    in_netns(|| {
        let root = Root::new(&[]);
        let service = |options: &str, port: u16| {
            let program = format!(
                "s = made(UDP{options}); s.bind(('127.0.0.1', {port})); s.settimeout(0.2)
go_on()
print(tried(lambda: s.recv(9)))"
            );
            Program::new(1002, &program)
        };
        let mut open = service(", ADDRESS", 5140);
        let _closed = service("", 5141);
        let seen = report(&mut root.doctor());
        let finding = seen.one("listener-stealable");
        assert_eq!(
            (&finding["severity"], &finding["subject"]),
            (&"warning".into(), &"udp 127.0.0.1:5140".into())
        );
        let owner = format!("python3 (pid {}", open.pid());
        assert!(evidence(finding).starts_with(&owner), "{finding}");
        let thief = |port: u16| {
            let program = format!(
                "s = made(UDP, ADDRESS); b = tried(lambda: s.bind(('127.0.0.1', {port}))); s.settimeout(5)
c = socket.socket(*UDP); c.sendto(b'x', ('127.0.0.1', {port}))
print(b, s.recv(9).decode() if b == 'done' else '-')"
            );
            Program::says(1003, &program)
        };
        assert_eq!(thief(5140), "done x");
        assert_eq!(thief(5141), format!("{EADDRINUSE} -"));
        assert_ne!(open.go_on().trim(), "done\nready", "the service has the datagram too");
    });
}

#[test]
fn processes_of_the_same_user_join_a_group_and_others_do_not() {
    in_netns(|| {
        let root = Root::new(&[]);
        let listens = "s = made(TCP, ADDRESS, PORT); s.bind(('127.0.0.1', 8443)); s.listen()";
        let _service = Program::new(1002, listens);
        let alone = "s = made(TCP, ADDRESS); s.bind(('127.0.0.1', 8444)); s.listen()";
        let _other = Program::new(1002, alone);
        let seen = report(&mut root.doctor());
        let shared = seen.one("listener-shared-by-user");
        assert_eq!(shared["severity"], "note");
        assert!(
            evidence(shared).contains("127.0.0.1:8443") && !evidence(shared).contains(":8444"),
            "{shared}"
        );
        assert!(evidence(shared).contains("every process of user 1002 can join"), "{shared}");
        assert!(seen.found("listener-stealable").is_empty(), "{}", seen.document);
        let join = |uid, port| {
            let bind = format!("s.bind(('127.0.0.1', {port}))");
            let text =
                format!("s = made(TCP, ADDRESS, PORT)\ndef act(): {bind}; s.listen()\nprint(tried(act))");
            Program::says(uid, &text)
        };
        let in_use = EADDRINUSE.to_string();
        assert_eq!((join(1002, 8443).as_str(), join(1003, 8443)), ("done", in_use.clone()));
        assert_eq!((join(1002, 8444), join(1003, 8444)), (in_use.clone(), in_use));
    });
}

#[test]
fn a_port_is_anybodys_while_its_service_is_down_reserved_or_not() {
    in_netns(|| {
        let root = Root::new(&[]);
        let service = Program::new(1002, "s = made(TCP, ADDRESS); s.bind(('127.0.0.1', 8080)); s.listen()");
        crate::support::set("ip_local_reserved_ports", "8080");
        let steal =
            "s = made(TCP, ADDRESS)\ndef act(): s.bind(('127.0.0.1', 8080)); s.listen()\nprint(tried(act))";
        let seen = report(&mut root.doctor());
        let finding = seen.one("listener-stealable-when-down");
        assert_eq!(finding["severity"], "note");
        assert!(
            evidence(finding).contains(&format!("tcp 8080 of python3 (pid {}", service.pid())),
            "{finding}"
        );
        assert_eq!(Program::says(1003, steal), EADDRINUSE.to_string(), "while it listens");
        drop(service);
        assert_eq!(Program::says(1003, steal), "done", "while it is down");
    });
}

#[test]
fn a_service_that_binds_and_does_not_listen_is_robbed_by_any_user() {
    in_netns(|| {
        let root = Root::new(&[("/etc/redis/redis.conf", "bind 127.0.0.1\nport 6379\n")]);
        let _service = Program::new(1002, "s = made(TCP, ADDRESS); s.bind(('127.0.0.1', 6379))");
        let seen = report(&mut root.doctor());
        // Sockets that are only bound are told from Linux 6.8 on.
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        let mut numbers = release.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
        if (numbers.next(), numbers.next()) >= (Some(6), Some(8)) {
            assert!(seen.has("listener-stealable", "tcp 127.0.0.1:6379"), "{}", seen.document);
        } else {
            assert!(seen.found("listener-stealable").is_empty(), "{}", seen.document);
        }
        let steal =
            "s = made(TCP, ADDRESS)\ndef act(): s.bind(('127.0.0.1', 6379)); s.listen()\nprint(tried(act))";
        assert_eq!(Program::says(1003, steal), "done");
    });
}
