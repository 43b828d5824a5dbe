//! Whose a socket is, in words.

use super::Use;
use crate::model::Process;
use std::collections::HashMap;

/// The names of users, from the text of passwd(5): no name service is asked.
#[derive(Debug, Clone, Default)]
pub struct Users(HashMap<u32, String>);

impl Users {
    /// Reads it. The first name of a number counts, as for getpwuid(3).
    #[must_use]
    pub fn parse(passwd: &str) -> Self {
        let mut users = HashMap::new();
        for line in passwd.lines() {
            let mut fields = line.split(':');
            if let (Some(name), Some(Ok(uid))) = (fields.next(), fields.nth(1).map(str::parse)) {
                users.entry(uid).or_insert_with(|| name.to_owned());
            }
        }
        Self(users)
    }

    /// The name of a user, or its number.
    #[must_use]
    pub fn name(&self, uid: u32) -> String {
        self.0.get(&uid).cloned().unwrap_or_else(|| uid.to_string())
    }
}

/// Whoever serves comes before those that keep a copy of its socket: the broker, and systemd in a descriptor store or for
/// a socket unit.
fn rank(process: &Process) -> (bool, bool, u32) {
    (process.pid == 1, process.name == "portbrokerd", process.pid)
}

impl Use {
    /// Fills in who has the socket.
    pub fn give_to(&mut self, mut processes: Vec<Process>) {
        processes.sort_by_key(rank);
        self.processes = processes;
    }

    /// The user: of the process that has the socket, or else of the one that made it. `None`: nobody has it.
    #[must_use]
    pub fn uid(&self) -> Option<u32> {
        let of_process = self.processes.first().and_then(|process| process.uid);
        of_process.or_else(|| self.socket.filter(|socket| socket.inode != 0).map(|socket| socket.uid))
    }

    /// The unit: of the process, or else of the one that made it.
    #[must_use]
    pub fn unit(&self) -> Option<&str> {
        let of_process = self.processes.first().map(|process| process.unit.as_ref());
        of_process.unwrap_or(self.maker.as_ref()).map(|unit| unit.as_str())
    }

    /// `curl (pid 812)`, `nginx (pid 7, nginx.service) and 4 more processes`, `a process of user ann`.
    #[must_use]
    pub fn owner(&self, users: &Users) -> String {
        match (self.processes.as_slice(), self.uid()) {
            ([], None) => "a process that is done with it".to_owned(),
            ([], Some(uid)) => match &self.maker {
                Some(unit) => format!("a process of user {} ({unit})", users.name(uid)),
                None => format!("a process of user {}", users.name(uid)),
            },
            ([one], _) => one.to_string(),
            ([first, second], _) => format!("{first} and {} (pid {})", second.name, second.pid),
            ([first, rest @ ..], _) => format!("{first} and {} more processes", rest.len()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Kind;
    use super::*;

    #[test]
    fn a_service_comes_before_those_that_keep_its_socket_for_it() {
        let process =
            |pid, name: &str| Process { pid, name: name.into(), uid: Some(pid), unit: None, age: None };
        let mut one = Use::new(Kind::Listener, None, 0);
        one.give_to(vec![
            process(1, "systemd"),
            process(9, "portbrokerd"),
            process(12, "b"),
            process(10, "a"),
        ]);
        assert_eq!(one.processes.iter().map(|process| process.pid).collect::<Vec<_>>(), [10, 12, 9, 1]);
        assert_eq!(one.uid(), Some(10));
        assert_eq!(one.owner(&Users::default()), "a (pid 10) and 3 more processes");
        one.give_to(vec![process(1, "systemd"), process(10, "a")]);
        assert_eq!(one.owner(&Users::default()), "a (pid 10) and systemd (pid 1)");
        one.give_to(Vec::new());
        assert_eq!(one.owner(&Users::default()), "a process that is done with it");
    }

    #[test]
    fn a_user_has_the_first_name_of_its_number() {
        let users =
            Users::parse("root:x:0:0:root:/root:/bin/sh\ntoor:x:0:0::/:\nodd\nann:x:1000:1000::/:\n:::\n");
        assert_eq!(users.name(0), "root");
        assert_eq!(users.name(1000), "ann");
        assert_eq!(users.name(7), "7");
    }
}
