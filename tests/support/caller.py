"""Callers of the private socket that do what no client should. Arguments: socket, uid, mode, and what it takes. With
"bus-" before the mode the socket is a message bus's.

Each says "ready" and what it has, and ends when its standard input does."""
import array, os, select, socket, struct, sys, time

PATH, UID, MODE, *REST = sys.argv[1:]
BUS, MODE = MODE.startswith('bus-'), MODE.removeprefix('bus-')
os.setgroups([]); os.setgid(int(UID)); os.setuid(int(UID))
MANAGER = ('/org/portbroker/PortBroker1', 'org.portbroker.PortBroker1.Manager')

def pad(data, to):
    return data + b'\0' * (-len(data) % to)

def text(value):
    value = value.encode()
    return struct.pack('<I', len(value)) + value + b'\0'

def message(member, body=b'', signature='', path=MANAGER[0], interface=MANAGER[1], to='org.portbroker.PortBroker1'):
    fields = b''
    for code, kind, value in ((1, 'o', path), (6, 's', to if BUS else ''), (2, 's', interface), (3, 's', member), (8, 'g', signature)):
        if value:
            fields = pad(fields, 8) + bytes((code, 1)) + kind.encode() + b'\0'
            fields += bytes((len(value),)) + value.encode() + b'\0' if kind == 'g' else text(value)
    return pad(struct.pack('<BBBBIII', ord('l'), 1, 0, 1, len(body), 7, len(fields)) + fields, 8) + body

def acquire(names):
    rows = b''
    for name in names:
        rows = pad(rows, 4) + text(name)
    return message('AcquireListeners', pad(pad(struct.pack('<I', len(rows)) + rows, 4) + struct.pack('<I', 0), 8), 'asa{sv}')

CALLS = {
    'acquire': lambda: acquire(['web']),
    'refused': lambda: acquire(['private']),
    'unknown': lambda: acquire(['nothing']),
    'objects': lambda: message('GetManagedObjects', interface='org.freedesktop.DBus.ObjectManager'),
    'manager': lambda: message('GetAll', text(MANAGER[1]), 's', interface='org.freedesktop.DBus.Properties'),
    'leases': lambda: message('ListLeases', struct.pack('<QI', 0, 10000), 'tu'),
    'introspect': lambda: message('Introspect', path=MANAGER[0] + '/listener', interface='org.freedesktop.DBus.Introspectable'),
    'learned': lambda: message('ListLearned'),
    'ping': lambda: message('Ping', interface='org.freedesktop.DBus.Peer'),
    # As long as a message may be, and answered by a few bytes; by many, if what is wrong were told as it was written.
    'long': lambda: message('Ping', text('x' * 130000), 's', interface='org.freedesktop.DBus.Peer'),
    'property': lambda: message('Get', pad(text(MANAGER[1]), 4) + text('\1' * 130000), 'ss', interface='org.freedesktop.DBus.Properties'),
    'names': lambda: acquire(['x' * 255] * 253),
    # It looks as if it waited for ports.
    'wait': lambda: message('LeasePairs', text('wait' * 200), 's'),
}

