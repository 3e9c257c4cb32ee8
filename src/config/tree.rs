//! The configuration before it has types: sections and keys as they were written, each with its place. The loader
//! grows it from file, environment and flags, later ones over earlier ones; serde then reads a `Config` out of it.
//! It never decides what a key means.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use serde::de::value::{Error, MapDeserializer, SeqDeserializer};
use serde::de::{Deserializer, Error as _, IntoDeserializer, Visitor};
use serde::forward_to_deserialize_any;
use toml::de::{DeTable, DeValue};

use super::{ConfigError, Place};

/// A section, or a value.
#[derive(Clone, Debug)]
pub(super) struct Node {
    /// Where it was written.
    pub(super) place: Place,
    /// What was written there.
    pub(super) value: Value,
}

/// What was written.
#[derive(Clone, Debug)]
pub(super) enum Value {
    /// A section.
    Table(BTreeMap<String, Node>),
    /// `[1, 2]`
    Array(Vec<Node>),
    /// `"text"`
    Text(String),
    /// `12`
    Integer(i64),
    /// `true`
    Boolean(bool),
    /// From a variable or a flag: whoever reads it knows whether it's a number, a list or a text.
    Untyped(String),
    /// What no key takes: fractions, dates, integers beyond 64 bits. As it was written.
    Other(String),
}

impl Node {
    /// An empty section.
    pub(super) fn section(place: Place) -> Self {
        Self { place, value: Value::Table(BTreeMap::new()) }
    }

    /// The sections and keys of a TOML file.
    ///
    /// # Errors
    /// [`ConfigError::Syntax`] with the line.
    pub(super) fn from_toml(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let place = |at: usize| Place::File {
            path: path.to_owned(),
            line: text.get(..at).unwrap_or(text).matches('\n').count() + 1,
        };
        let table = DeTable::parse(text).map_err(|error| ConfigError::Syntax {
            place: place(error.span().map_or(0, |span| span.start)),
            problem: error.message().to_owned(),
        })?;
        Ok(Self::from_table(table.get_ref(), place(0), &place))
    }

    fn from_table(table: &DeTable<'_>, at: Place, place: &impl Fn(usize) -> Place) -> Self {
        let entry = |key: &str, node| (key.to_owned(), node);
        let entries = table.iter().map(|(key, value)| {
            entry(key.get_ref(), Self::from_value(value.get_ref(), place(key.span().start), place))
        });
        Self { place: at, value: Value::Table(entries.collect()) }
    }

    fn from_value(value: &DeValue<'_>, at: Place, place: &impl Fn(usize) -> Place) -> Self {
        let value = match value {
            DeValue::Table(table) => return Self::from_table(table, at, place),
            DeValue::Array(items) => Value::Array(
                items
                    .iter()
                    .map(|item| Self::from_value(item.get_ref(), place(item.span().start), place))
                    .collect(),
            ),
            DeValue::String(text) => Value::Text(text.clone().into_owned()),
            DeValue::Integer(digits) => match i64::from_str_radix(digits.as_str(), digits.radix()) {
                Ok(number) => Value::Integer(number),
                Err(_) => Value::Other(digits.to_string()),
            },
            DeValue::Boolean(yes) => Value::Boolean(*yes),
            DeValue::Float(number) => Value::Other(number.to_string()),
            DeValue::Datetime(date) => Value::Other(date.to_string()),
        };
        Self { place: at, value }
    }

    /// Sets the key at that path, with the sections on the way.
    pub(super) fn set(&mut self, path: &[&str], place: &Place, text: &str) {
        let Some((first, rest)) = path.split_first() else {
            *self = Self { place: place.clone(), value: Value::Untyped(text.to_owned()) };
            return;
        };
        if !matches!(self.value, Value::Table(_)) {
            *self = Self::section(place.clone());
        }
        if let Value::Table(entries) = &mut self.value {
            let entry = entries.entry((*first).to_owned());
            entry.or_insert_with(|| Self::section(place.clone())).set(rest, place, text);
        }
    }

    /// What stands at that path.
    pub(super) fn get(&self, path: &[&str]) -> Option<&Self> {
        path.iter().try_fold(self, |node, key| node.entries()?.get(*key))
    }

