//! One CEL expression: compiled once, evaluated often.

use std::sync::Arc;

use cel::common::ast::Expr;
use cel::common::types::CelBool;
use cel::parser::PrattParser;
use cel::{Context, ExecutionError, Value};
use serde_json::{Map, Value as Json};

use super::budget::{Budget, MAX_STEPS};
use super::check::{Checked, Lookup, check};
use super::functions::ENVIRONMENT;
use super::steps::lookup_index;
use super::{Facts, Fault, Reads, RenderError, Scope, TemplateError, scan, value};

/// A CEL expression that may be evaluated any number of times.
#[derive(Clone, Debug)]
pub struct Expression {
    source: String,
    checked: Checked,
}

impl Expression {
    /// Compiles `source`, which may read what `scope` says.
    ///
    /// # Errors
    ///
    /// Syntax errors; variables, fields, functions and steps that do not exist there; sources that are too long or
    /// nested too deep.
    pub fn compile(source: &str, scope: &Scope) -> Result<Expression, TemplateError> {
        let refuse = |offset, fault| TemplateError::new(source, offset, fault);
        if source.trim().is_empty() {
            return Err(refuse(None, Fault::new("nothing", "an expression")));
        }
        scan::check_size(source).map_err(|fault| refuse(None, fault))?;
        let parser = PrattParser::new().enable_optional_syntax(true);
        let tree = parser.parse(source).map_err(|errors| match errors.errors.first() {
            Some(error) => refuse(offset_of(source, error.pos), Fault::new(error.msg.as_str(), "an expression in CEL")),
            None => refuse(None, Fault::new("an error without a message", "an expression in CEL")),
        })?;
        let checked = check(tree, scope).map_err(|fault| refuse(None, fault))?;
        Ok(Expression { source: source.to_owned(), checked })
    }

    /// The paths that it reads.
    pub fn reads(&self) -> &Reads {
        &self.checked.reads
    }

    /// As configured.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Evaluates a condition.
    ///
    /// # Errors
    ///
    /// Whatever CEL cannot evaluate, such as a field that is not there; also a value that is no boolean.
    pub fn evaluate_bool(&self, facts: &Facts) -> Result<bool, RenderError> {
        match self.evaluate(facts)? {
            Value::Bool(value) => Ok(value),
            other => Err(self.error(&format!("gives {}, not a boolean", value::kind(&other)))),
        }
    }

    /// Evaluates to a string.
    ///
    /// # Errors
    ///
    /// Whatever CEL cannot evaluate, and values of other kinds.
    pub fn evaluate_string(&self, facts: &Facts) -> Result<String, RenderError> {
        match self.evaluate_json(facts)? {
            Json::String(text) => Ok(text),
            other => Err(self.error(&format!("gives {other}, not a string"))),
        }
    }

    /// Evaluates to JSON: whole numbers stay exact.
    ///
    /// # Errors
    ///
    /// Whatever CEL cannot evaluate; also values that JSON has not: bytes, optionals, numbers that are not finite.
    pub fn evaluate_json(&self, facts: &Facts) -> Result<Json, RenderError> {
        if let Some(path) = self.bare_path() {
            return find(facts, path).map(Found::to_json).map_err(|reason| self.error(&reason));
        }
        value::to_json(&self.evaluate(facts)?).map_err(|reason| self.error(&reason))
    }

    /// Evaluates to text: texts, booleans and numbers have one.
    pub(super) fn evaluate_text(&self, facts: &Facts) -> Result<String, RenderError> {
        let text = match self.bare_path() {
            Some(path) => find(facts, path).and_then(|found| match found {
                Found::Json(json) => value::json_to_text(json),
                Found::Steps(_) => Err("a map cannot be put into text".to_owned()),
            }),
            None => value::to_text(&self.evaluate(facts)?),
        };
        text.map_err(|reason| self.error(&reason))
    }

    pub(super) fn error(&self, reason: &str) -> RenderError {
        RenderError::new(&self.source, reason)
    }

    /// The path, where the expression is nothing but one.
    fn bare_path(&self) -> Option<&[String]> {
        let Expr::Ident(variable) = &self.checked.tree.expr else {
            return None;
        };
        match self.checked.lookups.get(lookup_index(variable)?)? {
            Lookup { path, presence: false } => Some(path),
            Lookup { presence: true, .. } => None,
        }
    }

    fn evaluate(&self, facts: &Facts) -> Result<Value, RenderError> {
        // Declared before the context, which borrows it.
        let budget = self.checked.iterates.then(|| Budget::new(self.weights(facts)));
        let mut context = Context::with_env(Arc::clone(&ENVIRONMENT));
        for (index, lookup) in self.checked.lookups.iter().enumerate() {
            // What cannot be found stays undeclared: it is an error only if it is asked for.
            if lookup.presence {
                if let Ok(present) = is_present(facts, &lookup.path) {
                    context.add_variable_as_val(format!("@{index}"), Box::new(CelBool::from(present)));
                }
            } else if let Ok(found) = find(facts, &lookup.path) {
                let value = match found {
                    Found::Json(json) => value::from_json(json),
                    Found::Steps(steps) => value::from_fields(steps),
                };
                context.add_variable_as_val(format!("@{index}"), value);
            }
        }
        if let Some(budget) = &budget {
            context.set_variable_resolver(budget);
        }
        let result = Value::resolve(&self.checked.tree, &context);
        if budget.as_ref().is_some_and(Budget::is_spent) {
            return Err(self.error(&format!("its macros take more than {MAX_STEPS} steps, or copy too much")));
        }
        result.map_err(|error| self.error(&self.reason(&error, facts)))
    }

