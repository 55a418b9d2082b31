//! What the checker knows of one step of a saga, and what an attempt came to, as its owner must take it.

use crate::simulator::history::{CallId, Ended};
use crate::simulator::host::Nanos;
use crate::simulator::model::StepModel;
use crate::simulator::plan::{MS, SECOND};

/// What an attempt came to, as far as its sender could know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Came {
    /// It is under way.
    NotYet,
    /// A success.
    Success,
    /// A definite refusal.
    Refusal,
    /// It was not done now, or it is too early to believe what was answered.
    NotNow,
    /// Nobody knows.
    Unknown,
    /// What it is depends on what its owner knows of owners before it: of a transaction a refusal or unknown, of a
    /// compensation a success or none.
    Doubtful,
}

impl Came {
    /// It has ended without a success.
    pub(super) fn is_vain(self) -> bool {
        !matches!(self, Came::Success | Came::NotYet)
    }
}

/// Whether the owner of a saga has to reckon with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reckons {
    No,
    /// That depends on what it has found in the journal.
    Perhaps,
    Yes,
}

/// Answers that no proxy makes by itself: after an unknown attempt they are a participant's word that it was not done.
const SAID_BY_PARTICIPANTS: [u16; 12] = [402, 406, 410, 412, 415, 416, 418, 422, 423, 424, 428, 451];
/// What an owner knows is in the journal at the latest so long after, and some time for the way.
const KNOWN_TO_ITSELF_FOR: Nanos = SECOND + 500 * MS;

/// One attempt.
#[derive(Debug, Clone)]
pub(super) struct Attempt {
    pub(super) call: CallId,
    pub(super) came: Came,
    /// Its `saga-attempt`.
    pub(super) number: usize,
    pub(super) sent_at: Nanos,
    /// When it times out.
    pub(super) until: Nanos,
}

/// The attempts of one half of a step.
#[derive(Debug, Clone, Default)]
pub(super) struct Half {
    pub(super) attempts: Vec<Attempt>,
    pub(super) first_tried_at: Option<Nanos>,
    pub(super) last_ended_at: Nanos,
    /// For how long the participant has asked to be left alone after the last attempt.
    pub(super) put_off: Nanos,
    /// So many of the attempts are of owners before this one, who have told nobody what they came to.
    pub(super) before: usize,
    /// So many of those the journal may not have.
    pub(super) forgotten: usize,
    /// An attempt of the owner before was under way when that died, and is so until then at least.
    pub(super) inherited_until: Nanos,
    /// It was refused for good, by its participant or for want of a cluster.
    pub(super) refused: bool,
    /// When a compensation was answered 404, each with whether that may have been nothing to undo.
    not_found: Vec<(Nanos, Reckons)>,
}

impl Half {
    /// The attempts of the present owner.
    pub(super) fn of_owner(&self) -> &[Attempt] {
        self.attempts.get(self.before..).unwrap_or_default()
    }

    /// To the knowledge of the present owner.
    pub(super) fn owner_saw(&self, came: Came) -> bool {
        self.of_owner().iter().any(|attempt| attempt.came == came)
    }

    /// Another owner: what was under way is unknown to it.
    pub(super) fn taken_over(&mut self, dead_since: Option<Nanos>) {
        for attempt in self.attempts.iter_mut().filter(|attempt| attempt.came == Came::NotYet) {
            attempt.came = Came::Unknown;
            let timeout = attempt.until - attempt.sent_at;
            self.inherited_until = attempt.until.max(dead_since.unwrap_or(0) + timeout).max(self.inherited_until);
        }
        let is_late = |attempt: &&Attempt| dead_since.is_none_or(|dead| attempt.until + KNOWN_TO_ITSELF_FOR >= dead);
        self.forgotten += 1 + self.of_owner().iter().filter(is_late).count();
        self.before = self.attempts.len();
        (self.last_ended_at, self.put_off, self.refused) = (0, 0, false);
    }

    pub(super) fn came(&self, came: Came) -> bool {
        self.attempts.iter().any(|attempt| attempt.came == came)
    }

    /// It was answered 404.
    pub(super) fn was_not_found(&self) -> bool {
        !self.not_found.is_empty()
    }

    pub(super) fn last(&self) -> Option<Came> {
        self.attempts.last().map(|attempt| attempt.came)
    }

    /// When the first attempt was sent.
    pub(super) fn first_sent_at(&self) -> Option<Nanos> {
        self.attempts.first().map(|attempt| attempt.sent_at)
    }
}

/// One step of a saga.
#[derive(Debug, Clone, Default)]
pub(super) struct StepView {
    pub(super) transaction: Half,
    pub(super) compensation: Half,
    pub(super) applied: u32,
    /// What it answered, those after it cannot read.
    pub(super) unreadable: bool,
    /// Nor could they when an owner had it who has gone, and may have written that down.
    pub(super) was_unreadable: bool,
}

impl StepView {
    /// Whether there is, or may be, something to undo.
    pub(super) fn may_be_done(&self) -> bool {
        let transaction = &self.transaction;
        (transaction.came(Came::Success) || transaction.came(Came::Unknown))
            && transaction.last() != Some(Came::Refusal)
    }

