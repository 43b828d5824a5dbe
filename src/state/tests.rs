use super::*;

/// As the daemon of version 1 left them.
macro_rules! version_1 {
    ($file:literal) => {
        include_str!(concat!("../../tests/state/version-1/", $file))
    };
}
/// As this version writes them.
macro_rules! version_2 {
    ($file:literal) => {
        include_str!(concat!("../../tests/state/version-2/", $file))
    };
}

const THIS: &str = "11111111-2222-3333-4444-555555555555";
const OTHER: &str = "99999999-2222-3333-4444-555555555555";

fn held(holder: HolderRecord, listeners: &[&str], sockets: Option<&[(u64, &str)]>) -> Held {
    let socket = |(inode, name): &(u64, &str)| HeldSocket { inode: *inode, listener: (*name).to_owned() };
    Held {
        holder,
        listeners: listeners.iter().map(|name| (*name).to_owned()).collect(),
        sockets: sockets.map(|sockets| sockets.iter().map(socket).collect()),
    }
}

fn unit() -> HolderRecord {
    let (unit, cgroup) = ("mariadb.service".to_owned(), "/system.slice/mariadb.service".to_owned());
    HolderRecord::Unit { unit, cgroup, life: Some(4711) }
}

fn process(pid: i32) -> HolderRecord {
    HolderRecord::Process { pid, start: 131_465 }
}

fn of_version_1<T: Table>(text: &str) -> T {
    read(text, THIS).unwrap().expect("version 1 knows no boots")
}

/// What is written is the fixture, and is read again; and neither in another boot nor cut anywhere.
fn is_version_2<T: Table + PartialEq + std::fmt::Debug>(table: &T, fixture: &str) {
    assert_eq!(write(table, THIS).unwrap(), fixture);
    assert_eq!(read(fixture, THIS).unwrap().as_ref(), Some(table));
    assert_eq!(read::<T>(fixture, OTHER), Ok(None));
    for end in 1..fixture.trim_end().len() {
        assert!(read::<T>(&fixture[..end], THIS).is_err(), "{end}");
    }
    let newer = fixture.replacen("\"version\":2", "\"version\":3", 1);
    assert_eq!(read::<T>(&newer, THIS), Err(Unreadable::Newer(3)));
    // A later version may look like nothing that is known.
    assert_eq!(read::<T>("{\"version\":70,\"x\":[]}", THIS), Err(Unreadable::Newer(70)));
    assert!(read::<T>("{\"version\":0}", THIS).is_err());
    assert!(read::<T>("garbage\n\0", THIS).is_err());
}

#[test]
fn holders() {
    let of_1: Holders = of_version_1(version_1!("holders.json"));
    let expected = [
        held(unit(), &["a b"], None),
        held(process(5137), &["db", "shards"], None),
        held(process(5136), &["web"], None),
    ];
    assert_eq!(of_1.holders, expected);
    let table = Holders::new(vec![
        held(HolderRecord::Unknown, &["web"], Some(&[(6, "web")])),
        held(process(5137), &["db", "shards"], Some(&[(4, "db"), (1, "shards"), (2, "shards")])),
        held(unit(), &["a b"], Some(&[(5, "a b")])),
    ]);
    assert_eq!(table.holders[2].holder, HolderRecord::Unknown, "always in one order");
    is_version_2(&table, version_2!("holders.json"));
    let odd = version_2!("holders.json").replace("\"web\"", "\"w:b\"");
    assert!(matches!(read::<Holders>(&odd, THIS), Err(Unreadable::Value(_))), "a name that no listener has");
}

#[test]
fn deposits() {
    let mut table: Deposits = of_version_1(version_1!("deposits.json"));
    let unit = crate::model::UnitName::try_from("mariadb.service").unwrap();
    assert_eq!(table.of(&unit), ["mysql", "mysql-old"]);
    assert!(table.note(&unit, &["new".to_owned()]));
    is_version_2(&table, version_2!("deposits.json"));
}

#[test]
fn reserved_ports() {
    let table: ReservedPorts = of_version_1(version_1!("reserved-ports"));
    assert_eq!(table.ports.to_string(), "5432,7001-7003");
    is_version_2(&table, version_2!("reserved-ports"));
    let none: ReservedPorts = of_version_1("\n");
    assert_eq!(none, ReservedPorts::default());
    is_version_2(&none, &write(&none, THIS).unwrap());
    let odd = version_2!("reserved-ports").replace("7001", "7009");
    assert!(read::<ReservedPorts>(&odd, THIS).is_err(), "a range that runs backwards");
}

#[test]
fn migrate_requests() {
    let table: MigrateRequests = of_version_1(version_1!("tcp-migrate-req"));
    assert_eq!(table, MigrateRequests { ours: true });
    assert_eq!(of_version_1::<MigrateRequests>("0\n"), MigrateRequests::default());
    is_version_2(&table, version_2!("tcp-migrate-req"));
}

#[test]
fn drained() {
    let table: Drained = of_version_1(version_1!("draining"));
    assert_eq!(table.inodes, [9_616_337, 9_616_338]);
    assert_eq!(of_version_1::<Drained>(""), Drained::default());
    is_version_2(&table, version_2!("draining"));
}

#[test]
fn what_was_lost_is_told_in_words() {
    let newer = read::<Holders>("{\"version\":3}", THIS).unwrap_err();
    assert_eq!(newer.to_string(), "is of version 3, and this broker knows versions 1 to 2");
}

#[test]
fn the_last_good_configuration_of_version_1_is_read_as_any_other() {
    use crate::config::{Sources, TomlFile, build, show};
    let text = version_1!("last-good.toml");
    let file = TomlFile { path: "/run/portbroker/last-good.toml".into(), text: text.to_owned() };
    let checked = build(&Sources { files: vec![file], inherited: Some(Vec::new()), ..Sources::default() });
    assert!(checked.is_valid(), "{:?}", checked.faults);
    assert_eq!(show::to_toml(&checked.config), text);
}
