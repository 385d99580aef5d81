use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use persist_backup::{Form, Snapshot, Vault};
use persist_core::{
    BaseStorage, ErrorKind, OpenContext, Restored, Result, SnapshotSource, StorageError, StorageSource,
    Verification, restore_entries,
};
use serde::Serialize;

use crate::composition::{Part, opening_order};
use crate::config_error::{ConfigError, invalid_config};
use crate::context::Context;
use crate::layers::{LAYERS, Layers};
use crate::manager::unknown_storage;
use crate::node::{Content, Node, Origin, Scalar};
use crate::redact::has_secret;
use crate::registry::Settings;
use crate::sections::{Sections, check_name, root};
use crate::shown::{Shown, redacted};
use crate::{BackupPlan, LoadOptions, Registry, expansion, overrides, profile, yaml};

/// A configuration that has been read and checked as a whole; nothing is opened yet.
///
/// Every problem is found at once and named with file, line and column:
///
/// ```
/// use persist_manager::{LoadOptions, Plan};
///
/// let error = Plan::from_yaml("storages:\n  docs: { type: fiel }\n", &LoadOptions::new()).unwrap_err();
/// assert!(error.to_string().starts_with("<yaml>:2:17: storage \"docs\": unknown type `fiel`"), "{error}");
/// ```
pub struct Plan {
    pub(crate) default: String,
    pub(crate) storages: Vec<Planned>,
    /// Positions in `storages`: members before what is made of them.
    order: Vec<usize>,
    pub(crate) routes: Vec<(String, String)>,
    pub(crate) interval: Option<Duration>,
    pub(crate) backup: Option<BackupPlan>,
    warnings: Vec<String>,
    profiles: Vec<String>,
    context: OpenContext,
    registry: Arc<Registry>,
}

/// A storage whose section was read and checked.
pub(crate) struct Planned {
    pub(crate) name: String,
    pub(crate) backend: &'static str,
    pub(crate) shown: serde_json::Value,
    /// The names of the storages that it is made of.
    members: Vec<String>,
    /// True if it is made of others.
    pub(crate) composite: bool,
    /// It was opened, and others are made of it.
    opened: Option<Arc<dyn BaseStorage>>,
    /// `None` once it was opened.
    settings: Option<Layered>,
}

/// The section of a storage and the layers over it.
struct Layered {
    settings: Box<dyn Settings>,
    layers: Layers,
}

impl Plan {
    /// Reads and checks a file of at most 1 MiB. Relative paths in it start at its folder.
    ///
    /// # Errors
    /// `InvalidConfig` with a line for each problem; `AccessDenied` or `InvalidConfig` if it cannot be read.
    pub fn from_file(path: impl AsRef<Path>, options: &LoadOptions) -> Result<Self> {
        let path = path.as_ref();
        let text = read_file(path)?;
        let folder = path.parent().map(Path::to_path_buf).unwrap_or_default();
        Self::load(&text, &path.display().to_string(), folder, options)
    }

    /// Reads and checks a text. Relative paths in it start at the working folder.
    ///
    /// # Errors
    /// `InvalidConfig` with a line for each problem.
    pub fn from_yaml(text: &str, options: &LoadOptions) -> Result<Self> {
        Self::load(text, "<yaml>", PathBuf::new(), options)
    }

    fn load(text: &str, file: &str, folder: PathBuf, options: &LoadOptions) -> Result<Self> {
        let base = options.base.clone().unwrap_or(folder);
        let context = Context::new(&options.environment, &base, options.strict);
        let mut errors = Vec::new();
        let plan = match prepare(text, options, &context, &mut errors) {
            Ok((root, profiles)) => Self::build(root, profiles, &context, options, &mut errors),
            Err(error) => {
                errors.push(error);
                Err(())
            }
        };
        let mut plan = plan.map_err(|()| invalid_config(file, &errors))?;
        plan.warnings = context.take_warnings().iter().map(|warning| warning.line(file)).collect();
        Ok(plan)
    }

