//! Which layers a stage of the pipeline gets.

use crate::config::{ModelConfig, Place};
use crate::error::{Error, Result};
use crate::{backend::cpu::Cpu, model, model::Stage};
use std::ops::Range;

/// Checks that a model has a layer for each of so many stages.
///
/// # Errors
/// [`Error::Usage`] with the number of layers.
pub fn check_stages(config: &ModelConfig, stages: usize) -> Result<()> {
    let layers = config.num_hidden_layers;
    if (1..=layers).contains(&stages) {
        return Ok(());
    }
    Err(Error::Usage(format!(
        "--pp {stages}: each stage takes whole layers, and the model has {layers}; give 1 to {layers}"
    )))
}

/// The layers of each stage: those that are asked for, or such that the stage with the most bytes has as few as possible.
///
/// # Errors
/// [`Error::Usage`] if the numbers that are asked for are not the model's layers, or the model has too few.
pub fn stages(config: &ModelConfig, count: usize, asked: Option<&[usize]>) -> Result<Vec<Stage>> {
    check_stages(config, count)?;
    let of = config.num_hidden_layers;
    let sizes = match asked {
        Some(asked) => {
            let listed = asked.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
            let wrong = |why: String| Error::Usage(format!("--pp-layers {listed}: {why}"));
            if asked.len() != count {
                return Err(wrong(format!("{} numbers for {count} stages; give one for each", asked.len())));
            }
            let sum = asked.iter().try_fold(0, |sum: usize, layers| sum.checked_add(*layers));
            if asked.contains(&0) || sum != Some(of) {
                return Err(wrong(format!(
                    "the model has {of} layers; give numbers above 0 that add up to that"
                )));
            }
            asked.to_vec()
        }
        None => balanced(&Bytes::of(config)?, count),
    };
    let starts = sizes.iter().scan(0, |end, size| {
        *end += size;
        Some(*end - size..*end)
    });
    Ok(starts.map(|layers| Stage { layers, of }).collect())
}

/// The size of a model's parts, in numbers.
#[derive(Clone, Debug, Default, PartialEq)]
struct Bytes {
    layers: Vec<u64>,
    /// The parts that only the first stage has, and that only the last stage has.
    first: u64,
    last: u64,
}

impl Bytes {
    fn of(config: &ModelConfig) -> Result<Bytes> {
        let mut model = model::build(&Cpu::default(), config, 1)?;
        let of = config.num_hidden_layers;
        let (tied, first, last) =
            (model.tied().is_some(), Stage { layers: 0..0, of }, Stage { layers: of..of, of });
        let mut bytes = Bytes { layers: vec![0; of], ..Bytes::default() };
        model.visit(&mut |param| {
            for source in &param.sources {
                let n = source.elements() as u64;
                match Place::of(&source.name) {
                    Some(Place::Layer(layer)) => bytes.layers[layer] += n,
                    _ => {
                        bytes.first += if first.holds(&source.name, tied) { n } else { 0 };
                        bytes.last += if last.holds(&source.name, tied) { n } else { 0 };
                    }
                }
            }
            Ok(())
        })?;
        Ok(bytes)
    }

    /// The size of a stage with these layers.
    fn weigh(&self, layers: Range<usize>) -> u64 {
        let first = if layers.start == 0 { self.first } else { 0 };
        let last = if layers.end == self.layers.len() { self.last } else { 0 };
        first + last + self.layers[layers].iter().sum::<u64>()
    }
}

// ANCHOR: balanced
/// How many layers each stage gets. heaviest[s][n]: the weight of the heaviest of s stages that share the first n layers, at best; cut[s][n]: where the last
/// of them begins then.
fn balanced(bytes: &Bytes, count: usize) -> Vec<usize> {
    let n = bytes.layers.len();
    let mut heaviest = vec![vec![u64::MAX; n + 1]; count + 1];
    let mut cut = vec![vec![0; n + 1]; count + 1];
    heaviest[0][0] = 0;
    for stages in 1..=count {
        for end in stages..=n {
            let with = |start: usize| heaviest[stages - 1][start].max(bytes.weigh(start..end));
            let start = (stages - 1..end).min_by_key(|start| with(*start)).expect("a layer for each stage");
            (heaviest[stages][end], cut[stages][end]) = (with(start), start);
        }
    }
    let (mut sizes, mut end) = (vec![0; count], n);
    for stage in (0..count).rev() {
        sizes[stage] = end - cut[stage + 1][end];
        end = cut[stage + 1][end];
    }
    sizes
}
// ANCHOR_END: balanced

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{demo, runner::read_config};

    fn sizes(layers: &[u64], first: u64, last: u64, count: usize) -> Vec<usize> {
        balanced(&Bytes { layers: layers.to_vec(), first, last }, count)
    }

    #[test]
    fn the_heaviest_stage_is_as_light_as_can_be() {
        assert_eq!(sizes(&[1; 4], 0, 0, 2), [2, 2]);
        assert_eq!(sizes(&[1; 28], 0, 0, 3).iter().max(), Some(&10));
        assert_eq!(sizes(&[1; 6], 4, 0, 2), [1, 5]);
        assert_eq!(sizes(&[1; 6], 0, 4, 2), [5, 1]);
        assert_eq!(sizes(&[1, 1, 9, 1], 0, 0, 3), [2, 1, 1]);
        assert_eq!(sizes(&[2; 3], 100, 100, 3), [1, 1, 1]);
        // Every way to cut, tried.
        let bytes = Bytes { layers: vec![5, 3, 8, 1, 9, 2, 6], first: 7, last: 4 };
        let heaviest = |cuts: &[usize]| {
            let ends = [0].iter().chain(cuts).chain(&[7]).copied().collect::<Vec<_>>();
            ends.windows(2).map(|pair| bytes.weigh(pair[0]..pair[1])).max().unwrap()
        };
        let best = (1..7).flat_map(|a| (a + 1..7).map(move |b| [a, b])).map(|cuts| heaviest(&cuts)).min();
        let ours = balanced(&bytes, 3);
        assert_eq!(Some(heaviest(&[ours[0], ours[0] + ours[1]])), best);
    }

    #[test]
    fn layers_that_are_asked_for_must_be_the_models() {
        let config = read_config(&demo::directory()).unwrap();
        let of = config.num_hidden_layers;
        let layers = |count, asked: Option<&[usize]>| {
            let stages = stages(&config, count, asked).map_err(|e| e.to_string())?;
            Ok::<_, String>(stages.into_iter().map(|stage| stage.layers).collect::<Vec<_>>())
        };
        assert_eq!(layers(2, Some(&[1, of - 1])).unwrap(), [0..1, 1..of]);
        assert_eq!(layers(of, None).unwrap().len(), of);
        for (count, asked) in [
            (2, vec![1, of]),
            (2, vec![of]),
            (2, vec![0, of]),
            (3, vec![1, of - 1]),
            (2, vec![usize::MAX, of + 1]),
        ] {
            let said = layers(count, Some(&asked)).unwrap_err();
            assert!(said.starts_with("--pp-layers ") && said.contains("give"), "{said}");
        }
        let said = layers(of + 1, None).unwrap_err();
        assert!(said.ends_with(&format!("the model has {of}; give 1 to {of}")), "{said}");
        assert!(layers(0, None).is_err());
    }
}
