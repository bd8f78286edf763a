//! What config.json, or a file beside it, says of packed weights.
//!
//! `quantization_config` of config.json; `quantize_config.json` (AutoGPTQ), `quant_config.json` (llm-awq, SqueezeLLM) where config.json has
//! none. Which of a model's matrices are packed is told by their tensors, so lists of modules that are not are ignored.

use crate::config::{ConfigError, Fields};
use crate::{checkpoint::Directory, json};
use fancy_regex::Regex;
use serde_json::{Map, Value};
use std::path::Path;

type Result<T, E = ConfigError> = std::result::Result<T, E>;

/// How weights are packed.
#[derive(Clone, Debug, PartialEq)]
pub enum Quantization {
    /// GPTQ, and auto-round in its layout.
    Gptq(GptqConfig),
    /// AWQ, and auto-round in its layout.
    Awq { group_size: Option<usize>, version: super::AwqVersion },
    /// SqueezeLLM.
    SqueezeLlm { bits: usize },
    /// e4m3 with scales per tensor or per block.
    Fp8 { block: Option<[usize; 2]> },
    /// compressed-tensors.
    CompressedTensors(Vec<Scheme>),
    /// bitsandbytes.
    BitsAndBytes,
}

/// GPTQ's fields.
#[derive(Clone, Debug, PartialEq)]
pub struct GptqConfig {
    pub bits: usize,
    /// `None`: all inputs are one group.
    pub group_size: Option<usize>,
    /// Stored zeros are as they are, and not one less.
    pub v2: bool,
    /// Modules with fields of their own, by a pattern of their names; the first that matches counts.
    pub dynamic: Vec<(String, Option<usize>, Option<Option<usize>>)>,
}

/// Weights of one of compressed-tensors' groups.
#[derive(Clone, Debug, PartialEq)]
pub struct Scheme {
    /// A class (`Linear`), a module's name, or `re:` and a pattern.
    pub targets: Vec<String>,
    pub bits: usize,
    /// `None`: one scale an output, or one for all.
    pub group_size: Option<usize>,
    /// Outputs and inputs that share a scale.
    pub block: Option<[usize; 2]>,
}

/// Methods that are known and not read, with what to use instead.
const REFUSED: &str = "mxfp4 nvfp4 modelopt fbgemm_fp8 torchao hqq aqlm vptq eetq quanto bitnet spqr higgs quark exl2 exl3 fp_quant \
    ipex marlin gptq_marlin awq_marlin bitblas qqq deepspeedfp tpu_int8 experts_int8 modelopt_fp4";

impl Quantization {
    /// Reads `quantization_config`, or `compression_config` as it was called.
    pub(crate) fn of(fields: Fields) -> Result<Option<Quantization>> {
        let new = fields.object("quantization_config", "quantization_config.")?;
        let old = || fields.object("compression_config", "compression_config.");
        let Some(q) = new.map_or_else(old, |q| Ok(Some(q)))? else { return Ok(None) };
        Quantization::read(q, "").map(Some)
    }

    /// Reads `quantize_config.json` or `quant_config.json` of a directory, if there is one.
    ///
    /// # Errors
    /// A file that can't be read; [`ConfigError`], naming the file and the field.
    pub fn beside(directory: &Directory) -> crate::error::Result<Option<Quantization>> {
        for file in ["quantize_config.json", "quant_config.json"] {
            if let Some(json) = directory.read(file)? {
                return Ok(Some(Quantization::parse(&json, &directory.path(file))?));
            }
        }
        Ok(None)
    }

    fn parse(json: &[u8], path: &Path) -> Result<Quantization> {
        let object = json::object(json).map_err(|reason| ConfigError::Json { path: path.into(), reason })?;
        Quantization::read(Fields::new(&object, path), guess(&object))
    }

