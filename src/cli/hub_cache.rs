//! `stairwell cache`: what the Hugging Face cache holds, whether it is right, and how to get rid of it.

use super::hub_args::HubArgs;
use super::terminal::{Progress, human_bytes, json_line, print, table};
use clap::Subcommand;
use stairwell::checkpoint::ModelName;
use stairwell::error::Result;
use stairwell::hub::{
    CachedRepository, CachedRevision, Deletion, HubCache, HubError, Verified, prune, remove, scan, verify,
};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

/// List, check and delete models in the local Hugging Face cache
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  stairwell cache ls
  stairwell cache verify Qwen/Qwen3-0.6B
  stairwell cache rm Qwen/Qwen3-0.6B@v1 --dry-run
  stairwell cache prune")]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// List what the cache holds: repositories, revisions, bytes, last use
    Ls {
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        hub: HubArgs,
    },
    /// Hash every file of a model, or of all, and compare with the hub's hashes; exits with 1 if one is wrong
    Verify {
        /// ORG/NAME [default: everything]
        model: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        hub: HubArgs,
    },
    /// Delete a model, or one of its revisions; files that another revision shares stay
    Rm {
        /// ORG/NAME, or ORG/NAME@REVISION
        model: String,
        /// Only say what would be deleted
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        hub: HubArgs,
    },
    /// Delete incomplete downloads, files of no revision, and revisions that no branch or tag is any more
    Prune {
        /// Only say what would be deleted
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        hub: HubArgs,
    },
}

pub fn run(args: Args) -> Result<ExitCode> {
    match args.action {
        Action::Ls { json, hub } => {
            let cache = scan(&hub.environment()?.cache)?;
            print(&if json { json_line(&cache) } else { listing(&cache) })?;
        }
        Action::Verify { model, json, hub } => return verify_all(model.as_deref(), json, &hub),
        Action::Rm { model, dry_run, hub } => {
            let name = ModelName::parse(&model, None)?;
            let revision = model.contains('@').then(|| name.revision());
            carry_out(&remove(&hub.environment()?, &name, revision)?, dry_run)?;
        }
        Action::Prune { dry_run, hub } => carry_out(&prune(&hub.environment()?)?, dry_run)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn listing(cache: &HubCache) -> String {
    let rows = cache.repositories.iter().flat_map(rows);
    let mut text = match cache.repositories.is_empty() {
        true => format!("the cache at {} is empty\n", cache.path.display()),
        false => table(["repository", "revisions", ">size", "last used", "kind"], rows),
    };
    if !cache.repositories.is_empty() {
        let (count, size) = (cache.repositories.len(), human_bytes(cache.size_on_disk));
        text += &format!("{count} repositories, {size} in {}\n", cache.path.display());
    }
    cache.warnings.iter().for_each(|warning| text += &format!("warning: {warning}\n"));
    text
}

/// A row for the repository, and one for each revision.
fn rows(repository: &CachedRepository) -> Vec<[comfy_table::Cell; 5]> {
    let incomplete = match repository.incomplete_bytes {
        0 => String::new(),
        bytes => format!(" and {} incomplete", human_bytes(bytes)),
    };
    let revisions = format!("{}{incomplete}", repository.revisions.len());
    let (size, used) = (human_bytes(repository.size_on_disk), ago(repository.last_used));
    let head = [(&*repository.id).into(), revisions.into(), size.into(), used.into(), repository.kind.into()];
    let revision = |revision: &CachedRevision| {
        let names = revision.references.join(", ");
        let (commit, size) = (format!("  {}", revision.commit), human_bytes(revision.size_on_disk));
        [commit.into(), names.into(), size.into(), "".into(), "".into()]
    };
    std::iter::once(head).chain(repository.revisions.iter().map(revision)).collect()
}

fn ago(time: SystemTime) -> String {
    let past = SystemTime::now().duration_since(time).unwrap_or(Duration::ZERO).as_secs();
    let (number, unit) = match past {
        0..60 => return "just now".into(),
        60..3_600 => (past / 60, "minute"),
        3_600..86_400 => (past / 3_600, "hour"),
        _ => (past / 86_400, "day"),
    };
    format!("{number} {unit}{} ago", if number == 1 { "" } else { "s" })
}

fn verify_all(model: Option<&str>, json: bool, hub: &HubArgs) -> Result<ExitCode> {
    let environment = hub.environment()?;
    let cache = scan(&environment.cache)?;
    let name = model.map(|model| ModelName::parse(model, None)).transpose()?;
    if let Some(name) = name.as_ref().filter(|name| !cache.has_model(name)) {
        return Err(HubError::NotCached { what: name.id(), cache: environment.cache }.into());
    }
    let progress = Progress::new("checking");
    let verified = verify(&cache, name.as_ref(), &|bytes, total| progress.add(bytes, total));
    drop(progress);
    print(&if json { json_line(&verified) } else { verdict(&verified) })?;
    Ok(if verified.bad.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn verdict(verified: &Verified) -> String {
    let Verified { good, bytes, bad, unchecked } = verified;
    let mut text: String = bad.iter().map(|bad| format!("{bad}\n")).collect();
    text += &format!("{good} files are right ({})", human_bytes(*bytes));
    if *unchecked > 0 {
        text += &format!(", {unchecked} have no hash to compare with");
    }
    if !bad.is_empty() {
        text += &format!(", {} are wrong: fetch them again with stairwell pull --force", bad.len());
    }
    text + "\n"
}

fn carry_out(deletion: &Deletion, dry_run: bool) -> Result<()> {
    if !dry_run {
        deletion.carry_out()?;
    }
    let mut text: String = deletion.what.iter().map(|what| format!("{what}\n")).collect();
    let verb = if dry_run { "would free" } else { "freed" };
    text += &format!("{verb} {} ({} bytes)\n", human_bytes(deletion.bytes), deletion.bytes);
    print(&text)
}
