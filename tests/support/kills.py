"""Kills the daemon again and again while clients connect without pause, and counts what they see of it.

Runs wherever a supervisor restarts the daemon: in a network namespace under a keeper, inside of a booted systemd.

    kills.py configuration LISTENERS     prints the listeners: a third held, a third queued, a third reserved
    kills.py run --parent PID --config FILE [--kills N] [--listeners N] [--clients N] [--seed N]

`run` kills the children of PID that are called portbrokerd. FILE has what `configuration` printed; reloads add to it
and take away. PORTBROKER names the command line, PORTBROKER_SOCKET its socket. The last line of the output is a JSON
object; what has to be what in it is said beside `FAULTS`. Exit status 0: none of those, 1: some.

Every kill is one of four kinds, at a random instant of it: of a daemon that rests, of one that is not READY yet, while
AcquireListeners is called, while it reloads. After each the next daemon has to answer `status`.
"""
import argparse, collections, errno, json, os, random, select, socket, struct, subprocess, sys, threading, time

FIRST, EXTRA = 20000, 24000
HELD, QUEUED, RESERVED = "h", "q", "r"
# How long a connection may wait for its answer.
PATIENCE = 10
# How long a daemon may take to answer after a kill.
COMES_BACK = 60
# One message of the private socket takes 253 sockets.
IN_A_CALL = 150
NOBODY = 65534

# What a daemon is killed in, and what counts that it was.
KINDS = ("rest", "start", "acquire", "reload")
SEEN = {"start": "before_ready", "acquire": "during_acquire", "reload": "during_reload"}
# What must be zero.
FAULTS = {
    "refused": "connections to held and queued listeners that were refused",
    "unanswered": f"connections to held listeners that had no answer in {PATIENCE} s or were reset, and such as "
                  f"could not even queue",
    "lost": f"connections that waited in queues from before the first kill and had no answer when a service came",
    "accepted": "connections to reserved listeners that were not refused",
    "stolen": "binds of another user's to ports of reserved listeners",
    "strange": "connections that failed otherwise",
    "moved": "sockets that are not the same at the end, as the daemon tells it and as the services have them",
    "failed": "calls of AcquireListeners and Reload that failed, which are asked again where a kill interrupts them",
}


def kinds(count):
    """Ports by name, by kind."""
    third = count // 3
    names = [HELD] * (count - 2 * third) + [QUEUED] * third + [RESERVED] * third
    found = {HELD: {}, QUEUED: {}, RESERVED: {}}
    for n, kind in enumerate(names):
        found[kind][f"{kind}{n}"] = FIRST + n
    return found


def configuration(count, extra=()):
    idle = {HELD: "queue", QUEUED: "queue", RESERVED: "refuse"}
    rows = [(name, port, idle[kind]) for kind, ports in kinds(count).items() for name, port in ports.items()]
    rows += [(f"x{n}", EXTRA + n, "queue") for n in extra]
    table = '[[listener]]\nname = "{}"\nstream = "127.0.0.1:{}"\nidle = "{}"\n'
    return "".join(table.format(*row) for row in rows)


# --- the service


def serve():
    """Answers every connection with a byte, on all sockets that it was given, until standard input ends."""
    count = int(os.environ["LISTEN_FDS"])
    assert os.environ["LISTEN_PID"] == str(os.getpid())
    sockets = {fd: socket.socket(fileno=fd) for fd in range(3, 3 + count)}
    poll = select.epoll()
    poll.register(0, select.EPOLLIN | select.EPOLLHUP)
    for fd in sockets:
        poll.register(fd, select.EPOLLIN)
    names = os.environ["LISTEN_FDNAMES"].split(":")
    print(json.dumps(dict(zip(names, (os.fstat(fd).st_ino for fd in sockets)))), flush=True)
    while True:
        for fd, _ in poll.poll():
            if fd == 0:
                return
            # Nobody else accepts, so that it does not wait, although the sockets stay as they were given.
            client, _ = sockets[fd].accept()
            try:
                with client:
                    client.send(b".")
            except OSError as error:
                # A client that is gone already.
                assert error.errno in (errno.EPIPE, errno.ECONNRESET, errno.ECONNABORTED), error


# --- the clients