    /// The method's name, as `--quantization` has it.
    pub fn method(&self) -> &'static str {
        match self {
            Quantization::Gptq(_) => "gptq",
            Quantization::Awq { .. } => "awq",
            Quantization::SqueezeLlm { .. } => "squeezellm",
            Quantization::Fp8 { .. } => "fp8",
            Quantization::CompressedTensors(_) => "compressed-tensors",
            Quantization::BitsAndBytes => "bitsandbytes",
        }
    }

    fn read(q: Fields, guess: &str) -> Result<Quantization> {
        let method = q.text("quant_method")?.or(q.text("method")?).unwrap_or(guess);
        match method {
            "gptq" => gptq(q),
            "awq" => awq(q),
            "auto-round" | "intel/auto-round" => match q
                .text("packing_format")?
                .unwrap_or("auto_round:auto_gptq")
            {
                "auto_round:auto_gptq" | "auto_round:gptq" => gptq(q),
                "auto_round:auto_awq" | "auto_round:awq" => awq(q),
                other => {
                    Err(unsupported(q, "packing_format", other, "auto_round:auto_gptq, auto_round:auto_awq"))
                }
            },
            "squeezellm" => {
                Ok(Quantization::SqueezeLlm { bits: bits(q, q.size("wbits")?.or(q.size("bits")?), &[3, 4])? })
            }
            "fp8" => fp8(q),
            "compressed-tensors" | "compressed_tensors" | "sparseml" => compressed_tensors(q),
            "bitsandbytes" => Ok(Quantization::BitsAndBytes),
            "" => Err(q.error("quant_method", "it is missing")),
            other => {
                let known = REFUSED.split_whitespace().any(|method| method == other);
                let what = if known { "is not supported" } else { "is unknown" };
                let reason = format!(
                    "quantization '{other}' {what}; use the unquantized checkpoint, or one in gptq, awq, squeezellm, fp8, \
                     compressed-tensors, bitsandbytes or GGUF"
                );
                Err(q.error("quant_method", reason))
            }
        }
    }
}

/// What a file without a method is.
fn guess(object: &Map<String, Value>) -> &'static str {
    match () {
        () if object.contains_key("wbits") => "squeezellm",
        () if object.contains_key("w_bit") || object.contains_key("q_group_size") => "awq",
        () if object.contains_key("bits") => "gptq",
        () => "",
    }
}

fn unsupported(q: Fields, field: &str, found: &str, known: &str) -> ConfigError {
    q.error(field, format!("'{found}' is not supported; known: {known}"))
}

fn bits(q: Fields, found: Option<usize>, known: &[usize]) -> Result<usize> {
    let bits = found.ok_or_else(|| q.error("bits", "it is missing"))?;
    let list = || known.iter().map(usize::to_string).collect::<Vec<_>>().join(", ");
    match known.contains(&bits) {
        true => Ok(bits),
        false => Err(q.error("bits", format!("{bits} is not supported; known: {}", list()))),
    }
}

/// −1 and null are one group of all inputs.
fn group_size(q: Fields, field: &str) -> Result<Option<usize>> {
    if q.is_minus_one(field) || q.raw(field).is_none_or(Value::is_null) {
        return Ok(None);
    }
    q.extent(field).map(Some)
}

fn gptq(q: Fields) -> Result<Quantization> {
    let format = q.text("checkpoint_format")?.or(q.text("format")?).unwrap_or("gptq");
    if !matches!(format, "gptq" | "gptq_v2") {
        return Err(unsupported(q, "checkpoint_format", format, "gptq, gptq_v2"));
    }
    if let Some(other) = q.text("pack_dtype")?.filter(|dtype| *dtype != "int32") {
        return Err(unsupported(q, "pack_dtype", other, "int32"));
    }
    let mut dynamic = Vec::new();
    if let Some(rules) = q.raw("dynamic").and_then(Value::as_object) {
        for (pattern, rule) in rules {
            let pattern = pattern.strip_prefix("+:").unwrap_or(pattern);
            let bare = pattern.strip_prefix("-:").unwrap_or(pattern);
            if let Err(error) = Regex::new(bare) {
                return Err(q.error("dynamic", format!("'{bare}' is no pattern: {error}")));
            }
            let number = |field: &str| rule.get(field).and_then(Value::as_i64);
            let own_bits = number("bits").map(|bits| bits as usize);
            let group = number("group_size").map(|size| usize::try_from(size).ok().filter(|size| *size > 0));
            dynamic.push((pattern.to_owned(), own_bits, group));
        }
    }
    Ok(Quantization::Gptq(GptqConfig {
        bits: bits(q, q.size("bits")?, &[2, 3, 4, 8])?,
        group_size: group_size(q, "group_size")?,
        v2: format == "gptq_v2",
        dynamic,
    }))
}