    /// What it costs to copy what the look-ups find.
    fn weights(&self, facts: &Facts) -> Vec<i64> {
        let lookups = self.checked.lookups.iter();
        let weights = lookups.map(|lookup| match find(facts, &lookup.path) {
            Ok(Found::Json(json)) if !lookup.presence => value::weight(json),
            _ => 1,
        });
        weights.collect()
    }

    /// Why an evaluation failed. Names types and paths, not what a client sent.
    fn reason(&self, error: &ExecutionError, facts: &Facts) -> String {
        let operation = |name: &str, one: &Value, other: &Value| {
            format!("`{name}` of {} and {} is not defined", value::kind(one), value::kind(other))
        };
        match error {
            ExecutionError::UndeclaredReference(name) => {
                let lookup = lookup_index(name).and_then(|index| self.checked.lookups.get(index));
                let missing = lookup.and_then(|lookup| match lookup.presence {
                    true => is_present(facts, &lookup.path).err(),
                    false => find(facts, &lookup.path).err(),
                });
                missing.unwrap_or_else(|| format!("`{name}` is not there"))
            }
            ExecutionError::NoSuchKey(name) => format!("there is no `{name}`"),
            ExecutionError::UnsupportedBinaryOperator(name, one, other) => operation(name, one, other),
            ExecutionError::UnsupportedIndex(one, other) => operation("[]", one, other),
            ExecutionError::ValuesNotComparable(one, other) => operation("<", one, other),
            ExecutionError::Overflow(name, ..) => format!("`{name}` overflows"),
            ExecutionError::DivisionByZero(_) => "division by zero".to_owned(),
            ExecutionError::RemainderByZero(_) => "remainder of a division by zero".to_owned(),
            ExecutionError::UnexpectedType { got, want } => format!("{got} where {want} is needed"),
            ExecutionError::UnsupportedKeyType(value) => {
                format!("{} cannot be a key", value::kind(value))
            }
            ExecutionError::DuplicateKey(_) => "a map with the same key twice".to_owned(),
            ExecutionError::IndexOutOfBounds(_) => "an index past the end of a list".to_owned(),
            other => other.to_string(),
        }
    }
}

/// Where the parser's line and column, both from 1, are in the source.
fn offset_of(source: &str, (line, column): (isize, isize)) -> Option<usize> {
    let line = usize::try_from(line).ok()?.checked_sub(1)?;
    let column = usize::try_from(column).ok()?.checked_sub(1)?;
    let before: usize = source.split_inclusive('\n').take(line).map(str::len).sum();
    Some((before + column).min(source.len()))
}

#[derive(Clone, Copy)]
enum Found<'a> {
    Json(&'a Json),
    Steps(&'a Map<String, Json>),
}

impl Found<'_> {
    fn to_json(self) -> Json {
        match self {
            Found::Json(json) => json.clone(),
            Found::Steps(steps) => Json::Object(steps.clone()),
        }
    }
}

/// What is at a path, or the first name of it that is not there.
fn find<'a>(facts: &Facts<'a>, path: &[String]) -> Result<Found<'a>, String> {
    let mut names = path.iter();
    let root = names.next().map(String::as_str).unwrap_or_default();
    let missing = || format!("`{root}` is not there");
    let mut found = match root {
        "request" => Found::Json(facts.request.ok_or_else(missing)?),
        "response" => Found::Json(facts.response.ok_or_else(missing)?),
        "transaction" => Found::Json(facts.transaction.ok_or_else(missing)?),
        "saga" => Found::Json(facts.saga.ok_or_else(missing)?),
        "steps" => Found::Steps(facts.steps.ok_or_else(missing)?),
        _ => return Err(missing()),
    };
    for (index, name) in names.enumerate() {
        let so_far = || path.iter().take(index + 1).map(String::as_str).collect::<Vec<_>>().join(".");
        let fields = match found {
            Found::Steps(steps) => steps,
            Found::Json(Json::Object(fields)) => fields,
            Found::Json(_) => {
                return Err(format!("`{}` is no object, it has no `{name}`", so_far()));
            }
        };
        found = Found::Json(fields.get(name).ok_or_else(|| match found {
            Found::Steps(_) => {
                format!("step `{name}` has no result: it was skipped, failed or has not run")
            }
            Found::Json(_) => format!("`{}` has no `{name}`", so_far()),
        })?);
    }
    Ok(found)
}

/// Whether the last name of a path is there; that the others are is taken for granted, as by CEL's `has`.
fn is_present(facts: &Facts, path: &[String]) -> Result<bool, String> {
    let Some((name, parent)) = path.split_last() else {
        return Ok(false);
    };
    if parent == ["steps"] {
        return Ok(facts.steps.is_some_and(|steps| steps.contains_key(name)));
    }
    match find(facts, parent)? {
        Found::Json(Json::Object(fields)) => Ok(fields.contains_key(name)),
        Found::Steps(steps) => Ok(steps.contains_key(name)),
        Found::Json(_) => Err(format!("`{}` is no object, it has no `{name}`", parent.join("."))),
    }
}
