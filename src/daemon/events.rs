//! What happens, by the name that its line has in the log: the field MESSAGE_ID of each, for the journal.
//!
//! An identifier stays for ever, and so does what it means: `journalctl MESSAGE_ID=…`, monitoring, and the catalogue
//! (`systemd/portbroker.catalog`, for `journalctl -x`) go by it. A test holds that every event of the source has one
//! here, and a text there. A new one is made by `systemd-id128 new`.

/// Events by name.
const EVENTS: &[(&str, &str)] = &[
    ("activate", "b0c274cec2684fe7ac777ad623b3f050"),
    ("activation", "83922dfb7c88448991ac6b47e2795bc4"),
    ("address-back", "95dfe470a9344353b4a60d172b29e157"),
    ("address-gone", "91f9faba2eec4e938184dfc1d6568083"),
    ("addresses", "a5b38b2b63ed4d15bdbe4700207304f2"),
    ("authorized", "1335a1703948448c9021f8774e0d7fcd"),
    ("bound", "82c5a2c4f082437799d7aa15e510a24a"),
    ("busy", "20bad316d116444aa0225e26385fe093"),
    ("closed", "d4fc5fe9281e4b9e834db510b769ef72"),
    ("configuration", "eaf66322650b41f580ed78eb4ff28885"),
    ("death", "3eb3e8c9ac5b4489a6f67d2b8f195ce4"),
    ("descriptors", "a6f926aa11a8491ea0a5b8ba2d69c1ed"),
    ("drained", "7b305ea18e284f98b671820ea1dd8cca"),
    ("draining", "555217c824dd4176b8d3fae824cba6f5"),
    ("evicted", "a4ff039567054d949c2164b6a5ad6bde"),
    ("exhaustion-ahead", "d0580cb3c1d245538adbd6f815841562"),
    ("exhaustion-averted", "9cfd7412d09044c391107160be037c3f"),
    ("failed", "1847d1b5b6374bc4aeba55ff30dae5da"),
    ("forgotten", "bf9380c90f994879b21f243fe38f5b05"),
    ("hand-over", "fb80f603df4f42eda751d8027843853c"),
    ("hang", "562f5c18cec048ccaa5419848c5b3356"),
    ("holder-gone", "6231e149f33a41e9a2263d53ef2f5a6e"),
    ("journal", "9968f500eec54bcd90eb16ed4e8402f5"),
    ("learned", "ba74362b4ddb41dfa86b6f14ddaa82fa"),
    ("learned-file", "69c1de1198274a54995db783fd6752c5"),
    ("leased", "5d3fd60917ed4f1cb4f2753af1943d2d"),
    ("left-out", "81e4a14c2c854e6dac341a76f24124ba"),
    ("limit", "c7f96d9c1e4e4b778869e5b2ac702007"),
    ("lingers", "627983c41a614ddf9fb02a437243be87"),
    ("look", "45c04c0e799b49b698bc18293ae51157"),
    ("lost", "7d2b3b45dc824d638ce58eddb2a5d041"),
    ("memory", "a84649e44d7c43118db573bd0eac53b5"),
    ("mended", "6d6c753fe3fa49d1a893a4b508ed554b"),
    ("metrics", "f2a4f02429ce44d287850cf27ba6cc14"),
    ("not-learned", "c0f8a0a087704443a167f11660d7e341"),
    ("orphans", "c355c49bed0947b3980f24a89e800f10"),
    ("orphans-closed", "1b3e9cc0e75b47958c54cc57b969c398"),
    ("overflow", "bdd00a673ed8441fbda0db6ebb2672dc"),
    ("pool", "84f34e95396a4483bd4df7f3291e0ae3"),
    ("refusal", "3d8ad2c0b9b0401ca53e142c5c350350"),
    ("released", "2bcdf022ec0f4ece93db188280af65e6"),
    ("reloaded", "1072a051bd9a402aa6d60f9a0c0eb564"),
    ("renew", "2cf84a8f0cbb48b1a7e2b5da8a82e707"),
    ("renewed", "f49f8ad24ea443d391546f4c9a93de5d"),
    ("replaced", "51b7ed0b8d4b4c4d9cf491609557522b"),
    ("restart", "a71db4e6f7c34b21aaab7596e1d1caee"),
    ("session", "06bccafd0f5a4ea1845f3e12a6a7e622"),
    ("session-ended", "ca714d1c54da4185b4effd3955992571"),
    ("start", "047eb019b8eb453dafd179cf04ee5241"),
    ("state", "19af78736c924168aeed48c136fde3ea"),
    ("store", "2bb6f32b4d78463395612d02ab28033a"),
    ("surroundings", "cec6f170c82b43caa2c2037a0e2637cc"),
    ("taken-over", "3059010fc2204ec6a2300cdbc31da5f9"),
    ("takeover", "b5a70491e7364fb29cbab94ca4028ef1"),
    ("tcp-migrate-req", "86eb457890bf41f98dbcfd36bd038208"),
    ("undrained", "380ac2e33fbc4cc1a659990c5614c1ce"),
    ("unmet", "5ed4cd4db2fa4ab8bfdea1d181523418"),
    ("unread", "6256d7dce29d4423ab0369509f88d62c"),
    ("used-after-end", "1f5d59fc44cc44e3adb2b776256ed3f8"),
];

