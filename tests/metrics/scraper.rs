//! Scrapers: the good one, and others.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

const REQUEST: &[u8] =
    b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nAccept: application/openmetrics-text\r\n\r\n";
/// What is later than this is a fault.
const PATIENCE: Duration = Duration::from_secs(60);

/// What came for a request: the head, and the body.
pub(crate) fn ask(mut stream: impl Read + Write, request: &[u8]) -> io::Result<(String, String)> {
    stream.write_all(request)?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    let text = String::from_utf8(bytes).map_err(io::Error::other)?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or(io::ErrorKind::UnexpectedEof)?;
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).expect("a length");
    assert_eq!(length.parse::<usize>().unwrap(), body.len(), "the whole body");
    Ok((head.to_owned(), body.to_owned()))
}

pub(crate) fn connected(path: &Path) -> UnixStream {
    let stream = UnixStream::connect(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// A scrape as Prometheus makes it; cut off by others it asks again, as Prometheus does.
pub(crate) fn scrape(path: &Path) -> String {
    let mut tries = 0;
    let (head, body) = loop {
        tries += 1;
        match ask(connected(path), REQUEST) {
            Ok(answer) => break answer,
            Err(error) => assert!(tries < 20, "{error}"),
        }
    };
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(
        head.contains("Content-Type: application/openmetrics-text; version=1.0.0; charset=utf-8"),
        "{head}"
    );
    body
}

pub(crate) fn scrape_tcp(address: &str) -> io::Result<String> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    ask(stream, REQUEST).map(|(_, body)| body)
}
