//! A copy of a store as one file.
//!
//! **Shape**: a line of JSON with format, revision, counters and number of objects; each object as
//! a line of JSON; a last line with the SHA-256 of all lines before it.

use std::sync::Arc;

use evenkeel_api::Obj;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{Batch, Counters, Entry, Journal, JournalError, Kept};

/// The format that is written.
const FORMAT: u64 = 1;
/// What the first line begins with, so that another file is recognised as such.
const KIND: &str = "evenkeel snapshot";

/// The bytes of a snapshot.
pub fn to_snapshot(kept: &Kept) -> Vec<u8> {
    let Counters { address, port } = kept.counters;
    let head = json!({"kind": KIND, "format": FORMAT, "revision": kept.revision,
        "address": address, "port": port, "objects": kept.objects.len()});
    let mut text = format!("{head}\n");
    for obj in &kept.objects {
        text.push_str(&obj.json().to_string());
        text.push('\n');
    }
    let sum = sum(text.as_bytes());
    text.push_str(&sum);
    text.push('\n');
    text.into_bytes()
}

/// Puts a snapshot into an empty journal; `place` is its file, for errors. Returns what it holds.
/// Its revision is at least `revision_min`, which clients may have seen.
///
/// **Errors**: it is not a snapshot, is not whole, or is of a later format; or the journal's. Then
/// nothing has been written.
pub fn restore(
    snapshot: &[u8],
    place: &str,
    revision_min: u64,
    journal: &mut dyn Journal,
) -> Result<Kept, JournalError> {
    let mut kept = parse(snapshot, place)?;
    kept.revision = kept.revision.max(revision_min);
    let entry =
        |obj: &Arc<Obj>| Entry { key: obj.key().clone(), before: None, after: Some(obj.clone()) };
    journal.write(&Batch {
        revision: kept.revision,
        counters: kept.counters,
        changes: kept.objects.iter().map(entry).collect(),
    })?;
    Ok(kept)
}

fn parse(snapshot: &[u8], place: &str) -> Result<Kept, JournalError> {
    let odd =
        |problem: &str| JournalError::Open { place: place.to_owned(), problem: problem.to_owned() };
    let text = str::from_utf8(snapshot).map_err(|_| odd("it is not a snapshot"))?;
    let (head, _) = text.split_once('\n').ok_or_else(|| odd("it is not a snapshot"))?;
    let head: Value = serde_json::from_str(head).map_err(|_| odd("it is not a snapshot"))?;
    if head.get("kind").and_then(Value::as_str) != Some(KIND) {
        return Err(odd("it is not a snapshot"));
    }
    let number = |name: &str| head.get(name).and_then(Value::as_u64);
    let found = number("format").unwrap_or_default();
    if found > FORMAT {
        return Err(JournalError::Newer { place: place.to_owned(), found, known: FORMAT });
    }
    let whole = text.strip_suffix('\n').and_then(|text| text.rsplit_once('\n'));
    let (lines, said) = whole.ok_or_else(|| odd("its end is missing"))?;
    if sum(format!("{lines}\n").as_bytes()) != said {
        return Err(odd("it is damaged or not whole: its checksum does not fit"));
    }
    let small = |name: &str| number(name).and_then(|number| u16::try_from(number).ok());
    let (Some(revision), Some(address), Some(port)) =
        (number("revision"), small("address"), small("port"))
    else {
        return Err(odd("its first line is not complete"));
    };
    let mut objects = Vec::new();
    for line in lines.lines().skip(1) {
        let body = serde_json::from_str(line).map_err(|error| odd(&error.to_string()))?;
        objects.push(Arc::new(Obj::from_json(body).map_err(|error| odd(&error.to_string()))?));
    }
    if number("objects") != u64::try_from(objects.len()).ok() {
        return Err(odd("its number of objects does not fit"));
    }
    Ok(Kept { revision, counters: Counters { address, port }, objects })
}

fn sum(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_is_whole_or_refused() {
        let obj = json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "a", "namespace": "default"}, "data": {"text": "a\nb"}});
        let obj = Arc::new(Obj::from_json(obj).unwrap());
        let counters = Counters { address: 3, port: 4 };
        let kept = Kept { revision: 7, counters, objects: vec![obj.clone()] };
        let bytes = to_snapshot(&kept);
        let again = parse(&bytes, "f").unwrap();
        assert_eq!((again.revision, again.counters), (7, counters));
        assert_eq!(again.objects[0].json(), obj.json());
        for length in 0..bytes.len() {
            assert!(parse(&bytes[..length], "f").is_err(), "cut at {length}");
        }
        for at in 0..bytes.len() {
            let mut bytes = bytes.clone();
            bytes[at] ^= 1;
            assert!(parse(&bytes, "f").is_err(), "changed at {at}");
        }
        let newer = str::from_utf8(&bytes).unwrap().replace("\"format\":1", "\"format\":2");
        assert!(matches!(parse(newer.as_bytes(), "f"), Err(JournalError::Newer { found: 2, .. })));
    }
}
