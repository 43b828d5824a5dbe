//! `org.freedesktop.DBus.Introspectable`: what there is, for busctl and d-feet.

use crate::broker::View;
use portbroker_client::wire::{LISTENER_PREFIX, MANAGER_PATH, POOL_PREFIX, listener_path, pool_path};
use std::fmt::Write as _;
use zbus::message::Message;

/// What one object takes of an answer, about, in bytes.
pub(super) const LENGTH_OF_ONE: usize = 40;

const HEAD: &str = r#"<!DOCTYPE node PUBLIC "-//freedesktop//DTD D-BUS Object Introspection 1.0//EN" "http://www.freedesktop.org/standards/dbus/1.0/introspect.dtd">
<node>
 <interface name="org.freedesktop.DBus.Peer">
  <method name="Ping"/>
  <method name="GetMachineId"><arg name="machine_uuid" type="s" direction="out"/></method>
 </interface>
 <interface name="org.freedesktop.DBus.Introspectable">
  <method name="Introspect"><arg name="xml_data" type="s" direction="out"/></method>
 </interface>
"#;

const PROPERTIES: &str = r#" <interface name="org.freedesktop.DBus.Properties">
  <method name="Get">
   <arg name="interface_name" type="s" direction="in"/><arg name="property_name" type="s" direction="in"/>
   <arg name="value" type="v" direction="out"/>
  </method>
  <method name="GetAll">
   <arg name="interface_name" type="s" direction="in"/><arg name="properties" type="a{sv}" direction="out"/>
  </method>
  <signal name="PropertiesChanged">
   <arg name="interface_name" type="s"/><arg name="changed_properties" type="a{sv}"/>
   <arg name="invalidated_properties" type="as"/>
  </signal>
 </interface>
"#;

const MANAGER: &str = r#" <interface name="org.freedesktop.DBus.ObjectManager">
  <method name="GetManagedObjects">
   <arg name="objpath_interfaces_and_properties" type="a{oa{sa{sv}}}" direction="out"/>
  </method>
  <signal name="InterfacesAdded">
   <arg name="object_path" type="o"/><arg name="interfaces_and_properties" type="a{sa{sv}}"/>
  </signal>
  <signal name="InterfacesRemoved"><arg name="object_path" type="o"/><arg name="interfaces" type="as"/></signal>
 </interface>
 <interface name="org.portbroker.PortBroker1.Manager">
  <method name="AcquireListeners">
   <arg name="names" type="as" direction="in"/><arg name="options" type="a{sv}" direction="in"/>
   <arg name="sockets" type="a(sh)" direction="out"/>
  </method>
  <method name="ListDeposits"><arg name="names" type="as" direction="out"/></method>
  <method name="ListLearned"><arg name="ports" type="a(qsstt)" direction="out"/></method>
  <method name="ForgetPort"><arg name="port" type="q" direction="in"/></method>
  <method name="OpenSession">
   <arg name="options" type="a{sv}" direction="in"/>
   <arg name="session" type="o" direction="out"/><arg name="lifeline" type="h" direction="out"/>
  </method>
  <method name="LeasePairs">
   <arg name="session" type="o" direction="in"/><arg name="pool" type="s" direction="in"/>
   <arg name="protocol" type="s" direction="in"/><arg name="destination" type="s" direction="in"/>
   <arg name="count" type="u" direction="in"/><arg name="options" type="a{sv}" direction="in"/>
   <arg name="lease" type="t" direction="out"/><arg name="pairs" type="a(sq)" direction="out"/>
  </method>
  <method name="LeaseBlocks">
   <arg name="session" type="o" direction="in"/><arg name="pool" type="s" direction="in"/>
   <arg name="protocol" type="s" direction="in"/><arg name="destination" type="s" direction="in"/>
   <arg name="ports" type="u" direction="in"/><arg name="options" type="a{sv}" direction="in"/>
   <arg name="lease" type="t" direction="out"/><arg name="blocks" type="a(sqq)" direction="out"/>
  </method>
  <method name="LeaseSockets">
   <arg name="session" type="o" direction="in"/><arg name="pool" type="s" direction="in"/>
   <arg name="protocol" type="s" direction="in"/><arg name="destination" type="s" direction="in"/>
   <arg name="count" type="u" direction="in"/><arg name="options" type="a{sv}" direction="in"/>
   <arg name="lease" type="t" direction="out"/><arg name="sockets" type="a(sqh)" direction="out"/>
  </method>
  <method name="Release"><arg name="lease" type="t" direction="in"/></method>
  <method name="ListLeases">
   <arg name="after" type="t" direction="in"/><arg name="most" type="u" direction="in"/>
   <arg name="leases" type="a(ttssssussa(sqq)u)" direction="out"/>
  </method>
  <method name="ListWanted">
   <arg name="session" type="o" direction="in"/><arg name="wanted" type="a(sss)" direction="out"/>
  </method>
  <method name="ListForecasts">
   <arg name="most" type="u" direction="in"/><arg name="forecasts" type="a(sssuuudtb)" direction="out"/>
  </method>
  <method name="DrainAddress">
   <arg name="address" type="s" direction="in"/><arg name="options" type="a{sv}" direction="in"/>
  </method>
  <method name="ListQueues">
   <arg name="after" type="s" direction="in"/><arg name="most" type="u" direction="in"/>
   <arg name="next" type="s" direction="out"/><arg name="queues" type="a(stuuu)" direction="out"/>
  </method>
  <method name="ListEvents">
   <arg name="after" type="t" direction="in"/><arg name="most" type="u" direction="in"/>
   <arg name="events" type="a(ttsss)" direction="out"/>
  </method>
  <method name="Evict">
   <arg name="protocol" type="s" direction="in"/><arg name="port" type="q" direction="in"/>
   <arg name="options" type="a{sv}" direction="in"/>
   <arg name="sockets" type="a(ssssss)" direction="out"/>
  </method>
  <method name="Reload"/>
  <method name="RenewListener"><arg name="name" type="s" direction="in"/></method>
  <property name="Version" type="s" access="read"/>
  <property name="State" type="s" access="read"/>
  <property name="Faults" type="as" access="read"/>
  <property name="Notes" type="as" access="read">
   <annotation name="org.freedesktop.DBus.Property.EmitsChangedSignal" value="false"/>
  </property>
  <property name="Limits" type="a(stttsa(st))" access="read">
   <annotation name="org.freedesktop.DBus.Property.EmitsChangedSignal" value="false"/>
  </property>
  <property name="LearnedPorts" type="u" access="read">
   <annotation name="org.freedesktop.DBus.Property.EmitsChangedSignal" value="false"/>
  </property>
  <property name="Takeover" type="a{su}" access="read">
   <annotation name="org.freedesktop.DBus.Property.EmitsChangedSignal" value="false"/>
  </property>
  <property name="TakeoverDifferences" type="as" access="read">
   <annotation name="org.freedesktop.DBus.Property.EmitsChangedSignal" value="false"/>
  </property>
 </interface>
