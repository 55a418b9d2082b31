//! Each fault shows as it was ordered.

use std::time::{Duration, Instant};

use harness::loopback::Client;
use harness::participant::{Action, Fault, FaultKind};
use http_body_util::BodyExt;
use hyper::Version;
use serde_json::{Value, json};

use super::hotel::{Hotel, SILENCE, json_of, raw, raw_unanswered, transaction, until};

#[tokio::test]
async fn faults_act_in_order_for_their_guest_and_count_down() {
    let hotel = Hotel::open().await;
    hotel.order(transaction("ada", FaultKind::Unavailable503).attempts(2).retry_after_s(3));
    hotel.order(transaction("ada", FaultKind::Error500));
    for status in [503, 503, 500, 201] {
        assert_eq!(hotel.booking("bob", "bob").send().await.unwrap().status, 201);
        let answer = hotel.booking("s1", "ada").send().await.unwrap();
        assert_eq!(answer.status, status);
        if status == 503 {
            assert_eq!(answer.headers["retry-after"], "3");
            assert_eq!(hotel.booked(), 1);
        }
    }
    assert_eq!(hotel.participant.pending_faults(), []);
    let faults: Vec<_> = hotel.attempts("ada").into_iter().map(|attempt| attempt.fault).collect();
    let unavailable = Some(FaultKind::Unavailable503);
    assert_eq!(faults, [unavailable, unavailable, Some(FaultKind::Error500), None]);
}

#[tokio::test]
async fn a_fault_acts_as_often_as_ordered_under_concurrent_requests() {
    let hotel = Hotel::open().await;
    hotel.order(transaction("ada", FaultKind::TooMany429).attempts(7));
    let all = (0..30).map(|number| hotel.booking(&format!("s{number}"), "ada").send());
    let answers = futures::future::join_all(all).await;
    let refused = answers.iter().filter(|answer| answer.as_ref().unwrap().status == 429).count();
    assert_eq!((refused, hotel.booked()), (7, 23));
}

#[tokio::test]
async fn a_refusal_does_nothing() {
    let hotel = Hotel::open().await;
    hotel.order(transaction("ada", FaultKind::Refuse));
    assert_eq!(hotel.booking("s1", "ada").send().await.unwrap().status, 422);
    assert_eq!(hotel.participant.bookings().unwrap(), []);
}

#[tokio::test]
async fn a_compensation_fault_finds_its_guest_by_the_saga() {
    let hotel = Hotel::open().await;
    // The transaction is lost on its way to the database: only the saga-id tells who it was for.
    hotel.order(transaction("ada", FaultKind::Error500));
    hotel.order(Fault::new("ada", Action::Compensation, FaultKind::Error500).attempts(2));
    assert_eq!(hotel.booking("s1", "ada").send().await.unwrap().status, 500);
    let path = "/bookings/by-key/s1.hotel.t";
    for status in [500, 500, 204] {
        assert_eq!(hotel.cancellation("s1", path).send().await.unwrap().status, status);
    }
    assert_eq!(hotel.attempts("ada").len(), 4);
}

#[tokio::test]
async fn a_delay_comes_before_or_after_the_deed() {
    let hotel = Hotel::open().await;
    let delay = Duration::from_millis(200);
    for applies in [false, true] {
        hotel.order(transaction("ada", FaultKind::Delay).delay(delay).applies(applies));
        let began = Instant::now();
        let answer = hotel.booking(&format!("s{applies}"), "ada").send().await.unwrap();
        assert_eq!(answer.status, 201);
        assert!(began.elapsed() >= delay);
    }
    let waits: Vec<_> = hotel.attempts("ada").iter().map(|a| a.applied_at_us.unwrap() - a.received_at_us).collect();
    assert!(waits[0] >= 200_000 && waits[1] < 200_000, "{waits:?}");
}

#[tokio::test]
async fn a_delayed_deed_is_done_though_the_caller_has_gone() {
    let hotel = Hotel::open().await;
    hotel.order(transaction("ada", FaultKind::Delay).delay(SILENCE * 4));
    raw_unanswered(hotel.participant.address(), "ada").await;
    assert_eq!(hotel.booked(), 0);
    until("the deed", || hotel.booked() == 1).await;
    assert_eq!(hotel.attempts("ada")[0].status, None);
}

#[tokio::test]
async fn silence_comes_with_and_without_the_deed() {
    let hotel = Hotel::open().await;
    hotel.order(transaction("ada", FaultKind::Hang));
    hotel.order(transaction("ada", FaultKind::ApplyNoAnswer));
    for booked in [0, 1] {
        raw_unanswered(hotel.participant.address(), "ada").await;
        until("the fault", || hotel.participant.pending_faults().len() == 1 - booked).await;
        assert_eq!(hotel.booked(), booked as u64);
    }
    let attempts = hotel.attempts("ada");
    assert!(attempts.iter().all(|attempt| attempt.status.is_none() && attempt.answered_at_us.is_none()));
}

