//! Grants as they are written, and the accounts that they name.
//!
//! Accounts come from the text of /etc/passwd and /etc/group: no name service is asked, since the broker
//! starts before there is one. An account that is not there (yet) has no id, and matches nobody.

use super::{Account, Grant};
use crate::model::{UnitName, UnitNameError};
use std::collections::HashMap;
use std::fmt;

/// The users and groups that the files name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Accounts {
    users: HashMap<String, u32>,
    groups: HashMap<String, u32>,
}

/// Why a text is no grant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum GrantError {
    #[error("{0:?} is no grant")]
    Form(String),
    #[error("{0} is given twice in one grant")]
    Twice(&'static str),
    #[error(transparent)]
    Unit(#[from] UnitNameError),
    #[error("{0:?} is no user or group: a name, or a number up to 4294967294")]
    Account(String),
}

impl GrantError {
    /// What to write instead.
    pub(super) fn help(&self) -> Option<String> {
        match self {
            Self::Form(_) => Some(
                "write \"unit:NAME.service\", \"user:NAME\" or \"group:NAME\", or several joined by '+' that must all hold"
                    .into(),
            ),
            Self::Twice(_) => Some("write two grants: each of them is enough".into()),
            Self::Unit(_) | Self::Account(_) => None,
        }
    }
}

/// `name:x:id:…` lines to a map; the first line of a name counts, as for getpwnam(3).
fn ids(text: &str) -> HashMap<String, u32> {
    let mut ids = HashMap::new();
    for line in text.lines() {
        let mut fields = line.split(':');
        if let (Some(name), Some(id)) = (fields.next(), fields.nth(1).and_then(|id| id.parse().ok()))
            && !name.is_empty()
        {
            ids.entry(name.to_owned()).or_insert(id);
        }
    }
    ids
}

/// (uid_t) -1 means "no change" to chown(2), and so is no account.
fn numeric(name: &str) -> Option<u32> {
    let digits = !name.is_empty() && name.bytes().all(|b| b.is_ascii_digit());
    name.parse().ok().filter(|&id| digits && id != u32::MAX)
}

fn account(name: &str, ids: &HashMap<String, u32>) -> Option<Account> {
    let number = !name.is_empty() && name.bytes().all(|b| b.is_ascii_digit());
    let valid = !name.is_empty()
        && name.len() <= 256
        && !name.starts_with('-')
        && name.chars().all(|c| !c.is_control() && !c.is_whitespace() && !matches!(c, ':' | '/' | '+' | ','));
    if !valid || (number && numeric(name).is_none()) {
        return None;
    }
    Some(Account { name: name.to_owned(), id: ids.get(name).copied().or_else(|| numeric(name)) })
}

impl Accounts {
    /// Reads the texts of /etc/passwd and /etc/group; lines that make no sense are left out.
    #[must_use]
    pub fn parse(passwd: &str, group: &str) -> Self {
        Self { users: ids(passwd), groups: ids(group) }
    }

    /// A user by name or number; `None` where the text can be neither.
    #[must_use]
    pub fn user(&self, name: &str) -> Option<Account> {
        account(name, &self.users)
    }

    /// A group by name or number; `None` where the text can be neither.
    #[must_use]
    pub fn group(&self, name: &str) -> Option<Account> {
        account(name, &self.groups)
    }

    /// Reads `unit:x.service+user:y`.
    pub(super) fn grant(&self, text: &str) -> Result<Grant, GrantError> {
        let shortened = |text: &str| text.chars().take(80).collect::<String>();
        let form = || GrantError::Form(shortened(text));
        let mut grant = Grant::default();
        for part in text.trim().split('+') {
            let (kind, name) = part.trim().split_once(':').ok_or_else(form)?;
            let unknown = || GrantError::Account(shortened(name));
            let twice = match kind {
                "unit" => grant.unit.replace(UnitName::try_from(name)?).map(|_| "unit"),
                "user" => grant.user.replace(self.user(name).ok_or_else(unknown)?).map(|_| "user"),
                "group" => grant.group.replace(self.group(name).ok_or_else(unknown)?).map(|_| "group"),
                _ => return Err(form()),
            };
            if let Some(kind) = twice {
                return Err(GrantError::Twice(kind));
            }
        }
        Ok(grant)
    }
}

/// As it is written in `allow`.
impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            self.unit.as_ref().map(|unit| format!("unit:{unit}")),
            self.user.as_ref().map(|user| format!("user:{}", user.name)),
            self.group.as_ref().map(|group| format!("group:{}", group.name)),
        ];
        f.write_str(&parts.into_iter().flatten().collect::<Vec<_>>().join("+"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn accounts() -> Accounts {
        Accounts::parse(
            "root:x:0:0::/:/bin/sh\nbad\n\ndeploy:x:1000:1000::/:/bin/sh\ndeploy:x:7:7:::\nx:x:no:1::/:\n",
            "web:x:33:\n+nis\n",
        )
    }

    #[test]
    fn grants_name_units_users_and_groups() {
        let grant = |text| accounts().grant(text).unwrap();
        assert_eq!(grant("unit:nginx.service").unit.unwrap().as_str(), "nginx.service");
        assert_eq!(grant("user:deploy").user, Some(Account { name: "deploy".into(), id: Some(1000) }));
        assert_eq!(grant("group:web").group.unwrap().id, Some(33));
        assert_eq!(grant("user:later").user.unwrap().id, None);
        assert_eq!(grant("user:4711").user.unwrap().id, Some(4711));
        let both = grant("unit:a@1.service+user:deploy");
        assert!(both.unit.is_some() && both.user.is_some());
        assert_eq!(both.to_string(), "unit:a@1.service+user:deploy");
    }

    #[test]
    fn what_is_no_grant_is_refused() {
        let refused = |text| accounts().grant(text).unwrap_err().to_string();
        assert_eq!(refused("deploy"), "\"deploy\" is no grant");
        assert_eq!(refused(""), "\"\" is no grant");
        assert_eq!(refused("uid:0"), "\"uid:0\" is no grant");
        assert_eq!(refused("user:a+user:b"), "user is given twice in one grant");
        assert!(refused("unit:nginx").contains("write it in full"));
        assert!(refused("user:").contains("is no user or group"));
        assert!(refused("user:4294967295").contains("is no user or group"));
        assert!(refused("user:99999999999").contains("is no user or group"));
        assert!(refused("group:a b").contains("is no user or group"));
    }

    proptest! {
        #[test]
        fn a_grant_reads_as_it_is_shown(text in "((unit:[a-z]{1,5}\\.service|user:[a-z0-9]{1,4}|group:[a-z]{1,4}|[a-z:+]{0,8})\\+?){0,3}") {
            if let Ok(grant) = accounts().grant(&text) {
                prop_assert_eq!(accounts().grant(&grant.to_string()).unwrap(), grant);
            }
        }
    }
}
