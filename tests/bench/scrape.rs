//! A scrape of the metrics, with many listeners and very many leases.

use crate::daemon::Daemon;
use crate::lease_calls::{CONFIGURATION, make_addresses, open};
use crate::measure::{Samples, Table, Target, in_milliseconds, row};
use crate::netns::in_netns;
use crate::place::listener;
use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

const LISTENERS: u16 = 1000;
const LEASES: u32 = 100_000;
const SCRAPES: usize = 20;
/// An answer is as good as a new one for a second.
const UNTIL_NEW: Duration = Duration::from_millis(1100);

pub(crate) fn measure() -> Vec<Table> {
    in_netns(|| {
        make_addresses();
        let listeners: String = (0..LISTENERS).map(|n| listener(&format!("l{n}"), 30_000 + n)).collect();
        // All that may be named.
        let metrics = "[metrics]\ndestinations = 256\n";
        let daemon = Daemon::start(&format!("{metrics}{CONFIGURATION}{listeners}"));
        let path = daemon.folder().join("run/portbroker/metrics");
        let (mut caller, _session) = open(&daemon);
        caller.lease("large", 1, LEASES);
        let (mut new, mut kept, mut length) = (Samples::new(), Samples::new(), 0);
        for _ in 0..SCRAPES {
            std::thread::sleep(UNTIL_NEW);
            let (time, bytes) = scrape(&path);
            new.push(time);
            length = bytes;
            kept.push(scrape(&path).0);
        }
        let bare = bare(daemon.folder(), length);
        vec![Table {
            title: format!("a scrape with {LISTENERS} listeners and {LEASES} leases, {length} bytes"),
            unit: "ms",
            ours: row("a scrape", new),
            target: Target { limit: 10.0, says: "at most 10 ms".into() },
            others: vec![
                row("another within a second of it", kept),
                row("as many bytes from a process that has them", bare),
            ],
        }]
    })
}

/// How long it takes, from the connection to its end, and how many bytes come.
fn scrape(path: &Path) -> (f64, usize) {
    let begin = Instant::now();
    let mut stream = UnixStream::connect(path).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").unwrap();
    let mut text = Vec::new();
    stream.read_to_end(&mut text).unwrap();
    let time = in_milliseconds(begin.elapsed());
    assert!(text.starts_with(b"HTTP/1.1 200") && text.ends_with(b"# EOF\n"));
    (time, text.len())
}

fn bare(folder: &Path, length: usize) -> Samples {
    let path = folder.join("bare");
    let listener = UnixListener::bind(&path).unwrap();
    let text = [b"HTTP/1.1 200".as_slice(), &vec![b' '; length.saturating_sub(18)], b"# EOF\n"].concat();
    let serving = std::thread::spawn(move || {
        for _ in 0..SCRAPES {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 256];
            assert!(stream.read(&mut request).unwrap() > 0);
            stream.write_all(&text).unwrap();
        }
    });
    let mut samples = Samples::new();
    for _ in 0..SCRAPES {
        samples.push(scrape(&path).0);
    }
    serving.join().unwrap();
    samples
}
