//! `set`: gives fields of each record a value.

use wiredflow_core::field_path::FieldPath;
use wiredflow_core::fields::{Config, Field, FromNode, Pairs, Reading};
use wiredflow_core::node::Node;
use wiredflow_core::stage::{Cx, Emitter, Stage};
use wiredflow_core::{Batch, Error, Result, Value};

use crate::catalogue::{StageKind, Work};
use crate::resources::Resources;

/// The fields and their values.
#[derive(Clone, Debug)]
pub(crate) struct SetConfig(Vec<(FieldPath, Value)>);

impl FromNode for SetConfig {
    const EXPECTS: &'static str = "a map of fields and values";

    fn from_node(node: &Node, reading: &mut Reading) -> Option<Self> {
        let pairs = Pairs::<Value>::from_node(node, reading)?;
        let mut read = |(name, value): (String, Value)| {
            crate::steps::field(&name, node, reading).map(|path| (path, value))
        };
        let read: Vec<_> = pairs.0.into_iter().map(&mut read).collect();
        read.into_iter().collect::<Option<_>>().map(Self)
    }
}

impl Config for SetConfig {
    const DOC: &'static str = "Gives fields of each record a value, over the one that is there. A field such as `place.site` stands inside an \
         object, which is made where it is missing.";
    const SHORT: Option<&'static str> = None;

    fn fields() -> Vec<Field> {
        vec![Field {
            name: "FIELD",
            doc: "The value that the field gets, for as many fields as you like.",
            expects: "any value",
            default: None,
            required: false,
        }]
    }
}

/// Sets fields.
#[derive(Debug)]
pub(crate) struct Set(SetConfig);

impl StageKind for Set {
    const NAME: &'static str = "set";
    const EXAMPLE: &'static str = "set: {unit: C, place.site: north}";
    const WORK: Work = Work::Records;
    type Config = SetConfig;

    async fn open(config: SetConfig, _: &Resources) -> Result<Self> {
        Ok(Self(config))
    }
}

impl Stage for Set {
    async fn run(&self, batch: &Batch, out: &mut Emitter<'_>, _: &Cx) -> Result<()> {
        let changed = crate::steps::changed(batch, |record| {
            for (path, value) in &self.0.0 {
                path.set(record, value.clone()).map_err(|name| {
                    Error::data(format!(
                        "`{}` cannot be set: `{name}` is there and no object",
                        path.as_str()
                    ))
                })?;
            }
            Ok(())
        })?;
        out.emit(changed).await
    }
}
