//! The ports that the configuration of well-known services names: sshd, nginx, MariaDB and MySQL, PostgreSQL, Apache,
//! Redis; each read by the rules of its own manual, with the files that it includes.
//!
//! Pure: files are read by whoever calls ([`Files`]). What always holds:
//! - A file is read once in a row of includes, and no more files than [`MOST_FILES`]: no configuration is so odd that
//!   reading it does not end.
//! - What cannot be understood is passed over: these files are between their services and whoever wrote them.
//! - A port that no line names is told where the service has a default, and is known by line 0.

mod apache;
mod include;
mod mysql;
mod nginx;
mod postgresql;
mod redis;
mod sshd;
#[cfg(test)]
mod tests;
mod words;

use crate::model::{Protocol, UnitName};
use include::Reading;
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// More files of one service are not read.
pub const MOST_FILES: usize = 2000;
/// More ports of one service are not told.
const MOST_CLAIMS: usize = 4096;

/// The files of a host.
pub trait Files {
    /// The text of a file; `None` where there is none, or it cannot be read.
    fn text(&mut self, path: &Path) -> Option<String>;
    /// The names in a directory; none where it cannot be read.
    fn names(&mut self, directory: &Path) -> Vec<String>;
}

/// A program whose configuration is understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Program {
    /// OpenSSH's server.
    Sshd,
    /// nginx.
    Nginx,
    /// MariaDB or MySQL.
    Mysql,
    /// PostgreSQL, each cluster of Debian's.
    Postgresql,
    /// Apache's httpd.
    Apache,
    /// Redis.
    Redis,
}

impl Program {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Sshd, Self::Nginx, Self::Mysql, Self::Postgresql, Self::Apache, Self::Redis];

    /// As people call it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sshd => "sshd",
            Self::Nginx => "nginx",
            Self::Mysql => "MariaDB/MySQL",
            Self::Postgresql => "PostgreSQL",
            Self::Apache => "Apache",
            Self::Redis => "Redis",
        }
    }

    /// The stems of the names that its units have.
    fn units(self) -> &'static [&'static str] {
        match self {
            Self::Sshd => &["ssh", "sshd"],
            Self::Nginx => &["nginx"],
            Self::Mysql => &["mariadb", "mysql", "mysqld"],
            Self::Postgresql => &["postgresql"],
            Self::Apache => &["apache2", "httpd"],
            Self::Redis => &["redis-server", "redis"],
        }
    }

    /// The program that a unit runs, by the unit's name; and its instance.
    #[must_use]
    pub fn of_unit(unit: &UnitName) -> Option<(Self, Option<&str>)> {
        let (name, instance) = match unit.stem().split_once('@') {
            Some((name, instance)) => (name, Some(instance)),
            None => (unit.stem(), None),
        };
        // The instances of others have files of their own, which only their units name.
        let program = Self::ALL.into_iter().find(|program| program.units().contains(&name))?;
        (instance.is_none() || program == Self::Postgresql).then_some((program, instance))
    }

    /// The names that units of it may have.
    pub fn unit_names(self) -> impl Iterator<Item = String> {
        self.units().iter().map(|stem| format!("{stem}.service"))
    }

    fn read(self, reading: &mut Reading<'_>) -> Vec<Claim> {
        match self {
            Self::Sshd => sshd::read(reading),
            Self::Nginx => nginx::read(reading),
            Self::Mysql => mysql::read(reading),
            Self::Postgresql => postgresql::read(reading),
            Self::Apache => apache::read(reading),
            Self::Redis => redis::read(reading),
        }
    }
}

/// Where a service listens, of the host's addresses.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Where {
    /// On all of them.
    Everywhere,
    /// On one; the wildcard of a family means all of that family.
    Address(IpAddr),
    /// On whatever a name stands for.
    Name(String),
}

impl fmt::Display for Where {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Everywhere => f.write_str("*"),
            Self::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
            Self::Address(address) => address.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

impl Where {
    /// What `*`, an address, one in brackets, or a name stands for.
    fn of(text: &str) -> Self {
        let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
        match bare.parse() {
            Ok(address) => Self::Address(address),
            Err(_) if bare == "*" => Self::Everywhere,
            Err(_) => Self::Name(bare.to_owned()),
        }
    }
}

/// A port that a service's configuration names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Claim {
    /// Whose configuration.
    pub program: Program,
    /// The instance of its unit: `15-main`.
    pub instance: Option<String>,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The port.
    pub port: u16,
    /// On which addresses.
    pub address: Where,
    /// In which file.
    pub file: PathBuf,
    /// In which line, from 1; 0: it is the default, and in no line.
    pub line: usize,
}

impl Claim {
    /// `FILE:LINE`, or that it is the default.
    #[must_use]
    pub fn place(&self) -> String {
        match self.line {
            0 => format!(
                "the default of {}, which {} does not change",
                self.program.as_str(),
                self.file.display()
            ),
            line => format!("{}:{line}", self.file.display()),
        }
    }

    /// `tcp 127.0.0.1:3306`
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("{} {}:{}", self.protocol.as_str(), self.address, self.port)
    }

    /// Whether a unit of this name runs the service with this configuration.
    #[must_use]
    pub fn is_of(&self, unit: &UnitName) -> bool {
        Program::of_unit(unit).is_some_and(|(program, instance)| {
            program == self.program && (instance.is_none() || instance == self.instance.as_deref())
        })
    }
}

/// A file and a line of it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    file: PathBuf,
    line: usize,
}

impl Place {
    fn new(file: &Path, line: usize) -> Self {
        Self { file: file.to_owned(), line }
    }

    /// A claim that this place makes.
    fn claim(&self, program: Program, protocol: Protocol, address: Where, port: u16) -> Claim {
        Claim { program, instance: None, protocol, port, address, file: self.file.clone(), line: self.line }
    }
}

/// What all of them name, in the order of [`Program::ALL`]; of each, nothing twice.
pub fn claims(files: &mut dyn Files) -> Vec<Claim> {
    let mut all = Vec::new();
    for program in Program::ALL {
        let mut claims = program.read(&mut Reading::new(files));
        claims.truncate(MOST_CLAIMS);
        let mut seen = std::collections::HashSet::new();
        claims.retain(|claim| {
            seen.insert((claim.instance.clone(), claim.protocol, claim.address.clone(), claim.port))
        });
        all.extend(claims);
    }
    all
}