    pub(super) fn is_undone(&self) -> bool {
        matches!(self.compensation.last(), Some(Came::Success | Came::Doubtful))
    }

    /// What an attempt of its transaction came to that has just ended. What Envoy says itself meets no predicate.
    pub(super) fn transaction_came(&self, model: &StepModel, ended: &Ended, epoch: u32) -> Came {
        let status = match ended {
            Ended::Unreadable(_) if model.needs_answer() => return Came::Unknown,
            Ended::Unreadable(_) | Ended::Answered(200..=299) => return Came::Success,
            Ended::Proxy(_) | Ended::Broken | Ended::Forgotten => return Came::Unknown,
            Ended::Answered(status) | Ended::PutOff(status, _) => *status,
        };
        let unless_unknown = match self.reckons_with_unknown(epoch) {
            Reckons::No => Came::Refusal,
            Reckons::Perhaps => Came::Doubtful,
            Reckons::Yes => Came::Unknown,
        };
        let put_off = matches!(ended, Ended::PutOff(..));
        match status {
            409 => unless_unknown,
            _ if model.rejects_all_from().is_some_and(|first| status >= first) => Came::Refusal,
            429 => Came::NotNow,
            _ if put_off => Came::NotNow,
            408 | 425 => Came::Unknown,
            _ if SAID_BY_PARTICIPANTS.contains(&status) => Came::Refusal,
            400..=499 => unless_unknown,
            _ => Came::Unknown,
        }
    }

    /// Whether some attempt of the transaction, in any epoch, may have been done without its owner's knowing.
    fn reckons_with_unknown(&self, epoch: u32) -> Reckons {
        match self.transaction.came(Came::Unknown) {
            true => Reckons::Yes,
            // What was in flight to the journal need not have been sent.
            false if epoch > 1 => Reckons::Perhaps,
            false => Reckons::No,
        }
    }

    /// What an attempt of its compensation came to that has just ended.
    pub(super) fn compensation_came(
        &mut self,
        model: &StepModel,
        ended: &Ended,
        epoch: u32,
        took_over_at: Nanos,
        now: Nanos,
    ) -> Came {
        match ended {
            Ended::Answered(404) => self.found_nothing(model, epoch, took_over_at, now),
            Ended::Answered(200..=299 | 410) | Ended::Unreadable(_) => Came::Success,
            Ended::PutOff(..) | Ended::Answered(429) => Came::NotNow,
            Ended::Answered(408 | 425) => Came::Unknown,
            Ended::Answered(409) if self.compensation.came(Came::Unknown) => Came::Unknown,
            Ended::Answered(400..=499) => Came::Refusal,
            Ended::Answered(_) | Ended::Proxy(_) | Ended::Broken | Ended::Forgotten => Came::Unknown,
        }
    }

    /// A 404 says that there is nothing to undo only if that can be so, and not at once: a proxy on the path says it, too,
    /// and so does a participant before it has done what it works on.
    fn found_nothing(&mut self, model: &StepModel, epoch: u32, took_over_at: Nanos, now: Nanos) -> Came {
        let (transaction, compensation) = (&self.transaction, &self.compensation);
        let may_be_gone = compensation.came(Came::Unknown) || compensation.before > 0;
        let need_not_exist = match !transaction.came(Came::Success) || may_be_gone {
            true => Reckons::Yes,
            false if epoch > 1 => Reckons::Perhaps,
            false => Reckons::No,
        };
        let before: Vec<(Nanos, Reckons)> = compensation.not_found.clone();
        self.compensation.not_found.push((now, need_not_exist));
        if need_not_exist == Reckons::No {
            return Came::Refusal;
        }
        let timeout = model.timeout_ms(false) * MS;
        let unknown = |half: &Half| {
            let unknown = half.attempts.iter().filter(|attempt| attempt.came == Came::Unknown);
            unknown.map(|attempt| attempt.until).max().unwrap_or(0)
        };
        let worked_on_until = unknown(&self.transaction).max(self.transaction.inherited_until);
        // At the earliest; the filter counts whole milliseconds.
        let Some((first, _)) = before.first() else { return Came::NotNow };
        if now + 2 * MS < worked_on_until.max(*first) + timeout {
            return Came::NotNow;
        }
        // At the latest: what owners before have been answered this one may not know, nor when an attempt ended.
        let since = |(at, reckons): &&(Nanos, Reckons)| *reckons == Reckons::Yes && *at >= took_over_at;
        let Some((first, _)) = before.iter().find(since) else { return Came::Doubtful };
        let inherited = if took_over_at > 0 { took_over_at + timeout.max(model.timeout_ms(true) * MS) } else { 0 };
        let sent = self.transaction.attempts.iter().map(|attempt| attempt.until).max().unwrap_or(0);
        let worked_on_until = sent.max(unknown(&self.compensation)).max(inherited);
        let certain = need_not_exist == Reckons::Yes && now > worked_on_until.max(*first) + timeout + 2 * MS;
        if certain { Came::Success } else { Came::Doubtful }
    }
}
