//! JSON spelled the way existing consumers compare it.
//!
//! Two details differ from the usual encoder: a float without fraction is written as an integer (`1`, not `1.0`), and
//! U+2028 and U+2029 are escaped, so that one value is one line for every reader. `<`, `>` and `&` stay as they are.

use std::io::{self, Write};

use crabbox_core::{ErrorKind, IntoError as _, Result};
use serde::Serialize;
use serde_json::ser::{CompactFormatter, Formatter, PrettyFormatter, Serializer};

/// One compact line without its line break.
///
/// # Errors
///
/// `Other` when the value cannot be expressed, such as a map whose keys are not strings.
pub fn line<T: Serialize + ?Sized>(value: &T) -> Result<String> {
    encode(value, CompactFormatter)
}

/// Indented by two spaces, ending with a line break.
///
/// # Errors
///
/// As for [`line()`].
pub fn pretty<T: Serialize + ?Sized>(value: &T) -> Result<String> {
    encode(value, PrettyFormatter::new()).map(|text| text + "\n")
}

fn encode<T: Serialize + ?Sized, F: Formatter>(value: &T, inner: F) -> Result<String> {
    let mut bytes = Vec::new();
    value
        .serialize(&mut Serializer::with_formatter(&mut bytes, Spelling { inner }))
        .or_error(ErrorKind::Other, || "encode JSON".to_owned())?;
    String::from_utf8(bytes).or_error(ErrorKind::Other, || "encode JSON".to_owned())
}

struct Spelling<F> {
    inner: F,
}

macro_rules! delegate {
    ($($name:ident($($argument:ident: $type:ty),*)),+ $(,)?) => {$(
        fn $name<W: ?Sized + Write>(&mut self, writer: &mut W $(, $argument: $type)*) -> io::Result<()> {
            self.inner.$name(writer $(, $argument)*)
        }
    )+};
}

impl<F: Formatter> Formatter for Spelling<F> {
    fn write_f64<W: ?Sized + Write>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        let magnitude = value.abs();
        if magnitude == 0.0 || (1e-6..1e21).contains(&magnitude) {
            return write!(writer, "{value}");
        }
        let text = format!("{value:e}");
        match text.split_once('e') {
            Some((digits, exponent)) if !exponent.starts_with('-') => write!(writer, "{digits}e+{exponent}"),
            _ => writer.write_all(text.as_bytes()),
        }
    }

    fn write_string_fragment<W: ?Sized + Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        let mut rest = fragment;
        while let Some(position) = rest.find(['\u{2028}', '\u{2029}']) {
            writer.write_all(&rest.as_bytes()[..position])?;
            let escaped: &[u8] = if rest[position..].starts_with('\u{2028}') {
                b"\\u2028"
            } else {
                b"\\u2029"
            };
            writer.write_all(escaped)?;
            rest = &rest[position + '\u{2028}'.len_utf8()..];
        }
        writer.write_all(rest.as_bytes())
    }

    delegate! {
        begin_array(), end_array(), begin_array_value(first: bool), end_array_value(),
        begin_object(), end_object(), begin_object_key(first: bool), end_object_key(),
        begin_object_value(), end_object_value(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{line, pretty};

    #[test]
    fn floats_and_separators_are_spelled_for_compatibility() {
        let value = json!({"a": 1.0, "b": 0.25, "c": 1e21, "d": 1e-7, "e": "<\u{2028}&\u{2029}>"});
        assert_eq!(
            line(&value).unwrap(),
            r#"{"a":1,"b":0.25,"c":1e+21,"d":1e-7,"e":"<\u2028&\u2029>"}"#
        );
    }

    #[test]
    fn pretty_ends_with_a_line_break() {
        assert_eq!(pretty(&json!({"a": [1]})).unwrap(), "{\n  \"a\": [\n    1\n  ]\n}\n");
    }
}
