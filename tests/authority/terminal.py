"""Runs a command on a terminal of its own, and does one thing when it asks for a password:
    terminal.py answer PASSWORD COMMAND...    types it
    terminal.py leave COMMAND...              kills the command, and nothing else
    terminal.py dismiss COMMAND...            kills the agent that asks
Prints what the terminal showed, and ends with the command's status."""
import os, pty, select, signal, sys

what, *rest = sys.argv[1:]
password = rest.pop(0) if what == 'answer' else None
pid, terminal = pty.fork()
if pid == 0:
    os.execvp(rest[0], rest)
shown, asked = b'', False
while True:
    if not select.select([terminal], [], [], 60)[0]:
        sys.exit('nothing for a minute after ' + repr(shown))
    try: some = os.read(terminal, 1000)
    except OSError: break
    if not some: break
    shown += some
    if not asked and b'assword:' in shown:
        asked = True
        if what == 'answer': os.write(terminal, password.encode() + b'\n')
        if what == 'leave': os.kill(pid, signal.SIGKILL)
        if what == 'dismiss':
            children = open(f'/proc/{pid}/task/{pid}/children').read().split()
            for child in children: os.kill(int(child), signal.SIGKILL)
    if what == 'leave' and asked: break
print(shown.decode())
_, status = os.waitpid(pid, 0)
status = os.waitstatus_to_exitcode(status)
sys.exit(status if asked else 'no password was asked for: ' + repr((status, shown)))
