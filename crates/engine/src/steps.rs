//! What the stages that change fields of records share.

use wiredflow_core::field_path::FieldPath;
use wiredflow_core::fields::Reading;
use wiredflow_core::node::Node;
use wiredflow_core::{Batch, Error, Map, Result};

/// Reads a field that stands as a key of a map.
pub(crate) fn field(name: &str, map: &Node, reading: &mut Reading) -> Option<FieldPath> {
    let span = map.entry(name).map_or(map.span, |entry| entry.span);
    let path = FieldPath::parse(name).and_then(|path| match path.is_whole() {
        true => Err("`.` is no field's name".to_owned()),
        false => Ok(path),
    });
    path.map_err(|message| reading.error(span, message)).ok()
}

/// The batch with each record changed, or the error of the first that cannot be; that of one that is no object.
pub(crate) fn changed(batch: &Batch, change: impl Fn(&mut Map) -> Result<()>) -> Result<Batch> {
    let mut changed = batch.clone();
    for (index, record) in changed.records_mut().iter_mut().enumerate() {
        let fields = record.value_mut().as_object_mut();
        let fields = fields.ok_or_else(|| Error::data("the record is no object: it has no fields"));
        fields
            .and_then(&change)
            .map_err(|error| error.at_record(index))?;
    }
    Ok(changed)
}
