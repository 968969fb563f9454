//! A tree into Rust types.

use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Expected, IntoDeserializer, Unexpected, Visitor,
};

use crate::error::{Error, step};
use crate::node::{Content, Entry, Node, Scalar};
use crate::scalar::Resolved;

impl Node {
    /// Fills a Rust type as go-yaml fills a struct: text fields take the scalar as it was written,
    /// and null is the empty value.
    ///
    /// **Errors**: a field that is unknown, missing or of another type.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, Error> {
        T::deserialize(Reader(self)).map_err(|error| error.at(self.line))
    }
}

/// Reads one node.
struct Reader<'a>(&'a Node);

impl de::Error for Error {
    fn custom<T: std::fmt::Display>(problem: T) -> Self {
        Self::new(0, problem.to_string())
    }

    fn invalid_type(found: Unexpected<'_>, wanted: &dyn Expected) -> Self {
        Self::new(0, format!("must be {wanted}, not {found}"))
    }

    fn unknown_field(field: &str, known: &'static [&'static str]) -> Self {
        let alike = known.iter().find(|name| name.eq_ignore_ascii_case(field));
        let problem = match alike {
            Some(name) => format!("field {field} is not known here; write {name}"),
            None => format!("field {field} is not known here; known are {}", known.join(", ")),
        };
        Self::new(0, problem)
    }

    fn missing_field(field: &'static str) -> Self {
        Self::new(0, format!("has no {field}"))
    }
}

impl Reader<'_> {
    fn wrong<T>(&self, wanted: &str) -> Result<T, Error> {
        Err(Error::new(self.0.line, format!("must be {wanted}, not {}", self.0.described())))
    }

    fn resolved(&self) -> Option<Resolved> {
        match &self.0.content {
            Content::Scalar(scalar) => Some(scalar.resolved()),
            _ => None,
        }
    }
}

macro_rules! whole {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            let outcome = match self.resolved() {
                Some(Resolved::Null) => visitor.visit_u64(0),
                Some(Resolved::Int(number)) => match u64::try_from(number) {
                    Ok(number) => visitor.visit_u64(number),
                    Err(_) => visitor.visit_i64(number),
                },
                Some(Resolved::Large(number)) => visitor.visit_u64(number),
                _ => return self.wrong("a whole number"),
            };
            outcome.map_err(|error: Error| error.at(self.0.line))
        }
    )*};
}

macro_rules! text {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            let Content::Scalar(scalar) = &self.0.content else { return self.wrong("a text") };
            let text = if scalar.resolved() == Resolved::Null { "" } else { &scalar.text };
            visitor.visit_str(text).map_err(|error: Error| error.at(self.0.line))
        }
    )*};
}

impl<'de> de::Deserializer<'de> for Reader<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let outcome = match &self.0.content {
            Content::List(items) => return visitor.visit_seq(Items { items, at: 0 }),
            Content::Map(entries) => return visitor.visit_map(Pairs { entries, at: 0 }),
            Content::Scalar(scalar) => match scalar.resolved() {
                Resolved::Null => visitor.visit_unit(),
                Resolved::Bool(flag) => visitor.visit_bool(flag),
                Resolved::Int(number) => visitor.visit_i64(number),
                Resolved::Large(number) => visitor.visit_u64(number),
                Resolved::Float(number) => visitor.visit_f64(number),
                Resolved::Text => visitor.visit_str(&scalar.text),
            },
        };
        outcome.map_err(|error: Error| error.at(self.0.line))
    }

    whole!(deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128);
    text!(deserialize_char deserialize_str deserialize_string deserialize_identifier);

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.resolved() {
            Some(Resolved::Bool(flag)) => visitor.visit_bool(flag),
            Some(Resolved::Null) => visitor.visit_bool(false),
            _ => self.wrong("true or false"),
        }
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_f64(visitor)
    }

    #[expect(clippy::cast_precision_loss, reason = "a field of type float takes what is nearest")]
    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.resolved() {
            Some(Resolved::Float(number)) => visitor.visit_f64(number),
            Some(Resolved::Int(number)) => visitor.visit_f64(number as f64),
            Some(Resolved::Large(number)) => visitor.visit_f64(number as f64),
            Some(Resolved::Null) => visitor.visit_f64(0.0),
            _ => self.wrong("a number"),
        }
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.0.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.0.is_null() { visitor.visit_unit() } else { self.wrong("empty") }
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_unit(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match &self.0.content {
            Content::List(items) => visitor.visit_seq(Items { items, at: 0 }),
            Content::Scalar(_) if self.0.is_null() => {
                visitor.visit_seq(Items { items: &[], at: 0 })
            }
            _ => self.wrong("a list"),
        }
    }

    fn deserialize_tuple<V: Visitor<'de>>(
        self,
        _length: usize,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _length: usize,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let line = self.0.line;
        let entries = match &self.0.content {
            Content::Map(entries) => entries.as_slice(),
            Content::Scalar(_) if self.0.is_null() => &[],
            _ => return self.wrong("a mapping"),
        };
        visitor.visit_map(Pairs { entries, at: 0 }).map_err(|error| error.at(line))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_map(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let Content::Scalar(scalar) = &self.0.content else { return self.wrong("a text") };
        let outcome = visitor.visit_enum(scalar.text.as_str().into_deserializer());
        outcome.map_err(|error: Error| error.at(self.0.line))
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }
}

struct Items<'a> {
    items: &'a [Node],
    at: usize,
}

impl<'de> de::SeqAccess<'de> for Items<'_> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Error> {
        let Some(item) = self.items.get(self.at) else { return Ok(None) };
        let at = self.at;
        self.at += 1;
        let within = |error: Error| error.at(item.line).below(&format!("[{at}]"));
        seed.deserialize(Reader(item)).map(Some).map_err(within)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.items.len() - self.at)
    }
}

struct Pairs<'a> {
    entries: &'a [Entry],
    at: usize,
}

impl<'de> de::MapAccess<'de> for Pairs<'_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Error> {
        let Some(Entry { key, key_line, .. }) = self.entries.get(self.at) else { return Ok(None) };
        // A key is text for Go, whatever it looks like: map[string]T and field names.
        let text = Scalar { text: key.text.clone(), plain: false };
        let node = Node { line: *key_line, content: Content::Scalar(text) };
        seed.deserialize(Reader(&node)).map(Some).map_err(|error| error.at(*key_line))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let Some(Entry { key, value, .. }) = self.entries.get(self.at) else {
            return Err(de::Error::custom("internal error: a value was read before its key"));
        };
        self.at += 1;
        let within = |error: Error| error.at(value.line).below(&step(&key.text));
        seed.deserialize(Reader(value)).map_err(within)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.entries.len() - self.at)
    }
}
