//! Who may lease: users, owners of sessions, callers in other network namespaces.

#![cfg(test)]

#[path = "support/daemon.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod daemon;
#[path = "support/egress.rs"]
mod egress;
#[path = "support/leases.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod leases;
#[path = "support/netns.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod netns;

use daemon::{Daemon, run};
use egress::{POOL, TO, service, started};
use leases::{Client, eventually};
use netns::{NOBODY, in_netns};
use portbroker_client::wire::ErrorName;
use std::net::{SocketAddr, TcpStream};
use std::process::Command;

/// Leases one pair or socket as the user nobody, with python3-dbus, peer to peer: `leased 1`, or the error's name.
fn as_nobody(daemon: &Daemon, wrapper: &[&str], pool: &str, what: &str, to: &str) -> String {
    let python = r#"
import dbus, dbus.connection, os, sys
os.setgroups([]); os.setgid(int(sys.argv[5])); os.setuid(int(sys.argv[5]))
bus = dbus.connection.Connection('unix:path=' + sys.argv[1])
call = lambda member, signature, *arguments: bus.call_blocking(None, '/org/portbroker/PortBroker1',
    'org.portbroker.PortBroker1.Manager', member, signature, arguments)
try:
    session, lifeline = call('OpenSession', 'a{sv}', {})
    if sys.argv[3] == 'drain': call('DrainAddress', 'sa{sv}', sys.argv[4], {})
    elif sys.argv[3] == 'release': call('Release', 't', int(sys.argv[4]))
    elif sys.argv[3] == 'use': call('LeasePairs', 'osssua{sv}', sys.argv[4], sys.argv[2], 'tcp', '', 1, {})
    else:
        member = {'pairs': 'LeasePairs', 'sockets': 'LeaseSockets'}[sys.argv[3]]
        lease, rows = call(member, 'osssua{sv}', session, sys.argv[2], 'tcp', sys.argv[4], 1, {})
        if sys.argv[3] == 'sockets':
            import socket
            s = socket.socket(fileno=rows[0][2].take())
            host, port = sys.argv[4].rsplit(':', 1)
            s.connect((host, int(port)))
            assert s.getsockname() == (rows[0][0], rows[0][1])
        leases = call('ListLeases', 'tu', 0, 100)
        assert [row[0] for row in leases if row[7] == 'held'] == [lease], leases
        print('leased', len(rows))
except dbus.exceptions.DBusException as error:
    print(error.get_dbus_name().rsplit('.', 1)[1])
"#;
    let socket = daemon.socket();
    let mut words: Vec<&str> = wrapper.to_vec();
    let nobody = NOBODY.to_string();
    // Debian's, which has the package.
    words.extend(["/usr/bin/python3", "-c", python, socket.to_str().unwrap(), pool, what, to, &nobody]);
    let (status, text, errors) = run(Command::new(words[0]).args(&words[1..]));
    assert_eq!(status, 0, "needs python3-dbus: {errors}");
    text.trim().to_owned()
}

#[test]
fn without_configuration_everybody_has_a_quarter() {
    in_netns(|| {
        let daemon = Daemon::start("");
        let client = Client::of(&daemon);
        let session = client.open();
        assert_eq!(client.pool("default", async |pool| pool.origin().await).unwrap(), "built in");
        assert_eq!(client.pool("default", async |pool| pool.allow().await).unwrap(), ["everybody"]);
        let capacity = client.pool("default", async |pool| pool.capacity().await).unwrap();
        assert!(capacity >= 30_000, "{capacity}");
        let quarter = u32::try_from(capacity / 4).unwrap();
        let refused = client.blocks(&session, "default", "127.0.0.1:80", quarter + 1, None).unwrap_err();
        assert_eq!(refused.name, Some(ErrorName::QuotaExceeded), "{refused:?}");
        client.blocks(&session, "default", "127.0.0.1:80", quarter, None).unwrap();
        assert_eq!(as_nobody(&daemon, &[], "default", "pairs", "127.0.0.1:80"), "leased 1");
        assert_eq!(run(&mut daemon.portbroker(&["status"])).0, 0);
    });
}

#[test]
fn only_who_is_granted_a_pool_leases_of_it_and_only_the_owner_gives_back() {
    in_netns(|| {
        let daemon = started(&format!(
            "{POOL}[[pool]]\nname = \"theirs\"\naddresses = [\"192.0.2.1\"]\nports = \"20000-20009\"\nallow = [\"user:{NOBODY}\"]\n"
        ));
        let client = Client::of(&daemon);
        let session = client.open();
        assert_eq!(as_nobody(&daemon, &[], "egress", "pairs", TO), "NotAllowed");
        assert_eq!(as_nobody(&daemon, &[], "theirs", "pairs", TO), "leased 1");
        let (lease, _) = client.pairs(&session, "theirs", "tcp", TO, 1).unwrap();
        assert_eq!(as_nobody(&daemon, &[], "theirs", "release", &lease.to_string()), "NotAllowed");
        assert_eq!(as_nobody(&daemon, &[], "theirs", "use", session.path.as_str()), "NotAllowed");
        assert_eq!(as_nobody(&daemon, &[], "theirs", "drain", "192.0.2.1"), "NotAllowed");
        assert_eq!(client.leases().iter().filter(|row| row.7 == "held").count(), 1);
        assert!(daemon.log().contains("refused a lease of egress"));
    });
}

#[test]
fn a_caller_in_another_namespace_gets_sockets_by_a_grant_for_it_and_never_ports() {
    in_netns(|| {
        let pool = |name: &str, first: u16, grant: &str| {
            format!(
                "[[pool]]\nname = \"{name}\"\naddresses = [\"192.0.2.1\"]\nports = \"{first}-{}\"\nallow = [\"user:{NOBODY}{grant}\"]\n",
                first + 9
            )
        };
        let daemon = started(&[pool("with", 20_000, "+sockets"), pool("without", 20_010, "")].concat());
        let _service = service();
        let outside = ["unshare", "-n"];
        assert_eq!(as_nobody(&daemon, &outside, "with", "sockets", TO), "leased 1");
        assert_eq!(as_nobody(&daemon, &outside, "with", "pairs", TO), "NotAllowed");
        assert_eq!(as_nobody(&daemon, &outside, "without", "sockets", TO), "NotAllowed");
        assert_eq!(as_nobody(&daemon, &[], "without", "sockets", TO), "leased 1");
        let socket = daemon.socket();
        // Root may have sockets there; ports are of no use to it.
        in_netns(|| {
            let client = Client::at(&socket);
            let session = client.open();
            let refused = client.pairs(&session, "with", "tcp", TO, 1).unwrap_err();
            assert_eq!(refused.name, Some(ErrorName::NotAllowed));
            assert!(refused.text.contains("another network namespace"), "{refused:?}");
            let (_, sockets) = client.sockets(&session, "without", "tcp", TO, 1).unwrap();
            let socket = socket2::Socket::from(sockets.into_iter().next().unwrap().1);
            socket.connect(&TO.parse::<SocketAddr>().unwrap().into()).unwrap();
            assert!(TcpStream::connect(TO).is_err(), "there is nothing here");
        });
    });
}

#[test]
fn more_sessions_than_one_may_have_are_refused() {
    in_netns(|| {
        let daemon = started(POOL);
        let client = Client::of(&daemon);
        let sessions: Vec<_> = (0..1024).map(|_| client.open()).collect();
        let refused = client.try_open().err().unwrap();
        assert_eq!(refused.name, Some(ErrorName::NotAllowed), "{refused:?}");
        drop(sessions);
        eventually("room for another", || client.try_open().is_ok());
    });
}
