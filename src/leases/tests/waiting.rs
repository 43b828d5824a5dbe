//! Waiting, held against a plain list of who waits.

use super::super::*;
use super::{Pool, request, to};
use crate::model::Seen;
use proptest::prelude::*;
use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

const OWNERS: u32 = 4;

#[derive(Debug, Clone)]
enum Command {
    /// Somebody asks, and waits so many seconds at most.
    Ask {
        owner: u32,
        to: usize,
        ports: u32,
        minimum: u32,
        wait: u64,
    },
    /// A lease ends, and its ports cool so long.
    Release {
        lease: usize,
        cools: u64,
    },
    GiveUp {
        waiter: usize,
    },
    Pass {
        milliseconds: u64,
    },
}

fn command() -> impl Strategy<Value = Command> {
    let ports = prop_oneof![3 => 1u32..4, 1 => 1u32..20, 1 => Just(64)];
    let wait = prop_oneof![Just(0), 1u64..100, Just(600)];
    prop_oneof![
        6 => (0..OWNERS, 0usize..3, ports, 1u32..20, wait)
            .prop_map(|(owner, to, ports, minimum, wait)| Command::Ask { owner, to, ports, minimum, wait }),
        4 => (0usize..100, prop_oneof![Just(0), 1u64..60]).prop_map(|(lease, cools)| Command::Release { lease, cools }),
        1 => (0usize..100).prop_map(|waiter| Command::GiveUp { waiter }),
        3 => (1u64..5000).prop_map(|milliseconds| Command::Pass { milliseconds }),
    ]
}

/// A waiter, as a plain list has it.
#[derive(Debug, Clone)]
struct Plain {
    ticket: Ticket,
    owner: u32,
    request: Request,
    until: Instant,
    entered: Instant,
}

struct World {
    now: Instant,
    ledger: Ledger,
    waiting: Waiting,
    pool: Pool,
    sessions: Vec<SessionId>,
    leases: Vec<LeaseId>,
    /// When a port becomes free after its lease has ended.
    cools: HashMap<Tuple, Instant>,
    plain: Vec<Plain>,
    /// When an owner had its last turn in a line, or came: the longest ago has the next one.
    turns: BTreeMap<(usize, u32), u64>,
    turn: u64,
    served: Vec<Ticket>,
}

const DESTINATIONS: [&str; 2] = ["198.51.100.1:443", "198.51.100.2:443"];

fn line_number(request: &Request) -> usize {
    DESTINATIONS.iter().position(|text| to(text) == request.destination).unwrap_or(2)
}

impl World {
    fn new(minimum: u32) -> Self {
        let now = Instant::now();
        let guarantee = Guarantee { ports: minimum, named: Default::default(), others: false };
        let guarantee = (minimum > 0).then(|| Arc::new(guarantee));
        let pool = Pool { guarantee, ..Pool::new(&["192.0.2.1", "192.0.2.2"], "10000-10011") };
        let mut ledger = Ledger::new(now);
        ledger.note_eased(true);
        let sessions = (0..OWNERS).map(|uid| ledger.open_session(Owner::User(uid), now).unwrap()).collect();
        Self {
            now,
            ledger,
            waiting: Waiting::default(),
            pool,
            sessions,
            leases: Vec::new(),
            cools: HashMap::new(),
            plain: Vec::new(),
            turns: BTreeMap::new(),
            turn: 0,
            served: Vec::new(),
        }
    }

    fn line(&self, request: &Request) -> Line {
        Line::of(self.pool.name.clone(), request.protocol, request.destination)
    }

    /// Whether somebody else, by the plain list, waits for the same.
    fn others_wait(&self, owner: u32, request: &Request) -> bool {
        self.plain.iter().any(|plain| {
            plain.owner != owner
                && (plain.request.destination == request.destination || request.destination.is_none())
        })
    }

    fn run(&mut self, command: Command) {
        match command {
            Command::Ask { owner, to: n, ports, minimum, wait } => {
                let session = self.sessions[owner as usize];
                let destination = DESTINATIONS.get(n).and_then(|text| to(text));
                let minimum = minimum.min(ports);
                let request = Request { minimum, ..request(session, destination, Kind::Blocks, ports) };
                self.ask(owner, request, Duration::from_secs(wait));
            }
            Command::Release { lease, cools } => {
                if !self.leases.is_empty() {
                    let id = self.leases.swap_remove(lease % self.leases.len());
                    self.release(id, Duration::from_secs(cools));
                }
            }
            Command::GiveUp { waiter } => {
                if !self.plain.is_empty() {
                    let gone = self.plain.remove(waiter % self.plain.len());
                    let line = self.waiting.leave(gone.ticket);
                    self.forget_turn(&gone);
                    self.serve(line.into_iter().collect());
                }
            }
            Command::Pass { milliseconds } => self.pass(Duration::from_millis(milliseconds)),
        }
        self.settle();
        self.check();
    }

