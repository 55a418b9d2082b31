//! Which names may be read at a place of the configuration.

use super::Fault;

/// What may be read at a place of the configuration.
#[derive(Clone, Debug)]
pub struct Scope {
    request: bool,
    response: bool,
    transaction: bool,
    saga: &'static [(&'static str, Shape)],
    /// None: no `steps` here.
    steps: Option<Vec<String>>,
    /// Whether `steps` are those that come before; else all of the saga.
    ordered: bool,
    /// Whether what is read here is looked at; else it was before.
    judged: bool,
}

/// What is known of a value before there is one.
#[derive(Clone, Copy, Debug)]
pub(super) enum Shape {
    /// A text or a number: has no fields.
    Scalar,
    /// Anything that JSON can hold.
    Any,
    /// A map from names that are not known.
    Names,
    /// Like `Names`, in lower case.
    Headers,
    /// A map with these fields and no others.
    Fields(&'static [(&'static str, Shape)]),
    /// The map of steps.
    Steps,
}

const REQUEST: &[(&str, Shape)] = &[
    ("method", Shape::Scalar),
    ("path", Shape::Scalar),
    ("url_path", Shape::Scalar),
    ("query", Shape::Scalar),
    ("query_params", Shape::Names),
    ("host", Shape::Scalar),
    ("headers", Shape::Headers),
    ("params", Shape::Names),
    ("body", Shape::Any),
];
const RESPONSE: &[(&str, Shape)] = &[("code", Shape::Scalar), ("headers", Shape::Headers), ("body", Shape::Any)];
const CALL: &[(&str, Shape)] =
    &[("method", Shape::Scalar), ("path", Shape::Scalar), ("headers", Shape::Headers), ("body", Shape::Any)];
const STEP: &[(&str, Shape)] = &[("request", Shape::Fields(CALL)), ("response", Shape::Fields(RESPONSE))];
const TRANSACTION: &[(&str, Shape)] =
    &[("request", Shape::Fields(CALL)), ("response", Shape::Fields(RESPONSE)), ("idempotency_key", Shape::Scalar)];
const SAGA: &[(&str, Shape)] = &[("id", Shape::Scalar), ("name", Shape::Scalar)];
const ENDED_SAGA: &[(&str, Shape)] = &[
    ("id", Shape::Scalar),
    ("name", Shape::Scalar),
    ("status", Shape::Scalar),
    ("failed_step", Shape::Scalar),
    ("reason", Shape::Scalar),
];

/// The names that expressions may begin with; which of them, a [`Scope`] says.
pub(super) const ROOTS: [&str; 5] = ["request", "response", "transaction", "steps", "saga"];

impl Scope {
    /// `when`: `request`, the steps before, `saga.id`, `saga.name`.
    pub fn condition(steps_before: &[&str]) -> Scope {
        Scope {
            request: true,
            response: false,
            transaction: false,
            saga: SAGA,
            steps: Some(steps_before.iter().map(|&name| name.to_owned()).collect()),
            ordered: true,
            judged: true,
        }
    }

    /// The call of a transaction: the same names as in a condition.
    pub fn transaction(steps_before: &[&str]) -> Scope {
        Scope::condition(steps_before)
    }

    /// The call of a compensation: besides, `transaction.request`, `transaction.response` and
    /// `transaction.idempotency_key` of its own step.
    pub fn compensation(steps_before: &[&str]) -> Scope {
        Scope { transaction: true, ..Scope::condition(steps_before) }
    }

    /// `success` and `rejected`: `response` only.
    pub fn predicate() -> Scope {
        Scope {
            request: false,
            response: true,
            transaction: false,
            saga: &[],
            steps: None,
            ordered: true,
            judged: true,
        }
    }

    /// A reply: `request`, every step, and of the saga also `status`, `failed_step` and `reason`.
    pub fn reply(all_steps: &[&str]) -> Scope {
        Scope { saga: ENDED_SAGA, ordered: false, ..Scope::condition(all_steps) }
    }

    /// Of an expression that was checked before it was stored: it may read whatever it reads.
    pub(crate) fn checked_before() -> Scope {
        let (request, response, transaction) = (true, true, true);
        let (saga, steps) = (ENDED_SAGA, Some(Vec::new()));
        Scope { request, response, transaction, saga, steps, ordered: true, judged: false }
    }

    /// Whether what is written is judged.
    pub(super) fn is_judged(&self) -> bool {
        self.judged
    }

    /// Checks that `path` may be read, and lower-cases the names of headers in it. Gives what is known of the value.
    pub(super) fn locate(&self, path: &mut [String]) -> Result<Shape, Fault> {
        let Some((root, rest)) = path.split_first_mut() else {
            return Ok(Shape::Any);
        };
        let mut shape = self.root(root)?;
        let mut so_far = root.clone();
        for name in rest {
            shape = match shape {
                Shape::Any => return Ok(Shape::Any),
                Shape::Names => Shape::Scalar,
                Shape::Headers => {
                    name.make_ascii_lowercase();
                    Shape::Scalar
                }
                Shape::Steps => self.step(name)?,
                Shape::Fields(fields) => match fields.iter().find(|(field, _)| field == name) {
                    Some((_, shape)) => *shape,
                    None if !self.judged => return Ok(Shape::Any),
                    None => {
                        let known: Vec<&str> = fields.iter().map(|(field, _)| *field).collect();
                        let found = format!("`{so_far}.{name}`");
                        return Err(Fault::new(found, format!("a field of `{so_far}`: {}", known.join(", "))));
                    }
                },
                Shape::Scalar if !self.judged => return Ok(Shape::Any),
                Shape::Scalar => {
                    return Err(Fault::new(format!("`{so_far}.{name}`"), format!("`{so_far}`, which has no fields")));
                }
            };
            so_far = format!("{so_far}.{name}");
        }
        Ok(shape)
    }

    fn root(&self, name: &str) -> Result<Shape, Fault> {
        match name {
            "request" if self.request => Ok(Shape::Fields(REQUEST)),
            "response" if self.response => Ok(Shape::Fields(RESPONSE)),
            "transaction" if self.transaction => Ok(Shape::Fields(TRANSACTION)),
            "saga" if !self.saga.is_empty() => Ok(Shape::Fields(self.saga)),
            "steps" if self.steps.is_some() => Ok(Shape::Steps),
            _ => Err(self.unknown(name)),
        }
    }

    fn step(&self, name: &str) -> Result<Shape, Fault> {
        if !self.judged || self.steps.iter().flatten().any(|step| step == name) {
            return Ok(Shape::Fields(STEP));
        }
        Err(if self.ordered {
            Fault::new(
                format!("`steps.{name}`"),
                format!("a step that comes before: step `{name}` does not come before, name it in `after`"),
            )
        } else {
            Fault::new(format!("`steps.{name}`"), "a step of this saga")
        })
    }

    /// The fault of a name that cannot be read here.
    pub(super) fn unknown(&self, name: &str) -> Fault {
        let readable: Vec<&str> = ROOTS.into_iter().filter(|root| self.has_root(root)).collect();
        Fault::new(format!("the variable `{name}`"), format!("what can be read here: {}", readable.join(", ")))
    }

    fn has_root(&self, name: &str) -> bool {
        match name {
            "request" => self.request,
            "response" => self.response,
            "transaction" => self.transaction,
            "steps" => self.steps.is_some(),
            _ => !self.saga.is_empty(),
        }
    }
}
