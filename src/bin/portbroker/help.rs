//! The help that comes after the options of each verb: what is printed as JSON, and examples.

pub(crate) const EXIT_STATUSES: &str = "\
Exit statuses: 0 done, 1 refused or failed, 2 usage, 69 broker not reachable, 77 not allowed,
78 configuration. `status` alone: 0 all is well, 1 degraded, 3 not running. `doctor`: 0 all is well,
1 something is wrong.";

pub(crate) const STATUS_HELP: &str = "\
What is not well comes first. On a terminal it is one screen: of many faults or differences only the
first, and of limits those that were hit or nearly are; --full shows all. Exit status 0 where all is well, 1 where
something is not as it was configured, 3 where the broker does not run.
JSON: {\"state\": \"running\" | \"degraded\" | \"stopped\", \"version\", \"faults\": [text],
       \"notes\": [text], what sockets are served without,
       \"listeners\": {\"listening\", \"reserved\", \"failed\", \"lingering\"}, \"learned\": number of ports that are
       protected because services listen on them, \"pools\": {\"ready\", \"degraded\", \"failed\",
       \"leased\": ports, of all pools, \"cooling\": ports}, \"takeover\": what the start found of an
       earlier broker's sockets: \"stored\" in all, \"kept\", \"draining\", \"lingering\", \"let-go\" (no longer configured),
       \"unusable\", \"left\" (stored still, for want of descriptors); configured and not stored, \"missing\" (an earlier broker had it) and \"new\"; in another
       state or with other options than it should, \"changed\" (put right at once), \"mended\" and \"replaced\"
       (spoilt by a holder that is gone); \"holders\", \"holders-gone\"; \"differences\": [text]}, \"limits\":
       [{\"name\": key in [limits], \"limit\": value in effect, \"used\", \"greatest\": who has most or null,
       \"hits\": since the start, of log-buffer lines that were lost, \"hit_by\": [{\"who\", \"times\"}]}],
       \"forecasts\": of destinations that have few ports left: [{\"pool\", \"protocol\", \"destination\": null for any,
       \"used\", \"cooling\", \"capacity\", \"rate\": ports a second, \"exhausted_in\": seconds or null, \"ahead\": told
       as near}]}; version, listeners, learned, pools
       and limits are null where it is stopped, and takeover where nothing was stored. Of a limit per user,
       used is what the one has that has most; sizes are bytes, times milliseconds.

Examples:
  portbroker status
  portbroker status --full --no-pager
  portbroker --json status | jq -r '.faults[]'";

