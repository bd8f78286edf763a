//! `stairwell serve`: OpenAI's API over HTTP.

use super::{
    engine_args::{EngineArgs, LoadWorker},
    numbers::count,
    terminal::{human_bytes, print},
};
use clap::ArgAction::Append;
use stairwell::{
    engine::Continuous,
    error::{Error, Result},
    server::{
        http::access::AccessOptions,
        lifecycle::{ServeOptions, Server},
    },
};
use std::{path::Path, process::ExitCode, time::Duration};

/// Serve OpenAI's API over HTTP: chats, completions, many requests at a time
#[derive(clap::Args)]
#[command(
    next_help_heading = "Server",
    after_help = "\
When it is ready, it prints one line, its base URL. TLS is the work of a proxy in front of it.

Examples:
  stairwell serve
  stairwell serve --model Qwen3-0.6B --port 8000 --api-key secret
  curl http://127.0.0.1:8000/v1/completions -H 'Content-Type: application/json' -d '{\"prompt\": \"Once upon a time\"}'"
)]
pub struct Args {
    #[command(flatten)]
    engine: EngineArgs,
    /// Address to listen on; another one than this machine's own needs --api-key, or --no-auth
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    host: String,
    /// Port to listen on; 0 takes a free one
    #[arg(long, value_name = "N", default_value_t = 8000)]
    port: u16,
    /// Names under which the model is served, the first one by default [default: the model's]
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    served_model_name: Vec<String>,
    /// A key that clients must have; may be given several times
    #[arg(long, value_name = "KEY", action = Append, env = "STAIRWELL_API_KEY", hide_env_values = true)]
    api_key: Vec<String>,
    /// The key for /flush_cache, /abort_request and /server_info
    #[arg(long, value_name = "KEY", env = "STAIRWELL_ADMIN_API_KEY", hide_env_values = true)]
    admin_api_key: Option<String>,
    /// Let everybody who reaches the address use the model
    #[arg(long)]
    no_auth: bool,
    /// A website whose pages may read answers; may be given several times
    #[arg(long, value_name = "ORIGIN", action = Append)]
    cors_origin: Vec<String>,
    /// Answers that may wait for their turn; beyond it, requests get 503
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = count())]
    max_queued_requests: usize,
    /// The largest body of a request
    #[arg(long, value_name = "N", default_value_t = 32 << 20, value_parser = count())]
    max_body_bytes: usize,
    /// How long a request may take, in seconds, with its time in the queue [default: no limit]
    #[arg(long, value_name = "S", value_parser = some_seconds)]
    request_timeout: Option<Duration>,
    /// How long a client may take nothing of its answer, in seconds
    #[arg(long, value_name = "S", default_value = "60", value_parser = some_seconds)]
    slow_reader_timeout: Duration,
    /// How long requests may go on after SIGTERM, in seconds
    #[arg(long, value_name = "S", default_value = "30", value_parser = seconds)]
    shutdown_timeout: Duration,
    /// Log each request to standard error, as a line of JSON
    #[arg(long)]
    log_json: bool,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().filter(|seconds: &f64| *seconds >= 0.0);
    let duration = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    duration.ok_or_else(|| format!("'{text}' is no number of seconds; give 0 or more"))
}

/// Seconds in which something can be done.
fn some_seconds(text: &str) -> Result<Duration, String> {
    let duration = seconds(text)?;
    if duration.is_zero() {
        Err(format!("'{text}' is no time at all; give more than 0"))
    } else {
        Ok(duration)
    }
}

impl Args {
    /// Threads of this process's rank.
    pub fn threads(&self) -> usize {
        self.engine.parallel.threads()
    }

    fn names(&self) -> Vec<String> {
        match (&self.served_model_name[..], &self.engine.load.model.model) {
            ([], None) => vec!["stairwell-demo".into()],
            ([], Some(model)) => vec![name_of(model)],
            (names, _) => names.to_vec(),
        }
    }

    fn options(&self) -> ServeOptions {
        let access = AccessOptions {
            api_key: self.api_key.clone(),
            admin_api_key: self.admin_api_key.clone(),
            cors_origin: self.cors_origin.clone(),
            no_auth: self.no_auth,
        };
        ServeOptions {
            host: self.host.clone(),
            port: self.port,
            names: self.names(),
            access,
            max_queued_requests: self.max_queued_requests,
            max_body_bytes: self.max_body_bytes,
            request_timeout: self.request_timeout,
            slow_reader_timeout: self.slow_reader_timeout,
            shutdown_timeout: self.shutdown_timeout,
            log_json: self.log_json,
        }
    }

    /// What a person wants to know, in a few lines.
    fn announce(&self, context: usize, kv_tokens: usize) {
        let keys = match self.api_key.len() {
            0 => "no key is needed".to_owned(),
            n => format!("{n} keys"),
        };
        eprintln!("model: {}, context of {context} tokens, K and V for {kv_tokens}", self.names().join(", "));
        let (running, queued, body) =
            (self.engine.running(), self.max_queued_requests, human_bytes(self.max_body_bytes as u64));
        eprintln!("limits: {running} requests run at a time, {queued} wait; bodies up to {body}; {keys}");
    }
}

/// The id of a cached model as it is, and of a directory its last part.
fn name_of(model: &str) -> String {
    let path = Path::new(model);
    let last = path.canonicalize().ok().and_then(|path| Some(path.file_name()?.to_str()?.to_owned()));
    last.filter(|_| path.is_dir()).unwrap_or_else(|| model.to_owned())
}

/// Serves until a signal ends it.
pub fn run(args: Args) -> Result<ExitCode> {
    if args.engine.trace().is_some() {
        let message = "--trace: a server's trace would have no end; use `batch`, or watch /metrics";
        return Err(Error::Usage(message.into()));
    }
    if let Some(lead) = args.engine.lead()? {
        run_with(args, lead)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn run_with(args: Args, lead: LoadWorker) -> Result<()> {
    let server = Server::bind(args.options())?;
    let checkpoint = args.engine.load.checkpoint()?;
    let longest = checkpoint.config.context();
    let mut engine = args.engine.engine(lead, &checkpoint.config, longest, Box::new(Continuous))?;
    args.engine.note(&mut engine, longest)?;
    let kv_tokens = engine.kv_usage().total;
    let mut printed = Ok(());
    server.serve(checkpoint, engine, |url, manager| {
        args.announce(manager.limits.max_model_len, kv_tokens);
        printed = print(&format!("{url}\n"));
    })?;
    printed
}
