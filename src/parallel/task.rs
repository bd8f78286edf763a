//! The tasks that rank 0 gives to the others.

use super::Communicator;
use crate::error::{Error, Result};
use crate::{attention::KvOptions, batch::Batch, tensor::DType};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::hash::{DefaultHasher, Hasher};

/// A parameter's name, dtype and shape.
pub type Parameter = (String, DType, Vec<usize>);

/// One thing to do for all ranks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Task {
    /// A pass over a batch, cut into so many micro-batches.
    Pass { batch: Batch, micro_batches: usize },
    /// New values for these parameters, whose bytes follow one by one.
    Update(Vec<Parameter>),
    /// Say what you hold and have done.
    Report,
    /// There is no more to do.
    Stop,
}

/// The settings that depend on rank 0's requests; it tells them to the others before they load.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Workload {
    /// The longest sequence of this run in tokens, if it is known.
    pub max_length: Option<usize>,
    pub kv: KvOptions,
}

/// As bytes.
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    postcard::to_allocvec(value).expect("plain data")
}

/// From bytes of another rank.
///
/// # Errors
/// If they are no such thing: that rank runs another build.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    let other = |e| {
        Error::Parallel(format!(
            "a message of another rank can't be read ({e}); run the same build everywhere"
        ))
    };
    postcard::from_bytes(bytes).map_err(other)
}

/// Compares something that all ranks must have alike.
///
/// # Errors
/// [`Error::Parallel`], naming the first rank that has something else than rank 0.
pub fn compare(world: &dyn Communicator, what: &str, mine: &[u8]) -> Result<()> {
    let mut checksum = DefaultHasher::new(); // without a key, the same in every process of this build
    checksum.write(mine);
    let all = world.all_gather(&checksum.finish().to_le_bytes())?;
    match all.iter().position(|theirs| *theirs != all[0]) {
        None => Ok(()),
        Some(rank) => Err(Error::Parallel(format!("rank {rank} and rank 0 differ in {what}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parallel::Threads;
    use std::{thread, time::Duration};

    /// Rank 2 has been told something else: all of them say so.
    #[test]
    fn a_rank_that_drifts_is_named() {
        let compare_on = |odd: usize| -> Vec<Option<String>> {
            let lines = Threads::group(0..3, Duration::from_secs(20));
            thread::scope(|scope| {
                let run = |line: Threads| {
                    let rank = line.rank().rank;
                    scope.spawn(move || compare(&line, "the batch", &[1, u8::from(rank == odd)]))
                };
                let running: Vec<_> = lines.into_iter().map(run).collect();
                running.into_iter().map(|rank| rank.join().unwrap().err().map(|e| e.to_string())).collect()
            })
        };
        assert_eq!(compare_on(9), [None, None, None]);
        assert_eq!(compare_on(2), vec![Some("rank 2 and rank 0 differ in the batch".to_owned()); 3]);
    }

    #[test]
    fn a_task_comes_as_it_was_sent() {
        let mut batch = Batch::of(&[5, 6, 7]);
        batch.push(&[9], 300, &[4, 5]);
        batch.moves.push(crate::batch::Move::SwapIn { host: 3, block: 70000 });
        for task in [
            Task::Pass { batch, micro_batches: 3 },
            Task::Update(vec![("a.b".into(), DType::BF16, vec![2, 3])]),
            Task::Stop,
        ] {
            assert_eq!(decode::<Task>(&encode(&task)).unwrap(), task);
        }
        assert!(decode::<Task>(&[77]).unwrap_err().to_string().contains("the same build"));
    }
}
