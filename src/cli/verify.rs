//! `stairwell verify`: module by module against Hugging Face's outputs.

use super::logits::PassArgs;
use super::terminal::{colours, json_line, print, print_note, styled, table};
use serde::{Serialize, Serializer};
use stairwell::checkpoint::{Header, TensorInfo};
use stairwell::error::{Error, Result};
use stairwell::files;
use stairwell::tensor::{Bytes, DType, HostTensor, Owner};
use std::path::{Path, PathBuf};
use std::{collections::BTreeMap, io, process::ExitCode, sync::Arc};

/// Compare every module's output with Hugging Face's and name the first that differs
#[derive(clap::Args)]
#[command(after_help = "\
The reference is made with scripts/dump_hf_reference.py, which needs torch and transformers:
  python scripts/dump_hf_reference.py --model DIR --prompt-ids 5,17,3 --out reference.safetensors
  stairwell verify --model DIR --reference reference.safetensors

An element agrees if |ours − reference| ≤ atol + rtol · |reference| + old. `old` is what rounding may have left of larger values, since
some models carry a value of thousands in a token's residual stream for many layers and then cancel it. For the stream, `old` is rtol/2 of
the largest value that this token has carried. For other modules it is rtol/2 of the row's largest value, times the value that was carried
over the stream's root mean square.
The exit code is 1 if a module differs.")]
pub struct Args {
    #[command(flatten)]
    pass: PassArgs,
    #[command(flatten)]
    expected: Expected,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What the outputs must be.
#[derive(clap::Args)]
struct Expected {
    /// File of scripts/dump_hf_reference.py
    #[arg(long, value_name = "FILE")]
    reference: PathBuf,
    /// Absolute tolerance
    #[arg(long, default_value_t = 1e-4, value_parser = tolerance)]
    atol: f64,
    /// Relative tolerance
    #[arg(long, default_value_t = 1e-5, value_parser = tolerance)]
    rtol: f64,
}

fn tolerance(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| format!("'{text}' is no number"))?;
    if value >= 0.0 { Ok(value) } else { Err(format!("{text} is not 0 or above")) }
}

/// All modules against the reference.
#[derive(Serialize)]
struct Report {
    agrees: bool,
    first_difference: Option<String>,
    atol: f64,
    rtol: f64,
    modules: Vec<Comparison>,
}

/// One module against the reference.
#[derive(Serialize)]
struct Comparison {
    name: String,
    shape: Vec<usize>,
    agrees: bool,
    #[serde(serialize_with = "finite")]
    largest_error: f64,
    /// Of the largest error, or of the largest that is too large, as is `column`.
    token: usize,
    column: usize,
}

/// What each token's residual stream has carried so far, in the reference.
///
/// A residual stream that held 20,000 is rounded to multiples of 2^-9, and keeps that error when another layer takes the 20,000 away.
#[derive(Default)]
struct Carried {
    /// The stream, a row for each token: what the modules added up to.
    stream: Vec<Vec<f64>>,
    /// The largest absolute value that each row has held.
    largest: Vec<f64>,
}

/// Rounding that is old, in parts of rtol. On SmolLM2-135M ours and transformers' in f32 are up to a seventh apart.
const OLD: f64 = 0.5;

/// JSON has no NaN.
fn finite<S: Serializer>(error: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    if error.is_finite() { serializer.serialize_f64(*error) } else { serializer.serialize_str("nan") }
}

