//! Configurations as people and packages write them, in a file system of the test's own.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// Files by their paths.
#[derive(Default)]
struct Host(BTreeMap<PathBuf, String>);

impl Files for Host {
    fn text(&mut self, path: &Path) -> Option<String> {
        self.0.get(path).cloned()
    }

    fn names(&mut self, directory: &Path) -> Vec<String> {
        let below = self.0.keys().filter_map(|path| path.strip_prefix(directory).ok());
        let names = below.filter_map(|path| path.components().next());
        let mut names: Vec<String> =
            names.map(|name| name.as_os_str().to_string_lossy().into_owned()).collect();
        names.dedup();
        names
    }
}

fn host(files: &[(&str, &str)]) -> Host {
    Host(files.iter().map(|(path, text)| (PathBuf::from(path), (*text).to_owned())).collect())
}

/// `PROTOCOL ADDRESS:PORT LINE` for each, the file's name before the line.
fn shown(files: &[(&str, &str)]) -> Vec<String> {
    let one = |claim: Claim| {
        let file = claim.file.file_name().unwrap().to_string_lossy().into_owned();
        let instance = claim.instance.as_deref().map(|name| format!(" {name}")).unwrap_or_default();
        format!("{} {file}:{}{instance}", claim.endpoint(), claim.line)
    };
    claims(&mut host(files)).into_iter().map(one).collect()
}

mod sshd {
    use super::*;

    fn of(text: &str) -> Vec<String> {
        shown(&[("/etc/ssh/sshd_config", text)])
    }

    #[test]
    fn ports_and_addresses() {
        assert_eq!(of(""), ["tcp *:22 sshd_config:0"]);
        assert_eq!(of("#Port 1\nPort 22\n  port=2222 # more\nPORT \"2223\"\n").len(), 3);
        assert_eq!(
            of(
                "ListenAddress 192.0.2.1\nPort 2200\nListenAddress [2001:db8::1]:2201\nListenAddress ::1\nListenAddress host:2202 rdomain x\n"
            ),
            [
                "tcp 192.0.2.1:2200 sshd_config:1",
                "tcp [2001:db8::1]:2201 sshd_config:3",
                "tcp [::1]:2200 sshd_config:4",
                "tcp host:2202 sshd_config:5"
            ]
        );
        assert_eq!(of("AddressFamily inet\nAddressFamily inet6"), ["tcp 0.0.0.0:22 sshd_config:0"]);
        for odd in [
            "Port",
            "Port x",
            "Port 0",
            "Port 65536",
            "ListenAddress",
            "ListenAddress a:b",
            "\"",
            "Port \"22",
        ] {
            assert_eq!(of(odd).len(), 1, "{odd}");
        }
    }

    #[test]
    fn includes_are_sorted_and_what_is_in_a_match_does_not_count() {
        let files = [
            ("/etc/ssh/sshd_config", "Include /etc/ssh/sshd_config.d/*.conf more\nMatch User x\nPort 9\n"),
            ("/etc/ssh/sshd_config.d/b.conf", "Port 2\nMatch all\nPort 8"),
            ("/etc/ssh/sshd_config.d/a.conf", "Port 1\nInclude sshd_config.d/a.conf"),
            ("/etc/ssh/sshd_config.d/.hidden.conf", "Port 7"),
            ("/etc/ssh/sshd_config.d/c.off", "Port 6"),
            ("/etc/ssh/more", "Port 3"),
        ];
        assert_eq!(shown(&files), ["tcp *:1 a.conf:1", "tcp *:2 b.conf:1", "tcp *:3 more:1"]);
    }
}

mod mysql {
    use super::*;

    fn of(text: &str) -> Vec<String> {
        shown(&[("/etc/mysql/my.cnf", text)])
    }

    #[test]
    fn only_groups_of_the_server_count_and_the_last_of_a_name() {
        let text = "[client]\nport=1\n[mysqld]\nport = 3307 # why\nbind_address='127.0.0.1'\n[mysqldump]\nport=2\n\
                    [mariadb-10.11]\nPort=\"3308\"\n[mysqld_safe]\nport=4\n";
        assert_eq!(of(text), ["tcp 127.0.0.1:3308 my.cnf:9"]);
        assert_eq!(of("[mysqld]\n;port=1\n#port=2"), ["tcp *:3306 my.cnf:0"]);
        assert_eq!(of("[mysqld]\nbind-address=*"), ["tcp *:3306 my.cnf:0"]);
        assert_eq!(
            of("[mysqld]\nbind-address = ::1, 10.0.0.1\nextra-port=33061\nloose-mysqlx_port=33060"),
            [
                "tcp [::1]:3306 my.cnf:0",
                "tcp 10.0.0.1:3306 my.cnf:0",
                "tcp [::1]:33061 my.cnf:3",
                "tcp 10.0.0.1:33061 my.cnf:3",
                "tcp [::1]:33060 my.cnf:4",
                "tcp 10.0.0.1:33060 my.cnf:4"
            ]
        );
        assert!(of("[mysqld]\nskip-networking # none").is_empty());
        assert!(of("[mysqld]\nskip_networking=1").is_empty());
        assert_eq!(of("[mysqld]\nskip-networking=0").len(), 1);
    }

