use std::sync::Arc;

use crate::Environment;
use crate::config_error::ConfigError;
use crate::nearest::hint;
use crate::node::{Content, Name, Node, Origin, Place, Scalar};

/// What the names of overriding variables begin with. `PERSIST_CONFIG` and `PERSIST_PROFILE` are none of them.
const PREFIX: &str = "PERSIST__";

/// Lays every variable `PERSIST__SECTION__KEY…` over a configuration. A variable that leads nowhere is an error.
pub(crate) fn apply(root: &mut Node, environment: &Environment, errors: &mut Vec<ConfigError>) {
    for (variable, text) in environment.starting_with(PREFIX) {
        let place = Place::Variable(Arc::from(variable));
        let scalar = Scalar { text: text.to_owned(), plain: true, origin: Origin::Override };
        let value = Node { place: place.clone(), content: Content::Scalar(scalar) };
        let path: Vec<&str> = variable[PREFIX.len()..].split("__").collect();
        if let Err(message) = set(root, &path, 0, value) {
            errors.push(ConfigError::new(&place, message));
        }
    }
}

/// Sets `path[depth..]` below `node`.
fn set(node: &mut Node, path: &[&str], depth: usize, value: Node) -> Result<(), String> {
    let Some(step) = path.get(depth).filter(|step| !step.is_empty()) else {
        return Err("the name has an empty part; write PERSIST__SECTION__KEY".to_owned());
    };
    let last = depth + 1 == path.len();
    let target = match &mut node.content {
        Content::Map(entries) => entry(entries, step, path, depth, &value.place)?,
        Content::List(items) => item(items, step)?,
        Content::Scalar(_) => {
            return Err(format!("`{}` is a single value without keys", way(&path[..depth])));
        }
    };
    if !last {
        return set(target, path, depth + 1, value);
    }
    if !matches!(target.content, Content::Scalar(_)) {
        return Err(format!("`{}` is {}; name one value in it", way(path), target.noun()));
    }
    *target = value;
    Ok(())
}

/// The value of the key that a part of the name means; it is added if there is none, except among the storages.
fn entry<'a>(
    entries: &'a mut Vec<(Name, Node)>,
    step: &str,
    path: &[&str],
    depth: usize,
    place: &Place,
) -> Result<&'a mut Node, String> {
    let found: Vec<usize> = (0..entries.len()).filter(|index| means(step, &entries[*index].0.text)).collect();
    match found[..] {
        [index] => return Ok(&mut entries[index].1),
        [] => {}
        _ => {
            return Err(format!(
                "`{}` means several keys that differ only in case or in `-`",
                way(&path[..=depth])
            ));
        }
    }
    if depth == 1 && path[0].eq_ignore_ascii_case("storages") {
        let known = entries.iter().map(|(name, _)| name.text.as_str());
        let name = step.to_ascii_lowercase();
        return Err(format!("there is no storage `{name}`{}", hint(&name, known)));
    }
    let content = if depth + 1 == path.len() { nothing() } else { Content::Map(Vec::new()) };
    let name = Name { text: step.to_ascii_lowercase(), place: place.clone() };
    entries.push((name, Node { place: place.clone(), content }));
    let added = entries.len() - 1;
    Ok(&mut entries[added].1)
}

fn item<'a>(items: &'a mut [Node], step: &str) -> Result<&'a mut Node, String> {
    let count = items.len();
    let index: Option<usize> = step.parse().ok();
    index
        .and_then(|index| items.get_mut(index))
        .ok_or_else(|| format!("`{step}` is not the number of an item; the list has {count}, counted from 0"))
}

/// Variables are written in capitals and without `-`.
fn means(step: &str, key: &str) -> bool {
    step.eq_ignore_ascii_case(&key.replace('-', "_"))
}

fn way(path: &[&str]) -> String {
    path.join(".").to_ascii_lowercase()
}

fn nothing() -> Content {
    Content::Scalar(Scalar { text: String::new(), plain: true, origin: Origin::Override })
}
