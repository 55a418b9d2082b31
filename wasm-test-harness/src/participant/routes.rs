//! From a request to what is done and answered, with the fault that acts in between.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::to_bytes;
use axum::extract::{Path, Query, Request, State};
use axum::http::{StatusCode, Version};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Extension, Json, Router};
use tokio::sync::watch;

use super::answer;
use super::attempt::{Attempt, AttemptFilter, Call, now_us};
use super::balance::Balance;
use super::connection::{Line, until_stopped};
use super::fault::{Fault, FaultKind, Faults};
use super::ledger::{Booking, Ledger, Outcome, Target, Wish};

/// The largest request body that is taken, in bytes.
const MAX_BODY: usize = 16 * 1024 * 1024;
/// How long an answer is withheld from a caller who does not go away.
const SILENCE: Duration = Duration::from_secs(60);

/// What the routes work on.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) ledger: Ledger,
    pub(super) faults: Faults,
    stopped: watch::Receiver<bool>,
}

/// A database that failed, which is a fault of the test: 500, and why.
struct Failure(anyhow::Error);

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (StatusCode::INTERNAL_SERVER_ERROR, format!("{:#}\n", self.0)).into_response()
    }
}

type Shared = State<Arc<Service>>;

/// One request to book or to cancel, written down.
struct Asked {
    number: i64,
    call: Call,
    wish: Wish,
    line: Line,
    version: Version,
}

/// The routes of [`super`].
pub(super) fn router(service: Arc<Service>) -> Router {
    Router::new()
        .route("/bookings", post(book).get(list_bookings))
        .route("/bookings/{id}", delete(cancel_by_id))
        .route("/bookings/by-key/{key}", delete(cancel_by_key))
        .route("/control/faults", post(set_fault).get(list_faults).delete(clear_faults))
        .route("/control/attempts", get(list_attempts))
        .route("/control/bookings", get(list_bookings))
        .route("/control/balance", get(balance))
        .fallback(unknown)
        .method_not_allowed_fallback(unknown)
        .with_state(service)
}

async fn book(State(service): Shared, line: Extension<Line>, request: Request) -> Result<Response, Failure> {
    service.serve(Wish::Book, line.0, request).await
}

async fn cancel_by_id(
    State(service): Shared,
    line: Extension<Line>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response, Failure> {
    service.serve(Wish::Cancel(Target::Id(id)), line.0, request).await
}

async fn cancel_by_key(
    State(service): Shared,
    line: Extension<Line>,
    Path(key): Path<String>,
    request: Request,
) -> Result<Response, Failure> {
    service.serve(Wish::Cancel(Target::Key(key)), line.0, request).await
}

/// Whatever has no route is written down as well: a test may have to show what reached this place.
async fn unknown(State(service): Shared, request: Request) -> Result<Response, Failure> {
    let Ok((call, _)) = read(request).await else {
        return Ok(too_large());
    };
    let (number, _) = service.ledger.receive(&call, None)?;
    service.answer(number, answer::plain(&Outcome::error(StatusCode::NOT_FOUND, "no such route")))
}

async fn list_bookings(State(service): Shared) -> Result<Json<Vec<Booking>>, Failure> {
    Ok(Json(service.ledger.bookings()?))
}

async fn list_attempts(
    State(service): Shared,
    Query(filter): Query<AttemptFilter>,
) -> Result<Json<Vec<Attempt>>, Failure> {
    Ok(Json(service.ledger.attempts(&filter)?))
}

async fn balance(State(service): Shared) -> Result<Json<Balance>, Failure> {
    Ok(Json(service.ledger.balance()?))
}

async fn set_fault(State(service): Shared, Json(fault): Json<Fault>) -> Response {
    match service.faults.add(fault) {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(error) => answer::plain(&Outcome::error(StatusCode::UNPROCESSABLE_ENTITY, &error.to_string())),
    }
}

async fn list_faults(State(service): Shared) -> Json<Vec<Fault>> {
    Json(service.faults.pending())
}

async fn clear_faults(State(service): Shared) -> StatusCode {
    service.faults.clear();
    StatusCode::NO_CONTENT
}

async fn read(request: Request) -> Result<(Call, Version), axum::Error> {
    let received_at_us = now_us();
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, MAX_BODY).await?;
    Ok((Call::new(received_at_us, &parts, &body), parts.version))
}

fn too_large() -> Response {
    answer::plain(&Outcome::error(StatusCode::PAYLOAD_TOO_LARGE, "the body is too large, or was cut short"))
}

