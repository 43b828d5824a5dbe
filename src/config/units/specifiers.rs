//! Specifiers of systemd.unit(5): those that depend on nothing but the unit's name, and the directories that are
//! the same for every system unit.

use super::Unit;

/// Why a value with specifiers has no meaning here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecifierError {
    /// One that needs more than the name.
    #[error(
        "the specifier %{0} is not available here: use %n, %N, %p, %P, %i, %I, %j, %J, %t, %S, %C, %L, %E, and %% for a percent sign"
    )]
    Unknown(char),
    /// A `%` at the end.
    #[error("the value ends with a single %: write %% for a percent sign")]
    Unfinished,
}

impl Unit {
    /// Replaces `%n` (name), `%N` (name without its suffix), `%p` (what is before the `@`), `%i` (what is
    /// behind it, empty where there is none), `%j` (what is behind the last `-` of the prefix), `%P`, `%I` and `%J`
    /// (the same, unescaped), `%t` (/run), `%S` (/var/lib), `%C` (/var/cache), `%L` (/var/log), `%E`
    /// (/etc) and `%%`.
    pub fn expand(&self, value: &str) -> Result<String, SpecifierError> {
        let stem = self.name.stem();
        let (prefix, instance) = stem.split_once('@').unwrap_or((stem, ""));
        let mut expanded = String::with_capacity(value.len());
        let mut characters = value.chars();
        while let Some(c) = characters.next() {
            if c != '%' {
                expanded.push(c);
                continue;
            }
            match characters.next() {
                Some('%') => expanded.push('%'),
                Some('n') => expanded.push_str(self.name.as_str()),
                Some('N') => expanded.push_str(stem),
                Some('p') => expanded.push_str(prefix),
                Some('i') => expanded.push_str(instance),
                Some('j') => expanded.push_str(last(prefix)),
                Some('P') => expanded.push_str(&unescape(prefix)),
                Some('I') => expanded.push_str(&unescape(instance)),
                Some('J') => expanded.push_str(&unescape(last(prefix))),
                Some('t') => expanded.push_str("/run"),
                Some('S') => expanded.push_str("/var/lib"),
                Some('C') => expanded.push_str("/var/cache"),
                Some('L') => expanded.push_str("/var/log"),
                Some('E') => expanded.push_str("/etc"),
                Some(other) => return Err(SpecifierError::Unknown(other)),
                None => return Err(SpecifierError::Unfinished),
            }
        }
        Ok(expanded)
    }
}

fn last(prefix: &str) -> &str {
    prefix.rsplit_once('-').map_or(prefix, |(_, last)| last)
}

/// `unit_name_unescape()`: `-` is `/`, and `\xNN` a byte. What is no escape of systemd's stays as it is.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let hex = rest.strip_prefix("\\x").and_then(|hex| u8::from_str_radix(hex.get(..2)?, 16).ok());
        let taken = match hex {
            Some(byte) => {
                bytes.push(byte);
                4
            }
            None if c == '-' => {
                bytes.push(b'/');
                1
            }
            None => {
                bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                c.len_utf8()
            }
        };
        rest = rest.get(taken..).unwrap_or_default();
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::UnitName;

    fn unit(name: &str) -> Unit {
        Unit { name: UnitName::try_from(name).unwrap(), enabled: false, settings: Vec::new() }
    }

    #[test]
    fn specifiers_are_those_of_the_name() {
        let expand = |name, value| unit(name).expand(value);
        assert_eq!(expand("web@1.service", "%n %N %p %i %%").unwrap(), "web@1.service web@1 web 1 %");
        assert_eq!(expand("a-b.service", "%n %N %p %i.").unwrap(), "a-b.service a-b a-b .");
        assert_eq!(expand("a.service", "%t/%S/%C/%L/%E").unwrap(), "/run//var/lib//var/cache//var/log//etc");
        assert_eq!(expand("a-b@c-d.service", "%P %I %j %J").unwrap(), "a/b c/d b b");
        assert_eq!(expand("a@x\\x2dy\\xzz.service", "%i %I").unwrap(), "x\\x2dy\\xzz x-y\\xzz");
        assert_eq!(expand("a.service", "%H"), Err(SpecifierError::Unknown('H')));
        assert_eq!(expand("a.service", "5%"), Err(SpecifierError::Unfinished));
    }
}
