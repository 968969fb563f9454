//! Somebody who may write the folder, but has not the key, rewrites the record consistently.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use ring::signature::{Ed25519KeyPair, KeyPair as _};

use super::*;

struct Forger(Ed25519KeyPair);

impl Forger {
    fn new() -> Self {
        Self(Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap())
    }

    fn sign(&self, text: &str) -> String {
        BASE64_STANDARD.encode(self.0.sign(text.as_bytes()))
    }

    /// The same lines, edited, with every `prev` and `hash` right again. Signatures are made anew
    /// with a key of their own, or left as they are.
    fn rewrite(&self, dir: &Path, edit: (&str, &str), sign: bool) {
        let own = BASE64_STANDARD.encode(self.0.public_key());
        let (mut prev, mut seq) = ("0".repeat(64), 0);
        let forged: Vec<String> = lines(dir)
            .iter()
            .map(|line| {
                let (content, rest) = line.rsplit_once(",\"sig\":\"").unwrap();
                let (content, _) = content.rsplit_once("\"prev\":\"").unwrap();
                let mut content = format!("{content}\"prev\":\"{prev}\"").replace(edit.0, edit.1);
                let (mut signature, _) = rest.split_once('"').unwrap();
                let new;
                if sign {
                    content = content.replace(&key(dir).to_string(), &own);
                    new = self.sign(&format!("evenkeel audit line {}", sha256(&content)));
                    signature = &new;
                }
                let sealed = format!("{content},\"sig\":\"{signature}\"");
                prev = sha256(&sealed);
                seq += 1;
                format!("{sealed},\"hash\":\"{prev}\"}}")
            })
            .collect();
        put(dir, &forged);
        let signature = self.sign(&format!("evenkeel audit head {seq} {prev}"));
        let head = format!("2 {seq:020} {prev} {signature}");
        fs::write(dir.join("audit/HEAD"), format!("{head:<511}\n")).unwrap();
    }
}

#[test]
fn a_consistent_rewrite_is_found_with_the_key() {
    let edit = ("Deployment/shop/api to 2", "Deployment/shop/api to 9");
    let dir = recorded("forged");
    Forger::new().rewrite(&dir, edit, true);
    let check = Check::default();
    assert!(verify(&dir.join("audit"), &check).is_ok(), "the helper forges well");
    let found = finding(&dir);
    let expected = format!(
        "lines 1 to 7 | with the key: 000001.jsonl line 1: from here it is signed with the key {}, \
         not with {}: it was rewritten, or it is another record",
        BASE64_STANDARD.encode(Forger::new().0.public_key()),
        key(&dir)
    );
    assert_eq!(found, expected);

    // The door notices, too: it cannot continue what it did not sign.
    let reason = denied(&open(&dir));
    assert!(reason.contains("does not carry the signature of this key"), "{reason}");
}

#[test]
fn a_consistent_rewrite_with_the_old_signatures_is_found_without_the_key() {
    let dir = recorded("forged-hashes");
    Forger::new().rewrite(&dir, ("to 2", "to 9"), false);
    let found = finding(&dir);
    assert!(found.contains("it, or a line before, was rewritten"), "{found}");
}

#[test]
fn lines_added_by_somebody_else_are_found() {
    // Claims the right key, signs with another.
    let dir = recorded("forged-end");
    let forger = Forger::new();
    let last = lines(&dir).last().unwrap().clone();
    let prev = last.rsplit_once("\"hash\":\"").unwrap().1.trim_end_matches("\"}").to_owned();
    let content = format!(
        "{{\"v\":2,\"seq\":8,\"time\":\"1970-01-01T00:00:50Z\",\"kind\":\"lost\",\"lines\":1,\
         \"prev\":\"{prev}\""
    );
    let signature = forger.sign(&format!("evenkeel audit line {}", sha256(&content)));
    let sealed = format!("{content},\"sig\":\"{signature}\"");
    let line = format!("{sealed},\"hash\":\"{}\"}}", sha256(&sealed));
    let mut all = lines(&dir);
    all.push(line);
    put(&dir, &all);
    let found = finding(&dir);
    assert!(found.contains("line 8: it does not carry the signature of the key"), "{found}");
    let reason = denied(&open(&dir));
    assert!(reason.contains("does not carry the signature of this key"), "{reason}");
}
