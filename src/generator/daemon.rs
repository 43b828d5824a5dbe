//! What the daemon's own unit needs more because of what is configured.

use super::delivery::{HEADER, paths};
use super::words;
use crate::config::{Account, Config, ListenerConfig, MetricsSocket, SocketOptions};
use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

/// The bits of a mode that no service may set without need.
const SET_IDS: u32 = 0o6000;

/// The drop-in for portbroker.service; none where it needs nothing more.
///
/// Unix sockets in the file system: their directories belong to others (CAP_DAC_OVERRIDE), and some are given
/// to whom the configuration says (CAP_CHOWN, and the system calls for it). Outside of /run the daemon sees everything
/// read-only, so the top directory of each path is opened too: all of it, since what is below may not be there yet. The
/// socket of the metrics is given to a group that the daemon is in for that.
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
    let any = |of: fn(&SocketOptions) -> bool| {
        let mut with_paths = config.listeners.values().filter(|l| paths(&l.endpoints).next().is_some());
        with_paths.any(|listener| of(&listener.options))
    };
    let gives_away = any(|options| options.socket_user.is_some() || options.socket_group.is_some());
    // systemd starts nobody with a group that it does not know.
    let scrapers = config.metrics.socket_group.as_ref().filter(|group| group.id.is_some());
    let mut text = String::new();
    if !sockets.is_empty() {
        let capabilities = if gives_away { "CAP_CHOWN CAP_DAC_OVERRIDE" } else { "CAP_DAC_OVERRIDE" };
        text.push_str(&format!("AmbientCapabilities={capabilities}\nCapabilityBoundingSet={capabilities}\n"));
    }
    if gives_away || scrapers.is_some() {
        text.push_str("SystemCallFilter=@chown\n");
    }
    if any(|options| (options.socket_mode | options.directory_mode) & SET_IDS != 0) {
        text.push_str("RestrictSUIDSGID=no\n");
    }
    if sockets.iter().chain(metrics).any(|path| path.starts_with("/dev")) {
        // Our own /dev would be another one than that of everybody else.
        text.push_str("PrivateDevices=no\n");
    }
    for top in tops {
        text.push_str(&format!("ReadWritePaths={}\n", words::quote(&format!("-{}", top.display()))));
    }
    // Who is in a group may give a file of its own to it.
    if let Some(Account { name, .. }) = scrapers {
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
    use crate::config::Metrics;
    use crate::model::{Endpoint, ListenerName, SocketKind, UnixAddress, UnixEndpoint};

    fn with(options: SocketOptions) -> String {
        let listener = ListenerConfig {
            endpoints: vec![Endpoint::Unix(UnixEndpoint {
                kind: SocketKind::Stream,
                address: UnixAddress::Path("/run/x".into()),
            })],
            allow: Vec::new(),
            idle: Default::default(),
            activate: None,
            options,
            origin: Default::default(),
        };
        let name = ListenerName::try_from("x").unwrap();
        let config = Config { listeners: [(name, listener.into())].into(), ..Config::default() };
        drop_in(&config).unwrap()
    }

    #[test]
    fn the_places_of_links_are_opened_too() {
        let options = SocketOptions { symlinks: vec!["/srv/deep/x".into()], ..SocketOptions::default() };
        assert!(with(options).contains("ReadWritePaths=-/srv\n"));
    }

    #[test]
    fn only_what_is_asked_for_is_given() {
        let plain = with(SocketOptions::default());
        assert!(plain.contains("AmbientCapabilities=CAP_DAC_OVERRIDE\n"), "{plain}");
        assert!(!plain.contains("chown") && !plain.contains("SUIDSGID"), "{plain}");
        let group = Some(Account { name: "web".into(), id: Some(7) });
        let given = with(SocketOptions { socket_group: group, ..SocketOptions::default() });
        assert!(
            given.contains("CapabilityBoundingSet=CAP_CHOWN CAP_DAC_OVERRIDE\nSystemCallFilter=@chown\n"),
            "{given}"
        );
        let shared = with(SocketOptions { directory_mode: 0o2775, ..SocketOptions::default() });
        assert!(shared.contains("RestrictSUIDSGID=no\n"), "{shared}");
        assert!(
            !with(SocketOptions { directory_mode: 0o1777, ..SocketOptions::default() }).contains("SUIDSGID")
        );
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
        assert!(
            text.ends_with("[Service]\nSystemCallFilter=@chown\nSupplementaryGroups=prometheus\n"),
            "{text}"
        );
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
