//! The private socket: the interface peer to peer, without a bus.

use super::caller::PeerIdentity;
use super::manager::Manager;
use super::transport::Transport;
use crate::broker::Handle;
use crate::kernel::descriptors::{Purpose, Spare, is_shortage, leaves_room};
use crate::kernel::peer::Peer;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use portbroker_client::wire::MAX_SOCKETS_PEER_TO_PEER;
use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;
use zbus::connection::{AuthMechanism, Builder};

/// How many connections one user may have at once; root has as many as there are descriptors.
const CONNECTIONS_PER_USER: usize = 128;
/// How many all users but root may have together: one person may have thousands of uids (subuid(5)).
const CONNECTIONS_OF_USERS: usize = 4096;
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

/// Counts connections by user, so that one user cannot use up the descriptors of all.
#[derive(Debug, Clone, Default)]
struct Admission(Arc<Mutex<HashMap<u32, usize>>>);

/// A place that was given; it is free again when this is dropped.
struct Place(Admission, u32);

impl Admission {
    fn admit(&self, uid: u32) -> Option<Place> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let others: usize = counts.iter().filter(|(uid, _)| **uid != 0).map(|(_, count)| count).sum();
        if uid != 0 && others >= CONNECTIONS_OF_USERS {
            return None;
        }
        let count = counts.entry(uid).or_default();
        if uid != 0 && *count >= CONNECTIONS_PER_USER {
            return None;
        }
        *count += 1;
        if uid != 0 && *count == CONNECTIONS_PER_USER {
            // Said once, when the limit is reached, and not for each connection that is turned away.
            tracing::warn!(
                uid,
                limit = *count,
                "a user has as many connections to the private socket as one may"
            );
        }
        Some(Place(self.clone(), uid))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.1);
            }
        }
    }
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
    fn lets_in(&mut self, stream: &tokio::net::UnixStream, uid: u32) -> bool {
        let is_administrator = uid == 0 || uid == nix::unistd::geteuid().as_raw();
        let served =
            leaves_room(stream, if is_administrator { Purpose::Administration } else { Purpose::Anybody });
        self.said &= !served;
        self.spare.fill();
        served
    }
}

/// Serves every connection to the private socket, each in a task of its own. `spare` is what those that are accepted
/// are opened by where there is nothing else.
pub async fn serve_private_socket(
    listener: UnixListener,
    broker: Handle,
    spare: Spare,
) -> std::io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::UnixListener::from_std(listener)?;
    let admission = Admission::default();
    let guid = zbus::Guid::generate();
    let mut door = Door { spare, said: false };
    loop {
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
        if !door.lets_in(&stream, peer.uid) {
            broker.is_out_of_descriptors();
            continue;
        }
        let Some(place) = admission.admit(peer.uid) else { continue };
        let (broker, guid) = (broker.clone(), guid.clone());
        tokio::spawn(async move {
            let pid = peer.pid;
            if let Err(error) = serve_connection(stream, peer, broker, guid).await {
                tracing::debug!(%error, pid, "a connection to the private socket ended");
            }
            drop(place);
        });
    }
}

async fn serve_connection(
    stream: tokio::net::UnixStream,
    peer: Peer,
    broker: Handle,
    guid: zbus::Guid<'static>,
) -> zbus::Result<()> {
    let transport = Transport::new(stream, peer.uid);
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
    let identity = PeerIdentity::new(peer);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_user_cannot_take_the_connections_of_all() {
        let admission = Admission::default();
        let mut places: Vec<Place> = (0..CONNECTIONS_PER_USER).filter_map(|_| admission.admit(7)).collect();
        assert!(admission.admit(7).is_none(), "its own limit");
        assert!(admission.admit(8).is_some(), "another's is untouched");
        places.pop();
        assert!(admission.admit(7).is_some(), "a place is free again when its connection ends");
    }

    #[test]
    fn many_uids_of_one_person_cannot_take_the_connections_of_root() {
        let admission = Admission::default();
        let users = u32::try_from(CONNECTIONS_OF_USERS / CONNECTIONS_PER_USER).unwrap();
        let uids = (1..=users).flat_map(|uid| std::iter::repeat_n(uid, CONNECTIONS_PER_USER));
        let places: Vec<Place> = uids.filter_map(|uid| admission.admit(uid)).collect();
        assert_eq!(places.len(), CONNECTIONS_OF_USERS);
        assert!(admission.admit(users + 1).is_none(), "all users together have a limit");
        let of_root: Vec<Place> = (0..1000).filter_map(|_| admission.admit(0)).collect();
        assert_eq!(of_root.len(), 1000, "root has as many as there are descriptors");
        drop(places);
        assert!(admission.admit(users + 1).is_some());
    }
}
