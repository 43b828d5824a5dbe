//! The descriptor store of a booted systemd: what is in it, what a kill at any moment leaves of it, and what it costs.

#![cfg(test)]

use portbroker_lab::{Lab, Preparation, prepare};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, SystemTime};

fn installed(name: &str) -> Preparation {
    prepare(name).install(Path::new(env!("CARGO_MANIFEST_DIR")), Path::new(env!("CARGO_BIN_EXE_portbroker")))
}

const CONFIGURATION: &str = "/etc/portbroker/portbroker.toml";

fn listeners(ports: impl IntoIterator<Item = u16>) -> String {
    let table = |port| format!("[[listener]]\nname = \"p{port}\"\nstream = \"127.0.0.1:{port}\"\n");
    ports.into_iter().map(table).collect()
}

/// Inodes by the name of the listener, as the broker tells them.
fn inodes(lab: &Lab) -> BTreeMap<String, u64> {
    let text = lab.ok("portbroker --json list listeners");
    let list: serde_json::Value = serde_json::from_str(&text).unwrap();
    let list = list.as_array().or_else(|| list["listeners"].as_array()).unwrap();
    let inode = |listener: &serde_json::Value| listener["sockets"][0]["inode"].as_u64().unwrap();
    list.iter().map(|listener| (listener["name"].as_str().unwrap().to_owned(), inode(listener))).collect()
}

/// What is in the broker's store; the private socket is systemd's own.
fn stored(lab: &Lab) -> String {
    lab.show("portbroker", "NFileDescriptorStore")
}

/// How many TCP sockets listen in the lab on these ports.
fn listening(lab: &Lab, first: u16, last: u16) -> usize {
    let command = format!("ss -Hltn 'sport >= :{first} and sport <= :{last}' | wc -l");
    lab.ok(&command).parse().unwrap()
}

/// Kills the broker, and waits for the answer of the next one.
fn kill(lab: &Lab) {
    lab.ok("systemctl kill -s KILL portbroker");
    lab.wait_for("portbroker --json status", 30);
}

#[test]
fn a_kill_at_any_moment_of_a_reload_loses_no_socket() {
    const ROUNDS: u64 = 25;
    let stay = || 20_000..20_300;
    let with = listeners(stay().chain(21_000..21_200));
    let without = listeners(stay());
    let lab = installed("kills").file(CONFIGURATION, &without).boot();
    lab.write("/root/with", &with);
    lab.write("/root/without", &without);
    let before = inodes(&lab);
    assert_eq!((before.len(), stored(&lab)), (300, "2".to_owned()));

    let seed = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().subsec_nanos().into();
    for round in 0..ROUNDS {
        let delay = random(seed, round) % 120;
        lab.step(&format!("round {round} of seed {seed}: killed {delay} ms after reloads began"));
        // Added, removed, added: the kill comes wherever it comes.
        let reload = format!(
            "for set in with without with without; do cp /root/$set {CONFIGURATION}.new; \
             mv {CONFIGURATION}.new {CONFIGURATION}; portbroker reload; done >/dev/null 2>&1 &"
        );
        lab.ok(&format!("{reload} sleep 0.{delay:03}; systemctl kill -s KILL portbroker; wait; exit 0"));
        lab.wait_for("portbroker --json status", 30);
        let now = inodes(&lab);
        let lost: Vec<_> = before.iter().filter(|(name, inode)| now.get(*name) != Some(inode)).collect();
        assert!(lost.is_empty(), "lost or made anew: {lost:?}");
    }

    lab.step("nothing is left of what was removed");
    lab.ok(&format!("cp /root/without {CONFIGURATION} && portbroker reload"));
    assert_eq!(inodes(&lab), before);
    lab.wait_for("test $(systemctl show -P NFileDescriptorStore portbroker) = 2", 5);
    assert_eq!(listening(&lab, 20_000, 21_999), 300);
    kill(&lab);
    assert_eq!(inodes(&lab), before);
    assert_eq!(listening(&lab, 20_000, 21_999), 300);
}

