//! Bytes on the private socket of a real broker, in a network namespace of its own: whatever comes, the broker goes on,
//! and answers the next who asks.
//!
//! The first byte chooses what comes before the input: nothing (the authentication is the input's), the authentication,
//! or the authentication and the head of a call. Needs root, for the namespace.

#![no_main]

use libfuzzer_sys::fuzz_target;
use portbroker::broker::{Broker, Inheritance, LogGauge, Start};
use portbroker::bus::{bind_private_socket, serve_private_socket};
use portbroker::kernel::descriptors::Spare;
use portbroker::sources::Locations;
use portbroker_client::Session;
use std::cell::RefCell;
use std::path::PathBuf;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::runtime::Runtime;

const CONFIGURATION: &str = "\
[[listener]]
name = \"web\"
stream = \"127.0.0.1:7001\"
[[pool]]
name = \"egress\"
addresses = [\"127.0.0.1\"]
ports = \"10000-32767\"
";
const AUTHENTICATION: &[u8] = b"\0AUTH EXTERNAL 30\r\nNEGOTIATE_UNIX_FD\r\nBEGIN\r\n";
/// New ones come last: the inputs that are kept choose by number.
const MEMBERS: [&str; 24] = [
    "AcquireListeners", "OpenSession", "LeasePairs", "LeaseBlocks", "LeaseSockets", "Release", "Reload", "ListLeases",
    "DrainAddress", "ListDeposits", "ForgetPort", "RenewListener", "GetManagedObjects", "GetAll", "Evict",
    "ListLearned", "ListWanted", "ListForecasts", "ListQueues", "ListEvents", "Get", "Set", "Introspect", "Ping",
];
const SIGNATURES: [&str; 17] = [
    "", "t", "u", "s", "sv", "asa{sv}", "ossua{sv}", "osssua{sv}", "tu", "a{sv}", "sqa{sv}", "q", "sa{sv}", "o", "su",
    "ss", "ssv",
];

/// What the answer to ListLeases is made of.
const ANSWER: &[u8] = b"a(ttssssussa(sqq)u)";

fn holds(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|found| found == part)
}

fn chosen(from: &[&'static str], n: u8) -> &'static str {
    from[usize::from(n) % from.len()]
}

/// A call with these bytes as its body, whatever they are.
fn call(member: &str, signature: &str, body: &[u8]) -> Vec<u8> {
    let interface = match member {
        "GetManagedObjects" => "org.freedesktop.DBus.ObjectManager",
        "Get" | "GetAll" | "Set" => "org.freedesktop.DBus.Properties",
        "Introspect" => "org.freedesktop.DBus.Introspectable",
        "Ping" => "org.freedesktop.DBus.Peer",
        _ => "org.portbroker.PortBroker1.Manager",
    };
    let mut fields = Vec::new();
    let mut field = |code: u8, kind: u8, text: &str| {
        while fields.len() % 8 != 0 {
            fields.push(0_u8);
        }
        fields.extend([code, 1, kind, 0]);
        if kind == b'g' {
            fields.push(u8::try_from(text.len()).unwrap());
        } else {
            fields.extend(u32::try_from(text.len()).unwrap().to_le_bytes());
        }
        fields.extend(text.as_bytes());
        fields.push(0);
    };
    field(1, b'o', "/org/portbroker/PortBroker1");
    field(2, b's', interface);
    field(3, b's', member);
    field(8, b'g', signature);
    let mut message = vec![b'l', 1, 0, 1];
    message.extend(u32::try_from(body.len()).unwrap().to_le_bytes());
    message.extend(1_u32.to_le_bytes());
    message.extend(u32::try_from(fields.len()).unwrap().to_le_bytes());
    message.extend(&fields);
    while message.len() % 8 != 0 {
        message.push(0);
    }
    message.extend(body);
    message
}

struct Served {
    runtime: Runtime,
    socket: PathBuf,
    /// Session 1, which stays open: leases can be made on it.
    _session: Session,
    _folder: tempfile::TempDir,
    _stop: tokio::sync::oneshot::Sender<portbroker::broker::Stop>,
}

impl Served {
    fn new() -> Self {
        // Before there is any other thread.
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("a network namespace takes root");
        assert!(std::process::Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap().success());
        let folder = tempfile::tempdir().unwrap();
        let (config, socket) = (folder.path().join("portbroker.toml"), folder.path().join("bus"));
        std::fs::write(&config, CONFIGURATION).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (_session, _stop) = runtime.block_on(async {
            let (broker, handle) = Broker::start(Start {
                locations: Locations { root: folder.path().to_owned(), config: Some(config) },
                runtime_directory: folder.path().to_owned(),
                state_directory: folder.path().join("state"),
                inheritance: Inheritance::default(),
                log: LogGauge::default(),
            })
            .unwrap();
            let (stop, stopped) = tokio::sync::oneshot::channel();
            let bound = bind_private_socket(&socket).unwrap();
            tokio::spawn(serve_private_socket(bound, handle, Spare::new(), false));
            tokio::spawn(broker.run(stopped));
            let session = portbroker_client::Broker::new().socket_path(&socket).open_session().await.unwrap();
            assert_eq!(session.id(), 1);
            (session, stop)
        });
        Self { runtime, socket, _session, _folder: folder, _stop }
    }

    /// Says this, and hears all that comes back until the broker closes or has nothing more to say.
    async fn say(&self, bytes: &[u8], ends_with: Option<&[u8]>) -> Vec<u8> {
        let mut stream = UnixStream::connect(&self.socket).await.unwrap();
        let mut heard = Vec::new();
        // It may close before all is said.
        let _ = stream.write_all(bytes).await;
        if ends_with.is_none() {
            let _ = stream.shutdown().await;
        }
        loop {
            let read = tokio::time::timeout(Duration::from_secs(20), stream.read_buf(&mut heard)).await;
            match read.expect("the broker hangs") {
                Ok(0) | Err(_) => return heard,
                Ok(_) if ends_with.is_some_and(|end| holds(&heard, end)) => {
                    return heard;
                }
                Ok(_) => {}
            }
        }
    }
}

thread_local! {
    static SERVED: RefCell<Option<Served>> = const { RefCell::new(None) };
}

fuzz_target!(|bytes: &[u8]| {
    SERVED.with_borrow_mut(|served| {
        let served = served.get_or_insert_with(Served::new);
        let said = match bytes {
            [n, member, signature, body @ ..] if n % 4 >= 2 => {
                [AUTHENTICATION, &call(chosen(&MEMBERS, *member), chosen(&SIGNATURES, *signature), body)].concat()
            }
            [n, rest @ ..] if n % 4 == 1 => [AUTHENTICATION, rest].concat(),
            [_, rest @ ..] => rest.to_vec(),
            [] => return,
        };
        served.runtime.block_on(async {
            served.say(&said, None).await;
            // And the next is answered: there are no leases above all numbers.
            let asked = [AUTHENTICATION, &call("ListLeases", "tu", &[0xff; 12])].concat();
            let heard = served.say(&asked, Some(ANSWER)).await;
            assert!(holds(&heard, ANSWER), "{}", String::from_utf8_lossy(&heard));
        });
    });
});
