"""Connects again and again without pause, and waits for the server's first byte each time.

knock.py ADDRESS...: an address is PORT (on 127.0.0.1) or a path; two clients for each. Ends when /run/knock.stop
is there, and prints "greeted N refused N reset N silent N": reset is what was ended without a byte, silent what
got none in 60 s.
"""
import collections, os, socket, sys, threading

counts = collections.Counter({"greeted": 0, "refused": 0, "reset": 0, "silent": 0})


def once(address):
    unix = address.startswith("/")
    with socket.socket(socket.AF_UNIX if unix else socket.AF_INET) as s:
        s.settimeout(60)
        try:
            s.connect(address if unix else ("127.0.0.1", int(address)))
            return "greeted" if s.recv(1) else "reset"
        except (ConnectionRefusedError, FileNotFoundError):
            return "refused"
        except (ConnectionResetError, BrokenPipeError):
            return "reset"
        except TimeoutError:
            return "silent"


def knock(address):
    while not os.path.exists("/run/knock.stop"):
        counts[once(address)] += 1


threads = [threading.Thread(target=knock, args=(a,)) for a in sys.argv[1:] * 2]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(" ".join(f"{name} {count}" for name, count in counts.items()), flush=True)
