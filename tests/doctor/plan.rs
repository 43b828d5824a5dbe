//! `portbroker plan` as a program.

use crate::daemon::run;
use crate::netns::in_netns;
use crate::support::set;
use serde_json::Value;
use std::process::{Command, Stdio};

const EXAMPLE: &str = "plan --connections 2M --destinations 1 --lifetime 30s --rate 20k/s";

fn portbroker(line: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portbroker"));
    command.args(line.split(' ')).stdin(Stdio::null()).env("PORTBROKER_SOCKET", "/nonexistent/bus");
    command.env("LC_ALL", "C.UTF-8").env_remove("COLUMNS");
    command
}

fn text(command: &mut Command) -> String {
    let (status, out, errors) = run(command);
    assert_eq!((status, errors.as_str()), (0, ""), "{out}");
    out
}

fn json(line: &str) -> Value {
    let out = text(portbroker(line).arg("--json"));
    assert_eq!(out.lines().count(), 1);
    serde_json::from_str(&out).unwrap()
}

#[test]
fn the_example_is_planned_with_what_the_kernel_alone_would_do_beside_it() {
    in_netns(|| {
        let out = text(&mut portbroker(EXAMPLE));
        for part in [
            "2,000,000 TCP connections open at once",
            "3,200,000 in use at once",
            "36,280 of each address: 1024-32767,61000-65535",
            "\naddresses  89, ",
            "28,232 sources (32768-60999); connect() is slow from 14,116 on",
            "\n[[pool]]\nname = \"egress\"\naddresses = [\"192.0.2.1-192.0.2.89\"]\nports = \"auto\"\n",
            "█",
        ] {
            assert!(out.contains(part), "{part:?} is not in {out}");
        }
        let plan = json(EXAMPLE);
        assert_eq!((&plan["tuples"], &plan["addresses"]), (&3_200_000.into(), &89.into()));
        assert_eq!(
            (&plan["kernel"]["sources"], &plan["kernel"]["slow-from"]),
            (&28_232.into(), &14_116.into())
        );
        assert_eq!(plan["curve"].as_array().unwrap().len(), 100);
    });
}

/// The ports of this host are those that a pool has here; those of another are said by its range.
#[test]
fn the_ports_are_those_of_the_host() {
    in_netns(|| {
        set("ip_local_port_range", "1024 65535");
        let line = "plan --connections 1M --lifetime 1h";
        assert_eq!(json(line)["ports"], "33280-65535");
        assert_eq!(json(&format!("{line} --range 32768-60999"))["ports"], "1024-32767,61000-65535");
        assert_eq!(json(&format!("{line} --ports 2000-2999"))["ports-of-each-address"], 1000);
        let out = text(&mut portbroker(&format!("{line} --ports 2000-2999")));
        assert!(out.contains("1,000 of them are taken from the kernel's own range"), "{out}");
    });
}

#[test]
fn what_cannot_be_planned_is_said() {
    for (line, wanted, says) in [
        ("plan", 2, "two of --connections, --rate and --lifetime are needed"),
        (
            "plan --connections 1k --rate 20k/s --lifetime 30s",
            2,
            "600,000 open at once, and --connections says at most 1,000",
        ),
        ("plan --connections 0 --lifetime 1s", 2, "0 is nothing to plan for"),
        ("plan --connections 2M --lifetime 0s", 2, "no time at all"),
        ("plan --connections 99999999999999999999 --lifetime 1s", 2, "too large"),
        ("plan --connections lots --lifetime 1s", 2, "is no number"),
        ("plan --rate 1/fortnight --lifetime 1s", 2, "is no rate"),
        ("plan --rate 1/s --lifetime ages", 2, "is no span of time"),
        ("plan --rate 1/s --lifetime 1s --ports 0-9", 2, "is no port"),
        ("plan --rate 1/s --lifetime 1s --range 9-1", 2, "runs backwards"),
        ("plan --rate 1/s --lifetime 1s --destinations 0", 2, "0 is nothing to plan for"),
        ("plan --rate 1/s --lifetime 1s --protocol sctp", 2, "sctp"),
    ] {
        let (status, out, errors) = run(&mut portbroker(line));
        assert_eq!((status, out.as_str()), (wanted, ""), "{line}: {errors}");
        assert!(errors.contains(says), "{line}: {errors}");
    }
    in_netns(|| {
        let (status, _, errors) =
            run(&mut portbroker("plan --rate 1/s --lifetime 1s --ports 1-10 --range 1-10"));
        assert_eq!(status, 1, "{errors}");
        assert!(errors.contains("no port is left for a pool"), "{errors}");
    });
}

#[test]
fn a_terminal_of_few_columns_or_plain_letters_gets_what_it_can_show() {
    in_netns(|| {
        let plain = text(portbroker(EXAMPLE).env("LC_ALL", "C"));
        let plot = plain.split("Sources in use").nth(1).unwrap().split("Configuration").next().unwrap();
        assert!(plot.is_ascii() && plot.contains('#') && plot.contains(':'), "{plot}");
        for columns in ["0", "1", "19", "20", "1000", "wide"] {
            let out = text(portbroker(EXAMPLE).env("COLUMNS", columns));
            assert!(out.contains("\n[[pool]]\n"), "{columns}: {out}");
        }
        let (status, out, _) = run(portbroker(EXAMPLE).env("NO_COLOR", "1"));
        assert!(status == 0 && !out.contains('\x1b'), "{out}");
    });
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let mut child = portbroker(EXAMPLE).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}
