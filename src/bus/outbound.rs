//! The manager's members about sessions and leases: arguments in, rows out.
//!
//! Every count is compared with its limit here, before anything is made of it.

use super::manager::{Identify, Manager, Reply, argument, no_such_option};
use super::polkit::{self, Question};
use super::{Failure, shown};
use crate::broker::{Drain, ForecastView, Kind, LeaseRequest, LeaseView, Refusal, Shortage};
use crate::model::{LeaseId, Protocol, SessionId, SourceRange};
use crate::policy::{Administration, Caller};
use portbroker_client::wire::{
    ErrorName, ForecastRow, LeaseRow, MAX_FORECAST_ROWS, MAX_LEASE_ROWS, MAX_PORTS_OF_A_LEASE, MAX_WAIT,
    NEVER, OPTION_AHEAD, OPTION_INTERACTIVE, OPTION_MINIMUM, OPTION_UNDO, OPTION_WAIT, SESSION_PREFIX,
};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use zbus::message::{Header, Message};
use zbus::wire::Signature;
use zbus::{Fd, ObjectPath, OwnedObjectPath, OwnedVariant, Variant};

/// The members that are answered here.
pub(super) const MEMBERS: [&str; 9] = [
    "OpenSession",
    "LeasePairs",
    "LeaseBlocks",
    "LeaseSockets",
    "Release",
    "ListLeases",
    "ListWanted",
    "ListForecasts",
    "DrainAddress",
];

/// What a row of ListLeases takes of an answer, about, in bytes.
const LENGTH_OF_A_LEASE: usize = 160;

pub(super) type Options = HashMap<String, OwnedVariant>;
/// Session, pool, protocol, destination, how many, options.
type LeaseArguments = (OwnedObjectPath, String, String, String, u32, Options);

