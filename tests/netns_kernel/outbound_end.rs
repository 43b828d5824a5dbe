//! The rules of the kernel by which a TCP source is free again after its connection: what lets a tuple be used again,
//! what does not, and what would do harm.

use crate::netns::{in_netns, undisturbed};
use crate::outbound_support::{
    D1, D2, S1, S2, close, connect, cookie, errno, leased, open, pair, reset, sysctl, tcp, until,
};
use nix::libc::EADDRNOTAVAIL;
use portbroker::kernel::tuples::Lookup;
use portbroker::model::Seen;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpListener};

/// A source whose connection to the listener was closed here first, and so is in TIME_WAIT.
fn in_time_wait(lookup: &mut Lookup, source: &str, listener: &TcpListener) {
    close(pair(source, listener));
    until("TIME_WAIT", || matches!(lookup.look(&tcp(source, D1)).unwrap(), Seen::TimeWait(_)));
}

#[test]
fn with_timestamps_a_tuple_in_time_wait_is_used_again_at_once() {
    in_netns(|| {
        sysctl("tcp_timestamps", "1\n");
        let mut lookup = Lookup::new().unwrap();
        let listener = TcpListener::bind(D1).unwrap();
        for _ in 0..3 {
            in_time_wait(&mut lookup, S1, &listener);
            let (client, mut accepted) = pair(S1, &listener);
            assert_eq!(open(lookup.look(&tcp(S1, D1)).unwrap()), Some(cookie(&client)));
            (&client).write_all(b"x").unwrap();
            accepted.read_exact(&mut [0]).unwrap();
        }
    });
}

#[test]
fn without_timestamps_a_tuple_in_time_wait_is_refused_and_its_source_goes_elsewhere() {
    in_netns(|| {
        sysctl("tcp_timestamps", "0\n");
        let mut lookup = Lookup::new().unwrap();
        let listener = TcpListener::bind(D1).unwrap();
        let _other = TcpListener::bind(D2).unwrap();
        in_time_wait(&mut lookup, S1, &listener);
        let client = leased(S1).unwrap();
        assert_eq!(errno(connect(&client, D1)), Some(EADDRNOTAVAIL));
        connect(&client, D2).unwrap();
        assert!(matches!(lookup.look(&tcp(S1, D1)).unwrap(), Seen::TimeWait(_)), "it waits on");
    });
}

#[test]
fn a_tuple_in_fin_wait_2_can_be_connected_again_and_that_kills_the_other_side() {
    in_netns(|| {
        let mut lookup = Lookup::new().unwrap();
        let listener = TcpListener::bind(D1).unwrap();
        let (client, mut peer) = pair(S1, &listener);
        undisturbed(|| drop(client));
        assert_eq!(peer.read(&mut [0]).unwrap(), 0, "the other side is half-closed");
        assert!(open(lookup.look(&tcp(S1, D1)).unwrap()).is_some(), "FIN_WAIT2 is not free");
        let peers = cookie(&peer);
        assert_eq!(open(lookup.look(&tcp(D1, S1)).unwrap()), Some(peers));
        // The other side may take 40 ms to acknowledge; until then it is FIN_WAIT1, and is refused.
        until("it is connected again", || connect(&leased(S1).unwrap(), D1).is_ok());
        assert_ne!(open(lookup.look(&tcp(D1, S1)).unwrap()), Some(peers));
        let killed = peer.read(&mut [0]).and_then(|_| peer.write(b"x"));
        assert!(
            killed.as_ref().is_err_and(|error| {
                matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
            }),
            "{killed:?}"
        );
    });
}

#[test]
fn a_connection_that_is_half_closed_by_its_owner_keeps_its_tuple() {
    in_netns(|| {
        let listener = TcpListener::bind(D1).unwrap();
        let (client, mut peer) = pair(S1, &listener);
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(peer.read(&mut [0]).unwrap(), 0);
        assert_eq!(errno(connect(&leased(S1).unwrap(), D1)), Some(EADDRNOTAVAIL));
        peer.write_all(b"x").unwrap();
        (&client).read_exact(&mut [0]).unwrap();
    });
}

#[test]
fn what_the_other_side_closes_first_or_who_resets_leaves_the_tuple_free() {
    in_netns(|| {
        let mut lookup = Lookup::new().unwrap();
        let listener = TcpListener::bind(D1).unwrap();
        let (client, peer) = pair(S1, &listener);
        undisturbed(|| drop(peer));
        until("its end is seen", || matches!((&client).read(&mut [0]), Ok(0)));
        assert!(open(lookup.look(&tcp(S1, D1)).unwrap()).is_some(), "CLOSE_WAIT");
        undisturbed(|| drop(client));
        until("free", || lookup.look(&tcp(S1, D1)).unwrap() == Seen::Free);
        let (client, peer) = pair(S2, &listener);
        reset(&client);
        undisturbed(|| drop(client));
        until("free", || lookup.look(&tcp(S2, D1)).unwrap() == Seen::Free);
        drop(peer);
    });
}

#[test]
fn a_copy_in_a_child_keeps_the_tuple_after_its_owner_was_killed() {
    in_netns(|| {
        let mut lookup = Lookup::new().unwrap();
        let listener = TcpListener::bind(D1).unwrap();
        let (client, peer) = pair(S1, &listener);
        let own = cookie(&client);
        let child = crate::netns::Holder::new(&client, crate::support::SERVICE, "pass");
        undisturbed(|| drop(client));
        assert_eq!(open(lookup.look(&tcp(S1, D1)).unwrap()), Some(own));
        assert_eq!(errno(connect(&leased(S1).unwrap(), D1)), Some(EADDRNOTAVAIL));
        drop(child);
        undisturbed(|| drop(peer));
        until("it ended", || open(lookup.look(&tcp(S1, D1)).unwrap()) != Some(own));
    });
}
