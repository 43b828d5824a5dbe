//! The same for people: a table of the sockets, and sentences.

use super::Answer;
use super::evict::Eviction;
use crate::output::{Cell, Paint};
use portbroker::model::SocketState;
use portbroker::uses::{Kind, Sentence, Tone, Use};
use portbroker_client::evict::EvictedSocket;
use std::time::Duration;

/// How many processes of a socket a line has room for.
const ON_A_LINE: usize = 2;

pub(super) fn of(answer: &Answer) -> Vec<Vec<Cell>> {
    let mut lines = table(answer);
    if !lines.is_empty() {
        lines.push(vec![Cell::plain("")]);
    }
    lines.extend(answer.sentences.iter().flat_map(said));
    let plain = |text: String| vec![Cell::new(text, Paint::Waiting)];
    lines.extend(answer.unseen.iter().map(|unseen| plain(format!("not seen: {unseen}"))));
    if let Some(Eviction(closed)) = &answer.eviction {
        lines.push(vec![Cell::plain("")]);
        if closed.is_empty() {
            lines.push(vec![Cell::plain("nothing was there to be closed")]);
        }
        lines.extend(closed.iter().map(|closed| vec![evicted(closed)]));
    }
    lines
}

fn table(answer: &Answer) -> Vec<Vec<Cell>> {
    let sockets: Vec<&Use> = answer.uses.iter().filter(|one| one.socket.is_some()).collect();
    if sockets.is_empty() {
        return Vec::new();
    }
    let elsewhere = sockets.iter().any(|one| one.network > 0);
    let mut heading = vec!["USE", "PROTOCOL", "STATE", "ADDRESS", "PEER", "PROCESS", "USER", "UNIT", "AGE"];
    if elsewhere {
        heading.push("NETWORK");
    }
    let heading = heading.into_iter().map(|text| Cell::new(text, Paint::Heading)).collect();
    std::iter::once(heading).chain(sockets.into_iter().map(|one| row(answer, one, elsewhere))).collect()
}

fn row(answer: &Answer, one: &Use, elsewhere: bool) -> Vec<Cell> {
    let dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let single = one.socket.filter(|_| one.count == 1);
    let state = one.socket.map(|socket| match (socket.state, socket.expires) {
        (SocketState::Bound, _) if one.kind == Kind::Brokered => "reserved".to_owned(),
        (state, Some(left)) => format!("{} {}", state.as_str(), age(left)),
        (state, None) => state.as_str().to_owned(),
    });
    let address = match single {
        Some(socket) => socket.local.to_string(),
        None => format!("and {} more", one.count),
    };
    let started = one.processes.first().and_then(|process| process.age);
    let mut cells = vec![
        Cell::new(one.kind.as_str(), paint(one.kind)),
        Cell::plain(dash(one.protocol.map(|protocol| protocol.to_string()))),
        Cell::plain(dash(state)),
        Cell::plain(address),
        Cell::plain(dash(single.and_then(|socket| socket.remote).map(|remote| remote.to_string()))),
        Cell::plain(dash(processes(one))),
        Cell::plain(dash(one.uid().map(|uid| answer.users.name(uid)))),
        Cell::plain(dash(one.unit().map(str::to_owned))),
        Cell::plain(dash(started.map(age))),
    ];
    if elsewhere {
        let name = answer.networks.get(one.network).and_then(|network| network.name.clone());
        cells.push(Cell::plain(dash(name)));
    }
    cells
}

fn processes(one: &Use) -> Option<String> {
    let shown =
        one.processes.iter().take(ON_A_LINE).map(|process| format!("{}[{}]", process.name, process.pid));
    let more = one.processes.len().saturating_sub(ON_A_LINE);
    let mut text = shown.collect::<Vec<_>>().join(",");
    if more > 0 {
        text.push_str(&format!("+{more}"));
    }
    (!text.is_empty()).then_some(text)
}

fn paint(kind: Kind) -> Paint {
    match kind {
        Kind::Brokered | Kind::Listener | Kind::Datagrams => Paint::Good,
        Kind::Source | Kind::Bound => Paint::Bad,
        Kind::TimeWait => Paint::Waiting,
        _ => Paint::Plain,
    }
}

/// How long, by its largest unit: `43s`, `5min`, `3h`, `12d`.
fn age(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}min", seconds / 60),
        3600..86_400 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

fn said(sentence: &Sentence) -> Vec<Vec<Cell>> {
    let (paint, label) = match sentence.tone {
        Tone::Bad => (Paint::Bad, "to mend it"),
        Tone::Warning => (Paint::Waiting, "to mend it"),
        Tone::Good => (Paint::Plain, "to free it"),
    };
    let text = vec![Cell::new(&sentence.text, paint)];
    let remedy = sentence.remedy.iter().map(|remedy| vec![Cell::plain(format!("  {label}: {remedy}"))]);
    std::iter::once(text).chain(remedy).collect()
}

fn evicted(socket: &EvictedSocket) -> Cell {
    let EvictedSocket { protocol, local, remote, state, outcome, reason } = socket;
    let remote = remote.as_ref().map_or_else(String::new, |remote| format!(" to {remote}"));
    let reason = reason.as_ref().map_or_else(String::new, |reason| format!(": {reason}"));
    let paint = match outcome.as_str() {
        "closed" => Paint::Good,
        "kept" => Paint::Plain,
        _ => Paint::Bad,
    };
    Cell::new(format!("{outcome} {protocol} {local}{remote} ({state}){reason}"), paint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_told_by_its_largest_unit() {
        let told = |seconds| age(Duration::from_secs(seconds));
        assert_eq!(
            [0, 59, 60, 3599, 3600, 86_399, 86_400].map(told),
            ["0s", "59s", "1min", "59min", "1h", "23h", "1d"]
        );
    }
}
