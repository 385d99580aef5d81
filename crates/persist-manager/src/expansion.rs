use crate::Environment;
use crate::config_error::ConfigError;
use crate::node::{Content, Node, Origin, Place, Scalar};

/// Expands `${NAME}`, `${NAME:-default}` and `${NAME:?message}` in every scalar from the file, once; `$${` stands for
/// `${`. Keys are left alone, and what a variable holds is never parsed as YAML nor expanded again.
///
/// Every variable that is missing is reported.
pub(crate) fn expand(node: &mut Node, environment: &Environment, errors: &mut Vec<ConfigError>) {
    match &mut node.content {
        Content::Scalar(scalar) => {
            if let Err(error) = expand_scalar(scalar, &node.place, environment) {
                errors.push(error);
            }
        }
        Content::List(items) => items.iter_mut().for_each(|item| expand(item, environment, errors)),
        Content::Map(entries) => entries.iter_mut().for_each(|(_, value)| expand(value, environment, errors)),
    }
}

fn expand_scalar(scalar: &mut Scalar, place: &Place, environment: &Environment) -> Result<(), ConfigError> {
    if scalar.origin != Origin::File || !scalar.text.contains("${") {
        return Ok(());
    }
    let expansion = expand_text(&scalar.text, environment).map_err(|why| ConfigError::new(place, why))?;
    let written = std::mem::replace(&mut scalar.text, expansion.text);
    if expansion.from_environment {
        scalar.origin = Origin::Expanded(written);
    }
    Ok(())
}

struct Expansion {
    text: String,
    /// False if nothing but defaults from the file went into it.
    from_environment: bool,
}

fn expand_text(written: &str, environment: &Environment) -> Result<Expansion, String> {
    let mut expansion = Expansion { text: String::with_capacity(written.len()), from_environment: false };
    let mut rest = written;
    while let Some(at) = rest.find("${") {
        if let Some(before) = rest[..at].strip_suffix('$') {
            expansion.text.push_str(before);
            expansion.text.push_str("${");
            rest = &rest[at + 2..];
            continue;
        }
        expansion.text.push_str(&rest[..at]);
        let Some((reference, after)) = rest[at + 2..].split_once('}') else {
            return Err("`${` has no closing `}`; write `$${` for the two characters themselves".to_owned());
        };
        let (text, found) = look_up(reference, environment)?;
        expansion.text.push_str(text);
        expansion.from_environment |= found;
        rest = after;
    }
    expansion.text.push_str(rest);
    Ok(expansion)
}

/// The text for what stands between `${` and `}`, and whether it comes from the environment.
fn look_up<'a>(reference: &'a str, environment: &'a Environment) -> Result<(&'a str, bool), String> {
    let (name, otherwise) = match reference.find(':') {
        Some(colon) => (&reference[..colon], Some(&reference[colon..])),
        None => (reference, None),
    };
    let good = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) || !name.chars().all(good) {
        return Err(format!(
            "`${{{reference}}}` names no variable; write `${{NAME}}` or `${{NAME:-default}}`"
        ));
    }
    let found = environment.get(name);
    let Some(otherwise) = otherwise else {
        let missing = || format!("the variable {name} is not set; set it, or write `${{{name}:-default}}`");
        return found.map(|text| (text, true)).ok_or_else(missing);
    };
    if let Some(text) = found.filter(|text| !text.is_empty()) {
        return Ok((text, true));
    }
    match (otherwise.strip_prefix(":-"), otherwise.strip_prefix(":?")) {
        (Some(default), _) => Ok((default, false)),
        (_, Some(message)) => Err(format!("the variable {name} is not set: {message}")),
        _ => Err(format!("`${{{reference}}}`: after the name comes `:-default` or `:?message`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(text: &str) -> Result<String, String> {
        let environment =
            Environment::from_iter([("A", "1"), ("EMPTY", ""), ("NESTED", "${A}"), ("YAML", "x: [1")]);
        expand_text(text, &environment).map(|expansion| expansion.text)
    }

    #[test]
    fn references_are_expanded_once() {
        let cases = [
            ("${A}", "1"),
            ("x${A}y${A}z", "x1y1z"),
            ("${B:-2}", "2"),
            ("${B:-}", ""),
            ("${EMPTY}", ""),
            ("${EMPTY:-3}", "3"),
            ("${A:?needed}", "1"),
            ("${NESTED}", "${A}"),
            ("${YAML}", "x: [1"),
            ("${B:-a:b}", "a:b"),
            ("$${A}", "${A}"),
            ("$$${A}", "$${A}"),
            ("$A $ {A}", "$A $ {A}"),
            ("é${A}é", "é1é"),
        ];
        for (text, wanted) in cases {
            assert_eq!(expanded(text).unwrap(), wanted, "{text}");
        }
    }

    #[test]
    fn what_is_missing_or_malformed_is_named() {
        let cases = [
            ("${B}", "the variable B is not set; set it"),
            ("${B:?set it in the unit file}", "the variable B is not set: set it in the unit file"),
            ("${EMPTY:?no}", "the variable EMPTY is not set: no"),
            ("${A", "no closing"),
            ("${}", "names no variable"),
            ("${1A}", "names no variable"),
            ("${A B}", "names no variable"),
            ("${B:default}", ":-default"),
        ];
        for (text, wanted) in cases {
            let error = expanded(text).unwrap_err();
            assert!(error.contains(wanted), "{text}: {error}");
        }
    }
}
