//! Removes secrets from text: every log line, Event, record and error goes through here.
//!
//! Bodies of objects are never printed at all; what is left are URLs and other people's error
//! texts, which may quote what we sent.

mod secrets;

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    fmt, panic,
};

use evenkeel_api::Key;
pub use secrets::Secrets;
use tracing::{Dispatch, dispatcher::get_default, subscriber::NoSubscriber};

/// Replaces a secret.
pub const MASK: &str = "***";
/// Longest text from another program that is passed on: enough for a person, whatever a server
/// sends, and the longest message that an Event may have.
pub const TEXT_MAX: usize = 1_024;
/// Longest value of a user's that is quoted in a message: enough to find it in the manifest.
pub const QUOTE_MAX: usize = 64;
/// What stands where a text was cut.
const CUT: &str = " ...";
/// Longest word after `basic` or `bearer` that may be prose.
const PROSE_MAX: usize = 16;

/// A URL without user name, password, query values and fragment.
///
/// **Shape**: `https://host:port/path?name=***`. Text that is not a URL comes back with
/// everything between `//` and `@` masked.
pub fn url(text: &str) -> String {
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme, rest)) => (format!("{scheme}://"), rest),
        None => (String::new(), text),
    };
    // A password with one of these in it, not encoded as it should be, ends too early.
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let port = authority.rsplit_once(':').map_or("", |(_, port)| port);
    let is_port = port.chars().all(|c| c.is_ascii_digit() || c == ']');
    let is_cut = !is_port && !authority.contains('@');
    let whole = rest.rsplit_once('@').filter(|_| is_cut).map(|(_, host)| format!("{MASK}@{host}"));
    let rest = whole.as_deref().unwrap_or(rest);
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

/// Text from another program, with the URLs in it masked, passwords and tokens removed, and cut to
/// [`TEXT_MAX`] bytes.
///
/// It stays one line, so that nobody's answer looks like lines of ours.
pub fn text(words: &str) -> String {
    short(words).replace(['\n', '\r'], " ")
}

fn short(words: &str) -> String {
    let mut out = masked(words, TEXT_MAX);
    if out.len() > TEXT_MAX {
        out.truncate(out.floor_char_boundary(TEXT_MAX - CUT.len()));
        out.push_str(CUT);
    }
    out
}

/// As [`text`], of any length: for the terminal of the user who asked.
pub fn whole(words: &str) -> String {
    masked(words, usize::MAX)
}

/// The text without secrets, cut after `max` bytes.
fn masked(words: &str, max: usize) -> String {
    let mut out = String::with_capacity(words.len().min(max));
    let mut before = "";
    for (index, word) in words.split_inclusive(char::is_whitespace).enumerate() {
        let bare = word.trim_end();
        let space = word.get(bare.len()..).unwrap_or_default();
        let masked = if index > 0 && is_credential(before, bare) {
            MASK.to_owned()
        } else if bare.contains("://") {
            quoted_url(bare)
        } else {
            assignments(bare)
        };
        out.push_str(&masked);
        out.push_str(space);
        if !bare.is_empty() {
            before = bare;
        }
        if out.len() > max {
            break;
        }
    }
    out
}

/// A value that a user wrote, in quotes, as [`text`] and cut to [`QUOTE_MAX`] bytes: the message
/// about it must not be lost behind it.
pub fn quote(value: &str) -> String {
    let value = short(value);
    if value.len() <= QUOTE_MAX {
        return format!("{value:?}");
    }
    let kept = value.get(..value.floor_char_boundary(QUOTE_MAX)).unwrap_or_default();
    format!("{kept:?}{CUT}")
}

/// Text about an object, as [`text`]; withheld when the object's content is secret, because the
/// text may quote it.
pub fn about(key: &Key, words: &str) -> String {
    if is_secret(key) { withheld(key) } else { text(words) }
}

/// As [`about`], by the printed name of the object.
pub(crate) fn about_named(object: &str, words: &str) -> String {
    if object.starts_with("Secret/") { withheld(object) } else { text(words) }
}

fn withheld(object: impl fmt::Display) -> String {
    format!("the reason is withheld, it may quote the content of {object}")
}

