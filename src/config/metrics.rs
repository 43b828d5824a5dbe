//! `[metrics]`: where the metrics are served, to whom, and how many destinations they name.
//!
//! A unix socket that only root and a group can connect to is there by default, since who leases for which destination
//! is not everybody's to know. TCP is there only where somebody says so, and on loopback only: there every user of the
//! host can read it, and nothing encrypts it.

use super::fault::{Fault, Place, quoted};
use super::{Account, Accounts};
use std::net::SocketAddr;
use std::path::PathBuf;

/// More addresses are not listened on.
pub(super) const MOST_ADDRESSES: usize = 8;
/// More destinations are not named.
pub(super) const MOST_DESTINATIONS: u32 = 256;
/// `sun_path` of unix(7), with the byte that ends it.
const MAX_PATH: usize = 107;

/// `[metrics]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metrics {
    /// `socket`
    pub socket: MetricsSocket,
    /// `socket-mode`
    pub socket_mode: u32,
    /// `socket-group`; `None`: the broker's own.
    pub socket_group: Option<Account>,
    /// `listen`: addresses of loopback.
    pub listen: Vec<SocketAddr>,
    /// `destinations`: so many are named, those of which most is taken.
    pub destinations: u32,
}

/// Where the unix socket is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum MetricsSocket {
    /// `metrics` in the runtime directory.
    #[default]
    Default,
    /// At this path.
    At(PathBuf),
    /// Nowhere.
    None,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            socket: MetricsSocket::Default,
            socket_mode: 0o660,
            socket_group: None,
            listen: Vec::new(),
            destinations: 20,
        }
    }
}

impl std::fmt::Display for MetricsSocket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::At(path) => write!(f, "{}", path.display()),
            Self::None => f.write_str("none"),
        }
    }
}

pub(super) fn socket(text: &str, place: &Place) -> Result<MetricsSocket, Fault> {
    match text {
        "default" => Ok(MetricsSocket::Default),
        "none" => Ok(MetricsSocket::None),
        path if path.starts_with('/') && path.len() <= MAX_PATH && !path.contains('\0') => {
            Ok(MetricsSocket::At(PathBuf::from(path)))
        }
        path if path.starts_with('/') => {
            let fault = place.error(format!("{} is no path of a socket", quoted(path)));
            Err(fault.help(format!("it may have {MAX_PATH} bytes")))
        }
        _ => {
            let fault = place.error(format!("{} is no place for a socket", quoted(text)));
            Err(fault.help("write \"default\", an absolute path, or \"none\""))
        }
    }
}

pub(super) fn mode(text: &str, place: &Place) -> Result<u32, Fault> {
    let octal = (3..=4).contains(&text.len()) && text.bytes().all(|b| (b'0'..=b'7').contains(&b));
    match u32::from_str_radix(text, 8) {
        Ok(mode) if octal && mode <= 0o777 => Ok(mode),
        _ => {
            let fault = place.error(format!("{} is no file mode", quoted(text)));
            Err(fault.help("write octal digits, as in \"0660\""))
        }
    }
}

pub(super) fn group(text: &str, place: &Place, accounts: &Accounts) -> Result<Account, Fault> {
    accounts.group(text).ok_or_else(|| place.error(format!("{} cannot be a group", quoted(text))))
}

/// Nobody outside of the host gets at it.
pub(super) fn address(text: &str, place: &Place) -> Result<SocketAddr, Fault> {
    let example = "write it as in \"127.0.0.1:9188\" or \"[::1]:9188\"";
    match text.parse::<SocketAddr>() {
        Err(_) => Err(place.error(format!("{} is no address with a port", quoted(text))).help(example)),
        Ok(address) if !address.ip().is_loopback() => {
            let fault = place.error(format!("{address} is not of loopback: metrics are not for other hosts"));
            Err(fault.help(format!("{example}; put a proxy that authenticates before it for others")))
        }
        Ok(address) if address.port() == 0 => {
            Err(place.error(format!("{address} has no port that could be found")).help(example))
        }
        Ok(address) => Ok(address),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Checked, Sources, TomlFile, build, show};

    fn read(text: &str) -> Checked {
        let files = vec![TomlFile { path: "/x.toml".into(), text: text.into() }];
        let accounts = Accounts::parse("", "prometheus:x:150:\n");
        build(&Sources { files, accounts, inherited: Some(Vec::new()), ..Sources::default() })
    }

    fn faults(text: &str) -> Vec<String> {
        read(&format!("[metrics]\n{text}")).faults.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn by_default_there_is_a_socket_for_root_and_the_brokers_group_and_no_tcp() {
        let metrics = read("").config.metrics;
        assert_eq!((metrics.socket, metrics.socket_mode), (MetricsSocket::Default, 0o660));
        assert_eq!((metrics.listen, metrics.socket_group), (Vec::new(), None));
    }

    #[test]
    fn what_is_written_is_read_shown_and_kept() {
        let text = "[metrics]\nsocket = \"/run/x/m\"\nsocket-mode = \"0600\"\nsocket-group = \"prometheus\"\n\
                    listen = [\"127.0.0.1:9188\", \"[::1]:9188\"]\ndestinations = 5\n";
        let checked = read(text);
        assert!(checked.faults.is_empty(), "{:?}", checked.faults);
        let metrics = &checked.config.metrics;
        assert_eq!(metrics.socket, MetricsSocket::At("/run/x/m".into()));
        assert_eq!((metrics.socket_mode, metrics.destinations, metrics.listen.len()), (0o600, 5, 2));
        assert_eq!(metrics.socket_group.as_ref().unwrap().id, Some(150));
        let shown = show::config_toml(&checked);
        for line in
            ["socket = \"/run/x/m\" ", "socket-mode = \"0600\" ", "    \"[::1]:9188\",", "destinations = 5 "]
        {
            assert!(shown.contains(line), "{line}: {shown}");
        }
        assert_eq!(
            read(&show::to_toml(&checked.config)).config.metrics,
            *metrics,
            "the last good one has them"
        );
        assert_eq!(read(&shown).config.metrics, *metrics);
        assert_eq!(show::config_json(&checked)["metrics"]["values"][0]["value"], "/run/x/m");
    }

    #[test]
    fn only_loopback_is_listened_on_and_the_fault_says_what_to_write() {
        for (text, fault) in [
            ("listen = \"0.0.0.0:9188\"", "not of loopback"),
            ("listen = \"192.0.2.1:9188\"", "not of loopback"),
            ("listen = \"[::]:9188\"", "not of loopback"),
            ("listen = \"[::ffff:127.0.0.1]:9188\"", "not of loopback"),
            ("listen = \"localhost:9188\"", "no address with a port"),
            ("listen = \"127.0.0.1:0\"", "no port"),
            ("listen = 9188", "takes strings"),
            ("socket = \"metrics\"", "an absolute path"),
            ("socket = false", "takes a string"),
            ("socket-mode = \"rw\"", "no file mode"),
            ("socket-mode = \"4755\"", "no file mode"),
            ("socket-group = \"a b\"", "cannot be a group"),
            ("destinations = 257", "0 to 256"),
            ("destinations = \"all\"", "a decimal integer"),
            ("scoket = \"none\"", "did you mean \"socket\"?"),
        ] {
            let faults = faults(text);
            assert!(faults.len() == 1 && faults[0].contains(fault), "{text}: {faults:?}");
        }
        let many: Vec<String> = (1..=9).map(|n| format!("\"127.0.0.1:{n}\"")).collect();
        assert!(faults(&format!("listen = [{}]", many.join(", ")))[0].contains("at most 8"));
    }
}
