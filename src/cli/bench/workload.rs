//! What `bench` serves: prompts of random tokens, how long they and their outputs are, and when they arrive.

use super::super::numbers::count;
use rand::{Rng, SeedableRng, rngs::ChaCha20Rng};
use serde::{Serialize, Serializer};
use stairwell::error::{Error, Result};
use std::{ops::RangeInclusive, str::FromStr, time::Duration};

/// Lengths in tokens: `64`, `32..128` (both ends included), or parts of a mix with their weights: `8..16:7,128..160:1`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Lengths {
    /// As they were given.
    text: String,
    #[serde(skip)]
    parts: Vec<(usize, RangeInclusive<usize>)>,
}

/// Weights of a mix are numbers of requests, so this is more than anybody needs.
const MOST: usize = 1 << 32;

impl Lengths {
    /// Uniform from `first` to `last`, both included.
    pub fn uniform(first: usize, last: usize) -> Lengths {
        Lengths { text: format!("{first}..{last}"), parts: vec![(1, first..=last)] }
    }

    /// The longest that can be drawn.
    pub fn longest(&self) -> usize {
        self.parts.iter().map(|(_, range)| *range.end()).max().unwrap_or(0)
    }

    /// `n` lengths. Each part of a mix gets its share of them exactly (as far as n allows), and their order is random.
    fn draw(&self, n: usize, random: &mut Random) -> Vec<usize> {
        let turn: Vec<_> =
            self.parts.iter().flat_map(|(weight, range)| (0..*weight).map(move |_| range)).collect();
        let in_turn = turn.iter().cycle().take(n);
        let mut lengths: Vec<usize> = in_turn.map(|range| random.within(range)).collect();
        for last in (1..n).rev() {
            lengths.swap(last, random.within(&(0..=last)));
        }
        lengths
    }
}

impl FromStr for Lengths {
    type Err = String;
    fn from_str(text: &str) -> Result<Lengths, String> {
        let part = |part: &str| {
            let (range, weight) = part.split_once(':').unwrap_or((part, "1"));
            Ok((number(weight, "a weight", 1 << 10)?, range_of(range)?))
        };
        let parts = text.split(',').map(part).collect::<Result<_, String>>()?;
        Ok(Lengths { text: text.into(), parts })
    }
}

fn range_of(text: &str) -> Result<RangeInclusive<usize>, String> {
    let (first, last) = text.split_once("..").unwrap_or((text, text));
    let (first, last) = (number(first, "a length", MOST)?, number(last, "a length", MOST)?);
    if first > last {
        return Err(format!("{first}..{last} holds no length; write {last}..{first}"));
    }
    Ok(first..=last)
}

fn number(text: &str, what: &str, most: usize) -> Result<usize, String> {
    match text.trim().parse() {
        Ok(n) if (1..=most).contains(&n) => Ok(n),
        Ok(n) => Err(format!("{n} is no {what}; it must be 1 to {most}").replace("no a ", "not a ")),
        Err(_) => {
            Err(format!("'{text}' is not {what}; write lengths like 64, 32..128 or 8..16:7,128..160:1"))
        }
    }
}

/// One request to come.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// Since the start.
    pub arrival: Duration,
    pub prompt: Vec<u32>,
    /// Exactly as many tokens as it gets: EOS is ignored.
    pub output_len: usize,
}

/// Requests in the order of their arrival; the same seed makes the same ones.
#[derive(Clone, Debug, PartialEq)]
pub struct Workload {
    pub items: Vec<Item>,
    /// A request that arrives when all the others are under way.
    pub late: Option<Item>,
}

/// What a workload is made from.
#[derive(clap::Args, Serialize)]
#[command(next_help_heading = "Workload")]
pub struct Recipe {
    /// Requests
    #[arg(long, value_name = "N", value_parser = count(), default_value = "32",
          default_value_if("preset", "nano-vllm", "256"))]
    pub num_requests: usize,
    /// Tokens that all prompts begin with, before their own --input-len [default: 0]
    #[arg(long, value_name = "N", value_parser = count())]
    #[serde(serialize_with = "or_zero")]
    pub shared_prefix: Option<usize>,
    /// Lengths of prompts in tokens
    #[arg(
        long,
        value_name = "LENGTHS",
        allow_hyphen_values = true,
        default_value = "32..128",
        default_value_if("preset", "nano-vllm", "100..1024")
    )]
    pub input_len: Lengths,
    /// Lengths of outputs in tokens
    #[arg(
        long,
        value_name = "LENGTHS",
        allow_hyphen_values = true,
        default_value = "16..64",
        default_value_if("preset", "nano-vllm", "100..1024")
    )]
    pub output_len: Lengths,
    /// Requests a second, at random times (Poisson) [default: all at the start]
    #[arg(long, value_name = "R", value_parser = parse_rate)]
    pub request_rate: Option<f64>,
    /// One more request: a prompt of N tokens that arrives when all the others have had 8 tokens
    #[arg(long, value_name = "N", value_parser = count())]
    pub late_prompt: Option<usize>,
}

fn or_zero<S: Serializer>(number: &Option<usize>, serializer: S) -> Result<S::Ok, S::Error> {
    number.unwrap_or(0).serialize(serializer)
}

fn parse_rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate: &f64| rate.is_finite() && *rate > 0.0);
    rate.ok_or_else(|| format!("'{text}' is not a number of requests a second; give one above 0"))
}

/// Output tokens of the late request: its prompt is what matters.
pub const LATE_OUTPUT: usize = 8;