"#;

const LISTENER: &str = r#" <interface name="org.portbroker.PortBroker1.Listener">
  <method name="Queues"><arg name="queues" type="a(ta{sv})" direction="out"/></method>
  <property name="Name" type="s" access="read"/>
  <property name="State" type="s" access="read"/>
  <property name="Sockets" type="a(ssts)" access="read"/>
  <property name="Holders" type="as" access="read"/>
  <property name="Notes" type="as" access="read"/>
  <property name="Idle" type="s" access="read"/>
  <property name="Activate" type="s" access="read"/>
  <property name="ActivationError" type="s" access="read"/>
  <property name="Allow" type="as" access="read"/>
  <property name="Origin" type="s" access="read"/>
 </interface>
"#;

const POOL: &str = r#" <interface name="org.portbroker.PortBroker1.Pool">
  <signal name="Wanted"/>
  <signal name="ExhaustionAhead">
   <arg name="protocol" type="s"/><arg name="used" type="u"/><arg name="cooling" type="u"/>
   <arg name="capacity" type="u"/><arg name="rate" type="d"/><arg name="seconds" type="t"/>
  </signal>
  <property name="Name" type="s" access="read"/>
  <property name="State" type="s" access="read"/>
  <property name="Addresses" type="a(ssuu)" access="read">
   <annotation name="org.freedesktop.DBus.Property.EmitsChangedSignal" value="false"/>
  </property>
  <property name="Zone" type="s" access="read"/>
  <property name="LeftOut" type="a(ss)" access="read"/>
  <property name="Capacity" type="t" access="read">
   <annotation name="org.freedesktop.DBus.Property.EmitsChangedSignal" value="false"/>
  </property>
  <property name="Spread" type="s" access="read"/>
  <property name="Quota" type="s" access="read"/>
  <property name="Minimum" type="u" access="read"/>
  <property name="Waiting" type="u" access="read">
   <annotation name="org.freedesktop.DBus.Property.EmitsChangedSignal" value="false"/>
  </property>
  <property name="Allow" type="as" access="read"/>
  <property name="Origin" type="s" access="read"/>
  <property name="Faults" type="as" access="read"/>
 </interface>
