use super::*;

fn refused(source: &str, place: Place) -> bool {
    Template::compile(source, place, &compensation()).is_err()
}

fn with_value(source: &str, place: Place, value: &str) -> Result<String, RenderError> {
    render(source, place, json!(value))
}

#[test]
fn what_enters_a_path_cannot_leave_its_segment() {
    for (given, expected) in [
        ("a/b", Ok("/x/a%2Fb")),
        ("a?b#c&d", Ok("/x/a%3Fb%23c%26d")),
        ("%2f", Ok("/x/%252f")),
        ("a b\r\n", Ok("/x/a%20b%0D%0A")),
        ("é", Ok("/x/%C3%A9")),
        ("A-._~9", Ok("/x/A-._~9")),
        ("...", Ok("/x/...")),
        ("..", Err("gives a segment `.` or `..` of the path")),
        (".", Err("gives a segment `.` or `..` of the path")),
        ("", Err("gives an empty segment of the path")),
    ] {
        let rendered = with_value("/x/${request.body}", Place::Path, given);
        assert_eq!(rendered.as_deref().map_err(|error| error.reason.as_str()), expected, "{given}");
    }
}

#[test]
fn segments_are_judged_as_they_come_out() {
    for source in [
        "/${request.body}/x",
        "/x/${request.body}?q",
        "/x/.${request.body}",
        "/%2e${request.body}",
        "/${request.body}%2E/",
        "/${request.body};v=1",
    ] {
        assert!(with_value(source, Place::Path, ".").is_err(), "{source}");
    }
    assert_eq!(with_value("/x/.${request.body}", Place::Path, "a").as_deref(), Ok("/x/.a"));
    assert_eq!(with_value("/x/a${request.body}/", Place::Path, "").as_deref(), Ok("/x/a/"));
    assert_eq!(
        with_value("/x/${request.body}${request.body}", Place::Path, ".").unwrap_err().expression,
        "request.body"
    );
    assert_eq!(with_value("/x?a=${request.body}&b=/../", Place::Path, "..").as_deref(), Ok("/x?a=..&b=/../"));
    assert_eq!(with_value("/x?a=${request.body}", Place::Path, "").as_deref(), Ok("/x?a="));
    assert_eq!(with_value("/x?a=${request.body}", Place::Path, "&b=1#").as_deref(), Ok("/x?a=%26b%3D1%23"));
}

#[test]
fn the_literal_text_of_a_path_is_checked() {
    for source in [
        "",
        "x",
        "${request.host}",
        "//x",
        "/a b",
        "/a#b",
        "/ä",
        "/a\n",
        "/a\\b",
        "/{id}",
        "/a/../b",
        "/a/.",
        "/%2e%2E/b",
        "/a%",
        "/a%2",
        "/a%2${request.host}",
        "/a%${request.host}",
        "/a%zz",
        "/./",
    ] {
        assert!(refused(source, Place::Path), "{source}");
    }
    for source in ["/", "/a%2Fb", "/a?b=[1]&c=..", "/a//b", "/a/..b", "/%25${request.host}", "/a?x=${request.host}/../"]
    {
        assert!(!refused(source, Place::Path), "{source}");
    }
}

#[test]
fn control_characters_do_not_enter_headers() {
    for given in ["a\r\nb: c", "a\nb", "\0", "\t", "\x7f", "\x1b"] {
        assert!(with_value("x ${request.body}", Place::Header, given).is_err(), "{given:?}");
    }
    assert_eq!(with_value("x ${request.body}", Place::Header, "é \" / %0d").as_deref(), Ok("x é \" / %0d"));
    assert!(refused("a\nb", Place::Header));
    assert!(!refused("", Place::Header));
    assert_eq!(
        with_value("${request.body}", Place::Header, "\n").unwrap_err().to_string(),
        "`request.body`: gives the control character '\\n', which a header cannot hold"
    );
}

#[test]
fn an_authority_is_a_host_and_a_port() {
    for given in ["a/b", "a@b", "a b", "a\n", "ä", "a?b", "a|b", ""] {
        assert!(with_value("${request.body}", Place::Authority, given).is_err(), "{given:?}");
    }
    for given in ["hotel.example", "[::1]:80", "a_b-c.1:8080"] {
        assert_eq!(with_value("${request.body}", Place::Authority, given).as_deref(), Ok(given));
    }
    assert_eq!(with_value("${request.body}.local:80", Place::Authority, "hotel").as_deref(), Ok("hotel.local:80"));
    assert!(refused("outbound|80||hotel", Place::Authority));
    assert!(refused("", Place::Authority));
}

#[test]
fn a_link_of_an_answer_is_followed() {
    let link = |source: &str, link: &str| render(source, Place::Path, json!(link));
    for (source, given, expected) in [
        ("${path(request.body)}", "/bookings/h1", "/bookings/h1"),
        ("${path(request.body)}", "https://hotel.example/bookings/h%201", "/bookings/h%201"),
        ("${path(request.body)}/cancel?by=${saga.id}", "/bookings/h1", "/bookings/h1/cancel?by=s"),
        ("${path(request.body)}?${query(request.body)}&x=${request.host}", "/b?id=1", "/b?id=1&x=example.com"),
        ("/v2/bookings?${query(request.body)}", "https://h/b?id=a%20b", "/v2/bookings?id=a%20b"),
        ("${path(request.body)}x", "/bookings/", "/bookings/x"),
        ("${ path(request.body) }", "/bookings/", "/bookings/"),
    ] {
        assert_eq!(link(source, given).as_deref(), Ok(expected), "{source} of {given}");
    }
    for given in ["bookings/h1", "//evil/x", "/a/../b", "/a?b=1", "/a\r\nx: y", "https://h"] {
        let error = link("${path(request.body)}", given).unwrap_err();
        assert_eq!(error.expression, "request.body", "{given}");
    }
    assert!(link("${path(request.body)}.", "/bookings/").is_err(), "a segment `.`");
    for source in [
        "/x${path(request.body)}",
        "${path(request.body)}${query(request.body)}",
        "/a/${query(request.body)}",
        "${query(request.body)}",
        "${path(request.body) + path(request.host)}",
        "/${path()}",
    ] {
        assert!(refused(source, Place::Path), "{source}");
    }
    for place in [Place::Header, Place::Authority, Place::Text] {
        assert!(refused("${path(request.body)}", place), "{place:?}");
    }
}
