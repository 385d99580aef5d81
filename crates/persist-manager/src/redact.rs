use std::ops::Range;

use persist_core::Secret;

/// Parameters of a URL whose values are secrets.
const SECRET_PARAMETERS: [&str; 7] =
    ["password", "passwd", "pass", "secret", "token", "api_key", "access_key"];

/// The text without the passwords of the URLs in it.
pub(crate) fn redact(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut from = 0;
    for range in secrets(text) {
        shown.push_str(&text[from..range.start]);
        shown.push_str(Secret::REDACTED);
        from = range.end;
    }
    shown.push_str(&text[from..]);
    shown
}

/// True if a URL in the text holds a password.
pub(crate) fn has_secret(text: &str) -> bool {
    !secrets(text).is_empty()
}

/// Where the passwords stand: after the user in `scheme://user:password@host`, and in parameters named so.
fn secrets(text: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut from = 0;
    while let Some(at) = text[from..].find("://") {
        let start = from + at + 3;
        let end = start + url_length(&text[start..]);
        found.extend(user_password(text, start..end));
        found.extend(parameters(text, start..end));
        from = end;
    }
    found
}

fn url_length(text: &str) -> usize {
    text.find(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '`' | '<' | '>')).unwrap_or(text.len())
}

fn user_password(text: &str, url: Range<usize>) -> Option<Range<usize>> {
    // A password may itself hold `@` or `/` where somebody forgot to escape it: up to the last `@` all is secret.
    let at = url.start + text[url.clone()].rfind('@')?;
    let colon = url.start + text[url.start..at].find(':')?;
    Some(colon + 1..at).filter(|range| !range.is_empty())
}

fn parameters(text: &str, url: Range<usize>) -> Vec<Range<usize>> {
    let Some(query) = text[url.clone()].find('?') else { return Vec::new() };
    let mut start = url.start + query + 1;
    let mut found = Vec::new();
    for parameter in text[start..url.end].split(['&', ';', '#']) {
        if let Some((name, value)) = parameter.split_once('=')
            && SECRET_PARAMETERS.contains(&name.to_ascii_lowercase().as_str())
            && !value.is_empty()
        {
            found.push(start + name.len() + 1..start + parameter.len());
        }
        start += parameter.len() + 1;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_of_urls_are_not_shown() {
        let cases = [
            ("redis://user:hunter2@host:6379/0", "redis://user:[redacted]@host:6379/0"),
            ("redis://:hunter2@host", "redis://:[redacted]@host"),
            ("redis://u:p@ss:w/rd@host/1", "redis://u:[redacted]@host/1"),
            ("a://u:p@h and b://u:q@h", "a://u:[redacted]@h and b://u:[redacted]@h"),
            ("\"a://u:p@h\" x@y", "\"a://u:[redacted]@h\" x@y"),
            ("https://h/x?a=1&Password=p&b=2", "https://h/x?a=1&Password=[redacted]&b=2"),
            ("https://u:p@h/x?token=p", "https://u:[redacted]@h/x?token=[redacted]"),
            ("redis://host:6379", "redis://host:6379"),
            ("redis://user@host:6379", "redis://user@host:6379"),
            ("user:pass@host", "user:pass@host"),
            ("://", "://"),
            ("", ""),
        ];
        for (text, shown) in cases {
            assert_eq!(redact(text), shown);
            assert_eq!(has_secret(text), text != shown, "{text}");
        }
    }
}
