//! One report.

use std::borrow::Cow;

use quick_xml::events::{BytesRef, BytesStart, Event};
use quick_xml::reader::Reader;

use super::attributes::{Attributes, Counts, MAX_TEXT_BYTES};
use super::{FailedTest, FailureKind, MAX_FAILED, Summary};
use crate::text::cut;

/// Largest report.
pub const MAX_FILE_BYTES: usize = 16 << 20;

const MAX_DEPTH: usize = 64;

/// Reads a report.
///
/// Each suite directly below the root counts once, or the root itself when it is a suite or has no suites. A suite that
/// states counts is believed where they exceed what its test cases say; suites inside suites are not visited.
pub(super) fn parse(bytes: &[u8]) -> Result<Summary, String> {
    if bytes.len() > MAX_FILE_BYTES {
        return Err(format!("larger than {} MiB", MAX_FILE_BYTES >> 20));
    }
    let text = decode(bytes);
    let mut walker = Walker::default();
    let mut reader = Reader::from_str(&text);
    reader.config_mut().expand_empty_elements = true;
    loop {
        let event = reader.read_event().map_err(|error| format!("not XML: {error}"))?;
        match event {
            Event::Start(start) => walker.open(&start)?,
            Event::End(_) => walker.close(),
            Event::Text(text) => walker.text(&text.xml10_content()),
            Event::CData(data) => walker.text(&data.xml10_content()),
            Event::GeneralRef(reference) => {
                let text = resolve(&reference)?;
                walker.text(&text);
            }
            Event::Eof => break,
            Event::Comment(_) | Event::Decl(_) | Event::PI(_) | Event::DocType(_) | Event::Empty(_) => {}
        }
    }
    walker.finish()
}

/// The text of a report: UTF-8, UTF-16 with a byte order mark, or else Latin-1 if it says so.
fn decode(bytes: &[u8]) -> Cow<'_, str> {
    let utf16 = |bytes: &[u8], unit: fn([u8; 2]) -> u16| {
        let units = bytes.chunks_exact(2).map(|pair| unit([pair[0], pair[1]]));
        char::decode_utf16(units)
            .map(|character| character.unwrap_or(char::REPLACEMENT_CHARACTER))
            .collect::<String>()
    };
    match bytes {
        [0xff, 0xfe, rest @ ..] => return Cow::Owned(utf16(rest, u16::from_le_bytes)),
        [0xfe, 0xff, rest @ ..] => return Cow::Owned(utf16(rest, u16::from_be_bytes)),
        _ => {}
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let declaration = String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).to_ascii_lowercase();
    let latin = ["iso-8859-1", "latin1", "windows-1252"]
        .iter()
        .any(|name| declaration.contains(name));
    if latin && std::str::from_utf8(bytes).is_err() {
        return Cow::Owned(bytes.iter().copied().map(char::from).collect());
    }
    String::from_utf8_lossy(bytes)
}

