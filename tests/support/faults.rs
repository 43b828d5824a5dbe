//! Faults of a configuration, of many kinds, put beside a good one and taken away again.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

/// How one fault is made, below the folder of the drop-ins and the root; what it is called in the refusal.
type Kind = (fn(&Path, &Path) -> PathBuf, &'static str);

fn file(path: PathBuf, bytes: impl AsRef<[u8]>) -> PathBuf {
    fs::write(&path, bytes).unwrap();
    path
}

const KINDS: [Kind; 16] = [
    (
        |d, _| file(d.join("10-key.toml"), "[[listener]]\nname = \"x\"\nsteam = \"1\"\n"),
        "did you mean \"stream\"",
    ),
    (
        |d, _| file(d.join("11-conflict.toml"), "[[listener]]\nname = \"y\"\nstream = \"127.0.0.1:7801\"\n"),
        "both listen on tcp 127.0.0.1:7801",
    ),
    (
        |d, _| file(d.join("12-twice.toml"), "[[listener]]\nname = \"web0\"\nstream = \"127.0.0.1:7870\"\n"),
        "the listener \"web0\" is defined twice",
    ),
    (
        |d, _| {
            let path = d.join("13-no-file.toml");
            fs::create_dir(&path).unwrap();
            path
        },
        "this is no regular file",
    ),
    (
        |d, _| {
            let path = file(d.join("14-everybody.toml"), "[protect]\nports = [\"1\"]\n");
            fs::set_permissions(&path, Permissions::from_mode(0o666)).unwrap();
            path
        },
        "can be written by everyone",
    ),
    (
        |d, _| {
            let path = file(d.join("15-somebody.toml"), "[protect]\nports = [\"1\"]\n");
            chown(&path, Some(4711), None).unwrap();
            path
        },
        "belongs to uid 4711",
    ),
    (|d, _| file(d.join("16-half.toml"), "[[listener]]\nname = \"z\"\nstream = \"127.0.0."), "no valid TOML"),
    (
        |d, _| file(d.join("17-pool.toml"), "[[pool]]\nname = \"bad\"\naddresses = [\"nowhere\"]\n"),
        "\"nowhere\" is no source address",
    ),
    (
        |d, _| {
            let pool = "[[pool]]\nname = \"full\"\naddresses = [\"192.0.2.1\"]\nports = \"7801\"\n";
            file(d.join("18-ports.toml"), pool)
        },
        "the pool \"full\" has no port left",
    ),
    (|d, _| file(d.join("19-bytes.toml"), b"# \xff\n"), "the file is not UTF-8"),
    (|d, _| file(d.join("20-large.toml"), vec![b'#'; (1 << 20) + 1]), "the file is larger than"),
    (
        |d, _| {
            let text = "[[listener]]\nname = \"i\"\nstream = \"127.0.0.1:7871\"\nidle = \"wait\"\n";
            file(d.join("21-idle.toml"), text)
        },
        "\"wait\" is not what a listener can do",
    ),
    (|d, _| file(d.join("22-port.toml"), "[protect]\nports = [\"70000\"]\n"), "\"70000\" is no port"),
    (
        |d, _| {
            let text = "[[listener]]\nname = \"u\"\nstream = \"/run/u.sock\"\nreuse-port = 2\n";
            file(d.join("23-shards.toml"), text)
        },
        "a unix name has one",
    ),
    (
        |_, root| {
            let text = "[Service]\nExecStart=/bin/true\n[X-PortBroker]\nListenSteam=7872\n";
            file(root.join("etc/systemd/system/mistyped.service"), text)
        },
        "unknown key \"ListenSteam\"",
    ),
    (
        |_, root| {
            let text = "[Service]\nExecStart=/bin/true\n[X-PortBroker]\nListenStream=127.0.0.1:7802\n";
            file(root.join("etc/systemd/system/rival.service"), text)
        },
        "both listen on tcp 127.0.0.1:7802",
    ),
];

/// What was put there.
pub(crate) struct Put {
    paths: Vec<PathBuf>,
    /// What the refusal must say, each of it.
    pub(crate) reasons: Vec<&'static str>,
}

/// The `n`-th set of one to four faults.
pub(crate) fn put(root: &Path, n: usize) -> Put {
    let folder = root.join("etc/portbroker/portbroker.conf.d");
    let step = 1 + n / KINDS.len() % 7;
    let chosen = (0..1 + n % 4).map(|k| &KINDS[(n + k * step) % KINDS.len()]);
    let made = chosen.map(|(make, reason)| (make(&folder, root), *reason));
    let (paths, reasons) = made.unzip();
    Put { paths, reasons }
}

impl Put {
    pub(crate) fn take_away(self) {
        for path in self.paths {
            if path.is_dir() { fs::remove_dir(path).unwrap() } else { fs::remove_file(path).unwrap() }
        }
    }
}
