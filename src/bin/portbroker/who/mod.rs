//! `portbroker who`: everything that uses a port on this host, what that means, and what mends it.
//!
//! It works without a broker: the kernel is asked here, in every network namespace that may be entered. What may not
//! be seen is said.

mod broker;
mod document;
mod evict;
mod host;
mod lines;

use crate::agent::AskPassword;
use crate::failure::{FAILED, Failure};
use crate::output::Output;
use crate::progress::Progress;
use clap::Args;
use evict::Eviction;
use portbroker::model::Protocol;
use portbroker::uses::{self, Context, Network, Question, Sentence, Use, Users};
use std::process::ExitCode;

#[derive(Debug, Args)]
pub(crate) struct Who {
    /// The port, of TCP and UDP, or of one of them
    #[arg(value_name = "PORT[/PROTOCOL]", value_parser = question)]
    question: Question,
    /// Have the broker close what keeps a service from having the port
    #[arg(long)]
    evict: bool,
    /// With --evict: close services too
    #[arg(long, requires = "evict")]
    force: bool,
}

/// Reads `3306` or `53/udp`.
fn question(text: &str) -> Result<Question, String> {
    let (port, protocol) = match text.split_once('/') {
        Some((port, protocol)) => {
            (port, Some(protocol.parse::<Protocol>().map_err(|error| error.to_string())?))
        }
        None => (text, None),
    };
    let number = Some(port).filter(|port| port.bytes().all(|byte| byte.is_ascii_digit()));
    let number = number.and_then(|port| port.parse().ok()).filter(|port| *port != 0);
    let port = number.ok_or("ports are numbers from 1 to 65535, as in 3306 or 53/udp")?;
    Ok(Question { port, protocol })
}

/// Everything that was found out.
struct Answer {
    question: Question,
    networks: Vec<Network>,
    uses: Vec<Use>,
    sentences: Vec<Sentence>,
    users: Users,
    service: Option<String>,
    /// What could not be seen, a sentence each.
    unseen: Vec<String>,
    eviction: Option<Eviction>,
}

pub(crate) fn run(
    broker: &portbroker_client::Broker,
    output: Output,
    arguments: &Who,
    password: AskPassword,
) -> Result<ExitCode, Failure> {
    let mut answer = find(broker, arguments.question)?;
    if arguments.evict {
        let eviction = evict::evict(broker, arguments.question, arguments.force, password)?;
        if eviction.found_nothing() && host::is_in_the_way(&arguments.question).map_err(Failure::Scan)? {
            return Err(Failure::Elsewhere(arguments.question.port));
        }
        answer.eviction = Some(eviction);
    }
    output.print(&document::of(&answer), || lines::of(&answer))?;
    let is_done = answer.eviction.as_ref().is_none_or(Eviction::is_done);
    Ok(if is_done { ExitCode::SUCCESS } else { FAILED.into() })
}

/// Asks the kernel and the broker, at the same time.
fn find(broker: &portbroker_client::Broker, question: Question) -> Result<Answer, Failure> {
    let _progress = Progress::begin("looking at the sockets of this host");
    let (seen, told) = std::thread::scope(|scope| {
        let host = scope.spawn(|| host::look(&question));
        let told = broker::ask(broker, &question);
        match host.join() {
            Ok(seen) => (seen, told),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    });
    let host::Seen { networks, mut unseen } = seen.map_err(Failure::Scan)?;
    let told = told.map_err(|why| unseen.push(why)).ok();
    let mut uses = uses::of_sockets(&question, &networks, told.as_ref());
    unseen.extend(host::name_owners(&mut uses).map_err(Failure::Scan)?);
    uses.extend(uses::of_configuration(&question, &networks, told.as_ref()));
    let (users, service) = (host::users(), host::service(&question));
    let context = Context {
        question,
        networks: &networks,
        broker: told.as_ref(),
        users: &users,
        service: service.as_deref(),
    };
    let sentences = uses::explain(&context, &uses);
    Ok(Answer { question, networks, uses, sentences, users, service, unseen, eviction: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_a_number_and_perhaps_a_protocol() {
        let read = |text| question(text).ok().map(|question| (question.port, question.protocol));
        assert_eq!(read("3306"), Some((3306, None)));
        assert_eq!(read("53/udp"), Some((53, Some(Protocol::Udp))));
        for no in ["0", "65536", "", "/tcp", "+80", "-1", "80/", "80/sctp", "http", "80 ", "80/tcp/udp"] {
            assert_eq!(read(no), None, "{no}");
        }
    }
}
