use super::super::read_as_a_whole;
use super::*;
use proptest::prelude::*;

fn file(text: String) -> TomlFile {
    TomlFile { path: "/x.toml".into(), text }
}

fn in_parts(file: &TomlFile) -> Option<Parsed> {
    read(file, &Accounts::default(), &mut Vec::new())
}

/// Listeners that are longer than two parts together.
fn many() -> String {
    let listener = |n: usize| format!("[[listener]]\nname = \"l{n}\"\nstream = \"127.0.0.1:{n}\"\n");
    (1..=1000).map(listener).collect()
}

/// What is read in parts is what is read as a whole, places included.
fn same(text: String) {
    let file = file(text);
    let mut faults = Vec::new();
    let whole = read_as_a_whole(&file, &Accounts::default(), &mut faults);
    assert_eq!(faults, []);
    let parts = in_parts(&file).unwrap();
    assert_eq!(format!("{parts:?}"), format!("{whole:?}"));
}

#[test]
fn parts_say_what_the_whole_file_says() {
    same(many());
    same(format!("# ü\n\n[protect]\nports = [\"1\"]\n{}", many()));
    same(format!("{}[protect]\nports = [\n\"1\"]\n{}", many(), many().replace("\"l", "\"m")));
    same(many().replace('\n', "\r\n"));
    same(many().replace("[[listener]]", "[[listener]] # [[listener]]"));
    same(many().replace("stream", " # ü[[listener]]\n stream"));
    same(many().trim_end().to_owned());
}

#[test]
fn a_header_in_a_string_or_a_list_is_none() {
    let text = format!("[[listener]]\nname = \"a\"\nidle = \'\'\'\n{}\'\'\'\n", many());
    assert!(in_parts(&file(text)).is_none());
    let nested = format!("[protect]\nports = [\n{}]\n", many());
    assert!(in_parts(&file(nested)).is_none());
}

#[test]
fn what_depends_on_an_earlier_part_is_read_as_a_whole() {
    for text in [
        format!("[protect]\nlearn = true\n{}[protect]\nlearn = false\n", many()),
        format!("[protect]\nlearn = true\n{}[protect.x]\n", many()),
        format!("listener = []\n{}", many()),
        format!("[listener]\nx = 1\n{}", many()),
        format!("protect.learn = true\n{}[protect]\nlearn = true\n", many()),
    ] {
        assert!(in_parts(&file(text)).is_none());
    }
}

#[test]
fn whatever_is_wrong_is_said_of_the_whole_file() {
    for wrong in
        ["nonsense", "name = ", "[[listener]]", "[unknown]", "name = \"x\"\nname = \"y\"", "[listener.x]"]
    {
        assert!(in_parts(&file(format!("{}{wrong}\n{}", many(), many()))).is_none(), "{wrong}");
    }
}

#[test]
fn a_short_file_is_read_at_once() {
    assert!(in_parts(&file("[[listener]]\n".repeat(100))).is_none());
}

proptest! {
    #[test]
    fn no_byte_is_lost(text in "(x{0,9000}|ü{0,9000}|\\[\\[listener\\]\\]|\n|\n\\[\\[listener\\]\\]){0,9}") {
        let parts: Vec<_> = split(&text).collect();
        prop_assert_eq!(parts.concat(), text.as_str());
        for part in parts.iter().skip(1) {
            prop_assert!(part.starts_with(HEADER));
        }
    }
}
