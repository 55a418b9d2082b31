//! What an application may take for a request that begins a saga does not reach it, whatever Envoy makes of paths.

use std::time::Duration;

use harness::loopback;
use harness::trip::BodyMode;

use super::Front;

const PATIENCE: Duration = Duration::from_millis(1_000);

/// An application behind an Envoy whose `normalize_path` and `merge_slashes` are both on or both off.
async fn front(is_normal: bool) -> Front {
    Front::start_with(move |envoy| {
        envoy.edit(move |yaml| {
            for listener in yaml["static_resources"]["listeners"].as_sequence_mut().unwrap() {
                let manager = &mut listener["filter_chains"][0]["filters"][0]["typed_config"];
                manager["normalize_path"] = is_normal.into();
                manager["merge_slashes"] = is_normal.into();
            }
        })
    })
    .await
}

#[tokio::test]
async fn no_other_spelling_of_a_request_that_begins_a_saga_reaches_the_application() {
    for is_normal in [true, false] {
        let front = front(is_normal).await;
        for mode in BodyMode::ALL {
            for line in [
                "POST /trips/",
                "POST /trips;a=1",
                "POST /trips%2f",
                "POST /%74rips?x=1",
                "POST /;v=1/trips",
                "POST //trips//",
                "POST /x/../trips/",
                "POST /%2e/trips;",
            ] {
                let request =
                    format!("{line} HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{{}}");
                let answer = loopback::exchange(front.envoy.listener(mode.listener()), request.as_bytes(), PATIENCE);
                let answer = String::from_utf8_lossy(&answer.await.unwrap()).into_owned();
                assert!(answer.starts_with("HTTP/1.1 400"), "{mode:?} {is_normal} {line}: {answer}");
                // Envoy may have made of it what begins a saga: that is refused for the body, which names no guest.
                let is_spelling = answer.contains("urn:sagabox:problem:spelling") && answer.contains("POST /trips,");
                let is_usable = is_normal && answer.contains("urn:sagabox:problem:request-not-usable");
                assert!(is_spelling || is_usable, "{mode:?} {is_normal} {line}: {answer}");
            }
        }
        assert!(front.application.requests().is_empty(), "{is_normal}: {:?}", front.application.requests());
    }
}

#[tokio::test]
async fn a_method_in_lower_case_does_not_reach_the_application_over_http_2() {
    use harness::loopback::{Client, Outgoing};
    use hyper::Method;

    let front = front(true).await;
    for mode in BodyMode::ALL {
        for method in ["post", "Post"] {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            let request = loopback::request(method, &front.url(mode, "/trips"), &[], Outgoing::whole("{}")).unwrap();
            let answer = Client::http2().send(request).await.unwrap();
            assert_eq!(answer.status, 400, "{mode:?}: {}", answer.text());
            assert_eq!(answer.json().unwrap()["type"], "urn:sagabox:problem:spelling");
        }
    }
    assert!(front.application.requests().is_empty(), "{:?}", front.application.requests());
}
