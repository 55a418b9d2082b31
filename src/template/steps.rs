//! Bounds of what an evaluation may take: how deep it may go, and the steps of macros.

use cel::common::ast::{CallExpr, EntryExpr, Expr, IdedExpr, LiteralValue, operators};

use super::Fault;

/// Deepest nesting of an expression after its macros are expanded. The evaluator's frames are large.
const MAX_DEPTH: usize = 64;

/// The variable that every step of a macro asks for.
pub(super) const STEP: &str = "@step";
/// The variable that holds the room that is left for what macros copy.
pub(super) const ROOM: &str = "@room";

/// The look-up whose variable this is.
pub(super) fn lookup_index(variable: &str) -> Option<usize> {
    variable.strip_prefix('@')?.parse().ok()
}

/// A macro's step that asks for `@step` before anything of the user's own is evaluated. The shapes of the standard
/// macros stay what they are, as `cel` knows them: it would copy the list at every step otherwise.
pub(super) fn counted(mut step: IdedExpr) -> IdedExpr {
    if let Expr::Call(call) = &mut step.expr {
        match (call.func_name.as_str(), call.args.as_mut_slice()) {
            // `all`, `exists`: @result && condition
            (operators::LOGICAL_AND | operators::LOGICAL_OR, [_, condition]) => {
                *condition = guarded(std::mem::take(condition));
                return step;
            }
            // `filter`, `exists_one`, `map` with a condition: condition ? .. : @result
            (operators::CONDITIONAL, [condition, _, _]) => {
                *condition = guarded(std::mem::take(condition));
                return step;
            }
            // `map`: @result + [value]
            (operators::ADD, [_, IdedExpr { expr: Expr::List(list), .. }]) => {
                list.elements = std::mem::take(&mut list.elements).into_iter().map(guarded).collect();
                return step;
            }
            _ => {}
        }
    }
    guarded(step)
}

/// `@step ? node : null`; `@step` is true or fails.
fn guarded(node: IdedExpr) -> IdedExpr {
    let id = node.id;
    let step = IdedExpr { id, expr: Expr::Ident(STEP.to_owned()) };
    let null = IdedExpr { id, expr: Expr::Literal(LiteralValue::Null) };
    let args = vec![step, node, null];
    IdedExpr { id, expr: Expr::Call(CallExpr { func_name: operators::CONDITIONAL.to_owned(), target: None, args }) }
}

/// Refuses what is nested too deep, without recursion of its own.
pub(super) fn check_depth(tree: &IdedExpr) -> Result<(), Fault> {
    let mut waiting = vec![(tree, 1)];
    while let Some((node, depth)) = waiting.pop() {
        if depth > MAX_DEPTH {
            return Err(Fault::new(format!("more than {MAX_DEPTH} levels of nesting"), format!("at most {MAX_DEPTH}")));
        }
        let mut wait = |node| waiting.push((node, depth + 1));
        match &node.expr {
            Expr::Call(call) => {
                call.target.as_deref().into_iter().chain(&call.args).for_each(&mut wait);
            }
            Expr::Select(select) => wait(&select.operand),
            Expr::List(list) => list.elements.iter().for_each(&mut wait),
            Expr::Map(map) => map.entries.iter().for_each(|entry| entry_parts(&entry.expr).for_each(&mut wait)),
            Expr::Struct(message) => {
                message.entries.iter().for_each(|entry| entry_parts(&entry.expr).for_each(&mut wait));
            }
            Expr::Comprehension(parts) => {
                [&parts.iter_range, &parts.accu_init, &parts.loop_cond, &parts.loop_step, &parts.result]
                    .into_iter()
                    .for_each(&mut wait);
            }
            Expr::Ident(_) | Expr::Literal(_) | Expr::Unspecified => {}
        }
    }
    Ok(())
}

fn entry_parts(entry: &EntryExpr) -> impl Iterator<Item = &IdedExpr> {
    let (key, value) = match entry {
        EntryExpr::MapEntry(entry) => (Some(&entry.key), &entry.value),
        EntryExpr::StructField(field) => (None, &field.value),
    };
    key.into_iter().chain([value])
}
