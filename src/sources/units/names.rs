//! What systemd reads from the name of a unit: template, instance, and where its drop-ins may lie.
//! Text only; the names have been found in directories and may be anything.

/// The types of unit that are read.
pub(super) const TYPES: [&str; 2] = ["service", "socket"];

/// The stem and the type of `mariadb.service`; none for a unit of a type that is not read.
pub(super) fn split_type(name: &str) -> Option<(&str, &str)> {
    let (stem, kind) = name.rsplit_once('.')?;
    (TYPES.contains(&kind) && !stem.is_empty() && !stem.starts_with('@')).then_some((stem, kind))
}

/// The prefix, instance and type of `web@1.service`; the instance of a template is empty.
fn split_instance(name: &str) -> Option<(&str, &str, &str)> {
    let (stem, kind) = split_type(name)?;
    let (prefix, instance) = stem.split_once('@')?;
    Some((prefix, instance, kind))
}

/// Whether it is `web@.service`.
pub(super) fn is_template(name: &str) -> bool {
    split_instance(name).is_some_and(|(_, instance, _)| instance.is_empty())
}

/// Whether it is `web@1.service`.
pub(super) fn is_instance(name: &str) -> bool {
    split_instance(name).is_some_and(|(_, instance, _)| !instance.is_empty())
}

/// The `web@.service` of `web@1.service`.
pub(super) fn template(name: &str) -> Option<String> {
    let (prefix, instance, kind) = split_instance(name)?;
    (!instance.is_empty()).then(|| format!("{prefix}@.{kind}"))
}

/// `getty@.service` for `autovt@1.service` makes `getty@1.service`; what is no template stays as it is.
pub(super) fn instance_of(template: &str, like: &str) -> String {
    match (split_instance(template), split_instance(like)) {
        (Some((prefix, "", kind)), Some((_, instance, _))) => format!("{prefix}@{instance}.{kind}"),
        _ => template.to_owned(),
    }
}

/// Whether systemd takes a link of one name to a unit of another as an alias
/// (`unit_validate_alias_symlink_or_warn()`): types and, where both have one, instances are the same.
pub(super) fn may_be_alias(link: &str, target: &str) -> bool {
    let (Some((_, link_type)), Some((_, target_type))) = (split_type(link), split_type(target)) else {
        return false;
    };
    if link_type != target_type {
        return false;
    }
    match (split_instance(link), split_instance(target)) {
        (None, None) => true,
        (Some((_, instance, _)), Some((_, of_target, _))) => instance == of_target || of_target.is_empty(),
        // A plain name for one instance is fine, for a template it means nothing.
        (None, Some((_, of_target, _))) => !of_target.is_empty(),
        (Some(_), None) => false,
    }
}

/// The names, each to be followed by `.d`, of the drop-in directories of a unit, the most special first:
/// `a-b@1.service`, `a-b@.service`, `a-@1.service`, `a-@.service` (`unit_file_find_dirs()`).
pub(super) fn dropin_names(name: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut current = Some(name.to_owned());
    while let Some(name) = current {
        let template = template(&name);
        current = chopped(&name);
        names.push(name);
        names.extend(template);
    }
    names
}

/// `a-b-c@1.service` becomes `a-b-@1.service`, and that `a-@1.service`; none where there is no dash left.
fn chopped(name: &str) -> Option<String> {
    let (stem, kind) = split_type(name)?;
    let (prefix, instance) = stem.split_once('@').map_or((stem, None), |(p, i)| (p, Some(i)));
    let end = prefix.strip_suffix('-').unwrap_or(prefix).rfind('-')?;
    let prefix = prefix.get(..=end)?;
    Some(instance.map_or_else(|| format!("{prefix}.{kind}"), |i| format!("{prefix}@{i}.{kind}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drop_ins_are_looked_for_from_the_most_special_name_on() {
        assert_eq!(dropin_names("a.service"), ["a.service"]);
        assert_eq!(dropin_names("a-b-c.service"), ["a-b-c.service", "a-b-.service", "a-.service"]);
        assert_eq!(
            dropin_names("a-b@1.service"),
            ["a-b@1.service", "a-b@.service", "a-@1.service", "a-@.service"]
        );
        assert_eq!(dropin_names("a@b-c.service"), ["a@b-c.service", "a@.service"]);
        assert_eq!(dropin_names("a-.service"), ["a-.service"]);
        assert_eq!(dropin_names("-a.service"), ["-a.service", "-.service"]);
    }

    #[test]
    fn an_instance_knows_its_template() {
        assert_eq!(template("web@a.b@c.service").as_deref(), Some("web@.service"));
        assert_eq!(template("web@.service"), None);
        assert_eq!(template("web.service"), None);
        assert!(is_template("web@.service") && !is_instance("web@.service"));
        assert!(is_instance("web@1.socket") && !is_template("web@1.socket"));
        assert_eq!(instance_of("getty@.service", "autovt@1.service"), "getty@1.service");
        assert_eq!(instance_of("getty.service", "autovt@1.service"), "getty.service");
    }

    #[test]
    fn only_services_and_sockets_are_read() {
        assert!(split_type("a.service").is_some() && split_type("a.socket").is_some());
        for name in ["a.target", ".service", "service", "@1.service", "a.service.d"] {
            assert!(split_type(name).is_none(), "{name}");
        }
    }

    #[test]
    fn aliases_are_of_one_type_and_one_instance() {
        for (link, target) in [
            ("a.service", "b.service"),
            ("a@.service", "b@.service"),
            ("a@1.service", "b@.service"),
            ("a@1.service", "b@1.service"),
            ("a.service", "b@1.service"),
        ] {
            assert!(may_be_alias(link, target), "{link} {target}");
        }
        for (link, target) in [
            ("a.service", "b.socket"),
            ("a.service", "b@.service"),
            ("a@.service", "b.service"),
            ("a@.service", "b@1.service"),
            ("a@1.service", "b@2.service"),
        ] {
            assert!(!may_be_alias(link, target), "{link} {target}");
        }
    }
}
