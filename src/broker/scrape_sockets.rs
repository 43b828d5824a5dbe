//! The sockets that metrics are scraped from: made as the configuration says, and given to who serves them.
//!
//! One that cannot be made is a fault, and is tried again every minute; so is one whose path somebody removed.

use super::Broker;
use crate::config::{Metrics, MetricsSocket};
use crate::kernel::scrape_socket::{listen_at, listen_on};
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// Whoever is no member of a group cannot give a file to it.
const MEMBER: &str =
    ": the broker has to be a member of socket-group, which \"systemctl daemon-reload\" makes it";

/// Where metrics are scraped.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ScrapePlace {
    /// By a unix socket.
    Path(PathBuf),
    /// By TCP.
    Address(SocketAddr),
}

/// A socket that listens, and does not wait.
#[derive(Debug)]
pub enum ScrapeSocket {
    /// At a path.
    Unix(UnixListener),
    /// On an address.
    Tcp(TcpListener),
}

/// What is to be served from now on.
#[derive(Debug)]
pub enum ScrapeChange {
    /// This too.
    Open(ScrapePlace, ScrapeSocket),
    /// This no more.
    Close(ScrapePlace),
}

/// What a socket was made by: with another mode or group it is another one.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Made {
    mode: u32,
    group: Option<u32>,
}

/// All of them.
pub(super) struct ScrapeSockets {
    directory: PathBuf,
    config: Metrics,
    open: BTreeMap<ScrapePlace, Made>,
    faults: Vec<String>,
    changes: UnboundedSender<ScrapeChange>,
    receiver: Option<UnboundedReceiver<ScrapeChange>>,
}

impl std::fmt::Display for ScrapePlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Path(path) => write!(f, "{}", path.display()),
            Self::Address(address) => write!(f, "{address}"),
        }
    }
}

impl ScrapeSockets {
    pub(super) fn new(runtime_directory: &Path) -> Self {
        let (changes, receiver) = unbounded_channel();
        Self {
            directory: runtime_directory.to_owned(),
            config: Metrics { socket: MetricsSocket::None, ..Metrics::default() },
            open: BTreeMap::new(),
            faults: Vec::new(),
            changes,
            receiver: Some(receiver),
        }
    }

    pub(super) fn faults(&self) -> impl Iterator<Item = &String> {
        self.faults.iter()
    }

    /// How many destinations are named.
    pub(super) fn destinations(&self) -> usize {
        usize::try_from(self.config.destinations).unwrap_or_default()
    }

    fn path(&self) -> Option<PathBuf> {
        match &self.config.socket {
            MetricsSocket::Default => Some(self.directory.join("metrics")),
            MetricsSocket::At(path) => Some(path.clone()),
            MetricsSocket::None => None,
        }
    }

    fn wanted(&self) -> BTreeMap<ScrapePlace, Made> {
        let Metrics { socket_mode, socket_group, listen, .. } = &self.config;
        let group = socket_group.as_ref().and_then(|group| group.id);
        let path = self.path().map(|path| (ScrapePlace::Path(path), Made { mode: *socket_mode, group }));
        let tcp = |address: &SocketAddr| (ScrapePlace::Address(*address), Made { mode: 0, group: None });
        listen.iter().map(tcp).chain(path).collect()
    }

    /// Brings the sockets in step with what is configured; whether the faults are others.
    fn settle(&mut self) -> bool {
        let wanted = self.wanted();
        let is_there = |place: &ScrapePlace| match place {
            ScrapePlace::Path(path) => path.symlink_metadata().is_ok(),
            ScrapePlace::Address(_) => true,
        };
        let gone: Vec<ScrapePlace> = self
            .open
            .iter()
            .filter(|(place, made)| wanted.get(place) != Some(made) || !is_there(place))
            .map(|(place, _)| place.clone())
            .collect();
        for place in gone {
            self.close(&place);
        }
        let mut faults = Vec::new();
        if let Some(group) = self.config.socket_group.as_ref().filter(|group| group.id.is_none()) {
            faults.push(format!(
                "metrics: there is no group {:?}: the socket is the broker's own group's",
                group.name
            ));
        }
        for (place, made) in wanted {
            if self.open.contains_key(&place) {
                continue;
            }
            let socket = match &place {
                ScrapePlace::Path(path) => listen_at(path, made.mode, made.group).map(ScrapeSocket::Unix),
                ScrapePlace::Address(address) => listen_on(*address).map(ScrapeSocket::Tcp),
            };
            match socket {
                Ok(socket) => {
                    tracing::debug!(event = "metrics", %place, "metrics are served at {place}");
                    // Nobody serves them any more where the daemon is about to end.
                    let _ = self.changes.send(ScrapeChange::Open(place.clone(), socket));
                    self.open.insert(place, made);
                }
                Err(error) => {
                    let of_group = made.group.is_some() && error.kind() == ErrorKind::PermissionDenied;
                    let advice = if of_group { MEMBER } else { "" };
                    faults.push(format!("metrics: cannot listen at {place}: {error}{advice}"));
                }
            }
        }
        let changed = faults != self.faults;
        for fault in faults.iter().filter(|fault| !self.faults.contains(fault)) {
            tracing::error!(event = "metrics", "{fault}");
        }
        self.faults = faults;
        changed
    }

    fn close(&mut self, place: &ScrapePlace) {
        self.open.remove(place);
        if let ScrapePlace::Path(path) = place {
            // A path that is not there any more needs no removing.
            let _ = std::fs::remove_file(path);
        }
        let _ = self.changes.send(ScrapeChange::Close(place.clone()));
    }
}

impl Broker {
    /// What is to be served; `None` after the first time.
    pub fn scrape_sockets(&mut self) -> Option<UnboundedReceiver<ScrapeChange>> {
        self.metrics.receiver.take()
    }

    pub(super) fn configure_metrics(&mut self, config: &Metrics) {
        self.metrics.config.clone_from(config);
        self.settle_metrics();
    }

    pub(super) fn settle_metrics(&mut self) {
        self.touched |= self.metrics.settle();
    }

    /// None follows who would serve them.
    pub(super) fn end_metrics(&mut self) {
        let open: Vec<ScrapePlace> = self.metrics.open.keys().cloned().collect();
        open.iter().for_each(|place| self.metrics.close(place));
    }
}
