//! A participant that takes its time, and one that has much to say.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::extract::Query;
use axum::http::StatusCode;
use axum::routing::{any, post};

use super::HOLDS;

/// How long it takes to say much: so long that all sagas have begun.
pub const SPEAKS_AFTER: Duration = Duration::from_secs(1);
/// How long it takes to refuse.
pub const REFUSES_AFTER: Duration = Duration::from_secs(2);
/// Less than a VM that has died is given.
const FOR_LONG: Duration = Duration::from_secs(4);

/// Starts it; it ends with the test.
pub async fn start() -> SocketAddr {
    let held = |time: Duration, code: StatusCode| {
        post(move || async move {
            tokio::time::sleep(time).await;
            (code, r#"{"id": 1}"#)
        })
    };
    let router = Router::new()
        .route("/quick", post(|| async { r#"{"id": 1}"# }))
        .route("/held", held(HOLDS, StatusCode::OK))
        .route("/held_long", held(FOR_LONG, StatusCode::OK))
        .route("/refused", held(REFUSES_AFTER, StatusCode::UNPROCESSABLE_ENTITY))
        .route("/wordy", post(wordy))
        .fallback(any(|| async { StatusCode::NO_CONTENT }));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

/// So many times 100 maps inside of each other, of 5 bytes each.
async fn wordy(Query(query): Query<HashMap<String, String>>) -> String {
    tokio::time::sleep(SPEAKS_AFTER).await;
    let count: usize = query["nested"].parse().unwrap();
    let nested = format!("{}0{}", r#"{"":"#.repeat(90), "}".repeat(90));
    format!(r#"{{"id": 1, "more": [{}]}}"#, vec![nested; count].join(","))
}
