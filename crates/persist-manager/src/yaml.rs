use std::collections::HashMap;

use granit_parser::{Event, Options, Parser, ScalarStyle, ScanError, Span, StrInput};

use crate::config_error::ConfigError;
use crate::node::{Content, Name, Node, Origin, Place, Scalar};

/// The largest configuration, in bytes.
pub(crate) const MAX_BYTES: usize = 1 << 20;

/// How deep lists and mappings may lie in each other.
const MAX_DEPTH: usize = 64;

/// How many parts a configuration may have once its aliases are replaced by what they stand for, and how many bytes
/// of text in all.
const MAX_NODES: usize = 100_000;
const MAX_TEXT: usize = 4 * MAX_BYTES;

/// Reads one YAML document.
///
/// Refused are tags, merge keys (`<<`), keys that are given twice or are no text, a second document, and whatever is
/// larger or deeper than a configuration needs to be.
///
/// # Errors
/// What is wrong, with its place.
pub(crate) fn parse(text: &str) -> Result<Node, ConfigError> {
    if text.len() > MAX_BYTES {
        let message = format!("the configuration has {} bytes, and may have {MAX_BYTES}", text.len());
        return Err(ConfigError::new(&START, message));
    }
    let mut options = Options::default();
    options.flow_nesting_limit = MAX_DEPTH + 1;
    options.block_nesting_limit = MAX_DEPTH + 1;
    Reader::new(text, options).document()
}

const START: Place = Place::Text { line: 1, column: 1 };

struct Reader<'a> {
    source: &'a str,
    events: Parser<'a, StrInput<'a>>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
    text: usize,
}

impl<'a> Reader<'a> {
    fn new(source: &'a str, options: Options) -> Self {
        let events = Parser::new_from_str_with_options(source, options);
        Self { source, events, anchors: HashMap::new(), nodes: 0, text: 0 }
    }

    fn next(&mut self) -> Result<(Event<'a>, Place), ConfigError> {
        match self.events.next() {
            Some(Ok((event, span))) => Ok((event, place(&span))),
            Some(Err(error)) => Err(scan_error(&error, self.source)),
            None => Ok((Event::StreamEnd, START)),
        }
    }

    fn document(&mut self) -> Result<Node, ConfigError> {
        let empty = || ConfigError::new(&START, "the configuration is empty; it needs at least `storages`");
        self.next()?;
        let (Event::DocumentStart(..), _) = self.next()? else { return Err(empty()) };
        let (event, place) = self.next()?;
        let node = self.node(event, place, 0)?;
        self.next()?;
        match self.next()? {
            (Event::StreamEnd, _) => Ok(node),
            (_, place) => {
                Err(ConfigError::new(&place, "a second document begins here; keep one in each file"))
            }
        }
    }

    fn node(&mut self, event: Event<'a>, place: Place, depth: usize) -> Result<Node, ConfigError> {
        self.spend(&place, 1, 0)?;
        if event.tag().is_some() {
            return Err(ConfigError::new(&place, "tags (`!…`) have no meaning here; leave it out"));
        }
        let (content, anchor) = match event {
            Event::Scalar(text, style, anchor, _) => {
                self.spend(&place, 0, text.len())?;
                let plain = style == ScalarStyle::Plain;
                let scalar = Scalar { text: text.into_owned(), plain, origin: Origin::File };
                (Content::Scalar(scalar), anchor)
            }
            Event::SequenceStart(_, anchor, _) => (self.list(&place, depth + 1)?, anchor),
            Event::MappingStart(_, anchor, _) => (self.map(&place, depth + 1)?, anchor),
            Event::Alias(anchor) => return self.alias(anchor, place, depth),
            _ => return Err(ConfigError::new(&place, "a value was expected here")),
        };
        let node = Node { place, content };
        if anchor != 0 {
            self.keep(anchor, &node)?;
        }
        Ok(node)
    }

