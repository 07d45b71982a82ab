//! Glob patterns with the meaning of Go's `filepath.Match`, compiled once.
//!
//! `*` and `?` do not cross `/`, `[…]` is a class that `^` negates, `\` takes the next character literally and there is
//! no `**`. A malformed pattern matches nothing.
//!
//! Source: <https://pkg.go.dev/path/filepath#Match>, read 2026-08-20.

/// A compiled pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob {
    /// `None` when the pattern is malformed.
    chunks: Option<Vec<Chunk>>,
}

/// What stands between two stars.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Chunk {
    /// Any run of characters other than `/` may come first.
    star: bool,
    tokens: Vec<Token>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Byte(u8),
    AnyCharacter,
    Class { negated: bool, ranges: Vec<(u32, u32)> },
}

/// What Go's decoder returns for a byte that does not start a valid character.
const REPLACEMENT: u32 = 0xFFFD;

impl Glob {
    /// Compiles a pattern. A malformed one is accepted and matches nothing.
    pub fn new(pattern: &[u8]) -> Self {
        Self {
            chunks: compile(pattern),
        }
    }

    /// Whether the pattern is well formed.
    pub fn is_valid(&self) -> bool {
        self.chunks.is_some()
    }

    /// Whether the whole name matches.
    pub fn matches(&self, name: &[u8]) -> bool {
        self.chunks
            .as_deref()
            .is_some_and(|chunks| matches_chunks(chunks, name))
    }
}

/// Whether a pattern has a character that gives it more than its literal meaning.
pub(crate) fn has_meta(pattern: &[u8]) -> bool {
    pattern.iter().any(|byte| matches!(byte, b'*' | b'?' | b'[' | b'\\'))
}

/// Tries each chunk at its leftmost place, never going back, exactly as Go does.
fn matches_chunks(chunks: &[Chunk], mut name: &[u8]) -> bool {
    if chunks.is_empty() {
        return name.is_empty();
    }
    'chunks: for (position, chunk) in chunks.iter().enumerate() {
        let last = position + 1 == chunks.len();
        if chunk.star && chunk.tokens.is_empty() {
            return !name.contains(&b'/');
        }
        if let Some(rest) = match_chunk(&chunk.tokens, name)
            && (rest.is_empty() || !last)
        {
            name = rest;
            continue;
        }
        if chunk.star {
            let mut start = 0;
            while start < name.len() && name[start] != b'/' {
                start += 1;
                if let Some(rest) = match_chunk(&chunk.tokens, &name[start..]) {
                    if last && !rest.is_empty() {
                        continue;
                    }
                    name = rest;
                    continue 'chunks;
                }
            }
        }
        return false;
    }
    name.is_empty()
}

fn match_chunk<'a>(tokens: &[Token], mut name: &'a [u8]) -> Option<&'a [u8]> {
    for token in tokens {
        let first = *name.first()?;
        match token {
            Token::Byte(byte) => {
                if *byte != first {
                    return None;
                }
                name = &name[1..];
            }
            Token::AnyCharacter => {
                if first == b'/' {
                    return None;
                }
                name = &name[decode(name).1..];
            }
            Token::Class { negated, ranges } => {
                let (character, length) = decode(name);
                name = &name[length..];
                if ranges.iter().any(|(low, high)| (*low..=*high).contains(&character)) == *negated {
                    return None;
                }
            }
        }
    }
    Some(name)
}

/// The first character and its length; an invalid byte is one replacement character.
fn decode(text: &[u8]) -> (u32, usize) {
    let longest = &text[..text.len().min(4)];
    for length in 1..=longest.len() {
        if let Ok(valid) = std::str::from_utf8(&longest[..length])
            && let Some(character) = valid.chars().next()
        {
            return (u32::from(character), length);
        }
    }
    (REPLACEMENT, 1)
}

fn compile(pattern: &[u8]) -> Option<Vec<Chunk>> {
    let mut chunks = Vec::new();
    let mut rest = pattern;
    while !rest.is_empty() {
        let mut chunk = Chunk {
            star: false,
            tokens: Vec::new(),
        };
        while let Some(after) = rest.strip_prefix(b"*") {
            chunk.star = true;
            rest = after;
        }
        while let Some((&first, after)) = rest.split_first() {
            match first {
                b'*' => break,
                b'?' => {
                    chunk.tokens.push(Token::AnyCharacter);
                    rest = after;
                }
                b'[' => {
                    let (class, after) = compile_class(after)?;
                    chunk.tokens.push(class);
                    rest = after;
                }
                b'\\' => {
                    let (&escaped, after) = after.split_first()?;
                    chunk.tokens.push(Token::Byte(escaped));
                    rest = after;
                }
                byte => {
                    chunk.tokens.push(Token::Byte(byte));
                    rest = after;
                }
            }
        }
        chunks.push(chunk);
    }
    Some(chunks)
}