class Clients:
    """Runs until standard input ends or says `answer`; then those that waited all the time want their answer."""

    def __init__(self, listeners, threads):
        self.ports = {kind: list(ports.values()) for kind, ports in kinds(listeners).items()}
        self.counts, self.lock, self.over = collections.Counter(), threading.Lock(), threading.Event()
        self.slowest = 0
        self.threads = [threading.Thread(target=self.loop, args=(self.served, 0)) for _ in range(threads)]
        # Nobody takes what is queued, and each queue has an end: so not too many.
        self.threads += [threading.Thread(target=self.loop, args=(self.queued, 0.02))]
        self.threads += [threading.Thread(target=self.loop, args=(self.reserved, 0.002))]

    def connect(self, port):
        client = socket.socket()
        client.settimeout(PATIENCE)
        # No TIME_WAIT is left, nor anything in FIN_WAIT2 to a queue that nobody takes from.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        try:
            client.connect(("127.0.0.1", port))
        except OSError:
            client.close()
            raise
        return client

    def answered(self, client):
        with client:
            return "answered" if client.recv(1) else "unanswered"

    def served(self):
        begun = time.monotonic()
        result = self.outcome(lambda: self.answered(self.connect(random.choice(self.ports[HELD]))))
        self.slowest = max(self.slowest, time.monotonic() - begun)
        return result

    def queued(self):
        return self.outcome(lambda: self.connect(random.choice(self.ports[QUEUED])).close() or "queued")

    def reserved(self):
        result = self.outcome(lambda: self.connect(random.choice(self.ports[RESERVED])).close() or "accepted")
        return "kept-out" if result == "refused" else result

    def outcome(self, attempt):
        try:
            return attempt()
        except ConnectionRefusedError:
            return "refused"
        except (ConnectionResetError, BrokenPipeError, TimeoutError):
            return "unanswered"
        except OSError as error:
            print(f"a client: {error}", file=sys.stderr, flush=True)
            return "strange"

    def loop(self, attempt, pause):
        while not self.over.is_set():
            result = attempt()
            with self.lock:
                self.counts[result] += 1
            if pause:
                time.sleep(pause)

    def run(self):
        waiting = [self.connect(port) for port in self.ports[QUEUED]]
        for thread in self.threads:
            thread.start()
        print("ready", flush=True)
        sys.stdin.readline()
        self.over.set()
        for thread in self.threads:
            thread.join()
        print("over", flush=True)
        sys.stdin.readline()
        results = collections.Counter(self.outcome(lambda: self.answered(client)) for client in waiting)
        self.counts["waited"] = results.pop("answered", 0)
        self.counts["lost"] = sum(results.values())
        print(json.dumps({**self.counts, "slowest_ms": round(self.slowest * 1000)}), flush=True)


def steal(listeners):
    """Another user tries to have the ports of reserved listeners, until standard input ends."""
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    ports, counts = list(kinds(listeners)[RESERVED].values()), collections.Counter()
    print("ready", flush=True)
    while not select.select([0], [], [], 0.001)[0]:
        for reuse in ((0, 0), (0, 1), (1, 0), (1, 1)):
            with socket.socket() as thief:
                thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuse[0])
                thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, reuse[1])
                counts["tried"] += 1
                try:
                    thief.bind(("127.0.0.1", random.choice(ports)))
                    counts["stolen"] += 1
                except OSError as error:
                    assert error.errno == errno.EADDRINUSE, error
    print(json.dumps(counts), flush=True)


