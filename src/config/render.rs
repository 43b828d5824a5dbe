//! Faults for people: the line that is wrong, with what is wrong underlined.

use super::Origin;
use super::fault::{Fault, Severity};
use annotate_snippets::{Annotation, AnnotationKind, Group, Level, Origin as Arrow, Renderer, Snippet};
use std::path::Path;

/// Whether escape sequences for colour are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colour {
    /// They are.
    On,
    /// They are not.
    Off,
}

/// A fault with the lines that it is about, several lines of text without a line end.
///
/// `text_of` gives the text of a file by the path as it is shown; where it has none, or the text is not
/// the one that was read, the place alone is shown.
#[must_use]
pub fn render(fault: &Fault, text_of: &dyn Fn(&Path) -> Option<String>, colour: Colour) -> String {
    let level = match fault.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let place = Shown::new(&fault.origin, fault.width, text_of);
    let related: Vec<_> =
        fault.related.iter().map(|(origin, what)| (Shown::new(origin, 0, text_of), what.as_str())).collect();
    let mut group = Group::with_title(level.primary_title(fault.message.as_str()));
    group = place.add_to(group, AnnotationKind::Primary, None);
    for (place, what) in &related {
        group = place.add_to(group, AnnotationKind::Context, Some(what));
    }
    if let Some(help) = &fault.help {
        group = group.element(Level::HELP.message(help.as_str()));
    }
    let renderer = match colour {
        Colour::On => Renderer::styled(),
        Colour::Off => Renderer::plain(),
    };
    renderer.render(&[group])
}

/// A place with its line.
struct Shown {
    path: String,
    line: usize,
    column: usize,
    /// The line's text and the bytes of it that are meant.
    text: Option<(String, std::ops::Range<usize>)>,
}

impl Shown {
    fn new(origin: &Origin, width: usize, text_of: &dyn Fn(&Path) -> Option<String>) -> Self {
        let text = (origin.line > 0).then(|| text_of(&origin.file)).flatten();
        let text = text.and_then(|text| {
            let line = text.lines().nth(origin.line.saturating_sub(1))?.to_owned();
            let byte = |column: usize| line.char_indices().nth(column).map_or(line.len(), |(n, _)| n);
            let start = origin.column.saturating_sub(1);
            let end = if width == 0 { line.trim_end().len() } else { byte(start.saturating_add(width)) };
            let range = byte(start)..end.max(byte(start));
            Some((line, range))
        });
        let path = match origin.file.as_os_str().is_empty() {
            true => "inherited".to_owned(),
            // Whatever a file is called, it does not talk to the terminal.
            false => origin.file.display().to_string().escape_debug().to_string(),
        };
        Self { path, line: origin.line, column: origin.column, text }
    }

    fn add_to<'a>(&'a self, group: Group<'a>, kind: AnnotationKind, label: Option<&'a str>) -> Group<'a> {
        let Some((text, range)) = &self.text else {
            let mut arrow = Arrow::path(self.path.as_str());
            if self.line > 0 {
                arrow = arrow.line(self.line).char_column(self.column.max(1));
            }
            return match label {
                Some(label) => group.element(arrow).element(Level::NOTE.message(label)),
                None => group.element(arrow),
            };
        };
        let annotation: Annotation<'a> = kind.span(range.clone());
        let annotation = match label {
            Some(label) => annotation.label(label),
            None => annotation,
        };
        let snippet = Snippet::source(text.as_str()).line_start(self.line).path(self.path.as_str());
        group.element(snippet.annotation(annotation))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn place(line: usize, column: usize) -> Origin {
        Origin { file: "/etc/a.toml".into(), line, column, unit: None }
    }

    #[test]
    fn a_fault_points_at_its_line() {
        let text = |_: &Path| Some("[[listener]]\nname = \"ü\" # x\nsteam = \"80\"\n".to_owned());
        let fault = Fault::error(place(3, 1), "unknown key").width(5).help("did you mean \"stream\"?");
        let shown = render(&fault.related(place(2, 8), "of this one"), &text, Colour::Off);
        assert_eq!(
            shown,
            "\
error: unknown key
 --> /etc/a.toml:3:1
  |
3 | steam = \"80\"
  | ^^^^^
  |
 ::: /etc/a.toml:2:8
  |
2 | name = \"ü\" # x
  |        ------- of this one
  |
  = help: did you mean \"stream\"?"
        );
    }

    proptest! {
        #[test]
        fn no_text_and_no_place_is_too_much(
            text in "(.{0,30}\n?){0,4}", line in 0usize..6, column in 0usize..40, width in 0usize..40, what in ".{0,9}",
        ) {
            let fault = Fault::error(place(line, column), what.as_str()).width(width).help(what.as_str());
            let fault = fault.related(place(column, line), what.as_str());
            for colour in [Colour::On, Colour::Off] {
                prop_assert!(render(&fault, &|_| Some(text.clone()), colour).contains("/etc/a.toml"));
            }
        }
    }

    #[test]
    fn a_fault_without_its_text_is_still_shown() {
        let whole = Fault::warning(place(0, 0), "is odd");
        assert_eq!(render(&whole, &|_| None, Colour::Off), "warning: is odd\n--> /etc/a.toml");
        let gone = Fault::error(place(9, 4), "is odd").related(Origin::default(), "the other");
        let shown = render(&gone, &|_| Some("short\n".into()), Colour::Off);
        assert!(shown.contains("/etc/a.toml:9:4") && shown.contains("inherited"), "{shown}");
    }
}
