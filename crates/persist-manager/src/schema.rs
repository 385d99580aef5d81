use schemars::SchemaGenerator;
use serde_json::{Map, Value, json};

use crate::layers::LAYERS;
use crate::registry::Kind;
use crate::sections::{Maintenance, ROOT};
use crate::{BackupPlan, Registry};
use persist_layers::Route;

/// The JSON Schema (draft 2020-12) of the configurations that a registry can read.
pub(crate) fn schema(registry: &Registry) -> Value {
    let mut generator = SchemaGenerator::default();
    let storages: Vec<Value> = registry.kinds().map(|kind| storage(kind, &mut generator)).collect();
    let layers = registry.layer_registry().schema(&mut generator);
    let route = inline(generator.root_schema_for::<Route>().into());
    let maintenance = inline(generator.root_schema_for::<Maintenance>().into());
    let backup = inline(generator.root_schema_for::<BackupPlan>().into());
    let mut definitions = generator.take_definitions(true);
    definitions.insert(LAYERS.to_owned(), layers);
    definitions.insert("sections".to_owned(), sections(&storages, &route, &maintenance, &backup));
    let mut schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A persist configuration",
        "type": "object",
        "properties": { ROOT: { "$ref": "#/$defs/sections" } },
        "required": [ROOT],
        "$defs": definitions,
    });
    allow_variables(&mut schema);
    schema
}

fn sections(storages: &[Value], route: &Value, maintenance: &Value, backup: &Value) -> Value {
    let name = json!({ "type": "string", "pattern": "^[A-Za-z][A-Za-z0-9_-]{0,63}$" });
    let mut properties = json!({
        "default_storage": {
            "description": "The storage that takes what no route claims; may be left out if there is only one.",
            "type": "string"
        },
        "storages": {
            "description": "The storages by name.",
            "type": "object",
            "minProperties": 1,
            "propertyNames": name,
            "additionalProperties": { "oneOf": storages }
        },
        "routes": {
            "description": "Which storage keeps the keys that begin with a prefix; the longest prefix wins.",
            "type": "array",
            "items": route
        },
        "maintenance": maintenance,
        "backup": backup,
    });
    let partial = partial(&properties);
    properties["profiles"] = json!({
        "description": "Sections that are laid over the others when the profile is chosen.",
        "type": "object",
        "additionalProperties": partial
    });
    json!({
        "type": "object",
        "properties": properties,
        "required": ["storages"],
        "additionalProperties": false
    })
}

/// The sections of a profile, in which a storage may be given in part.
fn partial(properties: &Value) -> Value {
    let mut properties = properties.clone();
    properties["storages"]["additionalProperties"] = json!({ "type": "object" });
    json!({ "type": "object", "properties": properties, "additionalProperties": false })
}

/// The section of one type, `type` included.
fn storage(kind: &dyn Kind, generator: &mut SchemaGenerator) -> Value {
    let reference: Value = kind.schema(generator).into();
    let pointer = reference.get("$ref").and_then(Value::as_str).unwrap_or_default();
    let name = pointer.rsplit('/').next().unwrap_or_default();
    let mut schema = generator.definitions_mut().remove(name).unwrap_or(reference);
    let types: Vec<&str> = [kind.name()].into_iter().chain(kind.aliases().iter().copied()).collect();
    let Some(object) = schema.as_object_mut() else { return schema };
    add_aliases(object);
    let properties = entry(object, "properties", json!({}));
    properties["type"] = json!({ "enum": types });
    properties[LAYERS] = json!({ "$ref": "#/$defs/layers" });
    if let Some(required) = entry(object, "required", json!([])).as_array_mut() {
        required.push(json!("type"));
    }
    schema
}

/// Lets a key be written by its other names, which its schema lists as `x-aliases` (schemars does not know of
/// `#[serde(alias)]`). A key that has some is not required by one name, so that the others will do.
fn add_aliases(object: &mut Map<String, Value>) {
    let mut renamed = Vec::new();
    let Some(properties) = object.get_mut("properties").and_then(Value::as_object_mut) else { return };
    for (name, property) in properties.clone() {
        let Some(Value::Array(aliases)) = property.get("x-aliases").cloned() else { continue };
        properties.extend(
            aliases.iter().filter_map(Value::as_str).map(|alias| (alias.to_owned(), property.clone())),
        );
        renamed.push(name);
    }
    if let Some(required) = object.get_mut("required").and_then(Value::as_array_mut) {
        required.retain(|name| !renamed.iter().any(|renamed| name == renamed));
    }
}

fn entry<'a>(object: &'a mut Map<String, Value>, name: &str, default: Value) -> &'a mut Value {
    object.entry(name).or_insert(default)
}

/// A root schema as part of another.
fn inline(mut schema: Value) -> Value {
    if let Some(object) = schema.as_object_mut() {
        object.remove("$schema");
        object.remove("$defs");
    }
    schema
}

/// Lets a text with a variable stand wherever a number or a truth value is wanted.
fn allow_variables(schema: &mut Value) {
    match schema {
        Value::Array(items) => items.iter_mut().for_each(allow_variables),
        Value::Object(object) => {
            let narrow =
                matches!(object.get("type").and_then(Value::as_str), Some("integer" | "number" | "boolean"));
            if narrow {
                let plain = Value::Object(std::mem::take(object));
                let variable = json!({ "type": "string", "pattern": "\\$\\{.+\\}" });
                object.insert("anyOf".to_owned(), json!([plain, variable]));
            } else {
                object.values_mut().for_each(allow_variables);
            }
        }
        _ => {}
    }
}
