//! Decoding a type asks, field by field, for what it expects. This decoder records the requests and
//! answers each with the simplest value that fits.

use std::fmt;

use serde::{
    Deserialize,
    de::{self, DeserializeSeed, IntoDeserializer as _, MapAccess, SeqAccess, Visitor},
    forward_to_deserialize_any,
};
use serde_json::{Map, Value, json};

/// Adds the schemas of all structs below `T` to `schemas` under `PREFIX` and their names; returns
/// the schema of `T` itself.
pub(crate) fn describe<'de, T: Deserialize<'de>>(schemas: &mut Map<String, Value>) -> Value {
    let mut schema = json!({"type": "object"});
    let probe = Probe { schema: &mut schema, schemas, is_root: true, sample: "" };
    // A type with an unusual part is described up to it.
    if let Err(Stopped) = T::deserialize(probe) {
        tracing::debug!(kind = std::any::type_name::<T>(), "not described whole");
    }
    schema
}

/// Prefix of the names of the schemas of parts.
pub const PREFIX: &str = "io.k8s.api.";

/// Something that no answer fits.
#[derive(Debug)]
struct Stopped;

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no simple value fits")
    }
}

impl std::error::Error for Stopped {}

impl de::Error for Stopped {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self
    }
}

struct Probe<'a> {
    /// The result.
    schema: &'a mut Value,
    schemas: &'a mut Map<String, Value>,
    is_root: bool,
    /// A text of the right form.
    sample: &'static str,
}

impl Probe<'_> {
    fn fields<'de, V: Visitor<'de>>(
        schemas: &mut Map<String, Value>,
        schema: &mut Value,
        names: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Stopped> {
        let mut properties = Map::new();
        let done = visitor.visit_map(Fields { names, at: 0, schemas, properties: &mut properties });
        *schema = json!({"type": "object", "properties": properties});
        done
    }
}

impl<'de> de::Deserializer<'de> for Probe<'_> {
    type Error = Stopped;

    /// Asked for by what is an integer or a text, and by free-form JSON.
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stopped> {
        if self.schema.is_null() {
            *self.schema = json!({"type": "string", "format": "int-or-string"});
        }
        visitor.visit_i64(0)
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stopped> {
        *self.schema = json!({"type": "boolean"});
        visitor.visit_bool(false)
    }

    fn deserialize_i32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stopped> {
        *self.schema = json!({"type": "integer", "format": "int32"});
        visitor.visit_i32(0)
    }

    fn deserialize_i64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stopped> {
        *self.schema = json!({"type": "integer", "format": "int64"});
        visitor.visit_i64(0)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stopped> {
        *self.schema = json!({"type": "number", "format": "double"});
        visitor.visit_f64(0.0)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stopped> {
        if self.schema.is_null() {
            *self.schema = json!({"type": "string"});
        }
        visitor.visit_str(self.sample)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stopped> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stopped> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        mut self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Stopped> {
        *self.schema = match name {
            "Time" | "MicroTime" => {
                self.sample = "1970-01-01T00:00:00.000000Z";
                json!({"type": "string", "format": "date-time"})
            }
            "Quantity" => json!({"type": "string"}),
            _ => json!({"type": "object"}),
        };
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stopped> {
        let mut items = Value::Null;
        let one = One { schemas: self.schemas, schema: &mut items, has_key: false, done: false };
        let list = visitor.visit_seq(one);
        *self.schema = json!({"type": "array", "items": items});
        list
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stopped> {
        let mut items = Value::Null;
        let one = One { schemas: self.schemas, schema: &mut items, has_key: false, done: false };
        let map = visitor.visit_map(one);
        *self.schema = json!({"type": "object", "additionalProperties": items});
        map
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        names: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Stopped> {
        if self.is_root {
            return Self::fields(self.schemas, self.schema, names, visitor);
        }
        let component = format!("{PREFIX}{name}");
        *self.schema = json!({"$ref": format!("#/components/schemas/{component}")});
        if self.schemas.contains_key(&component) {
            // Known already, or being described further up.
            return Self::fields(&mut Map::new(), &mut Value::Null, &[], visitor);
        }
        self.schemas.insert(component.clone(), json!({"type": "object"}));
        let mut schema = Value::Null;
        let part = Self::fields(self.schemas, &mut schema, names, visitor);
        self.schemas.insert(component, schema);
        part
    }

    forward_to_deserialize_any! {
        i8 i16 i128 u8 u16 u32 u64 u128 f32 char bytes byte_buf unit unit_struct tuple
        tuple_struct enum identifier ignored_any
    }
}

/// Gives every field of a struct once.
struct Fields<'a> {
    names: &'static [&'static str],
    at: usize,
    schemas: &'a mut Map<String, Value>,
    properties: &'a mut Map<String, Value>,
}

impl<'de> MapAccess<'de> for Fields<'_> {
    type Error = Stopped;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Stopped> {
        // A type checks these against what it is.
        while let Some("apiVersion" | "kind") = self.names.get(self.at).copied()
            && self.names.contains(&"metadata")
        {
            self.properties.insert(self.names[self.at].to_owned(), json!({"type": "string"}));
            self.at += 1;
        }
        let Some(name) = self.names.get(self.at) else { return Ok(None) };
        let name: de::value::StrDeserializer<'_, Stopped> = (*name).into_deserializer();
        seed.deserialize(name).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Stopped> {
        let mut schema = Value::Null;
        let schemas = &mut *self.schemas;
        let probe = Probe { schema: &mut schema, schemas, is_root: false, sample: "" };
        let value = seed.deserialize(probe);
        let name = self.names.get(self.at).copied().unwrap_or_default();
        self.properties.insert(name.to_owned(), schema);
        self.at += 1;
        value
    }
}

/// Gives one element, or one entry.
struct One<'a> {
    schemas: &'a mut Map<String, Value>,
    schema: &'a mut Value,
    has_key: bool,
    done: bool,
}

impl<'de> SeqAccess<'de> for One<'_> {
    type Error = Stopped;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Stopped> {
        if std::mem::replace(&mut self.done, true) {
            return Ok(None);
        }
        let (schema, schemas) = (&mut *self.schema, &mut *self.schemas);
        seed.deserialize(Probe { schema, schemas, is_root: false, sample: "" }).map(Some)
    }
}

impl<'de> MapAccess<'de> for One<'_> {
    type Error = Stopped;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Stopped> {
        if std::mem::replace(&mut self.has_key, true) {
            return Ok(None);
        }
        let name: de::value::StrDeserializer<'_, Stopped> = "name".into_deserializer();
        seed.deserialize(name).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Stopped> {
        let (schema, schemas) = (&mut *self.schema, &mut *self.schemas);
        seed.deserialize(Probe { schema, schemas, is_root: false, sample: "" })
    }
}
