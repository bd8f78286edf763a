//! The contract of step 9's pickle: a machine that can build dicts, and the step of it that must refuse everything else.

/// What stands on the stack of a [`Machine`].
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Where a tuple or the items of a dict begin.
    Mark,
    Text(String),
    Int(i64),
    Tuple(Vec<Value>),
    /// Keys and values.
    Dict(Vec<(Value, Value)>),
    /// The one name that this machine knows, `collections.OrderedDict`.
    OrderedDict,
}

/// A pickle that runs. It follows the opcodes that only build values; all others come to the reader's step.
pub struct Machine<'a> {
    pickle: &'a [u8],
    at: usize,
    pub stack: Vec<Value>,
}

/// Follows one opcode that the machine does not know, or says why it is refused: the error of a GLOBAL names `module.name`, that of another opcode has the opcode
/// as `0x93`.
pub type Step = fn(machine: &mut Machine, opcode: u8) -> Result<(), String>;

impl<'a> Machine<'a> {
    /// The next bytes up to a newline, without it.
    ///
    /// # Errors
    /// If there is none, or the bytes are no UTF-8.
    pub fn line(&mut self) -> Result<&'a str, String> {
        let rest = &self.pickle[self.at..];
        let length = rest.iter().position(|byte| *byte == b'\n').ok_or("a line without an end")?;
        self.at += length + 1;
        str::from_utf8(&rest[..length]).map_err(|_| "a line that is not UTF-8".into())
    }

    /// Takes the value on the top of the stack.
    ///
    /// # Errors
    /// If there is none.
    pub fn pop(&mut self) -> Result<Value, String> {
        self.stack.pop().filter(|value| *value != Value::Mark).ok_or("too little on the stack".into())
    }

    fn bytes(&mut self, length: usize) -> Result<&'a [u8], String> {
        let bytes = self.pickle[self.at..].get(..length).ok_or("a pickle that is cut off")?;
        self.at += length;
        Ok(bytes)
    }

    fn above_mark(&mut self) -> Result<Vec<Value>, String> {
        let mark =
            self.stack.iter().rposition(|value| *value == Value::Mark).ok_or("no mark on the stack")?;
        let values = self.stack.split_off(mark + 1);
        self.stack.pop();
        Ok(values)
    }

    fn run(pickle: &'a [u8], step: Step) -> Result<Value, String> {
        let mut machine = Machine { pickle, at: 0, stack: Vec::new() };
        loop {
            let opcode = machine.bytes(1)?[0];
            match opcode {
                b'\x80' => _ = machine.bytes(1)?,
                b'(' => machine.stack.push(Value::Mark),
                b'}' => machine.stack.push(Value::Dict(Vec::new())),
                b')' => machine.stack.push(Value::Tuple(Vec::new())),
                b'K' => {
                    let int = machine.bytes(1)?[0];
                    machine.stack.push(Value::Int(int.into()));
                }
                b'X' => {
                    let length = machine.bytes(4)?.try_into().expect("4 bytes");
                    let text = machine.bytes(u32::from_le_bytes(length) as usize)?;
                    machine.stack.push(Value::Text(String::from_utf8_lossy(text).into()));
                }
                b't' => {
                    let values = machine.above_mark()?;
                    machine.stack.push(Value::Tuple(values));
                }
                b's' => {
                    let (value, key) = (machine.pop()?, machine.pop()?);
                    let Some(Value::Dict(items)) = machine.stack.last_mut() else {
                        return Err("no dict".into());
                    };
                    items.push((key, value));
                }
                b'.' => return machine.pop(),
                other => step(&mut machine, other)?,
            }
        }
    }
}

