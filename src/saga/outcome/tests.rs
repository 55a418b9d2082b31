//! The tables, row by row.

use std::sync::Arc;

use serde_json::json;

use super::*;
use crate::definition::Step;

fn answer(code: u16) -> ParticipantResponse {
    ParticipantResponse { code, headers: Vec::new(), body: None }
}

/// A step whose transaction and compensation have these predicates.
fn step(predicates: &Json) -> Arc<crate::definition::Definition> {
    let mut call = json!({"cluster": "hotel", "method": "POST", "path": "/"});
    for (name, predicate) in predicates.as_object().into_iter().flatten() {
        call[name] = predicate.clone();
    }
    let mut compensation = call.clone();
    compensation["method"] = json!("DELETE");
    let steps = json!([{"name": "hotel", "transaction": call, "compensation": compensation}]);
    let saga = json!({"name": "trip", "match": {"path": "/trips"}, "steps": steps});
    let loaded = crate::config::from_json(&json!({"version": 1, "sagas": [saga]}));
    Arc::clone(&loaded.unwrap_or_else(|errors| panic!("{errors}")).definitions[0])
}

fn heard(predicates: &Json, kind: CallKind, result: AttemptResult) -> String {
    let definition = step(predicates);
    let Step { transaction, compensation, .. } = &definition.steps[0];
    let call = if kind == CallKind::Transaction { transaction } else { compensation.as_ref().unwrap() };
    match hear(call, kind, &result, 0) {
        Heard::Done(_) => "done".to_owned(),
        Heard::Refused(refuser, _) => format!("{refuser:?}").to_lowercase(),
        Heard::NotFound => "not found".to_owned(),
        Heard::NotNow { .. } => "not now".to_owned(),
        Heard::NotSent(_) => "not sent".to_owned(),
        Heard::Unknown(_) => "unknown".to_owned(),
    }
}

#[test]
fn a_code_says_whose_word_it_is() {
    let none = json!({});
    for code in [402, 406, 412, 415, 416, 418, 422, 423, 424, 428, 451] {
        for kind in [CallKind::Transaction, CallKind::Compensation] {
            assert_eq!(heard(&none, kind, AttemptResult::Answered(answer(code))), "participant", "{code}");
        }
    }
    for code in [400, 401, 403, 405, 407, 411, 413, 414, 417, 421, 426, 431, 499] {
        for kind in [CallKind::Transaction, CallKind::Compensation] {
            assert_eq!(heard(&none, kind, AttemptResult::Answered(answer(code))), "path", "{code}");
        }
    }
    let cases = [
        (200, "done", "done"),
        (204, "done", "done"),
        (404, "path", "not found"),
        (409, "conflict", "conflict"),
        (410, "participant", "done"),
        (408, "unknown", "unknown"),
        (425, "unknown", "unknown"),
        (429, "not now", "not now"),
        (301, "unknown", "unknown"),
        (500, "unknown", "unknown"),
        (503, "unknown", "unknown"),
    ];
    for (code, transaction, compensation) in cases {
        let answered = |kind| heard(&none, kind, AttemptResult::Answered(answer(code)));
        assert_eq!(answered(CallKind::Transaction), transaction, "{code}");
        assert_eq!(answered(CallKind::Compensation), compensation, "{code}");
    }
}

#[test]
fn a_503_says_not_now_only_where_it_says_when() {
    for (value, expected) in [("3", "not now"), ("soon", "unknown")] {
        let headers = vec![("Retry-After".to_owned(), value.as_bytes().to_vec())];
        let answer = ParticipantResponse { code: 503, headers, body: None };
        assert_eq!(heard(&json!({}), CallKind::Transaction, AttemptResult::Answered(answer)), expected);
    }
}

/// What Envoy answers itself says only that no answer came, whatever the predicates would make of it.
#[test]
fn what_the_proxy_says_itself_meets_no_predicate() {
    let greedy = json!({"success": "response.code == 504", "rejected": "response.code >= 400"});
    for predicates in [json!({}), greedy] {
        for code in [200, 404, 422, 503, 504] {
            for kind in [CallKind::Transaction, CallKind::Compensation] {
                let said = heard(&predicates, kind, AttemptResult::LocalReply(answer(code)));
                assert_eq!(said, "unknown", "{code} with {predicates}");
            }
        }
        assert_eq!(heard(&predicates, CallKind::Transaction, AttemptResult::NoAnswer), "unknown");
    }
}

