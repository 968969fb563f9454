use super::{MASK, text};

/// Shortest piece of an address that is masked: `v1` and `api` are in many sentences.
const PIECE_MIN: usize = 4;

/// The credentials of a receiver. Receivers repeat what they were sent (`Cannot POST /services/T0`,
/// `invalid token abc`), also as bare words, which can be found only if the secrets are known.
///
/// **Shape**: the longest comes first.
#[derive(Clone, Default)]
pub struct Secrets(Vec<String>);

impl Secrets {
    /// User, password, query values and fragment of a URL.
    pub fn of_url(url: &str) -> Self {
        let mut secrets = Self::default();
        let (place, fragment) = url.split_once('#').unwrap_or((url, ""));
        let (place, query) = place.split_once('?').unwrap_or((place, ""));
        if let Some((user, _)) = after_scheme(place).rsplit_once('@') {
            secrets.add(user);
            user.split(':').for_each(|part| secrets.add(part));
        }
        for part in [query, fragment] {
            secrets.add(part);
            for pair in part.split('&') {
                secrets.add(pair.split_once('=').map_or(pair, |(_, value)| value));
            }
        }
        secrets
    }

    /// As [`Self::of_url`], and the path with each of its parts: for URLs whose path is the
    /// password (chat webhooks).
    pub fn of_whole_url(url: &str) -> Self {
        let mut secrets = Self::of_url(url);
        let place = url.split(['?', '#']).next().unwrap_or_default();
        if let Some((_, path)) = after_scheme(place).split_once('/') {
            secrets.add(path);
            path.split('/').for_each(|part| secrets.add(part));
        }
        secrets
    }

    /// These and another one.
    #[must_use]
    pub fn and(mut self, secret: &str) -> Self {
        self.add(secret);
        self
    }

    /// Adds a piece as it was sent, and as a receiver may write it.
    fn add(&mut self, piece: &str) {
        let decoded = decoded(piece);
        // Some JSON has `\/` for `/`.
        let escaped = [piece, &decoded].map(|piece| piece.replace('/', "\\/"));
        for piece in [piece, &decoded].into_iter().chain(escaped.iter().map(String::as_str)) {
            if piece.len() >= PIECE_MIN && !self.0.iter().any(|known| known == piece) {
                self.0.push(piece.to_owned());
            }
        }
        self.0.sort_by_key(|piece| std::cmp::Reverse(piece.len()));
    }

    /// The receiver's message as [`text`], and without these secrets, in upper and lower case.
    pub fn text(&self, words: &str) -> String {
        let mut words = words.to_owned();
        for secret in &self.0 {
            words = replaced(&words, secret);
        }
        text(&words)
    }
}

fn after_scheme(url: &str) -> &str {
    url.split_once("://").map_or(url, |(_, rest)| rest)
}

/// A text with the mask in the place of a word, which is not empty.
fn replaced(text: &str, word: &str) -> String {
    // Letters of other alphabets keep their case, so all places stay the same.
    let (lower, word) = (text.to_ascii_lowercase(), word.to_ascii_lowercase());
    let mut out = String::with_capacity(text.len());
    let mut done = 0;
    for (at, found) in lower.match_indices(&word) {
        out.push_str(text.get(done..at).unwrap_or_default());
        out.push_str(MASK);
        done = at + found.len();
    }
    out.push_str(text.get(done..).unwrap_or_default());
    out
}

/// A piece of a URL without percent encoding.
fn decoded(piece: &str) -> String {
    let mut bytes = Vec::with_capacity(piece.len());
    let mut rest = piece.as_bytes();
    while let [first, after @ ..] = rest {
        let code = after.get(..2).filter(|_| *first == b'%').map(String::from_utf8_lossy);
        let code = code.and_then(|code| u8::from_str_radix(&code, 16).ok());
        bytes.push(code.unwrap_or(*first));
        rest = after.get(if code.is_some() { 2 } else { 0 }..).unwrap_or_default();
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receiver_that_repeats_what_it_was_sent_gives_nothing_away() {
        let hook =
            "https://ann:pl4nted1@chat.test/services/T0/pl4nted2?key=pl4nted%2F3&x=1#pl4nted5";
        let whole = Secrets::of_whole_url(hook).and("pl4nted/4");
        let cases = [
            ("Cannot POST /services/T0/pl4nted2?key=pl4nted%2F3&x=1", "Cannot POST /***?***"),
            ("no hook PL4NTED2 for you", "no hook *** for you"),
            ("invalid token 'pl4nted/4'", "invalid token '***'"),
            (r#"{"error":"pl4nted\/4 or pl4nted/3?"}"#, r#"{"error":"*** or ***?"}"#),
            ("ann:pl4nted1, pl4nted1, pl4nted5", "***, ***, ***"),
            ("x=1 is ünknown", "x=1 is ünknown"),
        ];
        for (given, expected) in cases {
            assert_eq!(whole.text(given), expected);
        }
        // The path of a webhook is shown everywhere.
        let words = Secrets::of_url(hook).text("Cannot POST /services/T0/pl4nted2?key=pl4nted%2F3");
        assert_eq!(words, "Cannot POST /services/T0/pl4nted2?key=***");
        assert_eq!(Secrets::of_whole_url("http://a.test").text("a.test"), "a.test");
        assert_eq!(Secrets::of_url("http://a.test/?k=%zz%C3%BCüü%").text("ü%zzüüü%"), "ü***");
    }
}