    #[test]
    fn included_directories_are_read_in_order_and_each_begins_without_a_group() {
        let files = [
            ("/etc/my.cnf", "[mysqld]\nport=1\n!include mysql/more\n"),
            ("/etc/mysql/more", "port=2"),
            ("/etc/mysql/my.cnf", "[mysqld]\n!includedir /etc/mysql/conf.d/\n!includedirectory /x\nport=5\n"),
            ("/etc/mysql/conf.d/a.cnf", "[mysqld]\nport=3"),
            ("/etc/mysql/conf.d/b.cnf", "[mysqld]\nport=4\nbind-address=10.0.0.1"),
            ("/etc/mysql/conf.d/z.ini", "[mysqld]\nport=9"),
        ];
        assert_eq!(shown(&files), ["tcp 10.0.0.1:5 my.cnf:4"]);
    }
}

mod postgresql {
    use super::*;

    #[test]
    fn each_cluster_has_its_own() {
        let main = "/etc/postgresql/15/main/postgresql.conf";
        let files = [
            (
                main,
                "listen_addresses = '*'\t\t# what\nport = 5432\nInclude_Dir = 'conf.d'\nport 5433\ndata_directory = '/d'\n",
            ),
            ("/etc/postgresql/15/main/conf.d/1.conf", "port=5999"),
            ("/etc/postgresql/15/main/conf.d/.1.conf", "port=5998"),
            ("/d/postgresql.auto.conf", "port = '50000'"),
            ("/etc/postgresql/15/other/postgresql.conf", "include_if_exists 'x'\ninclude 'y'\nPORT=5434"),
            ("/etc/postgresql/15/other/y", "listen_addresses = 'localhost, ::1'\nport=1"),
            ("/etc/postgresql/15/mute/postgresql.conf", "listen_addresses = ''"),
        ];
        let expected = [
            "tcp *:50000 postgresql.auto.conf:1 15-main",
            "tcp localhost:5434 postgresql.conf:3 15-other",
            "tcp [::1]:5434 postgresql.conf:3 15-other",
        ];
        assert_eq!(shown(&files), expected);
        let plain = [("/etc/postgresql/16/a/postgresql.conf", "#port = 1\nlog = 'it''s # no comment'\n")];
        assert_eq!(shown(&plain), ["tcp localhost:5432 postgresql.conf:0 16-a"]);
    }
}

mod nginx {
    use super::*;

    fn of(text: &str) -> Vec<String> {
        shown(&[("/etc/nginx/nginx.conf", text)])
    }

    #[test]
    fn servers_listen() {
        let text = "user x; # listen 1;\nhttp {\n  server {\n listen 80 default_server;\n listen [::]:80;\n listen 127.0.0.1:8000;\n\
                    listen\n 443 quic; listen unix:/run/x; listen *:81; listen \"localhost\"; }\n server { }\n}\n\
                    stream { server { listen 53 udp; listen 10.0.0.1:9000-9002; } server {} }\nlisten 7;";
        let expected = [
            "tcp 0.0.0.0:80 nginx.conf:4",
            "tcp [::]:80 nginx.conf:5",
            "tcp 127.0.0.1:8000 nginx.conf:6",
            "udp 0.0.0.0:443 nginx.conf:7",
            "tcp 0.0.0.0:81 nginx.conf:8",
            "tcp localhost:80 nginx.conf:8",
            "udp 0.0.0.0:53 nginx.conf:11",
            "tcp 10.0.0.1:9000 nginx.conf:11",
            "tcp 10.0.0.1:9001 nginx.conf:11",
            "tcp 10.0.0.1:9002 nginx.conf:11",
        ];
        assert_eq!(of(text), expected);
        assert_eq!(of("http { server { server_name a; } }"), ["tcp 0.0.0.0:80 nginx.conf:0"]);
    }

    #[test]
    fn what_looks_like_syntax_in_words_is_none() {
        let text = "http { log_format m '{ listen 1; }'; map $a ${b} { \"~x;#{\" 1; } server { set $c ${d}; listen 9;
                    return 200 \"}\"; location / { content_by_lua_block { if x then y = \"'\" end -- } z } } listen 10; } }";
        // The comment of Lua closes its block too early, as it does for nginx.
        assert_eq!(of(text)[0], "tcp 0.0.0.0:9 nginx.conf:1");
        assert_eq!(of("http { server { listen 1; # listen 2; }\n listen 3; } }").len(), 2);
    }

