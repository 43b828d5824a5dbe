"""Runs a command on a terminal of its own, as a shell runs a job, and does one thing each time a password is asked for:
    terminal.py type TEXT COMMAND...    types it, and Enter; ^C and ^D are what they are on a terminal
    terminal.py kill WHOM COMMAND...    kills "portbroker" or "pkttyagent", whichever this terminal has, and nothing else
    terminal.py hold FILE COMMAND...    kills the command when that file is there
Prints what the terminal showed, how often it asked, whether it shows what is typed when all is over, and how many agents
are left on it. Ends with the command's status, of which 128 and more is a signal."""
import os, pty, select, signal, sys, termios, time

what, argument, *command = sys.argv[1:]
told, tell = os.pipe()
leader, terminal = pty.fork()
if leader == 0:
    job = os.fork()
    if job == 0:
        os.setpgid(0, 0)
        signal.signal(signal.SIGTTOU, signal.SIG_IGN)
        os.tcsetpgrp(0, os.getpid())
        # As a shell does: what runs the tests may have them ignored.
        for name in signal.SIGTTOU, signal.SIGINT: signal.signal(name, signal.SIG_DFL)
        os.execvp(command[0], command)
    status = os.waitstatus_to_exitcode(os.waitpid(job, 0)[1])
    os.write(tell, bytes([status if status >= 0 else 128 - status]))
    # The terminal lives as long as somebody looks at it.
    signal.pause()

def has_echo(): return bool(termios.tcgetattr(terminal)[3] & termios.ECHO)

def of_terminal(name):
    """The processes of that name in the session of the leader."""
    for pid in filter(str.isdigit, os.listdir('/proc')):
        try: before, after = open(f'/proc/{pid}/stat').read().rsplit(')', 1)
        except OSError: continue
        if before.split('(', 1)[1] == name and int(after.split()[3]) == leader: yield int(pid)

def act():
    if what == 'type': os.write(terminal, {'^C': b'\x03', '^D': b'\x04'}.get(argument, argument.encode() + b'\n'))
    if what == 'kill': [os.kill(pid, signal.SIGKILL) for pid in of_terminal(argument)]
    if what == 'hold':
        while not os.path.exists(argument): time.sleep(0.05)
        for pid in of_terminal('portbroker'): os.kill(pid, signal.SIGKILL)

shown, asked, status, end = b'', 0, None, time.monotonic() + 100
while status is None or select.select([terminal], [], [], 0)[0]:
    # The prompt may be there before the agent has switched the echo off, and what is typed before is thrown away.
    ready, _, _ = select.select([terminal, told], [], [], 0.05)
    if time.monotonic() > end: sys.exit('nothing more after ' + repr(shown))
    if terminal in ready: shown += os.read(terminal, 1000)
    elif told in ready: status = os.read(told, 1)[0]
    if shown.count(b'assword: ') > asked and not has_echo():
        asked += 1
        act()
while list(of_terminal('pkttyagent')) and time.monotonic() < end: time.sleep(0.05)
left = len(list(of_terminal('pkttyagent')))
print(shown.decode(errors='replace'))
print(f'asked {asked} times, echo {"on" if has_echo() else "off"}, agents left {left}')
os.kill(leader, signal.SIGKILL)
sys.exit(status)
