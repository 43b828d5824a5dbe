//! The picture, on a terminal of ratatui's for tests.

use super::super::model::Update;
use super::super::model::tests::{listener, snapshot};
use super::*;
use crate::bar::Letters;
use portbroker_client::inspect::Queue;
use portbroker_client::pools::{Forecast, PoolAddress, PoolStatus};
use portbroker_client::watch::{Event, SocketQueue};
use proptest::prelude::*;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::{Terminal, TerminalOptions, Viewport};
use std::time::{Duration, UNIX_EPOCH};

const THEME: Theme = Theme { colours: true, alphabet: Letters::Unicode };
const ASCII: Theme = Theme { colours: false, alphabet: Letters::Ascii };

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn pool() -> PoolStatus {
    let address = |last: u8, leased| PoolAddress {
        address: format!("192.0.2.{last}"),
        state: if last == 2 { "draining".into() } else { "in-use".into() },
        leased,
        cooling: 100,
    };
    PoolStatus {
        name: "egress".into(),
        state: "ready".into(),
        addresses: vec![address(1, 500), address(2, 0), address(3, 950)],
        zone: "10000-10999".into(),
        left_out: vec![],
        capacity: 2000,
        spread: "least-used".into(),
        quota: String::new(),
        minimum: 0,
        waiting: 2,
        allow: vec![],
        origin: "/etc/x.toml:3".into(),
        faults: vec![],
    }
}

fn model(listeners: usize) -> Model {
    let mut model = Model::default();
    let mut all: Vec<_> = (0..listeners)
        .map(|n| {
            listener(&format!("l{n:04}"), "listening", Some("app.service"), &format!("tcp 127.0.0.1:{n}"))
        })
        .collect();
    all.push(listener("端口", "failed", None, "tcp 0.0.0.0:443"));
    model.take(snapshot(all, vec![pool()]), at(0));
    let queue = Queue { waiting: Some(12), limit: Some(128), overflows: Some(3) };
    model.take(Update::Queues(vec![SocketQueue { listener: "l0001".into(), inode: 7, queue }]), at(1));
    model.take(
        Update::Destinations(vec![Forecast {
            pool: "egress".into(),
            protocol: "tcp".into(),
            destination: Some("198.51.100.7:443".into()),
            used: 1800,
            cooling: 0,
            ahead: true,
            capacity: 2000,
            rate: 40.0,
            exhausted_in: Some(Duration::from_secs(5)),
        }]),
        at(1),
    );
    let event = Event {
        number: 1,
        time: at(3723),
        level: "info".into(),
        event: "hand-over".into(),
        message: "l0001 is handed to app.service\x1b[2J".into(),
    };
    model.take(Update::Events(vec![event]), at(1));
    model
}

fn screen(model: &Model, ui: &mut Ui, theme: Theme, width: u16, height: u16) -> Vec<String> {
    let area = Rect { x: 0, y: 0, width, height };
    let options = TerminalOptions { viewport: Viewport::Fixed(area) };
    let mut terminal = Terminal::with_options(TestBackend::new(width, height), options).unwrap();
    terminal.draw(|frame| draw(model, ui, theme, at(4000), area, frame.buffer_mut())).unwrap();
    lines(terminal.backend().buffer())
}

fn lines(buffer: &Buffer) -> Vec<String> {
    let width = usize::from(buffer.area.width).max(1);
    let line = |cells: &[ratatui::buffer::Cell]| cells.iter().map(|cell| cell.symbol()).collect::<String>();
    buffer.content.chunks(width).map(|cells| line(cells).trim_end().to_owned()).collect()
}

fn press(ui: &mut Ui, model: &mut Model, key: KeyCode) {
    ui.key(KeyEvent::new(key, KeyModifiers::NONE), model);
}

#[test]
fn everything_is_on_80_by_24() {
    let lines = screen(&model(1000), &mut Ui::default(), THEME, 80, 24);
    assert!(lines[0].starts_with("portbroker 1.2  running  1 failed  1000 listening"), "{lines:#?}");
    assert!(lines[0].ends_with("01:06:40 UTC"), "{lines:#?}");
    let text = lines.join("\n");
    for part in [
        "1 Listeners 1001",
        "l0001",
        "tcp 127.0.0.1:1",
        "12/128",
        "app.service",
        "2 Pools 4",
        "egress",
        "192.0.2.1",
        "2000 a destination, 2 wait",
        "draining",
        "█",
        "95 %",
        "3 Destinations 1",
        "tcp 198.51.100.7:443",
        "+40/s",
        "5 s",
        "4 Events 1",
        "01:02:03",
        "hand-over",
        "l0001 is handed to app.service\\u{1b}[2J",
        "q quit",
    ] {
        assert!(text.contains(part), "{part:?} is not in {lines:#?}");
    }
    assert_eq!(lines.len(), 24);
    assert!(lines.iter().all(|line| line.chars().count() <= 80));
}

