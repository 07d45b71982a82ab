//! Reads YAML into a tree that knows where each value stands.
//!
//! Duplicate keys are refused, nesting, size and alias expansion are bounded, and scalars keep the text they were written
//! with, so that the declared kind of a key, not the look of its value, decides what it means.

use std::collections::HashMap;
use std::ops::Range;

use saphyr_parser::{Event, Parser, ScalarStyle, Span, StrInput};

/// Largest file that is read, in bytes.
pub(crate) const MAX_FILE_BYTES: u64 = 1024 * 1024;
const MAX_DEPTH: usize = 64;
const MAX_NODES: usize = 100_000;

/// Why a text is not acceptable YAML.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// Line, from 1.
    pub(crate) line: usize,
    pub(crate) message: String,
    pub(crate) hint: Option<&'static str>,
}

/// A whole file.
#[derive(Debug)]
pub(crate) struct Document {
    pub(crate) root: Node,
    /// Line of a second document, which is not read.
    pub(crate) ignored_from: Option<usize>,
}

/// One value.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) content: Content,
    /// Line of its first character, from 1.
    pub(crate) line: usize,
    /// Bytes it occupies. For a block collection, from its first entry to the end of its last.
    pub(crate) span: Range<usize>,
    /// Whether it is written `{…}` or `[…]`.
    pub(crate) flow: bool,
}

/// What a value is.
#[derive(Clone, Debug)]
pub(crate) enum Content {
    /// Nothing, `~` or `null`.
    Null,
    /// Text; `plain` when it was written without quotes, tag or block style.
    Scalar {
        text: String,
        plain: bool,
    },
    Sequence(Vec<Node>),
    /// Entries in the order of the file.
    Mapping(Vec<Entry>),
}

/// One entry of a mapping.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) key: String,
    /// Line of the key, from 1.
    pub(crate) line: usize,
    /// Column of the key, from 0, in characters.
    pub(crate) column: usize,
    /// Bytes of the key.
    pub(crate) span: Range<usize>,
    pub(crate) value: Node,
    /// Came in through a `<<` merge.
    pub(crate) merged: bool,
}

impl Node {
    pub(crate) fn entries(&self) -> Option<&[Entry]> {
        match &self.content {
            Content::Mapping(entries) => Some(entries),
            _ => None,
        }
    }

    pub(crate) fn is_null(&self) -> bool {
        matches!(self.content, Content::Null)
    }

    /// What it is, for messages.
    pub(crate) fn shape(&self) -> &'static str {
        match &self.content {
            Content::Null => "nothing",
            Content::Scalar { plain: true, .. } => "a plain value",
            Content::Scalar { plain: false, .. } => "quoted text",
            Content::Sequence(_) => "a list",
            Content::Mapping(_) => "a mapping",
        }
    }

    /// The value as JSON, scalars typed as YAML types them.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        match &self.content {
            Content::Null => serde_json::Value::Null,
            Content::Scalar { text, plain: false } => text.as_str().into(),
            Content::Scalar { text, plain: true } => plain_json(text),
            Content::Sequence(items) => items.iter().map(Self::to_json).collect(),
            Content::Mapping(entries) => entries
                .iter()
                .map(|entry| (entry.key.clone(), entry.value.to_json()))
                .collect(),
        }
    }
}

fn plain_json(text: &str) -> serde_json::Value {
    match text {
        "true" | "True" | "TRUE" => true.into(),
        "false" | "False" | "FALSE" => false.into(),
        _ => match (integer(text), text.parse::<f64>()) {
            (Some(number), _) => number.into(),
            (None, Ok(number))
                if number.is_finite() && text.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c)) =>
            {
                number.into()
            }
            _ => text.into(),
        },
    }
}

/// A whole number as YAML writes it: decimal, `0x`, `0o`, `0b`, with `_` between digits.
pub(crate) fn integer(text: &str) -> Option<i64> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if !digits.starts_with(|character: char| character.is_ascii_digit()) {
        return None;
    }
    let digits = digits.replace('_', "");
    let (radix, digits) = match digits.get(..2) {
        Some("0x") => (16, &digits[2..]),
        Some("0o") => (8, &digits[2..]),
        Some("0b") => (2, &digits[2..]),
        _ => (10, &*digits),
    };
    let signed = if negative {
        format!("-{digits}")
    } else {
        digits.to_owned()
    };
    i64::from_str_radix(&signed, radix).ok()
}

