use super::*;

fn json(text: &str) -> serde_json::Value {
    parse(text).unwrap().root.to_json()
}

fn find<'node>(node: &'node Node, key: &str) -> &'node Entry {
    node.entries().unwrap().iter().find(|entry| entry.key == key).unwrap()
}

#[test]
fn values_keep_their_text_and_place() {
    let text =
        "# é comment\nname: 24.04 # tail\nssh:\n  port: \"22\"\n  ports: [22, '80']\nlist:\n- a\n- b: c\nlast: é\n";
    let document = parse(text).unwrap();
    let name = find(&document.root, "name");
    assert!(matches!(&name.value.content, Content::Scalar { text, plain: true } if text == "24.04"));
    assert_eq!(
        (name.line, &text[name.span.clone()], &text[name.value.span.clone()]),
        (2, "name", "24.04")
    );
    let ssh = find(&document.root, "ssh");
    assert_eq!(&text[ssh.value.span.clone()], "port: \"22\"\n  ports: [22, '80']");
    assert!(!ssh.value.flow);
    let ports = find(&ssh.value, "ports");
    assert_eq!(
        (
            ports.line,
            ports.column,
            ports.value.flow,
            &text[ports.value.span.clone()]
        ),
        (5, 2, true, "[22, '80']")
    );
    assert_eq!(&text[find(&document.root, "last").value.span.clone()], "é");
    assert_eq!(
        json(text),
        serde_json::json!({"name": 24.04, "ssh": {"port": "22", "ports": [22, "80"]}, "list": ["a", {"b": "c"}], "last": "é"})
    );
}

#[test]
fn nothing_is_null() {
    for text in ["", "\n", "# only a comment\n", "---\n", "~", "null"] {
        assert!(parse(text).unwrap().root.is_null(), "{text:?}");
    }
    assert!(
        find(&parse("broker:\nssh: {}\n").unwrap().root, "broker")
            .value
            .is_null()
    );
    assert_eq!(parse("a: 1\n---\nb: 2\n").unwrap().ignored_from, Some(2));
    assert_eq!(
        parse("a: 1\n---\nb: 2\n").unwrap().root.to_json(),
        serde_json::json!({"a": 1})
    );
}

#[test]
fn aliases_and_merges_work() {
    let text = "x: &x {a: 1, b: 2}\ny:\n  <<: *x\n  b: 3\nz: *x\nw:\n  <<: [*x, {a: 9, c: 4}]\n";
    assert_eq!(
        json(text),
        serde_json::json!({"x": {"a": 1, "b": 2}, "y": {"b": 3, "a": 1}, "z": {"a": 1, "b": 2}, "w": {"a": 1, "b": 2, "c": 4}})
    );
}

#[test]
fn whole_numbers_are_read_as_yaml_writes_them() {
    for (text, number) in [
        ("10", Some(10)),
        ("-1_000", Some(-1000)),
        ("0x1F", Some(31)),
        ("0o17", Some(15)),
        ("0b11", Some(3)),
    ] {
        assert_eq!(integer(text), number);
    }
    for text in ["1.5", "ten", "", "-", "0x", "_1", "99999999999999999999"] {
        assert_eq!(integer(text), None, "{text}");
    }
}

#[test]
fn faults_name_the_line() {
    for (text, line, words) in [
        ("a: 1\nb: 2\na: 3\n", 3, "duplicate key, first on line 1: `a`"),
        (
            "ssh:\n  port: 1\n  port: 2\n",
            3,
            "duplicate key, first on line 2: `port`",
        ),
        ("a: [1, 2\n", 2, ""),
        ("a: b: c\n", 1, ""),
        ("a: *unknown\n", 1, ""),
        ("? [a, b]\n: c\n", 1, "key is not text"),
        ("a: \"x\n", 1, "quoted scalar"),
        ("<<: 3\n", 1, "`<<` merges mappings only"),
    ] {
        let fault = parse(text).unwrap_err();
        assert!(fault.message.contains(words), "{text:?}: {fault:?}");
        assert_eq!(fault.line, line, "{text:?}: {fault:?}");
    }
}

#[test]
fn bombs_are_refused() {
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let alias = format!("*a{}", level - 1);
        bomb += &format!("a{level}: &a{level} [{}]\n", [alias.as_str(); 10].join(", "));
    }
    assert!(parse(&bomb).unwrap_err().message.contains("values"));
    assert!(parse(&"[".repeat(10_000)).is_err());
    assert!(parse(&format!("{}x", "a: {".repeat(100))).is_err());
}
