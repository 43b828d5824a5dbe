"""A service: greets everybody on the sockets that it was given, or else on those that it binds itself.

serve.py ADDRESS...: an address is PORT (on 127.0.0.1) or a path. Greeting: "given NAMES" or "bound", and the pid.
"""
import os, select, socket, sys


def given():
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return [], []
    count = int(os.environ["LISTEN_FDS"])
    return [socket.socket(fileno=3 + n) for n in range(count)], os.environ["LISTEN_FDNAMES"].split(":")


def bind(address):
    if address.startswith("/"):
        s = socket.socket(socket.AF_UNIX)
        s.bind(address)
    else:
        s = socket.socket()
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.bind(("127.0.0.1", int(address)))
    s.listen(100)
    return s


sockets, names = given()
how = "given " + " ".join(sorted(names)) if sockets else "bound"
sockets = sockets or [bind(a) for a in sys.argv[1:]]
print(how, flush=True)
while True:
    for ready in select.select(sockets, [], [])[0]:
        connection, _ = ready.accept()
        with connection:
            connection.sendall(f"{how} {os.getpid()}\n".encode())
