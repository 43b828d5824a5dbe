//! The kernel room against a real kernel, in network namespaces made by the tests.
#![expect(clippy::disallowed_methods, reason = "the tests play services that bind for themselves")]

#[cfg(test)]
#[path = "../support/netns.rs"]
mod netns;

#[cfg(test)]
mod addresses;
#[cfg(test)]
mod adopt;
#[cfg(test)]
mod datagram;
#[cfg(test)]
mod links;
#[cfg(test)]
mod mend;
#[cfg(test)]
mod mptcp;
#[cfg(test)]
mod options;
#[cfg(test)]
mod outbound_close;
#[cfg(test)]
mod outbound_end;
#[cfg(test)]
mod outbound_events;
#[cfg(test)]
mod outbound_journal;
#[cfg(test)]
mod outbound_lifeline;
#[cfg(test)]
mod outbound_lookup;
#[cfg(test)]
mod outbound_passing;
#[cfg(test)]
mod outbound_sharing;
#[cfg(test)]
mod outbound_support;
#[cfg(test)]
mod outbound_udp;
#[cfg(test)]
mod outbound_user;
#[cfg(test)]
mod owner;
#[cfg(test)]
mod peer;
#[cfg(test)]
mod reserved_ports;
#[cfg(test)]
mod rules;
#[cfg(test)]
mod shards;
#[cfg(test)]
mod support;
#[cfg(test)]
mod tcp;
#[cfg(test)]
mod unix;
#[cfg(test)]
mod watches;
