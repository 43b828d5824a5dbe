//! What the daemon's own unit needs more because of what is configured.

use super::delivery::{HEADER, paths};
use super::words;
use crate::config::{Account, Config, ListenerConfig, MetricsSocket};
use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

/// The drop-in for portbroker.service; none where it needs nothing more.
///
/// Unix sockets in the file system: their directories belong to others (CAP_DAC_OVERRIDE), and they are given
/// to whom the configuration says (CAP_CHOWN). Outside of /run the daemon sees everything read-only, so the
/// top directory of each path is opened too: all of it, since what is below may not be there yet. The socket of the
/// metrics is given to a group that the daemon is in for that.
#[must_use]
pub(super) fn drop_in(config: &Config) -> Option<String> {
    // Links to a socket are made where it says, like the socket.
    let of = |l: &ListenerConfig| paths(&l.endpoints).chain(l.options.symlinks.clone()).collect::<Vec<_>>();
    let sockets: Vec<PathBuf> = config.listeners.values().flat_map(|listener| of(listener)).collect();
    let metrics = match &config.metrics.socket {
        MetricsSocket::At(path) => Some(path),
        MetricsSocket::Default | MetricsSocket::None => None,
    };
    let tops: BTreeSet<PathBuf> = sockets.iter().chain(metrics).filter_map(|path| top(path)).collect();
    let mut text = String::new();
    if !sockets.is_empty() {
        text.push_str(
            "AmbientCapabilities=CAP_CHOWN CAP_DAC_OVERRIDE\n\
             CapabilityBoundingSet=CAP_CHOWN CAP_DAC_OVERRIDE\n",
        );
    }
    if sockets.iter().chain(metrics).any(|path| path.starts_with("/dev")) {
        // Our own /dev would be another one than that of everybody else.
        text.push_str("PrivateDevices=no\n");
    }
    for top in tops {
        text.push_str(&format!("ReadWritePaths={}\n", words::quote(&format!("-{}", top.display()))));
    }
    // Who is in a group may give a file of its own to it. systemd starts nobody with a group that it does not know.
    if let Some(Account { name, id: Some(_) }) = &config.metrics.socket_group {
        text.push_str(&format!("SupplementaryGroups={}\n", words::quote(name)));
    }
    (!text.is_empty()).then(|| format!("{HEADER}[Service]\n{text}"))
}

/// `/srv` of `/srv/app/socket`; none for what is writable anyway, or lies in the root directory itself.
fn top(path: &Path) -> Option<PathBuf> {
    let mut parts = path.parent()?.components();
    let (Some(Component::RootDir), Some(first)) = (parts.next(), parts.next()) else { return None };
    let top = Path::new("/").join(first);
    (top != Path::new("/run") && top != Path::new("/dev")).then_some(top)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Metrics, SocketOptions};
    use crate::model::{Endpoint, ListenerName, SocketKind, UnixAddress, UnixEndpoint};

    #[test]
    fn the_places_of_links_are_opened_too() {
        let listener = ListenerConfig {
            endpoints: vec![Endpoint::Unix(UnixEndpoint {
                kind: SocketKind::Stream,
                address: UnixAddress::Path("/run/x".into()),
            })],
            allow: Vec::new(),
            idle: Default::default(),
            activate: None,
            options: SocketOptions { symlinks: vec!["/srv/deep/x".into()], ..SocketOptions::default() },
            origin: Default::default(),
        };
        let name = ListenerName::try_from("x").unwrap();
        let config = Config { listeners: [(name, listener.into())].into(), ..Config::default() };
        assert!(drop_in(&config).unwrap().contains("ReadWritePaths=-/srv\n"));
    }

    #[test]
    fn the_group_that_scrapes_is_one_of_the_daemons() {
        let group = |id| Config {
            metrics: Metrics {
                socket_group: Some(Account { name: "prometheus".into(), id }),
                ..Metrics::default()
            },
            ..Config::default()
        };
        let text = drop_in(&group(Some(150))).unwrap();
        assert!(text.ends_with("[Service]\nSupplementaryGroups=prometheus\n"), "{text}");
        assert_eq!(drop_in(&group(None)), None, "systemd would not start the daemon");
        let elsewhere = Metrics { socket: MetricsSocket::At("/srv/m/socket".into()), ..Metrics::default() };
        let text = drop_in(&Config { metrics: elsewhere, ..Config::default() }).unwrap();
        assert!(text.ends_with("[Service]\nReadWritePaths=-/srv\n"), "{text}");
    }

    #[test]
    fn what_is_opened_is_the_top_directory() {
        assert_eq!(top(Path::new("/srv/app/x/socket")), Some("/srv".into()));
        assert_eq!(top(Path::new("/run/app/socket")), None);
        assert_eq!(top(Path::new("/socket")), None);
    }
}