class Connection:
    def __init__(self):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(PATH)
        self.socket.sendall(b'\0AUTH EXTERNAL ' + str(os.getuid()).encode().hex().encode() + b'\r\nNEGOTIATE_UNIX_FD\r\nBEGIN\r\n')
        self.data, self.begun, self.replies, self.errors, self.limited, self.descriptors = b'', False, 0, 0, 0, 0

    def authenticate(self):
        """Whether it was not turned away."""
        try:
            while self.data.count(b'\r\n') < 2:
                some = self.socket.recv(100)
                if not some: return False
                self.data += some
        except ConnectionError: return False
        # A signal may have come with the lines.
        self.data, self.begun = self.data.split(b'\r\n', 2)[2], True
        if BUS:
            name = 'org.freedesktop.DBus'
            self.call(message('Hello', path='/org/freedesktop/DBus', interface=name, to=name))
        return True

    def receive(self):
        """Replies that came, signals left out."""
        data, controls, _, _ = self.socket.recvmsg(1 << 20, socket.CMSG_SPACE(253 * 4))
        for _, _, numbers in controls:
            numbers = array.array('i', numbers[:len(numbers) // 4 * 4])
            self.descriptors += len(numbers)
            if MODE != 'lease':
                for number in numbers: os.close(number)
        if not data: raise ConnectionError('ended')
        self.data += data
        came = 0
        while len(self.data) >= 16:
            _, kind, _, _, length, _, fields = struct.unpack('<BBBBIII', self.data[:16])
            whole = 16 + fields + (-fields % 8) + length
            if len(self.data) < whole: break
            if kind in (2, 3):
                came += 1
                self.errors += kind == 3
                if kind == 3 and MODE == 'measure' and REST[0] != 'refused': print(self.data[:whole], file=sys.stderr)
                self.body = self.data[whole - length:whole]
                self.limited += kind == 3 and b'LimitsExceeded' in self.data[:whole]
            self.data = self.data[whole:]
        self.replies += came
        return came

    def call(self, bytes):
        self.socket.sendall(bytes)
        while not self.receive(): pass

def connect(count):
    """As many as are taken."""
    made = []
    for _ in range(count):
        try: made.append(Connection())
        except OSError: pass
    return [connection for connection in made if connection.authenticate()]

def ready(*what):
    print('ready', *what, flush=True)

def tell(*numbers):
    """The last line, if anybody wants it still."""
    try: print(*numbers, flush=True)
    except BrokenPipeError: os._exit(0)

def wait():
    sys.stdin.read()

def ended():
    return bool(select.select([sys.stdin], [], [], 0)[0])

if MODE == 'idle':
    kept = connect(int(REST[0]))
    ready(len(kept))
    wait()
elif MODE == 'blind':
    # Calls without reading anything: kind, connections, calls on each.
    kept = connect(int(REST[1]))
    call = CALLS[REST[0]]()
    for connection in kept: connection.socket.setblocking(False)
    for _ in range(int(REST[2])):
        for connection in kept:
            try: connection.socket.send(call)
            except OSError: pass
    ready(len(kept))
    wait()
elif MODE == 'press':
    # Calls without end, as much of them as is taken, without reading anything: kind, connections. With "drip-" before
    # the kind only a part of each call.
    kept = connect(int(REST[1]))
    kind = REST[0].removeprefix('drip-')
    call = CALLS[kind]()
    if kind != REST[0]: call = call[:len(call) // 2]
    left = {}
    for connection in kept: connection.socket.setblocking(False)
    def press():
        sent = 0
        for connection in kept:
            if connection in left and not left[connection]: continue
            try:
                rest = left.get(connection, call)
                count = connection.socket.send(rest)
                left[connection] = rest[count:]
                if kind == REST[0] and not left[connection]: del left[connection]
                sent += count
            except BlockingIOError: pass
            except OSError: left[connection] = b''
        return sent
    total = sum(press() for _ in range(20))
    ready(len(kept))
    while not ended():
        sent = press()
        total += sent
        if not sent: time.sleep(0.05)
    tell(total, 0)
elif MODE == 'flood':
    # Calls on many connections, each again as soon as it is answered.
    kept = connect(int(REST[1]))
    call = CALLS[REST[0]]()
    poll = select.epoll()
    by = {}
    for connection in kept:
        by[connection.socket.fileno()] = connection
        poll.register(connection.socket, select.EPOLLIN)
        connection.socket.sendall(call)
    ready(len(kept))
    while not ended():
        for number, _ in poll.poll(0.1):
            try:
                for _ in range(by[number].receive()): by[number].socket.sendall(call)
            except OSError:
                poll.unregister(number)
    tell(*(sum(getattr(c, what) for c in kept) for what in ('replies', 'errors', 'limited')))
elif MODE == 'lease':
    # Leases a port and gives it back, without end: pool, destination. How often, and how many errors there were.
    def in_row(*parts):
        row = b''
        for part in parts: row = pad(row, 4) + part
        return row
    none = struct.pack('<I', 0)
    connection = connect(1)[0]
    connection.call(message('OpenSession', pad(none, 8), 'a{sv}'))
    length, = struct.unpack('<I', connection.body[:4])
    session = connection.body[4:4 + length].decode()
    words = [text(word) for word in (session, REST[0], 'tcp', REST[1])]
    lease = message('LeasePairs', pad(in_row(*words, struct.pack('<I', 1), none), 8), 'osssua{sv}')
    ready()
    rounds = 0
    while not ended():
        connection.call(lease)
        connection.call(message('Release', connection.body[:8], 't'))
        rounds += 1
    print(rounds, connection.errors, flush=True)
elif MODE == 'churn':
    # Connections that are made and closed without end.
    ready()
    made = 0
    while not ended():
        for _ in range(100):
            try:
                with socket.socket(socket.AF_UNIX) as s: s.connect(PATH)
                made += 1
            except OSError: pass
    print(made, 0, flush=True)
elif MODE == 'measure':
    # One call after the other: kind, how many. Microseconds of each, and how many were errors.
    connection = connect(1)[0]
    call = CALLS[REST[0]]()
    ready()
    times = []
    for _ in range(int(REST[1])):
        begun = time.monotonic()
        connection.call(call)
        times.append(int((time.monotonic() - begun) * 1e6))
    print(' '.join(map(str, times)), flush=True)
    print(connection.errors, connection.descriptors, flush=True)
elif MODE == 'holders':
    # Processes that each take the sockets, and live on.
    here, there = os.pipe()
    asked, done = os.pipe()
    for _ in range(int(REST[0])):
        if os.fork() == 0:
            os.close(there)
            connection = connect(1)
            if connection: connection[0].call(CALLS['acquire']())
            os.write(done, bytes([bool(connection) and connection[0].descriptors > 0]))
            if connection: connection[0].socket.close()
            os.read(here, 1)
            os._exit(0)
    ready(sum(os.read(asked, 1)[0] for _ in range(int(REST[0]))))
    wait()
elif MODE == 'unlisten':
    # A holder that stops its socket from listening without end.
    connection = connect(1)[0]
    connection.socket.sendall(CALLS['acquire']())
    _, controls, _, _ = connection.socket.recvmsg(1 << 16, socket.CMSG_SPACE(4))
    held = socket.socket(fileno=array.array('i', controls[0][2])[0])
    ready()
    times = 0
    while not ended():
        for _ in range(100):
            try: held.shutdown(socket.SHUT_RD)
            except OSError: continue
            times += 1
    print(times, 0, flush=True)
elif MODE == 'garbage':
    # Descriptors, and bytes that mean nothing, on many connections, which stay.
    null = os.open('/dev/null', os.O_RDONLY)
    rights = lambda count: [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [null] * count))]
    kept = []
    for n in range(int(REST[0])):
        made = connect(1)
        if not made: break
        connection = made[0]
        try:
            for call in (CALLS['ping'](), CALLS['unknown']()):
                for _ in range(5):
                    connection.socket.sendmsg([call], rights(253))
                    while not connection.receive(): pass
            if n % 3 == 1: connection.socket.sendmsg([os.urandom(5000)], rights(253))
            if n % 3 == 2: connection.socket.sendmsg([CALLS['ping']()[:20]], rights(253))
        except OSError: pass
        kept.append(connection)
        # And before the authentication.
        with socket.socket(socket.AF_UNIX) as early:
            early.connect(PATH)
            try: early.sendmsg([os.urandom(100)], rights(253))
            except OSError: pass
    ready(len(kept))
    wait()
