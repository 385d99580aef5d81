use crate::config_error::ConfigError;
use crate::nearest::hint;
use crate::node::Place;

/// A storage as a part of others: its name, where its section stands, and what it is made of.
pub(crate) struct Part {
    pub(crate) name: String,
    pub(crate) place: Place,
    pub(crate) members: Vec<String>,
}

/// The order in which storages are opened, as positions in the configuration: members before what is made of them, otherwise as
/// they stand.
///
/// # Errors
/// Members that are not there, named twice, or lead back to the storage itself.
pub(crate) fn opening_order(parts: &[Part]) -> Result<Vec<usize>, Vec<ConfigError>> {
    let errors: Vec<ConfigError> = parts.iter().filter_map(|part| check(part, parts).err()).collect();
    if !errors.is_empty() {
        return Err(errors);
    }
    let (mut order, mut path) = (Vec::with_capacity(parts.len()), Vec::new());
    for index in 0..parts.len() {
        visit(index, parts, &mut path, &mut order).map_err(|error| vec![error])?;
    }
    Ok(order)
}

fn check(part: &Part, parts: &[Part]) -> Result<(), ConfigError> {
    for (index, member) in part.members.iter().enumerate() {
        let wrong = |message| ConfigError::new(&part.place, message).in_storage(&part.name);
        if position(member, parts).is_none() {
            let known = parts.iter().map(|part| part.name.as_str());
            return Err(wrong(format!("there is no storage `{member}`{}", hint(member, known))));
        }
        if part.members[..index].contains(member) {
            return Err(wrong(format!("the storage `{member}` is named twice")));
        }
    }
    Ok(())
}

fn position(name: &str, parts: &[Part]) -> Option<usize> {
    parts.iter().position(|part| part.name == name)
}

/// Adds a storage to the order, after all that it is made of. `path` is what led to it.
fn visit(
    index: usize,
    parts: &[Part],
    path: &mut Vec<usize>,
    order: &mut Vec<usize>,
) -> Result<(), ConfigError> {
    if order.contains(&index) {
        return Ok(());
    }
    if let Some(start) = path.iter().position(|seen| *seen == index) {
        let names = path[start..].iter().chain([&index]).map(|seen| parts[*seen].name.as_str());
        let message = format!("it is made of itself: {}", names.collect::<Vec<_>>().join(" \u{2192} "));
        return Err(ConfigError::new(&parts[index].place, message).in_storage(&parts[index].name));
    }
    path.push(index);
    for member in parts[index].members.iter().filter_map(|member| position(member, parts)) {
        visit(member, parts, path, order)?;
    }
    path.pop();
    order.push(index);
    Ok(())
}
