//! Specifiers of systemd.unit(5), those that depend on nothing but the unit's name.

use super::Unit;

/// Why a value with specifiers has no meaning here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecifierError {
    /// One that needs more than the name.
    #[error("the specifier %{0} is not available here: use %n, %N, %p, %i, and %% for a percent sign")]
    Unknown(char),
    /// A `%` at the end.
    #[error("the value ends with a single %: write %% for a percent sign")]
    Unfinished,
}

impl Unit {
    /// Replaces `%n` (name), `%N` (name without its suffix), `%p` (what is before the `@`), `%i` (what is
    /// behind it, empty where there is none) and `%%`.
    pub fn expand(&self, value: &str) -> Result<String, SpecifierError> {
        let stem = self.name.stem();
        let (prefix, instance) = stem.split_once('@').unwrap_or((stem, ""));
        let mut expanded = String::with_capacity(value.len());
        let mut characters = value.chars();
        while let Some(c) = characters.next() {
            if c != '%' {
                expanded.push(c);
                continue;
            }
            match characters.next() {
                Some('%') => expanded.push('%'),
                Some('n') => expanded.push_str(self.name.as_str()),
                Some('N') => expanded.push_str(stem),
                Some('p') => expanded.push_str(prefix),
                Some('i') => expanded.push_str(instance),
                Some(other) => return Err(SpecifierError::Unknown(other)),
                None => return Err(SpecifierError::Unfinished),
            }
        }
        Ok(expanded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::UnitName;

    fn unit(name: &str) -> Unit {
        Unit { name: UnitName::try_from(name).unwrap(), enabled: false, settings: Vec::new() }
    }

    #[test]
    fn specifiers_are_those_of_the_name() {
        let expand = |name, value| unit(name).expand(value);
        assert_eq!(expand("web@1.service", "%n %N %p %i %%").unwrap(), "web@1.service web@1 web 1 %");
        assert_eq!(expand("a-b.service", "%n %N %p %i.").unwrap(), "a-b.service a-b a-b .");
        assert_eq!(expand("a.service", "%H"), Err(SpecifierError::Unknown('H')));
        assert_eq!(expand("a.service", "5%"), Err(SpecifierError::Unfinished));
    }
}
