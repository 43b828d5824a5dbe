//! Configurations of services: as Debian's packages install them here, as Debian ships those that are not installed, and
//! beside sections of units that do not agree.

use crate::netns::in_netns;
use crate::support::{Root, evidence, report};
use portbroker::services::{Claim, Program, claims};
use portbroker::sources::ServiceFiles;
use std::path::Path;

/// `PROTOCOL ADDRESS:PORT FILE:LINE` of each.
fn claimed(root: &Path, program: Program) -> Vec<String> {
    let one = |claim: &Claim| format!("{} {}", claim.endpoint(), claim.place());
    let mut files = ServiceFiles::new(root);
    let all: Vec<Claim> = claims(&mut files).into_iter().filter(|claim| claim.program == program).collect();
    all.iter().map(one).collect()
}

/// The line in a file, as grep(1) counts it.
fn line_of(file: &str, begins: &str) -> String {
    let text = std::fs::read_to_string(file).unwrap_or_else(|error| panic!("needs {file}: {error}"));
    let at = text.lines().position(|line| line.starts_with(begins));
    format!("{file}:{}", at.unwrap_or_else(|| panic!("{file} has no {begins:?}")) + 1)
}

/// openssh-server, mariadb-server and postgresql, which tests/run installs.
#[test]
fn what_debian_installs_is_read() {
    let here = Path::new("/");
    let [sshd] = claimed(here, Program::Sshd).try_into().unwrap();
    assert!(sshd.starts_with("tcp *:22 the default of sshd"), "{sshd}");
    let [mariadb] = claimed(here, Program::Mysql).try_into().unwrap();
    assert!(mariadb.starts_with("tcp 127.0.0.1:3306 the default of MariaDB/MySQL"), "{mariadb}");
    let postgresql = claimed(here, Program::Postgresql);
    let cluster = std::fs::read_dir("/etc/postgresql").unwrap().next().unwrap().unwrap().path();
    let file = cluster.join("main/postgresql.conf").display().to_string();
    assert_eq!(postgresql, [format!("tcp localhost:5432 {}", line_of(&file, "port ="))]);
}

#[test]
fn what_debian_ships_is_read() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/doctor/debian-12");
    let expected = [
        "tcp 0.0.0.0:80 /etc/nginx/sites-enabled/default:22",
        "tcp [::]:80 /etc/nginx/sites-enabled/default:23",
    ];
    assert_eq!(claimed(&root, Program::Nginx), expected);
    let expected = ["tcp *:80 /etc/apache2/ports.conf:5", "tcp *:443 /etc/apache2/ports.conf:8"];
    assert_eq!(claimed(&root, Program::Apache), expected);
}

#[test]
fn a_section_that_its_services_own_configuration_contradicts_is_found() {
    in_netns(|| {
        let section = "[X-PortBroker]\nListenStream=127.0.0.1:3306\nFileDescriptorName=mysql\n";
        let root = Root::new(&[
            ("/usr/lib/systemd/system/mariadb.service", "[Service]\nExecStart=/usr/sbin/mariadbd\n"),
            ("/etc/systemd/system/mariadb.service.d/ports.conf", section),
            ("/etc/mysql/my.cnf", "!includedir /etc/mysql/conf.d/\n"),
            ("/etc/mysql/conf.d/server.cnf", "[mysqld]\nbind-address = 127.0.0.1\nport = 3307\n"),
        ]);
        let seen = report(&mut root.doctor());
        let finding = seen.one("configurations-disagree");
        assert_eq!(
            (&finding["severity"], &finding["subject"]),
            (&"warning".into(), &"mariadb.service".into())
        );
        let evidence = evidence(finding);
        assert!(
            evidence
                .contains("/etc/systemd/system/mariadb.service.d/ports.conf:3: mysql: tcp 127.0.0.1:3306"),
            "{evidence}"
        );
        assert!(evidence.contains("/etc/mysql/conf.d/server.cnf:3: tcp 127.0.0.1:3307"), "{evidence}");
        std::fs::write(root.join("/etc/mysql/conf.d/server.cnf"), "[mysqld]\nbind-address = 127.0.0.1\n")
            .unwrap();
        let agrees = report(&mut root.doctor());
        assert!(agrees.found("configurations-disagree").is_empty(), "{}", agrees.document);
    });
}

#[test]
fn the_text_has_a_headline_evidence_and_what_mends_it() {
    in_netns(|| {
        crate::support::set("ip_local_port_range", "40000 40099");
        let root = Root::new(&[("/etc/ssh/sshd_config", "Port 40022\n")]);
        let (status, out, errors) = crate::daemon::run(&mut root.doctor());
        assert_eq!((status, errors.as_str()), (1, ""), "{out}");
        for part in [
            "error  tcp 40022 (service-port-ephemeral)\n  port 40022 of sshd is one that the kernel gives",
            "\n  - /etc/ssh/sshd_config:1 names tcp *:40022\n",
            "\n  mend: have the broker hold it",
            " error",
        ] {
            assert!(out.contains(part), "{part:?} is not in {out}");
        }
        assert!(!out.contains('\x1b'), "{out:?}");
    });
}
