//! Templates as instructions that call Python's operators.
//!
//! minijinja compiles `a + b` to one instruction, whose meaning is minijinja's. Here each such instruction is replaced by the call of
//! a function of ours (`operators.rs`), before the template runs. What a tag prints goes through the formatter of the
//! environment; so do the texts outside of tags, so that all output is counted.

use minijinja::machinery::{CompiledTemplate, Instruction, Instructions, TemplateConfig};
use minijinja::{Error, Value};

use super::source::Source;

/// The name under which a macro that takes any arguments is called.
pub(super) fn macro_call(name: &str) -> String {
    format!("macro {name}")
}

/// # Errors
/// What is wrong in the template.
pub(super) fn compile<'a>(
    source: &'a Source,
    calls: &'a [String],
    config: &TemplateConfig,
) -> Result<CompiledTemplate<'a>, Error> {
    let mut template = CompiledTemplate::new("template", &source.text, config)?;
    template.instructions = rewrite(&template.instructions, calls);
    for code in template.blocks.values_mut() {
        *code = rewrite(code, calls);
    }
    Ok(template)
}

fn rewrite<'a>(code: &Instructions<'a>, calls: &'a [String]) -> Instructions<'a> {
    let mut starts = Vec::new();
    let mut new = Vec::new();
    for at in 0.. {
        starts.push(new.len() as u32);
        let Some(instruction) = code.get(at) else { break };
        let line = code.get_line(at).unwrap_or_default() as u16;
        let mut add = |instruction| new.push((instruction, line));
        replace(instruction, calls, &mut add);
    }
    let mut out = Instructions::new(code.name(), code.source());
    for (mut instruction, line) in new {
        match &mut instruction {
            Instruction::Iterate(to)
            | Instruction::Jump(to)
            | Instruction::JumpIfFalse(to)
            | Instruction::JumpIfFalseOrPop(to)
            | Instruction::JumpIfTrueOrPop(to)
            | Instruction::BuildMacro(_, to, _) => *to = starts[*to as usize],
            _ => (),
        }
        out.add_with_line(instruction, line);
    }
    out
}

/// The instructions that stand for one.
fn replace<'a>(old: &Instruction<'a>, calls: &'a [String], add: &mut impl FnMut(Instruction<'a>)) {
    use Instruction as I;
    let call = |name, arguments: usize| I::CallFunction(name, u16::try_from(arguments).ok());
    match old {
        I::Add => add(call("+", 2)),
        I::Sub => add(call("-", 2)),
        I::Mul => add(call("*", 2)),
        I::Div => add(call("/", 2)),
        I::IntDiv => add(call("//", 2)),
        I::Rem => add(call("%", 2)),
        I::Pow => add(call("**", 2)),
        I::Neg => add(call("-", 1)),
        I::Eq => add(call("==", 2)),
        I::Ne => add(call("!=", 2)),
        I::Gt => add(call(">", 2)),
        I::Gte => add(call(">=", 2)),
        I::Lt => add(call("<", 2)),
        I::Lte => add(call("<=", 2)),
        I::In => add(call("in", 2)),
        I::StringConcat => add(call("~", 2)),
        I::Slice => add(call("[:]", 4)),
        I::GetItem => add(call("[]", 2)),
        I::GetAttr(name) => {
            add(I::LoadConst(Value::from(*name)));
            add(call(".", 2));
        }
        // `a < b < c` keeps b: the function gives (a < b, b).
        I::CompareAndPreserve(operator) => {
            add(I::LoadConst(Value::from(*operator as u8)));
            add(call("chain", 3));
            add(I::UnpackList(2));
        }
        I::BuildList(Some(n)) if *n <= usize::from(u16::MAX) => add(call("list of", *n)),
        I::BuildTuple(Some(n)) if *n <= usize::from(u16::MAX) => add(call("tuple of", *n)),
        I::BuildMap(n) if *n <= usize::from(u16::MAX / 2) => add(call("mapping of", 2 * n)),
        I::PushLoop(_) | I::UnpackList(_) => {
            add(call("iter", 1));
            add(old.clone());
        }
        I::EmitRaw(text) => {
            add(I::LoadConst(Value::from(*text)));
            add(I::Emit);
        }
        I::CallFunction(name, arguments) => {
            let instead = calls.iter().find(|call| **call == macro_call(name));
            add(I::CallFunction(instead.map_or(*name, String::as_str), *arguments));
        }
        other => add(other.clone()),
    }
}
