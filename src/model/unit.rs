//! Names of systemd units, and the unit that a cgroup path belongs to.

use std::fmt;

/// The full name of a systemd unit, such as `mariadb.service` or `web@1.service`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnitName(String);

/// Why a text is no unit name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no unit name: write it in full, as in \"nginx.service\"")]
pub struct UnitNameError(String);

/// The types of unit that can have processes, and so be a caller.
const SUFFIXES: [&str; 6] = [".service", ".scope", ".socket", ".mount", ".swap", ".slice"];

impl UnitName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name without its type suffix: `mariadb` of `mariadb.service`.
    #[must_use]
    pub fn stem(&self) -> &str {
        self.0.rsplit_once('.').map_or(&self.0, |(stem, _)| stem)
    }

    /// The system unit that owns a cgroup: the *first* component below root that is no slice.
    ///
    /// `path` is as in `/proc/PID/cgroup`: absolute, of systemd's hierarchy. What lies below the first
    /// unit was made by that unit (a user's own manager, a container) and is not to be believed, so
    /// `/user.slice/user-1000.slice/user@1000.service/app.slice/mariadb.service` is `user@1000.service`.
    /// `None` where no unit owns it, or where `..` shows a path outside of our view.
    #[must_use]
    pub fn of_cgroup(path: &str) -> Option<Self> {
        if path.split('/').any(|component| component == "..") {
            return None;
        }
        // systemd puts `_` before a name that the kernel would take for a file of its own.
        let unescaped = path.split('/').filter(|c| !c.is_empty()).map(|c| c.strip_prefix('_').unwrap_or(c));
        let first = unescaped.into_iter().find(|component| !component.ends_with(".slice"))?;
        Self::try_from(first).ok()
    }
}

impl UnitName {
    /// The slice of the user to whom a cgroup belongs, `user-1000.slice`: of all logins, of the user's own manager and
    /// of whatever other uids these give to their containers. `None` where it is no user's.
    #[must_use]
    pub fn of_user(path: &str) -> Option<Self> {
        let mut components = path.split('/').filter(|component| !component.is_empty());
        let slice =
            components.next().filter(|first| *first == "user.slice").and_then(|_| components.next())?;
        let uid = slice.strip_prefix("user-")?.strip_suffix(".slice")?;
        let is_number = !uid.is_empty() && uid.bytes().all(|byte| byte.is_ascii_digit());
        if is_number && !path.contains("..") { Self::try_from(slice).ok() } else { None }
    }
}

impl TryFrom<&str> for UnitName {
    type Error = UnitNameError;

    fn try_from(text: &str) -> Result<Self, UnitNameError> {
        let valid_characters = text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, ':' | '-' | '_' | '.' | '\\' | '@'));
        let has_type =
            SUFFIXES.iter().any(|suffix| text.strip_suffix(suffix).is_some_and(|stem| !stem.is_empty()));
        if valid_characters && has_type && text.len() <= 255 && !text.starts_with('@') {
            Ok(Self(text.to_owned()))
        } else {
            Err(UnitNameError(text.chars().take(256).collect()))
        }
    }
}

impl fmt::Display for UnitName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for UnitName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(path: &str) -> Option<String> {
        UnitName::of_cgroup(path).map(|u| u.to_string())
    }

    #[test]
    fn a_cgroup_belongs_to_the_first_unit_below_root() {
        assert_eq!(unit("/system.slice/mariadb.service").as_deref(), Some("mariadb.service"));
        assert_eq!(unit("/system.slice/system-web.slice/web@1.service").as_deref(), Some("web@1.service"));
        assert_eq!(unit("/system.slice/mariadb.service/sub/x.service").as_deref(), Some("mariadb.service"));
        assert_eq!(unit("/init.scope").as_deref(), Some("init.scope"));
        assert_eq!(unit("/system.slice/_tasks.service").as_deref(), Some("tasks.service"));
    }

    #[test]
    fn all_that_a_user_runs_is_below_one_slice() {
        let user = |path| UnitName::of_user(path).map(|unit| unit.to_string());
        for path in [
            "/user.slice/user-1000.slice/session-3.scope",
            "/user.slice/user-1000.slice/user@1000.service/app.slice/podman-7.scope",
            "/user.slice/user-1000.slice",
        ] {
            assert_eq!(user(path).as_deref(), Some("user-1000.slice"));
        }
        for path in [
            "/system.slice/user-1000.slice/a.service",
            "/user.slice/user-.slice/a.scope",
            "/user.slice/user-a.slice/a.scope",
            "/user.slice/user-1000.slice/../../system.slice/a.service",
            "/user.slice",
            "/docker/user.slice/user-1000.slice",
        ] {
            assert_eq!(user(path), None, "{path}");
        }
    }

    #[test]
    fn what_a_user_or_a_container_names_itself_is_not_believed() {
        let user = "/user.slice/user-1000.slice/user@1000.service/app.slice/mariadb.service";
        assert_eq!(unit(user).as_deref(), Some("user@1000.service"));
        let container = "/system.slice/docker-1.scope/system.slice/mariadb.service";
        assert_eq!(unit(container).as_deref(), Some("docker-1.scope"));
        assert_eq!(unit("/docker/mariadb.service"), None);
        assert_eq!(unit("/../system.slice/mariadb.service"), None);
        assert_eq!(unit("/"), None);
        assert_eq!(unit("/system.slice"), None);
    }

    #[test]
    fn unit_names_are_written_in_full() {
        assert!(UnitName::try_from("nginx.service").is_ok());
        assert!(UnitName::try_from("nginx").is_err());
        assert!(UnitName::try_from(".service").is_err());
        assert!(UnitName::try_from("a/b.service").is_err());
    }
}
