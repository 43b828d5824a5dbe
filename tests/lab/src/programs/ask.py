"""Prints the greeting of a server, without its pid. ask.py ADDRESS, as for serve.py. Waits 10 s at most."""
import socket, sys

address = sys.argv[1]
unix = address.startswith("/")
s = socket.socket(socket.AF_UNIX if unix else socket.AF_INET)
s.settimeout(10)
s.connect(address if unix else ("127.0.0.1", int(address)))
print(" ".join(s.makefile().readline().split()[:-1]))