/// The MESSAGE_ID of an event; `None` of one that nobody knows.
pub(super) fn message_id(event: &str) -> Option<&'static str> {
    let found = EVENTS.binary_search_by_key(&event, |(name, _)| name).ok()?;
    EVENTS.get(found).map(|(_, id)| *id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    /// The names of events in the source: what `event` is said to be.
    fn in_source(folder: &Path, found: &mut BTreeSet<String>) {
        for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                in_source(&path, found);
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            for line in text.lines().filter(|line| line.contains("let event = if ")) {
                found.extend(line.split('"').skip(1).step_by(2).map(str::to_owned));
            }
            for sign in ["event = \"", "event: \""] {
                let after = text.match_indices(sign).filter_map(|(at, _)| text.get(at + sign.len()..));
                found.extend(after.filter_map(|rest| rest.split('"').next()).map(str::to_owned));
            }
        }
        // What the log says of itself, and this test.
        found.extend(["lost".to_owned()]);
        found.remove("let event = if ");
        found.remove("");
        found.remove("\\");
    }

    #[test]
    fn every_event_has_an_identifier_of_its_own_and_a_text_in_the_catalogue() {
        let project = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut source = BTreeSet::new();
        in_source(&project.join("src"), &mut source);
        let known: Vec<&str> = EVENTS.iter().map(|(name, _)| *name).collect();
        assert!(known.is_sorted(), "they are searched");
        let known: BTreeSet<String> = known.into_iter().map(str::to_owned).collect();
        assert!(source.len() > 40);
        let without: Vec<_> = source.difference(&known).collect();
        assert!(
            without.is_empty(),
            "without a MESSAGE_ID: {without:?}: add them to EVENTS and to the catalogue"
        );
        let of_old: Vec<_> = known.difference(&source).collect();
        assert!(of_old.is_empty(), "nobody says {of_old:?} any more");
        let ids: BTreeSet<&str> = EVENTS.iter().map(|(_, id)| *id).collect();
        assert_eq!(ids.len(), EVENTS.len());
        let is_id =
            |id: &str| id.len() == 32 && id.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        assert!(ids.iter().all(|id| is_id(id)));
        let catalogue = fs::read_to_string(project.join("systemd/portbroker.catalog")).unwrap();
        let described: BTreeSet<&str> =
            catalogue.lines().filter_map(|line| line.strip_prefix("-- ")).collect();
        assert_eq!(described, ids, "the catalogue has each, and no other");
    }

    #[test]
    fn what_nobody_knows_has_none() {
        assert!(EVENTS.iter().all(|(name, id)| message_id(name) == Some(*id)));
        assert_eq!(message_id("else"), None);
    }
}
