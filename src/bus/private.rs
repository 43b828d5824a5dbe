//! The private socket: the interface peer to peer, without a bus.

use super::caller::PeerIdentity;
use super::manager::Manager;
use super::outgoing::{Outgoing, Unreads};
use super::transport::Transport;
use crate::broker::{Handle, Turn};
use crate::kernel::peer::Peer;
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

/// How many messages of a connection are read before they are answered: what one user can have of our memory is
/// this, times the length of a message, times the connections.
const QUEUED: NonZeroUsize = NonZeroUsize::MIN;
/// How many calls of a connection may wait for ports at once.
const WAITING: usize = 64;
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

/// Serves every connection to the private socket, each in a task of its own.
pub async fn serve_private_socket(listener: UnixListener, broker: Handle) -> std::io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::UnixListener::from_std(listener)?;
    let unreads = Unreads::default();
    let looked_at = unreads.clone();
    tokio::spawn(async move { looked_at.look().await });
    let guid = zbus::Guid::generate();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, most likely: those who wait in the queue lose nothing.
                tracing::warn!(%error, "cannot accept a connection to the private socket: {error}");
                tokio::time::sleep(Duration::from_millis(200)).await;
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
        // Who has as many as it may is turned away before anything is made for it.
        let Ok(place) = broker.gate().claim(&Who::User(peer.uid), Claim::Connection) else { continue };
        let (broker, guid) = (broker.in_turn_of(Turn::of(peer.uid, peer.pid)), guid.clone());
        let (reader, writer) = stream.into_split();
        let outgoing = unreads.begin(writer, peer.uid, peer.pid, broker.gate().clone());
        let transport = Transport::new(reader, Arc::clone(&outgoing), peer.uid);
        tokio::spawn(async move {
            let pid = peer.pid;
            if let Err(error) = serve_connection(transport, peer, &outgoing, broker, guid).await {
                tracing::debug!(%error, pid, "a connection to the private socket ended");
            }
            outgoing.end(place);
        });
    }
}

async fn serve_connection(
    transport: Transport,
    peer: Peer,
    outgoing: &Arc<Outgoing>,
    broker: Handle,
    guid: zbus::Guid<'static>,
) -> zbus::Result<()> {
    let builder = Builder::socket(transport)
        .max_queued(QUEUED)
        .server(guid)
        .p2p()
        .auth_mechanism(AuthMechanism::External);
    let built = tokio::time::timeout(HANDSHAKE, builder.build_message_stream()).await;
    let mut messages = built.map_err(|_| zbus::Error::Handshake("not authenticated in time".into()))??;
    let connection = zbus::Connection::from(&messages);
    let Some(mut notices) = broker.notices() else { return Ok(()) };
    let manager = Manager { broker, limit: MAX_SOCKETS_PEER_TO_PEER };
    let identity = PeerIdentity::new(peer, Arc::clone(outgoing));
    // Calls that wait for ports: the others of the connection are answered meanwhile, and when it ends they wait no more.
    let mut waiting = FuturesUnordered::new();
    loop {
        tokio::select! {
            message = messages.next() => match message {
                Some(Ok(message)) if manager.may_wait(&message) => {
                    if waiting.len() >= WAITING {
                        manager.refuse_to_wait(&connection, &message, WAITING).await?;
                        continue;
                    }
                    let (manager, connection, identity) = (&manager, &connection, &identity);
                    waiting.push(async move { manager.answer(connection, &message, identity).await });
                }
                Some(Ok(message)) => manager.answer(&connection, &message, &identity).await?,
                Some(Err(error)) => return Err(error),
                None => return Ok(()),
            },
            Some(answered) = waiting.next() => answered?,
            notice = notices.recv() => match notice {
                Ok(notice) => manager.announce(&connection, notice).await?,
                // It reads too slowly to be told everything; what it asks for is still right.
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return Ok(()),
            },
        }
    }
}
