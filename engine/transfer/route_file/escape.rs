//! Texts as one word: every byte that is not plain is written as `%` and two hexadecimal digits.

/// A text as one word.
pub(in crate::transfer) fn escape(text: &str) -> String {
    let mut word = String::with_capacity(text.len());
    for &byte in text.as_bytes() {
        if byte.is_ascii_alphanumeric() || b"._:/-+,".contains(&byte) {
            word.push(char::from(byte));
        } else {
            word.push_str(&format!("%{byte:02x}"));
        }
    }
    word
}

/// The text of such a word; `None` if it is none.
pub(in crate::transfer) fn unescape(word: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(word.len());
    let mut rest = word.as_bytes().iter().copied();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || char::from(rest.next()?).to_digit(16);
        let (high, low) = (digit()?, digit()?);
        bytes.push(u8::try_from(high * 16 + low).ok()?);
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_text_survives() {
        for text in ["", "plain-1.2", "a b=c%\n\t", "→ ünï", "%zz"] {
            let word = escape(text);
            assert!(!word.contains([' ', '\n', '=']), "{word}");
            assert_eq!(unescape(&word).as_deref(), Some(text));
        }
    }

    #[test]
    fn what_is_no_word_is_refused() {
        for word in ["%", "%4", "%zz", "%ff"] {
            assert_eq!(unescape(word), None, "{word}");
        }
    }
}
