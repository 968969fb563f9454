//! A page of a list, read object by object: a tree of all of them at once would be the most memory
//! that a process ever takes.

use std::fmt;

use evenkeel_api::Revision;
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::Value;

/// What a page says besides its objects.
#[derive(Debug, Default)]
pub(crate) struct Page {
    pub(crate) revision: Revision,
    /// Where the next page starts.
    pub(crate) next: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ListMeta {
    resource_version: Option<String>,
    r#continue: Option<String>,
}

impl Page {
    /// Reads a page, and hands each of its objects to `each`.
    ///
    /// **Errors**: it is not JSON, or not a list. Objects that came before were handed over. A list
    /// has a kind that ends in `List`, a revision and items: an empty object is not an empty list.
    pub(crate) fn read(
        body: &[u8],
        each: &mut dyn FnMut(Value),
    ) -> Result<Self, serde_json::Error> {
        let mut json = serde_json::Deserializer::from_slice(body);
        let page = Whole(each).deserialize(&mut json)?;
        json.end()?;
        Ok(page)
    }
}

/// The list itself.
struct Whole<'a>(&'a mut dyn FnMut(Value));

impl<'de> DeserializeSeed<'de> for Whole<'_> {
    type Value = Page;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Page, D::Error> {
        json.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Whole<'_> {
    type Value = Page;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of objects")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Page, A::Error> {
        let mut meta = ListMeta::default();
        let mut kind = String::new();
        let mut has_items = false;
        while let Some(name) = fields.next_key::<String>()? {
            match &*name {
                "metadata" => meta = fields.next_value::<Option<_>>()?.unwrap_or_default(),
                "kind" => kind = fields.next_value::<Option<_>>()?.unwrap_or_default(),
                "items" => {
                    fields.next_value_seed(Items(self.0))?;
                    has_items = true;
                }
                _ => {
                    fields.next_value::<IgnoredAny>()?;
                }
            }
        }
        if !kind.ends_with("List") {
            return Err(A::Error::custom(format!("it is not a list, its kind is {kind:?}")));
        }
        if !has_items {
            return Err(A::Error::missing_field("items"));
        }
        let revision = meta.resource_version.filter(|revision| !revision.is_empty());
        let revision = revision.ok_or_else(|| A::Error::missing_field("resourceVersion"))?;
        let revision = Revision(revision.into());
        Ok(Page { revision, next: meta.r#continue.filter(|token| !token.is_empty()) })
    }
}

/// Its objects. Those of an empty list may be `null`: a Go slice that nothing was put into.
struct Items<'a>(&'a mut dyn FnMut(Value));

impl<'de> DeserializeSeed<'de> for Items<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Items<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("objects, or null")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        while let Some(item) = items.next_element()? {
            (self.0)(item);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> Result<String, String> {
        let mut items = Vec::new();
        let page = Page::read(body.as_bytes(), &mut |item| items.push(item.to_string()));
        let page = page.map_err(|error| error.to_string())?;
        Ok(format!("{}@{} then {:?}", items.join(" "), page.revision, page.next))
    }

    #[test]
    fn a_page_is_taken_apart_whatever_the_order_of_its_fields() {
        let meta = r#""metadata": {"resourceVersion": "7", "continue": "", "remaining": 1}"#;
        let items = r#""items": [{"a": 1}, {}]"#;
        let first = read(&format!(r#"{{"kind": "List", {meta}, {items}}}"#));
        assert_eq!(first.unwrap(), r#"{"a":1} {}@7 then None"#);
        let second =
            read(&format!(r#"{{{items}, "apiVersion": "v1", {meta}, "kind": "PodList"}}"#));
        assert_eq!(second.unwrap(), r#"{"a":1} {}@7 then None"#);
        let more = r#"{"resourceVersion": "7", "continue": "next"}"#;
        let more = read(&format!(r#"{{"kind": "PodList", "items": null, "metadata": {more}}}"#));
        assert_eq!(more.unwrap(), r#"@7 then Some("next")"#);
    }

    #[test]
    fn what_is_no_list_is_an_error() {
        let whole = r#"{"kind": "PodList", "metadata": {"resourceVersion": "7"}, "items": []}"#;
        assert_eq!(read(whole).unwrap(), "@7 then None");
        for (part, instead) in [
            ("[]", "7"),
            ("[]}", "[]} x"),
            ("[]}", "["),
            (r#", "items": []"#, ""),
            ("\"7\"", "\"\""),
            ("\"7\"", "null"),
            (r#"{"resourceVersion": "7"}"#, "null"),
            (r#""metadata": {"resourceVersion": "7"}, "#, ""),
            ("PodList", "Pod"),
            (r#""PodList""#, "null"),
            (r#""kind": "PodList", "#, ""),
        ] {
            let body = whole.replace(part, instead);
            assert!(body != whole && read(&body).is_err(), "{body}");
        }
        for body in ["", "[]", "<html>", "{}", r#"{"status": "maintenance"}"#] {
            assert!(read(body).is_err(), "{body}");
        }
    }
}
