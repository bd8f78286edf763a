//! How a tokenizer makes text of tokens: which of the two common decoders it has, and what one token is to it.

use serde_json::Value;

/// How the tokenizer's decoder makes text of tokens.
#[derive(Debug, PartialEq)]
pub(super) enum Decoding {
    ByteLevel,
    SentencePiece(SentencePiece),
    Other,
}

/// The steps of a SentencePiece decoder; each but `replace` may be missing.
#[derive(Debug, Default, PartialEq)]
pub(super) struct SentencePiece {
    /// In each token: ("▁", " ").
    replace: Vec<(String, String)>,
    /// Whether "\<0xE2\>" is a byte.
    byte_fallback: bool,
    fuse: bool,
    /// A character, and how many of it the text loses at its beginning.
    pub(super) strip: Option<(char, usize)>,
}

impl Decoding {
    pub(super) fn of(tokenizer: &tokenizers::Tokenizer) -> Self {
        let decoder = serde_json::to_value(tokenizer.get_decoder()).unwrap_or_default();
        if decoder["type"] == "ByteLevel" {
            return Self::ByteLevel;
        }
        let steps = decoder["decoders"].as_array().map_or(&[][..], Vec::as_slice);
        match steps {
            [only] if only["type"] == "ByteLevel" => Self::ByteLevel,
            [] => Self::Other,
            _ => SentencePiece::of(steps).map_or(Self::Other, Self::SentencePiece),
        }
    }

    /// The bytes that one token adds to a text.
    pub(super) fn bytes(&self, tokenizer: &tokenizers::Tokenizer, id: u32) -> Option<Vec<u8>> {
        let token = token(tokenizer, id)?;
        Some(match self {
            Self::ByteLevel => bytes_of(&token),
            Self::SentencePiece(_) | Self::Other => match self.unit(token) {
                Unit::Text(text) => text.into_bytes(),
                Unit::Byte(byte) => vec![byte],
            },
        })
    }

    /// A token after the steps that see one token at a time.
    pub(super) fn unit(&self, mut token: String) -> Unit {
        let Self::SentencePiece(steps) = self else { return Unit::Text(token) };
        for (pattern, content) in &steps.replace {
            token = token.replace(pattern, content);
        }
        match byte_of(&token).filter(|_| steps.byte_fallback) {
            Some(byte) => Unit::Byte(byte),
            None => Unit::Text(token),
        }
    }
}

impl SentencePiece {
    /// `None` if the steps are others, or in another order.
    fn of(steps: &[Value]) -> Option<Self> {
        let mut known = Self::default();
        for step in steps {
            let later = known.byte_fallback || known.fuse || known.strip.is_some();
            match step["type"].as_str()? {
                "Replace" if !later => {
                    let pattern = step["pattern"]["String"].as_str().filter(|p| !p.is_empty())?;
                    known.replace.push((pattern.into(), step["content"].as_str()?.into()));
                }
                "ByteFallback" if !later => known.byte_fallback = true,
                "Fuse" if known.strip.is_none() => known.fuse = true,
                "Strip" if known.fuse && known.strip.is_none() && step["stop"] == 0 => {
                    let start = usize::try_from(step["start"].as_u64()?).ok()?;
                    known.strip = Some((step["content"].as_str()?.chars().next()?, start));
                }
                _ => return None,
            }
        }
        Some(known)
    }
}

/// What one token is.
pub(super) enum Unit {
    Text(String),
    Byte(u8),
}

/// The token's text in the vocabulary, as `decode` looks it up.
pub(super) fn token(tokenizer: &tokenizers::Tokenizer, id: u32) -> Option<String> {
    tokenizer.get_added_vocabulary().simple_id_to_token(id).or_else(|| tokenizer.id_to_token(id))
}

/// The bytes of a byte-level token. A token with a letter that stands for no byte is taken as it is.
pub(super) fn bytes_of(token: &str) -> Vec<u8> {
    token.chars().map(byte_of_letter).collect::<Option<_>>().unwrap_or_else(|| token.as_bytes().to_vec())
}

/// The byte that a letter stands for in a byte-level vocabulary: printable characters of Latin-1 stand for
/// themselves, and the 68 other bytes, in order, are the characters from U+0100 on (GPT-2's `bytes_to_unicode`).
fn byte_of_letter(letter: char) -> Option<u8> {
    let byte = match u32::from(letter) {
        code @ (0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff) => code,
        code @ 0x100..=0x120 => code - 0x100,
        code @ 0x121..=0x142 => code - 0x121 + 0x7f,
        0x143 => 0xad,
        _ => return None,
    };
    u8::try_from(byte).ok()
}

/// The byte of a token such as "\<0xE2\>".
pub(super) fn byte_of(token: &str) -> Option<u8> {
    let hex = token.strip_prefix("<0x")?.strip_suffix('>')?;
    u8::from_str_radix(hex, 16).ok().filter(|_| hex.len() == 2)
}

/// Bytes for a person: characters as they are, other bytes as "\<0xE2\>".
pub(super) fn show(bytes: &[u8]) -> String {
    let mut out = String::new();
    for chunk in bytes.utf8_chunks() {
        out.push_str(chunk.valid());
        chunk.invalid().iter().for_each(|byte| out.push_str(&format!("<0x{byte:02X}>")));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::Tokenizer;
    use super::super::testing::{byte_level, sentence_piece, without_decoder};
    use super::*;

    fn id(tokenizer: &Tokenizer, token: &str) -> u32 {
        tokenizer.shared.inner.token_to_id(token).expect("a token")
    }

    #[test]
    fn the_decoders_are_recognised() {
        assert_eq!(byte_level().shared.decoding, Decoding::ByteLevel);
        assert!(matches!(&sentence_piece().shared.decoding, Decoding::SentencePiece(steps)
            if steps.byte_fallback && steps.strip == Some((' ', 1))));
        assert_eq!(without_decoder().shared.decoding, Decoding::Other);
    }

    #[test]
    fn letters_of_bytes() {
        let mut bytes: Vec<u8> = (0..0x144).filter_map(char::from_u32).filter_map(byte_of_letter).collect();
        bytes.sort_unstable();
        assert_eq!(bytes, (0..=255).collect::<Vec<u8>>(), "each byte has one letter");
        assert_eq!(byte_of_letter('Ġ'), Some(b' '));
        assert_eq!(byte_of_letter('Ċ'), Some(b'\n'));
    }

    #[test]
    fn pieces_for_a_person() {
        let (bytes, words) = (byte_level(), sentence_piece());
        assert_eq!(bytes.piece(id(&bytes, "Ġa")).as_deref(), Some(" a"));
        assert_eq!(bytes.piece(id(&bytes, "â")).as_deref(), Some("<0xE2>"));
        assert_eq!(words.piece(id(&words, "▁a")).as_deref(), Some(" a"));
        assert_eq!(words.piece(id(&words, "<0x0A>")).as_deref(), Some("\n"));
        assert_eq!(words.piece(id(&words, "<0xE2>")).as_deref(), Some("<0xE2>"));
        assert_eq!(words.piece(id(&words, "<s>")).as_deref(), Some("<s>"));
        assert_eq!(words.piece(1_000_000), None);
    }
}
