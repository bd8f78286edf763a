//! A server from the port that is bound to the process that ends.
//!
//! ```text
//! bound ──load──▶ serving ──SIGTERM──▶ draining ──all answered, or --shutdown-timeout──▶ end, status 0
//!                    └────── the engine fails twice ──▶ dead ──clients are told──▶ end, status 1
//! ```

use super::{
    components::{Components, QueueOptions},
    http::{
        App, AppState,
        access::{Access, AccessOptions},
        body::BodyLimits,
        closing::{self, Closer},
        connection::{ConnectionLimits, Listening},
        log::logged,
        router,
    },
    status::Phase,
    tokenizer_manager::TokenizerManager,
};
use crate::{
    engine::{Engine, Worker},
    error::{Error, Result},
    request::Checkpoint,
};
use std::{
    hash::RandomState,
    process,
    sync::{Arc, OnceLock, atomic::AtomicU64},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio::{
    runtime::Runtime,
    signal::unix::{Signal, SignalKind, signal},
    task::JoinHandle,
    time::{sleep, timeout},
};

/// Threads that answer clients. They format text and move bytes; the engine's threads compute. Two of them would wake each other for each token,
/// and one moves some 60,000 tokens a second.
const HTTP_THREADS: usize = 1;
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
            needs_key: access.needs_key(),
            manager: OnceLock::new(),
            page: OnceLock::new(),
        });
        let (closer, closing) = closing::channel();
        let url = listener.url();
        let limits = ConnectionLimits {
            slow_reader_timeout: options.slow_reader_timeout,
            ..ConnectionLimits::default()
        };
        let routes = router(app.clone(), access);
        let routes = if options.log_json { logged(routes) } else { routes };
        let connections = runtime.spawn(listener.serve(routes, limits, closing));
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
        engine: Engine<W>,
        ready: impl FnOnce(&str, &TokenizerManager),
    ) -> Result<()> {
        let queue = QueueOptions {
            max_queued_requests: self.options.max_queued_requests,
            request_timeout: self.options.request_timeout,
        };
        let (status, metrics) = (self.app.status.clone(), self.app.metrics.clone());
        let components = Components::start(checkpoint, engine, queue, status.clone(), metrics)?;
        _ = self.app.manager.set(components.manager.clone());
        status.enter(Phase::Serving);
        ready(&self.url, &components.manager);

        let served = components.run();
        // The detokenizer has told all clients by now, and the connections have some time to write it.
        self.closer.close();
        _ = self.runtime.block_on(async { timeout(2 * LAST_WORDS, self.connections).await });
        self.runtime.shutdown_background();
        served
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