/// A text as an opcode.
fn text(text: &str) -> Vec<u8> {
    [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat()
}

/// `module.name`, called with the text `echo`.
fn called(module: &str, name: &str) -> Vec<u8> {
    [format!("\x02c{module}\n{name}\n(").into_bytes(), text("echo"), b"tR.".to_vec()].concat()
}

/// Pickles that must be refused: what they try, their bytes, what the error must say, and the mistake that each shows.
fn hostile() -> Vec<(&'static str, Vec<u8>, &'static str, &'static str)> {
    let bare = |module: &str, name: &str| format!("c{module}\n{name}\n.").into_bytes();
    let after_two = |opcode: u8| [text("os"), text("system"), vec![opcode, b'.']].concat();
    let call = |module: &str, name: &str| called(module, name)[1..].to_vec();
    vec![
        (
            "os.system is called",
            call("os", "system"),
            "os.system",
            "did you compare the name before you pushed it?",
        ),
        (
            "builtins.eval is called",
            call("builtins", "eval"),
            "builtins.eval",
            "did you list what is forbidden? List what is needed, and refuse all else",
        ),
        (
            "runpy._run_code is called",
            call("runpy", "_run_code"),
            "runpy._run_code",
            "did you list what is forbidden? List what is needed, and refuse all else",
        ),
        (
            "os.system is imported and never called",
            bare("os", "system"),
            "os.system",
            "did you wait for the call? An import alone runs a module's code",
        ),
        (
            "collections.namedtuple is called",
            call("collections", "namedtuple"),
            "collections.namedtuple",
            "did you compare the module only?",
        ),
        (
            "evil.OrderedDict is called",
            call("evil", "OrderedDict"),
            "evil.OrderedDict",
            "did you compare the name only?",
        ),
        (
            "collections.OrderedDict.fromkeys is called",
            call("collections", "OrderedDict.fromkeys"),
            "OrderedDict.fromkeys",
            "did you compare the beginning of the name only?",
        ),
        (
            "a dict is made with arguments",
            call("collections", "OrderedDict"),
            "",
            "did you look at the arguments of the call?",
        ),
        (
            "a text is called",
            [text("system"), b")R.".to_vec()].concat(),
            "",
            "did you look at what is called?",
        ),
        (
            "a call without arguments",
            b"ccollections\nOrderedDict\nR.".to_vec(),
            "",
            "did you look at what is called, and at the arguments?",
        ),
        (
            "STACK_GLOBAL takes a name from the stack",
            after_two(0x93),
            "0x93",
            "did you skip an opcode that you don't know? What follows is then something else",
        ),
        (
            "INST imports and calls at once",
            b"(ios\nsystem\n.".to_vec(),
            "0x69",
            "did you skip an opcode that you don't know? What follows is then something else",
        ),
        (
            "OBJ calls a class",
            b"(ccollections\nOrderedDict\no.".to_vec(),
            "0x6f",
            "did you skip an opcode that you don't know? What follows is then something else",
        ),
        (
            "NEWOBJ makes an object",
            b"ccollections\nOrderedDict\n)\x81.".to_vec(),
            "0x81",
            "did you skip an opcode that you don't know? What follows is then something else",
        ),
        (
            "BUILD sets an object's state",
            b"ccollections\nOrderedDict\n}b.".to_vec(),
            "0x62",
            "did you skip an opcode that you don't know? What follows is then something else",
        ),
        (
            "EXT1 takes a name from a registry",
            b"\x82\x01.".to_vec(),
            "0x82",
            "did you skip an opcode that you don't know? What follows is then something else",
        ),
    ]
}

/// A machine with the reader's step builds dicts, and refuses all else.
///
/// # Panics
/// If it does not.
#[track_caller]
pub fn pickle(step: Step) {
    let head = b"\x80\x02ccollections\nOrderedDict\n)R";
    let dict = [&head[..], &text("lm_head.bits"), b"K\x04s."].concat();
    let want = Value::Dict(vec![(Value::Text("lm_head.bits".into()), Value::Int(4))]);
    match Machine::run(&dict, step) {
        Ok(got) => assert!(got == want, "a pickle of an OrderedDict makes {got:?}, expected {want:?}"),
        Err(why) => panic!("a pickle of an OrderedDict is refused: {why}: it is what every state dict is"),
    }
    for (what, pickle, says, hint) in hostile() {
        match Machine::run(&pickle, step) {
            Ok(value) => panic!("{what}, and the pickle makes {value:?}: {hint}"),
            Err(why) => assert!(
                why.contains(says),
                "{what}: the error is '{why}', which does not say '{says}': {hint}"
            ),
        }
    }
    for opcode in 0..=u8::MAX {
        let known = b"\x80(})KXts.cR".contains(&opcode);
        if !known && let Ok(value) = Machine::run(&[b'}', opcode, b'.'], step) {
            panic!(
                "the opcode {opcode:#04x} is followed, and the pickle makes {value:?}: did you refuse all that no dict needs?"
            );
        }
    }
}
