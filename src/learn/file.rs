//! The memory as text, to be kept over a reboot: JSON with a version.

use super::memory::{Memory, PortMemory, Standing, UnitMemory};
use super::{Life, MOST_PORTS, Moment, memory::MOST_CANDIDATES};
use crate::model::{PortSet, UnitName};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

const VERSION: u32 = 1;
/// More than a memory has, also where many units share ports, and much was forgotten.
const MOST_ENTRIES: usize = 10 * (MOST_CANDIDATES + MOST_PORTS);

/// Why a text is no memory.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It is not what this program writes.
    #[error("it is not what portbroker writes: {0}")]
    Json(#[from] serde_json::Error),
    /// It was written by another version.
    #[error("it is of format {0}, and this version reads format {VERSION}")]
    Version(u32),
    /// A value that cannot be.
    #[error("it has {0}, which cannot be")]
    Value(String),
}

#[derive(Serialize, Deserialize)]
struct File {
    version: u32,
    units: BTreeMap<String, Unit>,
}

#[derive(Serialize, Deserialize)]
struct Unit {
    life: Option<String>,
    dropped: u8,
    ports: Vec<Port>,
}

#[derive(Serialize, Deserialize)]
struct Port {
    protocol: String,
    port: u16,
    first: u64,
    last: u64,
    #[serde(flatten)]
    standing: State,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
enum State {
    Candidate { life: String, lives: u8 },
    Learned,
    Named,
    Forgotten { life: Option<String> },
    Unnamed,
}

impl Memory {
    /// The text that [`from_text`] reads.
    pub fn to_text(&self) -> Result<String, FileError> {
        let text = |life: &Life| life.0.clone();
        let port = |(&(protocol, port), known): (&(_, u16), &PortMemory)| {
            let protocol: crate::model::Protocol = protocol;
            let standing = match &known.standing {
                Standing::Candidate { life, lives } => State::Candidate { life: text(life), lives: *lives },
                Standing::Learned => State::Learned,
                Standing::Named => State::Named,
                Standing::Forgotten { life } => State::Forgotten { life: life.as_ref().map(text) },
                Standing::Unnamed => State::Unnamed,
            };
            Port { protocol: protocol.to_string(), port, first: known.first.0, last: known.last.0, standing }
        };
        let unit = |memory: &UnitMemory| Unit {
            life: memory.life.as_ref().map(text),
            dropped: memory.dropped,
            ports: memory.ports.iter().map(port).collect(),
        };
        let units = self.units.iter().map(|(name, memory)| (name.to_string(), unit(memory))).collect();
        let mut text = serde_json::to_string(&File { version: VERSION, units })?;
        text.push('\n');
        Ok(text)
    }
}

/// Reads what [`Memory::to_text`] wrote. What others made of it is refused: no more is learned than may be.
pub fn from_text(text: &str) -> Result<Memory, FileError> {
    let file: File = serde_json::from_str(text)?;
    if file.version != VERSION {
        return Err(FileError::Version(file.version));
    }
    let entries: usize = file.units.values().map(|unit| unit.ports.len()).sum();
    if entries > MOST_ENTRIES {
        return Err(FileError::Value(format!("{entries} ports")));
    }
    let mut memory = Memory::default();
    for (name, unit) in file.units {
        let name = UnitName::try_from(name.as_str()).map_err(|error| FileError::Value(error.to_string()))?;
        memory.units.insert(name, read_unit(unit)?);
    }
    let ports: PortSet = memory.ports();
    if ports.len() > MOST_PORTS {
        return Err(FileError::Value(format!("{} learned ports", ports.len())));
    }
    Ok(memory)
}

fn read_life(text: &str) -> Result<Life, FileError> {
    Life::new(text).ok_or_else(|| FileError::Value(format!("the life {text:?}")))
}

fn read_unit(unit: Unit) -> Result<UnitMemory, FileError> {
    let mut memory = UnitMemory {
        life: unit.life.as_deref().map(read_life).transpose()?,
        dropped: unit.dropped,
        ports: BTreeMap::new(),
    };
    for Port { protocol, port, first, last, standing } in unit.ports {
        let protocol = protocol.parse().map_err(|error| FileError::Value(format!("{error}")))?;
        if port == 0 {
            return Err(FileError::Value("port 0".into()));
        }
        let standing = match standing {
            State::Candidate { life, lives } => Standing::Candidate { life: read_life(&life)?, lives },
            State::Learned => Standing::Learned,
            State::Named => Standing::Named,
            State::Forgotten { life } => {
                Standing::Forgotten { life: life.as_deref().map(read_life).transpose()? }
            }
            State::Unnamed => Standing::Unnamed,
        };
        let known = PortMemory { first: Moment(first), last: Moment(last), standing };
        memory.ports.insert((protocol, port), known);
    }
    Ok(memory)
}
