//! Single numbers of `net.ipv4`, as the network namespace of the calling thread has them.

use std::fs;
use std::io;
use std::path::Path;

/// `net.ipv4.NAME`
pub fn number(name: &str) -> io::Result<u32> {
    let text = fs::read_to_string(Path::new("/proc/sys/net/ipv4").join(name))?;
    text.trim().parse().map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is no number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_read_and_what_is_none_is_an_error() {
        assert!(number("tcp_timestamps").unwrap() <= 2);
        assert!(number("ip_local_port_range").is_err());
        assert_eq!(number("nonexistent").unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
