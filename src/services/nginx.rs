//! nginx.conf: `listen` in `server` blocks of `http`, `stream` and `mail`, and `include`, which may stand anywhere.
//!
//! A server of `http` that names no port has 80. `listen … udp` and `listen … quic` are of UDP.

use super::include::Reading;
use super::words::{host_port, port};
use super::{Claim, Place, Program, Where};
use crate::model::Protocol;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

const DIRECTORY: &str = "/etc/nginx";
const MAIN: &str = "/etc/nginx/nginx.conf";

pub(super) fn read(reading: &mut Reading<'_>) -> Vec<Claim> {
    let mut found = Found::default();
    reading
        .with(Path::new(MAIN), |reading, text| found.read(reading, Path::new(MAIN), text, &mut Vec::new()));
    found.claims
}

#[derive(Default)]
struct Found {
    claims: Vec<Claim>,
}

/// A block that is open: its name, the place where it begins, and whether it has a `listen`.
struct Block {
    name: String,
    place: Place,
    listens: bool,
}

impl Found {
    /// Blocks that a file opens end with it.
    fn read(&mut self, reading: &mut Reading<'_>, file: &Path, text: &str, open: &mut Vec<Block>) {
        let outside = open.len();
        let mut tokens = Tokens { rest: text, line: 1 };
        let mut words: Vec<String> = Vec::new();
        let mut begin = 1;
        while let Some(token) = tokens.next() {
            match token {
                Token::Word(word) => {
                    if words.is_empty() {
                        begin = tokens.line;
                    }
                    words.push(word);
                }
                Token::End => {
                    self.directive(reading, &Place::new(file, begin), &words, open);
                    words.clear();
                }
                Token::Open if words.first().is_some_and(|name| name.ends_with("_by_lua_block")) => {
                    tokens.skip_block();
                    words.clear();
                }
                Token::Open => {
                    let name = words.first().cloned().unwrap_or_default();
                    open.push(Block { name, place: Place::new(file, begin), listens: false });
                    words.clear();
                }
                Token::Close => {
                    words.clear();
                    if open.len() > outside {
                        self.close(open);
                    }
                }
            }
        }
        while open.len() > outside {
            self.close(open);
        }
    }

    fn close(&mut self, open: &mut Vec<Block>) {
        let Some(block) = open.pop() else { return };
        let in_http = open.last().is_some_and(|outer| outer.name == "http");
        if block.name == "server" && in_http && !block.listens {
            let place = Place { line: 0, ..block.place };
            self.claims.extend(
                addresses("80")
                    .into_iter()
                    .map(|(address, port)| place.claim(Program::Nginx, Protocol::Tcp, address, port)),
            );
        }
    }

    fn directive(
        &mut self,
        reading: &mut Reading<'_>,
        place: &Place,
        words: &[String],
        open: &mut Vec<Block>,
    ) {
        let Some((name, arguments)) = words.split_first() else { return };
        let Some((first, parameters)) = arguments.split_first() else { return };
        match name.as_str() {
            "include" => {
                for path in reading.matching(Path::new(DIRECTORY), first) {
                    reading.with(&path, |reading, text| self.read(reading, &path, text, open));
                }
            }
            "listen" => {
                let Some(server) = open.last_mut().filter(|block| block.name == "server") else { return };
                server.listens = true;
                let is = |what: &str| parameters.iter().any(|parameter| parameter == what);
                let protocol = if is("udp") || is("quic") { Protocol::Udp } else { Protocol::Tcp };
                for (address, port) in addresses(first) {
                    self.claims.push(place.claim(Program::Nginx, protocol, address, port));
                }
            }
            _ => {}
        }
    }
}

/// What `listen` names; nothing for a unix socket.
fn addresses(text: &str) -> Vec<(Where, u16)> {
    if text.starts_with("unix:") {
        return Vec::new();
    }
    let parts = host_port(text);
    let (host, ports) = match (parts.host, parts.port) {
        (Some(alone), None) if is_ports(alone) => (None, alone),
        (host, ports) => (host, ports.unwrap_or("80")),
    };
    // A port alone, and `*`, mean all addresses of IPv4.
    let everywhere = || Where::Address(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let address = host.filter(|host| *host != "*").map_or_else(everywhere, Where::of);
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    match (port(first), port(last)) {
        (Some(first), Some(last)) => (first..=last).map(|port| (address.clone(), port)).collect(),
        _ => Vec::new(),
    }
}

fn is_ports(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-')
}

#[derive(Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    End,
    Open,
    Close,
}

/// ngx_conf_read_token(): a `#` begins a comment, and a quote a quoted word, at the beginning of a word only.
struct Tokens<'a> {
    rest: &'a str,
    line: usize,
}

impl Tokens<'_> {
    fn next_char(&mut self) -> Option<char> {
        let letter = self.rest.chars().next()?;
        self.rest = self.rest.get(letter.len_utf8()..).unwrap_or_default();
        self.line += usize::from(letter == '\n');
        Some(letter)
    }

    fn next(&mut self) -> Option<Token> {
        loop {
            match self.next_char()? {
                '#' => while !matches!(self.next_char()?, '\n') {},
                ';' => return Some(Token::End),
                '{' => return Some(Token::Open),
                '}' => return Some(Token::Close),
                quote @ ('"' | '\'') => return Some(Token::Word(self.quoted(quote))),
                letter if letter.is_whitespace() => {}
                letter => return Some(Token::Word(self.word(letter))),
            }
        }
    }

    fn quoted(&mut self, quote: char) -> String {
        let mut word = String::new();
        while let Some(letter) = self.next_char() {
            match letter {
                '\\' => word.extend(self.next_char()),
                letter if letter == quote => break,
                letter => word.push(letter),
            }
        }
        word
    }

    fn word(&mut self, first: char) -> String {
        let mut word = String::from(first);
        let mut before = first;
        while let Some(letter) = self.rest.chars().next() {
            // `${name}` is one word.
            let ends = letter.is_whitespace() || letter == ';' || letter == '{' && before != '$';
            if ends {
                break;
            }
            self.next_char();
            before = letter;
            if letter == '\\' {
                word.extend(self.next_char());
            } else {
                word.push(letter);
            }
        }
        word
    }

    /// To the end of a block whose text is another language's.
    fn skip_block(&mut self) {
        let mut depth = 1;
        while let Some(letter) = self.next_char() {
            match letter {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                return;
            }
        }
    }
}
