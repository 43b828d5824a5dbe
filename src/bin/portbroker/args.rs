//! The command line, and which verb does what it says.

use crate::agent::AskPassword;
use crate::failure::{self, Failure};
use crate::help::*;
use crate::output::{Output, Pages};
use crate::progress::Progress;
use crate::{
    activate, cat_config, check, deposit, doctor, exec, import, learned, lease, leases, listeners, packaging,
    plan, pools, reload, renew, status, top, who,
};
use clap::{Args, CommandFactory, Parser, Subcommand};
use portbroker::model::{ListenerName, PoolName};
use portbroker_client::{Broker, Error};
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Ask the port broker: which ports it holds, and for their sockets.
#[derive(Debug, Parser)]
#[command(name = "portbroker", version, max_term_width = 100, after_help = EXIT_STATUSES)]
pub(crate) struct Arguments {
    /// The broker's socket [default: $PORTBROKER_SOCKET, then /run/portbroker/bus, then the system bus]
    #[arg(long, global = true, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Print one JSON document on one line
    #[arg(long, global = true)]
    json: bool,
    /// Do not show what is longer than the terminal in a pager
    #[arg(long, global = true)]
    no_pager: bool,
    /// Ask nobody for a password where polkit wants one
    ///
    /// Otherwise the agent of the session asks for it, and where there is none pkttyagent(1) on this terminal.
    #[arg(long, global = true)]
    no_ask_password: bool,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Whether the broker runs and holds all that it should
    #[command(after_help = STATUS_HELP)]
    Status {
        /// Every limit, fault and difference, however many there are
        #[arg(long)]
        full: bool,
    },
    /// The broker, live: listeners, pools, destinations, events
    #[command(after_help = TOP_HELP)]
    Top(Top),
    /// All of one kind
    #[command(subcommand, after_help = LIST_HELP)]
    List(List),
    /// Everything about one thing
    #[command(subcommand, after_help = SHOW_HELP)]
    Show(Show),
    /// Say what is wrong with the configuration, without a broker
    #[command(after_help = CHECK_HELP)]
    Check {
        /// One TOML file, unit file or drop-in of a unit, instead of everything
        path: Option<PathBuf>,
        #[command(flatten)]
        root: Root,
    },
    /// Say what is wrong with the ports of this host, and what mends it
    #[command(after_help = DOCTOR_HELP)]
    Doctor(Root),
    /// Say how many source addresses and ports a load of connections takes
    #[command(after_help = PLAN_HELP)]
    Plan(Box<plan::Planned>),
    /// Show the configuration as it would be taken now, each value with where it is written
    #[command(after_help = CAT_CONFIG_HELP)]
    CatConfig(Root),
    /// Have the broker read its configuration again
    #[command(after_help = RELOAD_HELP)]
    Reload,
    /// Forget a learned port, until its service is seen listening on it in two new lives
    #[command(after_help = FORGET_HELP)]
    Forget {
        /// The port
        #[arg(value_parser = clap::value_parser!(u16).range(1..))]
        port: u16,
    },
    /// Have the broker make new sockets for a listener whose holder has spoilt them
    #[command(after_help = RENEW_HELP)]
    Renew {
        /// The listener's name
        #[arg(value_parser = listener_name)]
        name: String,
    },
    /// Run a command with the sockets of listeners, as socket activation passes them
    #[command(after_help = EXEC_HELP)]
    Exec(Exec),
    /// Put the sockets of listeners into this unit's descriptor store (for ExecStartPre=)
    #[command(after_help = DEPOSIT_HELP)]
    Deposit(Deposit),
    /// Hold source addresses and ports for outgoing connections while a command runs
    #[command(after_help = LEASE_HELP)]
    Lease(Lease),
    /// End a lease
    #[command(after_help = RELEASE_HELP)]
    Release {
        /// The number of the lease
        lease: u64,
    },
    /// Give out nothing more of a source address, and let what is leased live on
    #[command(after_help = DRAIN_HELP)]
    Drain {
        /// The address
        address: std::net::IpAddr,
        /// Give it out again
        #[arg(long)]
        undo: bool,
    },
    /// Everything that uses a port, what that means, and what mends it
    #[command(after_help = WHO_HELP)]
    Who(who::Who),
    /// Print the section that replaces a socket unit
    #[command(after_help = IMPORT_HELP)]
    Import {
        /// The socket unit, or a file that is one
        #[arg(value_name = "UNIT.socket")]
        unit: String,
        #[command(flatten)]
        root: Root,
    },
    /// Start the services that the broker wants started (for portbroker-activate.service)
    #[command(hide = true)]
    Activate,
    /// Print completions for a shell
    #[command(hide = true)]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write manual pages
    #[command(hide = true)]
    Manual {
        /// A directory that exists
        directory: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
enum List {
    /// The listeners with their states, holders and sockets
    #[command(after_help = LIST_HELP)]
    Listeners,
    /// The ports that are kept out of ephemeral allocation because services listen on them
    #[command(after_help = LIST_LEARNED_HELP)]
    Learned,
    /// The pools of source addresses and ports for outgoing connections
    #[command(after_help = LIST_HELP)]
    Pools,
    /// The leases of source addresses and ports
    #[command(after_help = LIST_LEASES_HELP)]
    Leases,
}

#[derive(Debug, Subcommand)]
enum Show {
    /// One listener: sockets, holders, grants, where it is configured
    #[command(after_help = SHOW_HELP)]
    Listener {
        /// The listener's name
        #[arg(value_parser = listener_name)]
        name: String,
    },
    /// One pool: addresses, zone and what was left out of it, grants, where it is configured
    #[command(after_help = SHOW_POOL_HELP)]
    Pool {
        /// The pool's name
        #[arg(value_parser = pool_name)]
        name: String,
    },
}

#[derive(Debug, Args)]
struct Root {
    /// Read the configuration, the units and the accounts below DIR
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct Exec {
    /// The listeners, in the order in which COMMAND shall have them
    #[arg(required = true, value_name = "NAME", value_parser = listener_name)]
    pub(crate) names: Vec<String>,
    /// The command and its arguments
    #[arg(required = true, last = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}

#[derive(Debug, Args)]
pub(crate) struct Deposit {
    /// Fail where the broker does not run, instead of letting the service bind for itself
    #[arg(long)]
    pub(crate) required: bool,
    /// The listeners
    #[arg(required = true, value_name = "NAME", value_parser = listener_name)]
    pub(crate) names: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Lease {
    /// The pool
    #[arg(value_parser = pool_name)]
    pub(crate) pool: String,
    /// The destination, or "any"
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = destination)]
    pub(crate) to: Destination,
    /// What the connections speak
    #[arg(long, default_value = "tcp", value_parser = ["tcp", "udp"])]
    pub(crate) protocol: String,
    /// So many single ports, spread over the addresses of the pool
    #[arg(long, value_name = "N", default_value = "1", conflicts_with = "block", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) count: u32,
    /// So many ports, in ranges
    #[arg(long, value_name = "PORTS", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) block: Option<u32>,
    /// Where others have them, wait so long: 10s, 5min; at most 10min [default: fail at once]
    #[arg(long, value_name = "TIME", value_parser = waiting_time)]
    pub(crate) wait: Option<Duration>,
    /// The command and its arguments
    #[arg(last = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}

#[derive(Debug, Args)]
pub(crate) struct Top {
    /// Print one picture, of everything, and end
    #[arg(long)]
    pub(crate) once: bool,
    /// Ask for what the broker does not announce so often: 500ms, 5s; at least 100ms
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = interval)]
    pub(crate) interval: Duration,
}

fn interval(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|_| "write it as in 500ms or 5s".to_owned())?;
    if time < Duration::from_millis(100) { Err("at least 100ms".to_owned()) } else { Ok(time) }
}

fn waiting_time(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|_| "write it as in 10s or 5min".to_owned())?;
    let most = Duration::from_millis(u64::from(portbroker_client::wire::MAX_WAIT));
    if time > most {
        Err("the broker lets nobody wait for more than 10 minutes".to_owned())
    } else {
        Ok(time)
    }
}

