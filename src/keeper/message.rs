//! What a daemon says to its keeper: the part of sd_notify(3) that systemd and we know, with the same meaning.

/// A message, as far as the keeper does anything with it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Message<'a> {
    /// `FDSTORE=1`: what comes with it is to be kept, under this name.
    pub(super) store: Option<&'a str>,
    /// `FDSTOREREMOVE=1`: what is kept under this name is to be closed.
    pub(super) remove: Option<&'a str>,
    /// `READY=1`.
    pub(super) ready: bool,
    /// The lines that another supervisor, above the keeper, is to have too.
    pub(super) above: Vec<&'a str>,
}

/// What systemd calls descriptors that were given no name.
const NAMELESS: &str = "stored";
/// `FDNAME_MAX` of systemd's.
const LONGEST_NAME: usize = 255;
/// What concerns a supervisor of the keeper as it concerns the keeper. Not STOPPING: a daemon that stops is started
/// again, and the keeper does not stop for that.
const FOR_ABOVE: [&str; 5] = ["READY=", "RELOADING=", "MONOTONIC_USEC=", "STATUS=", "EXTEND_TIMEOUT_USEC="];

impl<'a> Message<'a> {
    /// Reads it. What is not understood is left out: a later daemon may say more. `FDPOLL=` is, since nothing is polled
    /// here, and so is `BARRIER=1`: its descriptor is closed once all before it was read, as it asks.
    pub(super) fn read(bytes: &'a [u8]) -> Self {
        let Ok(text) = std::str::from_utf8(bytes) else { return Self::default() };
        let mut message = Self::default();
        let (mut store, mut remove, mut name) = (false, false, None);
        for line in text.lines() {
            match line {
                "FDSTORE=1" => store = true,
                "FDSTOREREMOVE=1" => remove = true,
                "READY=1" => message.ready = true,
                _ => name = line.strip_prefix("FDNAME=").or(name),
            }
            if FOR_ABOVE.iter().any(|key| line.starts_with(key)) {
                message.above.push(line);
            }
        }
        let valid = name.is_none_or(is_name);
        message.store = (store && valid).then(|| name.unwrap_or(NAMELESS));
        message.remove = name.filter(|_| remove && valid);
        message
    }
}

/// What systemd takes for a name; a `:` would split `LISTEN_FDNAMES`.
fn is_name(name: &str) -> bool {
    name.len() <= LONGEST_NAME && name.bytes().all(|byte| (b' '..0x7f).contains(&byte) && byte != b':')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_message_says_what_it_says_in_any_order() {
        let stored = Message { store: Some("a.b"), ..Message::default() };
        assert_eq!(Message::read(b"FDSTORE=1\nFDNAME=a.b\nFDPOLL=0\n"), stored);
        assert_eq!(Message::read(b"FDNAME=a.b\nFDSTORE=1"), stored);
        assert_eq!(Message::read(b"FDSTORE=1").store, Some("stored"));
        assert_eq!(Message::read(b"FDSTOREREMOVE=1\nFDNAME=x").remove, Some("x"));
        assert_eq!(Message::read(b"BARRIER=1"), Message::default());
        let ready = Message::read(b"READY=1\nSTATUS=all well\nMAINPID=7");
        assert!(ready.ready);
        assert_eq!(ready.above, ["READY=1", "STATUS=all well"]);
        assert!(Message::read(b"STOPPING=1").above.is_empty());
    }

    #[test]
    fn what_is_no_name_stores_nothing_and_removes_nothing() {
        let long = "x".repeat(256);
        for name in ["a:b", "a\tb", "\u{fc}", long.as_str()] {
            let text = format!("FDSTORE=1\nFDSTOREREMOVE=1\nFDNAME={name}");
            assert_eq!(Message::read(text.as_bytes()), Message::default(), "{name:?}");
        }
        assert_eq!(Message::read(b"FDSTOREREMOVE=1").remove, None, "of no name nothing is removed");
        assert_eq!(Message::read(b"\xff\nREADY=1"), Message::default());
    }

    proptest! {
        #[test]
        fn whatever_comes_is_read(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let message = Message::read(&bytes);
            for name in message.store.into_iter().chain(message.remove) {
                prop_assert!(is_name(name));
            }
        }

        #[test]
        fn what_was_written_is_read(name in "[ -9;-~]{0,255}", store: bool, ready: bool) {
            let mut lines = vec![format!("FDNAME={name}")];
            lines.push(if store { "FDSTORE=1".to_owned() } else { "FDSTOREREMOVE=1".to_owned() });
            lines.extend(ready.then(|| "READY=1".to_owned()));
            let text = lines.join("\n");
            let message = Message::read(text.as_bytes());
            prop_assert_eq!(message.store, store.then_some(name.as_str()));
            prop_assert_eq!(message.remove, (!store).then_some(name.as_str()));
            prop_assert_eq!(message.ready, ready);
        }
    }
}