impl Manager {
    /// Answers one of [`MEMBERS`].
    pub(super) async fn call_outbound(
        &self,
        message: &Message,
        call: &Header<'_>,
        who: &impl Identify,
        member: &str,
    ) -> Result<Reply, Failure> {
        let reply = Message::method_return(call);
        let message = match member {
            "OpenSession" => {
                no_options(&argument(message)?)?;
                let (caller, _) = who.identify(call, false).await?;
                let held = self.broker.gate().descriptors(&caller, 1)?;
                let (session, lifeline) = self.broker.open_session(caller).await??;
                let path = ObjectPath::from_string_unchecked(format!("{SESSION_PREFIX}{session}"));
                let message = reply.build(&(path, Fd::from(&lifeline)))?;
                return Ok(Reply { descriptors: vec![held], ..message.into() });
            }
            "LeasePairs" | "LeaseBlocks" => {
                let kind = if member == "LeasePairs" { Kind::Pairs } else { Kind::Blocks };
                let request = self.request(message, call, who, kind).await?;
                let leased = self.broker.lease(request).await??;
                let texts: Vec<String> =
                    leased.ranges.iter().map(|range| range.address.to_string()).collect();
                let rows = texts.iter().zip(&leased.ranges);
                if kind == Kind::Blocks {
                    let rows: Vec<_> =
                        rows.map(|(text, r)| (text, r.ports.first(), r.ports.last())).collect();
                    return Ok(reply.build(&(leased.id.0, rows))?.into());
                }
                let rows: Vec<_> =
                    rows.flat_map(|(text, r)| r.ports.iter().map(move |port| (text, port))).collect();
                reply.build(&(leased.id.0, rows))?
            }
            "LeaseSockets" => {
                let request = self.request(message, call, who, Kind::Sockets).await?;
                let count = usize::try_from(request.ports).unwrap_or(usize::MAX);
                if count > self.limit {
                    return Err(too_many_sockets(request.ports, self.limit));
                }
                let held = self.broker.gate().descriptors(&request.caller, count)?;
                let leased = self.broker.lease_sockets(request).await??;
                let rows: Vec<(String, u16, Fd<'_>)> = leased
                    .sockets
                    .iter()
                    .map(|(source, socket)| (source.ip().to_string(), source.port(), Fd::from(socket)))
                    .collect();
                // The broker's copies are closed with `leased`, and the message's when it is sent.
                let message = reply.build(&(leased.id.0, rows))?;
                return Ok(Reply { descriptors: vec![held], ..message.into() });
            }
            "Release" => {
                self.release(message, call, who).await?;
                reply.build(&())?
            }
            "ListLeases" => {
                let (after, most): (u64, u32) = argument(message)?;
                let (caller, _) = who.identify(call, false).await?;
                let most = usize::try_from(most.min(MAX_LEASE_ROWS)).unwrap_or_default();
                let leases = self.broker.leases(caller, LeaseId(after), most).await?;
                let rows: Vec<LeaseRow> = leases.into_iter().map(row).collect();
                let bytes = self.room_for(rows.len(), LENGTH_OF_A_LEASE).await;
                return Ok(Reply { bytes, ..reply.build(&rows)?.into() });
            }
            "ListWanted" => {
                let session: OwnedObjectPath = argument(message)?;
                let (caller, _) = who.identify(call, false).await?;
                reply.build(&self.broker.wanted(caller, session_of(session.as_str())?).await??)?
            }
            "ListForecasts" => {
                let most: u32 = argument(message)?;
                let (caller, _) = who.identify(call, false).await?;
                let most = usize::try_from(most.min(MAX_FORECAST_ROWS)).unwrap_or_default();
                let forecasts = self.broker.forecasts(caller, most).await?;
                reply.build(&forecasts.into_iter().map(row_of_forecast).collect::<Vec<_>>())?
            }
            _ => {
                self.drain(message, call, who).await?;
                reply.build(&())?
            }
        };
        Ok(message.into())
    }

    /// Whose lease it is, is the broker's to say: polkit is asked about another's only.
    async fn release(
        &self,
        message: &Message,
        call: &Header<'_>,
        who: &impl Identify,
    ) -> Result<(), Failure> {
        // The options came later.
        let (lease, options): (u64, Options) = match *message.body().signature() {
            Signature::U64 => (argument(message)?, Options::new()),
            _ => argument(message)?,
        };
        let interactive = polkit::is_interactive_only(call, &options)?;
        let (caller, _) = who.identify(call, false).await?;
        match self.broker.release(caller.clone(), LeaseId(lease)).await? {
            Err(Refusal::NotAllowed { .. }) => {
                let details = vec![("lease", lease.to_string())];
                let question = Question { action: Administration::Release, details, interactive };
                let caller = polkit::authorize(self, question, call, who, caller).await?;
                Ok(self.broker.release(caller, LeaseId(lease)).await??)
            }
            released => Ok(released?),
        }
    }

    async fn drain(&self, message: &Message, call: &Header<'_>, who: &impl Identify) -> Result<(), Failure> {
        let (address, options): (String, Options) = argument(message)?;
        let (address, drain) = (address_of(&address)?, drain_of(&options)?);
        let interactive = polkit::is_interactive(call, &options)?;
        let details = vec![("address", address.to_string())];
        let question = Question { action: Administration::Drain, details, interactive };
        let (caller, _) = who.identify(call, false).await?;
        let caller = polkit::authorize(self, question, call, who, caller).await?;
        Ok(self.broker.drain(caller, address, drain).await??)
    }

    async fn request(
        &self,
        message: &Message,
        call: &Header<'_>,
        who: &impl Identify,
        kind: Kind,
    ) -> Result<LeaseRequest, Failure> {
        let arguments: LeaseArguments = argument(message)?;
        let (caller, _) = who.identify(call, false).await?;
        request_of(arguments, caller, kind)
    }
}

fn request_of(arguments: LeaseArguments, caller: Caller, kind: Kind) -> Result<LeaseRequest, Failure> {
    let (session, pool, protocol, destination, ports, options) = arguments;
    if ports == 0 {
        return Err(bad("ask for at least one port"));
    }
    if ports > MAX_PORTS_OF_A_LEASE {
        return Err(bad(format!("a lease has at most {MAX_PORTS_OF_A_LEASE} ports, and these are {ports}")));
    }
    let mut request = LeaseRequest {
        caller,
        session: session_of(session.as_str())?,
        pool,
        protocol: protocol_of(&protocol)?,
        destination: destination_of(&destination)?,
        kind,
        ports,
        minimum: ports,
        wait: Duration::ZERO,
        ahead: false,
    };
    read_options(&mut request, &options)?;
    Ok(request)
}

/// Whether a call may wait for long: others of its connection are not to wait for its answer. It may be wrong about one
/// that does not.
pub(super) fn may_wait(message: &Message, call: &Header<'_>) -> bool {
    let leases = call.member().is_some_and(|member| member.as_str().starts_with("Lease"));
    let body = message.body();
    leases && body.data().windows(OPTION_WAIT.len()).any(|bytes| bytes == OPTION_WAIT.as_bytes())
}

fn session_of(path: &str) -> Result<SessionId, Failure> {
    let number =
        path.strip_prefix(SESSION_PREFIX).filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()));
    let number = number.and_then(|digits| digits.parse().ok());
    number.map(SessionId).ok_or_else(|| bad(format!("{} is no session: see OpenSession", shown(path))))
}