fn compile_class(mut rest: &[u8]) -> Option<(Token, &[u8])> {
    let negated = if let Some(after) = rest.strip_prefix(b"^") {
        rest = after;
        true
    } else {
        false
    };
    let mut ranges = Vec::new();
    loop {
        if !ranges.is_empty()
            && let Some(after) = rest.strip_prefix(b"]")
        {
            return Some((Token::Class { negated, ranges }, after));
        }
        let (low, after) = class_character(rest)?;
        rest = after;
        let mut high = low;
        if let Some(after) = rest.strip_prefix(b"-") {
            (high, rest) = class_character(after)?;
        }
        ranges.push((low, high));
    }
}

/// One possibly escaped character of a class; something must follow it.
fn class_character(mut rest: &[u8]) -> Option<(u32, &[u8])> {
    match rest.first()? {
        b'-' | b']' => return None,
        b'\\' => rest = &rest[1..],
        _ => {}
    }
    if rest.is_empty() {
        return None;
    }
    let (character, length) = decode(rest);
    if character == REPLACEMENT && length == 1 {
        return None;
    }
    let after = &rest[length..];
    (!after.is_empty()).then_some((character, after))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of Go's own test of `path/filepath.Match`.
    #[test]
    fn matches_as_go_does() {
        let table: &[(&str, &str, bool, bool)] = &[
            ("abc", "abc", true, true),
            ("*", "abc", true, true),
            ("*c", "abc", true, true),
            ("a*", "a", true, true),
            ("a*", "abc", true, true),
            ("a*", "ab/c", false, true),
            ("a*/b", "abc/b", true, true),
            ("a*/b", "a/c/b", false, true),
            ("a*b*c*d*e*/f", "axbxcxdxe/f", true, true),
            ("a*b*c*d*e*/f", "axbxcxdxexxx/f", true, true),
            ("a*b*c*d*e*/f", "axbxcxdxe/xxx/f", false, true),
            ("a*b*c*d*e*/f", "axbxcxdxexxx/fff", false, true),
            ("a*b?c*x", "abxbbxdbxebxczzx", true, true),
            ("a*b?c*x", "abxbbxdbxebxczzy", false, true),
            ("ab[c]", "abc", true, true),
            ("ab[b-d]", "abc", true, true),
            ("ab[e-g]", "abc", false, true),
            ("ab[^c]", "abc", false, true),
            ("ab[^b-d]", "abc", false, true),
            ("ab[^e-g]", "abc", true, true),
            ("a\\*b", "a*b", true, true),
            ("a\\*b", "ab", false, true),
            ("a?b", "a☺b", true, true),
            ("a[^a]b", "a☺b", true, true),
            ("a???b", "a☺b", false, true),
            ("a[^a][^a][^a]b", "a☺b", false, true),
            ("[a-ζ]*", "α", true, true),
            ("*[a-ζ]", "A", false, true),
            ("a?b", "a/b", false, true),
            ("a*b", "a/b", false, true),
            ("[\\]a]", "]", true, true),
            ("[\\-]", "-", true, true),
            ("[x\\-]", "x", true, true),
            ("[x\\-]", "-", true, true),
            ("[x\\-]", "z", false, true),
            ("[\\-x]", "x", true, true),
            ("[]a]", "]", false, false),
            ("[-]", "-", false, false),
            ("[x-]", "x", false, false),
            ("[-x]", "x", false, false),
            ("\\", "a", false, false),
            ("[a-b-c]", "a", false, false),
            ("[", "a", false, false),
            ("[^", "a", false, false),
            ("[^bc", "a", false, false),
            ("a[", "ab", false, false),
            ("*x", "xxx", true, true),
            ("", "", true, true),
            ("", "a", false, true),
        ];
        for (pattern, name, expected, valid) in table {
            let glob = Glob::new(pattern.as_bytes());
            assert_eq!(glob.matches(name.as_bytes()), *expected, "{pattern} {name}");
            assert_eq!(glob.is_valid(), *valid, "{pattern}");
        }
    }

    #[test]
    fn bytes_that_are_not_text_count_as_one_character() {
        assert!(Glob::new(b"a?b").matches(b"a\xffb"));
        assert!(Glob::new(b"a*").matches(b"a\xff\xfe"));
        assert!(Glob::new(b"a\xffb").matches(b"a\xffb"));
    }
}
