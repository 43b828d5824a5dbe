//! What the keys do.

use super::super::model::Said;
use super::super::model::tests::{listener, snapshot};
use super::*;
use std::time::UNIX_EPOCH;

fn pool(name: &str, addresses: &[(&str, &str)]) -> PoolStatus {
    let address = |(address, state): &(&str, &str)| PoolAddress {
        address: (*address).to_owned(),
        state: (*state).to_owned(),
        leased: 3,
        cooling: 1,
    };
    PoolStatus {
        name: name.to_owned(),
        state: "ready".into(),
        addresses: addresses.iter().map(address).collect(),
        zone: "10000-10099".into(),
        left_out: vec![],
        capacity: 200,
        spread: "least-used".into(),
        quota: String::new(),
        minimum: 0,
        waiting: 0,
        allow: vec![],
        origin: "/etc/x.toml:3".into(),
        faults: vec![],
    }
}

fn model() -> Model {
    let mut model = Model::default();
    let listeners = vec![
        listener("a", "listening", Some("nginx.service"), "tcp 127.0.0.1:80"),
        listener("b", "failed", None, "tcp 127.0.0.1:81"),
        listener("c", "reserved", Some("app[7]"), "unix /run/c.sock"),
    ];
    let pools = vec![pool("egress", &[("192.0.2.1", "in-use"), ("192.0.2.2", "draining")])];
    model.take(snapshot(listeners, pools), UNIX_EPOCH);
    model
}

fn press(ui: &mut Ui, model: &mut Model, keys: &str) -> Option<Action> {
    let mut action = None;
    for c in keys.chars() {
        let code = match c {
            '\n' => KeyCode::Enter,
            '\x1b' => KeyCode::Esc,
            '\t' => KeyCode::Tab,
            '\x7f' => KeyCode::Backspace,
            c => KeyCode::Char(c),
        };
        action = ui.key(KeyEvent::new(code, KeyModifiers::NONE), model);
    }
    action
}

fn names(ui: &Ui, model: &Model) -> String {
    ui.listeners(model).iter().map(|(listener, _)| listener.name.as_str()).collect()
}

#[test]
fn listeners_are_sorted_and_filtered() {
    let (mut ui, mut model) = (Ui::default(), model());
    assert_eq!(names(&ui, &model), "abc");
    press(&mut ui, &mut model, "s");
    assert_eq!((ui.sort, names(&ui, &model).as_str()), (Sort::State, "bca"));
    press(&mut ui, &mut model, "r");
    assert_eq!(names(&ui, &model), "acb");
    press(&mut ui, &mut model, "rss");
    assert_eq!((ui.sort, names(&ui, &model).as_str()), (Sort::Holder, "bca"));
    for (words, found) in [("/NGINX\n", "a"), ("/c.sock\n", "c"), ("/failed\n", "b"), ("/q\n", "")] {
        press(&mut ui, &mut model, "\x1b");
        press(&mut ui, &mut model, words);
        assert_eq!((names(&ui, &model).as_str(), ui.overlay.is_some()), (found, false), "{words}");
    }
    press(&mut ui, &mut model, "\x1b/ax\x7f");
    assert_eq!((ui.filter.as_str(), ui.overlay.as_ref()), ("a", Some(&Overlay::Filter)));
    press(&mut ui, &mut model, "\x1b");
    assert_eq!((names(&ui, &model).len(), ui.overlay.is_none()), (3, true));
}

#[test]
fn an_address_is_drained_after_a_question() {
    let (mut ui, mut model) = (Ui::default(), model());
    assert_eq!(press(&mut ui, &mut model, "d"), None);
    assert!(matches!(&model.said, Some(Said::Failed(text)) if text.contains("choose an address")));
    // The pool itself is the first row.
    press(&mut ui, &mut model, "2d");
    assert!(model.said.is_some() && ui.overlay.is_none());
    press(&mut ui, &mut model, "jd");
    let address = || "192.0.2.1".to_owned();
    assert_eq!(ui.overlay, Some(Overlay::Drain { address: address(), undo: false }));
    assert_eq!((press(&mut ui, &mut model, "n"), &ui.overlay), (None, &None), "any other key is a no");
    assert_eq!(press(&mut ui, &mut model, "dy"), Some(Action::Drain { address: address(), undo: false }));
    press(&mut ui, &mut model, "u");
    assert!(ui.overlay.is_none() && model.said.is_some(), "it is not drained");
    let undone = Action::Drain { address: "192.0.2.2".into(), undo: true };
    assert_eq!(press(&mut ui, &mut model, "juy"), Some(undone));
}

#[test]
fn keys_that_others_need_are_not_those_of_the_filter() {
    let (mut ui, mut model) = (Ui::default(), model());
    assert_eq!(press(&mut ui, &mut model, "/q"), None);
    let control = |c| KeyEvent::new(KeyCode::Char(c), KeyModifiers::CONTROL);
    assert_eq!(ui.key(control('c'), &mut model), Some(Action::Quit));
    assert_eq!(ui.key(control('z'), &mut model), Some(Action::Suspend));
    assert_eq!(ui.key(control('l'), &mut model), Some(Action::Redraw));
    assert_eq!((ui.key(control('x'), &mut model), ui.filter.as_str()), (None, "q"));
    assert_eq!(press(&mut ui, &mut model, "\nq"), Some(Action::Quit));
    assert_eq!(press(&mut ui, &mut model, "?q"), None, "any key closes the help");
}

#[test]
fn one_can_go_no_further_than_there_are_rows() {
    let (mut ui, mut model) = (Ui::default(), model());
    press(&mut ui, &mut model, "jjjjjj");
    assert_eq!(ui.place(Panel::Listeners).chosen, 2);
    press(&mut ui, &mut model, "gG");
    assert_eq!(ui.place(Panel::Listeners).chosen, 2);
    press(&mut ui, &mut model, "kkkk\tG3G");
    assert_eq!((ui.place(Panel::Listeners).chosen, ui.place(Panel::Pools).chosen), (0, 2));
    assert_eq!((ui.panel, ui.place(Panel::Destinations).chosen), (Panel::Destinations, 0));
    ui.key(KeyEvent::new(KeyCode::BackTab, KeyModifiers::SHIFT), &mut model);
    assert_eq!(ui.panel, Panel::Pools);
}

#[test]
fn the_chosen_row_is_among_those_that_are_shown() {
    for (chosen, first, shown, rows) in
        [(0, 9, 5, 20), (19, 0, 5, 20), (7, 5, 5, 20), (3, 3, 0, 4), (9, 9, 5, 2)]
    {
        let mut place = Place { chosen, first, shown: 0 };
        place.show(shown, rows);
        assert!(place.chosen < rows.max(1) && (shown == 0 || place.first <= place.chosen), "{place:?}");
        assert!(shown == 0 || place.chosen < place.first + shown, "{place:?}");
        assert!(shown == 0 || place.first + shown <= rows.max(shown), "no room is left empty: {place:?}");
    }
}
