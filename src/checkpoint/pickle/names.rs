//! The names that pickles may say, and those that are only shown.

use crate::tensor::DType;

/// The names that a state dict needs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Global {
    OrderedDict,
    /// `_rebuild_tensor`, and its versions 2 and 3.
    RebuildTensor(u8),
    RebuildParameter,
    /// A class of storages, with the type of its numbers; bytes have none.
    Storage(Option<DType>),
    DType(DType),
}

impl Global {
    // ANCHOR: called
    /// The whole list. A name that is not here is refused.
    pub(super) fn called(module: &str, name: &str) -> Option<Global> {
        let rebuild = Global::RebuildTensor;
        Some(match (module, name) {
            ("collections", "OrderedDict") => Global::OrderedDict,
            ("torch._utils", "_rebuild_tensor") => rebuild(1),
            ("torch._utils", "_rebuild_tensor_v2") => rebuild(2),
            ("torch._utils", "_rebuild_tensor_v3") => rebuild(3),
            ("torch._utils", "_rebuild_parameter") => Global::RebuildParameter,
            ("torch.storage", "UntypedStorage") => Global::Storage(None),
            ("torch", name) => match name.strip_suffix("Storage") {
                Some(class) => Global::Storage(Some(dtype_of_class(class)?)),
                None => Global::DType(dtype_called(name)?),
            },
            _ => return None,
        })
    }
    // ANCHOR_END: called
}

/// What the classes `torch.FloatStorage` and so on hold.
fn dtype_of_class(class: &str) -> Option<DType> {
    Some(match class {
        "Float" => DType::F32,
        "Half" => DType::F16,
        "BFloat16" => DType::BF16,
        "Double" => DType::F64,
        "Int" => DType::I32,
        "Long" => DType::I64,
        "Short" => DType::I16,
        "Char" => DType::I8,
        "Byte" => DType::U8,
        "Bool" => DType::BOOL,
        _ => return None,
    })
}

/// What `torch.float32` and so on are. Tensors of types that have no class of storages name them.
fn dtype_called(name: &str) -> Option<DType> {
    Some(match name {
        "float32" => DType::F32,
        "float16" => DType::F16,
        "bfloat16" => DType::BF16,
        "float64" => DType::F64,
        "float8_e4m3fn" => DType::F8_E4M3,
        "float8_e5m2" => DType::F8_E5M2,
        "float8_e8m0fnu" => DType::F8_E8M0,
        "int64" => DType::I64,
        "int32" => DType::I32,
        "int16" => DType::I16,
        "int8" => DType::I8,
        "uint64" => DType::U64,
        "uint32" => DType::U32,
        "uint16" => DType::U16,
        "uint8" => DType::U8,
        "bool" => DType::BOOL,
        _ => return None,
    })
}

/// Names of opcodes that are refused, for messages.
pub(super) fn opcode_name(opcode: u8) -> Option<&'static str> {
    Some(match opcode {
        b'i' => "INST",
        b'o' => "OBJ",
        b'\x81' => "NEWOBJ",
        b'\x92' => "NEWOBJ_EX",
        b'\x93' => "STACK_GLOBAL",
        b'\x82' => "EXT1",
        b'\x83' => "EXT2",
        b'\x84' => "EXT4",
        b'P' => "PERSID",
        b'0' => "POP",
        b'1' => "POP_MARK",
        b'2' => "DUP",
        b'l' => "LIST",
        b'd' => "DICT",
        b'p' => "PUT",
        b'g' => "GET",
        b'I' => "INT",
        b'L' => "LONG",
        b'F' => "FLOAT",
        b'S' => "STRING",
        b'V' => "UNICODE",
        b'T' => "BINSTRING",
        b'U' => "SHORT_BINSTRING",
        b'B' => "BINBYTES",
        b'C' => "SHORT_BINBYTES",
        b'\x8b' => "LONG4",
        b'\x8c' => "SHORT_BINUNICODE",
        b'\x8d' => "BINUNICODE8",
        b'\x8e' => "BINBYTES8",
        b'\x8f' => "EMPTY_SET",
        b'\x90' => "ADDITEMS",
        b'\x91' => "FROZENSET",
        b'\x94' => "MEMOIZE",
        b'\x95' => "FRAME",
        b'\x96' => "BYTEARRAY8",
        _ => return None,
    })
}