    fn ask(&mut self, owner: u32, request: Request, wait: Duration) {
        let (line, user) = (self.line(&request), Owner::User(owner));
        let others = self.waiting.has_others(&line, &user);
        assert_eq!(others, self.others_wait(owner, &request));
        let in_order = !wait.is_zero() && self.waiting.has_own(&line, &user);
        let reach = if others || in_order { Reach::Guaranteed } else { Reach::Free };
        let terms = Terms { reach, ..Terms::default() };
        let before = self.has(owner, &request);
        match self.ledger.lease_on(terms, &request, &self.pool.offer(), self.now) {
            Ok(lease) => {
                if reach == Reach::Guaranteed {
                    let minimum = self.pool.guarantee.as_ref().map_or(0, |guarantee| guarantee.ports);
                    let capacity = 24 / OWNERS;
                    let has = self.has(owner, &request);
                    assert!(has <= u64::from(minimum.min(capacity).max(minimum)), "{before} and then {has}");
                }
                self.leases.push(lease.id);
            }
            Err(Refused::Exhausted { .. }) if !wait.is_zero() => {
                let until = self.now + wait;
                let ticket = self.waiting.enter(line.clone(), user, until).unwrap();
                self.turn += 1;
                self.turns.entry((line_number(&request), owner)).or_insert(self.turn);
                let entered = self.now;
                self.plain.push(Plain { ticket, owner, request, until, entered });
                self.serve(vec![line]);
            }
            Err(Refused::Exhausted { .. }) => {}
            Err(other) => panic!("{other}"),
        }
    }

    /// Ports that an owner has for a destination, cooling ones too.
    fn has(&self, owner: u32, request: &Request) -> u64 {
        let rows = self.ledger.rows(Some(&Owner::User(owner)), LeaseId(0), usize::MAX);
        let of = |row: &&Row| row.destination == request.destination;
        rows.iter().filter(of).map(|row| u64::from(if row.held { row.ports } else { row.cooling })).sum()
    }

    fn release(&mut self, id: LeaseId, cools: Duration) {
        let row = self.ledger.get(id).unwrap();
        for range in &row.ranges {
            for port in range.ports.iter() {
                let source = SocketAddr::new(range.address, port);
                let tuple = Tuple { protocol: row.protocol, source, destination: row.destination };
                self.cools.insert(tuple, self.now + cools);
            }
        }
        self.ledger.release(id, self.now).unwrap();
    }

    fn look(&mut self) {
        loop {
            let looks = self.ledger.due(self.now, 64);
            if looks.is_empty() {
                return;
            }
            for look in looks {
                let tuples: Vec<Tuple> = match &look {
                    Look::Exact(tuple) => vec![*tuple],
                    Look::Range { protocol, source } => source
                        .ports
                        .iter()
                        .map(|port| Tuple {
                            protocol: *protocol,
                            source: SocketAddr::new(source.address, port),
                            destination: None,
                        })
                        .collect(),
                };
                let left = |tuple: &Tuple| self.cools.get(tuple)?.checked_duration_since(self.now);
                let cool =
                    |tuple: Tuple| left(&tuple).filter(|left| !left.is_zero()).map(|left| (tuple, left));
                let answers = tuples.into_iter().filter_map(cool);
                let answers = answers.map(|(tuple, left)| (tuple, Seen::TimeWait(left))).collect();
                self.ledger.looked(look, answers, self.now);
            }
        }
    }

    fn settle(&mut self) {
        loop {
            self.look();
            let mut lines = self.waiting.overdue(self.now);
            for (ticket, line) in self.waiting.expired(self.now) {
                lines.extend(line);
                let at = self.plain.iter().position(|plain| plain.ticket == ticket).unwrap();
                let gone = self.plain.remove(at);
                assert!(gone.until <= self.now);
                self.forget_turn(&gone);
            }
            let eased = self.ledger.take_eased();
            lines.extend(self.waiting.eased(&eased));
            if lines.is_empty() {
                return;
            }
            self.serve(lines);
        }
    }

    fn forget_turn(&mut self, gone: &Plain) {
        let number = line_number(&gone.request);
        if !self.plain.iter().any(|plain| plain.owner == gone.owner && line_number(&plain.request) == number)
        {
            self.turns.remove(&(number, gone.owner));
        }
    }

