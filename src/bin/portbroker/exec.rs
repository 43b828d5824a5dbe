//! `portbroker exec`: becomes a command that has the sockets, as socket activation would start it.

use crate::args::{Exec, block_on};
use crate::failure::{FAILED, Failure, complain};
use portbroker::kernel::exec::exec;
use portbroker_client::{Broker, Holder};
use std::process::{Command, ExitCode};

pub(crate) fn run(broker: &Broker, arguments: &Exec) -> Result<ExitCode, Failure> {
    let sockets = block_on(broker.acquire(&arguments.names, Holder::Process))?;
    let Some((program, rest)) = arguments.command.split_first() else {
        // The command line takes no empty command; there is nothing to become.
        return Ok(ExitCode::SUCCESS);
    };
    let mut command = Command::new(program);
    command.args(rest);
    exec(command, sockets, |error| {
        complain(&error.to_string());
        FAILED.into()
    })
}
