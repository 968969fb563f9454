use super::Rng;

/// The letters Kubernetes uses in generated names: no vowels, nothing that reads as another.
const SUFFIX_LETTERS: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// A generated-name suffix of five letters, as `generateName` appends it.
///
/// **Source**: `k8s.io/apimachinery/pkg/util/rand`.
pub fn name_suffix(rng: &mut Rng) -> String {
    (0..5)
        .map(|_| {
            let at = usize::try_from(rng.below(27)).unwrap_or_default();
            char::from(SUFFIX_LETTERS[at])
        })
        .collect()
}

/// A version 4 UUID from `rng`, in the usual text form.
pub fn uid(rng: &mut Rng) -> String {
    let high = (rng.next_u64() & 0xffff_ffff_ffff_0fff) | 0x4000;
    let low = (rng.next_u64() & 0x3fff_ffff_ffff_ffff) | 0x8000_0000_0000_0000;
    format!(
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        high >> 32,
        (high >> 16) & 0xffff,
        high & 0xffff,
        low >> 48,
        low & 0xffff_ffff_ffff
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_their_usual_shape() {
        let mut rng = Rng::new(3);
        let id = uid(&mut rng);
        assert_eq!(id.len(), 36);
        assert_eq!(id.as_bytes()[14], b'4');
        assert!(matches!(id.as_bytes()[19], b'8' | b'9' | b'a' | b'b'));
        let suffix = name_suffix(&mut rng);
        assert!(suffix.len() == 5 && suffix.bytes().all(|b| SUFFIX_LETTERS.contains(&b)));
    }
}
