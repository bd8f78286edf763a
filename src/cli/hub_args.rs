//! Flags about the hub and its cache, and the one place where the command line turns a model's name into a folder.

use super::terminal::{Progress, print_note};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressFinish, ProgressStyle};
use stairwell::checkpoint::{Directory, StateDict, checksums};
use stairwell::demo;
use stairwell::error::Result;
use stairwell::hub::{self, Environment, KnownSums, Watch};
use std::path::PathBuf;
use std::time::Duration;

/// Where models by name come from.
#[derive(clap::Args, Clone)]
pub struct HubArgs {
    /// Never use the network: models are paths, or in the cache (also: HF_HUB_OFFLINE=1)
    #[arg(long)]
    pub offline: bool,
    /// Folder of the Hugging Face cache, where downloads go and models by name are looked for [default: $HF_HUB_CACHE, else
    /// ~/.cache/huggingface/hub]
    #[arg(long, value_name = "DIR")]
    pub download_dir: Option<PathBuf>,
}

impl HubArgs {
    /// The environment with these flags.
    pub fn environment(&self) -> Result<Environment> {
        Ok(Environment::read()?.with(self.download_dir.as_deref(), self.offline))
    }

    /// The directory that `--model` names. A model that is neither a path nor in the cache is fetched.
    pub fn locate(&self, model: &str, revision: Option<&str>) -> Result<Directory> {
        // What the environment says about the hub is no matter of a model that is a path.
        if let Some(directory) = stairwell::checkpoint::locate_path(model)? {
            return Ok(directory);
        }
        Ok(hub::locate(&self.environment()?, model, revision, &Bar::new())?)
    }
}

/// Where a model by name comes from, and whether it is the one that is meant.
#[derive(clap::Args, Clone)]
pub struct ModelHubArgs {
    #[command(flatten)]
    hub: HubArgs,
    /// Read all weights first and refuse others than these: the digest that `inspect --verify` prints, or a file with what
    /// `inspect --verify --json` prints
    #[arg(long, value_name = "SHA|FILE", visible_alias = "against")]
    checksum: Option<String>,
}

impl ModelHubArgs {
    /// As [`HubArgs::locate`]; nothing is compared.
    pub fn locate(&self, model: &str, revision: Option<&str>) -> Result<Directory> {
        self.hub.locate(model, revision)
    }

    /// The directory that `--model` names, or the demo, compared with `--checksum`.
    pub fn directory(&self, model: Option<&str>, revision: Option<&str>) -> Result<Directory> {
        let known = self.checksum.as_deref().map(KnownSums::read).transpose()?;
        let directory = model.map_or(Ok(demo::directory()), |model| self.locate(model, revision))?;
        if let Some(known) = known {
            let (state_dict, progress) = (StateDict::open(&directory)?, Progress::new("checking"));
            let total = state_dict.total_bytes();
            known.compare(&checksums(&state_dict, |bytes| progress.add(bytes, total)), &directory.root())?;
        }
        Ok(directory)
    }
}

/// A progress bar on stderr, if that is a terminal: bytes, rate, time left. It leaves nothing behind.
pub struct Bar(ProgressBar);

impl Bar {
    pub fn new() -> Bar {
        let template = "fetching {bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        Bar(bar.with_style(style).with_finish(ProgressFinish::AndClear))
    }
}

impl Watch for Bar {
    fn begin(&self, total: u64, done: u64) {
        self.0.set_length(total);
        self.0.set_position(done);
        self.0.reset_eta();
        if done < total {
            self.0.set_draw_target(ProgressDrawTarget::stderr());
            self.0.enable_steady_tick(Duration::from_millis(500));
        }
    }

    fn advance(&self, bytes: i64) {
        match u64::try_from(bytes) {
            Ok(more) => self.0.inc(more),
            Err(_) => self.0.dec(bytes.unsigned_abs()),
        }
    }

    fn note(&self, text: &str) {
        self.0.suspend(|| print_note(text));
    }
}
