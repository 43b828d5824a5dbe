//! What is said in the log of sockets that come and go: a line for each, and for very many of them at once one for all.
//!
//! Ten thousand lines take longer to write than the sockets take to bind, and nobody reads them.

use super::effects::inode_of;
use crate::kernel::socket::ListenerSocket;
use crate::model::{Endpoint, ListenerName};

/// So many of a kind are told one by one.
const ONE_BY_ONE: usize = 100;

/// How many there were since the last sum.
#[derive(Debug, Default)]
pub(super) struct Told {
    bound: usize,
    taken_over: usize,
    let_go: usize,
    lingers: usize,
}

/// Counts one more; whether it has a line of its own.
fn has_a_line(count: &mut usize) -> bool {
    *count += 1;
    *count <= ONE_BY_ONE
}

impl Told {
    pub(super) fn bound(&mut self, listener: &ListenerName, socket: &ListenerSocket) {
        if has_a_line(&mut self.bound) {
            let (endpoint, inode) = (socket.endpoint(), inode_of(socket));
            tracing::info!(event = "bound", %listener, %endpoint, inode, "holds {endpoint} for {listener}");
        }
    }

    pub(super) fn taken_over(&mut self, listener: &ListenerName, socket: &ListenerSocket) {
        if has_a_line(&mut self.taken_over) {
            let (endpoint, inode) = (socket.endpoint(), inode_of(socket));
            tracing::info!(event = "taken-over", %listener, %endpoint, inode, "took {endpoint} for {listener} over");
        }
    }

    pub(super) fn let_go(&mut self, endpoint: &Endpoint) {
        if has_a_line(&mut self.let_go) {
            tracing::info!(event = "closed", %endpoint, "{endpoint} is no longer configured and is let go");
        }
    }

    /// One more lingers; whether it has a line of its own.
    pub(super) fn lingers(&mut self) -> bool {
        has_a_line(&mut self.lingers)
    }

    /// Says how many there were that had no line, and begins anew.
    pub(super) fn sum_up(&mut self) {
        let Self { bound, taken_over, let_go, lingers } = std::mem::take(self);
        let more = |count: usize| Some(count.saturating_sub(ONE_BY_ONE)).filter(|more| *more > 0);
        if let Some(more) = more(bound) {
            tracing::info!(event = "bound", sockets = bound, "holds {more} more sockets, {bound} in all");
        }
        if let Some(more) = more(taken_over) {
            let event = "taken-over";
            tracing::info!(event, sockets = taken_over, "took {more} more sockets over, {taken_over} in all");
        }
        if let Some(more) = more(lingers) {
            let event = "lingers";
            tracing::info!(
                event,
                sockets = lingers,
                "{more} more sockets stay until their holders are gone, {lingers} in all"
            );
        }
        if let Some(more) = more(let_go) {
            let event = "closed";
            tracing::info!(
                event,
                sockets = let_go,
                "{more} more sockets are no longer configured, {let_go} in all"
            );
        }
    }
}
