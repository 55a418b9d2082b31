//! Calls to participants on their way out, and their answers on their way in, as far as there is room for them.

use std::sync::Arc;

use super::room::Purpose;
use super::{Callout, Coordinator, Counter, Host, Key};
use crate::facts::ParticipantResponse;
use crate::journal::Journal;
use crate::planted::{Planted, planted};
use crate::saga::{AttemptResult, CallId, CallKind, DispatchRefusal, Event, OutgoingCall, Saga, SagaState};

/// While a saga compensates, a transaction is only sent to learn whether it was done.
fn purpose(saga: &Saga, call: &CallId) -> Purpose {
    match (call.kind, saga.state()) {
        (CallKind::Transaction, SagaState::Running) => Purpose::Forward,
        (CallKind::Transaction | CallKind::Compensation, _) => Purpose::Backward,
    }
}

impl<J: Journal> Coordinator<J> {
    /// Sends a call, once there is room for what its answer may add.
    pub(super) fn dispatch(
        &mut self,
        host: &mut impl Host,
        key: Key,
        call: &OutgoingCall,
    ) -> Result<(), DispatchRefusal> {
        let Some(saga) = self.sagas.get(&key).map(|entry| &entry.saga) else { return Err(DispatchRefusal::Obsolete) };
        let waits_for_room = purpose(saga, &call.id) == Purpose::Forward || planted(Planted::CompensationsWaitForRoom);
        let reserved = match waits_for_room {
            true => self.room.reserve(host, saga.definition(), call.id.step).ok_or(DispatchRefusal::NoRoom),
            false => Ok(0),
        };
        let sent = reserved.and_then(|reserved| match host.dispatch(call) {
            Ok(token) => Ok((token, reserved)),
            Err(refusal) => {
                self.room.release(reserved);
                Err(refusal)
            }
        });
        match sent {
            Ok((token, reserved)) => {
                self.callouts.insert(token, Callout::Saga { saga: key, id: call.id, reserved });
                Ok(())
            }
            Err(refusal) => {
                log::debug!("saga {}: cluster `{}`: {refusal}", saga.id(), call.cluster);
                Err(refusal)
            }
        }
    }

    /// Feeds an answer in, as much of it as there is room for.
    pub(super) fn answered(
        &mut self,
        host: &mut impl Host,
        key: Key,
        id: CallId,
        mut result: AttemptResult,
        reserved: usize,
    ) {
        self.room.release(reserved);
        // It may go on elsewhere.
        let Some(saga) = self.sagas.get(&key).map(|entry| &entry.saga) else { return };
        let (purpose, definition) = (purpose(saga, &id), Arc::clone(saga.definition()));
        // It is gone once it is handled.
        let mut of_answer = 0;
        if let AttemptResult::Answered(answer) | AttemptResult::LocalReply(answer) = &mut result {
            if let Err(no_room) = self.room.let_in(host, answer, purpose, reserved) {
                log::warn!("saga {} ({}): {no_room}", saga.id(), definition.name);
                host.count(Counter::AnswerNotKept);
                if purpose == Purpose::Forward && !no_room.weight.has_too_many_values {
                    // The next attempt waits until there is room for it.
                    self.room.learn(&definition, id.step, no_room.weight.bytes);
                }
            }
            of_answer = bytes_of(answer);
        }
        let before = host.allocated_bytes().saturating_sub(of_answer);
        self.feed(host, key, Event::AttemptEnded { id, result });
        if purpose == Purpose::Forward && of_answer > 0 {
            self.room.learn(&definition, id.step, host.allocated_bytes().saturating_sub(before));
        }
    }
}

fn bytes_of(answer: &ParticipantResponse) -> usize {
    let of_header = |(name, value): &(String, Vec<u8>)| {
        size_of::<(String, Vec<u8>)>().saturating_add(name.capacity()).saturating_add(value.capacity())
    };
    let of_body = answer.body.as_ref().map_or(0, Vec::capacity);
    answer.headers.iter().map(of_header).fold(of_body, usize::saturating_add)
}