pub(super) fn protocol_of(text: &str) -> Result<Protocol, Failure> {
    match text {
        "tcp" => Ok(Protocol::Tcp),
        "udp" => Ok(Protocol::Udp),
        _ => Err(bad(format!("{:?} is no protocol: it is \"tcp\" or \"udp\"", shown(text)))),
    }
}

/// Whom the ports are for; empty: anybody.
fn destination_of(text: &str) -> Result<Option<SocketAddr>, Failure> {
    if text.is_empty() {
        return Ok(None);
    }
    // Which addresses cannot be one is for the ledger to say.
    let fault = |_| {
        let form = "write ADDRESS:PORT, as 192.0.2.1:443 or [2001:db8::1]:443, or nothing for any";
        bad(format!("{:?} is no destination: {form}", shown(text)))
    };
    text.parse().map(Some).map_err(fault)
}

fn read_options(request: &mut LeaseRequest, options: &Options) -> Result<(), Failure> {
    let (ports, is_blocks) = (request.ports, request.kind == Kind::Blocks);
    for (key, value) in options {
        match (key.as_str(), &**value) {
            (OPTION_MINIMUM, Variant::U32(least)) if is_blocks && (1..=ports).contains(least) => {
                request.minimum = *least;
            }
            (OPTION_MINIMUM, _) if is_blocks => {
                return Err(bad(format!("option {OPTION_MINIMUM:?} is a number (u) from 1 to {ports}")));
            }
            (OPTION_AHEAD, Variant::Bool(ahead)) if is_blocks => request.ahead = *ahead,
            (OPTION_AHEAD, _) if is_blocks => {
                return Err(bad(format!("option {OPTION_AHEAD:?} is true or false (b)")));
            }
            (OPTION_WAIT, Variant::U32(wait)) if *wait <= MAX_WAIT => {
                request.wait = Duration::from_millis(u64::from(*wait));
            }
            (OPTION_WAIT, _) => {
                return Err(bad(format!("option {OPTION_WAIT:?} is milliseconds (u), at most {MAX_WAIT}")));
            }
            (unknown, _) => return Err(no_such_option(unknown)),
        }
    }
    Ok(())
}

fn address_of(text: &str) -> Result<IpAddr, Failure> {
    text.parse().map_err(|_| bad(format!("{:?} is no address", shown(text))))
}

