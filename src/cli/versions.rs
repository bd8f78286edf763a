//! `stairwell versions`: models kept under names of one's own, which never change.

use super::model_args::ModelArgs;
use super::terminal::{human_bytes, json_line, print, table};
use clap::Subcommand;
use stairwell::error::{Error, Result};
use stairwell::hub::versions::{Labels, Store, Version};

/// Save, list, name and roll back versions of models; `--model NAME@V` loads one
///
/// A version is a copy of a model's files under a name, with checksums, time and source. It never changes. Files that several versions share
/// are kept once, in $STAIRWELL_HOME/versions (default: ~/.local/share/stairwell/versions).
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  stairwell versions save assistant --model runs/step-1000 --note 'before the second epoch'
  stairwell generate --model assistant@latest --prompt 'Hello'
  stairwell versions rollback assistant v1")]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Save a model's files as the next version of a name
    Save {
        /// The name
        name: String,
        /// The version's name [default: v1, v2, …]
        #[arg(long = "as", value_name = "V")]
        version: Option<String>,
        /// What to remember of it
        #[arg(long, default_value = "", hide_default_value = true)]
        note: String,
        /// Further things to remember
        #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
        metadata: Vec<(String, String)>,
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        model: Box<ModelArgs>,
    },
    /// List the versions of a name, or of all
    Ls {
        name: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show all that is known of a version
    Show {
        /// NAME@V, or NAME for the latest
        version: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Give a version another name, which may move
    Tag { name: String, version: String, tag: String },
    /// Make a version the latest again
    Rollback { name: String, version: String },
    /// Remove a version, or all of a name, and the files that no other version shares
    Rm {
        /// NAME@V, or NAME
        version: String,
        /// Only say what would be removed
        #[arg(long)]
        dry_run: bool,
    },
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write KEY=VALUE")?;
    Ok((key.into(), value.into()))
}

pub fn run(args: Args) -> Result<()> {
    let store = Store::of_environment();
    match args.action {
        Action::Save { name, version, note, metadata, json, model } => {
            if model.model.is_none() {
                return Err(Error::Usage("versions save: give the model by --model".into()));
            }
            let labels = Labels { version, note, metadata: metadata.into_iter().collect() };
            let saved = store.save(&name, &model.directory()?, labels)?;
            print(&if json { json_line(&saved) } else { format!("{}@{}\n", saved.name, saved.version) })
        }
        Action::Ls { name, json } => {
            let versions = store.list(name.as_deref())?;
            print(&if json { json_line(&versions) } else { listing(&store, &versions) })
        }
        Action::Show { version, json } => {
            let (name, version) = version.split_once('@').unwrap_or((&version, "latest"));
            let version = store.find(name, version)?;
            print(&if json { json_line(&version) } else { details(&store, &version) })
        }
        Action::Tag { name, version, tag } => {
            let version = store.set(&name, &version, Some(&tag))?;
            print(&format!("{name}@{tag} is {}\n", version.version))
        }
        Action::Rollback { name, version } => {
            let version = store.set(&name, &version, None)?;
            print(&format!("{name}@latest is {}\n", version.version))
        }
        Action::Rm { version, dry_run } => {
            let (name, version) = match version.split_once('@') {
                Some((name, version)) => (name, Some(version)),
                None => (&*version, None),
            };
            let removed = store.remove(name, version, dry_run)?;
            let verb = if dry_run { "would free" } else { "freed" };
            let (lines, bytes) = (removed.versions.join("\n"), removed.bytes);
            print(&format!("{lines}\n{verb} {} ({bytes} bytes)\n", human_bytes(bytes)))
        }
    }
}

fn listing(store: &Store, versions: &[Version]) -> String {
    if versions.is_empty() {
        return "there are no versions; `stairwell versions save NAME --model MODEL` makes one\n".into();
    }
    let rows = versions.iter().map(|v| {
        let tags = store.tags(&v.name).into_iter().filter(|(_, version)| *version == v.version);
        let tags = tags.map(|(tag, _)| tag).collect::<Vec<_>>().join(", ");
        let name = format!("{}@{}", v.name, v.version);
        [name, human_bytes(v.bytes), v.created_at.clone(), tags, v.note.clone()].map(Into::into)
    });
    table(["version", ">size", "saved", "tags", "note"], rows)
}

fn details(store: &Store, version: &Version) -> String {
    let Version { name, version: id, created_at, note, source, architecture, digest, .. } = version;
    let from = match (&source.repository, &source.commit) {
        (Some(repository), Some(commit)) => format!("{repository}@{commit}"),
        _ => source.path.display().to_string(),
    };
    let weights = [Some(architecture), version.dtype.as_ref(), version.quantization.as_ref()];
    let weights = weights.into_iter().flatten().map(String::as_str).collect::<Vec<_>>().join(", ");
    let path = store.directory(version);
    let mut text = format!(
        "{name}@{id}, saved {created_at}\nfrom    {from}\nmodel   {weights}\nfiles   {}\nsha256  {digest}\n",
        path.display()
    );
    if !note.is_empty() {
        text += &format!("note    {note}\n");
    }
    version.metadata.iter().for_each(|(key, value)| text += &format!("{key} = {value}\n"));
    let rows = version
        .files
        .iter()
        .map(|file| [(&*file.path).into(), file.size.to_string().into(), (&*file.sha256).into()]);
    text + "\n" + &table(["file", ">bytes", "sha256"], rows)
}
