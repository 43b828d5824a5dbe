//! The manager's member Evict: arguments in, rows out.

use super::Failure;
use super::manager::{Identify, Manager, argument, no_such_option};
use super::outbound::{Options, bad, protocol_of};
use crate::broker::{Evicted, Eviction};
use crate::uses::Reach;
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
        let what = eviction_of(argument(message)?)?;
        let (caller, _) = who.identify(call, false).await?;
        let evicted = self.broker.evict(caller, what).await??;
        Ok(evicted.into_iter().map(row).collect())
    }
}

fn eviction_of((protocol, port, options): (String, u16, Options)) -> Result<Eviction, Failure> {
    let protocol = protocol_of(&protocol)?;
    if port == 0 {
        return Err(bad("port 0 is none"));
    }
    let mut reach = Reach::InTheWay;
    for (key, value) in &options {
        match (key.as_str(), &**value) {
            (OPTION_FORCE, Variant::Bool(true)) => reach = Reach::Everything,
            (OPTION_FORCE | OPTION_INTERACTIVE, Variant::Bool(_)) => {}
            (OPTION_FORCE | OPTION_INTERACTIVE, _) => {
                return Err(bad(format!("option {key:?} is true or false (b)")));
            }
            (unknown, _) => return Err(no_such_option(unknown)),
        }
    }
    Ok(Eviction { protocol, port, reach })
}

fn row(Evicted { socket, outcome }: Evicted) -> EvictedRow {
    (
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
    use std::collections::HashMap;

    fn read(protocol: &str, port: u16, options: &[(&str, Variant<'static>)]) -> Result<Eviction, Failure> {
        let options: HashMap<_, _> =
            options.iter().map(|(key, value)| ((*key).to_owned(), value.try_to_owned().unwrap())).collect();
        eviction_of((protocol.to_owned(), port, options))
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
