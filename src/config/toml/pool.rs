//! `[[pool]]`: source addresses and ports to lease.

use super::{Item, Reader};
use crate::config::fault::Place;
use crate::config::pool_definition::PoolDraft;
use crate::model::PoolName;
use toml::de::{DeTable, DeValue};

const KEYS: [&str; 8] =
    ["name", "addresses", "ports", "spread", "allow", "quota", "minimum", "close-orphans"];

impl<'a> Reader<'a> {
    pub(super) fn pool(&mut self, table: &DeTable<'a>, header: &Item<'a>) {
        let faults_before = self.faults.len();
        let (mut name, mut draft) = (None, PoolDraft::default());
        for (key, item) in table {
            match key.get_ref().as_ref() {
                "name" => name = Some(item),
                "addresses" => {
                    let example =
                        "addresses = [\"192.0.2.10-192.0.2.13\", \"2001:db8:1::/64\", \"dev:eth0\"]";
                    draft.addresses = self.texts(item, &|| ("addresses", example.to_owned()));
                }
                "ports" => {
                    let example = "ports = \"10000-32767, 61000-65535\"";
                    draft.ports = self.texts(item, &|| ("ports", example.to_owned()));
                }
                "spread" => draft.spread = self.text("spread", item, "spread = \"round-robin\""),
                "allow" => {
                    let example = "allow = [\"unit:crawler.service\", \"user:deploy\"]";
                    draft.allow = self.texts(item, &|| ("allow", example.to_owned()));
                }
                "quota" => {
                    let help = "leave the quota out where there is to be none";
                    draft.quota = self.count_of_ports("quota", item, "quota = { ports = 20000 }", help);
                }
                "minimum" => {
                    let help = "leave the minimum out where nothing is to be kept";
                    draft.minimum = self.count_of_ports("minimum", item, "minimum = { ports = 500 }", help);
                }
                "close-orphans" => {
                    draft.close_orphans = self.text("close-orphans", item, "close-orphans = \"30s\"");
                }
                _ => self.unknown(key, "key in [[pool]]", &KEYS),
            }
        }
        let name = self.name::<PoolName>(name, header, "pool", "egress");
        draft.incomplete = self.broken || self.faults.len() > faults_before;
        self.parsed.pools.extend(name.map(|(name, place)| (name, place, draft)));
    }

    fn text(&mut self, key: &str, item: &Item<'a>, example: &str) -> Option<(String, Place)> {
        match item.get_ref().as_str() {
            Some(text) => Some((text.to_owned(), self.place(item))),
            None => {
                self.wrong_type(key, item, "a string", example);
                None
            }
        }
    }

    /// `{ ports = N }`
    fn count_of_ports(
        &mut self,
        name: &'static str,
        item: &Item<'a>,
        example: &str,
        help: &str,
    ) -> Option<(u32, Place)> {
        let DeValue::Table(table) = item.get_ref() else {
            self.wrong_type(name, item, "a table", example);
            return None;
        };
        let mut count = None;
        for (key, item) in table {
            match (key.get_ref().as_ref(), item.get_ref()) {
                ("ports", DeValue::Integer(number)) if number.radix() == 10 => {
                    match number.as_str().parse().ok().filter(|ports| *ports > 0) {
                        Some(ports) => count = Some((ports, self.place(item))),
                        None => {
                            let fault = self.place(item).error(format!(
                                "{} is no {name}: a number of ports from 1 to {}",
                                number.as_str(),
                                u32::MAX
                            ));
                            self.fault(fault.help(help));
                        }
                    }
                }
                ("ports", _) => self.wrong_type("ports", item, "a decimal integer", example),
                _ => self.unknown(key, &format!("key in {name}"), &["ports"]),
            }
        }
        count
    }
}
