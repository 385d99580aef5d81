//! The schema for editors says what the manager accepts.

use serde_json::{Value, json};

use crate::support::registry;

#[test]
fn it_has_every_type_with_its_keys() {
    let schema = registry().schema();
    let sections = &schema["$defs"]["sections"]["properties"];
    let mut names: Vec<&str> = sections.as_object().unwrap().keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["backup", "default_storage", "maintenance", "profiles", "routes", "storages"]);
    let probe = &sections["storages"]["additionalProperties"]["oneOf"][0];
    assert_eq!(probe["properties"]["type"], json!({ "enum": ["probe", "probing"] }));
    assert_eq!(probe["required"], json!(["type"]));
    assert_eq!(probe["additionalProperties"], false);
    assert_eq!(probe["properties"]["path"], probe["properties"]["base_path"]);
    assert_eq!(schema["required"], json!(["persistence"]));
}

#[test]
fn a_number_may_be_a_variable() {
    let schema = registry().schema();
    let probe = &schema["$defs"]["sections"]["properties"]["storages"]["additionalProperties"]["oneOf"][0];
    assert_eq!(probe["properties"]["read_only"]["anyOf"][1]["pattern"], "\\$\\{.+\\}");
    assert_eq!(probe["properties"]["base_path"]["type"], "string");
}

/// Every reference leads somewhere.
#[test]
fn references_lead_somewhere() {
    let schema = registry().schema();
    let mut pending = vec![&schema];
    while let Some(value) = pending.pop() {
        match value {
            Value::Object(object) => {
                if let Some(Value::String(reference)) = object.get("$ref") {
                    let target = schema.pointer(reference.trim_start_matches('#'));
                    assert!(target.is_some(), "{reference} leads nowhere");
                }
                pending.extend(object.values());
            }
            Value::Array(items) => pending.extend(items),
            _ => {}
        }
    }
}
