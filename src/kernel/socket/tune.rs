//! What a listener's socket has of configured options and links: set, changed while it lives, and compared.

use super::error::SocketError;
use super::options::{self, Where};
use super::unmet::Unmet;
use super::{ListenerSocket, inet, links};
use crate::config::{SocketOptions, StreamProtocol};
use crate::model::{Endpoint, SocketKind, UnixAddress, UnixEndpoint};
use nix::libc;
use std::io;
use std::path::{Path, PathBuf};

impl ListenerSocket {
    /// Everything that is configured and that the socket does not have: it serves without.
    #[must_use]
    pub fn unmet(&self) -> Vec<Unmet> {
        let mut unmet = options::unmet(&self.socket, Where::from(&self.endpoint), &self.options);
        unmet.extend(self.other_protocol());
        if let Some(path) = self.own_path() {
            for link in &self.options.symlinks {
                let found = links::fault(link, path);
                unmet.extend(found.map(|found| Unmet::Link { link: link.clone(), found }));
            }
        }
        unmet
    }

    /// The protocol that a new socket has, where its options leave the kernel no choice.
    pub(super) fn made_with(&self) -> Option<i32> {
        let tcp = matches!(&self.endpoint, Endpoint::Inet(inet) if inet.kind == SocketKind::Stream)
            && self.options.protocol == StreamProtocol::Tcp;
        tcp.then_some(libc::IPPROTO_TCP)
    }

    fn other_protocol(&self) -> Option<Unmet> {
        let Endpoint::Inet(inet) = &self.endpoint else { return None };
        if inet.kind != SocketKind::Stream {
            return None;
        }
        let ask = || crate::kernel::sockopt::get_int(&self.socket, libc::SOL_SOCKET, libc::SO_PROTOCOL).ok();
        let is = self.protocol.or_else(ask)?;
        match (self.options.protocol, is) {
            (StreamProtocol::Mptcp, libc::IPPROTO_TCP) => {
                let can = self.socket.domain().is_ok_and(inet::has_mptcp);
                Some(if can { Unmet::Protocol { wanted: "mptcp" } } else { Unmet::NoMptcp })
            }
            (StreamProtocol::Tcp, libc::IPPROTO_MPTCP) => Some(Unmet::Protocol { wanted: "tcp" }),
            _ => None,
        }
    }

    /// Sets what is configured on a socket that comes from elsewhere. What fails is no reason to lose the port:
    /// [`Self::unmet`] tells of it.
    pub(super) fn tune_adopted(&mut self) {
        let place = Where::from(&self.endpoint);
        self.was_unmet = options::unmet(&self.socket, place, &self.options);
        let _ = options::apply(&self.socket, place, &self.options);
        if let Some(baseline) = &mut self.baseline {
            baseline.retune(&self.socket, &self.options.tuning, &self.options.tuning);
        }
    }

    /// Follows options that changed: those that are gone go back to what the kernel makes of them.
    pub(super) fn retune(&mut self, before: &SocketOptions) -> Result<(), SocketError> {
        let gone: Vec<PathBuf> =
            before.symlinks.iter().filter(|link| !self.options.symlinks.contains(link)).cloned().collect();
        // A link that cannot be removed leads to a socket that is there.
        let _ = self.remove_links(&gone);
        self.make_links();
        if before.tuning == self.options.tuning {
            return Ok(());
        }
        let place = Where::from(&self.endpoint);
        let now = &self.options.tuning;
        let forgotten = options::forget(&self.socket, place, &before.tuning, now);
        let set = options::apply(&self.socket, place, &self.options);
        if let Some(baseline) = &mut self.baseline {
            baseline.retune(&self.socket, &before.tuning, now);
        }
        let endpoint = self.endpoint.clone();
        forgotten.and(set).map_err(|source| SocketError::Option { endpoint, source })
    }

    fn own_path(&self) -> Option<&Path> {
        match &self.endpoint {
            Endpoint::Unix(UnixEndpoint { address: UnixAddress::Path(path), .. }) => Some(path),
            _ => None,
        }
    }

    pub(super) fn make_links(&self) {
        if let Some(path) = self.own_path() {
            links::make(&self.options.symlinks, path, self.options.directory_mode);
        }
    }

    pub(super) fn remove_links(&self, which: &[PathBuf]) -> io::Result<()> {
        self.own_path().map_or(Ok(()), |path| links::remove_all(which, path))
    }
}