    /// Builds the plan from a tree that is complete; `Err` if there are errors.
    fn build(
        root: Node,
        profiles: Vec<String>,
        context: &Context<'_>,
        options: &LoadOptions,
        errors: &mut Vec<ConfigError>,
    ) -> Result<Self, ()> {
        let sections = Sections::read(root, context, errors);
        sections.check(errors);
        let default = sections.default_name();
        let mut storages = Vec::with_capacity(sections.storages.len());
        let mut parts = Vec::with_capacity(sections.storages.len());
        for (name, section) in sections.storages {
            let checked = check_name(&name.text).map_err(|message| ConfigError::new(&name.place, message));
            let mark = context.mark();
            check_urls(&section, context, errors, &name.text);
            let planned =
                checked.and_then(|()| plan_storage(&name.text, section, &options.registry, context));
            context.end_storage(mark, &name.text);
            match planned {
                Ok(planned) => {
                    let members = planned.members.clone();
                    parts.push(Part { name: name.text, place: name.place, members });
                    storages.push(planned);
                }
                Err(error) => errors.push(error.in_storage(&name.text)),
            }
        }
        if !errors.is_empty() {
            return Err(());
        }
        let order = opening_order(&parts).map_err(|found| errors.extend(found))?;
        Ok(Self {
            default,
            storages,
            order,
            routes: sections.routes.into_iter().map(|(route, _)| (route.prefix, route.storage)).collect(),
            interval: sections.interval,
            backup: sections.backup.map(|(plan, _)| plan),
            registry: Arc::clone(&options.registry),
            warnings: Vec::new(),
            profiles,
            context: OpenContext {
                base: context.base.to_path_buf(),
                read_only: options.read_only,
                clock: Arc::clone(&options.clock),
            },
        })
    }

