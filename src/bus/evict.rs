//! The manager's member Evict: arguments in, rows out.

use super::Failure;
use super::manager::{Identify, Manager, argument, no_such_option};
use super::outbound::{Options, bad, protocol_of};
use super::polkit;
use crate::broker::{Evicted, Eviction};
use crate::policy::Administration;
use crate::uses::{Question, Reach};
use portbroker_client::wire::{EvictedRow, OPTION_FORCE, OPTION_INTERACTIVE};
use zbus::Variant;
use zbus::message::{Header, Message};

impl Manager {
    /// Answers Evict.
    pub(super) async fn evict(
        &self,
        message: &Message,
        call: &Header<'_>,
        who: &impl Identify,
    ) -> Result<Vec<EvictedRow>, Failure> {
        let (protocol, port, options): (String, u16, Options) = argument(message)?;
        let what = eviction_of(&protocol, port, &options)?;
        let interactive = polkit::is_interactive(call, &options)?;
        let details = vec![("port", what.question.to_string())];
        let question = polkit::Question { action: Administration::Evict, details, interactive };
        let (caller, _) = who.identify(call, false).await?;
        let caller = polkit::authorize(self, question, call, who, caller).await?;
        let evicted = self.broker.evict(caller, what).await??;
        Ok(evicted.into_iter().map(row).collect())
    }
}

fn eviction_of(protocol: &str, port: u16, options: &Options) -> Result<Eviction, Failure> {
    let protocol = if protocol.is_empty() { None } else { Some(protocol_of(protocol)?) };
    if port == 0 {
        return Err(bad("port 0 is none"));
    }
    let mut reach = Reach::InTheWay;
    for (key, value) in options {
        match (key.as_str(), &**value) {
            (OPTION_FORCE, Variant::Bool(true)) => reach = Reach::Everything,
            (OPTION_FORCE, Variant::Bool(false)) => reach = Reach::InTheWay,
            (OPTION_FORCE, _) => return Err(bad(format!("option {OPTION_FORCE:?} is true or false (b)"))),
            // Not what is done, but how it is asked for.
            (OPTION_INTERACTIVE, _) => {}
            (unknown, _) => return Err(no_such_option(unknown)),
        }
    }
    Ok(Eviction { question: Question { port, protocol }, reach })
}

fn row(Evicted { socket, outcome }: Evicted) -> EvictedRow {
    (
        socket.protocol.to_string(),
        socket.local.to_string(),
        socket.remote.map(|remote| remote.to_string()).unwrap_or_default(),
        socket.state.as_str().to_owned(),
        outcome.as_str().to_owned(),
        outcome.reason(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Protocol;

    fn read(protocol: &str, port: u16, options: &[(&str, Variant<'static>)]) -> Result<Eviction, Failure> {
        let own =
            |(key, value): &(&str, Variant<'static>)| ((*key).to_owned(), value.try_to_owned().unwrap());
        eviction_of(protocol, port, &options.iter().map(own).collect())
    }

    #[test]
    fn services_are_closed_by_force_alone() {
        assert_eq!(read("tcp", 3306, &[]).unwrap().reach, Reach::InTheWay);
        assert_eq!(
            read("tcp", 3306, &[(OPTION_FORCE, Variant::Bool(false))]).unwrap().reach,
            Reach::InTheWay
        );
        assert_eq!(read("udp", 53, &[(OPTION_FORCE, Variant::Bool(true))]).unwrap().reach, Reach::Everything);
        assert!(read("tcp", 1, &[(OPTION_INTERACTIVE, Variant::Bool(true))]).is_ok());
        assert_eq!(read("", 1, &[]).unwrap().question, Question { port: 1, protocol: None });
        assert_eq!(read("udp", 1, &[]).unwrap().question.protocol, Some(Protocol::Udp));
        for failure in [
            read("sctp", 1, &[]),
            read("tcp", 0, &[]),
            read("tcp", 1, &[(OPTION_FORCE, Variant::U32(1))]),
            read("tcp", 1, &[("else", Variant::Bool(true))]),
        ] {
            assert!(failure.unwrap_err().name.ends_with(".BadArgument"));
        }
    }
}
