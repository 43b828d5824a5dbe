//! The first thing: a service that cannot start, because an outgoing connection has its port.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a demonstration prints")]

use crate::Result;
use crate::child::{Place, Running, enter_namespace, itself, set, wait_for};
use std::collections::VecDeque;
use std::error::Error;
use std::io::{BufRead as _, BufReader, IsTerminal as _, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};

const RESTARTS: u32 = 50;
const SERVICE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 3306);
/// Below the ephemeral range of the storm, so that it is never in its own way.
const SINK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 900);
const STORMS: usize = 2;
const UP: Duration = Duration::from_millis(40);
const DOWN: Duration = Duration::from_millis(220);
/// How the service says that its port was taken.
const EXIT_ADDRESS_IN_USE: i32 = 98;
const GREETING: &[u8] = b"here I am\n";

/// Both, one after the other.
pub(crate) fn demonstrate(daemon: &str, begin: Instant) -> Result<()> {
    println!(
        "A service on port {} is restarted {RESTARTS} times. Beside it, a storm of outgoing",
        SERVICE.port()
    );
    println!("connections takes its source ports from 1024 to 65535, as the kernel gives them out.\n");
    let without = run_phase("without portbroker", "")?;
    let with = run_phase("with portbroker", daemon)?;
    println!("\n                     starts   failed with \"address already in use\"");
    println!("without portbroker   {RESTARTS:>6}   {without:>6}   {}", bar(without));
    println!("with portbroker      {RESTARTS:>6}   {with:>6}   {}", bar(with));
    println!("\n({:.0} s)", begin.elapsed().as_secs_f64());
    println!("without: {without}/{RESTARTS} failed starts, with: {with}/{RESTARTS}");
    Ok(())
}

fn bar(count: u32) -> String {
    "#".repeat(count as usize)
}

/// Runs one phase in a process of its own, which prints as it goes and says the count last.
fn run_phase(title: &str, daemon: &str) -> Result<u32> {
    let mut child = itself(&["restarts", daemon]).stdout(Stdio::piped()).spawn()?;
    let output = BufReader::new(child.stdout.take().ok_or("no output")?);
    let mut failed = None;
    let live = std::io::stdout().is_terminal();
    for line in output.lines() {
        let line = line?;
        let (done, count) = line.split_once(' ').ok_or("the phase printed something strange")?;
        failed = Some(count.parse()?);
        if live {
            print!("\r{title:<20} restart {done:>2}/{RESTARTS}, failed {count:>2} ");
            std::io::stdout().flush()?;
        } else if done.ends_with('0') {
            println!("{title:<20} restart {done:>2}/{RESTARTS}, failed {count:>2}");
        }
    }
    if live {
        println!();
    }
    if !child.wait()?.success() {
        return Err(format!("the phase {title:?} broke off").into());
    }
    failed.ok_or_else(|| "the phase printed nothing".into())
}

/// One of the two: in a process of its own, which has a namespace of its own.
pub(crate) fn run(daemon: Option<&str>) -> Result<()> {
    enter_namespace()?;
    set("ipv4/ip_local_port_range", "1024 65535")?;
    let place = Place::new()?;
    let socket = place.socket();
    let configuration = format!("[[listener]]\nname = \"mysql\"\nstream = [\"{SERVICE}\"]\n");
    let _daemon = daemon.map(|daemon| place.start(daemon, &configuration)).transpose()?;
    let _sink = Running(itself(&["sink"]).spawn()?);
    wait_for("the sink", || TcpStream::connect(SINK).is_ok())?;
    let mut service = start_service(&socket)?.ok_or("the port was taken before the storm began")?;
    let _storms: Vec<Running> =
        (0..STORMS).map(|_| itself(&["storm"]).spawn().map(Running)).collect::<std::io::Result<_>>()?;
    std::thread::sleep(Duration::from_secs(1));
    let mut failed = 0;
    for restart in 1..=RESTARTS {
        drop(service.0);
        std::thread::sleep(DOWN);
        service = match start_service(&socket)? {
            Some(running) => {
                greeted()?;
                (running.0, restart)
            }
            None => {
                failed += 1;
                (None, restart)
            }
        };
        println!("{restart} {failed}");
        std::thread::sleep(UP);
    }
    Ok(())
}