#[test]
fn without_utf_8_there_is_only_ascii() {
    let lines = screen(&model(3), &mut Ui::default(), ASCII, 100, 40);
    assert!(lines.iter().all(|line| line.is_ascii()), "{lines:#?}");
    assert!(lines.join("").contains("####"), "{lines:#?}");
    let (mut ui, mut model) = (Ui::default(), model(3));
    press(&mut ui, &mut model, KeyCode::Char('?'));
    let help = screen(&model, &mut ui, ASCII, 100, 40);
    assert!(help.join("\n").contains("Keys of portbroker top"), "{help:#?}");
}

#[test]
fn a_broker_that_is_away_is_said_to_be_and_what_was_is_seen() {
    let mut model = model(3);
    model.take(Update::Lost("its connection ended".into()), at(3990));
    let lines = screen(&model, &mut Ui::default(), THEME, 80, 24);
    assert!(lines[0].contains("GONE for 10 s") && lines[0].contains("trying again"), "{lines:#?}");
    assert!(lines.join("\n").contains("l0001"));
}

#[test]
fn one_part_can_have_the_screen_and_its_rows_scroll() {
    let (mut ui, mut model) = (Ui::default(), model(1000));
    press(&mut ui, &mut model, KeyCode::Enter);
    press(&mut ui, &mut model, KeyCode::End);
    let lines = screen(&model, &mut ui, THEME, 80, 24);
    assert!(lines[22].starts_with("端 口") && lines[2].starts_with("l0980"), "{lines:#?}");
    for _ in 0..3 {
        press(&mut ui, &mut model, KeyCode::Up);
    }
    assert_eq!(screen(&model, &mut ui, THEME, 80, 24)[2..22], lines[2..22], "what is seen stays");
    press(&mut ui, &mut model, KeyCode::Home);
    assert!(screen(&model, &mut ui, THEME, 80, 24)[2].starts_with("l0000"));
}

#[test]
fn a_question_and_its_answer_are_in_the_last_line() {
    let (mut ui, mut model) = (Ui::default(), model(3));
    for key in ['2', 'j', 'd'] {
        press(&mut ui, &mut model, KeyCode::Char(key));
    }
    let last = |ui: &mut Ui, model: &Model| screen(model, ui, THEME, 80, 24)[23].clone();
    assert!(last(&mut ui, &model).starts_with("Drain 192.0.2.1? "));
    press(&mut ui, &mut model, KeyCode::Char('y'));
    model.take(Update::Said(Said::Failed("only root may".into())), at(1));
    assert_eq!(last(&mut ui, &model), "only root may");
    press(&mut ui, &mut model, KeyCode::Char('/'));
    press(&mut ui, &mut model, KeyCode::Char('x'));
    assert!(last(&mut ui, &model).starts_with("/x_"));
}

#[test]
fn a_picture_of_everything_is_as_high_as_it_has_to_be() {
    let picture = draw_all(&model(1000), ASCII, at(4000), 80);
    let lines = lines(&picture);
    // The header, four headings, and their rows.
    assert_eq!(lines.len(), 1 + 4 + 1001 + 4 + 1 + 1);
    assert!(lines[1001].starts_with("l0999"), "{}", lines[1001]);
}

#[test]
fn each_part_has_two_lines_where_there_is_room_for_them() {
    assert_eq!(heights(22, [1001, 4, 1, 1], Panel::Listeners, false), [14, 4, 2, 2]);
    assert_eq!(heights(22, [1001, 400, 100, 100], Panel::Listeners, false), [6, 6, 5, 5]);
    assert_eq!(heights(8, [9, 9, 9, 9], Panel::Events, false), [2, 2, 2, 2]);
    assert_eq!(heights(7, [9, 9, 9, 9], Panel::Pools, false), [0, 7, 0, 0]);
    assert_eq!(heights(30, [9, 9, 9, 9], Panel::Events, true), [0, 0, 0, 30]);
    assert_eq!(heights(0, [9, 9, 9, 9], Panel::Events, false), [0; 4]);
    assert_eq!(heights(100, [1, 1, 1, 1], Panel::Events, false), [2, 2, 2, 94]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(50))]

    #[test]
    fn no_size_is_too_odd(
        width in 0_u16..200,
        height in 0_u16..80,
        listeners in 0_usize..40,
        keys in prop::collection::vec(prop_oneof![
            prop::char::range('\u{20}', '\u{7e}').prop_map(KeyCode::Char),
            prop::sample::select(vec![KeyCode::Enter, KeyCode::Esc, KeyCode::Tab, KeyCode::Down, KeyCode::End, KeyCode::PageDown, KeyCode::PageUp]),
        ], 0..12),
    ) {
        let (mut ui, mut model) = (Ui::default(), model(listeners));
        for key in keys {
            press(&mut ui, &mut model, key);
            let shown = screen(&model, &mut ui, ASCII, width, height);
            prop_assert!(shown.iter().all(|line| line.len() <= usize::from(width)));
        }
        let rows = screen(&Model::default(), &mut ui, THEME, width, height).len();
        prop_assert_eq!(if width > 0 { rows } else { 0 }, if width > 0 { usize::from(height) } else { 0 });
        prop_assert_eq!(heights(height, [listeners, 3, 1, 9], ui.panel, ui.enlarged).iter().sum::<u16>(), height);
    }
}