impl Service {
    pub(super) fn new(ledger: Ledger, faults: Faults, stopped: watch::Receiver<bool>) -> Self {
        Self { ledger, faults, stopped }
    }

    async fn serve(self: Arc<Self>, wish: Wish, line: Line, request: Request) -> Result<Response, Failure> {
        let Ok((call, version)) = read(request).await else {
            return Ok(too_large());
        };
        let (number, guest) = self.ledger.receive(&call, Some(&wish))?;
        let fault = guest.and_then(|guest| self.faults.take(&guest, wish.action()));
        let asked = Asked { number, call, wish, line, version };
        let response = match fault {
            None => answer::plain(&self.apply(&asked)?),
            Some(fault) => {
                self.ledger.set_fault(number, fault.fault)?;
                Arc::clone(&self).fail(fault, asked).await?
            }
        };
        self.answer(number, response)
    }

    fn apply(&self, asked: &Asked) -> anyhow::Result<Outcome> {
        self.ledger.apply(asked.number, &asked.call, &asked.wish)
    }

    fn answer(&self, number: i64, response: Response) -> Result<Response, Failure> {
        self.ledger.set_answered(number, response.status())?;
        Ok(response)
    }

    /// Does, or does not do, what was asked, and answers it as `fault` says.
    async fn fail(self: Arc<Self>, fault: Fault, asked: Asked) -> Result<Response, Failure> {
        let done = if fault.does_it() { Some(self.apply(&asked)?) } else { None };
        let refused = done.as_ref().filter(|outcome| !outcome.status.is_success());
        if let (Some(refused), false) = (refused, fault.fault.shows_on_a_refusal()) {
            return Ok(answer::plain(refused));
        }
        // Only a truncated answer can be about what was not done.
        let shown = done.clone().unwrap_or_else(|| asked.wish.pretended());
        Ok(match fault.fault {
            FaultKind::Refuse => {
                answer::plain(&Outcome::error(StatusCode::UNPROCESSABLE_ENTITY, "refused, as was ordered"))
            }
            FaultKind::NoRoute => answer::plain(&Outcome::error(StatusCode::NOT_FOUND, "no route, as was ordered")),
            FaultKind::Delay => answer::plain(&self.delay(fault, done, asked).await?),
            FaultKind::Hang | FaultKind::ApplyNoAnswer => match say_nothing(&asked.line).await {},
            FaultKind::Reset => match asked.line.reset().await {},
            FaultKind::Truncate => answer::truncated(&shown),
            FaultKind::Error500 => {
                answer::plain(&Outcome::error(StatusCode::INTERNAL_SERVER_ERROR, "failed, as was ordered"))
            }
            FaultKind::Unavailable503 => answer::later(StatusCode::SERVICE_UNAVAILABLE, fault.retry_after_s),
            FaultKind::TooMany429 => answer::later(StatusCode::TOO_MANY_REQUESTS, fault.retry_after_s),
            FaultKind::BigAnswer => answer::big(&shown, fault.size_mib),
            FaultKind::StrangeHeaders => answer::strange(&shown),
            FaultKind::NotJson => answer::not_json(&shown),
            FaultKind::Trailers if asked.version == Version::HTTP_2 => answer::trailers(&shown),
            FaultKind::Trailers => {
                let (status, bytes) = answer::raw_trailers(&shown);
                self.ledger.set_answered(asked.number, status)?;
                match asked.line.write_and_close(bytes).await {}
            }
        })
    }

    /// Waits; then does what was asked unless it is `done`. In a task of its own: a caller who goes away does not
    /// keep a slow service from doing what it was asked. Only the end of the participant does.
    async fn delay(self: Arc<Self>, fault: Fault, done: Option<Outcome>, asked: Asked) -> anyhow::Result<Outcome> {
        let mut stopped = self.stopped.clone();
        let late = tokio::spawn(async move {
            tokio::select! {
                biased;
                () = until_stopped(&mut stopped) => Ok(Outcome::error(StatusCode::SERVICE_UNAVAILABLE, "stopped")),
                () = tokio::time::sleep(Duration::from_millis(fault.delay_ms)) => match done {
                    Some(outcome) => Ok(outcome),
                    None => self.apply(&asked),
                },
            }
        });
        late.await?
    }
}

/// Holds the request until the caller goes away, which ends it, or for [`SILENCE`].
async fn say_nothing(line: &Line) -> Infallible {
    tokio::time::sleep(SILENCE).await;
    line.write_and_close(Vec::new()).await
}