/// The service, with the number of the restart; `None`: its port was taken.
type Service = (Option<Running>, u32);

fn start_service(socket: &Path) -> Result<Option<Service>> {
    let mut command = itself(&["service"]);
    let mut child = command.env("PORTBROKER_SOCKET", socket).stdout(Stdio::piped()).spawn()?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().ok_or("no output")?).read_line(&mut line)?;
    if line == "listening\n" {
        return Ok(Some((Some(Running(child)), 0)));
    }
    match child.wait()?.code() {
        Some(EXIT_ADDRESS_IN_USE) => Ok(None),
        status => Err(format!("the service ended with {status:?}").into()),
    }
}

/// A client of the service is answered.
fn greeted() -> Result<()> {
    let mut client = TcpStream::connect(SERVICE)?;
    client.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut greeting = [0; GREETING.len()];
    client.read_exact(&mut greeting)?;
    if greeting == GREETING { Ok(()) } else { Err("somebody else answered".into()) }
}

/// The service: takes its socket from the broker, and binds for itself where there is none.
pub(crate) fn service() -> ExitCode {
    let socket = std::env::var_os("PORTBROKER_SOCKET").unwrap_or_default();
    let taken =
        portbroker_client::listen("mysql").socket_path(socket).or_bind(SERVICE.to_string()).blocking();
    let listener: TcpListener = match taken.and_then(|mut sockets| sockets.tcp_listener()) {
        Ok(listener) => listener,
        Err(error) => {
            let mut cause: Option<&(dyn Error + 'static)> = Some(&error);
            while let Some(error) = cause {
                let io = error.downcast_ref::<std::io::Error>();
                if io.is_some_and(|io| io.kind() == std::io::ErrorKind::AddrInUse) {
                    return ExitCode::from(98);
                }
                cause = error.source();
            }
            eprintln!("service: {error}");
            return ExitCode::FAILURE;
        }
    };
    println!("listening");
    for mut client in listener.incoming().flatten() {
        let _ = client.write_all(GREETING);
        // The client closes first, as most do: the TIME_WAIT of a service that closes first keeps its port out of
        // the kernel's choice for a minute.
        let _ = client.read(&mut [0]);
    }
    ExitCode::SUCCESS
}

/// How many connections one process may hold: it has the descriptors for it.
fn connections() -> Result<usize> {
    let (_, hard) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE)?;
    nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(usize::try_from(hard)?.saturating_sub(100).min(16_000) / STORMS)
}

/// Only ever calls connect(), and closes the oldest of its connections for each new one.
pub(crate) fn storm() -> Result<()> {
    let most = connections()?;
    let mut open = VecDeque::with_capacity(most);
    loop {
        match TcpStream::connect(SINK) {
            Ok(stream) => open.push_back(stream),
            // Out of ports for a moment; the oldest make room.
            Err(_) => {
                open.pop_front();
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        if open.len() >= most {
            open.pop_front();
        }
    }
}

/// Accepts everything and closes what its clients have closed.
pub(crate) fn sink() -> Result<()> {
    let most = connections()? * STORMS;
    // A long queue: a connection that waits for a place in it would slow the storm down by a second.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    socket.bind(&SINK.into())?;
    socket.listen(4096)?;
    let listener = TcpListener::from(socket);
    let mut open = VecDeque::with_capacity(most);
    for stream in listener.incoming() {
        open.push_back(stream?);
        if open.len() >= most {
            open.pop_front();
        }
    }
    Ok(())
}
