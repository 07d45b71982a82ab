//! What an element of a report states about itself.

use quick_xml::XmlVersion;
use quick_xml::events::BytesStart;

use crate::text::cut;

/// Bytes that are kept of one name or message.
pub(super) const MAX_TEXT_BYTES: usize = 4 << 10;

#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) tests: u64,
    pub(super) failures: u64,
    pub(super) errors: u64,
    pub(super) skipped: u64,
    pub(super) time_seconds: f64,
}

#[derive(Debug, Default)]
pub(super) struct Attributes {
    pub(super) name: String,
    pub(super) classname: String,
    pub(super) file: String,
    pub(super) message: String,
    pub(super) failure_type: String,
    pub(super) stated: Counts,
    pub(super) time_seconds: f64,
}

impl Attributes {
    pub(super) fn read(start: &BytesStart<'_>) -> Result<Self, String> {
        let mut read = Self::default();
        for attribute in start.attributes() {
            let attribute = attribute.map_err(|error| format!("not XML: {error}"))?;
            let key = attribute.key.local_name();
            let key: &[u8] = key.as_ref().as_ref();
            let known: &[&[u8]] = &[
                b"name",
                b"classname",
                b"file",
                b"message",
                b"type",
                b"tests",
                b"failures",
                b"errors",
                b"skipped",
                b"time",
            ];
            if !known.contains(&key) {
                continue;
            }
            let value = attribute
                .normalized_value(XmlVersion::Implicit1_0)
                .map_err(|error| format!("not XML: {error}"))?;
            let text = || cut(&value, MAX_TEXT_BYTES).to_owned();
            let count = || value.trim().parse::<u64>().unwrap_or(0);
            match key {
                b"name" => read.name = text(),
                b"classname" => read.classname = text(),
                b"file" => read.file = text(),
                b"message" => read.message = text().trim().to_owned(),
                b"type" => read.failure_type = text(),
                b"tests" => read.stated.tests = count(),
                b"failures" => read.stated.failures = count(),
                b"errors" => read.stated.errors = count(),
                b"skipped" => read.stated.skipped = count(),
                _ => read.time_seconds = seconds(&value),
            }
        }
        Ok(read)
    }
}

/// Seconds; some tools group the digits of thousands.
fn seconds(text: &str) -> f64 {
    let value: f64 = text.trim().replace(',', "").parse().unwrap_or(0.0);
    if value.is_finite() && value > 0.0 { value } else { 0.0 }
}
