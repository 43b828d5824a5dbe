//! The JSON document.

use super::Answer;
use super::evict::Eviction;
use portbroker::model::Process;
use portbroker::uses::{Sentence, Use};
use portbroker_client::evict::EvictedSocket;
use serde::Serialize;

#[derive(Debug, Serialize)]
pub(super) struct Document<'a> {
    port: u16,
    protocol: Option<&'static str>,
    service: Option<&'a str>,
    uses: Vec<Row<'a>>,
    says: Vec<Said<'a>>,
    unseen: &'a [String],
    evicted: Option<Vec<Evicted<'a>>>,
}

/// One use. What it has not is null: `seconds_left` is of a closed connection, `inode` of a socket that a process has,
/// `name` of what the broker or a pool has. `network` is null in the network namespace of the caller.
#[derive(Debug, Serialize)]
struct Row<'a> {
    #[serde(rename = "use")]
    kind: &'static str,
    protocol: Option<&'static str>,
    network: Option<&'a str>,
    state: Option<&'static str>,
    local: Option<String>,
    remote: Option<String>,
    seconds_left: Option<u64>,
    inode: Option<u32>,
    count: usize,
    user: Option<String>,
    uid: Option<u32>,
    unit: Option<&'a str>,
    processes: Vec<ProcessRow<'a>>,
    name: Option<&'a str>,
    detail: Option<&'a str>,
}

#[derive(Debug, Serialize)]
struct ProcessRow<'a> {
    pid: u32,
    name: &'a str,
    user: Option<String>,
    uid: Option<u32>,
    unit: Option<&'a str>,
    age: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Said<'a> {
    tone: &'static str,
    text: &'a str,
    remedy: Option<&'a str>,
}

#[derive(Debug, Serialize)]
struct Evicted<'a> {
    protocol: &'a str,
    local: &'a str,
    remote: Option<&'a str>,
    state: &'a str,
    outcome: &'a str,
    reason: Option<&'a str>,
}

pub(super) fn of(answer: &Answer) -> Document<'_> {
    Document {
        port: answer.question.port,
        protocol: answer.question.protocol.map(|protocol| protocol.as_str()),
        service: answer.service.as_deref(),
        uses: answer.uses.iter().map(|one| row(answer, one)).collect(),
        says: answer.sentences.iter().map(said).collect(),
        unseen: &answer.unseen,
        evicted: answer.eviction.as_ref().map(|Eviction(sockets)| sockets.iter().map(evicted).collect()),
    }
}

fn row<'a>(answer: &'a Answer, one: &'a Use) -> Row<'a> {
    // Of several the addresses are those of one of them.
    let socket = one.socket.filter(|_| one.count == 1);
    let process = |process: &'a Process| ProcessRow {
        pid: process.pid,
        name: &process.name,
        user: process.uid.map(|uid| answer.users.name(uid)),
        uid: process.uid,
        unit: process.unit.as_ref().map(|unit| unit.as_str()),
        age: process.age.map(|age| age.as_secs()),
    };
    Row {
        kind: one.kind.as_str(),
        protocol: one.protocol.map(|protocol| protocol.as_str()),
        network: answer.networks.get(one.network).and_then(|network| network.name.as_deref()),
        state: socket.map(|socket| socket.state.as_str()),
        local: socket.map(|socket| socket.local.to_string()),
        remote: socket.and_then(|socket| socket.remote).map(|remote| remote.to_string()),
        seconds_left: one.socket.and_then(|socket| socket.expires).map(|left| left.as_secs()),
        inode: socket.map(|socket| socket.inode).filter(|inode| *inode != 0),
        count: one.count,
        user: one.uid().map(|uid| answer.users.name(uid)),
        uid: one.uid(),
        unit: one.unit(),
        processes: one.processes.iter().map(process).collect(),
        name: one.name.as_deref(),
        detail: one.detail.as_deref(),
    }
}

fn said(sentence: &Sentence) -> Said<'_> {
    Said { tone: sentence.tone.as_str(), text: &sentence.text, remedy: sentence.remedy.as_deref() }
}

fn evicted(socket: &EvictedSocket) -> Evicted<'_> {
    Evicted {
        protocol: &socket.protocol,
        local: &socket.local,
        remote: socket.remote.as_deref(),
        state: &socket.state,
        outcome: &socket.outcome,
        reason: socket.reason.as_deref(),
    }
}
