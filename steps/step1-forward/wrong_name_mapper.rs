//! Wrong answers to the fifth exercise of chapter 1.

use crate::contracts::NameMapper;

/// `replace` also changes the middle of a name: `submodule.` becomes `sub`.
pub struct ReplacesAnywhere;

impl NameMapper for ReplacesAnywhere {
    fn map(&self, name: &str) -> Option<String> {
        let name = name.replace("module.", "").replace("_orig_mod.", "").replace(".gamma", ".weight");
        (!name.starts_with("v_head.")).then_some(name)
    }
}

/// Looks for the critic's head while the name still wears its wrappers.
pub struct DropsBeforeUnwrapping;

impl NameMapper for DropsBeforeUnwrapping {
    fn map(&self, name: &str) -> Option<String> {
        if name.starts_with("v_head.") {
            return None;
        }
        let name = name.strip_prefix("module.").unwrap_or(name).replace("_orig_mod.", "");
        Some(name.strip_suffix(".gamma").map_or(name.clone(), |rest| format!("{rest}.weight")))
    }
}
