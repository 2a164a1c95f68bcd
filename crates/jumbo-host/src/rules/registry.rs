//! All rules, in the order of the report.

use super::Rule;

/// Every rule, by family.
pub fn all() -> impl Iterator<Item = &'static Rule> {
    super::FAMILIES.iter().flat_map(|family| family.iter())
}

/// The rule with this id, in any case.
pub fn by_id(id: &str) -> Option<&'static Rule> {
    all().find(|rule| rule.id.eq_ignore_ascii_case(id))
}
