//! Every key of systemd.socket(5), and what becomes of it in a `[X-PortBroker]` section: taken, not needed, or
//! refused. The manual page has the same table, which a test holds.

use super::key::Key;

/// What becomes of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It means what it means in a socket unit.
    Taken,
    /// It has nothing to do here, and why.
    NotNeeded(&'static str),
    /// It cannot be had.
    Refused {
        /// Why.
        why: &'static str,
        /// What to do in its place.
        instead: &'static str,
        /// Whether `no` is as good as not written.
        unless_no: bool,
    },
}

const FIFO: &str =
    "portbroker holds sockets, and not FIFOs, devices, netlink, message queues or USB endpoints";
const KEEP_UNIT: &str = "keep the socket unit for it";
const ACCEPTED: &str = "it is for Accept=yes";
const LABELS: &str = "labels of Smack and SELinux are set by systemd only";
const COMMANDS: &str = "the broker runs no commands";

const fn refused(why: &'static str, instead: &'static str) -> Fate {
    Fate::Refused { why, instead, unless_no: false }
}

const fn refused_if_yes(why: &'static str, instead: &'static str) -> Fate {
    Fate::Refused { why, instead, unless_no: true }
}

/// Those that are not just taken.
const OTHERS: [(&str, Fate); 33] = [
    ("ListenFIFO", refused(FIFO, KEEP_UNIT)),
    ("ListenSpecial", refused(FIFO, KEEP_UNIT)),
    ("ListenNetlink", refused(FIFO, KEEP_UNIT)),
    ("ListenMessageQueue", refused(FIFO, KEEP_UNIT)),
    ("ListenUSBFunction", refused(FIFO, KEEP_UNIT)),
    ("Writable", refused_if_yes("it is for ListenSpecial=", KEEP_UNIT)),
    ("PipeSize", refused("it is for ListenFIFO=", KEEP_UNIT)),
    ("MessageQueueMaxMessages", refused("it is for ListenMessageQueue=", KEEP_UNIT)),
    ("MessageQueueMessageSize", refused("it is for ListenMessageQueue=", KEEP_UNIT)),
    (
        "Accept",
        refused_if_yes(
            "the broker hands listening sockets over and starts no process for each connection",
            "keep the socket unit, or run a service that accepts for itself (for a program made for inetd: \
             socat or systemd-socket-activate --accept --inetd)",
        ),
    ),
    ("MaxConnections", Fate::NotNeeded(ACCEPTED)),
    ("MaxConnectionsPerSource", Fate::NotNeeded(ACCEPTED)),
    (
        "FlushPending",
        refused_if_yes(
            "what waits in the queue is for the next start of the service",
            "write Idle=refuse: it resets what is queued when the service ends",
        ),
    ),
    ("SmackLabel", refused(LABELS, KEEP_UNIT)),
    ("SmackLabelIPIn", refused(LABELS, KEEP_UNIT)),
    ("SmackLabelIPOut", refused(LABELS, KEEP_UNIT)),
    ("SELinuxContextFromNet", refused_if_yes(LABELS, KEEP_UNIT)),
    ("ExecStartPre", refused(COMMANDS, "write it as ExecStartPre= of the service")),
    ("ExecStartPost", refused(COMMANDS, "write it as ExecStartPre= of the service")),
    ("ExecStopPre", refused(COMMANDS, "write it as ExecStopPost= of the service")),
    ("ExecStopPost", refused(COMMANDS, "write it as ExecStopPost= of the service")),
    ("TimeoutSec", Fate::NotNeeded("it is for commands of the socket unit")),
    ("Service", Fate::NotNeeded("the section is in the service itself")),
    (
        "TriggerLimitIntervalSec",
        Fate::NotNeeded(
            "a service that fails is tried again, ever more slowly, and its socket never given up",
        ),
    ),
    (
        "TriggerLimitBurst",
        Fate::NotNeeded(
            "a service that fails is tried again, ever more slowly, and its socket never given up",
        ),
    ),
    (
        "ReusePort",
        Fate::NotNeeded(
            "SO_REUSEPORT is always on, for the broker's own user; ReusePort=N makes N sockets of each, one for \
             each worker",
        ),
    ),
    ("FileDescriptorName", Fate::Taken),
    // Of systemd 255 and later.
    ("PassPIDFD", refused_if_yes("this version does not set SO_PASSPIDFD", "set it in the service")),
    ("PollLimitIntervalSec", Fate::NotNeeded("the broker does not poll: it waits for the kernel to tell")),
    ("PollLimitBurst", Fate::NotNeeded("the broker does not poll: it waits for the kernel to tell")),
    ("PassFileDescriptorsToExec", refused_if_yes(COMMANDS, KEEP_UNIT)),
    ("DeferTriggerMaxSec", Fate::NotNeeded("it is for DeferTrigger=")),
    (
        "DeferTrigger",
        refused_if_yes("the service is started at once", "order the units with After= and Conflicts="),
    ),
];

/// Every key of a listener, as TOML has it.
pub fn toml_keys() -> impl Iterator<Item = &'static str> {
    Key::toml_names()
}

/// Every key of a listener, as units have it.
pub fn unit_keys() -> impl Iterator<Item = &'static str> {
    Key::unit_names()
}

/// What becomes of a key of systemd.socket(5); `None` for any other.
#[must_use]
pub fn fate(name: &str) -> Option<Fate> {
    let own = matches!(name, "Idle" | "FastOpen" | "Activate");
    match OTHERS.iter().find(|(key, _)| *key == name) {
        Some((_, fate)) => Some(*fate),
        None if !own && Key::of_unit(name).is_some() => Some(Fate::Taken),
        None => None,
    }
}

/// All keys of a socket unit that have a fate.
pub fn all() -> impl Iterator<Item = (&'static str, Fate)> {
    let taken = Key::unit_names().filter_map(|name| Some((name, fate(name)?)));
    taken.filter(|(name, _)| !OTHERS.iter().any(|(key, _)| key == name)).chain(OTHERS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_has_one_fate() {
        let names: Vec<_> = all().map(|(name, _)| name).collect();
        for name in &names {
            assert_eq!(names.iter().filter(|other| *other == name).count(), 1, "{name}");
            assert!(fate(name).is_some());
        }
        assert_eq!(fate("Mark"), Some(Fate::Taken));
        assert_eq!(fate("Idle"), None);
        assert_eq!(fate("ExecStart"), None);
    }
}