    fn list(&mut self, place: &Place, depth: usize) -> Result<Content, ConfigError> {
        check_depth(place, depth)?;
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(Content::List(items)),
                (event, place) => items.push(self.node(event, place, depth)?),
            }
        }
    }

    fn map(&mut self, place: &Place, depth: usize) -> Result<Content, ConfigError> {
        check_depth(place, depth)?;
        let mut entries: Vec<(Name, Node)> = Vec::new();
        let mut seen: HashMap<String, usize> = HashMap::new();
        loop {
            let (event, place) = self.next()?;
            if matches!(event, Event::MappingEnd) {
                return Ok(Content::Map(entries));
            }
            let name = self.key(event, place, depth)?;
            if let Some(first) = seen.insert(name.text.clone(), line(&name.place)) {
                let message = format!("the key `{}` was given before, in line {first}; keep one", name.text);
                return Err(ConfigError::new(&name.place, message));
            }
            let (event, place) = self.next()?;
            entries.push((name, self.node(event, place, depth)?));
        }
    }

    fn key(&mut self, event: Event<'a>, place: Place, depth: usize) -> Result<Name, ConfigError> {
        let node = self.node(event, place, depth)?;
        match node.content {
            Content::Scalar(scalar) if scalar.plain && scalar.text == "<<" => Err(ConfigError::new(
                &node.place,
                "merge keys (`<<`) are not supported; repeat the keys, or use a profile",
            )),
            Content::Scalar(scalar) if !scalar.is_null() => Ok(Name { text: scalar.text, place: node.place }),
            _ => Err(ConfigError::new(
                &node.place,
                format!("a key must be a text, and this is {}", node.noun()),
            )),
        }
    }

    /// Keeps a copy of what an anchor names. The copy counts, so that anchors within anchors stay small.
    fn keep(&mut self, anchor: usize, node: &Node) -> Result<(), ConfigError> {
        let size = measure(node);
        self.spend(&node.place, size.nodes, size.text)?;
        self.anchors.insert(anchor, node.clone());
        Ok(())
    }

    /// What an alias stands for, at the place of the alias.
    fn alias(&mut self, anchor: usize, place: Place, depth: usize) -> Result<Node, ConfigError> {
        let Some(node) = self.anchors.get(&anchor) else {
            return Err(ConfigError::new(&place, "this alias lies inside what it stands for"));
        };
        let size = measure(node);
        self.spend(&place, size.nodes, size.text)?;
        check_depth(&place, depth + size.depth)?;
        let node = &self.anchors[&anchor];
        Ok(Node { place, content: node.content.clone() })
    }

    fn spend(&mut self, place: &Place, nodes: usize, text: usize) -> Result<(), ConfigError> {
        self.nodes += nodes;
        self.text += text;
        if self.nodes > MAX_NODES || self.text > MAX_TEXT {
            let message =
                format!("with all aliases replaced there are over {MAX_NODES} parts or {MAX_TEXT} bytes");
            return Err(ConfigError::new(place, message));
        }
        Ok(())
    }
}

struct Size {
    nodes: usize,
    text: usize,
    depth: usize,
}

fn measure(node: &Node) -> Size {
    let mut size = Size { nodes: 1, text: 0, depth: 0 };
    let mut add = |inner: &Node, key: usize| {
        let inner = measure(inner);
        size.nodes += inner.nodes;
        size.text += inner.text + key;
        size.depth = size.depth.max(inner.depth + 1);
    };
    match &node.content {
        Content::Scalar(scalar) => size.text = scalar.text.len(),
        Content::List(items) => items.iter().for_each(|item| add(item, 0)),
        Content::Map(entries) => entries.iter().for_each(|(name, value)| add(value, name.text.len())),
    }
    size
}

fn check_depth(place: &Place, depth: usize) -> Result<(), ConfigError> {
    if depth > MAX_DEPTH {
        return Err(ConfigError::new(place, format!("this lies more than {MAX_DEPTH} levels deep")));
    }
    Ok(())
}

/// Where a node begins, its tag included.
fn place(span: &Span) -> Place {
    let start = span.tag_start.unwrap_or(span.start);
    Place::Text { line: start.line(), column: start.col() + 1 }
}

fn line(place: &Place) -> usize {
    match place {
        Place::Text { line, .. } => *line,
        Place::Variable(_) => 0,
    }
}

fn scan_error(error: &ScanError, source: &str) -> ConfigError {
    let mark = error.marker();
    let place = Place::Text { line: mark.line(), column: mark.col() + 1 };
    let line = source.lines().nth(mark.line().saturating_sub(1)).unwrap_or_default();
    // The usual cause: `{` and `}` end plain text within `{ … }`.
    let hint = if line.contains("${") { "; put `${…}` in quotes" } else { "" };
    ConfigError::new(&place, format!("this is not YAML: {}{hint}", error.info()))
}
