//! What the macros of one evaluation may take: steps, and room for what they copy.
//!
//! Nested macros multiply their steps, and `.map(x, x + x)`, said thirty times, doubles a text thirty times. While an
//! expression is evaluated the worker does nothing else, and the memory of a Wasm module never shrinks.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use cel::common::types::{CelBool, CelBytes, CelList, CelMap, CelOptional, CelString, Type};
use cel::common::value::{CowVal, StaticVal, Val};
use cel::context::VariableResolver;

use super::steps::{ROOM, STEP, lookup_index};

/// Most steps that the macros of one evaluation may take together.
pub(super) const MAX_STEPS: i64 = 10_000;
/// What one step counts beside the values that it looks up, whose weights count ([`super::value::weight`]).
const STEP_WEIGHT: i64 = 10;
/// Most that macros may iterate over and copy, in the units of weights; about 16 MiB.
const MAX_ROOM: i64 = 1 << 18;
/// How often they may do so, besides, with all that is looked up: `a.filter(x, ..).map(x, ..)` does about four times.
const ROOM_OF_READ: i64 = 16;

/// What the macros of one evaluation may still spend. It is asked for every variable first: that is how steps are
/// counted. It is a value, too, for the functions that weigh others.
#[derive(Clone, Debug)]
pub(super) struct Budget {
    weights: Arc<[i64]>,
    left: Arc<Left>,
    go_on: CelBool,
}

#[derive(Debug)]
struct Left {
    steps: AtomicI64,
    room: AtomicI64,
}

impl Budget {
    /// For look-ups whose values weigh so much.
    pub(super) fn new(weights: Vec<i64>) -> Self {
        // Reading each value once is free: that is no more than what has come in.
        let once = weights.iter().copied().fold(0, i64::saturating_add);
        let left = Left {
            steps: AtomicI64::new(once.saturating_add(MAX_STEPS * STEP_WEIGHT)),
            room: AtomicI64::new(once.saturating_mul(ROOM_OF_READ).saturating_add(MAX_ROOM)),
        };
        Budget { weights: weights.into(), left: Arc::new(left), go_on: CelBool::from(true) }
    }

    /// Takes what `value` weighs from the room that is left. Says whether there was so much.
    pub(super) fn admit(&self, value: &dyn Val) -> bool {
        spend(&self.left.room, weight(value));
        !self.is_spent()
    }

    /// Whether more was asked for than there was.
    pub(super) fn is_spent(&self) -> bool {
        is_spent(&self.left.steps) || is_spent(&self.left.room)
    }
}

fn spend(left: &AtomicI64, weight: i64) {
    if !is_spent(left) {
        left.fetch_sub(weight, Ordering::Relaxed);
    }
}

fn is_spent(left: &AtomicI64) -> bool {
    left.load(Ordering::Relaxed) < 0
}

/// As [`super::value::weight`], of a value that may have been computed.
fn weight(value: &dyn Val) -> i64 {
    let of_bytes = |length: usize| 1 + i64::try_from(length / 64).unwrap_or(i64::MAX / 2);
    if let Some(text) = value.downcast_ref::<CelString>() {
        of_bytes(text.inner().len())
    } else if let Some(bytes) = value.downcast_ref::<CelBytes>() {
        of_bytes(bytes.inner().len())
    } else if let Some(list) = value.downcast_ref::<CelList>() {
        list.inner().iter().map(|item| weight(item.as_ref())).fold(1, i64::saturating_add)
    } else if let Some(map) = value.downcast_ref::<CelMap>() {
        let entries = map.inner().iter().map(|(key, value)| weight(key.inner()).saturating_add(weight(value.as_ref())));
        entries.fold(1, i64::saturating_add)
    } else if let Some(inner) = value.downcast_ref::<CelOptional>().and_then(CelOptional::inner) {
        weight(inner).saturating_add(1)
    } else {
        1
    }
}

impl VariableResolver for Budget {
    fn resolve<'b>(&'b self, variable: &str) -> Option<CowVal<'b, 'b>> {
        if variable == STEP {
            spend(&self.left.steps, STEP_WEIGHT);
            return (!self.is_spent()).then_some(CowVal::Borrowed(&self.go_on));
        }
        if variable == ROOM {
            return (!self.is_spent()).then_some(CowVal::Borrowed(self));
        }
        if let Some(weight) = lookup_index(variable).and_then(|index| self.weights.get(index)) {
            spend(&self.left.steps, *weight);
        }
        None
    }
}

static BUDGET: Type = Type::new_unspecified_type("@budget");

impl Val for Budget {
    fn get_type(&self) -> &Type {
        &BUDGET
    }

    fn cel_type() -> &'static Type {
        &BUDGET
    }

    fn clone_as_boxed<'v>(&self) -> Box<dyn Val + 'v> {
        Box::new(self.clone())
    }

    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }
}

impl StaticVal for Budget {}