/// Reads a text.
pub(crate) fn parse(text: &str) -> Result<Document, Fault> {
    let mut builder = Builder {
        text,
        parser: Parser::new_from_str(text),
        offsets: Offsets::new(text),
        anchors: HashMap::new(),
        nodes: 0,
    };
    builder.document()
}

/// Maps the parser's character positions to bytes.
struct Offsets {
    /// Byte of every character, only when the text is not ASCII.
    bytes: Option<Vec<usize>>,
    length: usize,
}

impl Offsets {
    fn new(text: &str) -> Self {
        let bytes = (!text.is_ascii()).then(|| text.char_indices().map(|(byte, _)| byte).collect());
        Self {
            bytes,
            length: text.len(),
        }
    }

    fn byte(&self, character: usize) -> usize {
        match &self.bytes {
            None => character.min(self.length),
            Some(bytes) => bytes.get(character).copied().unwrap_or(self.length),
        }
    }

    fn range(&self, span: Span) -> Range<usize> {
        self.byte(span.start.index())..self.byte(span.end.index())
    }
}

struct Builder<'input> {
    text: &'input str,
    parser: Parser<'input, StrInput<'input>>,
    offsets: Offsets,
    anchors: HashMap<usize, (Node, usize)>,
    nodes: usize,
}

impl<'input> Builder<'input> {
    /// Bytes of a scalar. The parser lets a quoted one reach to the next token, past comments.
    fn scalar_range(&self, span: Span, style: ScalarStyle) -> Range<usize> {
        let range = self.offsets.range(span);
        let quote = match style {
            ScalarStyle::SingleQuoted => b'\'',
            ScalarStyle::DoubleQuoted => b'"',
            ScalarStyle::Plain | ScalarStyle::Literal | ScalarStyle::Folded => return range,
        };
        let bytes = self.text.as_bytes();
        let Some(start) = bytes[range.clone()]
            .iter()
            .position(|byte| *byte == quote)
            .map(|at| range.start + at)
        else {
            return range;
        };
        let mut at = start + 1;
        while at < bytes.len() {
            match bytes[at] {
                b'\\' if quote == b'"' => at += 1,
                byte if byte == quote && quote == b'\'' && bytes.get(at + 1) == Some(&quote) => at += 1,
                byte if byte == quote => return start..at + 1,
                _ => {}
            }
            at += 1;
        }
        range
    }