/// A number that depends on two others in no way that shows (splitmix64).
fn random(seed: u64, n: u64) -> u64 {
    let mut z = seed.wrapping_add(n.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// As versions before the box did: each socket by itself, under its inode.
const BEFORE_BOXES: &str = "\
import os, socket, time, array
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
notify.connect(os.environ['NOTIFY_SOCKET'])
sockets = []
for port in range(22000, 22020):
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    s.bind(('127.0.0.1', port))
    s.listen()
    inode = os.fstat(s.fileno()).st_ino
    notify.sendmsg([f'FDSTORE=1\\nFDNAME=portbroker.{inode}\\nFDPOLL=0'.encode()],
                   [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [s.fileno()]))])
    sockets.append(s)
    print('p%d %d' % (port, inode), flush=True)
notify.send(b'READY=1')
time.sleep(1000)
";

#[test]
fn sockets_that_an_earlier_version_stored_one_by_one_move_into_the_box() {
    let drop_in = "/etc/systemd/system/portbroker.service.d/old.conf";
    let lab = installed("upgrade")
        .file("/opt/old.py", BEFORE_BOXES)
        .file(CONFIGURATION, &listeners(22_000..22_020))
        .file(drop_in, "[Service]\nExecStart=\nExecStart=/usr/bin/python3 /opt/old.py\n")
        .boot();
    assert_eq!(stored(&lab), "20");
    let old = lab.ok("journalctl -u portbroker -o cat -t python3");
    let old: BTreeMap<String, u64> = old
        .lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(name, inode)| (name.to_owned(), inode.parse().unwrap()))
        .collect();
    assert_eq!(old.len(), 20);

    lab.ok(&format!("rm {drop_in} && systemctl daemon-reload"));
    kill(&lab);
    assert_eq!(inodes(&lab), old);
    lab.wait_for("test $(systemctl show -P NFileDescriptorStore portbroker) = 2", 5);
    lab.step("and from the box");
    kill(&lab);
    assert_eq!((inodes(&lab), stored(&lab)), (old, "2".to_owned()));
}

/// What PID 1 has used of a processor.
fn of_pid_1(lab: &Lab) -> Duration {
    let text = lab.ok("cut -d' ' -f1 /proc/1/schedstat");
    Duration::from_nanos(text.parse().unwrap())
}

/// How long the broker took from exec to READY, as systemd saw it.
fn start_of(lab: &Lab) -> Duration {
    let at = |property| lab.show("portbroker", property).parse::<u64>().unwrap();
    Duration::from_micros(at("ActiveEnterTimestampMonotonic") - at("ExecMainStartTimestampMonotonic"))
}

#[test]
fn ten_thousand_sockets_are_two_descriptors_and_come_back_as_they_were() {
    let lab = installed("many").file(CONFIGURATION, &listeners(20_000..30_000)).boot();
    println!("cold start: {:?} from exec to READY", start_of(&lab));
    let before = inodes(&lab);
    assert_eq!((before.len(), stored(&lab)), (10_000, "2".to_owned()));
    for _ in 0..3 {
        let pid = lab.show("portbroker", "MainPID");
        let used = of_pid_1(&lab);
        // Not by systemctl, since its questions are PID 1's work too. The call waits in the private socket.
        lab.ok(&format!("kill -9 {pid}; portbroker --json status"));
        let used = of_pid_1(&lab).saturating_sub(used);
        let took = start_of(&lab);
        assert_eq!(inodes(&lab), before);
        assert_eq!(stored(&lab), "2");
        println!("takeover: {took:?} from exec to READY, {used:?} of a processor for PID 1");
    }
    lab.step("a thousand go by one new box");
    lab.write(CONFIGURATION, &listeners(20_000..29_000));
    lab.ok("portbroker reload");
    assert_eq!(listening(&lab, 20_000, 29_999), 9_000);
    lab.wait_for("test $(systemctl show -P NFileDescriptorStore portbroker) = 2", 5);
    let kept: BTreeMap<_, _> = before.into_iter().filter(|(name, _)| name.as_str() < "p29000").collect();
    kill(&lab);
    assert_eq!(inodes(&lab), kept);
}