/// From now on a panic is logged as one line. The standard library prints the message as it is, and
/// it may quote a secret.
pub fn panics() {
    panic::set_hook(Box::new(|info| {
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        let error = text(info.payload_as_str().unwrap_or_default());
        if get_default(Dispatch::is::<NoSubscriber>) {
            say(&format!("panicked at {place}: {error}"));
            return;
        }
        tracing::error!(place, error, "panic");
        let trace = Backtrace::capture();
        if trace.status() == BacktraceStatus::Captured {
            tracing::error!(%trace, "panic");
        }
    }));
}

#[expect(
    clippy::print_stderr,
    reason = "there is no log, and a test's harness keeps what is printed"
)]
fn say(text: &str) {
    eprintln!("{text}");
}

/// Whether an object's content must never be printed.
pub fn is_secret(key: &Key) -> bool {
    &*key.kind.kind == "Secret" && key.kind.group.is_empty()
}

/// Whether a word is the credential that the `Authorization` header, flag or field before it
/// announces.
fn is_credential(before: &str, word: &str) -> bool {
    let plain = |word: &str| word.trim_matches(|c: char| !c.is_alphanumeric()).to_ascii_lowercase();
    let scheme = ["bearer", "basic"].contains(&plain(before).as_str());
    // `basic checks` is prose, `Basic dXNlcjpwYXNz` is not.
    let prose = word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_punctuation());
    let field = before.ends_with(':') || before.ends_with('=') || before.starts_with("--");
    let prose = prose && word.len() < PROSE_MAX;
    let name = plain(before);
    // `Secret: its content is ...` is prose, too.
    (scheme && !prose) || (field && names_secret(&name) && (name != "secret" || !prose))
}

/// Parts of names whose values are secret, in lower case and without separators.
const SECRET_PARTS: [&str; 13] = [
    "password",
    "passwd",
    "passphrase",
    "token",
    "secret",
    "secretkey",
    "apikey",
    "accesskey",
    "privatekey",
    "credential",
    "authorization",
    "cookie",
    "connectionstring",
];
/// Ends of such names; within a name they mean other things (`passes`, `bypass_cache`).
const SECRET_ENDS: [&str; 4] = ["pass", "pwd", "credentials", "tokens"];

/// Whether the field or variable of this name holds something secret: `DB_PASS`, `apiKey`,
/// `tokenSource`.
pub fn is_secret_name(name: &str) -> bool {
    let plain = plain(name);
    SECRET_PARTS.iter().any(|part| plain.contains(part)) || ends_secret(&plain)
}

/// Whether a word of a text that stands before `=` or `:` is such a name. In texts only the end
/// counts: `spec.secretRef: not found` is worth reading.
fn names_secret(name: &str) -> bool {
    let plain = plain(name);
    SECRET_PARTS.iter().any(|part| plain.ends_with(part)) || ends_secret(&plain)
}

fn ends_secret(plain: &str) -> bool {
    SECRET_ENDS.iter().any(|end| plain.ends_with(end))
}

fn plain(name: &str) -> String {
    name.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase()
}

/// Masks a URL that may be in quotes or brackets.
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

