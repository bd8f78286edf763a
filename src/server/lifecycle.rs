//! A server from the port that is bound to the process that ends.
//!
//! ```text
//! bound ──load──▶ serving ──SIGTERM──▶ draining ──all answered, or --shutdown-timeout──▶ end, status 0
//!                    └────── the engine fails twice ──▶ dead ──clients are told──▶ end, status 1
//! ```

use super::{
    detokenizer,
    http::{
        App, AppState,
        access::{Access, AccessOptions},
        body::BodyLimits,
        closing::{self, Closer},
        connection::{ConnectionLimits, Listening},
        router,
    },
    scheduler::Scheduler,
    status::Phase,
    tokenizer_manager::{RequestLimits, TokenizerManager},
};
use crate::{
    engine::{Engine, Worker},
    error::{Error, Result},
    generate::GenerateParams,
    request::Checkpoint,
};
use std::{
    hash::RandomState,
    process,
    sync::{Arc, OnceLock, atomic::AtomicU64, mpsc},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio::{
    runtime::Runtime,
    signal::unix::{Signal, SignalKind, signal},
    task::JoinHandle,
    time::sleep,
};

/// Threads that answer clients. They format text and move bytes; the engine's threads compute.
const HTTP_THREADS: usize = 2;
/// Steps that the detokenizer may be behind.
const STEPS_BEHIND: usize = 64;
/// How long a body may take to come.
const BODY_DEADLINE: Duration = Duration::from_secs(30);
/// How long clients have, at the end, to take what was written for them.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// How to serve; the names are those of the flags.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    pub host: String,
    pub port: u16,
    pub names: Vec<String>,
    pub access: AccessOptions,
    pub max_queued_requests: usize,
    pub max_body_bytes: usize,
    pub request_timeout: Option<Duration>,
    pub slow_reader_timeout: Duration,
    pub shutdown_timeout: Duration,
    /// A line of JSON on standard error for each request.
    pub log_json: bool,
}

/// A server whose port is bound. `/ready` says 503 until it serves.
pub struct Server {
    pub url: String,
    app: App,
    options: ServeOptions,
    runtime: Runtime,
    connections: JoinHandle<()>,
    closer: Closer,
}

