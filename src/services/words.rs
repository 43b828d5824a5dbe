//! Lines and words, as several of these configurations have them.

/// The lines of a text with their numbers, from 1.
pub(super) fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    (1..).zip(text.lines())
}

/// The same, with lines that end in a backslash joined to the next one, as Apache does it.
pub(super) fn joined_lines(text: &str) -> Vec<(usize, String)> {
    let mut all: Vec<(usize, String)> = Vec::new();
    let mut open = false;
    for (number, line) in lines(text) {
        let (part, goes_on) = line.strip_suffix('\\').map_or((line, false), |part| (part, true));
        match all.last_mut().filter(|_| open) {
            Some((_, whole)) => whole.push_str(part),
            None => all.push((number, part.to_owned())),
        }
        open = goes_on;
    }
    all
}

/// The words of a line, parted by blanks; those in quotes of one of these kinds are one, and a backslash in them takes
/// the next letter as it is. What follows `#` at the beginning of a word is a comment.
pub(super) fn words(line: &str, quotes: &[char]) -> Vec<String> {
    let mut words = Vec::new();
    let mut rest = line.trim_start();
    while let Some(first) = rest.chars().next() {
        if first == '#' {
            break;
        }
        let (word, after) = if quotes.contains(&first) {
            quoted(rest.get(first.len_utf8()..).unwrap_or_default(), first)
        } else {
            let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
            let (word, after) = rest.split_at(end);
            (word.to_owned(), after)
        };
        words.push(word);
        rest = after.trim_start();
    }
    words
}

/// A word up to the quote that ends it, and what follows.
fn quoted(text: &str, quote: char) -> (String, &str) {
    let mut word = String::new();
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '\\' => word.extend(letters.next().map(|(_, letter)| letter)),
            letter if letter == quote => {
                return (word, text.get(at + letter.len_utf8()..).unwrap_or_default());
            }
            letter => word.push(letter),
        }
    }
    (word, "")
}

/// A port, in decimal; 0 is none.
pub(super) fn port(text: &str) -> Option<u16> {
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|port| plain && *port != 0)
}

/// `HOST:PORT`, `[V6]:PORT`, a port alone, or an address alone.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct HostPort<'a> {
    pub(super) host: Option<&'a str>,
    pub(super) port: Option<&'a str>,
}

/// Takes an address apart. Without brackets, a text with several colons is an IPv6 address, and none is a host.
pub(super) fn host_port(text: &str) -> HostPort<'_> {
    if let Some((host, after)) = text.strip_prefix('[').and_then(|text| text.split_once(']')) {
        return HostPort { host: Some(host), port: after.strip_prefix(':') };
    }
    match text.split_once(':') {
        Some((host, port)) if !port.contains(':') => {
            HostPort { host: Some(host).filter(|host| !host.is_empty()), port: Some(port) }
        }
        Some(_) => HostPort { host: Some(text), port: None },
        None => HostPort { host: Some(text), port: None },
    }
}
