use std::cell::Cell;
use std::iter::Peekable;
use std::slice;

use persist_core::Secret;
use serde::de::value::StrDeserializer;
use serde::de::{
    Deserialize, DeserializeSeed, Deserializer, EnumAccess, Error as _, IntoDeserializer, MapAccess,
    SeqAccess, Unexpected, VariantAccess, Visitor,
};
use serde::forward_to_deserialize_any;

use crate::config_error::ConfigError;
use crate::context::Context;
use crate::node::{Content, Name, Node, Origin, Plain, Scalar, resolve};
use crate::secret_reference::reveal;

/// Reads a part of a configuration into any type, so that each error knows its place and its key.
///
/// A scalar is what is wanted of it: a number where a number is wanted, in quotes or not. A key whose value is
/// ignored is an error, also where the type forgot `deny_unknown_fields`.
#[derive(Clone, Copy)]
pub(crate) struct NodeDeserializer<'a> {
    node: &'a Node,
    context: &'a Context<'a>,
}

impl<'a> NodeDeserializer<'a> {
    pub(crate) fn new(node: &'a Node, context: &'a Context<'a>) -> Self {
        Self { node, context }
    }

    /// Finishes an error at this node: its place, and no text from the environment.
    fn finish(self, error: ConfigError) -> ConfigError {
        let error = error.at(&self.node.place);
        match &self.node.content {
            Content::Scalar(Scalar { text, origin: Origin::Expanded(written), .. }) => {
                error.hide(text, written)
            }
            _ => error,
        }
    }

    /// Reads a scalar as the number or truth value that `resolved` finds in it, quoted or not.
    fn typed<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConfigError> {
        let result = match &self.node.content {
            Content::Scalar(scalar) => visit_plain(resolve(&scalar.text), visitor),
            Content::List(_) => Err(ConfigError::invalid_type(Unexpected::Seq, &visitor)),
            Content::Map(_) => Err(ConfigError::invalid_type(Unexpected::Map, &visitor)),
        };
        result.map_err(|error| self.finish(error))
    }

    fn map<'de, V: Visitor<'de>>(
        self,
        entries: &[(Name, Node)],
        visitor: V,
    ) -> Result<V::Value, ConfigError> {
        let read = Cell::new(0);
        let rest = entries.iter().peekable();
        let result = visitor.visit_map(Entries { rest, read: &read, context: self.context });
        result.map_err(|error| match entries.get(read.get()) {
            Some((name, _)) if error.is_about_key() => error.at(&name.place),
            _ => error,
        })
    }

    fn text<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConfigError> {
        match &self.node.content {
            Content::Scalar(scalar) if !scalar.is_null() => {
                visitor.visit_str(&scalar.text).map_err(|error| self.finish(error))
            }
            _ => self.deserialize_any(visitor),
        }
    }
}

fn visit_plain<'de, V: Visitor<'de>>(plain: Plain<'_>, visitor: V) -> Result<V::Value, ConfigError> {
    match plain {
        Plain::Null => visitor.visit_unit(),
        Plain::Bool(value) => visitor.visit_bool(value),
        Plain::Unsigned(value) => visitor.visit_u64(value),
        Plain::Signed(value) => visitor.visit_i64(value),
        Plain::Float(value) => visitor.visit_f64(value),
        Plain::Text(value) => visitor.visit_str(value),
    }
}

macro_rules! as_typed {
    ($($method:ident)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConfigError> {
            self.typed(visitor)
        })*
    };
}

macro_rules! as_text {
    ($($method:ident)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConfigError> {
            self.text(visitor)
        })*
    };
}

