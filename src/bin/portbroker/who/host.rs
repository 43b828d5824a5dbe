//! What the kernel says about a port, in every network namespace that may be entered, and whose its sockets are.

use portbroker::kernel::process::are_others_hidden;
use portbroker::kernel::reserved_ports::ReservedPorts;
use portbroker::kernel::scan::{self, Namespace, States, Wanted};
use portbroker::model::{PortSet, Process, Protocol, Socket, SocketState, UnitName};
use portbroker::uses::{self, Network, Question, Use, Users};
use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io;
use std::path::Path;

/// What was seen.
pub(super) struct Seen {
    /// The own network namespace first, and those others in which a socket has the port.
    pub(super) networks: Vec<Network>,
    /// What could not be, a sentence each.
    pub(super) unseen: Vec<String>,
}

pub(super) fn look(question: &Question) -> io::Result<Seen> {
    let found = scan::namespaces()?;
    let looks = scan::in_each(&found.namespaces, |namespace| look_in(namespace, question));
    let mut unseen = Vec::new();
    let (mut networks, mut closed) = (Vec::new(), 0);
    for (namespace, look) in found.namespaces.iter().zip(looks) {
        match look {
            Ok(network) if namespace.own || !network.sockets.is_empty() => networks.push(network),
            Ok(_) => {}
            Err(error) if namespace.own => return Err(error),
            Err(_) => closed += 1,
        }
    }
    if closed > 0 {
        unseen.push(format!(
            "{} cannot be entered: {}",
            counted(closed, "other network namespace"),
            advice("CAP_SYS_ADMIN")
        ));
    }
    if found.unseen > 0 {
        let processes = counted(found.unseen, "process");
        unseen.push(format!("in which network namespaces {processes} may be: {}", advice("CAP_SYS_PTRACE")));
    }
    if are_others_hidden() {
        unseen.push("the processes of other users, which /proc hides (hidepid=): run it as root".to_owned());
    }
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    if !tells_bound(&release) {
        unseen.push(format!(
            "TCP sockets that are bound and neither listen nor are connected: Linux tells them from 6.8 on, and this is {}",
            release.trim()
        ));
    }
    Ok(Seen { networks, unseen })
}

/// Whether any socket has the port in the own network namespace now.
pub(super) fn is_in_the_way(question: &Question) -> io::Result<bool> {
    Ok(sockets_on(question)?.iter().any(|socket| socket.state != SocketState::Listen))
}

fn sockets_on(question: &Question) -> io::Result<Vec<Socket>> {
    let mut sockets = Vec::new();
    for protocol in question.protocols() {
        let wanted = Wanted { protocol, port: Some(question.port), states: States::Any };
        scan::sockets(wanted, |socket| sockets.push(socket))?;
    }
    Ok(sockets)
}

/// From Linux 6.8 on sock_diag tells TCP sockets that are only bound.
fn tells_bound(release: &str) -> bool {
    let mut numbers =
        release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (6, 8)
}

/// What one network namespace has, that of this thread.
fn look_in(namespace: &Namespace, question: &Question) -> io::Result<Network> {
    let sockets = sockets_on(question)?;
    let (name, enter) = called(namespace);
    if sockets.is_empty() && !namespace.own {
        return Ok(Network { name, enter, ..Network::default() });
    }
    let mut listening = PortSet::default();
    if sockets.iter().any(|socket| socket.remote.is_some()) {
        let wanted = Wanted { protocol: Protocol::Tcp, port: None, states: States::Waiting };
        scan::sockets(wanted, |socket| {
            listening.insert(socket.local.port());
        })?;
    }
    let sysctls = ReservedPorts::default();
    let range = sysctls.ephemeral_range().ok();
    let reserved = sysctls.read().unwrap_or_default();
    Ok(Network { name, enter, sockets, listening, range, reserved })
}

/// What people call a namespace, and what begins a command in it.
fn called(namespace: &Namespace) -> (Option<String>, Option<String>) {
    if namespace.own {
        return (None, None);
    }
    let (name, enter) = match (&namespace.mount, namespace.pid) {
        (Some(mount), _) => {
            let shown = mount.display().to_string();
            match mount.strip_prefix("/run/netns").ok().and_then(Path::to_str) {
                Some(name) => (name.to_owned(), format!("ip netns exec {name}")),
                None => (shown.clone(), format!("nsenter --net={shown}")),
            }
        }
        (None, Some(pid)) => (format!("of pid {pid}"), format!("nsenter --target {pid} --net")),
        (None, None) => (namespace.inode.to_string(), "nsenter".to_owned()),
    };
    (Some(name), Some(enter))
}

/// Fills in whose the sockets are, and says what could not be seen of that.
pub(super) fn name_owners(uses: &mut [Use]) -> io::Result<Option<String>> {
    let wanted: BTreeSet<u32> = uses.iter().filter_map(Use::inode).collect();
    if wanted.is_empty() {
        return Ok(None);
    }
    let found = scan::descriptors(|inode| wanted.contains(&inode))?;
    let processes = scan::processes(found.rows.iter().map(|row| row.pid))?;
    let mut makers: HashMap<u64, Option<UnitName>> = HashMap::new();
    for one in uses.iter_mut() {
        let Some((socket, inode)) = one.socket.zip(one.inode()) else { continue };
        let of_it = found.of(inode).iter().filter_map(|row| processes.get(&row.pid).cloned());
        one.give_to(of_it.collect::<Vec<Process>>());
        if one.processes.is_empty() {
            let unit = makers.entry(socket.cgroup).or_insert_with(|| scan::unit_of_maker(socket.cgroup));
            one.maker.clone_from(unit);
        }
    }
    let is_unknown = |one: &Use| one.inode().is_some() && one.processes.is_empty();
    Ok((found.unseen > 0 && uses.iter().any(is_unknown)).then(|| {
        let processes = counted(found.unseen, "process");
        format!(
            "which of {processes} has a socket of which only the user is told: {}",
            advice("CAP_SYS_PTRACE")
        )
    }))
}

/// What to do about something that may not be seen.
fn advice(capability: &str) -> String {
    if nix::unistd::geteuid().is_root() {
        format!("it takes {capability}, or rights that they have and this process has not")
    } else {
        "run it as root".to_owned()
    }
}

/// `1 process`, `7 processes`
fn counted(count: usize, what: &str) -> String {
    match count {
        1 => format!("1 {what}"),
        _ if what.ends_with('s') => format!("{count} {what}es"),
        _ => format!("{count} {what}s"),
    }
}

pub(super) fn users() -> Users {
    Users::parse(&text("/etc/passwd"))
}

pub(super) fn service(question: &Question) -> Option<String> {
    uses::name_in(&text("/etc/services"), question.port, question.protocol).map(str::to_owned)
}

/// A file, or nothing where it cannot be read: it only names what has a number.
fn text(path: &str) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_from_6_8_on_tell_bound_sockets() {
        for (release, tells) in
            [("6.8.0", true), ("6.18.44-fc", true), ("6.1.0-18-amd64", false), ("7.0", true), ("", false)]
        {
            assert_eq!(tells_bound(release), tells, "{release}");
        }
    }
}