/// Whom a lease is for; `None`: anybody.
pub(crate) type Destination = Option<std::net::SocketAddr>;

fn destination(text: &str) -> Result<Destination, String> {
    if text == "any" {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| {
        "write ADDRESS:PORT, as in 198.51.100.7:443 or [2001:db8::7]:443, or \"any\": names are not looked up".to_owned()
    })
}

fn pool_name(text: &str) -> Result<String, portbroker::model::PoolNameError> {
    PoolName::try_from(text).map(|name| name.to_string())
}

/// The broker's own check of names, before anything is asked: they also go into LISTEN_FDNAMES and FDNAME=.
fn listener_name(text: &str) -> Result<String, portbroker::model::NameError> {
    ListenerName::try_from(text).map(|name| name.to_string())
}

impl Arguments {
    /// Does what the command line says, and says what went wrong.
    pub(crate) fn run(self) -> ExitCode {
        let broker = match self.socket {
            Some(path) => Broker::new().socket_path(path),
            None => Broker::new(),
        };
        let pages = if self.no_pager { Pages::Never } else { Pages::OnATerminal };
        let output = Output::new(self.json, pages);
        let password = if self.no_ask_password { AskPassword::No } else { AskPassword::Yes };
        let result = match self.verb {
            Verb::Status { full } => status::run(&broker, output, full),
            Verb::Top(arguments) => top::run(&broker, output, &arguments),
            Verb::List(List::Listeners) => listeners::list(&broker, output),
            Verb::List(List::Learned) => learned::list(&broker, output),
            Verb::List(List::Pools) => pools::list(&broker, output),
            Verb::List(List::Leases) => leases::list(&broker, output),
            Verb::Show(Show::Pool { name }) => pools::show(&broker, output, &name),
            Verb::Lease(arguments) => lease::run(&broker, &arguments),
            Verb::Release { lease } => leases::release(&broker, output, lease, password),
            Verb::Drain { address, undo } => pools::drain(&broker, output, address, undo, password),
            Verb::Forget { port } => learned::forget(&broker, output, port),
            Verb::Show(Show::Listener { name }) => listeners::show(&broker, output, &name),
            Verb::Check { path, root } => check::run(output, root.root, path.as_deref()),
            Verb::Doctor(root) => doctor::run(&broker, output, &root.root),
            Verb::Plan(planned) => plan::run(output, &planned),
            Verb::CatConfig(root) => cat_config::run(output, root.root),
            Verb::Reload => reload::run(&broker, output, password),
            Verb::Renew { name } => renew::run(&broker, output, &name),
            Verb::Exec(arguments) => exec::run(&broker, &arguments),
            Verb::Deposit(arguments) => deposit::run(&broker, output, &arguments),
            Verb::Import { unit, root } => import::run(output, root.root, &unit),
            Verb::Who(arguments) => who::run(&broker, output, &arguments, password),
            Verb::Activate => activate::run(),
            Verb::Completions { shell } => packaging::completions(Self::command(), shell),
            Verb::Manual { directory } => packaging::manual(Self::command(), &directory),
        };
        result.unwrap_or_else(|failure: Failure| failure.report())
    }
}

