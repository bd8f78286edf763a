//! The contract of step 8's queue: places for samples that wait, and what a client is told when there is none.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

/// How long nobody may be served. A contract that is kept never waits so long.
const PATIENCE: Duration = Duration::from_secs(3);

/// Why a request is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// 503 with `Retry-After`, in whole seconds.
    Busy { retry_after: u32 },
    /// 400: it has more samples than the queue has places.
    TooLarge,
}

/// Places for samples that wait.
pub trait Queue: Send + Sync + Sized + 'static {
    /// Places that are given back when this is dropped.
    type Place: Send;
    fn new(places: usize) -> Self;
    /// Places for all samples of a request, or for none.
    fn enter(self: &Arc<Self>, samples: usize) -> Result<Self::Place, Refused>;
    /// Samples that have a place.
    fn waiting(&self) -> usize;
}

#[track_caller]
fn check_busy(place: &str, refused: Option<Refused>) {
    match refused {
        Some(Refused::Busy { retry_after }) => assert!(
            (1..=120).contains(&retry_after),
            "{place}: Retry-After is {retry_after} s: 0 makes every client come back at once, and openai-python believes at most 120"
        ),
        other => panic!("{place}: expected Busy, got {other:?}"),
    }
}

/// A queue gives its places to whole requests, never more than it has, and gets each back once.
///
/// # Panics
/// If it does not.
#[track_caller]
pub fn queue<Q: Queue>() {
    let queue = Arc::new(Q::new(4));
    let three = queue.enter(3).expect("an empty queue of 4 takes 3 samples");
    assert_eq!(queue.waiting(), 3, "samples that wait after a request of 3");
    check_busy("2 samples, 1 place", queue.enter(2).err());
    assert_eq!(queue.waiting(), 3, "samples that wait after a refusal: did you count what you refused?");
    let one = queue.enter(1).expect("the last of 4 places is free");
    check_busy("1 sample, no place", queue.enter(1).err());
    drop(three);
    assert_eq!(
        queue.waiting(),
        1,
        "samples that wait when 3 of 4 have left: did you give back one place for each sample?"
    );
    let again = queue.enter(3).expect("3 of 4 places were given back");
    drop((one, again));
    assert_eq!(queue.waiting(), 0, "samples that wait when all have left: was each place given back?");
    assert_eq!(
        queue.enter(5).err(),
        Some(Refused::TooLarge),
        "5 samples for a queue of 4: a client that is told to come back would come back for ever"
    );
    assert_eq!(queue.waiting(), 0, "samples that wait after that refusal");
}

/// Many clients at the same time, which try again when they are told to: no more than the places are ever taken, and everybody is served.
///
/// # Panics
/// If not.
#[track_caller]
pub fn queue_under_load<Q: Queue>() {
    const PLACES: usize = 3;
    let queue = Arc::new(Q::new(PLACES));
    drop(queue.enter(1)); // what is not written yet says so once, and not on every thread
    let (inside, most, served) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    let failed = Mutex::new(None);
    thread::scope(|scope| {
        for client in 0..8usize {
            let (queue, inside, most, served, failed) = (&queue, &inside, &most, &served, &failed);
            scope.spawn(move || {
                let samples = 1 + client % 2;
                let fail = |why| _ = failed.lock().unwrap().insert(why);
                for _ in 0..100 {
                    let (mut start, mut seen) = (Instant::now(), served.load(Relaxed));
                    let place = loop {
                        match queue.enter(samples) {
                            Ok(place) => break place,
                            // A second of the server's is 10 µs of ours.
                            Err(Refused::Busy { retry_after }) => {
                                thread::sleep(Duration::from_micros(10) * retry_after)
                            }
                            Err(Refused::TooLarge) => {
                                return fail("2 samples are not too large for 3 places");
                            }
                        }
                        // Under load some wait long; but if nobody at all is served, no place is left.
                        if served.load(Relaxed) > seen {
                            (start, seen) = (Instant::now(), served.load(Relaxed));
                        } else if start.elapsed() > PATIENCE {
                            return fail("nobody gets a place any more: were places lost?");
                        }
                    };
                    most.fetch_max(inside.fetch_add(samples, Relaxed) + samples, Relaxed);
                    thread::yield_now();
                    inside.fetch_sub(samples, Relaxed);
                    drop(place);
                    served.fetch_add(1, Relaxed);
                }
            });
        }
    });
    if let Some(why) = *failed.lock().unwrap() {
        panic!("{why}");
    }
    let most = most.load(Relaxed);
    assert!(
        most <= PLACES,
        "{most} samples waited at a time in a queue of {PLACES}: did you look first and count later, in two steps?"
    );
    assert_eq!(
        (served.load(Relaxed), queue.waiting()),
        (800, 0),
        "requests served, and samples that wait at the end"
    );
}