class Role:
    """This program in another role, or as what `portbroker exec` becomes."""

    def __init__(self, *arguments, through=()):
        command = [*through, sys.executable, os.path.abspath(__file__), *map(str, arguments)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.first = self.line()

    def line(self):
        line = self.process.stdout.readline()
        assert line, f"{self.process.args} ended: {self.process.wait()}"
        return line

    def tell(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.line()

    def end(self):
        self.process.stdin.close()
        assert self.process.wait() == 0


# --- the daemon


def portbroker(*arguments):
    return [os.environ.get("PORTBROKER", "portbroker"), *arguments]


def status():
    return subprocess.run(portbroker("--json", "status"), capture_output=True, text=True)


class Answers(threading.Thread):
    """Asks for the status without pause, and knows when there was an answer."""

    def __init__(self):
        super().__init__(daemon=True)
        self.came, self.asked, self.last, self.longest, self.count = threading.Condition(), 0, None, 0, 0
        self.over, self.round, self.worst = False, None, None

    def run(self):
        while not self.over:
            asked = time.monotonic()
            result = status()
            now = time.monotonic()
            if result.returncode not in (0, 1) or now - asked > PATIENCE / 2:
                # Between two daemons a call waits and is asked again: this one was for longer than that.
                print(f"status after {now - asked:.1f} s in {self.round}, {time.strftime('%T')}: "
                      f"{result.returncode} {result.stderr.strip()}", flush=True)
            if result.returncode not in (0, 1):
                continue
            with self.came:
                # From one answer to the next; a question that waits counts too.
                without = now - (self.last or asked)
                if without > self.longest:
                    self.longest, self.worst = without, f"{self.round}, until {time.strftime('%T')}"
                self.last, self.asked = now, asked
                self.count += 1
                self.came.notify_all()

    def to_a_question_after(self, instant):
        with self.came:
            return self.came.wait_for(lambda: self.asked > instant, COMES_BACK)


def daemon_of(parent):
    """The pid of the daemon, or None while there is none."""
    with open(f"/proc/{parent}/task/{parent}/children") as children:
        for pid in map(int, children.read().split()):
            try:
                with open(f"/proc/{pid}/stat") as stat:
                    name, rest = stat.read().split("(", 1)[1].rsplit(")", 1)
            except OSError:
                continue
            if name == "portbrokerd" and rest.split()[0] != "Z":
                return pid
    return None


def wait_for_daemon(parent, other_than=None):
    deadline = time.monotonic() + COMES_BACK
    while (pid := daemon_of(parent)) in (None, other_than):
        assert time.monotonic() < deadline, "nobody starts the daemon again"
        time.sleep(0.001)
    return pid


def inodes():
    output = subprocess.run(portbroker("--json", "list", "listeners"), capture_output=True, text=True, check=True)
    rows = json.loads(output.stdout)
    rows = rows if isinstance(rows, list) else rows["listeners"]
    return {row["name"]: row["sockets"][0]["inode"] for row in rows if not row["name"].startswith("x")}


class Run:
    def __init__(self, options):
        self.parent, self.config, self.listeners = options.parent, options.config, options.listeners
        self.wanted, self.random = options.kills, random.Random(options.seed)
        self.counts, self.answers, self.moved = collections.Counter(), Answers(), set()
        self.ports = kinds(options.listeners)
        self.clients = options.clients
        # How long a start, an exec and a reload take here and now: kills come within that.
        self.took = collections.defaultdict(lambda: 0.2)

    def reload(self, extra=()):
        text = configuration(self.listeners, extra)
        with open(self.config + ".new", "w") as new:
            new.write(text)
        os.rename(self.config + ".new", self.config)
        return subprocess.Popen(portbroker("reload"), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def acquire(self):
        names = self.random.sample(list(self.ports[HELD]), min(IN_A_CALL, len(self.ports[HELD])))
        command = portbroker("exec", *names, "--", "true")
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def finish(self, processes):
        for process in processes:
            _, errors = process.communicate(timeout=COMES_BACK)
            if process.returncode != 0:
                self.counts["failed"] += 1
                print(f"{process.args[1]} failed: {errors.strip()}", flush=True)

    def kill(self):
        """One, of this moment's daemon. Whether it had answered anybody."""
        pid = wait_for_daemon(self.parent)
        answered = self.answers.count
        os.kill(pid, 9)
        self.counts["kills"] += 1
        return pid, answered

    def kill_within(self, what, processes):
        time.sleep(self.random.uniform(0, self.took[what] * 1.2))
        running = any(process.poll() is None for process in processes)
        self.kill()
        self.counts[f"during_{what}"] += running

    def round(self, what):
        processes = []
        if what == "rest":
            time.sleep(self.random.uniform(0, 0.05))
            self.kill()
        elif what == "start":
            pid, answered = self.kill()
            wait_for_daemon(self.parent, other_than=pid)
            # Not one more than are wanted, unless more are needed.
            if self.counts["kills"] != self.wanted:
                time.sleep(self.random.uniform(0, self.took["start"]))
                _, now = self.kill()
                self.counts["before_ready"] += now == answered
        elif what == "acquire":
            processes = [self.acquire(), self.acquire()]
            self.kill_within(what, processes)
        else:
            processes = [self.reload(self.random.sample(range(60), 30))]
            self.kill_within(what, processes)
        killed = time.monotonic()
        if not self.answers.to_a_question_after(killed):
            sys.exit(f"no answer {COMES_BACK} s after a kill ({what})")
        if what == "rest":
            # Of it, systemd and the keeper rest 100 ms before they start it.
            self.took["start"] = max(self.answers.last - killed - 0.1, 0.02)
        self.finish(processes)

    def unseen(self):
        """Kinds that chance has not hit yet. Few kills may need some more; three times as many are enough."""
        if self.counts["kills"] >= 3 * self.wanted:
            return []
        return [what for what, count in SEEN.items() if not self.counts[count]]

    def measure(self):
        for what, begin in (("acquire", self.acquire), ("reload", lambda: self.reload(range(30)))):
            begun = time.monotonic()
            self.finish([begin()])
            self.took[what] = time.monotonic() - begun

    def services(self, kind):
        names = list(self.ports[kind])
        parts = [names[n:n + IN_A_CALL] for n in range(0, len(names), IN_A_CALL)]
        services = [Role("serve", through=portbroker("exec", *part, "--")) for part in parts]
        self.compare({name: inode for service in services for name, inode in json.loads(service.first).items()})
        return services

    def compare(self, now):
        self.moved |= {name for name, inode in now.items() if inode != self.before.get(name)}

    def run(self):
        self.before = inodes()
        assert len(self.before) == self.listeners, self.before
        services = self.services(HELD)
        clients = Role("connect", self.listeners, self.clients)
        thief = Role("steal", self.listeners)
        self.measure()
        self.answers.start()
        self.answers.to_a_question_after(0)
        begun, longest = time.monotonic(), self.answers.longest
        while self.counts["kills"] < self.wanted or self.unseen():
            what = self.random.choice(self.unseen() if self.counts["kills"] >= self.wanted else KINDS)
            self.answers.round = what
            self.round(what)
            self.counts[f"rounds_of_{what}"] += 1
        took = time.monotonic() - begun
        self.finish([self.reload()])
        self.answers.over = True
        self.answers.join()
        last = json.loads(status().stdout)
        now = inodes()
        self.moved |= self.before.keys() - now.keys()
        self.compare(now)
        clients.tell()
        services += self.services(QUEUED)
        counts = json.loads(clients.tell())
        counts.update(json.loads(thief.tell()))
        for role in (clients, thief, *services):
            role.end()
        return {
            **dict.fromkeys(FAULTS, 0), **self.counts, **counts, "moved": len(self.moved),
            "answers": self.answers.count, "longest_without_answer_ms": round(self.answers.longest * 1000),
            "longest_was_in": self.answers.worst, "longest_of_the_first_answers_ms": round(longest * 1000), "seconds": round(took, 1),
            "status": last,
        }


def main():
    parser = argparse.ArgumentParser()
    roles = parser.add_subparsers(dest="role", required=True)
    roles.add_parser("configuration").add_argument("listeners", type=int)
    roles.add_parser("serve")
    connect = roles.add_parser("connect")
    connect.add_argument("listeners", type=int)
    connect.add_argument("threads", type=int)
    roles.add_parser("steal").add_argument("listeners", type=int)
    run = roles.add_parser("run")
    run.add_argument("--parent", type=int, required=True)
    run.add_argument("--config", required=True)
    run.add_argument("--kills", type=int, default=100)
    run.add_argument("--listeners", type=int, default=1000)
    run.add_argument("--clients", type=int, default=2)
    run.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    options = parser.parse_args()
    if options.role == "configuration":
        print(configuration(options.listeners), end="")
    elif options.role == "serve":
        serve()
    elif options.role == "connect":
        Clients(options.listeners, options.threads).run()
    elif options.role == "steal":
        steal(options.listeners)
    else:
        print(f"seed {options.seed}", flush=True)
        result = Run(options).run()
        print(json.dumps(result), flush=True)
        sys.exit(any(result[fault] for fault in FAULTS))


main()
