//! Who calls: what the kernel says of the peer of a connection, or the bus of a sender.

use super::Failure;
use super::manager::Identify;
use super::outgoing::Outgoing;
use super::polkit::Subject;
use crate::broker::Held;
use crate::kernel::holder::HolderClaim;
use crate::kernel::peer::Peer;
use crate::model::UnitName;
use crate::policy::{Caller, Network};
use futures_util::StreamExt as _;
use portbroker_client::wire::ErrorName;
use std::sync::{Arc, OnceLock};
use tokio::sync::OnceCell;
use zbus::Connection;
use zbus::fdo::DBusProxy;
use zbus::message::Header;
use zbus::proxy::CacheProperties;

/// The peer of a connection to the private socket. It is looked at once, at its first call that matters:
/// the connection is the process's that made it, whoever uses it later.
#[derive(Debug)]
pub(super) struct PeerIdentity {
    peer: Peer,
    caller: OnceCell<Caller>,
    process: OnceCell<Option<HolderClaim>>,
    outgoing: Arc<Outgoing>,
}

impl PeerIdentity {
    pub(super) fn new(peer: Peer, outgoing: Arc<Outgoing>) -> Self {
        Self { peer, caller: OnceCell::new(), process: OnceCell::new(), outgoing }
    }
}

impl Identify for PeerIdentity {
    async fn identify(
        &self,
        _: &Header<'_>,
        as_unit: bool,
    ) -> Result<(Caller, Option<HolderClaim>), Failure> {
        let caller = self.caller.get_or_try_init(|| async { caller_of(&self.peer) }).await?;
        let holder = if as_unit {
            HolderClaim::unit_of(&self.peer)
        } else {
            self.process.get_or_init(|| async { HolderClaim::process_of(&self.peer) }).await.clone()
        };
        Ok((caller.clone(), holder))
    }

    async fn subject(&self, _: &Header<'_>) -> Result<Option<Subject>, Failure> {
        let Peer { pid, uid, ref pidfd, .. } = self.peer;
        let started = self.peer.start_time().filter(|_| self.peer.is_of_this_system());
        Ok(started.map(|started| Subject::Process { pid, started, uid, pidfd: pidfd.clone() }))
    }

    fn send_with(&self, held: Vec<Held>) -> Vec<Held> {
        self.outgoing.carry(held);
        Vec::new()
    }

    fn is_gone(&self) -> bool {
        self.outgoing.is_gone()
    }
}

/// Asks the bus for the sender of each call.
#[derive(Debug)]
pub(super) struct BusIdentity {
    bus: DBusProxy<'static>,
}

impl BusIdentity {
    pub(super) async fn new(connection: &Connection) -> zbus::Result<Self> {
        let bus = DBusProxy::builder(connection).cache_properties(CacheProperties::No).build().await?;
        Ok(Self { bus })
    }

    /// The user of a sender.
    pub(super) async fn uid(&self, call: &Header<'_>) -> Option<u32> {
        let name = zbus::names::BusName::Unique(call.sender()?.to_owned());
        self.bus.get_connection_unix_user(name).await.ok()
    }

    /// Returns when a sender has left the bus, or nothing can be known of it any more.
    pub(super) async fn left(&self, call: &Header<'_>) -> zbus::Result<()> {
        let Some(sender) = call.sender() else { return Ok(()) };
        let mut changes = self.bus.receive_name_owner_changed_with_args(&[(0, sender.as_str())]).await?;
        // It may have left before that was heard of.
        if !self.bus.name_has_owner(zbus::names::BusName::Unique(sender.to_owned())).await? {
            return Ok(());
        }
        // A unique name is nobody else's afterwards.
        changes.next().await;
        Ok(())
    }

    async fn peer(&self, call: &Header<'_>) -> Result<Peer, Failure> {
        let gone = || Failure::standard("NameHasNoOwner", "the sender of this call is gone");
        let sender = call.sender().ok_or_else(gone)?.to_owned();
        let name = zbus::names::BusName::Unique(sender);
        let credentials = self.bus.get_connection_credentials(name.clone()).await.map_err(|_| gone())?;
        let (Some(uid), Some(pid)) = (credentials.unix_user_id(), credentials.process_id()) else {
            return Err(Failure::standard("Failed", "the bus does not tell who sends this call"));
        };
        let groups = credentials.unix_group_ids().cloned().unwrap_or_default();
        let peer = Peer::of_process(pid.cast_signed(), uid, groups);
        // The process that was opened is the sender's only if the sender still had that pid afterwards.
        match self.bus.get_connection_unix_process_id(name).await {
            Ok(again) if again == pid => Ok(peer),
            _ => Err(gone()),
        }
    }
}

impl Identify for BusIdentity {
    async fn identify(
        &self,
        call: &Header<'_>,
        as_unit: bool,
    ) -> Result<(Caller, Option<HolderClaim>), Failure> {
        let peer = self.peer(call).await?;
        let holder = if as_unit { HolderClaim::unit_of(&peer) } else { HolderClaim::process_of(&peer) };
        Ok((caller_of(&peer)?, holder))
    }

    async fn subject(&self, call: &Header<'_>) -> Result<Option<Subject>, Failure> {
        // It could have the bus of a host whose users are not its own.
        let is_ours = self.peer(call).await?.is_of_this_system();
        Ok(call.sender().filter(|_| is_ours).map(|sender| Subject::Sender(sender.to_string())))
    }

    fn send_with(&self, held: Vec<Held>) -> Vec<Held> {
        // The bus reads at once, and what waits for its receiver then is the bus's own.
        held
    }

    fn is_gone(&self) -> bool {
        // The bus throws away what it can give to nobody.
        false
    }
}

fn caller_of(peer: &Peer) -> Result<Caller, Failure> {
    if !peer.can_be_known() {
        let text =
            "the broker has no descriptor left to find out who asks: raise its LimitNOFILE=, and try again";
        return Err(Failure::ours(ErrorName::NotReady, text));
    }
    let cgroup = peer.cgroup();
    let unit = cgroup.as_deref().and_then(UnitName::of_cgroup);
    let user_slice = cgroup.as_deref().and_then(UnitName::of_user);
    let administrator = is_administrator(peer, unit.as_ref());
    let network = if peer.is_in_our_network() { Network::Ours } else { Network::Another };
    let (uid, gids, pid) = (peer.uid, peer.groups.clone(), peer.pid);
    Ok(Caller { uid, gids, pid, unit, user_slice, administrator, network })
}

/// Uid 0 of the host; or the daemon's own user, where the daemon does not run as root.
///
/// systemd runs our own ExecReload= as root and still in a mount namespace of our unit's: only systemd can start
/// a process of uid 0 there, so such a one is root too.
fn is_administrator(peer: &Peer, unit: Option<&UnitName>) -> bool {
    let own = nix::unistd::geteuid().as_raw();
    if peer.uid != 0 {
        return own != 0 && peer.uid == own;
    }
    peer.in_initial_namespaces() || (unit.is_some() && unit == own_unit() && peer.is_of_this_system())
}

/// The unit that this daemon is.
fn own_unit() -> Option<&'static UnitName> {
    static OWN: OnceLock<Option<UnitName>> = OnceLock::new();
    let ask = || {
        let own =
            Peer::of_process(std::process::id().cast_signed(), nix::unistd::geteuid().as_raw(), Vec::new());
        own.unit().filter(|unit| unit.as_str().ends_with(".service"))
    };
    OWN.get_or_init(ask).as_ref()
}
