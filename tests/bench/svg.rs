//! What a terminal shows, as a picture: text with the escapes of its colours in, SVG out.

use std::fmt::Write as _;

const WIDTH: f64 = 8.4;
const HEIGHT: f64 = 18.0;
const MARGIN: f64 = 10.0;
const PAPER: &str = "#1e1e2e";
const INK: &str = "#d9dce8";

#[derive(Clone, Copy, PartialEq, Eq)]
struct Look {
    ink: &'static str,
    bold: bool,
    reversed: bool,
}

const PLAIN: Look = Look { ink: INK, bold: false, reversed: false };

impl Look {
    fn take(&mut self, codes: &str) {
        // The first eight of 256 colours are those of old.
        let codes = codes.replace("38;5;", "3");
        for code in codes.split([';', ':']) {
            match code {
                "" | "0" => *self = PLAIN,
                "1" => self.bold = true,
                "7" => self.reversed = true,
                "22" => self.bold = false,
                "27" => self.reversed = false,
                "31" => self.ink = "#f38ba8",
                "32" => self.ink = "#a6e3a1",
                "33" => self.ink = "#f9e2af",
                "39" => self.ink = INK,
                // The paper has one colour.
                "49" => {}
                other => panic!("the picture knows no escape {other:?}"),
            }
        }
    }
}

/// The picture of a screen so many columns wide.
pub(crate) fn of(screen: &str, columns: u32) -> String {
    let lines: Vec<&str> = screen.lines().collect();
    let rows = u32::try_from(lines.len()).unwrap();
    let (width, height) =
        (f64::from(columns) * WIDTH + 2.0 * MARGIN, f64::from(rows) * HEIGHT + 2.0 * MARGIN);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" font-family=\"ui-monospace, \
         'DejaVu Sans Mono', Menlo, Consolas, monospace\" font-size=\"14\">\n<title>portbroker top</title>\n\
         <rect width=\"100%\" height=\"100%\" rx=\"6\" fill=\"{PAPER}\"/>\n"
    );
    let mut look = PLAIN;
    for (row, line) in (0_u32..).zip(&lines) {
        let mut column = 0;
        let top = MARGIN + f64::from(row) * HEIGHT;
        let mut pieces = line.split('\x1b');
        draw(&mut svg, &mut column, top, look, pieces.next().unwrap_or_default());
        for piece in pieces {
            let (codes, text) = piece.strip_prefix('[').and_then(|piece| piece.split_once('m')).unwrap();
            look.take(codes);
            draw(&mut svg, &mut column, top, look, text);
        }
        // tmux leaves blanks out at the end of a line, also those of a heading.
        if look.reversed && column < columns {
            let blanks = " ".repeat(usize::try_from(columns - column).unwrap());
            draw(&mut svg, &mut column, top, look, &blanks);
        }
    }
    svg.push_str("</svg>\n");
    svg
}

fn draw(svg: &mut String, column: &mut u32, top: f64, look: Look, text: &str) {
    let length = u32::try_from(text.chars().count()).unwrap();
    let (left, width) = (MARGIN + f64::from(*column) * WIDTH, f64::from(length) * WIDTH);
    *column += length;
    let (ink, paper) = if look.reversed { (PAPER, look.ink) } else { (look.ink, PAPER) };
    if look.reversed && length > 0 {
        writeln!(
            svg,
            "<rect x=\"{left:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{HEIGHT}\" fill=\"{paper}\"/>"
        )
        .unwrap();
    }
    if text.trim().is_empty() {
        return;
    }
    let bold = if look.bold { " font-weight=\"bold\"" } else { "" };
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    let line = top + HEIGHT * 0.75;
    writeln!(svg, "<text x=\"{left:.1}\" y=\"{line:.1}\" textLength=\"{width:.1}\" fill=\"{ink}\"{bold} xml:space=\"preserve\">{text}</text>").unwrap();
}
