//! The path to a participant, which may answer in its place.

use rand::seq::IndexedRandom;

use super::network::{answer_headers, whole};
use super::{Event, World};
use crate::simulator::generate::PATH_STATUSES;
use crate::simulator::history::CallId;
use crate::simulator::host::Nanos;
use crate::simulator::participants::step;
use crate::simulator::plan::MS;

impl World<'_> {
    pub(super) fn path_begins_to_answer(&mut self, participant: usize, for_ns: Nanos, status: Option<u16>) {
        self.path.push((participant, status));
        let what = status.map_or("whatever it likes".to_owned(), |status| status.to_string());
        self.tell_of(
            self.plan.participants[participant].clone(),
            format!("the path to it answers {what} for {} ms", for_ns / MS),
        );
        self.schedule(for_ns, Event::PathRecovers { participant, status });
    }

    pub(super) fn path_recovers(&mut self, participant: usize, status: Option<u16>) {
        if let Some(index) = self.path.iter().position(|one| *one == (participant, status)) {
            self.path.remove(index);
        }
        self.tell_of(self.plan.participants[participant].clone(), "the path to it lets calls pass");
    }

    /// Whether the path answers in the participant's place, or keeps a copy for itself.
    pub(super) fn path_answers_to(&mut self, call: CallId, participant: usize, copy: bool) -> bool {
        // What the path has answered once it never lets pass.
        if copy && self.answered_by_path.contains(&call) {
            return true;
        }
        let Some((_, status)) = self.path.iter().rfind(|(which, _)| *which == participant).copied() else {
            return false;
        };
        self.faults += 1;
        if !copy {
            self.answered_by_path.insert(call);
            let drawn = || PATH_STATUSES.choose(self.stream("path_answers")).copied().unwrap_or(404);
            let mut status = status.unwrap_or_else(drawn);
            if status == 404 && self.would_be_believed(call) {
                status = 403;
            }
            let body = b"<html>no</html>".to_vec();
            self.schedule(MS, whole(call, status, answer_headers(status), body));
        }
        true
    }

    /// A 404 to a compensation that is answered again and again is believed in the end, whoever says it: then the path would
    /// end a saga wrong by its word alone, and nobody could tell. It says something else in time.
    fn would_be_believed(&mut self, call: CallId) -> bool {
        let (record, now) = (&self.history.calls[call], self.now());
        if !record.is_compensation() {
            return false;
        }
        let timeout = Nanos::from(record.callout.timeout_ms) * MS;
        let first = *self.not_found.entry(step(record)).or_insert(now);
        now + 10 * MS >= first + timeout
    }
}
