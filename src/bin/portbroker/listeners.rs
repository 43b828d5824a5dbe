//! `portbroker list listeners` and `portbroker show listener`.

use crate::args::block_on;
use crate::failure::Failure;
use crate::output::{Cell, Output, Paint};
use portbroker_client::inspect::{ListenerStatus, Queue, SocketStatus};
use portbroker_client::{Broker, Error};
use serde::Serialize;
use std::collections::HashMap;
use std::process::ExitCode;

/// The state of a listener that is no longer configured.
const LINGERING: &str = "lingering";
/// How many of a listener's sockets a line of the list has room for.
const ON_A_LINE: usize = 3;

/// The JSON document of one listener.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Document<'a> {
    name: &'a str,
    state: &'a str,
    sockets: Vec<Socket<'a>>,
    holders: &'a [String],
    holder: Option<&'a str>,
    notes: &'a [String],
    idle: &'a str,
    activate: Option<&'a str>,
    activation_error: Option<&'a str>,
    allow: &'a [String],
    origin: &'a str,
}

/// What waits in sockets, by inode.
type Queues = HashMap<u64, Queue>;

fn queue_of(socket: &SocketStatus, queues: &Queues) -> Queue {
    socket.inode.and_then(|inode| queues.get(&inode).copied()).unwrap_or_default()
}

#[derive(Debug, Serialize)]
struct Socket<'a> {
    endpoint: &'a str,
    state: &'a str,
    inode: Option<u64>,
    error: Option<&'a str>,
    queue: Option<u32>,
    backlog: Option<u32>,
    overflows: Option<u32>,
}

impl<'a> Document<'a> {
    fn of(listener: &'a ListenerStatus, queues: &Queues) -> Self {
        let socket = |socket: &'a SocketStatus| {
            let queue = queue_of(socket, queues);
            Socket {
                endpoint: &socket.endpoint,
                state: &socket.state,
                inode: socket.inode,
                error: socket.error.as_deref(),
                queue: queue.waiting,
                backlog: queue.limit,
                overflows: queue.overflows,
            }
        };
        Self {
            name: &listener.name,
            state: &listener.state,
            sockets: listener.sockets.iter().map(socket).collect(),
            holders: &listener.holders,
            holder: listener.holders.first().map(String::as_str),
            notes: &listener.notes,
            idle: &listener.idle,
            activate: listener.activate.as_deref(),
            activation_error: listener.activation_error.as_deref(),
            allow: &listener.allow,
            origin: &listener.origin,
        }
    }
}

pub(crate) fn list(broker: &Broker, output: Output) -> Result<ExitCode, Failure> {
    let listeners = block_on(broker.listeners())?;
    let documents: Vec<Document<'_>> =
        listeners.iter().map(|listener| Document::of(listener, &Queues::new())).collect();
    output.print(&documents, || {
        let heading = ["NAME", "STATE", "HOLDER", "SOCKETS"].map(|text| Cell::new(text, Paint::Heading));
        std::iter::once(heading.to_vec()).chain(listeners.iter().map(row)).collect()
    })?;
    Ok(ExitCode::SUCCESS)
}

fn row(listener: &ListenerStatus) -> Vec<Cell> {
    let endpoints: Vec<&str> =
        listener.sockets.iter().take(ON_A_LINE).map(|socket| socket.endpoint.as_str()).collect();
    let more = match listener.sockets.len().saturating_sub(ON_A_LINE) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    vec![
        Cell::plain(&listener.name),
        Cell::new(&listener.state, Paint::of_state(&listener.state)),
        Cell::plain(or_dash(&listener.holders)),
        Cell::plain(format!("{}{more}", endpoints.join(", "))),
    ]
}

fn or_dash(texts: &[String]) -> String {
    if texts.is_empty() { "-".to_owned() } else { texts.join(", ") }
}

pub(crate) fn show(broker: &Broker, output: Output, name: &str) -> Result<ExitCode, Failure> {
    let (listener, queues) = block_on(async {
        let listener = broker.listener(name).await?;
        let queues = match broker.queues(name).await {
            // A broker of an earlier version, which knows nothing of queues.
            Err(Error::Protocol { .. }) => Queues::new(),
            queues => queues?,
        };
        Ok((listener, queues))
    })?;
    output.print(&Document::of(&listener, &queues), || details(&listener, &queues))?;
    Ok(ExitCode::SUCCESS)
}

