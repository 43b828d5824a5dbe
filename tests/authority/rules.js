polkit.addAdminRule(function(action, subject) { return ["unix-user:boss"]; });
polkit.addRule(function(action, subject) {
    if (action.id.indexOf("org.portbroker.PortBroker1.") != 0) return polkit.Result.NOT_HANDLED;
    var about = ["lease", "address", "port"].map(function(key) { return action.lookup(key) || "-"; }).join(" ");
    var line = "asked about " + subject.user + " pid " + subject.pid + " " + action.id + " " + about;
    polkit.spawn(["/bin/sh", "-c", 'echo "$0" >>/run/asked/log', line]);
    if (subject.user == "banned") return polkit.Result.NO;
    if (subject.user != "deputy") return polkit.Result.NOT_HANDLED;
    if (action.id == "org.portbroker.PortBroker1.drain" && action.lookup("address") != "127.0.0.2") return polkit.Result.NO;
    return polkit.Result.YES;
});