impl Server {
    /// Binds the port, and answers from now on.
    ///
    /// # Errors
    /// A host and port that can't be had, and an address that is open to everybody by mistake.
    pub fn bind(options: ServeOptions) -> Result<Server> {
        let no_runtime = |error| Error::Device(format!("no threads for the server: {error}"));
        let threads =
            tokio::runtime::Builder::new_multi_thread().worker_threads(HTTP_THREADS).enable_all().build();
        let runtime = threads.map_err(no_runtime)?;
        let _inside = runtime.enter();
        let listener = runtime.block_on(Listening::bind(&options.host, options.port))?;
        let access = Access::new(&options.access, listener.address().ip())?;
        let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let app = App::new(AppState {
            names: options.names.clone(),
            started,
            requests: AtomicU64::new(0),
            secret: RandomState::new(),
            status: Arc::default(),
            metrics: Arc::default(),
            bodies: BodyLimits::new(options.max_body_bytes, BODY_DEADLINE),
            manager: OnceLock::new(),
        });
        let (closer, closing) = closing::channel();
        let url = listener.url();
        let limits = ConnectionLimits {
            slow_reader_timeout: options.slow_reader_timeout,
            ..ConnectionLimits::default()
        };
        let connections = runtime.spawn(listener.serve(router(app.clone(), access), limits, closing));
        let (terminate, interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
        runtime.spawn(until_told(terminate, interrupt, app.clone(), options.shutdown_timeout));
        drop(_inside);
        Ok(Server { url, app, options, runtime, connections, closer })
    }

    /// Serves with an engine, on this thread, until a signal ends it. `ready` is called when requests are taken.
    ///
    /// # Errors
    /// Why the engine can't go on.
    pub fn serve<W: Worker>(
        self,
        checkpoint: Checkpoint,
        mut engine: Engine<W>,
        ready: impl FnOnce(&str, &TokenizerManager),
    ) -> Result<()> {
        warm_up(&mut engine)?;
        let status = self.app.status.clone();
        let kv = engine.kv_usage();
        let limits = RequestLimits {
            max_model_len: engine.worker.max_model_len().min(kv.total.max(1)),
            max_queued: self.options.max_queued_requests,
            max_running: engine.limits().max_running(),
            timeout: self.options.request_timeout,
        };
        engine.queue_limits.requests = limits.max_queued;
        let (to_scheduler, from_manager) = mpsc::channel();
        let (to_detokenizer, from_scheduler) = mpsc::sync_channel(STEPS_BEHIND);
        let metrics = self.app.metrics.clone();
        let scheduler = Scheduler::new(engine, from_manager, to_detokenizer, status.clone());
        let aborts = to_scheduler.clone();
        let texts = thread::Builder::new().name("detokenizer".into());
        let texts = texts.spawn(move || detokenizer::run(from_scheduler, aborts, metrics));
        let texts =
            texts.map_err(|error| Error::Device(format!("no thread for the detokenizer: {error}")))?;
        let manager = Arc::new(TokenizerManager::new(checkpoint, limits, status.clone(), to_scheduler));
        _ = self.app.manager.set(manager.clone());
        status.enter(Phase::Serving);
        ready(&self.url, &manager);

        let served = scheduler.run();
        if served.is_err() {
            status.enter(Phase::Dead);
        }
        // The detokenizer has told all clients by then, and the connections have some time to write it.
        _ = texts.join();
        self.closer.close();
        _ = self.runtime.block_on(tokio::time::timeout(LAST_WORDS, self.connections));
        self.runtime.shutdown_background();
        served
    }
}

/// One token, so that the first request finds everything in its place.
fn warm_up<W: Worker>(engine: &mut Engine<W>) -> Result<()> {
    engine.add(vec![0], GenerateParams { max_tokens: 1, ..GenerateParams::default() })?;
    let ended = engine.run()?;
    engine.flush_cache();
    match ended.into_iter().find_map(|finished| finished.error) {
        Some(error) => Err(Error::Dead(format!("the first token can't be computed: {error}"))),
        None => Ok(()),
    }
}

fn listen(kind: SignalKind) -> Result<Signal> {
    signal(kind).map_err(|error| Error::Device(format!("the system's signals can't be heard: {error}")))
}

// ANCHOR: until_told
/// Waits for a signal, then for the requests that run, and ends the scheduler. A second signal ends the process at once.
async fn until_told(mut terminate: Signal, mut interrupt: Signal, app: App, timeout: Duration) {
    let code = tokio::select! { _ = terminate.recv() => 128 + 15, _ = interrupt.recv() => 128 + 2 };
    let Some(manager) = app.manager.get() else {
        // The weights are being read: nobody is served, and nothing is lost.
        process::exit(0);
    };
    app.status.enter(Phase::Draining);
    tokio::select! {
        () = drain(manager, timeout) => manager.shut_down(),
        _ = terminate.recv() => process::exit(code),
        _ = interrupt.recv() => process::exit(code),
    }
}
// ANCHOR_END: until_told

/// Waits until all requests are answered. Those that are not in time end with an error.
async fn drain(manager: &TokenizerManager, timeout: Duration) {
    if !all_answered(manager, timeout).await {
        manager.end_all().await;
        all_answered(manager, LAST_WORDS).await;
    }
}

async fn all_answered(manager: &TokenizerManager, timeout: Duration) -> bool {
    let end = Instant::now() + timeout;
    while manager.open() > 0 && Instant::now() < end {
        sleep(Duration::from_millis(10)).await;
    }
    manager.open() == 0
}