pub fn run(args: Args) -> Result<ExitCode> {
    let expected = args.expected;
    let reference = read(&expected.reference)?;
    let prompt = prompt_ids(&reference, &expected.reference)?;
    let outputs = args.pass.outputs(&prompt, true)?;
    let mut carried = Carried::default();
    let compare = |(name, ours)| Some(expected.compare(&mut carried, name, ours, reference.get(name)?));
    let compared = outputs.iter().map(|(name, ours)| (&name[..], ours)).filter_map(compare);
    let modules = compared.collect::<Result<Vec<_>>>()?;
    if modules.is_empty() {
        return Err(bad_reference(&expected.reference, "it holds no module of this model"));
    }
    let seen = |name: &str| name.ends_with("_ids") || modules.iter().any(|c| c.name == name);
    let unseen: Vec<&str> = reference.keys().map(String::as_str).filter(|name| !seen(name)).collect();
    if !unseen.is_empty() {
        print_note(&format!("not compared, since this model shows no such module: {}", unseen.join(", ")));
    }
    let first_difference = modules.iter().find(|c| !c.agrees).map(|c| c.name.clone());
    let (agrees, atol, rtol) = (first_difference.is_none(), expected.atol, expected.rtol);
    let report = Report { agrees, first_difference, atol, rtol, modules };
    print(&if args.json { json_line(&report) } else { report.text() })?;
    Ok(if agrees { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Reads a whole safetensors file, checked like a shard.
fn read(path: &Path) -> Result<BTreeMap<String, HostTensor>> {
    let file = files::read_input(path)?;
    let header = Header::parse(&file, path)?;
    let owner: Owner = Arc::new(file);
    let view = |(name, info): (String, TensorInfo)| {
        let data = Bytes::new(owner.clone(), info.range);
        (name, HostTensor { dtype: info.dtype, shape: info.shape, data })
    };
    Ok(header.tensors.into_iter().map(view).collect())
}

fn bad_reference(path: &Path, reason: &str) -> Error {
    let path = path.display();
    Error::Usage(format!("--reference {path}: {reason}; make it with scripts/dump_hf_reference.py"))
}

fn prompt_ids(reference: &BTreeMap<String, HostTensor>, path: &Path) -> Result<Vec<u32>> {
    let tensor = reference.get("prompt_ids").filter(|t| t.dtype == DType::I64);
    let tensor = tensor.ok_or_else(|| bad_reference(path, "it has no tensor 'prompt_ids' of dtype I64"))?;
    let (ids, _) = tensor.data.as_chunks::<8>();
    let id = |bytes: &[u8; 8]| u32::try_from(i64::from_le_bytes(*bytes)).ok();
    let ids: Option<Vec<u32>> = ids.iter().map(id).collect();
    ids.ok_or_else(|| bad_reference(path, "'prompt_ids' holds a number that is no token id"))
}

impl Carried {
    /// Takes in a module's output, if it is the residual stream or is added to it.
    fn take(&mut self, name: &str, rows: Vec<Vec<f64>>) {
        if is_layer(name) || self.stream.is_empty() {
            self.stream = rows;
        } else if ["wpe", "self_attn", "attn", "mlp"].contains(&last_part(name)) {
            let pairs = self.stream.iter_mut().flatten().zip(rows.iter().flatten());
            pairs.for_each(|(sum, x)| *sum += x);
        }
        self.largest.resize(self.stream.len(), 0.0);
        for (carried, row) in self.largest.iter_mut().zip(&self.stream) {
            *carried = carried.max(largest(row));
        }
    }

    /// The magnitude whose rounding may show in a token's row: what was carried, if the row is the residual stream itself; else the
    /// row's own, as many times as what was carried is larger than the stream, since a norm divides by that.
    fn magnitude(&self, name: &str, token: usize, row: &[f64]) -> f64 {
        let (Some(carried), Some(stream)) = (self.largest.get(token), self.stream.get(token)) else {
            return 0.0;
        };
        if is_layer(name) {
            return *carried;
        }
        let mean_square = stream.iter().map(|x| x * x).sum::<f64>() / stream.len() as f64;
        largest(row) * carried / mean_square.sqrt().max(f64::MIN_POSITIVE)
    }
}

fn last_part(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

/// Whether a module is a whole layer, such as model.layers.3, whose output is the residual stream.
fn is_layer(name: &str) -> bool {
    last_part(name).parse::<usize>().is_ok()
}

/// The largest absolute value.
fn largest(row: &[f64]) -> f64 {
    row.iter().fold(0.0, |largest, x| x.abs().max(largest))
}

impl Expected {
    fn compare(
        &self,
        carried: &mut Carried,
        name: &str,
        ours: &HostTensor,
        theirs: &HostTensor,
    ) -> Result<Comparison> {
        if theirs.shape != ours.shape || !theirs.dtype.is_weight() {
            let reason = format!("'{name}' is {theirs:?}, and this model gives F32 {:?}", ours.shape);
            return Err(bad_reference(&self.reference, &reason));
        }
        let width = ours.shape.last().copied().unwrap_or(1).max(1);
        let rows = |tensor: &HostTensor| -> Vec<Vec<f64>> {
            tensor.to_f32().chunks(width).map(|row| row.iter().map(|x| f64::from(*x)).collect()).collect()
        };
        let (ours_rows, their_rows) = (rows(ours), rows(theirs));
        let (mut largest_error, mut at, mut agrees) = (0.0, (0, 0), true);
        for (token, (ours, theirs)) in ours_rows.iter().zip(&their_rows).enumerate() {
            let old = OLD * self.rtol * carried.magnitude(name, token, theirs);
            for (column, (a, b)) in ours.iter().zip(theirs).enumerate() {
                let error = (a - b).abs();
                // A NaN agrees with nothing.
                let fits = error <= self.atol + self.rtol * b.abs() + old;
                // The largest of the errors that are too large, if any is.
                let larger = error > largest_error || error.is_nan() && !f64::is_nan(largest_error);
                if agrees && !fits || agrees == fits && larger {
                    (largest_error, at) = (error, (token, column));
                }
                agrees &= fits;
            }
        }
        carried.take(name, their_rows);
        let (name, shape, (token, column)) = (name.into(), ours.shape.clone(), at);
        Ok(Comparison { name, shape, agrees, largest_error, token, column })
    }
}

impl Report {
    /// The report as a person reads it.
    fn text(&self) -> String {
        let Report { modules, atol, rtol, .. } = self;
        let colour = colours(&io::stdout());
        let row = |c: &Comparison| {
            let verdict =
                if c.agrees { styled("ok", "32", colour) } else { styled("DIFFERS", "1;31", colour) };
            let (shape, error) = (format!("{:?}", c.shape), format!("{:.2e}", c.largest_error));
            [(&c.name).into(), shape.into(), error.into(), verdict.into()]
        };
        let verdict = match modules.iter().find(|c| !c.agrees) {
            None => format!("all {} modules agree (atol {atol}, rtol {rtol})\n", modules.len()),
            Some(Comparison { name, largest_error, token, column, .. }) => format!(
                "the first module that differs is {name}: its largest error is {largest_error:.2e}, at token {token}, column \
                 {column}\n"
            ),
        };
        table(["module", ">shape", ">largest error", ""], modules.iter().map(row)) + &verdict
    }
}