    #[test]
    fn included_files_are_in_the_block_that_includes_them() {
        let files = [
            ("/etc/nginx/nginx.conf", "http { include sites-enabled/*; server { include ports; } }"),
            ("/etc/nginx/sites-enabled/b", "server { listen 2; "),
            ("/etc/nginx/sites-enabled/a", "server { listen 1; } }"),
            ("/etc/nginx/ports", "listen 3;\ninclude /etc/nginx/ports;"),
        ];
        let expected = ["tcp 0.0.0.0:1 a:1", "tcp 0.0.0.0:2 b:1", "tcp 0.0.0.0:3 ports:1"];
        assert_eq!(shown(&files), expected);
    }
}

mod apache {
    use super::*;

    #[test]
    fn sections_count_where_their_module_is_loaded() {
        let files = [
            ("/etc/apache2/apache2.conf", "IncludeOptional mods-enabled/*.load\nInclude ports.conf\n"),
            ("/etc/apache2/mods-enabled/ssl.load", "LoadModule ssl_module /usr/lib/mod_ssl.so\n"),
            (
                "/etc/apache2/ports.conf",
                "# c\nListen 80\n<IfModule ssl_module>\n\tListen 443 https\n</IfModule>\n<IfModule mod_gnutls.c>\n\
                 Listen 444\n</IfModule>\n<IfModule !mod_ssl.c>\nListen 445\n</IfModule>\nlisten \\\n[::1]:8080\n\
                 Listen 192.0.2.1:81\nListen x\n<IfDefine A>\nListen 446\n</IfDefine>\nDefine A\n<IfDefine A>\nListen 447\n",
            ),
        ];
        let expected = [
            "tcp *:80 ports.conf:2",
            "tcp *:443 ports.conf:4",
            "tcp [::1]:8080 ports.conf:12",
            "tcp 192.0.2.1:81 ports.conf:14",
            "tcp *:447 ports.conf:21",
        ];
        assert_eq!(shown(&files), expected);
    }
}

mod redis {
    use super::*;

    #[test]
    fn the_last_counts_and_0_is_none() {
        let of = |text| shown(&[("/etc/redis/redis.conf", text)]);
        assert_eq!(
            of("bind 127.0.0.1 -::1\nport 1\nPORT 6380\n"),
            ["tcp 127.0.0.1:6380 redis.conf:3", "tcp [::1]:6380 redis.conf:3"]
        );
        assert_eq!(
            of("port 0\ntls-port 6390\nbind * -::*"),
            ["tcp 0.0.0.0:6390 redis.conf:2", "tcp [::]:6390 redis.conf:2"]
        );
        assert_eq!(of(""), ["tcp *:6379 redis.conf:0"]);
        assert!(of("port 0").is_empty());
    }
}

#[test]
fn what_is_not_there_claims_nothing() {
    assert!(claims(&mut host(&[])).is_empty());
}

#[test]
fn claims_know_their_units() {
    let claim = Place::new(Path::new("/x"), 3).claim(Program::Mysql, Protocol::Tcp, Where::Everywhere, 3306);
    let is = |claim: &Claim, unit: &str| claim.is_of(&UnitName::try_from(unit).unwrap());
    assert!(is(&claim, "mariadb.service") && is(&claim, "mysql.service"));
    assert!(!is(&claim, "mariadb@two.service") && !is(&claim, "nginx.service"));
    let cluster = Claim { program: Program::Postgresql, instance: Some("15-main".into()), ..claim.clone() };
    assert!(is(&cluster, "postgresql@15-main.service") && is(&cluster, "postgresql.service"));
    assert!(!is(&cluster, "postgresql@15-other.service"));
    assert_eq!(claim.place(), "/x:3");
    assert!(Claim { line: 0, ..claim }.place().starts_with("the default of MariaDB/MySQL"));
}

/// Files that include each other, wide and deep.
#[test]
fn reading_ends() {
    let many: String = (0..100).map(|_| "Include /etc/ssh/a /etc/ssh/b /etc/ssh/sshd_config\n").collect();
    let files = [("/etc/ssh/sshd_config", many.as_str()), ("/etc/ssh/a", &many), ("/etc/ssh/b", &many)];
    assert_eq!(shown(&files), ["tcp *:22 sshd_config:0"]);
}

const PATHS: [&str; 6] = [
    "/etc/ssh/sshd_config",
    "/etc/nginx/nginx.conf",
    "/etc/mysql/my.cnf",
    "/etc/postgresql/15/main/postgresql.conf",
    "/etc/apache2/apache2.conf",
    "/etc/redis/redis.conf",
];

proptest! {
    #[test]
    fn no_text_is_too_odd(texts in proptest::collection::vec("([a-z]{0,9}|Port|listen|server|http|[\\[\\]{};#'\"\\\\!$=<>/ :0-9-]|\n){0,40}", 6)) {
        let files: Vec<(&str, &str)> = PATHS.into_iter().zip(texts.iter().map(String::as_str)).collect();
        let found = claims(&mut host(&files));
        prop_assert!(found.iter().all(|claim| claim.port > 0));
    }

    #[test]
    fn any_text_can_be_read(text in any::<String>()) {
        let files: Vec<(&str, &str)> = PATHS.into_iter().map(|path| (path, text.as_str())).collect();
        let _ = claims(&mut host(&files));
    }
}