impl GptqConfig {
    /// Bits and group size of a module.
    pub fn of(&self, module: &str) -> (usize, Option<usize>) {
        let matches = |pattern: &str| {
            // From the beginning of the name, as Python's re.match.
            let found = Regex::new(pattern).ok().and_then(|regex| regex.find(module).ok().flatten());
            found.is_some_and(|found| found.start() == 0)
        };
        let rule = self.dynamic.iter().find(|(pattern, ..)| matches(pattern));
        let (bits, group_size) = rule.map_or((None, None), |(_, bits, group_size)| (*bits, *group_size));
        (bits.unwrap_or(self.bits), group_size.unwrap_or(self.group_size))
    }
}

fn awq(q: Fields) -> Result<Quantization> {
    use super::AwqVersion::*;
    bits(q, q.size("bits")?.or(q.size("w_bit")?), &[4])?;
    let version = q.text("version")?.or(q.text("format")?).unwrap_or("gemm").to_lowercase();
    let version = match version.as_str() {
        "gemm" => Gemm,
        "gemv" => Gemv,
        "gemv_fast" => GemvFast,
        other if other.starts_with("auto_round") => Gemm,
        other => return Err(unsupported(q, "version", other, "gemm, gemv, gemv_fast")),
    };
    let field = if q.raw("group_size").is_some() { "group_size" } else { "q_group_size" };
    Ok(Quantization::Awq { group_size: group_size(q, field)?, version })
}

fn fp8(q: Fields) -> Result<Quantization> {
    if let Some(other) = q.text("fmt")?.filter(|fmt| *fmt != "e4m3") {
        return Err(unsupported(q, "fmt", other, "e4m3"));
    }
    Ok(Quantization::Fp8 { block: pair(q, "weight_block_size")? })
}

/// Two sizes.
fn pair(q: Fields, field: &str) -> Result<Option<[usize; 2]>> {
    let Some(list) = q.list(field)? else { return Ok(None) };
    let size = |value: &Value| value.as_u64().filter(|n| (1..1 << 31).contains(n)).map(|n| n as usize);
    let sizes: Option<Vec<usize>> = list.iter().map(size).collect();
    let pair = sizes.and_then(|sizes| <[usize; 2]>::try_from(sizes).ok());
    pair.map(Some).ok_or_else(|| q.error(field, "expected two sizes, outputs and inputs"))
}

fn compressed_tensors(q: Fields) -> Result<Quantization> {
    const READ: [&str; 4] = ["pack-quantized", "int-quantized", "float-quantized", "naive-quantized"];
    let check = |q: Fields, format: Option<&str>| match format {
        Some(format) if !READ.contains(&format) && format != "mixed-precision" => {
            Err(unsupported(q, "format", format, &READ.join(", ")))
        }
        _ => Ok(()),
    };
    check(q, q.text("format")?)?;
    let Some(groups) = q.object("config_groups", "config_groups.")? else {
        return Err(q.error("config_groups", "it is missing"));
    };
    let mut schemes = Vec::new();
    for name in groups.names() {
        let Some(group) = groups.object(name, "config_groups.*.")? else { continue };
        check(group, group.text("format")?)?;
        let Some(weights) = group.object("weights", "config_groups.*.weights.")? else { continue };
        let targets = group.list("targets")?.into_iter().flatten();
        let targets: Vec<String> = targets.filter_map(Value::as_str).map(String::from).collect();
        for pattern in targets.iter().filter_map(|target| target.strip_prefix("re:")) {
            if let Err(error) = Regex::new(pattern) {
                return Err(group.error("targets", format!("'{pattern}' is no pattern: {error}")));
            }
        }
        let strategy = weights.text("strategy")?.unwrap_or("tensor");
        if !["tensor", "channel", "group", "block"].contains(&strategy) {
            return Err(unsupported(weights, "strategy", strategy, "tensor, channel, group, block"));
        }
        schemes.push(Scheme {
            targets,
            bits: bits(weights, weights.size("num_bits")?.or(Some(8)), &[2, 3, 4, 5, 6, 7, 8])?,
            group_size: if strategy == "group" { group_size(weights, "group_size")? } else { None },
            block: if strategy == "block" { pair(weights, "block_structure")? } else { None },
        });
    }
    Ok(Quantization::CompressedTensors(schemes))
}

impl Scheme {
    /// Whether it is that of a module.
    pub fn is_of(&self, module: &str) -> bool {
        self.targets.iter().any(|target| match target.strip_prefix("re:") {
            Some(pattern) => Regex::new(pattern).is_ok_and(|regex| regex.is_match(module).unwrap_or(false)),
            None => target == module || target == "Linear" || module.ends_with(&format!(".{target}")),
        })
    }
}
