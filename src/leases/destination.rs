//! What cannot be a destination.

use std::net::{IpAddr, SocketAddr};

/// Why nothing is leased for a destination.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DestinationError {
    /// Nobody listens on port 0.
    #[error("{0} is no destination: its port is 0")]
    PortZero(SocketAddr),
    /// `0.0.0.0` or `::`.
    #[error("{0} is no destination: the address says nothing; leave the destination out to mean any")]
    Unspecified(SocketAddr),
    /// Nobody connects to a group.
    #[error("{0} is no destination: the address is of a multicast group or of all hosts")]
    Multicast(SocketAddr),
    /// Connections to it have IPv4 sources.
    #[error("{0} is an IPv4 address written as IPv6: write it as IPv4")]
    Mapped(SocketAddr),
}

/// A destination as leases have it: an address and a port, without flow and scope, which no 4-tuple has.
pub(super) fn checked(destination: SocketAddr) -> Result<SocketAddr, DestinationError> {
    let address = destination.ip();
    if destination.port() == 0 {
        return Err(DestinationError::PortZero(destination));
    }
    if address.is_unspecified() {
        return Err(DestinationError::Unspecified(destination));
    }
    let all = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    if address.is_multicast() || all {
        return Err(DestinationError::Multicast(destination));
    }
    if matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some()) {
        return Err(DestinationError::Mapped(destination));
    }
    Ok(SocketAddr::new(address, destination.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_is_somebody_who_can_be_connected_to() {
        assert!(checked("192.0.2.1:443".parse().unwrap()).is_ok());
        assert!(checked("[2001:db8::1]:443".parse().unwrap()).is_ok());
        let no = |text: &str| checked(text.parse().unwrap()).unwrap_err().to_string();
        assert!(no("192.0.2.1:0").contains("port is 0"));
        assert!(no("0.0.0.0:1").contains("mean any"));
        assert!(no("[::]:1").contains("mean any"));
        assert!(no("224.0.0.1:1").contains("multicast"));
        assert!(no("255.255.255.255:1").contains("all hosts"));
        assert!(no("[ff02::1]:1").contains("multicast"));
        assert!(no("[::ffff:192.0.2.1]:1").contains("write it as IPv4"));
    }
}
