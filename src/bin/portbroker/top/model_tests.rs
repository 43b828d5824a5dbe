//! What is known after what was heard.

use super::*;
use portbroker_client::inspect::SocketStatus;
use std::time::{Duration, UNIX_EPOCH};

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

pub(crate) fn listener(name: &str, state: &str, holder: Option<&str>, endpoint: &str) -> ListenerStatus {
    let socket =
        SocketStatus { endpoint: endpoint.to_owned(), state: state.to_owned(), inode: Some(7), error: None };
    ListenerStatus {
        name: name.to_owned(),
        state: state.to_owned(),
        sockets: vec![socket],
        holders: holder.map(str::to_owned).into_iter().collect(),
        notes: vec![],
        idle: "queue".into(),
        activate: None,
        activation_error: None,
        allow: vec![],
        origin: "/etc/x.toml:3".into(),
    }
}

pub(crate) fn snapshot(listeners: Vec<ListenerStatus>, pools: Vec<PoolStatus>) -> Update {
    Update::Snapshot(Box::new(Status {
        state: "running".into(),
        version: "1.2".into(),
        faults: vec![],
        notes: vec![],
        learned_ports: None,
        limits: None,
        takeover: None,
        listeners,
        pools,
    }))
}

fn said(model: &Model) -> Vec<String> {
    model.events.iter().map(|event| format!("{}: {}", event.event, event.message)).collect()
}

fn change(listener: ListenerStatus) -> Update {
    Update::Changed(Change::Listener(Box::new(listener)))
}

#[test]
fn what_changes_is_told_and_a_snapshot_is_not() {
    let mut model = Model::default();
    let web = |state: &str, holder| listener("web", state, holder, "tcp 127.0.0.1:80");
    model.take(snapshot(vec![web("reserved", None)], vec![]), at(1));
    assert_eq!((said(&model), &model.link), (vec![], &Link::Up));
    model.take(change(web("listening", Some("nginx[7]"))), at(2));
    assert_eq!(said(&model), ["state: web was reserved, is listening"]);
    // The log says who holds it, where it may be seen.
    model.take(Update::NoEvents, at(3));
    model.take(change(web("listening", None)), at(4));
    assert_eq!(said(&model)[0], "holder: web: nginx[7] is gone");
    model.take(change(listener("new", "listening", None, "udp 127.0.0.1:53")), at(5));
    assert_eq!(said(&model)[0], "listener: new is new, and listening");
    model.take(Update::Changed(Change::ListenerGone("new".into())), at(6));
    model.take(Update::Changed(Change::ListenerGone("new".into())), at(6));
    assert_eq!((said(&model).len(), model.listeners.len()), (4, 1));
}

#[test]
fn a_broker_that_is_away_leaves_what_was_known() {
    let mut model = Model::default();
    model.take(snapshot(vec![listener("web", "listening", None, "tcp 1")], vec![]), at(1));
    model.take(Update::Lost("killed".into()), at(10));
    model.take(Update::Lost("not reachable".into()), at(11));
    assert_eq!(model.link, Link::Away(at(10), "killed".into()));
    assert_eq!(model.listeners.len(), 1);
    model.take(snapshot(vec![], vec![]), at(13));
    assert_eq!((&model.link, model.listeners.len()), (&Link::Up, 0));
    assert_eq!(said(&model), ["back: the broker is back after 3 s", "away: the broker is gone: killed"]);
}

#[test]
fn connections_and_bytes_that_wait_are_counted_apart() {
    let mut model = Model::default();
    let queue = |listener: &str, inode, waiting, limit, overflows| SocketQueue {
        listener: listener.to_owned(),
        inode,
        queue: Queue { waiting: Some(waiting), limit, overflows: Some(overflows) },
    };
    let (web, dns) =
        (listener("web", "listening", None, "tcp 1"), listener("dns", "listening", None, "udp 2"));
    model.take(snapshot(vec![web.clone(), dns.clone()], vec![]), at(1));
    let queues =
        vec![queue("web", 7, 3, Some(10), 1), queue("web", 8, 4, None, 0), queue("dns", 7, 900, None, 5)];
    model.take(Update::Queues(queues), at(2));
    assert_eq!(model.depth(&web), Depth { waiting: 7, limit: 10, bytes: 0, overflows: 1 });
    assert_eq!(model.depth(&dns), Depth { waiting: 0, limit: 0, bytes: 900, overflows: 5 });
    model.take(Update::Queues(vec![]), at(3));
    assert_eq!(model.depth(&web), Depth::default());
}

#[test]
fn what_happened_is_in_its_order_and_no_more_than_fits() {
    let mut model = Model::default();
    let event = |number, seconds| Event {
        number,
        time: at(seconds),
        level: "warning".into(),
        event: "refusal".into(),
        message: number.to_string(),
    };
    model.take(Update::Events(vec![event(1, 10), event(2, 30)]), at(40));
    model.take(Update::Lost("x".into()), at(20));
    let words: Vec<&str> = model.events.iter().map(|event| event.event.as_str()).collect();
    assert_eq!(words, ["refusal", "away", "refusal"]);
    model.take(Update::Events((0..2000).map(|n| event(n, 50 + n)).collect()), at(9));
    assert_eq!((model.events.len(), model.events[0].message.as_str()), (KEPT, "1999"));
}

#[test]
fn new_faults_are_told_where_the_log_is_not() {
    let mut model = Model::default();
    model.take(snapshot(vec![], vec![]), at(1));
    let manager = |state: &str, faults: &[&str]| {
        let faults = faults.iter().map(|fault| (*fault).to_owned()).collect();
        Update::Changed(Change::Manager { state: state.to_owned(), faults })
    };
    model.take(manager("degraded", &["one"]), at(2));
    assert_eq!(said(&model), ["state: the broker was running, is degraded"]);
    model.take(Update::NoEvents, at(3));
    model.take(manager("degraded", &["one", "two"]), at(4));
    assert_eq!(said(&model)[0], "fault: two");
}