impl<'de> Deserializer<'de> for NodeDeserializer<'_> {
    type Error = ConfigError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConfigError> {
        let result = match &self.node.content {
            Content::Scalar(scalar) => visit_plain(scalar.plain(), visitor),
            Content::List(items) => {
                visitor.visit_seq(Items { rest: items.iter(), index: 0, context: self.context })
            }
            Content::Map(entries) => self.map(entries, visitor),
        };
        result.map_err(|error| self.finish(error))
    }

    as_typed!(deserialize_bool deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128 deserialize_f32
        deserialize_f64);

    as_text!(deserialize_char deserialize_str deserialize_string deserialize_bytes deserialize_byte_buf
        deserialize_identifier);

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConfigError> {
        if self.node.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, ConfigError> {
        match &self.node.content {
            Content::Scalar(scalar) if name == Secret::NEWTYPE && !scalar.is_null() => {
                visitor.visit_str(&reveal(scalar, &self.node.place, self.context)?)
            }
            _ if name == Secret::NEWTYPE => self.deserialize_any(visitor),
            _ => visitor.visit_newtype_struct(self),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ConfigError> {
        let result = match &self.node.content {
            Content::Scalar(scalar) => visitor.visit_enum(scalar.text.as_str().into_deserializer()),
            Content::Map(entries) if entries.len() == 1 => {
                visitor.visit_enum(Choice { entry: &entries[0], context: self.context })
            }
            _ => Err(ConfigError::custom(format!(
                "{} was given where one choice is wanted: a name, or one key with its settings",
                self.node.noun()
            ))),
        };
        result.map_err(|error| self.finish(error))
    }

    /// Whoever ignores a value does not know its key.
    fn deserialize_ignored_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, ConfigError> {
        Err(ConfigError::new(&self.node.place, "unknown key; nothing reads it"))
    }

    forward_to_deserialize_any! { unit unit_struct seq tuple tuple_struct map struct }
}

/// The items of a list.
struct Items<'a> {
    rest: slice::Iter<'a, Node>,
    index: usize,
    context: &'a Context<'a>,
}

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = ConfigError;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, ConfigError> {
        let Some(node) = self.rest.next() else { return Ok(None) };
        let index = self.index;
        self.index += 1;
        let result = seed.deserialize(NodeDeserializer::new(node, self.context));
        result.map(Some).map_err(|error| error.under(&format!("[{index}]")))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.rest.len())
    }
}

/// The entries of a mapping.
struct Entries<'a> {
    rest: Peekable<slice::Iter<'a, (Name, Node)>>,
    /// How many were read whole, for errors about the key after them.
    read: &'a Cell<usize>,
    context: &'a Context<'a>,
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = ConfigError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, ConfigError> {
        let Some((name, _)) = self.rest.peek() else { return Ok(None) };
        seed.deserialize(key(name)).map(Some).map_err(|error| error.at(&name.place))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, ConfigError> {
        let Some((name, node)) = self.rest.next() else {
            return Err(ConfigError::custom("a value was read before its key"));
        };
        self.read.set(self.read.get() + 1);
        let result = seed.deserialize(NodeDeserializer::new(node, self.context));
        result.map_err(|error| error.under(&name.text))
    }
}

fn key(name: &Name) -> StrDeserializer<'_, ConfigError> {
    name.text.as_str().into_deserializer()
}

/// One key with its settings, as a choice.
struct Choice<'a> {
    entry: &'a (Name, Node),
    context: &'a Context<'a>,
}

impl<'a> Choice<'a> {
    fn value(&self) -> NodeDeserializer<'a> {
        NodeDeserializer::new(&self.entry.1, self.context)
    }

    fn under<T>(&self, result: Result<T, ConfigError>) -> Result<T, ConfigError> {
        result.map_err(|error| error.under(&self.entry.0.text))
    }
}

impl<'de> EnumAccess<'de> for Choice<'_> {
    type Error = ConfigError;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), ConfigError> {
        let name = &self.entry.0;
        let variant = seed.deserialize(key(name)).map_err(|error: ConfigError| error.at(&name.place))?;
        Ok((variant, self))
    }
}

impl<'de> VariantAccess<'de> for Choice<'_> {
    type Error = ConfigError;

    fn unit_variant(self) -> Result<(), ConfigError> {
        if self.entry.1.is_null() {
            return Ok(());
        }
        self.under(Err(ConfigError::new(&self.entry.1.place, "this choice has no settings; leave them out")))
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, ConfigError> {
        self.under(seed.deserialize(self.value()))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _len: usize, visitor: V) -> Result<V::Value, ConfigError> {
        self.under(self.value().deserialize_any(visitor))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ConfigError> {
        self.under(self.value().deserialize_any(visitor))
    }
}

/// Reads a part of a configuration into a type.
pub(crate) fn read<'de, T: Deserialize<'de>>(node: &Node, context: &Context<'_>) -> Result<T, ConfigError> {
    T::deserialize(NodeDeserializer::new(node, context))
}
