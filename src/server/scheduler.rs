//! The Scheduler: the engine's loop. It is the only one that touches K and V, and it never waits for a client.
//!
//! It takes what has arrived, makes a step, and hands the tokens on. With nothing to do it sleeps until something arrives. A request whose
//! client is behind is held: it has nothing to do until the client has read.

use super::{
    io_struct::{
        AbortReq, BatchTokenIdOutput, FlushCacheReqOutput, GroupId, InternalState, PaceReq, SchedulerInput,
        TokenizedGenerateReqInput, TokenizedSample,
    },
    status::Status,
};
use crate::{
    engine::{Engine, NewRequest, RequestId, SharesWith, Update, Worker},
    error::{Error, Result},
};
use std::{
    collections::HashMap,
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError},
    },
    time::Instant,
};

/// The engine, and who asked for what.
pub struct Scheduler<W: Worker> {
    engine: Engine<W>,
    from_manager: Receiver<SchedulerInput>,
    to_detokenizer: SyncSender<BatchTokenIdOutput>,
    status: Arc<Status>,
    groups: HashMap<GroupId, Group>,
    /// For each of the engine's requests, whose sample it is.
    samples: HashMap<RequestId, GroupId>,
    /// What goes to the detokenizer with the next step.
    next: BatchTokenIdOutput,
}

/// A client's request.
struct Group {
    rid: String,
    open: Vec<RequestId>,
}

impl<W: Worker> Scheduler<W> {
    /// A scheduler with nothing to do.
    pub fn new(
        engine: Engine<W>,
        from_manager: Receiver<SchedulerInput>,
        to_detokenizer: SyncSender<BatchTokenIdOutput>,
        status: Arc<Status>,
    ) -> Scheduler<W> {
        let (groups, samples) = (HashMap::new(), HashMap::new());
        let next = BatchTokenIdOutput::default();
        let scheduler = Scheduler { engine, from_manager, to_detokenizer, status, groups, samples, next };
        // The size of the KV cache is asked for before the first request.
        scheduler.publish();
        scheduler
    }

    // ANCHOR: run
    /// Serves until it is told to stop.
    ///
    /// # Errors
    /// Why the engine can't go on. Every client has been told by then.
    pub fn run(mut self) -> Result<()> {
        let served = self.serve();
        let dead = served.as_ref().err().map(Error::to_string);
        _ = self.to_detokenizer.send(BatchTokenIdOutput { dead, ..mem::take(&mut self.next) });
        served
    }

    fn serve(&mut self) -> Result<()> {
        while self.take_messages() {
            let updates = if self.engine.has_work() { self.step()? } else { Vec::new() };
            self.hand_on(updates);
            self.publish();
            self.engine.alive()?;
        }
        Ok(())
    }

    /// Takes all that has arrived; waits for it if there is nothing else to do. False at the end.
    fn take_messages(&mut self) -> bool {
        if !self.engine.has_work() {
            let goes_on = match self.wait() {
                Ok(message) => self.take(message),
                Err(error) => error == RecvTimeoutError::Timeout,
            };
            if !goes_on {
                return false;
            }
        }
        loop {
            let goes_on = match self.from_manager.try_recv() {
                Ok(message) => self.take(message),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => false,
            };
            if !goes_on {
                return false;
            }
        }
    }

    /// Waits for a message, or until a held request's time is over.
    fn wait(&self) -> Result<SchedulerInput, RecvTimeoutError> {
        match self.engine.next_deadline() {
            Some(deadline) => {
                self.from_manager.recv_timeout(deadline.saturating_duration_since(Instant::now()))
            }
            None => self.from_manager.recv().map_err(|_| RecvTimeoutError::Disconnected),
        }
    }

    fn take(&mut self, message: SchedulerInput) -> bool {
        match message {
            SchedulerInput::Generate(request) => self.admit(*request),
            SchedulerInput::Abort(request) => self.abort(request),
            SchedulerInput::Pace(request) => self.pace(&request),
            SchedulerInput::FlushCache(reply) => {
                let success = self.engine.flush_cache();
                _ = reply.send(FlushCacheReqOutput { success });
            }
            SchedulerInput::InternalState(reply) => {
                let limits = self.engine.limits();
                let (max_running, max_batched_tokens) = (limits.max_running(), limits.max_batched_tokens);
                _ = reply.send(InternalState { stats: self.engine.stats(), max_running, max_batched_tokens });
            }
            SchedulerInput::Shutdown => return false,
        }
        true
    }
    // ANCHOR_END: run