fn drain_of(options: &Options) -> Result<Drain, Failure> {
    let mut drain = Drain::Begin;
    for (key, value) in options {
        drain = match (key.as_str(), &**value) {
            (OPTION_UNDO, Variant::Bool(true)) => Drain::Undo,
            (OPTION_UNDO, Variant::Bool(false)) => Drain::Begin,
            (OPTION_UNDO, _) => return Err(bad(format!("option {OPTION_UNDO:?} is true or false (b)"))),
            // Not what is done, but how it is asked for.
            (OPTION_INTERACTIVE, _) => drain,
            (unknown, _) => return Err(no_such_option(unknown)),
        };
    }
    Ok(drain)
}

fn no_options(options: &Options) -> Result<(), Failure> {
    options.keys().next().map_or(Ok(()), |unknown| Err(no_such_option(unknown)))
}

fn row(lease: LeaseView) -> LeaseRow {
    let blocks = |range: &SourceRange| (range.address.to_string(), range.ports.first(), range.ports.last());
    (
        lease.id,
        lease.session,
        lease.pool,
        lease.protocol,
        lease.destination,
        lease.kind.to_owned(),
        lease.ports,
        lease.state.to_owned(),
        lease.owner,
        lease.ranges.iter().map(blocks).collect(),
        lease.cooling,
    )
}

/// As a count on the wire; what is greater is told as the greatest.
fn count(ports: u64) -> u32 {
    u32::try_from(ports).unwrap_or(u32::MAX)
}

fn row_of_forecast(view: ForecastView) -> ForecastRow {
    let (used, cooling, capacity) = (count(view.used), count(view.cooling), count(view.capacity));
    let (rate, seconds) = (view.rate, seconds_of(&view));
    (view.pool, view.protocol, view.destination, used, cooling, capacity, rate, seconds, view.ahead)
}

fn seconds_of(view: &ForecastView) -> u64 {
    view.exhausted_in.map_or(NEVER, |time| time.as_secs())
}

/// The arguments of the signal ExhaustionAhead.
pub(super) fn of_exhaustion(view: &ForecastView) -> (String, u32, u32, u32, f64, u64) {
    let (used, cooling, capacity) = (count(view.used), count(view.cooling), count(view.capacity));
    (view.protocol.clone(), used, cooling, capacity, view.rate, seconds_of(view))
}

/// What the error Exhausted says beside its text.
pub(super) fn of_shortage(shortage: &Shortage) -> HashMap<&'static str, Variant<'static>> {
    let mut details = HashMap::from([
        ("capacity", Variant::U32(shortage.capacity)),
        ("used", Variant::U32(shortage.used)),
        ("cooling", Variant::U32(shortage.cooling)),
        ("free", Variant::U32(shortage.free)),
        ("kept", Variant::U32(shortage.kept)),
    ]);
    if let Some(next) = shortage.next {
        details.insert("next", Variant::U64(u64::try_from(next.as_millis()).unwrap_or(u64::MAX)));
    }
    details
}

fn too_many_sockets(wanted: u32, limit: usize) -> Failure {
    let text =
        format!("these are {wanted} sockets, and one message here takes {limit}: ask for fewer at a time");
    Failure::ours(ErrorName::TooManySockets, text)
}

