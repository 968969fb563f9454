//! Nothing secret leaves in words: every log line, Event, record and error goes through here.
//!
//! Bodies of objects are never printed at all; what is left are URLs and other people's error
//! texts, which may quote what we sent.

use evenkeel_api::Key;

/// What stands in place of something secret.
pub const MASK: &str = "***";
/// Longest text of somebody else that is passed on: enough for a person, whatever a server says.
const TEXT_MAX: usize = 1_024;

/// A URL without user name, password, query values and fragment.
///
/// **Shape**: `https://host:port/path?name=***`. Text that is not a URL comes back with
/// everything between `//` and `@` masked.
pub fn url(text: &str) -> String {
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme, rest)) => (format!("{scheme}://"), rest),
        None => (String::new(), text),
    };
    let rest = rest.split('#').next().unwrap_or_default();
    let (place, query) = match rest.split_once('?') {
        Some((place, query)) => (place, Some(query)),
        None => (rest, None),
    };
    let (host, path) = match place.find('/') {
        Some(at) => place.split_at(at),
        None => (place, ""),
    };
    let host =
        host.rsplit_once('@').map_or_else(|| host.to_owned(), |(_, h)| format!("{MASK}@{h}"));
    let query = query.map(|query| {
        let names = query.split('&').map(|pair| match pair.split_once('=') {
            Some((name, _)) => format!("{name}={MASK}"),
            None => MASK.to_owned(),
        });
        format!("?{}", names.collect::<Vec<_>>().join("&"))
    });
    format!("{scheme}{host}{path}{}", query.unwrap_or_default())
}

/// Scheme and host only: for URLs whose path is the password (chat webhooks).
pub fn url_host(text: &str) -> String {
    let masked = url(text);
    let Some((scheme, rest)) = masked.split_once("://") else { return MASK.to_owned() };
    let host = rest.split(['/', '?']).next().unwrap_or_default();
    format!("{scheme}://{host}/{MASK}")
}

/// Somebody else's words, with the URLs in them masked, tokens removed, and cut to a bound.
pub fn text(words: &str) -> String {
    let mut out = String::with_capacity(words.len().min(TEXT_MAX));
    let mut secret_next = false;
    for (index, word) in words.split(' ').enumerate() {
        if index > 0 {
            out.push(' ');
        }
        if std::mem::take(&mut secret_next) {
            out.push_str(MASK);
            continue;
        }
        secret_next = ["bearer", "basic"].contains(&word.to_ascii_lowercase().as_str());
        if word.contains("://") {
            out.push_str(&quoted_url(word));
        } else {
            out.push_str(&assignment(word));
        }
        if out.len() > TEXT_MAX {
            out.truncate(out.floor_char_boundary(TEXT_MAX));
            out.push_str(" ...");
            break;
        }
    }
    out
}

/// The words of a server about an object whose content is secret: they may quote it.
pub fn about(key: &Key, words: &str) -> String {
    if is_secret(key) {
        return format!("the reason is withheld, it may quote the content of {key}");
    }
    text(words)
}

/// Whether an object's content must never be printed, whatever it says.
pub fn is_secret(key: &Key) -> bool {
    &*key.kind.kind == "Secret" && key.kind.group.is_empty()
}

/// Masks a URL that may stand in quotes or brackets.
fn quoted_url(word: &str) -> String {
    let is_edge = |c: char| "\"'`()[]<>{},;".contains(c);
    let start = word.find(|c| !is_edge(c)).unwrap_or(0);
    let (before, rest) = word.split_at(start);
    let end = rest.rfind(|c| !is_edge(c) && c != ':').map_or(rest.len(), |at| {
        at + rest.get(at..).and_then(|tail| tail.chars().next()).map_or(1, char::len_utf8)
    });
    let (inside, after) = rest.split_at(end);
    format!("{before}{}{after}", url(inside))
}

/// Masks `password=...` and the like.
fn assignment(word: &str) -> String {
    let Some((name, _)) = word.split_once('=') else { return word.to_owned() };
    let lower = name.to_ascii_lowercase();
    let secret = ["password", "passwd", "token", "secret", "apikey", "api_key", "authorization"];
    if secret.iter().any(|word| lower.ends_with(word)) {
        format!("{name}={MASK}")
    } else {
        word.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{ConfigMap, Secret};

    use super::*;

    #[test]
    fn urls_lose_what_gives_access() {
        let cases = [
            ("http://shop.test/gate", "http://shop.test/gate"),
            ("https://me:s3cret@shop.test:8443/a/b", "https://***@shop.test:8443/a/b"),
            ("https://shop.test/a?token=s3cret&b#s3cret", "https://shop.test/a?token=***&***"),
            ("me:s3cret@shop.test/a", "***@shop.test/a"),
            ("http://a@b:s3cret@shop.test", "http://***@shop.test"),
        ];
        for (given, expected) in cases {
            assert_eq!(url(given), expected);
        }
        assert_eq!(url_host("https://chat.test/services/T0/s3cret"), "https://chat.test/***");
        assert_eq!(url_host("s3cret"), MASK);
    }

    #[test]
    fn words_of_others_lose_urls_and_tokens() {
        let given = "cannot reach \"https://me:s3cret@shop.test/x?k=s3cret\": password=s3cret, \
                     sent Bearer s3cret again";
        assert_eq!(
            text(given),
            "cannot reach \"https://***@shop.test/x?k=***\": password=*** sent Bearer *** again"
        );
        assert!(text(&"long ".repeat(1_000)).len() < 1_100);
        assert_eq!(text("über://ä:s3cret@ü/ö"), "über://***@ü/ö");
    }

    #[test]
    fn what_a_server_says_about_a_secret_is_withheld() {
        let words = "data.key: Invalid value: \"s3cret\"";
        let secret = about(&Key::of::<Secret>("shop", "db"), words);
        assert!(!secret.contains("s3cret") && secret.contains("Secret/shop/db"), "{secret}");
        assert_eq!(about(&Key::of::<ConfigMap>("shop", "db"), words), words);
    }
}
