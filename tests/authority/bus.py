"""Asks the broker by python3-dbus: bus.py PLACE MEMBER [TYPE=VALUE]... PLACE is "system", or the private socket's path;
types are those of D-Bus, "i" is the option "interactive". Prints "done", or the error and what it says."""
import dbus, dbus.connection, sys

place, member, *arguments = sys.argv[1:]
PATH, MANAGER = '/org/portbroker/PortBroker1', 'org.portbroker.PortBroker1.Manager'
signature, values = '', []
for kind, value in (argument.split('=', 1) for argument in arguments):
    if kind == 's': signature, values = signature + 's', values + [value]
    if kind == 't': signature, values = signature + 't', values + [dbus.UInt64(value)]
    if kind == 'o': signature, values = signature + 'a{sv}', values + [dbus.Dictionary({}, signature='sv')]
    if kind == 'i': signature, values = signature + 'a{sv}', values + [{'interactive': dbus.Boolean(value == 'yes')}]
    if kind == 'bad': signature, values = signature + 'a{sv}', values + [{value: dbus.UInt32(1)}]
if place == 'system': bus, name = dbus.SystemBus(), 'org.portbroker.PortBroker1'
else: bus, name = dbus.connection.Connection('unix:path=' + place), None
try:
    bus.call_blocking(name, PATH, MANAGER, member, signature, values, timeout=60)
    print('done')
except dbus.DBusException as error:
    print(error.get_dbus_name(), error.get_dbus_message())
