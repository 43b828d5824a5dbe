//! As much of HTTP/1.1 (RFC 9112) as a scraper needs: a request without a body, an answer, the end of the connection.

use crate::metrics::CONTENT_TYPE;
use std::io;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// A longer request is nobody's scrape.
pub(super) const MOST_BYTES: usize = 8192;
/// Lines of it.
const MOST_HEADERS: usize = 64;

/// What is to be answered.
#[derive(Debug)]
pub(super) enum Answer {
    /// The metrics, or (`head`) only what they are.
    Metrics { head: bool },
    /// Why not.
    Refuse(Response),
}

/// What is sent.
#[derive(Debug)]
pub(super) struct Response {
    pub(super) head: String,
    pub(super) body: Option<Arc<str>>,
}

fn response(status: &str, kind: &str, more: &str, body: Arc<str>) -> Response {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n{more}Connection: close\r\n\r\n"
    );
    Response { head, body: Some(body) }
}

fn refusal(status: &str, more: &str, text: &str) -> Response {
    response(status, "text/plain; charset=utf-8", more, text.into())
}

/// The metrics.
pub(super) fn metrics(text: Arc<str>, head: bool) -> Response {
    let response = response("200 OK", CONTENT_TYPE, "", text);
    if head { Response { body: None, ..response } } else { response }
}

/// The broker is about to end.
pub(super) fn unavailable() -> Response {
    refusal("503 Service Unavailable", "Retry-After: 1\r\n", "the broker is stopping\n")
}

/// Reads a request. What is no request is answered with the reason; an error where it ends before it is one.
pub(super) async fn request(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Answer> {
    let mut bytes = Vec::with_capacity(1024);
    loop {
        let room = MOST_BYTES.saturating_sub(bytes.len());
        if room == 0 {
            let text = "the request is too long\n";
            return Ok(Answer::Refuse(refusal("431 Request Header Fields Too Large", "", text)));
        }
        let read = (&mut *stream).take(room as u64).read_buf(&mut bytes).await?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if let Some(answer) = answer_to(&bytes) {
            return Ok(answer);
        }
    }
}

/// What is answered to a request; `None`: it goes on.
fn answer_to(bytes: &[u8]) -> Option<Answer> {
    let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(bytes) {
        Ok(httparse::Status::Partial) => None,
        Ok(httparse::Status::Complete(_)) => {
            let path = request.path.unwrap_or_default().split('?').next().unwrap_or_default();
            Some(match (request.method.unwrap_or_default(), path) {
                (method @ ("GET" | "HEAD"), "/metrics" | "/") => Answer::Metrics { head: method == "HEAD" },
                ("GET" | "HEAD", _) => {
                    Answer::Refuse(refusal("404 Not Found", "", "there is nothing but /metrics\n"))
                }
                _ => Answer::Refuse(refusal(
                    "405 Method Not Allowed",
                    "Allow: GET, HEAD\r\n",
                    "there is nothing to change here\n",
                )),
            })
        }
        Err(error) => Some(Answer::Refuse(refusal(
            "400 Bad Request",
            "",
            &format!("this is no HTTP request: {error}\n"),
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn status(bytes: &[u8]) -> String {
        match answer_to(bytes) {
            None => "goes on".to_owned(),
            Some(Answer::Metrics { head }) => format!("200 {head}"),
            Some(Answer::Refuse(response)) => response.head[9..12].to_owned(),
        }
    }

    #[test]
    fn a_scrape_is_answered_and_all_else_is_told_why_not() {
        assert_eq!(status(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"), "200 false");
        assert_eq!(status(b"GET /metrics?name[]=x HTTP/1.0\r\n\r\n"), "200 false");
        assert_eq!(status(b"HEAD / HTTP/1.1\r\n\r\n"), "200 true");
        assert_eq!(status(b"GET /metrics HTTP/1.1\r\nHost: "), "goes on");
        assert_eq!(status(b"GET /else HTTP/1.1\r\n\r\n"), "404");
        assert_eq!(status(b"POST /metrics HTTP/1.1\r\n\r\n"), "405");
        assert_eq!(status(b"\x16\x03\x01\x02\x00\x01\x00"), "400");
        assert_eq!(status(b"GET /metrics SPDY\r\n\r\n"), "400");
    }

    #[tokio::test]
    async fn what_never_ends_is_not_collected_for_ever() {
        let mut endless =
            tokio::io::AsyncReadExt::chain(&b"GET /metrics HTTP/1.1\r\nX: "[..], tokio::io::repeat(b'x'));
        let answer = request(&mut endless).await.unwrap();
        assert!(matches!(answer, Answer::Refuse(response) if response.head.contains(" 431 ")));
        let mut cut = &b"GET /metrics HTT"[..];
        assert!(request(&mut cut).await.is_err());
    }

    #[test]
    fn of_a_head_there_is_no_body_and_the_length_of_it() {
        let response = metrics("# EOF\n".into(), true);
        assert!(response.body.is_none() && response.head.contains("Content-Length: 6\r\n"));
        assert!(response.head.contains("application/openmetrics-text; version=1.0.0"));
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_odd(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let _ = answer_to(&bytes);
        }
    }
}
