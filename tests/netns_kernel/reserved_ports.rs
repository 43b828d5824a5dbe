//! `ip_local_reserved_ports`: shared with other writers, long, wiped, missing.

use crate::netns::in_netns;
use portbroker::kernel::reserved_ports::{ReservedPorts, ReservedPortsError};
use portbroker::model::PortSet;
use std::path::Path;

const FILE: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";

fn ports(text: &str) -> PortSet {
    text.parse().expect("ports")
}

#[test]
fn ports_are_added_to_what_others_wrote_and_only_ours_are_taken_out() {
    in_netns(|| {
        let file = ReservedPorts::default();
        std::fs::write(FILE, "8000-8010,9999\n").unwrap();
        assert_eq!(file.add(&ports("3306,8005,5432")).unwrap(), ports("3306,5432"));
        assert_eq!(file.read().unwrap(), ports("3306,5432,8000-8010,9999"));
        file.remove(&ports("3306,5432")).unwrap();
        assert_eq!(file.read().unwrap(), ports("8000-8010,9999"));
    });
}

#[test]
fn a_second_add_writes_nothing() {
    in_netns(|| {
        let file = ReservedPorts::default();
        assert_eq!(file.add(&ports("3306")).unwrap(), ports("3306"));
        assert!(file.add(&ports("3306")).unwrap().is_empty());
    });
}

#[test]
fn a_wipe_is_put_right_by_the_next_add() {
    in_netns(|| {
        let file = ReservedPorts::default();
        file.add(&ports("3306,5432")).unwrap();
        std::fs::write(FILE, "7000\n").unwrap();
        assert_eq!(file.add(&ports("3306,5432")).unwrap(), ports("3306,5432"));
        assert_eq!(file.read().unwrap(), ports("3306,5432,7000"));
    });
}

#[test]
fn lists_longer_than_a_page_go_in_and_out_whole() {
    in_netns(|| {
        let file = ReservedPorts::default();
        let theirs: PortSet = (40001..60000).step_by(3).collect();
        let ours: PortSet = (10000..39999).step_by(2).collect();
        assert!(ours.to_string().len() > 80_000);
        file.add(&theirs).unwrap();
        file.add(&ours).unwrap();
        assert_eq!(file.read().unwrap(), ours.union(&theirs));
        file.remove(&ours).unwrap();
        assert_eq!(file.read().unwrap(), theirs);
        file.remove(&theirs).unwrap();
        assert!(file.read().unwrap().is_empty());
    });
}

#[test]
fn two_writers_that_only_add_lose_nothing() {
    in_netns(|| {
        // Threads inherit the namespace of the one that makes them.
        std::thread::scope(|scope| {
            for writer in 0..2u16 {
                scope.spawn(move || {
                    let file = ReservedPorts::default();
                    for n in 0..300 {
                        file.add(&[20000 + n * 4 + writer * 2].into_iter().collect()).unwrap();
                    }
                });
            }
        });
        assert_eq!(ReservedPorts::default().read().unwrap(), (20000..21200).step_by(2).collect());
    });
}

#[test]
fn the_kernel_never_chooses_a_reserved_port() {
    in_netns(|| {
        std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "30000 30003\n").unwrap();
        let file = ReservedPorts::default();
        assert_eq!(file.ephemeral_range().unwrap().to_string(), "30000-30003");
        file.add(&ports("30000-30002")).unwrap();
        for _ in 0..20 {
            let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
            assert_eq!(socket.local_addr().unwrap().port(), 30003);
        }
    });
}

#[test]
fn each_namespace_has_its_own_list() {
    in_netns(|| {
        ReservedPorts::default().add(&ports("3306")).unwrap();
        in_netns(|| assert!(ReservedPorts::default().read().unwrap().is_empty()));
    });
}

#[test]
fn a_file_that_cannot_be_written_is_an_error_that_says_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let at = |path: &Path| ReservedPorts::at(path);
    assert!(matches!(at(directory.path()).add(&ports("1")), Err(ReservedPortsError::Missing { .. })));
    // A plain file at offset 1 is no list: what comes back is not what was written.
    std::fs::write(directory.path().join("ip_local_reserved_ports"), "").unwrap();
    let error = at(directory.path()).add(&ports("1")).unwrap_err();
    assert!(matches!(error, ReservedPortsError::Malformed { .. }), "{error}");
}
