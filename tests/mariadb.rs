//! A real MariaDB through its unit section, on a booted system, under clients that never pause.

#![cfg(test)]

use portbroker_lab::{Lab, prepare};
use std::path::Path;
use std::process::{Child, Stdio};

/// MariaDB's own start limit is 5 in 10 s.
const SECTION: &str = "\
[Unit]
StartLimitIntervalSec=0
[X-PortBroker]
ListenStream=127.0.0.1:3306
ListenStream=/run/mysqld/mysqld.sock
FileDescriptorName=mysql
";
const RESTARTS: usize = 20;
const KILLS: usize = 10;

fn booted(name: &str) -> Lab {
    let lab = prepare(name)
        .install(Path::new(env!("CARGO_MANIFEST_DIR")), Path::new(env!("CARGO_BIN_EXE_portbroker")))
        .file("/etc/systemd/system/mariadb.service.d/ports.conf", SECTION)
        // Less to copy and to flush: the data directory is the machine's own, seen through an overlay.
        .file(
            "/etc/mysql/mariadb.conf.d/99-lab.cnf",
            "[mariadbd]\ninnodb_log_file_size=4M\ninnodb_flush_log_at_trx_commit=0\n",
        )
        .boot();
    lab.ok("systemctl start mariadb");
    lab
}

/// Clients at the port and at the path.
fn knock(lab: &Lab) -> Child {
    let mut command = lab.command(["python3", "/opt/knock.py", "3306", "/run/mysqld/mysqld.sock"]);
    command.stdout(Stdio::piped()).spawn().expect("nsenter")
}

/// Ends the clients: how many connects were greeted, refused, reset, and left without an answer.
fn counts(lab: &Lab, clients: Child) -> [u64; 4] {
    lab.ok("touch /run/knock.stop");
    let output = clients.wait_with_output().expect("the clients");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    println!("{}", text.trim());
    let numbers: Vec<u64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    numbers.try_into().expect("four numbers")
}

#[test]
fn restarted_under_clients_no_connect_is_refused() {
    let lab = booted("restarts");
    let clients = knock(&lab);
    for _ in 0..RESTARTS {
        lab.ok("systemctl restart mariadb");
    }
    let [greeted, refused, reset, silent] = counts(&lab, clients);
    assert!(greeted > 100, "only {greeted} connects were greeted");
    assert_eq!((refused, silent), (0, 0), "refused, silent");
    // A connection that the server had accepted and not greeted when it was told to stop: at most one a client.
    let clients = 4;
    assert!(reset <= clients * RESTARTS as u64, "{reset} connections were reset");

    lab.step("the data is served, at the port and at the path");
    lab.ok("mariadb -e 'select 1'");
    assert_eq!(lab.show("mariadb", "NFileDescriptorStore"), "2");
}

#[test]
fn the_broker_killed_under_clients_comes_back_with_the_same_sockets() {
    let lab = booted("kills");
    let inodes = || lab.ok("portbroker --json show listener mysql | grep -o '\"inode\":[0-9]*'");
    let before = inodes();
    let clients = knock(&lab);
    for n in 0..KILLS {
        lab.ok("systemctl kill -s KILL portbroker");
        lab.wait_for("systemctl is-active portbroker && portbroker status", 10);
        assert_eq!(inodes(), before, "after kill {n}");
        // The service is restarted between two lives of the broker, too.
        if n % 3 == 0 {
            lab.ok("systemctl kill -s KILL portbroker; systemctl restart mariadb");
        }
    }
    lab.ok("systemctl restart portbroker");
    assert_eq!(inodes(), before, "after a restart");
    let [greeted, refused, _reset, silent] = counts(&lab, clients);
    assert!(greeted > 100, "only {greeted} connects were greeted");
    assert_eq!((refused, silent), (0, 0), "refused, silent");
    lab.ok("portbroker status");
}

/// The README's recipe, line by line as it is written there, but for the build and the installation.
#[test]
fn the_readmes_recipe_takes_a_running_server_over() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = std::fs::read_to_string(root.join("README.md")).unwrap();
    let recipe = readme.split("## Protect MariaDB").nth(1).unwrap();
    let block = recipe.split("```sh\n").nth(1).unwrap().split("```").next().unwrap();
    let (build, recipe) = block.split_once('\n').unwrap();
    assert!(build.ends_with("systemd/install"), "{build}");
    let lab = prepare("recipe").install(root, Path::new(env!("CARGO_BIN_EXE_portbroker"))).boot();
    lab.ok("systemctl start mariadb");
    let own = lab.show("mariadb", "MainPID");
    assert!(lab.ok("ss -Hltnp sport = :3306").contains(&format!("pid={own},")), "it binds for itself");

    let told = lab.ok("portbroker who 3306");
    let listens =
        format!("mariadbd (pid {own}, mariadb.service) listens on 127.0.0.1:3306: no other service can");
    assert!(told.contains(&listens), "{told}");

    lab.ok(recipe);
    lab.ok("portbroker status");
    let told = lab.ok("portbroker who 3306 --evict --force");
    let holds = "the broker holds 127.0.0.1:3306 as listener mysql, listening; mariadb.service has it";
    assert!(told.contains(holds) && told.contains("mariadbd["), "{told}");
    assert!(told.contains("\nkept tcp 127.0.0.1:3306 (listen): the broker holds it"), "{told}");
    assert_eq!(lab.show("mariadb", "NFileDescriptorStore"), "2");
    let holder = lab.ok("portbroker --json show listener mysql");
    assert!(holder.contains("\"holder\":\"mariadb.service\""), "{holder}");
    lab.ok("mariadb -e 'select 1'");
    lab.ok("mariadb --protocol tcp -h 127.0.0.1 -e 'select 1' || mariadb --protocol tcp -h 127.0.0.1 2>&1 | grep -i denied");
}
