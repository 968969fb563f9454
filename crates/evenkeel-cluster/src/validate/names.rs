//! The shapes of names. Every function says what a good name looks like, as Kubernetes does.

fn is_alnum(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit()
}

fn shaped(text: &str, inner: impl Fn(char) -> bool, edge: impl Fn(char) -> bool) -> bool {
    !text.is_empty() && text.chars().all(inner) && text.starts_with(&edge) && text.ends_with(&edge)
}

/// RFC 1123 label.
pub(super) fn label(text: &str) -> Result<(), &'static str> {
    if text.len() > 63 {
        return Err("must be no more than 63 bytes");
    }
    if shaped(text, |c| is_alnum(c) || c == '-', is_alnum) {
        return Ok(());
    }
    Err("a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', \
         and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', \
         regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')")
}

/// RFC 1123 subdomain: the name of most objects.
pub(super) fn subdomain(text: &str) -> Result<(), &'static str> {
    if text.len() > 253 {
        return Err("must be no more than 253 bytes");
    }
    let part = |part: &str| shaped(part, |c| is_alnum(c) || c == '-', is_alnum);
    if text.split('.').all(part) {
        return Ok(());
    }
    Err("a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' \
         or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex \
         used for validation is \
         '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')")
}

/// RFC 1035 label: the name of a Service.
pub(super) fn service(text: &str) -> Result<(), &'static str> {
    let starts = text.starts_with(|c: char| c.is_ascii_lowercase());
    if text.len() <= 63 && starts && shaped(text, |c| is_alnum(c) || c == '-', is_alnum) {
        return Ok(());
    }
    Err("a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with \
         an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or \
         'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')")
}

/// Name of a label or annotation: `prefix/name` or `name`.
pub(super) fn qualified(text: &str) -> Result<(), &'static str> {
    let (prefix, name) = match text.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, text),
    };
    if prefix.is_some_and(|prefix| subdomain(prefix).is_err()) {
        return Err("prefix part must be a lowercase RFC 1123 subdomain (e.g. 'example.com')");
    }
    let edge = |c: char| c.is_ascii_alphanumeric();
    if name.len() <= 63 && shaped(name, |c| edge(c) || "-_.".contains(c), edge) {
        return Ok(());
    }
    Err("name part must consist of alphanumeric characters, '-', '_' or '.', and must start and \
         end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex \
         used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')")
}

/// Value of a label.
pub(super) fn label_value(text: &str) -> Result<(), &'static str> {
    let edge = |c: char| c.is_ascii_alphanumeric();
    if text.len() > 63 {
        return Err("must be no more than 63 bytes");
    }
    if text.is_empty() || shaped(text, |c| edge(c) || "-_.".contains(c), edge) {
        return Ok(());
    }
    Err("a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or \
         '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or \
         'my_value',  or '12345', regex used for validation is \
         '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')")
}

/// Name of a port.
pub(super) fn port_name(text: &str) -> Result<(), &'static str> {
    if text.len() > 15 {
        return Err("must be no more than 15 characters");
    }
    let letter = text.contains(|c: char| c.is_ascii_lowercase());
    if letter && !text.contains("--") && shaped(text, |c| is_alnum(c) || c == '-', is_alnum) {
        return Ok(());
    }
    Err("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-), at least one \
         letter, and start and end with an alpha-numeric character")
}

/// Key of a value in a config map or secret.
pub(super) fn config_key(text: &str) -> Result<(), &'static str> {
    let fine = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if !text.is_empty() && text.len() <= 253 && text.chars().all(fine) && !text.starts_with("..") {
        return Ok(());
    }
    Err("a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. \
         'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is \
         '[-._a-zA-Z0-9]+')")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_each_shape() {
        for (text, is_label, is_subdomain, is_service) in [
            ("web", true, true, true),
            ("1web", true, true, false),
            ("web.shop", false, true, false),
            ("Web", false, false, false),
            ("-web", false, false, false),
            ("web-", false, false, false),
            ("web..a", false, false, false),
            ("", false, false, false),
        ] {
            assert_eq!(label(text).is_ok(), is_label, "{text}");
            assert_eq!(subdomain(text).is_ok(), is_subdomain, "{text}");
            assert_eq!(service(text).is_ok(), is_service, "{text}");
        }
        assert!(qualified("app.kubernetes.io/Name_1").is_ok() && qualified("a/b/c").is_err());
        assert!(label_value("").is_ok() && label_value("v1.2_3").is_ok());
        assert!(label_value("a b").is_err() && port_name("http-1").is_ok());
        assert!(port_name("80").is_err() && config_key("a b").is_err());
    }
}