#[tokio::test]
async fn a_reset_is_an_rst_with_or_without_the_deed() {
    let hotel = Hotel::open().await;
    for (applies, booked) in [(false, 0), (true, 1)] {
        hotel.order(transaction("ada", FaultKind::Reset).applies(applies));
        let (text, end) = raw(hotel.participant.address(), "ada").await;
        assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
        assert_eq!((text.as_str(), hotel.booked()), ("", booked));
    }
}

#[tokio::test]
async fn a_truncated_answer_ends_before_its_announced_length() {
    let hotel = Hotel::open().await;
    for (applies, booked) in [(true, 1), (false, 1)] {
        hotel.order(transaction("ada", FaultKind::Truncate).applies(applies));
        let (text, end) = raw(hotel.participant.address(), "ada").await;
        end.unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 201 "), "{head}");
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        assert!(!body.is_empty() && body.len() < length.parse().unwrap(), "{text}");
        assert_eq!(hotel.booked(), booked);
    }
    hotel.booking("s1", "ada").send().await.unwrap();
    hotel.order(Fault::new("ada", Action::Compensation, FaultKind::Truncate));
    let answer = hotel.cancellation("s1", "/bookings/hotel-2").open().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert!(answer.into_body().collect().await.is_err());
    assert_eq!(hotel.participant.balance().unwrap().cancelled, 1);
}

#[tokio::test]
async fn a_big_answer_is_json_of_the_size_ordered() {
    let hotel = Hotel::open().await;
    hotel.order(transaction("ada", FaultKind::BigAnswer).size_mib(3));
    let answer = hotel.booking("s1", "ada").send().await.unwrap();
    assert_eq!(answer.status, 201);
    let bytes = answer.body;
    assert!(bytes.len() > 3 << 20 && bytes.len() < 4 << 20);
    let body: Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!((&body["id"], &body["guest"]), (&json!("hotel-1"), &json!("ada")));
}

#[tokio::test]
async fn strange_answers_are_lawful() {
    let hotel = Hotel::open().await;
    hotel.order(transaction("ada", FaultKind::StrangeHeaders));
    let answer = hotel.booking("s1", "ada").send().await.unwrap();
    assert!(std::str::from_utf8(answer.headers["x-not-utf-8"].as_bytes()).is_err());
    assert_eq!(answer.headers.get_all("x-repeated").iter().count(), 3);
    assert_eq!(json_of(answer)["id"], "hotel-1");

    hotel.order(transaction("ada", FaultKind::NotJson));
    let answer = hotel.booking("s2", "ada").send().await.unwrap();
    assert_eq!(answer.status, 201);
    assert!(answer.json().is_err());

    hotel.order(transaction("ada", FaultKind::Trailers));
    let (text, end) = raw(hotel.participant.address(), "ada").await;
    end.unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("transfer-encoding: chunked"), "{head}");
    assert!(body.contains("\r\n0\r\nx-booking-checksum: "), "{body}");
    hotel.order(transaction("ada", FaultKind::Trailers));
    let answer = hotel.booking("s4", "ada").send().await.unwrap();
    assert_eq!(json_of(answer)["id"], "hotel-4");
    assert_eq!(hotel.attempts("ada").iter().filter(|attempt| attempt.status == Some(201)).count(), 4);
}

#[tokio::test]
async fn an_answer_that_was_ordered_for_success_leaves_a_refusal_alone() {
    let hotel = Hotel::open().await;
    hotel.cancellation("s1", "/bookings/by-key/s1.hotel.t").send().await.unwrap();
    hotel.order(transaction("ada", FaultKind::NotJson));
    assert_eq!(hotel.booking("s1", "ada").send().await.unwrap().status, 409);
}

#[tokio::test]
async fn http_2_is_spoken_and_its_faults_show() {
    let mut hotel = Hotel::open().await;
    hotel.client = Client::http2();
    let answer = hotel.booking("s1", "ada").open().await.unwrap();
    assert_eq!((answer.version(), answer.status().as_u16()), (Version::HTTP_2, 201));
    let host = hotel.participant.address().to_string();
    assert_eq!(hotel.attempts("ada")[0].header("host"), Some(host.as_str()));

    hotel.order(transaction("ada", FaultKind::Trailers));
    assert_eq!(json_of(hotel.booking("s2", "ada").send().await.unwrap())["id"], "hotel-2");
    hotel.order(transaction("ada", FaultKind::Truncate));
    assert!(hotel.booking("s3", "ada").send().await.is_err());
    hotel.order(transaction("ada", FaultKind::Reset));
    assert!(hotel.booking("s4", "ada").send().await.is_err());
    assert_eq!(hotel.booked(), 3);
}