    fn serve(&mut self, lines: Vec<Line>) {
        let mut waiting = std::mem::take(&mut self.waiting);
        let has_minimum = self.pool.guarantee.is_some();
        for line in waiting.and_for_any(lines) {
            // Who was tried and not met: it is the next one's turn only if its time is over.
            let mut tried: Option<u32> = None;
            let now = self.now;
            waiting.serve(&line, has_minimum, now, |ticket, terms| self.attempt(ticket, terms, &mut tried));
        }
        self.waiting = waiting;
    }

    fn attempt(&mut self, ticket: Ticket, terms: Terms, tried: &mut Option<u32>) -> Attempt {
        let at = self.plain.iter().position(|plain| plain.ticket == ticket).unwrap();
        let plain = self.plain[at].clone();
        let number = line_number(&plain.request);
        let first_of_owner = self
            .plain
            .iter()
            .find(|other| other.owner == plain.owner && line_number(&other.request) == number)
            .unwrap();
        assert_eq!(first_of_owner.ticket, ticket, "of one owner the first comes first");
        if terms.reach == Reach::Free {
            if let Some(passed) = tried.take() {
                self.turn += 1;
                self.turns.insert((number, passed), self.turn);
            }
            let next =
                self.turns.iter().filter(|((line, _), _)| *line == number).min_by_key(|(_, turn)| **turn);
            assert_eq!(
                next.map(|((_, owner), _)| *owner),
                Some(plain.owner),
                "whose turn was the longest ago"
            );
        }
        match self.ledger.lease_on(terms, &plain.request, &self.pool.offer(), self.now) {
            Ok(lease) => {
                self.leases.push(lease.id);
                self.served.push(ticket);
                self.plain.remove(at);
                if terms.reach == Reach::Free {
                    self.turn += 1;
                    self.turns.insert((number, plain.owner), self.turn);
                }
                self.forget_turn(&plain);
                Attempt::Met
            }
            Err(Refused::Exhausted { .. }) => {
                if terms.reach == Reach::Free {
                    *tried = Some(plain.owner);
                }
                Attempt::Unmet
            }
            Err(other) => panic!("{other}"),
        }
    }