    /// Puts all samples of a request into the engine's queue, or none.
    fn admit(&mut self, request: TokenizedGenerateReqInput) {
        let TokenizedGenerateReqInput { group, rid, samples, admitted } = request;
        self.status.left_channel(samples.len());
        let mut added: Vec<RequestId> = Vec::new();
        let mut outputs = Vec::new();
        for TokenizedSample { request, like, output } in samples {
            let sharing = SharesWith { like: like.map(|at| added[at]), ..request.sharing };
            match self.engine.add_request(NewRequest { sharing, ..request }) {
                Ok(id) => {
                    added.push(id);
                    outputs.push((id, output));
                }
                Err(error) => {
                    // Nobody listens to those that were added: their updates find no output.
                    added.iter().for_each(|id| _ = self.engine.abort(*id));
                    _ = admitted.send(Err(error));
                    return;
                }
            }
        }
        // A client that has left meanwhile sends an abort, which comes after this.
        _ = admitted.send(Ok(()));
        self.samples.extend(added.iter().map(|id| (*id, group)));
        self.groups.insert(group, Group { rid, open: added });
        self.next.new.extend(outputs);
    }

    fn abort(&mut self, request: AbortReq) {
        match request {
            AbortReq::Group(group) => self.end(&[group]),
            AbortReq::Rid(rid, count) => {
                let named = self.groups.iter().filter(|(_, group)| group.rid == rid);
                let named: Vec<GroupId> = named.map(|(id, _)| *id).collect();
                self.end(&named);
                _ = count.send(named.len());
            }
            AbortReq::All { why, count } => {
                let all: Vec<GroupId> = self.groups.keys().copied().collect();
                self.next.aborted = Some(why);
                self.end(&all);
                _ = count.send(all.len());
            }
        }
    }

    fn end(&mut self, groups: &[GroupId]) {
        let open = groups.iter().filter_map(|group| self.groups.get(group)).flat_map(|group| &group.open);
        for id in open {
            self.engine.abort(*id);
        }
    }

    /// Holds the samples of a client that is behind; lets them go on if it has caught up.
    fn pace(&mut self, PaceReq { group, outbox }: &PaceReq) {
        let Some(Group { open, .. }) = self.groups.get(group) else { return };
        let behind = outbox.is_behind();
        for id in open {
            _ = if behind { self.engine.hold(*id) } else { self.engine.unhold(*id) };
        }
    }

    /// One step. A panic is an error of the engine: nobody knows what it has left half done.
    fn step(&mut self) -> Result<Vec<Update>> {
        let step = catch_unwind(AssertUnwindSafe(|| self.engine.step()));
        step.unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let what = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic");
            Err(Error::Dead(format!("the engine has a bug and can't go on: {what}")))
        })
    }

    /// Gives a step's tokens to the detokenizer, and forgets who has finished.
    fn hand_on(&mut self, updates: Vec<Update>) {
        for update in updates.iter().filter(|update| update.finished.is_some()) {
            let Some(group) = self.samples.remove(&update.id) else { continue };
            let Some(Group { open, .. }) = self.groups.get_mut(&group) else { continue };
            open.retain(|id| *id != update.id);
            if open.is_empty() {
                self.groups.remove(&group);
            }
        }
        if updates.is_empty() && self.next.new.is_empty() {
            return;
        }
        let output = mem::take(&mut self.next);
        // The detokenizer ends with this thread, and not before.
        _ = self.to_detokenizer.send(BatchTokenIdOutput { updates, ..output });
    }

    /// What the gauges show.
    fn publish(&self) {
        let (waiting, running) = self.engine.queues();
        self.status.publish(
            waiting,
            running,
            self.engine.kv_usage(),
            &self.engine.stats(),
            self.engine.weight_version(),
        );
    }
}
