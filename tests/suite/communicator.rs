//! What ranks in threads say to each other, and what they hear of one who is late, gone, failed or elsewhere.

use stairwell::{
    error::Error,
    model::Rank,
    parallel::{Communicator, Threads},
};
use std::{thread, time::Duration};

const LONG: Duration = Duration::from_secs(20);

/// What `f` gives on each of `world_size` ranks.
fn on_all<T: Send>(world_size: usize, timeout: Duration, f: impl Fn(&Threads) -> T + Sync) -> Vec<T> {
    let lines = Threads::group(0..world_size, timeout);
    thread::scope(|scope| {
        let run = |line: Threads| {
            let f = &f;
            scope.spawn(move || f(&line))
        };
        let running: Vec<_> = lines.into_iter().map(run).collect();
        running.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

/// Numbers whose sum depends on the order: every rank has the sum in the order of ranks, every time.
#[test]
fn sums_are_in_rank_order() {
    let of = |rank: usize| -> Vec<f32> {
        (0..50).map(|i| [1e8, 1.0, -1e8, 3.25][(rank + i) % 4] * (1.0 + i as f32 / 7.0)).collect()
    };
    let mut want = vec![0f32; 50];
    (0..4).for_each(|rank| want.iter_mut().zip(of(rank)).for_each(|(sum, x)| *sum += x));
    for _ in 0..20 {
        for got in on_all(4, LONG, |line| {
            let mut x = of(line.rank().rank);
            line.all_reduce(&mut x).unwrap();
            x
        }) {
            assert_eq!(got, want);
        }
    }
}

#[test]
fn what_each_has_comes_in_rank_order() {
    let gathered =
        on_all(3, LONG, |line| line.all_gather(&vec![line.rank().rank as u8; line.rank().rank]).unwrap());
    assert_eq!(gathered, vec![vec![vec![], vec![1], vec![2, 2]]; 3]);
    let said = on_all(3, LONG, |line| {
        let mut bytes = vec![line.rank().rank as u8];
        line.broadcast(1, &mut bytes).unwrap();
        bytes
    });
    assert_eq!(said, vec![vec![1]; 3]);
}

/// A ring of messages, two from each, and all that was said counted.
#[test]
fn messages_come_in_their_order() {
    on_all(3, LONG, |line| {
        let Rank { rank, world_size } = line.rank();
        let (next, before) = ((rank + 1) % world_size, (rank + world_size - 1) % world_size);
        line.send(next, vec![rank as u8, 0]).unwrap();
        line.send(next, vec![rank as u8, 1]).unwrap();
        assert_eq!(line.recv(before).unwrap(), [before as u8, 0]);
        assert_eq!(line.recv(before).unwrap(), [before as u8, 1]);
        line.barrier().unwrap();
        assert_eq!((line.traffic().sends, line.traffic().send_bytes), (2, 4));
        assert!(line.send(rank, vec![]).is_err() && line.recv(9).is_err());
    });
}

/// Rank 2 does something else, and what the others say of it.
fn others_say(timeout: Duration, odd: impl Fn(&Threads) + Sync) -> Vec<String> {
    let said = on_all(3, timeout, |line| match line.rank().rank {
        2 => {
            odd(line);
            None
        }
        _ => Some(line.all_reduce(&mut [1.0]).unwrap_err().to_string()),
    });
    said.into_iter().flatten().collect()
}

#[test]
fn who_is_late_gone_failed_or_elsewhere_is_named() {
    let late = others_say(Duration::from_millis(50), |_| thread::sleep(Duration::from_millis(400)));
    assert_eq!(
        late,
        vec![
            "rank 2 did not come to all_reduce of 1 numbers within 0.05 s; it hangs, or it is slow and needs a longer --comm-timeout";
            2
        ]
    );
    let gone = others_say(LONG, |_| ());
    assert_eq!(gone, vec!["rank 2 has ended, and others wait for it in all_reduce of 1 numbers"; 2]);
    let failed = others_say(LONG, |line| line.fail(&Error::Request("no memory for K and V".into())));
    assert_eq!(failed, vec!["rank 2 failed: no memory for K and V"; 2]);
    let drifted = others_say(LONG, |line| assert!(line.barrier().is_err()));
    for (rank, said) in drifted.iter().enumerate() {
        assert_eq!(
            *said,
            format!("rank {rank} calls all_reduce of 1 numbers, and rank 2 barrier: they have drifted apart")
        );
    }
}