#[test]
fn predicates_of_the_definition_replace_the_default_ones() {
    let rejected = json!({"rejected": "response.code in [404, 409, 500]"});
    let said = |code| heard(&rejected, CallKind::Transaction, AttemptResult::Answered(answer(code)));
    assert_eq!([404, 500, 409, 422].map(said), ["participant", "participant", "conflict", "unknown"]);
    let success = json!({"success": "response.code in [204, 404]"});
    let said = |code| heard(&success, CallKind::Compensation, AttemptResult::Answered(answer(code)));
    assert_eq!([204, 404, 200, 410].map(said), ["done", "done", "unknown", "participant"]);
}

#[test]
fn only_a_participant_can_say_not_done_once_an_attempt_was_unknown() {
    let refused = |refuser| Heard::Refused(refuser, "no".to_owned());
    let modes = [Mode::Trying, Mode::TryingAgain, Mode::Resolving];
    let in_words = |verdict: Verdict| match verdict {
        Verdict::Succeeded(_) => "succeeded",
        Verdict::Rejected(_) => "rejected",
        Verdict::Unknown(_) => "unknown",
        Verdict::NotDone { counts: true, .. } => "not done, counts",
        Verdict::NotDone { counts: false, .. } => "not done",
        Verdict::GiveUp(_) => "give up",
    };
    let cases = [
        (Heard::Done(json!(1)), ["succeeded"; 3]),
        (refused(Refuser::Participant), ["rejected"; 3]),
        (refused(Refuser::Path), ["rejected", "unknown", "unknown"]),
        (refused(Refuser::Conflict), ["rejected", "unknown", "unknown"]),
        (Heard::NotNow { reason: String::new(), retry_after: None }, ["not done, counts"; 3]),
        (Heard::NotSent(DispatchRefusal::Unavailable), ["not done"; 3]),
        (Heard::NotSent(DispatchRefusal::OwnershipUncertain), ["not done"; 3]),
        (Heard::NotSent(DispatchRefusal::UnknownCluster), ["give up", "give up", "not done"]),
        (Heard::Unknown(String::new()), ["unknown"; 3]),
    ];
    for (heard, expected) in cases {
        assert_eq!(modes.map(|mode| in_words(transaction(heard.clone(), mode))), expected, "{heard:?}");
    }
}

#[test]
fn nothing_to_undo_is_believed_late_and_only_where_it_may_be() {
    let in_words = |verdict: UndoVerdict| match verdict {
        UndoVerdict::Done => "done",
        UndoVerdict::NothingToUndo => "nothing to undo",
        UndoVerdict::Refused(_) => "refused",
        UndoVerdict::Unknown(_) => "unknown",
        UndoVerdict::NotDone { .. } => "not done",
    };
    let known = Undoing { need_not_exist: false, may_be_worked_on: false, not_found_for_long: true };
    let early = Undoing { need_not_exist: true, may_be_worked_on: true, not_found_for_long: false };
    let late = Undoing { not_found_for_long: true, ..early };
    let refused = |refuser| Heard::Refused(refuser, "no".to_owned());
    let cases = [
        (Heard::Done(json!(1)), ["done"; 3]),
        (Heard::NotFound, ["refused", "not done", "nothing to undo"]),
        (refused(Refuser::Participant), ["refused"; 3]),
        (refused(Refuser::Path), ["refused"; 3]),
        (refused(Refuser::Conflict), ["refused", "unknown", "unknown"]),
        (Heard::NotSent(DispatchRefusal::UnknownCluster), ["not done"; 3]),
        (Heard::Unknown(String::new()), ["unknown"; 3]),
    ];
    for (heard, expected) in cases {
        let verdicts = [known, early, late].map(|known| in_words(compensation(heard.clone(), known)));
        assert_eq!(verdicts, expected, "{heard:?}");
    }
}
