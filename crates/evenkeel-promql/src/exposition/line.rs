//! A cursor over one line of an exposition.

/// What is wrong, and at which byte of the line (from 0).
pub(super) type Bad = (usize, String);

pub(super) struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    pub(super) fn at(&self) -> usize {
        self.at
    }

    pub(super) fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    pub(super) fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    pub(super) fn skip_blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t')) {
            self.at += 1;
        }
    }

    pub(super) fn accept(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        if found {
            self.at += 1;
        }
        found
    }

    pub(super) fn expect(&mut self, byte: u8) -> Result<(), Bad> {
        if self.accept(byte) {
            return Ok(());
        }
        Err(self.bad(&format!("expected `{}`, {}", char::from(byte), self.found())))
    }

    pub(super) fn found(&self) -> String {
        match self.rest().chars().next() {
            Some(c) => format!("found `{}`", c.escape_debug()),
            None => "the line ends".to_owned(),
        }
    }

    pub(super) fn bad(&self, reason: &str) -> Bad {
        (self.at, reason.to_owned())
    }

    /// Bytes up to the next blank (or the end).
    pub(super) fn word(&mut self) -> &'a str {
        self.take_while(|b| b != b' ' && b != b'\t')
    }

    pub(super) fn take_while(&mut self, keep: impl Fn(u8) -> bool) -> &'a str {
        let start = self.at;
        while self.peek().is_some_and(&keep) {
            self.at += 1;
        }
        self.text.get(start..self.at).unwrap_or_default()
    }

    /// A bare metric or label name; empty if there is none.
    pub(super) fn name(&mut self, colons: bool) -> &'a str {
        if self.peek().is_some_and(|b| b.is_ascii_digit()) {
            return "";
        }
        self.take_while(|b| b == b'_' || (colons && b == b':') || b.is_ascii_alphanumeric())
    }

    /// A double-quoted text with `\\`, `\"` and `\n`.
    pub(super) fn quoted(&mut self) -> Result<String, Bad> {
        self.expect(b'"')?;
        let mut out = String::new();
        loop {
            let plain = self.take_while(|b| b != b'"' && b != b'\\');
            out.push_str(plain);
            if self.accept(b'"') {
                return Ok(out);
            }
            if !self.accept(b'\\') {
                return Err(self.bad("the quoted text does not end"));
            }
            match self.rest().chars().next() {
                Some('n') => out.push('\n'),
                Some(c @ ('"' | '\\')) => out.push(c),
                // Other escapes are kept as they are, as upstream's reader does.
                Some(c) => {
                    out.push('\\');
                    out.push(c);
                }
                None => return Err(self.bad("the quoted text does not end")),
            }
            self.at += self.rest().chars().next().map_or(0, char::len_utf8);
        }
    }
}
