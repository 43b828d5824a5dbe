//! The private socket: the interface peer to peer, without a bus.

use super::caller::PeerIdentity;
use super::incoming::Incoming;
use super::manager::Manager;
use super::outgoing::{Outgoing, Unreads};
use super::signals::Signals;
use super::transport::Transport;
use crate::broker::{Handle, Turn};
use crate::kernel::descriptors::{Purpose, Spare, is_shortage, leaves_room};
use crate::kernel::peer::Peer;
use crate::kernel::stream;
use crate::limits::{Claim, Who};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use portbroker_client::wire::MAX_SOCKETS_PEER_TO_PEER;
use std::num::NonZeroUsize;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;
use zbus::connection::{AuthMechanism, Builder};

/// How many messages of a connection are read before they are answered.
const QUEUED: NonZeroUsize = NonZeroUsize::MIN;
/// How long a client may take to authenticate.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// The private socket could not be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {path}: {source}; name another place with --socket PATH")]
pub struct PrivateSocketError {
    path: String,
    source: std::io::Error,
}

/// Makes the private socket where systemd did not: everybody may connect, the policy decides on each call.
/// A socket that a dead daemon left is replaced, one that answers is not.
pub fn bind_private_socket(path: &Path) -> Result<UnixListener, PrivateSocketError> {
    let fault = |source| PrivateSocketError { path: path.display().to_string(), source };
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(fault)?;
    }
    if UnixStream::connect(path).is_ok() {
        return Err(fault(std::io::Error::other("another portbrokerd answers there")));
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(fault(error)),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(fault)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666)).map_err(fault)?;
    Ok(listener)
}

/// Who comes in where descriptors are short: only administrators, who can do something about it.
struct Door {
    spare: Spare,
    /// Said once for each shortage.
    said: bool,
}

impl Door {
    /// A connection could not be accepted: whether there is another way to.
    fn can_try_again(&mut self, error: &std::io::Error) -> bool {
        if is_shortage(error) && self.spare.give_up() {
            return true;
        }
        if !std::mem::replace(&mut self.said, true) {
            tracing::warn!(%error, "cannot accept connections to the private socket, which wait in its queue: {error}");
        }
        false
    }

    /// Whether a connection is served.
    fn lets_in(&mut self, stream: &tokio::net::UnixStream, turn: Turn, uid: u32) -> bool {
        let own = nix::unistd::geteuid().as_raw();
        let is_administrator = turn.who() == Who::User(0) || (own != 0 && uid == own);
        let served =
            leaves_room(stream, if is_administrator { Purpose::Administration } else { Purpose::Anybody });
        self.said &= !served;
        self.spare.fill();
        served
    }
}

/// Whose a connection is. Uid 0 of a container that has no users of its own would else have all that root has, and with
/// each of its processes a turn. Where that cannot be found out now it is taken for root, who has to be heard then.
fn turn_of(peer: &Peer) -> Turn {
    if peer.uid == 0 && !peer.is_of_this_system() && peer.can_be_known() {
        return Turn::CONTAINED;
    }
    Turn::of(peer.uid, peer.pid)
}

/// Serves every connection to the private socket, each in a task of its own. `spare` is what those that are accepted
/// are opened by where there is nothing else. Without `bus` polkit is not asked, which is there.
pub async fn serve_private_socket(
    listener: UnixListener,
    broker: Handle,
    spare: Spare,
    bus: bool,
) -> std::io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::UnixListener::from_std(listener)?;
    let unreads = Unreads::default();
    let looked_at = unreads.clone();
    tokio::spawn(async move { looked_at.look().await });
    let guid = zbus::Guid::generate();
    let signals = Signals::of(&broker);
    let mut door = Door { spare, said: false };
    loop {
        // Others come in between two who connect, however many there are that do nothing else.
        tokio::task::yield_now().await;
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                if is_shortage(&error) {
                    broker.is_out_of_descriptors();
                }
                if !door.can_try_again(&error) {
                    // Those who wait in the queue lose nothing.
                    tokio::time::sleep(Duration::from_millis(200)).await;
                    door.spare.fill();
                }
                continue;
            }
        };
        let peer = match Peer::of_stream(&stream) {
            Ok(peer) => peer,
            Err(error) => {
                tracing::debug!(%error, "a client of the private socket was gone before it could be identified");
                continue;
            }
        };
        let turn = turn_of(&peer);
        if !door.lets_in(&stream, turn, peer.uid) {
            broker.is_out_of_descriptors();
            continue;
        }
        // Who has as many as it may is turned away before anything is made for it.
        let Ok(place) = broker.gate().claim(&turn.who(), Claim::Connection) else { continue };
        let (broker, guid) = (broker.in_turn_of(turn), guid.clone());
        let signals = signals.clone();
        stream::keep_little_unread(&stream);
        let (reader, writer) = stream.into_split();
        let outgoing = unreads.begin(writer, peer.uid, peer.pid, broker.gate().clone());
        let incoming = Arc::new(Incoming::new(broker.gate().clone(), turn.who()));
        let transport = Transport::new(reader, Arc::clone(&incoming), Arc::clone(&outgoing), peer.uid);
        tokio::spawn(async move {
            let pid = peer.pid;
            let both = (&*incoming, &outgoing);
            if let Err(error) = serve_connection(transport, (peer, bus), both, broker, guid, signals).await {
                tracing::debug!(%error, pid, "a connection to the private socket ended");
            }
            outgoing.end(place);
        });
    }
}

async fn serve_connection(
    transport: Transport,
    (peer, bus): (Peer, bool),
    (incoming, outgoing): (&Incoming, &Arc<Outgoing>),
    broker: Handle,
    guid: zbus::Guid<'static>,
    signals: Signals,
) -> zbus::Result<()> {
    let builder = Builder::socket(transport)
        .max_queued(QUEUED)
        .server(guid)
        .p2p()
        .auth_mechanism(AuthMechanism::External);
    let built = tokio::time::timeout(HANDSHAKE, builder.build_message_stream()).await;
    let mut messages = built.map_err(|_| zbus::Error::Handshake("not authenticated in time".into()))??;
    let connection = zbus::Connection::from(&messages);
    let Some(mut signals) = signals.subscribe() else { return Ok(()) };
    let manager = Manager { broker, limit: MAX_SOCKETS_PEER_TO_PEER, asks_polkit: bus };
    let identity = PeerIdentity::new(peer, Arc::clone(outgoing));
    // Calls that wait for ports: the others of the connection are answered meanwhile, and when it ends they wait no more.
    let mut waiting = FuturesUnordered::new();
    loop {
        tokio::select! {
            message = messages.next() => {
                let Some(message) = message.transpose()? else { return Ok(()) };
                let long = incoming.next();
                if !manager.may_wait(&message) {
                    manager.answer(&connection, &message, &identity).await?;
                    continue;
                }
                match incoming.may_wait(long.as_ref(), waiting.len()) {
                    Ok(place) => {
                        let (manager, connection, identity) = (&manager, &connection, &identity);
                        waiting.push(async move {
                            let answered = manager.answer(connection, &message, identity).await;
                            drop(place);
                            answered
                        });
                    }
                    Err(reason) => manager.refuse_to_wait(&connection, &message, reason).await?,
                }
            },
            Some(answered) = waiting.next() => answered?,
            signal = signals.recv() => match signal {
                Ok(signal) => connection.send(&signal).await?,
                // It reads too slowly to be told everything; what it asks for is still right.
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return Ok(()),
            },
        }
    }
}
