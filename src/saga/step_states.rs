//! The states of a saga's steps as a head carries them: a letter for each, so that a status can be read without records.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::record::{Change, Record};
use super::state::StepState;
use crate::definition::StepIndex;

/// Every state has a letter.
const LETTERS: [(StepState, char); 9] = [
    (StepState::Waiting, 'w'),
    (StepState::Skipped, 'k'),
    (StepState::NotStarted, 'n'),
    (StepState::InFlight, 'f'),
    (StepState::Succeeded, 's'),
    (StepState::Rejected, 'r'),
    (StepState::Unknown, 'u'),
    (StepState::Compensating, 'c'),
    (StepState::Compensated, 'd'),
];
/// More steps than a saga may have.
const MAX_STEPS: usize = 1_024;

/// What records say of the states of steps, in the order of the definition. Steps that no record has named are left out at
/// the end: they wait, or were not started if the saga compensates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct StepStates(Vec<StepState>);

impl StepStates {
    /// After all of these records.
    pub(crate) fn of<'a>(records: impl IntoIterator<Item = &'a Record>) -> StepStates {
        let mut states = StepStates::default();
        records.into_iter().for_each(|record| states.take(record));
        states
    }

    /// Nothing is known of any step.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes over what a record says. Whether it may say so is [`super::record::Progress`]'s to judge.
    pub(crate) fn take(&mut self, record: &Record) {
        for change in &record.changes {
            match change {
                Change::Skipped { step } => self.set(*step, StepState::Skipped),
                Change::InFlight { step, .. } => self.set(*step, StepState::InFlight),
                Change::Settled { step, settlement } => self.set(*step, settlement.state()),
                Change::StepCompensating { step } => self.set(*step, StepState::Compensating),
                Change::StepCompensated { step } => self.set(*step, StepState::Compensated),
                Change::Compensating(_) => self.never_start(),
                Change::Begun(_) | Change::Attempted { .. } | Change::Stuck(_) | Change::Ended { .. } => {}
            }
        }
    }

    fn set(&mut self, step: StepIndex, state: StepState) {
        if step >= MAX_STEPS {
            return;
        }
        if self.0.len() <= step {
            self.0.resize(step.saturating_add(1), StepState::Waiting);
        }
        if let Some(known) = self.0.get_mut(step) {
            *known = state;
        }
    }

    fn never_start(&mut self) {
        for state in self.0.iter_mut().filter(|state| **state == StepState::Waiting) {
            *state = StepState::NotStarted;
        }
    }
}

fn letter(state: StepState) -> char {
    LETTERS.iter().find(|(other, _)| *other == state).map_or('?', |(_, letter)| *letter)
}

impl Serialize for StepStates {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0.iter().map(|state| letter(*state)).collect::<String>())
    }
}

impl<'de> Deserialize<'de> for StepStates {
    /// A letter that this module does not know is a step that it can say nothing of: it waits, as far as is known here.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<StepStates, D::Error> {
        let known = |letter| LETTERS.iter().find(|(_, other)| *other == letter).map(|(state, _)| *state);
        let letters = String::deserialize(deserializer)?;
        Ok(StepStates(letters.chars().take(MAX_STEPS).map(|one| known(one).unwrap_or(StepState::Waiting)).collect()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value as Json, json};

    use super::super::record::Progress;
    use super::super::state::SagaState;
    use super::*;

    const STEPS: usize = 5;

    /// In the form of the first version: what is new in a change has a default.
    fn change(kind: usize, step: usize) -> Change {
        let settled = |settlement: Json| json!({"settled": {"step": step, "settlement": settlement}});
        let change = match kind {
            0 => json!({"skipped": {"step": step}}),
            1 | 2 => json!({"in_flight": {"step": step, "request": null}}),
            3 | 4 => settled(json!({"succeeded": {"kept": {}, "compensation": null}})),
            5 => settled(json!({"rejected": {"reason": "no"}})),
            6 => settled(json!({"unknown": {"reason": "?", "compensation": null}})),
            7 => json!({"compensating": {"failed_step": null, "reason": "late"}}),
            8 => json!({"step_compensating": {"step": step}}),
            _ => json!({"step_compensated": {"step": step}}),
        };
        serde_json::from_value(change).expect("a change")
    }

    proptest! {
        #[test]
        fn the_states_in_a_head_are_those_that_a_replay_gives(drawn in prop::collection::vec((0..10_usize, 0..STEPS), 0..80)) {
            let names = ["a", "b", "c", "d", "e"];
            let (mut progress, mut states) = (Progress::new(names.into_iter()), StepStates::default());
            for (kind, step) in drawn {
                let change = change(kind, step);
                if progress.apply(&change).is_ok() {
                    states.take(&Record::new(1, vec![change]));
                }
                let rest = if progress.state == SagaState::Running { StepState::Waiting } else { StepState::NotStarted };
                let known = states.0.iter().copied().chain(std::iter::repeat(rest)).take(STEPS);
                let replayed: Vec<StepState> = progress.steps.iter().map(|step| step.state).collect();
                prop_assert_eq!(known.collect::<Vec<_>>(), replayed);
            }
            let text = serde_json::to_string(&states).expect("JSON");
            prop_assert_eq!(serde_json::from_str::<StepStates>(&text).expect("states"), states);
        }
    }

    #[test]
    fn every_state_has_a_letter_of_its_own() {
        let letters: std::collections::BTreeSet<char> = LETTERS.iter().map(|(_, letter)| *letter).collect();
        assert_eq!(letters.len(), LETTERS.len());
        assert!(!LETTERS.iter().any(|(state, _)| letter(*state) == '?'));
    }

    #[test]
    fn a_step_past_every_bound_takes_no_room() {
        let mut states = StepStates::default();
        states.take(&Record::new(1, vec![change(0, usize::MAX)]));
        assert!(states.is_empty());
    }
}