    /// Time passes, and whatever is due in it happens.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let due = self.ledger.next_due().into_iter().chain(self.waiting.next_due()).min();
            match due.filter(|due| *due <= end) {
                Some(due) => self.now = self.now.max(due),
                None => break,
            }
            self.settle();
        }
        self.now = end;
        self.settle();
    }

    /// Nobody waits for what is there and his.
    fn check(&mut self) {
        assert_eq!(self.waiting.len(), self.plain.len());
        assert!(self.plain.iter().all(|plain| plain.until > self.now));
        let mut firsts: BTreeMap<usize, (u64, Plain)> = BTreeMap::new();
        for plain in &self.plain {
            let number = line_number(&plain.request);
            let turn = self.turns[&(number, plain.owner)];
            let first = firsts.entry(number).or_insert_with(|| (turn, plain.clone()));
            if turn < first.0 {
                *first = (turn, plain.clone());
            }
        }
        for (number, (_, plain)) in firsts {
            if number == 2 && self.others_wait(plain.owner, &plain.request) {
                continue;
            }
            let lease = self.ledger.lease(&plain.request, &self.pool.offer(), self.now);
            assert!(matches!(lease, Err(Refused::Exhausted { .. })), "{plain:?} could have {lease:?}");
        }
    }

    /// Whoever goes on waiting is served, if those who are served give back what they have.
    fn finish(&mut self) {
        let wait = Duration::from_secs(1_000_000);
        let all = std::mem::take(&mut self.plain);
        all.iter().for_each(|plain| drop(self.waiting.leave(plain.ticket)));
        for plain in all {
            // What is more than all that there is for one caller never comes.
            let minimum = self.pool.guarantee.as_ref().map_or(0, |guarantee| guarantee.ports);
            let most = 24u32.saturating_sub(minimum * OWNERS).max(1);
            let request = Request { minimum: plain.request.minimum.min(most), ..plain.request };
            let line = self.line(&request);
            let until = self.now + wait;
            let ticket = self.waiting.enter(line, Owner::User(plain.owner), until).unwrap();
            self.plain.push(Plain { ticket, request, until, entered: self.now, ..plain });
        }
        self.turns.clear();
        for plain in self.plain.clone() {
            self.turn += 1;
            self.turns.entry((line_number(&plain.request), plain.owner)).or_insert(self.turn);
        }
        self.serve(self.waiting.all());
        let begin = self.now;
        let mut rounds = 0;
        while !self.plain.is_empty() {
            self.settle();
            self.check();
            for id in std::mem::take(&mut self.leases) {
                self.release(id, Duration::from_secs(7));
            }
            self.pass(Duration::from_secs(10));
            rounds += 1;
            let longest = self.plain.iter().map(|plain| self.now - plain.entered).max();
            assert!(
                rounds < 300,
                "after {:?} these wait still: {:?}, {longest:?}",
                self.now - begin,
                self.plain
            );
        }
        assert!(
            self.waiting.is_empty() && self.waiting.next_due().is_none() && self.waiting.all().is_empty()
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn callers_take_turns_and_nobody_waits_for_ever(
        minimum in prop_oneof![Just(0u32), 1u32..5],
        commands in prop::collection::vec(command(), 1..80),
    ) {
        let mut world = World::new(minimum);
        for command in commands {
            world.run(command);
        }
        world.finish();
    }
}

fn alternating(minimums: [u32; 2]) -> Vec<u32> {
    let mut world = World::new(0);
    // Somebody has everything.
    world.run(Command::Ask { owner: 3, to: 0, ports: 24, minimum: 24, wait: 0 });
    let all = world.leases.pop().unwrap();
    for owner in [0, 0, 0, 1, 1, 1] {
        let ports = minimums[owner as usize];
        world.run(Command::Ask { owner, to: 0, ports, minimum: ports, wait: 600 });
    }
    let order: HashMap<Ticket, u32> = world.plain.iter().map(|plain| (plain.ticket, plain.owner)).collect();
    world.release(all, Duration::ZERO);
    world.settle();
    world.served.iter().map(|ticket| order[ticket]).collect()
}

#[test]
fn two_callers_are_served_by_turns() {
    assert_eq!(alternating([4, 4]), [0, 1, 0, 1, 0, 1]);
    // The fourth needs more than there is, and nobody overtakes it.
    assert_eq!(alternating([4, 9]), [0, 1, 0]);
}

#[test]
fn a_big_request_and_small_ones_are_both_served() {
    let mut world = World::new(0);
    for _ in 0..24 {
        world.run(Command::Ask { owner: 3, to: 0, ports: 1, minimum: 1, wait: 0 });
    }
    world.run(Command::Ask { owner: 0, to: 0, ports: 20, minimum: 20, wait: 3600 });
    // One small request after the other, and a port a second that comes free.
    let mut small = 0;
    for second in 0..600 {
        if !world.plain.iter().any(|plain| plain.owner == 1) {
            world.run(Command::Ask { owner: 1, to: 0, ports: 1, minimum: 1, wait: 3600 });
            small += 1;
        }
        world.run(Command::Release { lease: 0, cools: 0 });
        world.run(Command::Pass { milliseconds: 1000 });
        if !world.plain.iter().any(|plain| plain.owner == 0) {
            assert!(small > 3, "small ones were served meanwhile, after {second} s: {small}");
            return;
        }
    }
    panic!("the big one waits still, and {small} small ones were served");
}

#[test]
fn whoever_waits_for_any_destination_has_what_the_last_before_it_gave_up() {
    for gives_up in [true, false] {
        let mut world = World::new(0);
        world.run(Command::Ask { owner: 3, to: 0, ports: 20, minimum: 20, wait: 0 });
        world.run(Command::Ask { owner: 0, to: 0, ports: 7, minimum: 7, wait: 5 });
        // There are four, and somebody waits who comes first.
        world.run(Command::Ask { owner: 1, to: 2, ports: 1, minimum: 1, wait: 600 });
        assert_eq!(world.plain.len(), 2);
        if gives_up {
            world.run(Command::GiveUp { waiter: 0 });
        } else {
            world.run(Command::Pass { milliseconds: 5000 });
        }
        assert!(world.plain.is_empty() && world.served.len() == 1);
    }
}

#[test]
fn who_waits_is_bounded() {
    let (mut waiting, now) = (Waiting::default(), Instant::now());
    let line = |n: u16| {
        let pool = PoolName::try_from("p").unwrap();
        Line::of(pool, Protocol::Tcp, to(&format!("198.51.100.1:{n}")))
    };
    let mut tickets = Vec::new();
    for n in 1..=u16::try_from(MOST_WAITING_PER_OWNER).unwrap() {
        tickets.push(waiting.enter(line(n), Owner::User(1), now).unwrap());
    }
    let full = waiting.enter(line(1), Owner::User(1), now).unwrap_err();
    assert!(matches!(full, Full::OfOwner { .. }) && full.to_string().contains("128 requests of uid 1"));
    let mut uid = 2;
    let full = loop {
        match waiting.enter(line(1), Owner::User(uid), now) {
            Ok(_) => uid += 1,
            Err(full) => break full,
        }
    };
    assert_eq!(full, Full::OfAll(MOST_WAITING / 4 * 3), "a quarter is root's and the system's");
    assert!(waiting.enter(line(1), Owner::User(0), now).is_ok());
    waiting.leave(tickets[0]);
    assert_eq!(waiting.expired(now).len(), MOST_WAITING / 4 * 3);
    assert!(waiting.is_empty());
}