    /// The names of the storages in the order of the configuration.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.storages.iter().map(|storage| storage.name.as_str())
    }

    /// The type of a storage, aliases resolved.
    pub fn backend(&self, name: &str) -> Option<&'static str> {
        self.storages.iter().find(|storage| storage.name == name).map(|storage| storage.backend)
    }

    /// True if a storage is made of others: its values lie in those.
    pub fn is_composite(&self, name: &str) -> bool {
        self.storages.iter().any(|storage| storage.name == name && storage.composite)
    }

    /// The name of the storage that takes what no route claims.
    pub fn default_storage(&self) -> &str {
        &self.default
    }

    /// The routes in the order of the configuration: prefix and name of the storage.
    pub fn routes(&self) -> impl Iterator<Item = (&str, &str)> {
        self.routes.iter().map(|(prefix, storage)| (prefix.as_str(), storage.as_str()))
    }

    /// How often the manager calls `maintain` of every storage; `None`: never by itself.
    pub fn maintenance_interval(&self) -> Option<Duration> {
        self.interval
    }

    /// Which storages are copied, how often and for how long; `None`: the section is not there.
    pub fn backup(&self) -> Option<&BackupPlan> {
        self.backup.as_ref()
    }

    /// The snapshots of the section `backup`, or of one that says nothing.
    pub fn vault(&self) -> Vault {
        self.backup.clone().unwrap_or_default().vault(&self.context.base)
    }

    /// What is no error but should be looked at, such as a password in the file; each with its place.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The names of all profiles in the configuration, whether one was applied or not.
    pub fn profiles(&self) -> &[String] {
        &self.profiles
    }

    /// The configuration as it was understood, with defaults, profile and overrides, and without secrets.
    /// What it gives can be serialised as JSON or YAML.
    pub fn show(&self) -> impl Serialize + '_ {
        Shown(self)
    }

    /// What [`show`](Self::show) gives, as YAML.
    pub fn to_yaml(&self) -> String {
        // Text, numbers and mappings with text as keys can always be written.
        serde_saphyr::to_string(&self.show()).unwrap_or_else(|error| format!("# cannot be shown: {error}\n"))
    }

    /// The names of the storages in the order in which they are to be opened: members before what is made of them.
    pub(crate) fn opening_order(&self) -> impl Iterator<Item = &str> {
        self.order.iter().map(|index| self.storages[*index].name.as_str())
    }

    /// Opens one storage alone, for programs that need no manager, and what it is made of before it. Each is opened once:
    /// one that others are made of can be asked for again and is the same, any other is an error the second time.
    ///
    /// # Errors
    /// `NotFound` for an unknown name; `InvalidConfig` if it was opened before; why it cannot be opened.
    pub async fn open_storage(&mut self, name: &str) -> Result<Arc<dyn BaseStorage>> {
        let planned = self.storages.iter().find(|planned| planned.name == name);
        if let Some(opened) = planned.and_then(|planned| planned.opened.clone()) {
            return Ok(opened);
        }
        let mut members = Vec::new();
        for member in planned.map(|planned| planned.members.clone()).unwrap_or_default() {
            members.push(Box::pin(self.open_storage(&member)).await?);
        }
        let storage = self.open_alone(name, members).await?;
        let is_member =
            self.storages.iter().any(|planned| planned.members.iter().any(|member| member == name));
        if let (true, Some(planned)) =
            (is_member, self.storages.iter_mut().find(|planned| planned.name == name))
        {
            planned.opened = Some(Arc::clone(&storage));
        }
        Ok(storage)
    }

    /// Opens a storage of members that are open.
    async fn open_alone(
        &mut self,
        name: &str,
        members: Vec<Arc<dyn BaseStorage>>,
    ) -> Result<Arc<dyn BaseStorage>> {
        let (Layered { settings, layers }, _) = self.take_settings(name, "open")?;
        let place = |error: StorageError| error.with_operation("open").with_storage(name);
        let below = settings.open(name, members, &self.context).await.map_err(place)?;
        let storage = wrap(below, layers, &self.context).await.map_err(place)?;
        if storage.describe().name() != name {
            let message = "the backend gave the storage another name; it must keep the one it is given";
            let error = StorageError::new(ErrorKind::InvalidConfig, message);
            return Err(error.with_operation("open").with_storage(name));
        }
        Ok(storage)
    }

    /// Replaces everything in a storage, which must not be open, by what a snapshot holds, of that storage or of another,
    /// also of another type. All of the snapshot is verified before anything is touched. A storage can be restored once,
    /// and then not opened, from one plan.
    ///
    /// # Errors
    /// `NotFound` for an unknown name; `Corruption` if the snapshot is damaged; `Locked` if the storage is open; why it
    /// cannot be restored.
    pub async fn restore(&mut self, name: &str, snapshot: &Snapshot) -> Result<Restored> {
        let (layered, backend) = self.take_settings(name, "restore")?;
        let mut source = snapshot.source().await?;
        let manifest = snapshot.manifest();
        let restored = if manifest.form == Form::Native && manifest.backend != backend {
            let opened = self.open_files(snapshot, &source).await?;
            let mut entries = StorageSource::new(Arc::clone(&opened));
            let restored = self.restore_from(layered, name, &mut entries).await;
            opened.close().await.and(restored)
        } else {
            self.restore_from(layered, name, &mut source).await
        };
        restored.map_err(|error| error.with_operation("restore").with_storage(name))
    }

    /// Restores what lies below the layers, as a snapshot holds it, but for those that rename keys: what they lead to is a
    /// part of a storage, and only that part is replaced.
    async fn restore_from(
        &self,
        Layered { settings, layers }: Layered,
        name: &str,
        source: &mut dyn SnapshotSource,
    ) -> Result<Restored> {
        let layers = layers.for_restore();
        if layers.is_empty() {
            return settings.restore(name, &self.context, source).await;
        }
        let storage =
            wrap(settings.open(name, Vec::new(), &self.context).await?, layers, &self.context).await?;
        let restored = restore_entries(storage.as_ref(), source).await;
        storage.close().await.and(restored)
    }

    /// Reads all of a snapshot and checks every value in it. What is damaged inside of files that a storage wrote is in
    /// the answer.
    ///
    /// # Errors
    /// `Corruption` if the snapshot is not as it was written; `InvalidConfig` if nobody here reads its type.
    pub async fn verify_snapshot(&self, snapshot: &Snapshot) -> Result<Verification> {
        let source = snapshot.source().await?;
        let manifest = snapshot.manifest();
        if manifest.form == Form::Entries {
            return Ok(Verification { checked: manifest.keys, bytes: manifest.bytes, problems: Vec::new() });
        }
        let opened = self.open_files(snapshot, &source).await?;
        let report = opened.verify().await;
        opened.close().await.and(report)
    }

    async fn open_files(
        &self,
        snapshot: &Snapshot,
        source: &dyn SnapshotSource,
    ) -> Result<Arc<dyn BaseStorage>> {
        let manifest = snapshot.manifest();
        let fail = |message: String| {
            let message = format!("the snapshot {} cannot be read: {message}", snapshot.name());
            StorageError::new(ErrorKind::InvalidConfig, message)
        };
        let kind = self.registry.kind(&manifest.backend).map_err(fail)?;
        let opened = kind.open_snapshot(&manifest.storage, source, &self.context).await?;
        opened.ok_or_else(|| fail(format!("the type `{}` reads no files of snapshots", manifest.backend)))
    }

    /// The section of a storage, once, and its type.
    fn take_settings(&mut self, name: &str, operation: &'static str) -> Result<(Layered, &'static str)> {
        let Some(index) = self.names().position(|known| known == name) else {
            return Err(unknown_storage(name, self.names()));
        };
        let Planned { settings, backend, .. } = &mut self.storages[index];
        settings.take().map(|settings| (settings, *backend)).ok_or_else(|| {
            let message =
                "it was opened or restored before from this plan; keep what that call gave, or load it anew";
            let error = StorageError::new(ErrorKind::InvalidConfig, message);
            error.with_operation(operation).with_storage(name)
        })
    }
}