/// A character reference or one of the five entities of XML. Entities that a document defines are how bombs are built.
fn resolve(reference: &BytesRef<'_>) -> Result<String, String> {
    if reference.is_char_ref() {
        let character = reference.resolve_char_ref().ok().flatten();
        return Ok(character.unwrap_or(char::REPLACEMENT_CHARACTER).to_string());
    }
    let name = reference.xml10_content().into_owned();
    match quick_xml::escape::resolve_predefined_entity(&name) {
        Some(text) => Ok(text.to_owned()),
        None => Err(format!("entity is not defined by XML: {}", cut(&name, 64))),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Element {
    Suites,
    Suite,
    Case,
    Problem(FailureKind),
    Skipped,
    Other,
}

#[derive(Debug, Default)]
struct Suite {
    name: String,
    stated: Counts,
    derived: Counts,
}

impl From<Attributes> for Suite {
    fn from(attributes: Attributes) -> Self {
        let stated = Counts {
            time_seconds: attributes.time_seconds,
            ..attributes.stated
        };
        Self {
            name: attributes.name,
            stated,
            derived: Counts::default(),
        }
    }
}

#[derive(Debug, Default)]
struct Case {
    name: String,
    classname: String,
    file: String,
    skipped: bool,
}

#[derive(Debug)]
struct Problem {
    failed: FailedTest,
    text: String,
}

#[derive(Debug, Default)]
struct Walker {
    path: Vec<Element>,
    seen_root: bool,
    root: Option<Suite>,
    children: bool,
    suite: Option<Suite>,
    case: Option<Case>,
    problem: Option<Problem>,
    summary: Summary,
}

impl Walker {
    fn open(&mut self, start: &BytesStart<'_>) -> Result<(), String> {
        if self.path.len() == MAX_DEPTH {
            return Err(format!("nested deeper than {MAX_DEPTH}"));
        }
        let attributes = Attributes::read(start)?;
        let local = start.local_name();
        let local: &[u8] = local.as_ref().as_ref();
        let element = match (self.path.as_slice(), local) {
            ([], _) if self.seen_root => return Err("more than one root".to_owned()),
            ([], b"testsuites") => Element::Suites,
            ([], b"testsuite") => Element::Suite,
            ([], other) => {
                let name = String::from_utf8_lossy(other);
                return Err(format!("root is not testsuites or testsuite: {}", cut(&name, 64)));
            }
            ([Element::Suites], b"testsuite") => Element::Suite,
            ([.., Element::Suite], b"testcase") => Element::Case,
            ([.., Element::Case], b"failure") => Element::Problem(FailureKind::Failure),
            ([.., Element::Case], b"error") => Element::Problem(FailureKind::Error),
            ([.., Element::Case], b"skipped") => Element::Skipped,
            _ => Element::Other,
        };
        self.seen_root = true;
        self.path.push(element);
        match element {
            Element::Suites => self.root = Some(Suite::from(attributes)),
            Element::Suite => {
                self.children = true;
                self.suite = Some(Suite::from(attributes));
            }
            Element::Case => self.open_case(attributes),
            Element::Problem(kind) => self.problem = Some(self.problem(kind, attributes)),
            Element::Skipped => {
                if let Some(case) = &mut self.case {
                    case.skipped = true;
                }
            }
            Element::Other => {}
        }
        Ok(())
    }

    fn open_case(&mut self, attributes: Attributes) {
        if let Some(suite) = &mut self.suite {
            suite.derived.tests += 1;
            suite.derived.time_seconds += attributes.time_seconds;
        }
        self.case = Some(Case {
            name: attributes.name,
            classname: attributes.classname,
            file: attributes.file,
            skipped: false,
        });
    }

    fn problem(&self, kind: FailureKind, attributes: Attributes) -> Problem {
        let suite = self.suite.as_ref().map(|suite| suite.name.clone()).unwrap_or_default();
        let (name, classname, file) = match &self.case {
            None => Default::default(),
            Some(case) => (case.name.clone(), case.classname.clone(), case.file.clone()),
        };
        let failed = FailedTest {
            suite,
            name,
            classname,
            file,
            message: attributes.message,
            failure_type: attributes.failure_type,
            kind,
        };
        Problem {
            failed,
            text: String::new(),
        }
    }

    fn text(&mut self, text: &str) {
        if let (Some(problem), Some(Element::Problem(_))) = (&mut self.problem, self.path.last()) {
            let text = if problem.text.is_empty() {
                text.trim_start()
            } else {
                text
            };
            problem
                .text
                .push_str(cut(text, MAX_TEXT_BYTES.saturating_sub(problem.text.len())));
        }
    }

    fn close(&mut self) {
        match self.path.pop() {
            Some(Element::Suites) => {
                if let (Some(root), false) = (self.root.take(), self.children) {
                    self.count(root);
                }
            }
            Some(Element::Suite) => {
                if let Some(suite) = self.suite.take() {
                    self.count(suite);
                }
            }
            Some(Element::Case) => {
                if let (Some(case), Some(suite)) = (self.case.take(), &mut self.suite) {
                    suite.derived.skipped += u64::from(case.skipped);
                }
            }
            Some(Element::Problem(kind)) => self.close_problem(kind),
            Some(Element::Skipped | Element::Other) | None => {}
        }
    }

    fn close_problem(&mut self, kind: FailureKind) {
        if let Some(suite) = &mut self.suite {
            match kind {
                FailureKind::Failure => suite.derived.failures += 1,
                FailureKind::Error => suite.derived.errors += 1,
            }
        }
        let Some(Problem { mut failed, text }) = self.problem.take() else {
            return;
        };
        if self.summary.failed.len() == MAX_FAILED {
            self.summary.failed_omitted += 1;
            return;
        }
        if failed.message.is_empty() {
            failed.message = text.trim_end().to_owned();
        }
        self.summary.failed.push(failed);
    }

    fn count(&mut self, suite: Suite) {
        let Suite { stated, derived, .. } = suite;
        let believed = [stated.tests, stated.failures, stated.errors, stated.skipped]
            .iter()
            .any(|count| *count > 0);
        let counts = if believed {
            Counts {
                tests: if stated.tests > 0 { stated.tests } else { derived.tests },
                failures: stated.failures.max(derived.failures),
                errors: stated.errors.max(derived.errors),
                skipped: stated.skipped.max(derived.skipped),
                time_seconds: if stated.time_seconds > 0.0 {
                    stated.time_seconds
                } else {
                    derived.time_seconds
                },
            }
        } else {
            derived
        };
        let summary = &mut self.summary;
        summary.suites += 1;
        summary.tests = summary.tests.saturating_add(counts.tests);
        summary.failures = summary.failures.saturating_add(counts.failures);
        summary.errors = summary.errors.saturating_add(counts.errors);
        summary.skipped = summary.skipped.saturating_add(counts.skipped);
        summary.time_seconds += counts.time_seconds;
    }

    fn finish(self) -> Result<Summary, String> {
        match (self.seen_root, self.path.is_empty()) {
            (false, _) => Err("empty".to_owned()),
            (true, false) => Err("not XML: the document ends too early".to_owned()),
            (true, true) => Ok(self.summary),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{Just, ProptestConfig, prop, prop_oneof, proptest};

    use super::{MAX_FILE_BYTES, parse};
    use crate::junit::Summary;

    fn counts(text: &str) -> [u64; 5] {
        let Summary {
            suites,
            tests,
            failures,
            errors,
            skipped,
            ..
        } = parse(text.as_bytes()).unwrap();
        [suites, tests, failures, errors, skipped]
    }

    #[test]
    fn a_report_of_every_kind_of_test() {
        let summary = parse(
            br#"<?xml version="1.0"?>
<!-- comment -->
<testsuites tests="99">
  <testsuite name="s" time="1,002.5" tests="5">
    <properties><property name="p" value="&lt;"/></properties>
    <testcase classname="c" name="ok" time="1"/>
    <testcase classname="c&amp;d" name="bad" file="t.rs">
      <failure message=" said &quot;no&quot;&#10;second " type="Assert">trace</failure>
      <error type="Panic"> <![CDATA[<boom>]]> &amp; more&#x1b; </error>
    </testcase>
    <testcase name="later"><skipped/></testcase>
  </testsuite>
  <testsuite name="derived"><testcase name="x"><failure/></testcase><testsuite tests="7"/></testsuite>
</testsuites>"#,
        )
        .unwrap();
        insta::assert_snapshot!(crate::json::pretty(&summary).unwrap(), @r#"
        {
          "format": "junit",
          "files": [],
          "suites": 2,
          "tests": 6,
          "failures": 2,
          "errors": 1,
          "skipped": 1,
          "timeSeconds": 1002.5,
          "failed": [
            {
              "suite": "s",
              "name": "bad",
              "classname": "c&d",
              "file": "t.rs",
              "message": "said \"no\"\nsecond",
              "type": "Assert",
              "kind": "failure"
            },
            {
              "suite": "s",
              "name": "bad",
              "classname": "c&d",
              "file": "t.rs",
              "message": "<boom> & more\u001b",
              "type": "Panic",
              "kind": "error"
            },
            {
              "suite": "derived",
              "name": "x",
              "kind": "failure"
            }
          ]
        }
        "#);
    }

    #[test]
    fn counts_follow_the_rules() {
        assert_eq!(
            counts(r#"<testsuites tests="4" failures="1" errors="1" skipped="2"/>"#),
            [1, 4, 1, 1, 2]
        );
        assert_eq!(
            counts(r#"<testsuite tests="0" failures="2"><testcase/><testcase/></testsuite>"#),
            [1, 2, 2, 0, 0]
        );
        assert_eq!(
            counts(r#"<testsuite tests="9"><testcase><error/></testcase></testsuite>"#),
            [1, 9, 0, 1, 0]
        );
        assert_eq!(
            counts(r#"<testsuite tests="-3" failures="x"><testcase/></testsuite>"#),
            [1, 1, 0, 0, 0]
        );
        assert_eq!(
            counts(r#"<n:testsuite xmlns:n="u"><n:testcase><n:skipped/></n:testcase></n:testsuite>"#),
            [1, 1, 0, 0, 1]
        );
        // A test case outside of a suite belongs to nothing.
        assert_eq!(
            counts("<testsuites><testcase><failure/></testcase><testsuite/></testsuites>"),
            [1, 0, 0, 0, 0]
        );
    }

    #[test]
    fn encodings_are_read() {
        let text = "<testsuite name='é'><testcase name='ü'><failure/></testcase></testsuite>";
        let utf16: Vec<u8> = [0xfeff]
            .into_iter()
            .chain(text.encode_utf16())
            .flat_map(u16::to_le_bytes)
            .collect();
        let latin: Vec<u8> = format!("<?xml version='1.0' encoding='ISO-8859-1'?>{text}")
            .chars()
            .map(|c| c as u8)
            .collect();
        let marked = [b"\xef\xbb\xbf", text.as_bytes()].concat();
        for bytes in [text.as_bytes().to_vec(), utf16, latin, marked] {
            let failed = parse(&bytes).unwrap().failed.remove(0);
            assert_eq!((failed.suite.as_str(), failed.name.as_str()), ("é", "ü"));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]
        #[test]
        fn no_report_brings_the_reader_down(parts in prop::collection::vec(prop_oneof![
            Just("<testsuites>"), Just("</testsuites>"), Just("<testsuite name='s' tests='2'>"), Just("</testsuite>"),
            Just("<testcase name='a' time='1'>"), Just("</testcase>"), Just("<failure message='m'/>"), Just("<error>"),
            Just("</error>"), Just("<skipped/>"), Just("&lt;"), Just("&#x0;"), Just("&x;"), Just("<![CDATA["), Just("]]>"),
            Just("<!--"), Just("-->"), Just("<!DOCTYPE x ["), Just("<"), Just("'"), Just("é"), Just("\0"),
        ], 0..16)) {
            if let Ok(summary) = parse(parts.concat().as_bytes()) {
                proptest::prop_assert!(summary.failures + summary.errors >= summary.failed.len() as u64);
            }
        }
    }

    #[test]
    fn attacks_are_refused() {
        let bomb = r#"<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><testsuite><testcase><failure>&b;</failure></testcase></testsuite>"#;
        assert_eq!(parse(bomb.as_bytes()).unwrap_err(), "entity is not defined by XML: b");
        let external = r#"<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><testsuite name="&e;"/>"#;
        assert!(parse(external.as_bytes()).unwrap_err().starts_with("not XML: "));
        let deep = "<testsuite>".to_owned() + &"<a>".repeat(100_000);
        assert_eq!(parse(deep.as_bytes()).unwrap_err(), "nested deeper than 64");
        assert_eq!(
            parse(&vec![b' '; MAX_FILE_BYTES + 1]).unwrap_err(),
            "larger than 16 MiB"
        );
        for text in [
            "",
            "   ",
            "text",
            "<testsuite>",
            "<testsuite></testcase>",
            "<testsuite/><testsuite/>",
            "<testsuite a=b/>",
        ] {
            assert!(parse(text.as_bytes()).is_err(), "{text}");
        }
        let long = format!(
            "<testsuite><testcase name='{0}'><failure>{0}</failure></testcase></testsuite>",
            "é".repeat(100_000)
        );
        let failed = parse(long.as_bytes()).unwrap().failed.remove(0);
        assert_eq!((failed.name.len(), failed.message.len()), (4096, 4096));
    }
}