pub(crate) const TOP_HELP: &str = "\
Listeners with their states, holders and queues, pools with a bar for each address, the destinations
of which most is in use with when nothing is left, and what happens. ? shows the keys: among others
sorting, a filter, and draining an address, which is asked before. What changes comes from the broker
by itself, the rest is asked for every second, or less often where there is very much of it. It goes on
when the broker is restarted. Only root sees what the log says of hand-overs and refusals.
Times are UTC. Where the locale is not UTF-8, only ASCII is shown.
--once, or --json, prints one picture of everything. JSON:
 {\"state\", \"version\", \"faults\": [text],
  \"listeners\": [{\"name\", \"state\", \"holders\": [text], \"sockets\": [text], \"queue\": connections that
    wait, \"backlog\": room for them in the sockets in which any do, or null, \"bytes\": of datagrams that
    wait, \"overflows\": what found no room}],
  \"pools\": [{\"name\", \"state\", \"capacity\", \"waiting\", \"addresses\": [{\"address\", \"state\", \"leased\",
    \"cooling\"}]}],
  \"destinations\": [{\"pool\", \"protocol\", \"destination\": null for any, \"used\", \"cooling\",
    \"capacity\", \"rate\": ports a second, \"exhausted_in\": seconds or null, \"ahead\": it is near}],
  \"events\": [{\"time\": seconds since the epoch, \"level\": \"info\" | \"warning\" | \"error\", \"event\": the
    log's word, \"message\"}]}

Examples:
  portbroker top
  portbroker top --interval 5s
  portbroker top --once
  portbroker --json top | jq -r '.listeners[] | select(.queue > 0).name'";

pub(crate) const LIST_HELP: &str = "\
JSON of listeners: an array of what `show listener` prints, without what waits in the sockets.
JSON of pools: an array of what `show pool` prints.

Examples:
  portbroker list listeners
  portbroker list learned
  portbroker list pools
  portbroker --json list listeners | jq -r '.[] | select(.state == \"failed\").name'";

pub(crate) const LIST_LEARNED_HELP: &str = "\
A port is learned when the same system service was seen listening on it in two lives, one after the
other, or when an enabled socket unit names it; see [protect] learn and exclude.
JSON: [{\"port\", \"protocol\": \"tcp\" | \"udp\", \"unit\", \"first_seen\", \"last_seen\"}], the times in
       seconds since the epoch.

Examples:
  portbroker list learned
  portbroker --json list learned | jq -r '.[] | .port'";

pub(crate) const FORGET_HELP: &str = "\
The port is given back to ephemeral allocation at once. To keep it from being learned ever again name
it under [protect] exclude. A port that a socket unit names stays forgotten while that unit is enabled.
JSON: {\"forgotten\": number}

Examples:
  portbroker forget 8080";

pub(crate) const SHOW_HELP: &str = "\
JSON: {\"name\", \"state\": \"reserved\" | \"listening\" | \"failed\" | \"lingering\",
       \"sockets\": [{\"endpoint\", \"state\", \"inode\", \"error\", \"queue\", \"backlog\",
                    \"overflows\"}],
       \"holders\": [text], \"holder\": the first or null, \"notes\": [text], \"idle\", \"activate\",
       \"activation-error\", \"allow\": [text], \"origin\"}
inode is null where the socket could not be bound, and error where there is none; activate and
activation-error likewise. notes are what its sockets are served without, and what to do. A socket's
state may also be \"draining\": see `renew`; or \"lingering\", as that of a listener: it is no longer
configured, nobody else is handed it, and it is closed when its holders are gone. `show` alone knows what waits in a socket: queue and backlog are
connections that wait to be accepted and for how many there is room, or the same in bytes of
datagrams; overflows, how many found no room since the socket was made. The kernel does not tell all
of them of every socket: null.

Examples:
  portbroker show listener web
  portbroker --json show listener web | jq .holder";

pub(crate) const CHECK_HELP: &str = "\
Reads the sections of units, the TOML files and, for what is inherited, the socket units. Faults are
printed on standard error with the lines that they are about; exit status 78 where one is an error.
JSON: {\"valid\", \"errors\": number, \"warnings\": number,
       \"faults\": [{\"severity\": \"error\" | \"warning\", \"message\", \"help\",
                   \"origin\": {\"file\", \"line\", \"column\", \"unit\"},
                   \"related\": [{\"origin\", \"what\"}]}]}; null for what is not known.

Examples:
  portbroker check
  portbroker check /etc/systemd/system/mariadb.service.d/port.conf
  portbroker --json check | jq -r '.faults[].message'";

pub(crate) const DOCTOR_HELP: &str = "\
Looks at the sysctls, at all sockets and their processes, at the broker, where it runs, at its
configuration, and at the ports that the configurations of sshd, nginx, MariaDB or MySQL, PostgreSQL,
Apache and Redis name. What could not be seen is said: run it as root to see other users' processes,
their network namespaces and the options of their sockets. It changes nothing.
Exit status 0 where all is well, 1 where there is an error or a warning; notes are neither.

What it finds, by code:
  service-port-ephemeral        a service's port is one that the kernel gives to outgoing connections
  service-port-taken            … and a connection has it now, so that the service cannot start
  service-listens-ephemeral     a service listens on such a port, which nobody is known to have configured
  destination-crowded           at least 45 % of the kernel's sources for a destination are in use; from
                                50 % on connect() takes about twenty times as long
  timestamps-off                TCP timestamps are off: closed connections keep their sources for 60 s
  range-reserved                more than three quarters of the kernel's range are reserved
  configurations-disagree       a unit's section and the service's own configuration are not the same
  services-collide              two services are configured for one port
  port-not-reserved             what the broker protects is not in the kernel's reserved ports
  broker-absent, broker-degraded, configuration-faults
  listener-stealable            any user can take a socket's connections or datagrams now
  listener-stealable-when-down  … or the port while its service is down
  listener-shared-by-user       processes of the same user can join by SO_REUSEPORT
JSON: {\"state\": \"well\" | \"wrong\", \"errors\": number, \"warnings\": number,
       \"findings\": [{\"severity\": \"error\" | \"warning\" | \"note\", \"code\", \"subject\", \"message\",
                     \"evidence\": [text], \"remedy\"}], the worst first; \"unseen\": [text]}

Examples:
  portbroker doctor
  portbroker --json doctor | jq -r '.findings[] | select(.severity != \"note\") | .message'";

pub(crate) const PLAN_HELP: &str = "\
Of --connections, --rate and --lifetime two are needed; the third follows: connections are rate times
lifetime. Where all three are given and more connections are open at once than that, the rest is planned
as a burst on top of those that come evenly; fewer are a contradiction. Numbers may have k, M or G behind
them, rates /s, /min or /h.
A source stays taken while its connection is open, and for 60 s of TIME_WAIT after that where this host
closes first. Ports are those that a pool with the same `ports` has on this host, with the rules of
portbroker.toml(5): `auto` leaves out what is the kernel's, brokered, protected or listened on.
What the kernel alone does with one address is said beside it. The numbers are upper bounds for the worst
moment. Nothing is asked of a broker and nothing is changed.
JSON: {\"connections\", \"rate\": a second, \"lifetime\", \"time-wait\", \"burst\", \"destinations\",
       \"protocol\", \"tuples\": of each destination at once, \"tuples-without-time-wait\",
       \"ports-of-each-address\", \"ports\", \"addresses\", \"addresses-without-time-wait\", \"pools\",
       \"capacity\", \"kernel\": {\"range\", \"sources\", \"slow-from\", \"slow-after\": null for never,
       \"exhausted-after\"}, \"curve\": [{\"time\", \"open\", \"time-wait\"}], \"configuration\": TOML,
       \"notes\": [text]}, times in seconds

Examples:
  portbroker plan --connections 2M --destinations 1 --lifetime 30s --rate 20k/s
  portbroker plan --rate 500/s --lifetime 2min --destinations 3
  portbroker plan --connections 100k --lifetime 1h --time-wait 0s --ports 10000-32767
  portbroker --json plan --connections 2M --lifetime 30s | jq -r .configuration";

pub(crate) const CAT_CONFIG_HELP: &str = "\
What is printed is TOML, with the place of each value as a comment.
JSON: {\"listeners\": [{\"name\", \"source\": \"unit\" | \"toml\" | \"inherited\", \"origin\",
                       \"required\", \"sockets\": [text],
                       \"values\": [{\"key\", \"value\", \"origin\": null for a default}]}],
       \"pools\": [{\"name\", \"origin\", \"ports\", \"values\"}],
       \"protect\": {\"ports\", \"learn\", \"exclude\", \"values\"}}; a key with several values comes once for each.

Examples:
  portbroker cat-config
  portbroker --json cat-config | jq -r '.listeners[] | .name, .sockets[]'";

pub(crate) const RELOAD_HELP: &str = "\
All or nothing: where the new configuration has any fault, all of them are printed, the old one goes
on, and the exit status is 78. `systemctl daemon-reload` does the same for sections of unit files.
Where it was taken, and something of it cannot be had at the moment (a port that somebody else has, an
option that takes a privilege), that is printed, tried again, and shown by `status`; so are options
that a living socket cannot change, with what to do.
For root, and whom polkit lets (org.portbroker.PortBroker1.reload), after a password where it wants one.
JSON: {\"reloaded\": true, \"faults\": [text], \"notes\": [text]}

Examples:
  portbroker check && portbroker reload";

pub(crate) const RENEW_HELP: &str = "\
For a socket with which something is wrong that cannot be undone, such as a locked filter. The new
sockets are bound beside the old ones, so that the addresses are never given up, and are what
COMMAND or the service gets from now on: restart it. The old ones are `draining`: closed when those
who were handed them are gone and nothing waits in them any more. A process of \"portbroker exec\"
is handed them too while something waits; a unit is not, and who still waits in them when it takes the
new ones is cut off, but on TCP, where the kernel moves who waits (net.ipv4.tcp_migrate_req).
JSON: {\"renewed\": the name}

Examples:
  portbroker renew web && systemctl restart nginx";

pub(crate) const EXEC_HELP: &str = "\
COMMAND replaces this process. It has the sockets as its descriptors 3, 4 … and in its environment
LISTEN_PID, LISTEN_FDS, LISTEN_FDNAMES and, from Linux 6.9 on, LISTEN_PIDFDID: sd_listen_fds(3). A
listener with several sockets has its name repeated for each. It starts with SIGPIPE at its default
and no signal blocked. The listener is held until COMMAND ends.

Examples:
  portbroker exec web -- /usr/sbin/lighttpd -D -f /etc/lighttpd/lighttpd.conf
  portbroker exec web admin -- gunicorn app:app";

pub(crate) const DEPOSIT_HELP: &str = "\
For units without the generated drop-in; what the generator writes is
  ExecStartPre=+portbroker deposit NAME…
  NotifyAccess=exec
  FileDescriptorStoreMax=as many as there are sockets
systemd then passes the sockets to the unit's main process as socket activation does. Where the
broker does not run, that is said in the journal and the service binds for itself; with --required
the exit status is 69 and the unit does not start. Any other failure fails the unit, for the broker
holds the port.
JSON: {\"deposited\": [{\"name\", \"sockets\": number}]}

Examples:
  portbroker deposit mysql
  portbroker deposit --required web admin";

pub(crate) const IMPORT_HELP: &str = "\
What is printed is a drop-in for the service that the socket unit activates; comments in it say where it
goes, what else to do, and which keys were left out and why. Drop-ins of the socket unit are read too.
Keys that cannot be taken over are all said, and the exit status is 1; portbroker.toml(5) has a table.

Examples:
  portbroker import cups.socket
  portbroker import ./web.socket";

pub(crate) const LIST_LEASES_HELP: &str = "\
Root sees all leases, others see their own: those of the same system unit, or user. A lease that has
ended is listed while the kernel may still use some of its ports, and for two seconds at least, in
which the broker sees whether anybody goes on binding them.
JSON: [{\"lease\", \"session\", \"pool\", \"protocol\": \"tcp\" | \"udp\", \"destination\": null for any,
        \"kind\": \"pairs\" | \"blocks\" | \"sockets\", \"ports\", \"state\": \"held\" | \"cooling\",
        \"owner\", \"ranges\": [{\"address\", \"first\", \"last\"}], \"cooling\": ports that cool}]

Examples:
  portbroker list leases
  portbroker --json list leases | jq '[.[].ports] | add'";

pub(crate) const SHOW_POOL_HELP: &str = "\
JSON: {\"name\", \"state\": \"ready\" | \"degraded\" | \"failed\",
       \"addresses\": [{\"address\", \"state\": \"in-use\" | \"absent\" | \"draining\" | \"drained\",
                      \"leased\", \"cooling\"}],
       \"zone\": ports that are leased, as text, \"left-out\": [{\"ports\", \"reason\"}],
       \"capacity\": connections to one destination (IPv4 or IPv6, which has more), \"spread\", \"quota\", \"minimum\": ports
       that are kept for each caller, \"waiting\": requests that wait, \"allow\": [text], \"origin\", \"faults\": [text]}
leased and cooling count the ports of all destinations; a port that ten destinations share counts ten
times.

Examples:
  portbroker show pool egress
  portbroker --json show pool egress | jq '.\"left-out\"[]'";

pub(crate) const LEASE_HELP: &str = "\
Prints one line of JSON, {\"lease\", \"pairs\": [{\"address\", \"port\"}]} or {\"lease\",
\"blocks\": [{\"address\", \"first\", \"last\"}]}, and holds the lease while COMMAND runs, which has the
same line in its environment as PORTBROKER_LEASE; without COMMAND, until it is interrupted. The exit
status is COMMAND's, or 128 and the number of the signal that ended it.
Bind these sources with SO_REUSEADDR on for TCP: other destinations share them. UDP ports are leased
to nobody else: leave it off.
Without --wait it fails where there are not enough ports. With it, it waits for them, by turns with
others who wait: units, or users, are served one after the other.

Examples:
  portbroker lease egress --to 198.51.100.7:443 --count 40
  portbroker lease egress --to any --block 1000 -- ./load-test
  portbroker lease egress --to 198.51.100.7:443 --wait 10s -- ./fetch
  portbroker lease default --to 127.0.0.1:80 -- sh -c 'echo $PORTBROKER_LEASE'";

pub(crate) const RELEASE_HELP: &str = "\
Root, and whom polkit lets (org.portbroker.PortBroker1.release), after a password where it wants one,
may end any lease, others their own. What still uses its ports goes on, and they are leased again
only when the kernel shows that they are free. It is not told to whoever has the lease.
JSON: {\"released\": number}

Examples:
  portbroker list leases
  portbroker release 7";

pub(crate) const DRAIN_HELP: &str = "\
No pool gives out anything of that address any more; what is leased lives on. `show pool` has it as
draining, and as drained when the last lease is gone. It stays so until --undo, or until the host is
rebooted. For root, and whom polkit lets (org.portbroker.PortBroker1.drain), after a password where it
wants one.
JSON: {\"address\", \"draining\": true | false}

Examples:
  portbroker drain 192.0.2.10
  portbroker drain --undo 192.0.2.10";

pub(crate) const WHO_HELP: &str = "\
Says who uses a port, in every network namespace that may be entered, and what that means. It works
without a broker, and without privilege as far as that goes: what could not be seen is said. Of many
sockets that do the same a few are shown, and their number.
With --evict the broker closes what keeps a service from having the port: connections that have it as
their source port, and closed ones that the kernel still keeps (TIME_WAIT). It closes none that it
holds itself, nothing in other network namespaces, and services only with --force. The status is 1
where something that is in the way was not closed. --evict is for root, and whom polkit lets
(org.portbroker.PortBroker1.evict), after a password where it wants one.
JSON: {\"port\", \"protocol\": \"tcp\" | \"udp\" | null, \"service\": its name in /etc/services,
       \"uses\": [{\"use\": \"brokered\" | \"listener\" | \"bound\" | \"datagrams\" | \"source\" | \"served\" |
       \"time-wait\" | \"wanted\" | \"leased\" | \"learned\" | \"reserved\" | \"ephemeral\" | \"zone\" |
       \"left-out\", \"protocol\", \"network\": null for the own one, \"state\", \"local\", \"remote\",
       \"seconds_left\", \"inode\", \"count\": 1, or how many more of the same, \"user\", \"uid\", \"unit\",
       \"processes\": [{\"pid\", \"name\", \"user\", \"uid\", \"unit\", \"age\": seconds}], \"name\": listener,
       pool or unit, \"detail\"}], \"says\": [{\"tone\": \"bad\" | \"warning\" | \"good\", \"text\",
       \"remedy\": a command or null}], \"unseen\": [text], \"evicted\": null without --evict, or
       [{\"protocol\", \"local\", \"remote\", \"state\", \"outcome\": \"closed\" | \"kept\" | \"refused\" |
       \"failed\", \"reason\"}]}

Examples:
  portbroker who 3306
  portbroker who 53/udp
  portbroker who 3306 --evict
  portbroker --json who 3306 | jq -r '.says[] | select(.tone == \"bad\").remedy'";