impl Workload {
    /// Draws it, with prompts of ids below `vocab_size`.
    pub fn new(recipe: &Recipe, vocab_size: usize, seed: u64) -> Workload {
        let mut random = Random(ChaCha20Rng::seed_from_u64(seed));
        let inputs = recipe.input_len.draw(recipe.num_requests, &mut random);
        let outputs = recipe.output_len.draw(recipe.num_requests, &mut random);
        let mut arrival = Duration::ZERO;
        let mut item = |input: usize, output_len: usize| {
            let prompt = (0..input).map(|_| random.token(vocab_size)).collect();
            let item = Item { arrival, prompt, output_len };
            arrival += recipe.request_rate.map_or(Duration::ZERO, |rate| random.gap(rate));
            item
        };
        let items = inputs.into_iter().zip(outputs).map(|(input, output)| item(input, output)).collect();
        let mut workload = Workload { items, late: recipe.late_prompt.map(|input| item(input, LATE_OUTPUT)) };
        let prefix: Vec<u32> =
            (0..recipe.shared_prefix.unwrap_or(0)).map(|_| random.token(vocab_size)).collect();
        for item in workload.items.iter_mut().chain(&mut workload.late) {
            item.prompt.splice(0..0, prefix.iter().copied());
        }
        workload
    }

    /// The longest request in tokens, prompt and output.
    pub fn longest(&self) -> usize {
        self.all().map(|item| item.prompt.len() + item.output_len).max().unwrap_or(1)
    }

    /// How many requests it has.
    pub fn len(&self) -> usize {
        self.all().count()
    }

    /// Every request, the late one last.
    fn all(&self) -> impl Iterator<Item = &Item> {
        self.items.iter().chain(&self.late)
    }
}

/// Named, and with arithmetic of our own: `rand` may change how it draws from a range.
struct Random(ChaCha20Rng);

impl Random {
    /// Uniform over a range (Lemire's multiplication; its bias is below 2⁻³²).
    fn within(&mut self, range: &RangeInclusive<usize>) -> usize {
        let n = (range.end() - range.start() + 1) as u128;
        range.start() + ((u128::from(self.0.next_u64()) * n) >> 64) as usize
    }

    fn token(&mut self, vocab_size: usize) -> u32 {
        self.within(&(0..=vocab_size - 1)) as u32
    }

    /// The time to the next arrival of a Poisson process: exponential, with mean 1 / rate.
    fn gap(&mut self, rate: f64) -> Duration {
        let uniform = (self.0.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
        Duration::from_secs_f64((-(1.0 - uniform).ln() / rate).min(1e9))
    }
}

/// Whether the longest prompt and the longest output fit into the context together.
///
/// # Errors
/// With the flags, the numbers and the context.
pub fn check_length(
    input_flag: &str,
    input: usize,
    output_flag: &str,
    output: usize,
    context: usize,
) -> Result<()> {
    let sum = input + output;
    if sum <= context {
        return Ok(());
    }
    Err(Error::Usage(format!(
        "{input_flag} up to {input} and {output_flag} up to {output} make {sum} tokens, and the model's context is {context}; \
         give shorter ones"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workload(seed: u64, rate: Option<f64>) -> Workload {
        sharing(seed, rate, 0)
    }

    fn sharing(seed: u64, rate: Option<f64>, shared_prefix: usize) -> Workload {
        let recipe = Recipe {
            num_requests: 400,
            shared_prefix: Some(shared_prefix),
            input_len: Lengths::uniform(3, 9),
            output_len: "2..4:7,50..60:1".parse().unwrap(),
            request_rate: rate,
            late_prompt: None,
        };
        Workload::new(&recipe, 11, seed)
    }

    #[test]
    fn lengths_are_read_and_written() {
        for text in ["64", "32..128", "8..16:7,128..160:1"] {
            assert_eq!(serde_json::json!(text.parse::<Lengths>().unwrap()), text);
        }
        assert_eq!("7..9".parse::<Lengths>(), Ok(Lengths::uniform(7, 9)));
        for (text, part) in
            [("9..3", "3..9"), ("0", "1 to"), ("", "64"), ("1..", "64"), ("4:0", "weight"), ("1,x", "'x'")]
        {
            let error = text.parse::<Lengths>().unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn a_mix_is_exact_and_the_seed_decides_the_rest() {
        let drawn = workload(1, None);
        let long = drawn.items.iter().filter(|item| item.output_len >= 50).count();
        assert_eq!((long, drawn.longest() <= 69), (50, true));
        let mut inputs: Vec<usize> = drawn.items.iter().map(|item| item.prompt.len()).collect();
        inputs.sort();
        inputs.dedup();
        assert_eq!(inputs, [3, 4, 5, 6, 7, 8, 9]);
        assert!(
            drawn.items.iter().all(|item| item.arrival.is_zero() && item.prompt.iter().all(|id| *id < 11))
        );
        assert_eq!(drawn, workload(1, None));
        assert_ne!(drawn, workload(2, None));
    }

    #[test]
    fn a_shared_prefix_comes_before_the_same_prompts() {
        let (alone, shared) = (workload(1, None), sharing(1, None, 5));
        let prefix = &shared.items[0].prompt[..5];
        assert!(prefix.iter().any(|id| *id != prefix[0]));
        for (own, item) in alone.items.iter().zip(&shared.items) {
            assert_eq!(item.prompt, [prefix, &own.prompt].concat());
        }
        assert_eq!(shared.longest(), alone.longest() + 5);
    }

    #[test]
    fn arrivals_have_the_rate() {
        let last = workload(1, Some(20.0)).items.last().map(|item| item.arrival.as_secs_f64()).unwrap();
        assert!((15.0..25.0).contains(&last), "400 requests at 20 a second took {last}");
    }
}
