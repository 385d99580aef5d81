use crate::config_error::ConfigError;
use crate::nearest::{hint, listed};
use crate::node::{Content, Name, Node};

/// Takes the profiles out of a configuration.
///
/// # Errors
/// If they are no mapping of mappings.
pub(crate) fn take(root: &mut Node) -> Result<Vec<(Name, Node)>, ConfigError> {
    let Some(node) = root.remove("profiles") else { return Ok(Vec::new()) };
    let wrong = |node: &Node| {
        let message = format!("{} was given where a mapping from names to sections is wanted", node.noun());
        ConfigError::new(&node.place, message).under("profiles")
    };
    let Content::Map(profiles) = node.content else { return Err(wrong(&node)) };
    match profiles.iter().find(|(_, profile)| profile.entries().is_none()) {
        Some((_, profile)) => Err(wrong(profile)),
        None => Ok(profiles),
    }
}

/// Lays the profile `name` over a configuration: mappings are joined key by key, everything else is replaced. A
/// storage to which the profile gives a type is replaced as a whole.
///
/// # Errors
/// If there is no such profile, in words.
pub(crate) fn apply(root: &mut Node, profiles: Vec<(Name, Node)>, name: &str) -> Result<(), String> {
    let names: Vec<String> = profiles.iter().map(|(name, _)| name.text.clone()).collect();
    match profiles.into_iter().find(|(profile, _)| profile.text == name) {
        Some((_, profile)) => {
            lay(root, profile);
            Ok(())
        }
        None if names.is_empty() => Err(format!("there is no profile `{name}`: the configuration has none")),
        None => {
            let known = || names.iter().map(String::as_str);
            Err(format!(
                "there is no profile `{name}`{} (there are: {})",
                hint(name, known()),
                listed(known())
            ))
        }
    }
}

fn lay(under: &mut Node, over: Node) {
    if over.get("type").is_some() {
        *under = over;
        return;
    }
    match (&mut under.content, over.content) {
        (Content::Map(old), Content::Map(new)) => {
            for (name, value) in new {
                match old.iter_mut().find(|(known, _)| known.text == name.text) {
                    Some((_, known)) => lay(known, value),
                    None => old.push((name, value)),
                }
            }
        }
        (content, new) => {
            *content = new;
            under.place = over.place;
        }
    }
}