/// Masks the values in `password=...`, `"token":"..."` and similar text, which may be several.
fn assignments(word: &str) -> String {
    let Some(at) = word.find(['=', ':']) else { return word.to_owned() };
    let (name, value) = word.split_at(at);
    let mut value = value.chars();
    let sign = value.next().map(String::from).unwrap_or_default();
    let value = value.as_str();
    let bare = name.trim_end_matches(['"', '\'', '\\']);
    let bare = bare.rsplit(['{', ',', '&', '(', '[', '"', '\'', ';']).next().unwrap_or_default();
    if value.is_empty() || !names_secret(bare) {
        return format!("{name}{sign}{}", assignments(value));
    }
    // The value ends where its quotes do, or where the next one begins.
    let quote = value.trim_start_matches('\\').chars().next().filter(|c| "\"'".contains(*c));
    let open = value.find(|c| Some(c) == quote).map_or(0, |at| at + 1);
    let inside = value.get(open..).unwrap_or_default();
    let end = match quote {
        Some(quote) => inside.find(quote),
        None => inside.find(['&', ',', ';', '}', ')', ']']),
    };
    let end = end.and_then(|end| inside.get(..end)).map(|text| text.trim_end_matches('\\').len());
    let rest = end.and_then(|end| inside.get(end..)).unwrap_or_default();
    let before = value.get(..open).unwrap_or_default();
    format!("{name}{sign}{before}{MASK}{}", assignments(rest))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{ConfigMap, Secret};

    use super::*;

    #[test]
    fn a_long_value_is_cut_where_it_is_quoted() {
        assert_eq!(quote("ten\n"), "\"ten\\n\"");
        let long = quote(&"\u{e4}".repeat(5_000));
        assert!(long.len() < 80 && long.ends_with("\" ..."), "{long}");
        assert_eq!(quote("http://u:pw@x/"), "\"http://***@x/\"");
    }

    #[test]
    fn urls_lose_what_gives_access() {
        let cases = [
            ("http://shop.test/gate", "http://shop.test/gate"),
            ("https://me:pl4nted@shop.test:8443/a/b", "https://***@shop.test:8443/a/b"),
            ("https://shop.test/a?token=pl4nted&b#pl4nted", "https://shop.test/a?token=***&***"),
            ("me:pl4nted@shop.test/a", "***@shop.test/a"),
            ("http://a@b:pl4nted@shop.test", "http://***@shop.test"),
            ("http://me:pl4/nted@shop.test:80/a", "http://***@shop.test:80/a"),
            ("http://me:pl4?n#ted@shop.test", "http://***@shop.test"),
            ("http://[::1]:80/a@b", "http://[::1]:80/a@b"),
        ];
        for (given, expected) in cases {
            assert_eq!(url(given), expected);
        }
        assert_eq!(url_host("https://chat.test/services/T0/pl4nted"), "https://chat.test/***");
        assert_eq!(url_host("pl4nted"), MASK);
    }

    #[test]
    fn words_of_others_lose_urls_and_tokens() {
        let cases = [
            (
                "cannot reach \"https://me:pl4nted@shop.test/x?k=pl4nted\": refused",
                "cannot reach \"https://***@shop.test/x?k=***\": refused",
            ),
            ("password=pl4nted, user=me", "password=***, user=me"),
            ("sent Authorization: Bearer pl4nted again", "sent Authorization: *** *** again"),
            ("basic checks pass, the bearer waits", "basic checks pass, the bearer waits"),
            ("token: pl4nted\nand more", "token: *** and more"),
            (r#"{"user":"me","token":"pl4nted","n":1}"#, r#"{"user":"me","token":"***","n":1}"#),
            (r#"body {\"password\":\"pl4nted\"}"#, r#"body {\"password\":\"***\"}"#),
            ("a=1&access_token=pl4nted&b=2", "a=1&access_token=***&b=2"),
            ("run --password pl4nted now", "run --password *** now"),
            ("Secret: its content", "Secret: its content"),
            ("secret: pl4nted", "secret: ***"),
            ("über://ä:pl4nted@ü/ö", "über://***@ü/ö"),
            ("at 10:00:01: spec.token is missing", "at 10:00:01: spec.token is missing"),
        ];
        for (given, expected) in cases {
            assert_eq!(text(given), expected);
        }
        assert_eq!(text(&"long ".repeat(1_000)).len(), TEXT_MAX);
        assert!(text(&"ü".repeat(1_000)).len() <= TEXT_MAX);
        assert_eq!(whole(&"token: pl4nted ".repeat(1_000)), "token: *** ".repeat(1_000));
    }

    #[test]
    fn what_a_server_says_about_a_secret_is_withheld() {
        let words = "data.key: Invalid value: \"pl4nted\"";
        let secret = about(&Key::of::<Secret>("shop", "db"), words);
        assert!(!secret.contains("pl4nted") && secret.contains("Secret/shop/db"), "{secret}");
        assert_eq!(about(&Key::of::<ConfigMap>("shop", "db"), words), words);
    }
}
