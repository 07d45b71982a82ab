//! JSON exactly as Go's `encoding/json` writes it, so that files shared with the Go implementation stay the same bytes.

use std::io::{self, Write};

use crabbox_core::{Error, Result};
use serde::Serialize;
use serde_json::ser::{CompactFormatter, Formatter, PrettyFormatter, Serializer};

/// Two-space indent and a final newline, `<`, `>`, `&` escaped.
pub(crate) fn pretty(value: &impl Serialize) -> Result<Vec<u8>> {
    render(value, PrettyFormatter::new())
}

/// One line with a final newline, `<`, `>`, `&` escaped.
pub(crate) fn line(value: &impl Serialize) -> Result<Vec<u8>> {
    render(value, CompactFormatter)
}

fn render(value: &impl Serialize, inner: impl Formatter) -> Result<Vec<u8>> {
    let mut out = Vec::with_capacity(512);
    value
        .serialize(&mut Serializer::with_formatter(&mut out, GoFormatter(inner)))
        .map_err(|cause| Error::other("render json").with_source(cause))?;
    out.push(b'\n');
    Ok(out)
}

struct GoFormatter<F>(F);

macro_rules! delegate {
    ($($name:ident($($argument:ident: $type:ty),*)),+ $(,)?) => {$(
        fn $name<W: ?Sized + Write>(&mut self, writer: &mut W $(, $argument: $type)*) -> io::Result<()> {
            self.0.$name(writer $(, $argument)*)
        }
    )+};
}

impl<F: Formatter> Formatter for GoFormatter<F> {
    delegate! {
        begin_array(),
        end_array(),
        begin_array_value(first: bool),
        end_array_value(),
        begin_object(),
        end_object(),
        begin_object_key(first: bool),
        end_object_key(),
        begin_object_value(),
        end_object_value(),
    }

    fn write_string_fragment<W: ?Sized + Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        let mut start = 0;
        for (index, character) in fragment.char_indices() {
            let escape = match character {
                '<' => "\\u003c",
                '>' => "\\u003e",
                '&' => "\\u0026",
                '\u{2028}' => "\\u2028",
                '\u{2029}' => "\\u2029",
                _ => continue,
            };
            writer.write_all(&fragment.as_bytes()[start..index])?;
            writer.write_all(escape.as_bytes())?;
            start = index + character.len_utf8();
        }
        writer.write_all(&fragment.as_bytes()[start..])
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert_eq, proptest};

    use super::*;

    #[test]
    fn html_and_line_separators_are_escaped() {
        let text = String::from_utf8(line(&"a<b>&\u{2028}\u{2029}\"\\\n\u{8}\u{1}é").unwrap()).unwrap();
        assert_eq!(
            text,
            "\"a\\u003cb\\u003e\\u0026\\u2028\\u2029\\\"\\\\\\n\\b\\u0001é\"\n"
        );
    }

    #[test]
    fn empty_containers_stay_on_one_line() {
        let value = serde_json::json!({"a": {}, "b": [], "c": [1]});
        let text = String::from_utf8(pretty(&value).unwrap()).unwrap();
        assert_eq!(text, "{\n  \"a\": {},\n  \"b\": [],\n  \"c\": [\n    1\n  ]\n}\n");
    }

    proptest! {
        #[test]
        fn every_text_survives(text in any::<String>()) {
            let back: String = serde_json::from_slice(&line(&text).unwrap()).unwrap();
            prop_assert_eq!(back, text);
        }
    }
}
