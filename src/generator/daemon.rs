//! What the daemon's own unit needs more because of what is configured.

use super::delivery::{HEADER, paths};
use super::words;
use crate::config::{Config, ListenerConfig, SocketOptions};
use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

/// The bits of a mode that no service may set without need.
const SET_IDS: u32 = 0o6000;

/// The drop-in for portbroker.service; none where it needs nothing more.
///
/// Unix sockets in the file system: their directories belong to others (CAP_DAC_OVERRIDE), and some are given
/// to whom the configuration says (CAP_CHOWN, and the system calls for it). Outside of /run the daemon sees everything
/// read-only, so the top directory of each path is opened too: all of it, since what is below may not be there yet.
#[must_use]
pub(super) fn drop_in(config: &Config) -> Option<String> {
    // Links to a socket are made where it says, like the socket.
    let of = |l: &ListenerConfig| paths(&l.endpoints).chain(l.options.symlinks.clone()).collect::<Vec<_>>();
    let sockets: Vec<PathBuf> = config.listeners.values().flat_map(|listener| of(listener)).collect();
    if sockets.is_empty() {
        return None;
    }
    let any = |of: fn(&SocketOptions) -> bool| {
        let mut with_paths = config.listeners.values().filter(|l| paths(&l.endpoints).next().is_some());
        with_paths.any(|listener| of(&listener.options))
    };
    let gives_away = any(|options| options.socket_user.is_some() || options.socket_group.is_some());
    let sets_ids = any(|options| (options.socket_mode | options.directory_mode) & SET_IDS != 0);
    let capabilities = if gives_away { "CAP_CHOWN CAP_DAC_OVERRIDE" } else { "CAP_DAC_OVERRIDE" };
    let tops: BTreeSet<PathBuf> = sockets.iter().filter_map(|path| top(path)).collect();
    let mut text = format!(
        "{HEADER}[Service]\n\
         AmbientCapabilities={capabilities}\n\
         CapabilityBoundingSet={capabilities}\n"
    );
    if gives_away {
        text.push_str("SystemCallFilter=@chown\n");
    }
    if sets_ids {
        text.push_str("RestrictSUIDSGID=no\n");
    }
    if sockets.iter().any(|path| path.starts_with("/dev")) {
        // Our own /dev would be another one than that of everybody else.
        text.push_str("PrivateDevices=no\n");
    }
    for top in tops {
        text.push_str(&format!("ReadWritePaths={}\n", words::quote(&format!("-{}", top.display()))));
    }
    Some(text)
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
    use crate::config::Account;
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
    fn what_is_opened_is_the_top_directory() {
        assert_eq!(top(Path::new("/srv/app/x/socket")), Some("/srv".into()));
        assert_eq!(top(Path::new("/run/app/socket")), None);
        assert_eq!(top(Path::new("/socket")), None);
    }
}
