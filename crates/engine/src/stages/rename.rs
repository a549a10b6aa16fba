//! `rename`: gives fields of each record other names.

use wiredflow_core::field_path::FieldPath;
use wiredflow_core::fields::{Config, Field, FromNode, Pairs, Reading};
use wiredflow_core::node::Node;
use wiredflow_core::stage::{Cx, Emitter, Stage};
use wiredflow_core::{Batch, Error, Map, Result, Value};

use crate::catalogue::{StageKind, Work};
use crate::resources::Resources;

/// The fields and their new names.
#[derive(Clone, Debug)]
pub(crate) struct RenameConfig(Vec<(FieldPath, FieldPath)>);

impl FromNode for RenameConfig {
    const EXPECTS: &'static str = "a map of fields and their new names";

    fn from_node(node: &Node, reading: &mut Reading) -> Option<Self> {
        let pairs = Pairs::<FieldPath>::from_node(node, reading)?;
        let mut renames: Vec<(FieldPath, FieldPath)> = Vec::new();
        for (name, new) in pairs.0 {
            if new.is_whole() || renames.iter().any(|(_, other)| *other == new) {
                let message = format!("two fields cannot both become `{}`", new.as_str());
                let message = if new.is_whole() {
                    "`.` is no field's name".to_owned()
                } else {
                    message
                };
                reading.error(node.span, message);
                return None;
            }
            renames.push((crate::steps::field(&name, node, reading)?, new));
        }
        Some(Self(renames))
    }
}

impl Config for RenameConfig {
    const DOC: &'static str = "Gives fields of each record other names; all at once, so two can change places. A field that a record does not \
         have is passed over, one that has the new name already is replaced. `main.temp: temp` takes a field out of an object.";
    const SHORT: Option<&'static str> = None;

    fn fields() -> Vec<Field> {
        vec![Field {
            name: "FIELD",
            doc: "The field's new name, for as many fields as you like.",
            expects: FieldPath::EXPECTS,
            default: None,
            required: false,
        }]
    }
}

/// Renames fields.
#[derive(Debug)]
pub(crate) struct Rename(RenameConfig);

impl StageKind for Rename {
    const NAME: &'static str = "rename";
    const EXAMPLE: &'static str = "rename: {temp: celsius, main.humidity: humidity}";
    const WORK: Work = Work::Records;
    type Config = RenameConfig;

    async fn open(config: RenameConfig, _: &Resources) -> Result<Self> {
        Ok(Self(config))
    }
}

impl Stage for Rename {
    async fn run(&self, batch: &Batch, out: &mut Emitter<'_>, _: &Cx) -> Result<()> {
        let changed = crate::steps::changed(batch, |record| self.rename(record))?;
        out.emit(changed).await
    }
}

impl Rename {
    fn rename(&self, record: &mut Map) -> Result<()> {
        let mut moved: Vec<(&FieldPath, Value)> = Vec::new();
        let mut replaced: Vec<(&str, &FieldPath)> = Vec::new();
        for (path, new) in &self.0.0 {
            if record.contains_key(path.as_str()) {
                replaced.push((path.as_str(), new));
            } else if let Some(value) = path.remove(record) {
                moved.push((new, value));
            }
        }
        let mut renamed = Map::new();
        let becomes = |name: &str| {
            let mut found = replaced.iter();
            found.find(|(old, _)| *old == name).map(|(_, new)| *new)
        };
        for (name, value) in std::mem::take(record) {
            match becomes(&name) {
                // In its place, so that columns keep their order.
                Some(new) if !new.as_str().contains('.') => {
                    renamed.insert(new.as_str().to_owned(), value);
                }
                Some(new) => moved.push((new, value)),
                // What has the name that another field gets gives way.
                None if replaced.iter().any(|(_, new)| new.as_str() == name) => {}
                None => {
                    renamed.insert(name, value);
                }
            }
        }
        *record = renamed;
        for (new, value) in moved {
            new.set(record, value).map_err(|name| {
                Error::data(format!(
                    "a field cannot become `{}`: `{name}` is there and no object",
                    new.as_str()
                ))
            })?;
        }
        Ok(())
    }
}
