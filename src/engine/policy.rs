//! Who computes how many tokens in the next step.

/// What a step may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Requests that run at a time.
    pub max_num_seqs: usize,
    /// Tokens of a step, over all requests: its budget.
    pub max_batched_tokens: usize,
}

impl Limits {
    // ANCHOR: max_running
    /// Requests that may run at a time. Each needs a token of the budget, or it would stall.
    pub fn max_running(&self) -> usize {
        self.max_num_seqs.min(self.max_batched_tokens)
    }
    // ANCHOR_END: max_running
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { max_num_seqs: 16, max_batched_tokens: 256 }
    }
}

/// What a policy sees: for each request the tokens that it has not computed yet. A decoding request has one.
#[derive(Clone, Copy, Debug)]
pub struct Queues<'a> {
    /// Admitted earlier, oldest first.
    pub running: &'a [usize],
    /// Not admitted yet, oldest first. (As many as could be admitted; there may be more.)
    pub waiting: &'a [usize],
    pub limits: Limits,
}

/// Divides a step's budget. [`Continuous`] and [`Static`] are ours; an exercise of chapter 3 asks for yours.
pub trait Policy: Send {
    /// The name in reports.
    fn name(&self) -> &'static str;

    /// Tokens for each running request, then for each waiting request that is admitted now, in the order of the queues.
    ///
    /// At most what each has left, at most `max_batched_tokens` together, and at most [`Limits::max_running`] requests.
    fn share(&mut self, queues: &Queues) -> Vec<usize>;
}

/// Requests come and go at every step.
pub struct Continuous;

// ANCHOR: continuous
impl Policy for Continuous {
    fn name(&self) -> &'static str {
        "continuous"
    }

    fn share(&mut self, queues: &Queues) -> Vec<usize> {
        let mut budget = queues.limits.max_batched_tokens;
        let mut take = |left: usize| {
            let tokens = left.min(budget);
            budget -= tokens;
            tokens
        };
        // Running requests first. All but the last are decoding: nobody is admitted while a prompt is unfinished,
        // since that prompt takes what is left of the budget. So a prompt never stalls a decode.
        let mut shares: Vec<usize> = queues.running.iter().map(|&left| take(left)).collect();
        let room = queues.limits.max_running().saturating_sub(shares.len());
        let admitted = queues.waiting.iter().take(room).map(|&left| take(left));
        shares.extend(admitted.take_while(|&tokens| tokens > 0));
        shares
    }
}
// ANCHOR_END: continuous

/// Requests are admitted when nobody runs, and the next ones when all of these have finished: batching before Orca (Yu et al.,
/// OSDI 2022). Without its padding, which a flat batch does not need.
#[derive(Default)]
pub struct Static {
    /// Prompts are still being admitted to this batch: the budget may cut them into several steps.
    filling: bool,
}

// ANCHOR: static
impl Policy for Static {
    fn name(&self) -> &'static str {
        "static"
    }

    fn share(&mut self, queues: &Queues) -> Vec<usize> {
        self.filling |= queues.running.is_empty();
        let waiting = if self.filling { queues.waiting } else { &[] };
        let shares = Continuous.share(&Queues { waiting, ..*queues });
        let admitted = shares.len() - queues.running.len();
        self.filling &= shares.len() < queues.limits.max_running() && admitted < queues.waiting.len();
        shares
    }
}
// ANCHOR_END: static

#[cfg(test)]
mod tests {
    use super::*;

    fn share(policy: &mut dyn Policy, running: &[usize], waiting: &[usize]) -> Vec<usize> {
        let limits = Limits { max_num_seqs: 4, max_batched_tokens: 10 };
        policy.share(&Queues { running, waiting, limits })
    }

    #[test]
    fn decodes_come_first_and_prompts_take_the_rest() {
        assert_eq!(share(&mut Continuous, &[1, 1], &[100, 5]), [1, 1, 8]);
        assert_eq!(share(&mut Continuous, &[1, 1, 92], &[5]), [1, 1, 8]);
        assert_eq!(share(&mut Continuous, &[1, 1, 3], &[2, 9]), [1, 1, 3, 2], "four at a time");
        assert_eq!(share(&mut Continuous, &[1], &[3, 4, 9, 1]), [1, 3, 4, 2]);
        assert_eq!(share(&mut Continuous, &[], &[]), [0; 0]);
    }

    #[test]
    fn a_static_batch_is_not_refilled() {
        let mut policy = Static::default();
        assert_eq!(share(&mut policy, &[], &[7, 4, 9]), [7, 3]);
        assert_eq!(share(&mut policy, &[1, 1], &[9, 5, 2]), [1, 1, 8], "the budget cut the batch in two");
        assert_eq!(share(&mut policy, &[1, 1, 1], &[5, 2]), [1, 1, 1, 5]);
        assert_eq!(share(&mut policy, &[1, 1, 1], &[2]), [1, 1, 1], "it is full, and one has finished");
        assert_eq!(share(&mut policy, &[], &[2]), [2]);
        assert_eq!(share(&mut policy, &[1], &[3]), [1], "nobody else waited");
    }
}