    /// The keys of a section in this one.
    pub(super) fn get_mut(&mut self, section: &str) -> Option<&mut BTreeMap<String, Self>> {
        let Value::Table(entries) = &mut self.value else { return None };
        match &mut entries.get_mut(section)?.value {
            Value::Table(entries) => Some(entries),
            _ => None,
        }
    }

    /// A section's keys; `None` for a value.
    pub(super) fn entries(&self) -> Option<&BTreeMap<String, Self>> {
        match &self.value {
            Value::Table(entries) => Some(entries),
            _ => None,
        }
    }

    /// Takes over from another section what this one does not set.
    pub(super) fn inherit(&mut self, from: &Self) {
        if let (Value::Table(entries), Some(inherited)) = (&mut self.value, from.entries()) {
            for (key, node) in inherited {
                entries.entry(key.clone()).or_insert_with(|| node.clone());
            }
        }
    }

    /// A text, however it was written.
    pub(super) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) | Value::Untyped(text) => Some(text),
            _ => None,
        }
    }

    /// A whole number that is not negative, however it was written.
    pub(super) fn number(&self) -> Option<u64> {
        match &self.value {
            Value::Integer(number) => u64::try_from(*number).ok(),
            // As in TOML, underscores may group the digits.
            Value::Untyped(text) => text.replace('_', "").parse().ok(),
            _ => None,
        }
    }

    /// A list of texts: an array, or in a variable or flag texts between commas.
    pub(super) fn texts(&self) -> Option<Vec<String>> {
        match &self.value {
            Value::Array(items) => items.iter().map(|item| item.text().map(str::to_owned)).collect(),
            Value::Untyped(text) if text.trim_start().starts_with('[') => {
                let value = DeValue::parse(text.trim()).ok()?;
                Self::from_value(value.get_ref(), self.place.clone(), &|_| self.place.clone()).texts()
            }
            Value::Untyped(text) => Some(
                text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect(),
            ),
            _ => None,
        }
    }
}

/// As one would write it in the file.
impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Value::Table(_) => f.write_str("{…}"),
            Value::Array(items) => {
                f.write_str("[")?;
                for (index, item) in items.iter().enumerate() {
                    write!(f, "{}{item}", if index == 0 { "" } else { ", " })?;
                }
                f.write_str("]")
            }
            Value::Text(text) | Value::Untyped(text) => write!(f, "{text:?}"),
            Value::Integer(number) => write!(f, "{number}"),
            Value::Boolean(yes) => write!(f, "{yes}"),
            Value::Other(text) => f.write_str(text),
        }
    }
}

impl<'de> IntoDeserializer<'de, Error> for &'de Node {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

impl<'de> Deserializer<'de> for &'de Node {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match &self.value {
            Value::Table(entries) => visitor
                .visit_map(MapDeserializer::new(entries.iter().map(|(key, node)| (key.as_str(), node)))),
            Value::Array(items) => visitor.visit_seq(SeqDeserializer::new(items.iter())),
            Value::Text(text) | Value::Untyped(text) => visitor.visit_borrowed_str(text),
            Value::Integer(number) => visitor.visit_i64(*number),
            Value::Boolean(yes) => visitor.visit_bool(*yes),
            Value::Other(text) => Err(Error::custom(format_args!("{text} is no value of any key"))),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match &self.value {
            Value::Untyped(text) if text == "true" => visitor.visit_bool(true),
            Value::Untyped(text) if text == "false" => visitor.visit_bool(false),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_u64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.number() {
            Some(number) => visitor.visit_u64(number),
            None => self.deserialize_any(visitor),
        }
    }

    fn deserialize_u32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_u64(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.texts() {
            Some(texts) => visitor.visit_seq(SeqDeserializer::new(texts.into_iter())),
            None => self.deserialize_any(visitor),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self.text() {
            Some(text) => visitor.visit_enum(text.into_deserializer()),
            None => self.deserialize_any(visitor),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    forward_to_deserialize_any! {
        i8 i16 i32 i64 i128 u8 u16 u128 f32 f64 char str string bytes byte_buf unit unit_struct tuple
        tuple_struct map struct identifier ignored_any
    }
}