/// Runs one question to the broker to its end.
pub(crate) fn block_on<T>(question: impl Future<Output = Result<T, Error>>) -> Result<T, Failure> {
    let _progress = Progress::begin("asking the broker");
    block_on_silently(question)
}

/// The same while somebody else writes on this terminal.
pub(crate) fn block_on_silently<T>(question: impl Future<Output = Result<T, Error>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build();
    Ok(runtime.map_err(failure::no_runtime)?.block_on(question)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn every_verb_has_examples() {
        for verb in Arguments::command().get_subcommands().filter(|verb| !verb.is_hide_set()) {
            let help = verb.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("Examples:\n  portbroker "), "{}", verb.get_name());
        }
    }

    #[test]
    fn names_are_checked_before_anything_is_asked() {
        let parse = |line: &str| Arguments::try_parse_from(line.split(' '));
        assert!(parse("portbroker exec web admin -- true --json").is_ok());
        assert!(parse("portbroker exec web").is_err());
        assert!(parse("portbroker exec -- true").is_err());
        assert!(parse("portbroker deposit -- -odd").is_ok());
        assert!(parse("portbroker lease egress --to 198.51.100.7:443 --count 40").is_ok());
        assert!(
            parse("portbroker lease egress --to [2001:db8::7]:443 --block 9 --protocol udp -- true").is_ok()
        );
        assert!(parse("portbroker lease egress --to any --wait 10min").is_ok());
        for line in [
            "egress",
            "egress --to x:1",
            "egress --to any --count 0",
            "egress --to any --count 1 --block 1",
            "a:b --to any",
            "egress --to any --wait 11min",
            "egress --to any --wait soon",
        ] {
            assert!(parse(&format!("portbroker lease {line}")).is_err(), "{line}");
        }
        for line in ["deposit a:b", "deposit portbroker", "show listener a\nFDSTORE=1", "deposit"] {
            assert!(parse(&format!("portbroker {line}")).is_err(), "{line}");
        }
        assert!(parse("portbroker top --interval 500ms").is_ok());
        assert!(parse("portbroker top --interval 0s").is_err());
    }
}