"#;

/// The document of the manager.
pub(super) fn manager() -> String {
    format!("{HEAD}{PROPERTIES}{MANAGER} <node name=\"listener\"/>\n <node name=\"pool\"/>\n</node>\n")
}

/// The document of a listener.
pub(super) fn listener() -> String {
    format!("{HEAD}{PROPERTIES}{LISTENER}</node>\n")
}

/// The document of a pool.
pub(super) fn pool() -> String {
    format!("{HEAD}{PROPERTIES}{POOL}</node>\n")
}

/// Whether the document of a path names objects.
pub(super) fn lists_objects(path: &str) -> bool {
    [LISTENER_PREFIX, POOL_PREFIX].iter().any(|prefix| prefix.trim_end_matches('/') == path)
}

/// The answer to who introspects `…/listener` or `…/pool`: the names of what is below.
pub(super) fn objects(call: &Message, view: &View) -> zbus::Result<Message> {
    let header = call.header();
    let path = header.path().map(|path| path.as_str()).unwrap_or_default();
    let listeners = view.listeners.iter().map(|listener| listener_path(&listener.name));
    let pools = view.pools.iter().map(|pool| pool_path(&pool.name));
    Message::method_return(&header).build(&names(path, listeners.chain(pools)))
}

fn names(path: &str, objects: impl Iterator<Item = String>) -> String {
    let mut document = String::from(HEAD);
    for object in objects {
        let label = object.strip_prefix(path).and_then(|label| label.strip_prefix('/'));
        let Some(label) = label else { continue };
        // Writing into a String cannot fail.
        let _ = writeln!(document, " <node name=\"{label}\"/>");
    }
    document.push_str("</node>\n");
    document
}

/// The document of a path above ours: only what is below it. `None`: nothing is.
pub(super) fn above(path: &str) -> Option<String> {
    let rest = MANAGER_PATH.strip_prefix(path.trim_end_matches('/'))?.strip_prefix('/')?;
    let child = rest.split('/').next().filter(|child| !child.is_empty())?;
    Some(format!("{HEAD} <node name=\"{child}\"/>\n</node>\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Interface and member of each method in a document.
    fn methods(document: &str) -> Vec<(&str, &str)> {
        let mut interface = "";
        let mut found = Vec::new();
        for element in document.split('<') {
            let name = |kind: &str| element.strip_prefix(kind)?.split('"').nth(1);
            interface = name("interface name").unwrap_or(interface);
            found.extend(name("method name").map(|member| (interface, member)));
        }
        found
    }

    #[test]
    fn the_policy_of_the_bus_lists_every_member_and_no_other() {
        let policy = include_str!("../../systemd/org.portbroker.PortBroker1.conf");
        let value = |rule: &'static str, key: &str| rule.split_once(key)?.1.split('"').nth(1);
        let rules = policy.split("<allow send_destination=\"org.portbroker.PortBroker1\"").skip(1);
        let mut listed: Vec<_> = rules
            .map(|rule| {
                (value(rule, "send_interface=").unwrap(), value(rule, "send_member=").expect("a member"))
            })
            .collect();
        let documents = [manager(), listener(), pool()];
        let mut there: Vec<_> = documents.iter().flat_map(|document| methods(document)).collect();
        listed.sort_unstable();
        there.sort_unstable();
        there.dedup();
        assert!(there.len() > 20);
        assert_eq!(listed, there, "(left: the policy, right: what there is)");
    }

    #[test]
    fn every_path_leads_to_the_next() {
        assert!(above("/").unwrap().contains("\"org\""));
        assert!(above("/org").unwrap().contains("\"portbroker\""));
        assert!(above("/org/portbroker").unwrap().contains("\"PortBroker1\""));
        assert!(manager().contains("\"listener\"") && manager().contains("\"pool\""));
        let objects = || [listener_path("a-b"), pool_path("c-d")].into_iter();
        let listeners = names("/org/portbroker/PortBroker1/listener", objects());
        assert!(listeners.contains("\"a_2db\"") && !listeners.contains("c_2dd"));
        let pools = names("/org/portbroker/PortBroker1/pool", objects());
        assert!(pools.contains("\"c_2dd\"") && !pools.contains("a_2db"));
        assert_eq!(above("/or"), None);
        assert_eq!(above("/else"), None);
    }
}
