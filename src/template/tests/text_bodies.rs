//! Bodies that are written as text: a standard parser reads back the one value that was put in, or it was refused.

use proptest::prelude::*;

use super::*;

fn body(source: &str, kind: BodyKind, value: Json) -> Result<String, RenderError> {
    let template =
        BodyTemplate::compile(&json!(source), kind, &compensation()).unwrap_or_else(|error| panic!("{error}"));
    let rendered = template.render(&World::with_body(value).facts())?;
    Ok(String::from_utf8(rendered.bytes).expect("text"))
}

fn refused(source: &str, kind: BodyKind) -> String {
    BodyTemplate::compile(&json!(source), kind, &compensation()).expect_err(source).to_string()
}

#[test]
fn a_value_stays_one_value() {
    use BodyKind::{Form, Json as JsonText, Xml};
    for (kind, source, value, expected) in [
        (Form, "guest=${request.body}&price=100", json!("Ada&price=0"), "guest=Ada%26price%3D0&price=100"),
        (Form, "${request.body}=1", json!("a b"), "a%20b=1"),
        (JsonText, r#"{"guest":"${request.body}"}"#, json!("Ada\",\"x\":\""), r#"{"guest":"Ada\",\"x\":\""}"#),
        (JsonText, r#"{"guest":${request.body}}"#, json!("Ada"), r#"{"guest":"Ada"}"#),
        (JsonText, r#"{"n":${request.body},"s":"n=${request.body}"}"#, json!(7), r#"{"n":7,"s":"n=7"}"#),
        (JsonText, r#"["\"${request.body}",${request.body}]"#, json!("\n"), r#"["\"\n","\n"]"#),
        (
            Xml,
            "<g n='${request.body}'>${request.body}</g>",
            json!("a'<b>&"),
            "<g n='a&apos;&lt;b&gt;&amp;'>a&apos;&lt;b&gt;&amp;</g>",
        ),
        (Xml, "<!-- it's > --><g>${request.body}</g>", json!("\t"), "<!-- it's > --><g>&#9;</g>"),
    ] {
        assert_eq!(body(source, kind, value).as_deref(), Ok(expected), "{source}");
    }
}

#[test]
fn a_text_of_which_nothing_is_known_says_raw() {
    assert!(refused("hello ${request.body}", BodyKind::Plain).contains("${raw(...)}"));
    assert_eq!(body("hello ${raw(request.body)}", BodyKind::Plain, json!("a&b")).as_deref(), Ok("hello a&b"));
    assert_eq!(body("${ raw( 'a' + string(1) ) }", BodyKind::Plain, json!(0)).as_deref(), Ok("a1"));
    for kind in [BodyKind::Form, BodyKind::Json, BodyKind::Xml] {
        assert!(refused("\"${raw(request.body)}\"", kind).contains("`raw(...)`"), "{kind:?}");
    }
    // Two calls side by side are no `raw` around all.
    assert!(refused("x${raw(request.body) + raw('b')}", BodyKind::Plain).contains("raw"));
    let path = Template::compile("/${raw(request.body)}", Place::Path, &compensation());
    assert!(path.unwrap_err().to_string().contains("encoded for its place"));
}

#[test]
fn where_no_value_can_stand_a_definition_is_refused() {
    for (source, kind) in [
        ("<${request.body}/>", BodyKind::Xml),
        ("<a ${request.body}='1'/>", BodyKind::Xml),
        ("<a b=${request.body}/>", BodyKind::Xml),
        ("<!-- ${request.body} --><a/>", BodyKind::Xml),
        ("<a><![CDATA[ > ${request.body}]]></a>", BodyKind::Xml),
        ("<?xml version='${request.body}'?><a/>", BodyKind::Xml),
        ("<!DOCTYPE ${request.body}><a/>", BodyKind::Xml),
        (r#"{"a":"\${request.body}"}"#, BodyKind::Json),
        (r#"{"a":}"#, BodyKind::Json),
        (r#"{"a":"${request.body}}"#, BodyKind::Json),
        (r#"{${request.body}:1}"#, BodyKind::Json),
    ] {
        refused(source, kind);
    }
}

#[test]
fn one_placeholder_that_is_all_keeps_its_type() {
    let whole = |source: &str, kind, value| {
        let template = BodyTemplate::compile(&json!(source), kind, &compensation()).unwrap();
        let body = template.render(&World::with_body(value).facts()).unwrap();
        (String::from_utf8(body.bytes).unwrap(), body.content_type)
    };
    let json_type = Some("application/json");
    let cases = [
        ("${request.body}", BodyKind::Plain, json!({"a": [1]}), r#"{"a":[1]}"#, json_type),
        ("${ {'guest': request.body} }", BodyKind::Plain, json!("Ada"), r#"{"guest":"Ada"}"#, json_type),
        ("${request.body}", BodyKind::Plain, json!("text"), "text", None),
        ("${request.body}", BodyKind::Json, json!("text"), "\"text\"", json_type),
        ("${request.body}", BodyKind::Form, json!("a=1&b=2"), "a=1&b=2", None),
        ("${transaction.request.body.guest}", BodyKind::Form, json!(0), "ada", None),
    ];
    for (source, kind, value, text, content_type) in cases {
        assert_eq!(whole(source, kind, value), (text.to_owned(), content_type), "{source} {kind:?}");
    }
    // Somebody else's value is no form of its own.
    assert_eq!(body("${request.body.x}", BodyKind::Form, json!({"x": "a=1&b=2"})).as_deref(), Ok("a%3D1%26b%3D2"));
}

#[test]
fn a_form_has_the_fields_that_it_names() {
    let form = json!({"guest": "${request.body}", "a b": "x ${saga.id}", "price": 100, "paid": true});
    let template = BodyTemplate::compile(&form, BodyKind::Fields, &compensation()).unwrap();
    let rendered = template.render(&World::with_body(json!("Ada&price=0")).facts()).unwrap();
    let text = String::from_utf8(rendered.bytes).unwrap();
    assert_eq!(text, "a%20b=x%20s&guest=Ada%26price%3D0&paid=true&price=100");
    assert_eq!(rendered.content_type, Some(FORM));
    let refused = BodyTemplate::compile(&json!({"a": [1], "b": null, "c": "${"}), BodyKind::Fields, &compensation());
    let errors = refused.unwrap_err().errors;
    assert_eq!(errors.iter().map(|(path, _)| path.as_str()).collect::<Vec<_>>(), [".a", ".b", ".c"]);
}

fn hostile() -> impl Strategy<Value = String> {
    let pieces =
        ["&", "=", "+", "%26", "\"", "\\", "\\u0022", "<", ">", "]]>", "--", "'", "&lt;", "\r\n", "\t", "\0", "é", "a"];
    let piece = prop_oneof![proptest::sample::select(pieces.to_vec()).prop_map(str::to_owned), any::<String>()];
    proptest::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn a_form_is_read_back_as_it_was(value in hostile()) {
        let fields = |text: &str| form_urlencoded::parse(text.as_bytes()).into_owned().collect::<Vec<_>>();
        let expected = vec![("g".to_owned(), value.clone()), ("p".to_owned(), format!("<{value}>"))];
        let text = body("g=${request.body}&p=%3C${request.body}%3E", BodyKind::Form, json!(value)).unwrap();
        prop_assert_eq!(fields(&text), expected.clone());
        let form = json!({"g": "${request.body}", "p": "<${request.body}>"});
        let template = BodyTemplate::compile(&form, BodyKind::Fields, &compensation()).unwrap();
        let rendered = template.render(&World::with_body(json!(value)).facts()).unwrap();
        prop_assert_eq!(fields(std::str::from_utf8(&rendered.bytes).unwrap()), expected);
    }

    #[test]
    fn json_text_is_read_back_as_it_was(value in hostile()) {
        let source = r#"{"${request.body}":"a ${request.body} b","whole":[${request.body}]}"#;
        let text = body(source, BodyKind::Json, json!(value)).unwrap();
        let read: Json = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(&read["whole"], &json!([value]));
        if value != "whole" {
            prop_assert_eq!(&read[value.as_str()], &json!(format!("a {value} b")));
            prop_assert_eq!(read.as_object().unwrap().len(), 2);
        }
    }

    #[test]
    fn xml_is_read_back_as_it_was(value in hostile()) {
        let source = "<?xml version=\"1.0\"?><trip guest=\"${request.body}\" other='a ${request.body}'>${request.body}</trip>";
        match body(source, BodyKind::Xml, json!(value)) {
            Ok(text) => {
                let read = roxmltree::Document::parse(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
                let trip = read.root_element();
                let other = format!("a {value}");
                prop_assert_eq!(trip.attribute("guest"), Some(value.as_str()));
                prop_assert_eq!(trip.attribute("other"), Some(other.as_str()));
                prop_assert_eq!(trip.text().unwrap_or_default(), value.as_str());
                prop_assert_eq!(trip.children().filter(roxmltree::Node::is_element).count(), 0);
            }
            Err(_) => {
                let is_none_of_xml = |c: char| (c < ' ' && !"\t\r\n".contains(c)) || "\u{fffe}\u{ffff}".contains(c);
                prop_assert!(value.chars().any(is_none_of_xml));
            }
        }
    }

    #[test]
    fn compiling_any_text_is_an_error_at_worst(source in r#"[a-z<>!?"'${}\[\]=& ()\\-]{0,60}"#) {
        for kind in [BodyKind::Plain, BodyKind::Json, BodyKind::Form, BodyKind::Xml] {
            let _ = BodyTemplate::compile(&json!(source), kind, &compensation());
        }
    }
}
