//! The command line, and which verb does what it says.

use crate::failure::{self, Failure};
use crate::output::Output;
use crate::{
    activate, cat_config, check, deposit, exec, import, learned, listeners, packaging, reload, renew, status,
};
use clap::{Args, CommandFactory, Parser, Subcommand};
use portbroker::model::ListenerName;
use portbroker_client::{Broker, Error};
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

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
    #[command(subcommand)]
    verb: Verb,
}

const EXIT_STATUSES: &str = "\
Exit statuses: 0 done, 1 refused or failed, 2 usage, 69 broker not reachable, 77 not allowed,
78 configuration. `status` alone: 0 all is well, 1 degraded, 3 not running.";

#[derive(Debug, Subcommand)]
enum Verb {
    /// Whether the broker runs and holds all that it should
    #[command(after_help = STATUS_HELP)]
    Status,
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

const STATUS_HELP: &str = "\
Exit status 0 where all is well, 1 where something is not as it was configured, 3 where the broker
does not run.
JSON: {\"state\": \"running\" | \"degraded\" | \"stopped\", \"version\", \"faults\": [text],
       \"listeners\": {\"listening\", \"reserved\", \"failed\"}, \"learned\": number of ports that are
       protected because services listen on them}; version, listeners and learned are null where
       it is stopped.

Examples:
  portbroker status
  portbroker --json status | jq -r '.faults[]'";

const LIST_HELP: &str = "\
JSON of listeners: an array of what `show listener` prints, without what waits in the sockets.

Examples:
  portbroker list listeners
  portbroker list learned
  portbroker --json list listeners | jq -r '.[] | select(.state == \"failed\").name'";

const LIST_LEARNED_HELP: &str = "\
A port is learned when the same system service was seen listening on it in two lives, one after the
other, or when an enabled socket unit names it; see [protect] learn and exclude.
JSON: [{\"port\", \"protocol\": \"tcp\" | \"udp\", \"unit\", \"first_seen\", \"last_seen\"}], the times in
       seconds since the epoch.

Examples:
  portbroker list learned
  portbroker --json list learned | jq -r '.[] | .port'";

const FORGET_HELP: &str = "\
The port is given back to ephemeral allocation at once. To keep it from being learned ever again name
it under [protect] exclude. A port that a socket unit names stays forgotten while that unit is enabled.
JSON: {\"forgotten\": number}

Examples:
  portbroker forget 8080";

const SHOW_HELP: &str = "\
JSON: {\"name\", \"state\": \"reserved\" | \"listening\" | \"failed\",
       \"sockets\": [{\"endpoint\", \"state\", \"inode\", \"error\", \"queue\", \"backlog\",
                    \"overflows\"}],
       \"holders\": [text], \"holder\": the first or null, \"idle\", \"activate\",
       \"activation-error\", \"allow\": [text], \"origin\"}
inode is null where the socket could not be bound, and error where it could; activate and
activation-error where there is none. A socket's state may
also be \"draining\": see `renew`. `show` alone knows what waits in a socket: queue and backlog are
connections that wait to be accepted and for how many there is room, or the same in bytes of
datagrams; overflows, how many found no room since the socket was made. The kernel does not tell all
of them of every socket: null.

Examples:
  portbroker show listener web
  portbroker --json show listener web | jq .holder";

const CHECK_HELP: &str = "\
Reads the sections of units, the TOML files and, for what is inherited, the socket units. Faults are
printed on standard error with the lines that they are about; exit status 78 where one is an error.
JSON: {\"valid\", \"errors\": number, \"warnings\": number,
       \"faults\": [{\"severity\": \"error\" | \"warning\", \"message\", \"help\",
                   \"origin\": {\"file\", \"line\", \"column\", \"unit\"},
                   \"related\": [{\"origin\", \"what\"}]}]}; null for what is not known.

Examples:
  portbroker check
  portbroker check /etc/systemd/system/mariadb.service.d/port.conf
  portbroker --json check | jq -r '.faults[].message'";

const CAT_CONFIG_HELP: &str = "\
What is printed is TOML, with the place of each value as a comment.
JSON: {\"listeners\": [{\"name\", \"source\": \"unit\" | \"toml\" | \"inherited\", \"origin\",
                       \"required\", \"sockets\": [text],
                       \"values\": [{\"key\", \"value\", \"origin\": null for a default}]}],
       \"protect\": {\"ports\", \"learn\", \"exclude\", \"values\"}}; a key with several values comes once for each.

Examples:
  portbroker cat-config
  portbroker --json cat-config | jq -r '.listeners[] | .name, .sockets[]'";

const RELOAD_HELP: &str = "\
All or nothing: where the new configuration has any fault, all of them are printed, the old one goes
on, and the exit status is 78. `systemctl daemon-reload` does the same for sections of unit files.
JSON: {\"reloaded\": true}

Examples:
  portbroker check && portbroker reload";

const RENEW_HELP: &str = "\
For a socket with which something is wrong that cannot be undone, such as a locked filter. The new
sockets are bound beside the old ones, so that the addresses are never given up, and are what
COMMAND or the service gets from now on: restart it. The old ones are `draining`: closed when those
who were handed them are gone and nothing waits in them any more. A process of \"portbroker exec\"
is handed them too while something waits; a unit is not, and who still waits in them when it takes the
new ones is cut off, but on TCP, where the kernel moves who waits (net.ipv4.tcp_migrate_req).
JSON: {\"renewed\": the name}

Examples:
  portbroker renew web && systemctl restart nginx";

const EXEC_HELP: &str = "\
COMMAND replaces this process. It has the sockets as its descriptors 3, 4 … and in its environment
LISTEN_PID, LISTEN_FDS, LISTEN_FDNAMES and, from Linux 6.9 on, LISTEN_PIDFDID: sd_listen_fds(3). A
listener with several sockets has its name repeated for each. It starts with SIGPIPE at its default
and no signal blocked. The listener is held until COMMAND ends.

Examples:
  portbroker exec web -- /usr/sbin/lighttpd -D -f /etc/lighttpd/lighttpd.conf
  portbroker exec web admin -- gunicorn app:app";

const DEPOSIT_HELP: &str = "\
For units without the generated drop-in; what the generator writes is
  ExecStartPre=+portbroker deposit NAME…
  NotifyAccess=exec
  FileDescriptorStoreMax=as many as there are sockets
systemd then passes the sockets to the unit's main process as socket activation does. Where the
broker does not run, that is said in the journal and the service binds for itself; with --required
the exit status is 69 and the unit does not start. Any other failure fails the unit, for the broker
holds the port.
JSON: {\"deposited\": [{\"name\", \"sockets\": number}]}

Examples:
  portbroker deposit mysql
  portbroker deposit --required web admin";

const IMPORT_HELP: &str = "\
What is printed is a drop-in for the service that the socket unit activates; comments in it say where it
goes, what else to do, and which keys were left out and why. Drop-ins of the socket unit are read too.
Keys that cannot be taken over are all said, and the exit status is 1; portbroker.toml(5) has a table.

Examples:
  portbroker import cups.socket
  portbroker import ./web.socket";

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
        let output = Output::new(self.json);
        let result = match self.verb {
            Verb::Status => status::run(&broker, output),
            Verb::List(List::Listeners) => listeners::list(&broker, output),
            Verb::List(List::Learned) => learned::list(&broker, output),
            Verb::Forget { port } => learned::forget(&broker, output, port),
            Verb::Show(Show::Listener { name }) => listeners::show(&broker, output, &name),
            Verb::Check { path, root } => check::run(output, root.root, path.as_deref()),
            Verb::CatConfig(root) => cat_config::run(output, root.root),
            Verb::Reload => reload::run(&broker, output),
            Verb::Renew { name } => renew::run(&broker, output, &name),
            Verb::Exec(arguments) => exec::run(&broker, &arguments),
            Verb::Deposit(arguments) => deposit::run(&broker, output, &arguments),
            Verb::Import { unit, root } => import::run(output, root.root, &unit),
            Verb::Activate => activate::run(),
            Verb::Completions { shell } => packaging::completions(Self::command(), shell),
            Verb::Manual { directory } => packaging::manual(Self::command(), &directory),
        };
        result.unwrap_or_else(|failure: Failure| failure.report())
    }
}

/// Runs one question to the broker to its end.
pub(crate) fn block_on<T>(question: impl Future<Output = Result<T, Error>>) -> Result<T, Failure> {
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
        for line in ["deposit a:b", "deposit portbroker", "show listener a\nFDSTORE=1", "deposit"] {
            assert!(parse(&format!("portbroker {line}")).is_err(), "{line}");
        }
    }
}