pub(super) fn bad(message: impl Into<String>) -> Failure {
    Failure::ours(ErrorName::BadArgument, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Network;
    use proptest::prelude::*;

    fn caller() -> Caller {
        Caller {
            uid: 7,
            gids: Vec::new(),
            pid: 1,
            unit: None,
            user_slice: None,
            administrator: false,
            network: Network::Ours,
        }
    }

    fn options(pairs: &[(&str, Variant<'static>)]) -> Options {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), value.try_to_owned().unwrap())).collect()
    }

    fn ask(
        destination: &str,
        ports: u32,
        given: &[(&str, Variant<'static>)],
        kind: Kind,
    ) -> Result<LeaseRequest, Failure> {
        let session = ObjectPath::try_from(format!("{SESSION_PREFIX}5")).unwrap().into();
        let texts = ("egress".to_owned(), "tcp".to_owned(), destination.to_owned());
        request_of((session, texts.0, texts.1, texts.2, ports, options(given)), caller(), kind)
    }

    #[test]
    fn a_request_is_what_was_asked_for() {
        let request =
            ask("[2001:db8::1]:443", 64, &[(OPTION_MINIMUM, Variant::U32(1))], Kind::Blocks).unwrap();
        assert_eq!(request.session, SessionId(5));
        assert_eq!(request.destination, Some("[2001:db8::1]:443".parse().unwrap()));
        assert_eq!((request.ports, request.minimum), (64, 1));
        let request = ask("", 3, &[], Kind::Pairs).unwrap();
        assert_eq!((request.destination, request.minimum), (None, 3));
    }

    #[test]
    fn what_is_not_a_destination_is_refused_with_the_reason() {
        for no in ["192.0.2.1", "host:80", " ", "192.0.2.1:65536", "192.0.2.1:80 ", "2001:db8::1:80"] {
            let failure = ask(no, 1, &[], Kind::Pairs).unwrap_err();
            assert!(
                failure.name.ends_with(".BadArgument") && failure.message.contains("destination"),
                "{failure:?}"
            );
        }
    }

    #[test]
    fn counts_and_options_have_limits() {
        let most = MAX_PORTS_OF_A_LEASE;
        assert!(ask("", most, &[], Kind::Pairs).is_ok());
        for no in [0, most + 1, u32::MAX] {
            assert!(ask("", no, &[], Kind::Blocks).is_err(), "{no}");
        }
        for no in [Variant::U32(0), Variant::U32(6), Variant::U64(1), Variant::new("1")] {
            assert!(ask("", 5, &[(OPTION_MINIMUM, no)], Kind::Blocks).is_err());
        }
        assert!(
            ask("", 5, &[(OPTION_MINIMUM, Variant::U32(5))], Kind::Pairs).is_err(),
            "pairs are all or nothing"
        );
        let waits = |wait| ask("", 5, &[(OPTION_WAIT, wait)], Kind::Pairs);
        assert_eq!(waits(Variant::U32(MAX_WAIT)).unwrap().wait, Duration::from_secs(600));
        assert!(waits(Variant::U32(MAX_WAIT + 1)).is_err() && waits(Variant::U64(1)).is_err());
        let ahead = |kind| ask("", 5, &[(OPTION_AHEAD, Variant::Bool(true))], kind);
        assert!(ahead(Kind::Blocks).unwrap().ahead && ahead(Kind::Pairs).is_err());
        assert!(ask("", 5, &[("else", Variant::U32(5))], Kind::Blocks).is_err());
        assert!(no_options(&options(&[("else", Variant::U32(5))])).is_err());
        assert!(matches!(drain_of(&options(&[(OPTION_UNDO, Variant::Bool(true))])), Ok(Drain::Undo)));
        assert!(drain_of(&options(&[(OPTION_UNDO, Variant::U32(1))])).is_err());
    }

    #[test]
    fn only_the_path_of_a_session_is_one() {
        assert!(session_of("/org/portbroker/PortBroker1/session/17").is_ok());
        for no in [
            "/",
            "/org/portbroker/PortBroker1/session/",
            "/org/portbroker/PortBroker1/session/_31",
            "/org/portbroker/PortBroker1/session/18446744073709551616",
            "/org/portbroker/PortBroker1/pool/5",
        ] {
            assert!(session_of(no).is_err(), "{no}");
        }
    }

    proptest! {
        #[test]
        fn no_text_is_too_odd(text in ".*") {
            let _ = (destination_of(&text), session_of(&text), protocol_of(&text), address_of(&text));
        }
    }
}
