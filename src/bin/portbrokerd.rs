//! The daemon.

fn main() -> std::process::ExitCode {
    portbroker::daemon::main()
}
