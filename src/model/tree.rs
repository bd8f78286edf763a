//! The module tree as `print(model)` shows it in Hugging Face transformers: what a [`Builder`] notes while it makes a model.

use super::{Builder, Part, family};
use crate::{backend::cpu::Cpu, config::ModelConfig};
use std::{cell::RefCell, fmt::Write};

/// The modules that a builder made, each before its children.
pub(super) type Modules = RefCell<Vec<Module>>;

/// One line of the tree.
pub(super) struct Module {
    /// Modules above it; 1 for a child of the root.
    pub depth: usize,
    pub name: String,
    /// Its class, and what a module without children prints behind it.
    pub label: String,
}

/// The text of `print(model)`, without a newline at the end. Builds an unloaded model of one layer on the CPU, so it takes no memory for
/// weights.
///
/// # Panics
/// Never: an unloaded model on the CPU allocates no weight, and nothing else of it can fail.
pub fn module_tree(config: &ModelConfig) -> String {
    let (backend, modules, part) = (Cpu::default(), Modules::default(), Part::whole(config));
    let root = Builder { modules: Some(&modules), ..Builder::root(&backend, config, &part) };
    family(&root, config.context()).expect("nothing is allocated");
    print(config.architecture.class_name(), &modules.borrow())
}

fn print(root: &str, modules: &[Module]) -> String {
    let mut text = format!("{root}(\n");
    for (i, Module { depth, name, label }) in modules.iter().enumerate() {
        let next = modules.get(i + 1).map_or(0, |module| module.depth);
        let opens = if next > *depth { "(" } else { "" };
        let _ = writeln!(text, "{:width$}({name}): {label}{opens}", "", width = 2 * depth);
        for closed in (next..*depth).rev() {
            let _ = writeln!(text, "{:width$})", "", width = 2 * closed);
        }
    }
    text.truncate(text.trim_end().len());
    text
}

/// As Python prints a float: 1e-06, 0.01.
pub(super) fn python_float(x: f32) -> String {
    if x != 0.0 && x < 1e-4 {
        let text = format!("{x:e}");
        let (mantissa, exponent) = text.split_once("e-").unwrap_or((&text, "0"));
        format!("{mantissa}e-{exponent:0>2}")
    } else {
        format!("{x:?}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_print_as_in_python() {
        for (x, want) in
            [(1e-6, "1e-06"), (1e-5, "1e-05"), (0.01, "0.01"), (1.5e-5, "1.5e-05"), (1e-12, "1e-12")]
        {
            assert_eq!(python_float(x), want);
        }
    }
}
