//! What the flags of `evenkeel install` may be.

/// Where the controllers and their Leases are, unless another namespace is named.
pub(crate) const NAMESPACE: &str = "evenkeel";

/// The name of a namespace, as Kubernetes allows it.
pub(crate) fn namespace(text: &str) -> Result<String, String> {
    let is_inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let is_edge = |byte: Option<&u8>| byte.is_some_and(|byte| is_inner(*byte) && *byte != b'-');
    let bytes = text.as_bytes();
    let fits = bytes.len() <= 63
        && bytes.iter().all(|byte| is_inner(*byte))
        && is_edge(bytes.first())
        && is_edge(bytes.last());
    if fits {
        return Ok(text.to_owned());
    }
    Err("must be lower case letters, digits and '-', at most 63, with a letter or digit at both \
         ends"
        .to_owned())
}

/// A reference to an image: what may stand in one, so that it cannot end the text it stands in.
pub(crate) fn image(text: &str) -> Result<String, String> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/:@".contains(&byte);
    if !text.is_empty() && text.bytes().all(fits) {
        return Ok(text.to_owned());
    }
    Err("must be an image, such as registry.example.com/evenkeel:1.0".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_flag_can_end_the_text_it_stands_in() {
        for bad in ["", "Ops", "a\"", "-a", "a-", "a b", "a\n", &"a".repeat(64)] {
            assert!(namespace(bad).is_err(), "{bad}");
        }
        for bad in ["", "a b", "a\"", "a\n---"] {
            assert!(image(bad).is_err(), "{bad}");
        }
        assert_eq!(namespace("evenkeel-2"), Ok("evenkeel-2".to_owned()));
        assert!(image("localhost:5000/a/b@sha256:0123").is_ok());
    }
}