/// What waits, in words.
fn queue_text(queue: Queue) -> String {
    let mut text = match (queue.waiting, queue.limit) {
        (Some(waiting), Some(limit)) => format!(", queue {waiting} of {limit}"),
        (Some(waiting), None) => format!(", queue {waiting}"),
        (None, _) => String::new(),
    };
    if let Some(overflows) = queue.overflows.filter(|overflows| *overflows > 0) {
        text.push_str(&format!(", {overflows} found no room"));
    }
    text
}

fn details(listener: &ListenerStatus, queues: &Queues) -> Vec<Vec<Cell>> {
    let line = |key, value: &str| vec![Cell::plain(key), Cell::plain(value)];
    let state = Cell::new(&listener.state, Paint::of_state(&listener.state));
    let mut lines = vec![line("name", &listener.name), vec![Cell::plain("state"), state]];
    lines.extend(listener.sockets.iter().map(|socket| {
        let rest = match (&socket.error, socket.inode) {
            (Some(error), None) => format!(": {error}"),
            (Some(error), Some(inode)) => {
                format!(", inode {inode}{}: {error}", queue_text(queue_of(socket, queues)))
            }
            (None, Some(inode)) => format!(", inode {inode}{}", queue_text(queue_of(socket, queues))),
            (None, None) => String::new(),
        };
        let text = format!("{} {}{rest}", socket.endpoint, socket.state);
        let overflows = queue_of(socket, queues).overflows.is_some_and(|overflows| overflows > 0);
        let paint = match (&socket.error, overflows) {
            (Some(_), _) => Paint::Bad,
            (None, true) => Paint::Waiting,
            (None, false) => Paint::Plain,
        };
        vec![Cell::plain("socket"), Cell::new(text, paint)]
    }));
    lines.push(line("holder", &or_dash(&listener.holders)));
    lines
        .extend(listener.notes.iter().map(|note| vec![Cell::plain("note"), Cell::new(note, Paint::Waiting)]));
    if listener.state == LINGERING {
        // Nobody new may take it, and what it would do without its holder is to close.
        lines.push(line("origin", &listener.origin));
        return lines;
    }
    lines.push(line("idle", &listener.idle));
    if let Some(unit) = &listener.activate {
        lines.push(activation(unit, listener.activation_error.as_deref()));
    }
    let allow = if listener.allow.is_empty() { "root only".to_owned() } else { listener.allow.join(", ") };
    lines.push(line("allow", &allow));
    lines.push(line("origin", &listener.origin));
    lines
}

fn activation(unit: &str, error: Option<&str>) -> Vec<Cell> {
    let text = match error {
        Some(error) => Cell::new(format!("{unit}: {error}"), Paint::Bad),
        None => Cell::plain(format!("{unit}, on the first connection")),
    };
    vec![Cell::plain("activates"), text]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener(sockets: usize) -> ListenerStatus {
        let socket = |port| SocketStatus {
            endpoint: format!("tcp 127.0.0.1:{port}"),
            state: "listening".into(),
            inode: Some(7),
            error: None,
        };
        ListenerStatus {
            name: "web".into(),
            state: "listening".into(),
            sockets: (1..=sockets).map(socket).collect(),
            holders: vec![],
            notes: vec![],
            idle: "queue".into(),
            activate: Some("web.service".into()),
            activation_error: None,
            allow: vec!["unit:web.service".into()],
            origin: "/etc/x.toml:3".into(),
        }
    }

    #[test]
    fn the_keys_of_the_document_are_those_documented() {
        let queues = Queues::from([(7, Queue { waiting: Some(3), limit: Some(8), overflows: Some(1) })]);
        let json = serde_json::to_string(&Document::of(&listener(1), &queues)).unwrap();
        assert_eq!(
            json,
            r#"{"name":"web","state":"listening","sockets":[{"endpoint":"tcp 127.0.0.1:1","state":"listening","inode":7,"error":null,"queue":3,"backlog":8,"overflows":1}],"holders":[],"holder":null,"notes":[],"idle":"queue","activate":"web.service","activation-error":null,"allow":["unit:web.service"],"origin":"/etc/x.toml:3"}"#
        );
    }

    #[test]
    fn a_row_has_room_for_three_sockets() {
        let text = |sockets| format!("{:?}", row(&listener(sockets)));
        assert!(!text(3).contains("more"));
        assert!(text(5).contains("127.0.0.1:3 and 2 more") && !text(5).contains("127.0.0.1:4"));
    }
}
