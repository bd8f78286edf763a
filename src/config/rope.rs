//! The RoPE part of config.json, in both of its spellings.
//!
//! Until transformers 4: `"rope_theta": 500000.0, "rope_scaling": {"rope_type": "llama3", …}` (or `"type"`, older still).
//! Since transformers 5: `"rope_parameters": {"rope_theta": 500000.0, "rope_type": "llama3", …}`.
//! What the numbers mean is in [`crate::model::rope`]. Names and defaults follow transformers 5.23's
//! `modeling_rope_utils.py`.

use super::{Result, fields::Fields};
use serde_json::Value;

/// Rotary position embedding: base and scaling.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeParameters {
    /// Base θ of the frequencies θ^(−2i/d).
    pub theta: f64,
    /// How frequencies are changed for contexts longer than the trained one.
    pub scaling: RopeScaling,
}

/// `rope_type` with its numbers.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// `default`: frequencies as they are.
    Default,
    /// `linear`: positions divided by `factor`.
    Linear { factor: f64 },
    /// `dynamic` (NTK-aware): the base grows with the request's maximum length.
    Dynamic { factor: f64 },
    /// `yarn`: low frequencies interpolated, high ones kept, a ramp between.
    Yarn(Yarn),
    /// `llama3`: as Llama 3.1 and later do it.
    Llama3 {
        factor: f64,
        low_freq_factor: f64,
        high_freq_factor: f64,
        original_max_position_embeddings: usize,
    },
    /// `factors`: each frequency is divided by a number of its own, [head_dim / 2]. GGUF files hold these instead of `llama3`'s parameters.
    Factors(Vec<f32>),
}

/// Parameters of `yarn`, with transformers' names.
#[derive(Clone, Debug, PartialEq)]
pub struct Yarn {
    pub factor: f64,
    pub original_max_position_embeddings: usize,
    /// Multiplies cos and sin; computed from `factor` if it is not given.
    pub attention_factor: Option<f64>,
    pub mscale: Option<f64>,
    pub mscale_all_dim: Option<f64>,
    pub beta_fast: f64,
    pub beta_slow: f64,
    /// Whether the ramp's ends are rounded to whole dimensions.
    pub truncate: bool,
}

impl RopeParameters {
    /// Reads either spelling. `max_position_embeddings` is the fallback for the original length.
    pub(super) fn read(config: Fields, max_position_embeddings: usize) -> Result<RopeParameters> {
        // A non-empty rope_scaling replaces rope_parameters as a whole, as in transformers.
        let old = config.object("rope_scaling", "rope_scaling.")?;
        let rope = match old {
            Some(_) => old,
            None => config.object("rope_parameters", "rope_parameters.")?,
        };
        let theta_inside = rope.map(|r| r.float("rope_theta")).transpose()?.flatten();
        let theta = theta_inside.or(config.float("rope_theta")?).unwrap_or(10000.0);
        if theta <= 0.0 {
            return Err(config.error("rope_theta", format!("{theta} is not above 0")));
        }
        let partial = |fields: Fields| fields.float("partial_rotary_factor");
        if rope.map(partial).transpose()?.flatten().or(partial(config)?).is_some_and(|f| f != 1.0) {
            return Err(config.error("partial_rotary_factor", "partial rotation is not supported"));
        }
        let scaling = match rope {
            Some(rope) => RopeScaling::read(rope, config, max_position_embeddings)?,
            None => RopeScaling::Default,
        };
        Ok(RopeParameters { theta, scaling })
    }

    /// The longest context that the parameters are made for. The rule is vLLM's (`_get_and_verify_max_len` in
    /// `vllm/config/model.py`): linear and dynamic stretch what config.json says, yarn its original length.
    pub fn context(&self, max_position_embeddings: usize) -> usize {
        let stretch = |length: usize, factor: f64| (length as f64 * factor) as usize;
        match &self.scaling {
            RopeScaling::Default | RopeScaling::Llama3 { .. } | RopeScaling::Factors(_) => {
                max_position_embeddings
            }
            RopeScaling::Linear { factor } | RopeScaling::Dynamic { factor } => {
                stretch(max_position_embeddings, *factor)
            }
            RopeScaling::Yarn(y) => stretch(y.original_max_position_embeddings, y.factor),
        }
    }
}

impl RopeScaling {
    fn read(rope: Fields, config: Fields, max_position: usize) -> Result<RopeScaling> {
        let Some(name) = rope.text("rope_type")?.or(rope.text("type")?) else {
            return match rope.names().find(|name| !["rope_theta", "partial_rotary_factor"].contains(name)) {
                None => Ok(RopeScaling::Default),
                Some(name) => Err(rope.error(
                    "rope_type",
                    format!("it is missing, and '{name}' means something only with one"),
                )),
            };
        };
        let original = || -> Result<usize> {
            let key = "original_max_position_embeddings";
            Ok(config.size(key)?.or(rope.size(key)?).unwrap_or(max_position).max(1))
        };
        Ok(match name {
            "default" => RopeScaling::Default,
            "linear" => RopeScaling::Linear { factor: factor(rope, "factor")? },
            "dynamic" => RopeScaling::Dynamic { factor: factor(rope, "factor")? },
            "llama3" => RopeScaling::Llama3 {
                factor: factor(rope, "factor")?,
                low_freq_factor: factor(rope, "low_freq_factor")?,
                high_freq_factor: factor(rope, "high_freq_factor")?,
                original_max_position_embeddings: original()?,
            },
            "yarn" => {
                let original_max_position_embeddings = original()?;
                let stretched = max_position as f64 / original_max_position_embeddings as f64;
                RopeScaling::Yarn(Yarn {
                    factor: match rope.raw("factor") {
                        Some(null) if null.is_null() => stretched,
                        _ => factor(rope, "factor")?,
                    },
                    original_max_position_embeddings,
                    attention_factor: rope.float("attention_factor")?,
                    mscale: rope.float("mscale")?.filter(|&m| m != 0.0),
                    mscale_all_dim: rope.float("mscale_all_dim")?.filter(|&m| m != 0.0),
                    beta_fast: rope.float("beta_fast")?.filter(|&b| b != 0.0).unwrap_or(32.0),
                    beta_slow: rope.float("beta_slow")?.filter(|&b| b != 0.0).unwrap_or(1.0),
                    truncate: rope.flag("truncate")?.unwrap_or(true),
                })
            }
            "factors" => RopeScaling::Factors(factors(rope)?),
            other => {
                let known = "default, linear, dynamic, yarn, llama3";
                return Err(rope.error("rope_type", format!("'{other}' is not supported (known: {known})")));
            }
        })
    }
}

/// Numbers that frequencies are divided by.
fn factors(rope: Fields) -> Result<Vec<f32>> {
    let list = rope.list("factors")?.ok_or_else(|| rope.error("factors", "it is missing"))?;
    let number = |value: &Value| value.as_f64().map(|x| x as f32).filter(|x| x.is_finite() && *x > 0.0);
    let factor = |value: &Value| {
        number(value).ok_or_else(|| rope.error("factors", format!("{value} is no number above 0")))
    };
    list.iter().map(factor).collect()
}

/// A scaling number that must be there and positive.
fn factor(rope: Fields, field: &str) -> Result<f64> {
    let value =
        rope.float(field)?.ok_or_else(|| rope.error(field, "it is missing, and this rope_type needs it"))?;
    if value > 0.0 { Ok(value) } else { Err(rope.error(field, format!("{value} is not above 0"))) }
}