    fn document(&mut self) -> Result<Document, Fault> {
        let mut root = None;
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamEnd => break,
                Event::DocumentStart(_) if root.is_some() => {
                    return Ok(Document {
                        root: root.unwrap_or_else(empty),
                        ignored_from: Some(span.start.line()),
                    });
                }
                Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd | Event::Nothing => {}
                event => root = Some(self.node(event, span, 0)?),
            }
        }
        Ok(Document {
            root: root.unwrap_or_else(empty),
            ignored_from: None,
        })
    }

    fn next(&mut self) -> Result<(Event<'input>, Span), Fault> {
        match self.parser.next_event() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => {
                let hint = "check indentation, colons and quotes around this line";
                Err(fault(error.marker().line(), error.info().to_owned(), hint))
            }
            None => Err(fault(1, "unexpected end".to_owned(), "the file is cut off")),
        }
    }

    fn count(&mut self, nodes: usize, line: usize) -> Result<(), Fault> {
        self.nodes += nodes;
        if self.nodes > MAX_NODES {
            return Err(fault(
                line,
                format!("more than {MAX_NODES} values"),
                "use fewer values and aliases",
            ));
        }
        Ok(())
    }

    fn node(&mut self, event: Event<'input>, span: Span, depth: usize) -> Result<Node, Fault> {
        let line = span.start.line();
        if depth > MAX_DEPTH {
            return Err(fault(
                line,
                format!("nested deeper than {MAX_DEPTH}"),
                "flatten the structure",
            ));
        }
        self.count(1, line)?;
        let before = self.nodes;
        let range = self.offsets.range(span);
        let (anchor, node) = match event {
            Event::Alias(anchor) => {
                let Some((node, size)) = self.anchors.get(&anchor).cloned() else {
                    return Err(fault(
                        line,
                        "alias of an unknown anchor".to_owned(),
                        "define the anchor above its alias",
                    ));
                };
                self.count(size, line)?;
                return Ok(Node {
                    line,
                    span: range,
                    flow: false,
                    ..node
                });
            }
            Event::Scalar(text, style, anchor, tag) => {
                let plain = style == ScalarStyle::Plain && tag.is_none();
                let content = if plain && matches!(&*text, "" | "~" | "null" | "Null" | "NULL") {
                    Content::Null
                } else {
                    Content::Scalar {
                        text: text.into_owned(),
                        plain,
                    }
                };
                (
                    anchor,
                    Node {
                        content,
                        line,
                        span: self.scalar_range(span, style),
                        flow: false,
                    },
                )
            }
            Event::SequenceStart(anchor, _) => (anchor, self.sequence(line, range, depth)?),
            Event::MappingStart(anchor, _) => (anchor, self.mapping(line, range, depth)?),
            _ => return Err(fault(line, "unexpected structure".to_owned(), "check the lines around")),
        };
        if anchor > 0 {
            self.anchors.insert(anchor, (node.clone(), self.nodes - before));
        }
        Ok(node)
    }

    fn sequence(&mut self, line: usize, start: Range<usize>, depth: usize) -> Result<Node, Fault> {
        let mut items: Vec<Node> = Vec::new();
        let flow = !start.is_empty();
        loop {
            let (event, span) = self.next()?;
            if matches!(event, Event::SequenceEnd) {
                let range = self.offsets.range(span);
                let end = if flow {
                    range.end
                } else {
                    items.last().map_or(start.end, |item| item.span.end)
                };
                return Ok(Node {
                    content: Content::Sequence(items),
                    line,
                    span: start.start..end,
                    flow,
                });
            }
            items.push(self.node(event, span, depth + 1)?);
        }
    }

    fn mapping(&mut self, line: usize, start: Range<usize>, depth: usize) -> Result<Node, Fault> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut merges: Vec<Entry> = Vec::new();
        let flow = !start.is_empty();
        loop {
            let (event, span) = self.next()?;
            let (key, key_span, key_is_plain) = match event {
                Event::MappingEnd => {
                    let last = entries
                        .iter()
                        .filter(|entry| !entry.merged)
                        .map(|entry| entry.value.span.end.max(entry.span.end))
                        .max();
                    let end = if flow {
                        self.offsets.range(span).end
                    } else {
                        last.unwrap_or(start.end)
                    };
                    for merge in merges {
                        if !entries.iter().any(|entry| entry.key == merge.key) {
                            entries.push(merge);
                        }
                    }
                    return Ok(Node {
                        content: Content::Mapping(entries),
                        line,
                        span: start.start..end,
                        flow,
                    });
                }
                Event::Scalar(text, style, _, _) => (
                    text.into_owned(),
                    self.scalar_range(span, style),
                    style == ScalarStyle::Plain,
                ),
                _ => {
                    return Err(fault(
                        span.start.line(),
                        "key is not text".to_owned(),
                        "write keys as plain words",
                    ));
                }
            };
            let (event, value_span) = self.next()?;
            let value = self.node(event, value_span, depth + 1)?;
            let key_line = span.start.line();
            if key == "<<" && key_is_plain {
                merges.extend(merge(&value, key_line)?);
                continue;
            }
            if let Some(first) = entries.iter().find(|entry| entry.key == key) {
                let message = format!("duplicate key, first on line {}: `{}`", first.line, key.escape_debug());
                return Err(fault(key_line, message, "keep one of the two"));
            }
            entries.push(Entry {
                key,
                line: key_line,
                column: span.start.col(),
                span: key_span,
                value,
                merged: false,
            });
        }
    }
}

/// The entries that `<<` brings in.
fn merge(value: &Node, line: usize) -> Result<Vec<Entry>, Fault> {
    let mark = |entries: &[Entry]| {
        entries
            .iter()
            .map(|entry| Entry {
                merged: true,
                ..entry.clone()
            })
            .collect::<Vec<_>>()
    };
    let refuse = || {
        fault(
            line,
            "`<<` merges mappings only".to_owned(),
            "point it at an anchored mapping",
        )
    };
    match &value.content {
        Content::Mapping(entries) => Ok(mark(entries)),
        Content::Sequence(items) => {
            let mut merged: Vec<Entry> = Vec::new();
            for item in items {
                for entry in mark(item.entries().ok_or_else(refuse)?) {
                    if !merged.iter().any(|known| known.key == entry.key) {
                        merged.push(entry);
                    }
                }
            }
            Ok(merged)
        }
        _ => Err(refuse()),
    }
}

fn empty() -> Node {
    Node {
        content: Content::Null,
        line: 1,
        span: 0..0,
        flow: false,
    }
}

fn fault(line: usize, message: String, hint: &'static str) -> Fault {
    Fault {
        line: line.max(1),
        message,
        hint: Some(hint),
    }
}

#[cfg(test)]
mod tests;
