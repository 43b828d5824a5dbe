//! What a port is known for: for sentences that say who wants it.

use crate::model::Protocol;

/// Services that people call by another name than /etc/services does.
const KNOWN: [(u16, &str); 18] = [
    (22, "sshd"),
    (25, "a mail server"),
    (53, "a name server"),
    (80, "a web server"),
    (443, "a web server"),
    (1883, "an MQTT broker"),
    (2049, "the NFS server"),
    (2379, "etcd"),
    (3306, "MariaDB"),
    (5432, "PostgreSQL"),
    (5672, "RabbitMQ"),
    (6379, "Redis"),
    (6443, "the Kubernetes API server"),
    (8080, "a web server"),
    (9090, "Prometheus"),
    (9092, "Kafka"),
    (11211, "memcached"),
    (27017, "MongoDB"),
];

/// What people call the service of a port.
#[must_use]
pub fn known(port: u16) -> Option<&'static str> {
    KNOWN.iter().find(|(known, _)| *known == port).map(|(_, name)| *name)
}

/// The name of a port in the text of /etc/services, services(5): `mysql 3306/tcp # comment`.
#[must_use]
pub fn name_in(services: &str, port: u16, protocol: Option<Protocol>) -> Option<&str> {
    services.lines().find_map(|line| {
        let mut words = line.split('#').next()?.split_whitespace();
        let (name, (number, transport)) = (words.next()?, words.next()?.split_once('/')?);
        let wanted = protocol.is_none_or(|protocol| protocol.as_str() == transport);
        (number.parse() == Ok(port) && wanted).then_some(name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_has_the_name_that_services_gives_it() {
        let text = "# 3306/tcp\nmysql\t\t3306/tcp\ndomain 53/udp # x\nodd\nodder 7\nhttp 80/tcp www\n";
        assert_eq!(name_in(text, 3306, None), Some("mysql"));
        assert_eq!(name_in(text, 3306, Some(Protocol::Udp)), None);
        assert_eq!(name_in(text, 53, Some(Protocol::Udp)), Some("domain"));
        assert_eq!(name_in(text, 7, None), None);
        assert_eq!(known(3306), Some("MariaDB"));
        assert_eq!(known(3307), None);
    }
}