/// Puts layers over a storage that was opened, or closes it again.
async fn wrap(
    below: Arc<dyn BaseStorage>,
    layers: Layers,
    context: &OpenContext,
) -> Result<Arc<dyn BaseStorage>> {
    match layers.wrap(Arc::clone(&below), context).await {
        Ok(storage) => Ok(storage),
        // Why it cannot be used counts for more than what the closing met.
        Err(error) => below.close().await.and(Err(error.with_operation("open"))),
    }
}

/// The tree with profile, overrides and variables applied, and the names of its profiles.
fn prepare(
    text: &str,
    options: &LoadOptions,
    context: &Context<'_>,
    errors: &mut Vec<ConfigError>,
) -> Result<(Node, Vec<String>), ConfigError> {
    let mut root = root(yaml::parse(text)?, context)?;
    let profiles = profile::take(&mut root)?;
    let names = profiles.iter().map(|(name, _)| name.text.clone()).collect();
    if let Some(name) = &options.profile {
        let place = root.place.clone();
        profile::apply(&mut root, profiles, name).map_err(|message| ConfigError::new(&place, message))?;
    }
    overrides::apply(&mut root, &options.environment, errors);
    expansion::expand(&mut root, &options.environment, errors);
    Ok((root, names))
}

/// Reads the section of one storage: first its type, then what that type knows.
fn plan_storage(
    name: &str,
    mut section: Node,
    registry: &Registry,
    context: &Context<'_>,
) -> Result<Planned, ConfigError> {
    if section.entries().is_none() {
        let message = format!("{} was given where a mapping with `type` is wanted", section.noun());
        return Err(ConfigError::new(&section.place, message));
    }
    let Some(node) = section.remove("type") else {
        let types = crate::nearest::listed(registry.types());
        return Err(ConfigError::new(
            &section.place,
            format!("the key `type` is missing; there are: {types}"),
        ));
    };
    let written: String = crate::deserializer::read(&node, context).map_err(|error| error.under("type"))?;
    let kind = registry.kind(&written).map_err(|message| ConfigError::new(&node.place, message))?;
    let layers = section.remove(LAYERS).map(|node| registry.layer_registry().read(&node, context));
    let settings = kind.read(&section, context)?;
    let layers = layers.transpose()?.unwrap_or_default();
    let mut shown =
        settings.show().map_err(|why| ConfigError::new(&section.place, format!("cannot be shown: {why}")))?;
    if let (false, Some(entries)) = (layers.is_empty(), shown.as_object_mut()) {
        entries.insert(LAYERS.to_owned(), layers.show(&section.place)?);
    }
    Ok(Planned {
        name: name.to_owned(),
        backend: kind.name(),
        shown: redacted(shown),
        members: settings.members(),
        composite: kind.is_composite(),
        opened: None,
        settings: Some(Layered { settings, layers }),
    })
}

/// Notes every URL in the file that holds a password.
fn check_urls(node: &Node, context: &Context<'_>, errors: &mut Vec<ConfigError>, storage: &str) {
    match &node.content {
        Content::Scalar(Scalar { text, origin: Origin::File, .. }) if has_secret(text) => {
            let message =
                "a URL in the configuration holds a password; take the URL from a variable: `${NAME}`";
            let refused = context.literal_secret(&node.place, message).err();
            errors.extend(refused.map(|error| error.in_storage(storage)));
        }
        Content::Scalar(_) => {}
        Content::List(items) => items.iter().for_each(|item| check_urls(item, context, errors, storage)),
        Content::Map(entries) => {
            entries.iter().for_each(|(_, value)| check_urls(value, context, errors, storage));
        }
    }
}

fn read_file(path: &Path) -> Result<String> {
    let problem = |error: std::io::Error| {
        let kind = match error.kind() {
            std::io::ErrorKind::PermissionDenied => ErrorKind::AccessDenied,
            _ => ErrorKind::InvalidConfig,
        };
        let message = format!("the configuration `{}` cannot be read: {error}", path.display());
        StorageError::new(kind, message).with_source(error)
    };
    let mut text = String::new();
    // One byte more than is accepted, so that the reader of the text sees that it is too long.
    let mut file = File::open(path).map_err(problem)?.take(yaml::MAX_BYTES as u64 + 1);
    file.read_to_string(&mut text).map_err(problem)?;
    Ok(text)
}

/// Shows the configuration and no secret of it.
impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Plan").field(&serde_json::to_value(self.show()).map_err(|_| fmt::Error)?).finish()
    }
}
