//! Answers of a module: Envoy sends what it is given, and may rewrite it afterwards.

use std::time::Duration;

use harness::loopback;
use harness::participant::{Action, Fault, FaultKind};
use harness::trip::{Trip, TripRequest};

use super::probe::Probed;

/// What comes back over a connection on which two requests are sent, the first answered as `headers` say.
async fn two_on_one_connection(probed: &Probed, headers: &str) -> String {
    let last = "GET / HTTP/1.1\r\nhost: a\r\nx-probe-body: the-second\r\nconnection: close\r\n\r\n";
    let requests = format!("GET / HTTP/1.1\r\nhost: a\r\n{headers}\r\n\r\n{last}");
    let address = probed.envoy.listener("answer");
    let bytes = loopback::exchange(address, requests.as_bytes(), Duration::from_secs(3)).await.unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[tokio::test]
async fn line_ends_in_a_header_of_an_answer_split_it() {
    let probed = Probed::start(&["answer"]).await;
    let answer = two_on_one_connection(&probed, "x-probe-header: a|x-smuggled: b").await;
    assert!(answer.contains("x-answer: a\r\nx-smuggled: b\r\n"), "{answer}");
}

#[tokio::test]
async fn a_status_without_a_body_is_sent_with_the_body_it_is_given() {
    let probed = Probed::start(&["answer"]).await;
    for status in [204, 304] {
        let headers = format!("x-probe-status: {status}\r\nx-probe-body: not-lawful");
        let answer = two_on_one_connection(&probed, &headers).await;
        let (head, rest) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        assert!(rest.starts_with("not-lawful"), "a client takes this for the beginning of the next answer: {answer}");
    }
}

#[tokio::test]
async fn a_status_that_is_none_leaves_the_client_waiting() {
    let probed = Probed::start(&["answer"]).await;
    for status in ["0", "99", "1000"] {
        probed.ask_and_leave("answer", &[("x-probe-status", status)], "").await;
    }
}

#[tokio::test]
async fn local_reply_config_rewrites_answers_of_the_filter() {
    let trip = Trip::start_with(|envoy| {
        envoy.workers(1).edit(|yaml| {
            let manager = &mut yaml["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0];
            manager["typed_config"]["local_reply_config"] = serde_yaml_ng::from_str(
                r#"
                mappers:
                - filter: {status_code_filter: {comparison: {op: EQ, value: {default_value: 409, runtime_key: none}}}}
                  status_code: 418
                  body_format_override: {text_format: "rewritten\n"}
                "#,
            )
            .unwrap();
        })
    });
    let trip = trip.await.unwrap();
    trip.hotel.set_fault(Fault::new("ann", Action::Transaction, FaultKind::Refuse)).unwrap();
    let answer = trip.book(&TripRequest::of("ann")).await.unwrap();
    assert_eq!((answer.status.as_u16(), answer.text().as_str()), (418, "rewritten\n"));
    assert_eq!(answer.header("saga-status"), Some("compensated"), "what happened is as it was");
    assert!(trip.held("ann").unwrap().is_empty());
}
