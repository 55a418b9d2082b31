//! The functions that expressions may call, and those that the check adds.

use std::sync::{Arc, LazyLock};

use cel::Env;
use cel::ExecutionError;
use cel::common::ast::operators;
use cel::common::types::{CelList, CelMap, CelMapKey, CelString, DYN_TYPE, STRING_TYPE};
use cel::common::value::{CowVal, Val};

use super::Fault;
use super::budget::Budget;
use super::digits::{self, Digits};

/// Lower-cases a text: what headers are indexed by. No source can name it.
pub(super) const LOWER: &str = "@lower";
/// What a macro iterates over: the keys of a map in order, and everything else as it is, if there is room. `cel` iterates over maps in an order of its own each
/// time, but a call that is sent again must be the same call. No source can name it.
pub(super) const ORDERED: &str = "@ordered";
/// The right side of a `+`, which must be no map: `cel` would append its keys to a list, in an order of its own each
/// time. No source can name it.
pub(super) const ADDEND: &str = "@addend";

/// A value that a macro copies, if there is room for it: [`ROOM`](super::steps::ROOM) comes before it, here and in the
/// other two. No source can name it.
pub(super) const COPIED: &str = "@copied";

/// The standard functions and those above. Building it takes microseconds, so all evaluations share it.
pub(super) static ENVIRONMENT: LazyLock<Arc<Env>> = LazyLock::new(|| {
    let mut env = Env::stdlib();
    let declared = env
        .add_overload(LOWER, "lower_string", vec![STRING_TYPE], lower)
        .and_then(|()| env.add_overload(ORDERED, "ordered_room_dyn", vec![DYN_TYPE, DYN_TYPE], ordered))
        .and_then(|()| env.add_overload(ADDEND, "addend_dyn", vec![DYN_TYPE], addend))
        .and_then(|()| env.add_overload(ADDEND, "addend_room_dyn", vec![DYN_TYPE, DYN_TYPE], addend))
        .and_then(|()| env.add_overload("string", "string_digits", vec![Digits::cel_type()], digits::string))
        .and_then(|()| env.add_overload(COPIED, "copied_room_dyn", vec![DYN_TYPE, DYN_TYPE], copied));
    debug_assert!(declared.is_ok(), "names that begin with `@` are taken by nobody else");
    Arc::new(env)
});

fn lower<'b, 'v>(arguments: Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let text = arguments.first().and_then(|argument| argument.downcast_ref::<CelString>());
    let text = text.ok_or(ExecutionError::MissingArgumentOrTarget)?;
    Ok(CowVal::owned(CelString::from(text.inner().to_ascii_lowercase())))
}

fn ordered<'b, 'v>(arguments: Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let range = copied(arguments)?;
    let Some(map) = range.downcast_ref::<CelMap>() else {
        return Ok(range);
    };
    let mut keys: Vec<&CelMapKey> = map.inner().keys().collect();
    keys.sort();
    let keys: Vec<Box<dyn Val + 'v>> = keys.into_iter().map(|key| key.inner().clone_as_boxed()).collect();
    Ok(CowVal::owned(CelList::from(keys)))
}

/// The last argument, if there is room for it in the budget that comes before it; without one there is.
fn copied<'b, 'v>(mut arguments: Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let value = arguments.pop().ok_or(ExecutionError::MissingArgumentOrTarget)?;
    match arguments.first().and_then(|room| room.downcast_ref::<Budget>()) {
        Some(budget) if !budget.admit(value.as_ref()) => {
            Err(ExecutionError::function_error(COPIED, "too much to copy"))
        }
        _ => Ok(value),
    }
}

fn addend<'b, 'v>(arguments: Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let addend = copied(arguments)?;
    match addend.downcast_ref::<CelMap>() {
        Some(_) => Err(ExecutionError::function_error("+", "a map cannot be added")),
        None => Ok(addend),
    }
}

/// Functions called as `f(x)`, with the number of arguments.
const GLOBAL: [(&str, usize); 4] = [("size", 1), ("string", 1), ("int", 1), ("double", 1)];
/// Functions called as `x.f(y)`, with the number of arguments besides `x`.
const MEMBER: [(&str, usize); 8] = [
    ("size", 0),
    ("startsWith", 1),
    ("endsWith", 1),
    ("contains", 1),
    ("or", 1),
    ("orValue", 1),
    ("hasValue", 0),
    ("value", 0),
];
/// Functions called as `optional.f(x)`.
const OPTIONAL: [(&str, usize); 2] = [("of", 1), ("none", 0)];
const MACROS: [(&str, &str); 7] = [
    ("has", "`has(x.field)`"),
    ("all", "`list.all(x, condition)`"),
    ("exists", "`list.exists(x, condition)`"),
    ("exists_one", "`list.exists_one(x, condition)`"),
    ("existsOne", "`list.existsOne(x, condition)`"),
    ("map", "`list.map(x, value)` or `list.map(x, condition, value)`"),
    ("filter", "`list.filter(x, condition)`"),
];
const OPERATORS: [&str; 21] = [
    operators::CONDITIONAL,
    operators::LOGICAL_AND,
    operators::LOGICAL_OR,
    operators::LOGICAL_NOT,
    operators::SUBSTRACT,
    operators::ADD,
    operators::MULTIPLY,
    operators::DIVIDE,
    operators::MODULO,
    operators::EQUALS,
    operators::NOT_EQUALS,
    operators::GREATER_EQUALS,
    operators::LESS_EQUALS,
    operators::GREATER,
    operators::LESS,
    operators::NEGATE,
    operators::INDEX,
    operators::OPT_INDEX,
    operators::OPT_SELECT,
    operators::NOT_STRICTLY_FALSE,
    operators::IN,
];

/// How a function is called.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    /// `f(x)`, and every operator.
    Global,
    /// `x.f(y)`.
    Member,
    /// `optional.f(x)`.
    Optional,
}

/// Refuses a function that does not exist, and one that is called in a way that it is not. `cel` itself would only
/// tell when the call is evaluated.
pub(super) fn check_call(name: &str, style: Style, arguments: usize) -> Result<(), Fault> {
    if style == Style::Global && (OPERATORS.contains(&name) || name == LOWER) {
        return Ok(());
    }
    let (known, shown): (&[(&str, usize)], String) = match style {
        Style::Global => (&GLOBAL, format!("{name}()")),
        Style::Member => (&MEMBER, format!(".{name}()")),
        Style::Optional => (&OPTIONAL, format!("optional.{name}()")),
    };
    if let Some((_, usage)) = MACROS.iter().find(|(known, _)| *known == name) {
        return Err(Fault::new(format!("the macro `{name}` in another form"), *usage));
    }
    if name == "matches" {
        let expected = "startsWith, endsWith or contains: regular expressions are not part of this filter";
        return Err(Fault::new("the function `matches`", expected));
    }
    match known.iter().find(|(known, _)| *known == name) {
        Some((_, count)) if *count == arguments => Ok(()),
        Some((_, count)) => Err(Fault::new(format!("`{shown}` with {arguments} arguments"), format!("{count}"))),
        None => {
            let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
            Err(Fault::new(format!("the function `{shown}`"), format!("one of {}", names.join(", "))))
        }
    }
}
