//! Where the command-line tool is, and what it needs to run where its libraries are not.

use std::path::{Path, PathBuf};

/// The tool where it cannot be told from the generator's own place.
const DEFAULT: &str = "/usr/bin/portbroker";
/// Where a generator is installed below its prefix.
const GENERATORS: &str = "lib/systemd/system-generators";
/// The libraries that Rust programs are linked with.
const LIBRARIES: [&str; 3] = ["libc.so.6", "libgcc_s.so.1", "libm.so.6"];

/// The command-line tool `portbroker`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tool {
    /// Its path on the host.
    pub path: PathBuf,
    /// What loads it; none for a static program.
    pub loader: Option<Loader>,
}

/// The dynamic loader and its libraries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loader {
    /// The loader, as `ld-linux-x86-64.so.2`.
    pub path: PathBuf,
    /// The libraries, each where it may be.
    pub libraries: Vec<PathBuf>,
}

impl Tool {
    /// The tool that was installed with the generator at `own`: `PREFIX/bin/portbroker`. It is linked as the
    /// generator is, of which `maps` is `/proc/self/maps`.
    #[must_use]
    pub fn beside(own: &Path, maps: &str) -> Self {
        let prefix = own.parent().filter(|directory| directory.ends_with(GENERATORS));
        let path = prefix
            .and_then(|directory| directory.ancestors().nth(3))
            .map_or_else(|| PathBuf::from(DEFAULT), |prefix| prefix.join("bin/portbroker"));
        Self { path, loader: Loader::of_maps(maps) }
    }
}

impl Loader {
    /// The loader and libraries of the process that has these mappings, proc_pid_maps(5).
    fn of_maps(maps: &str) -> Option<Self> {
        let mut files: Vec<&Path> = maps.lines().filter_map(mapped_file).collect();
        files.dedup();
        let named = |begins: &str| {
            files.iter().copied().find(|path| {
                path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(begins))
            })
        };
        let path = named("ld-").or_else(|| named("ld64")).or_else(|| named("ld.so"))?.to_owned();
        let directory = named("libc.so").or_else(|| named("libc-")).and_then(Path::parent);
        let libraries = LIBRARIES.iter().filter_map(|name| Some(directory?.join(name))).collect();
        Some(Self { path, libraries })
    }
}

/// The path of a mapping: from the sixth field on.
fn mapped_file(line: &str) -> Option<&Path> {
    let begin = line.find('/')?;
    line.get(begin..).map(Path::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPS: &str = "\
55e0-55e1 r--p 00000000 fe:00 12 /usr/lib/systemd/system-generators/portbroker-generator
7f00-7f01 r--p 00000000 fe:00 13                         /usr/lib/x86_64-linux-gnu/libc.so.6
7f01-7f02 r-xp 00000000 fe:00 13                         /usr/lib/x86_64-linux-gnu/libc.so.6
7f03-7f04 rw-p 00000000 00:00 0
7f05-7f06 r--p 00000000 fe:00 14                         /usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2
7fff-7fff r-xp 00000000 00:00 0                          [vdso]
";

    #[test]
    fn the_tool_is_below_the_generators_prefix() {
        let path = |own: &str| Tool::beside(Path::new(own), "").path;
        assert_eq!(
            path("/usr/lib/systemd/system-generators/portbroker-generator"),
            Path::new("/usr/bin/portbroker")
        );
        assert_eq!(path("/opt/x/lib/systemd/system-generators/g"), Path::new("/opt/x/bin/portbroker"));
        assert_eq!(path("/home/me/target/debug/portbroker-generator"), Path::new(DEFAULT));
    }

    #[test]
    fn the_loader_is_that_of_the_process() {
        let loader = Tool::beside(Path::new("/g"), MAPS).loader.unwrap();
        assert_eq!(loader.path, Path::new("/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"));
        assert_eq!(loader.libraries[0], Path::new("/usr/lib/x86_64-linux-gnu/libc.so.6"));
        assert_eq!(loader.libraries.len(), 3);
        assert_eq!(Tool::beside(Path::new("/g"), "7fff-7fff r-xp 0 00:00 0 [vdso]").loader, None);
    }

    #[test]
    fn the_loader_of_this_very_process_is_found() {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let loader = Tool::beside(Path::new("/g"), &maps).loader.unwrap();
        assert!(loader.path.is_file());
        assert!(loader.libraries[0].is_file());
    }
}
