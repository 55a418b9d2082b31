//! What is checked of a parsed expression, and how it is changed so that it can be evaluated well.
//!
//! - A path from a root, such as `request.body.guest`, becomes a look-up `@0`: only what is read becomes a CEL value,
//!   not the whole request, and the paths are known ([`Reads`]).
//! - Names of headers become lower-case, those that are computed too.
//! - What `cel` does in an order of its own each time, iterating over maps, is put in order or refused.
//! - Every step of a macro asks for `@step` first, which fails once too many have been taken; and what a macro iterates
//!   over or copies asks for `@room`.

use cel::common::ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, LiteralValue, SelectExpr, operators};

use super::functions::{ADDEND, COPIED, LOWER, ORDERED, Style, check_call};
use super::scope::{ROOTS, Scope, Shape};
use super::steps::{ROOM, check_depth, counted};
use super::{Fault, Reads};

/// A path that an evaluation looks up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lookup {
    /// From the root; never empty.
    pub path: Vec<String>,
    /// Whether it is asked if the last name is there (`has`), not for its value.
    pub presence: bool,
}

/// What came of an expression.
#[derive(Clone, Debug)]
pub(super) struct Checked {
    pub tree: IdedExpr,
    /// Look-up `n` is the variable `@n` of the tree.
    pub lookups: Vec<Lookup>,
    pub reads: Reads,
    /// Whether it has macros that iterate.
    pub iterates: bool,
}

/// Checks and changes an expression.
pub(super) fn check(tree: IdedExpr, scope: &Scope) -> Result<Checked, Fault> {
    check_depth(&tree)?;
    let mut check = Check { scope, locals: Vec::new(), lookups: Vec::new(), reads: Reads::default(), iterates: false };
    let tree = check.expression(tree)?;
    Ok(Checked { tree, lookups: check.lookups, reads: check.reads, iterates: check.iterates })
}

struct Check<'a> {
    scope: &'a Scope,
    /// The variables of the macros around.
    locals: Vec<String>,
    lookups: Vec<Lookup>,
    reads: Reads,
    iterates: bool,
}

/// A path of constant names from a root.
struct Path {
    names: Vec<String>,
    /// How many of the names come before the first `?`.
    certain: usize,
}

impl Check<'_> {
    fn expression(&mut self, node: IdedExpr) -> Result<IdedExpr, Fault> {
        if let Expr::Select(select) = &node.expr
            && select.test
        {
            return self.presence(node.id, select.clone());
        }
        if let Some(path) = self.path_of(&node) {
            return self.path(node, path);
        }
        let expr = match node.expr {
            Expr::Ident(name) if self.locals.contains(&name) => Expr::Ident(name),
            Expr::Ident(name) => return Err(self.scope.unknown(&name)),
            Expr::Literal(literal) => Expr::Literal(literal),
            Expr::Select(mut select) => {
                *select.operand = self.expression(std::mem::take(&mut *select.operand))?;
                Expr::Select(select)
            }
            Expr::Call(call) => self.call(call)?,
            Expr::List(mut list) => {
                list.elements = self.each(list.elements)?.into_iter().map(|node| self.copied(node)).collect();
                Expr::List(list)
            }
            Expr::Map(mut map) => {
                for entry in &mut map.entries {
                    let EntryExpr::MapEntry(entry) = &mut entry.expr else {
                        return Err(Fault::new("a field of a message", "the key of a map, in quotes"));
                    };
                    entry.key = self.expression(std::mem::take(&mut entry.key))?;
                    entry.value = self.expression(std::mem::take(&mut entry.value))?;
                    entry.value = self.copied(std::mem::take(&mut entry.value));
                }
                Expr::Map(map)
            }
            Expr::Comprehension(comprehension) => self.comprehension(*comprehension)?,
            Expr::Struct(message) => {
                return Err(Fault::new(format!("a message `{}`", message.type_name), "a map: {'name': value}"));
            }
            Expr::Unspecified => {
                return Err(Fault::new("a part without a meaning", "an expression"));
            }
        };
        Ok(IdedExpr { id: node.id, expr })
    }

    fn each(&mut self, nodes: Vec<IdedExpr>) -> Result<Vec<IdedExpr>, Fault> {
        nodes.into_iter().map(|node| self.expression(node)).collect()
    }

    /// The path that `node` is, if it is one.
    fn path_of(&self, node: &IdedExpr) -> Option<Path> {
        let (operand, name, optional) = match &node.expr {
            Expr::Ident(name) if ROOTS.contains(&name.as_str()) && !self.locals.contains(name) => {
                return Some(Path { names: vec![name.clone()], certain: 1 });
            }
            Expr::Select(select) if !select.test => (select.operand.as_ref(), select.field.as_str(), false),
            Expr::Call(call) => {
                let optional = match call.func_name.as_str() {
                    operators::INDEX => false,
                    operators::OPT_INDEX | operators::OPT_SELECT => true,
                    _ => return None,
                };
                let [operand, index] = call.args.as_slice() else {
                    return None;
                };
                (operand, literal_text(index)?, optional)
            }
            _ => return None,
        };
        let mut path = self.path_of(operand)?;
        if !optional && path.certain == path.names.len() {
            path.certain += 1;
        }
        path.names.push(name.to_owned());
        Some(path)
    }

    fn path(&mut self, node: IdedExpr, mut path: Path) -> Result<IdedExpr, Fault> {
        if let Shape::Steps = self.scope.locate(&mut path.names)? {
            return Err(Fault::new("`steps` as a whole", "one step of them, by its name: `steps.NAME`"));
        }
        self.reads.insert(path.names.clone());
        Ok(self.rebuilt(node, &path.names, path.certain))
    }

    /// `has(path.name)`.
    fn presence(&mut self, id: u64, mut select: SelectExpr) -> Result<IdedExpr, Fault> {
        let Some(mut path) = self.path_of(&select.operand) else {
            *select.operand = self.expression(std::mem::take(&mut *select.operand))?;
            return Ok(IdedExpr { id, expr: Expr::Select(select) });
        };
        let whole = path.certain == path.names.len();
        path.names.push(select.field.clone());
        self.scope.locate(&mut path.names)?;
        self.reads.insert(path.names.clone());
        if whole {
            return Ok(self.lookup(id, Lookup { path: path.names, presence: true }));
        }
        if let Some((field, names)) = path.names.split_last() {
            select.operand = Box::new(self.rebuilt(*select.operand, names, path.certain));
            select.field = field.clone();
        }
        Ok(IdedExpr { id, expr: Expr::Select(select) })
    }

    /// The node of a path, with the names as they are now, and a look-up for what comes before the first `?`.
    fn rebuilt(&mut self, node: IdedExpr, names: &[String], certain: usize) -> IdedExpr {
        let (id, Some((name, before))) = (node.id, names.split_last()) else {
            return node;
        };
        if names.len() == certain {
            return self.lookup(id, Lookup { path: names.to_vec(), presence: false });
        }
        let expr = match node.expr {
            Expr::Select(mut select) => {
                select.operand = Box::new(self.rebuilt(*select.operand, before, certain));
                select.field = name.clone();
                Expr::Select(select)
            }
            Expr::Call(mut call) => {
                if let [operand, index] = call.args.as_mut_slice() {
                    *operand = self.rebuilt(std::mem::take(operand), before, certain);
                    index.expr = text(name);
                }
                Expr::Call(call)
            }
            other => other,
        };
        IdedExpr { id, expr }
    }

    fn lookup(&mut self, id: u64, lookup: Lookup) -> IdedExpr {
        let index = match self.lookups.iter().position(|known| *known == lookup) {
            Some(index) => index,
            None => {
                self.lookups.push(lookup);
                self.lookups.len() - 1
            }
        };
        IdedExpr { id, expr: Expr::Ident(format!("@{index}")) }
    }

    fn call(&mut self, mut call: CallExpr) -> Result<Expr, Fault> {
        let style = match call.target.as_deref() {
            None => Style::Global,
            Some(IdedExpr { expr: Expr::Ident(name), .. }) if name == "optional" => Style::Optional,
            Some(_) => Style::Member,
        };
        check_call(&call.func_name, style, call.args.len())?;
        if style == Style::Member
            && let Some(target) = call.target.as_deref_mut()
        {
            *target = self.expression(std::mem::take(target))?;
        }
        match (call.func_name.as_str(), call.args.as_mut_slice()) {
            (operators::INDEX | operators::OPT_INDEX, [map, index]) => self.key(map, index)?,
            (operators::IN, [key, map]) => {
                if let Some(presence) = self.step_in_steps(key, map) {
                    return Ok(self.presence(map.id, presence)?.expr);
                }
                self.key(map, key)?;
            }
            _ => {}
        }
        call.args = self.each(call.args)?;
        if let (operators::ADD, [first, addend]) = (call.func_name.as_str(), call.args.as_mut_slice()) {
            *first = self.copied(std::mem::take(first));
            if !matches!(addend.expr, Expr::Literal(_) | Expr::List(_)) {
                let room = (!self.locals.is_empty()).then(|| room(addend.id));
                *addend = calling(ADDEND, room, std::mem::take(addend));
            }
        }
        Ok(Expr::Call(call))
    }

    /// A part of a list, of a map or of a sum, of which a copy is made. In a macro there must be room for it: its
    /// variable may hold what has grown in another. Look-ups are counted otherwise, and so is the macro's own result.
    fn copied(&self, node: IdedExpr) -> IdedExpr {
        match &node.expr {
            _ if self.locals.is_empty() => node,
            Expr::Literal(_) => node,
            Expr::Ident(name) if name.starts_with('@') => node,
            _ => calling(COPIED, Some(room(node.id)), node),
        }
    }

    /// Lower-cases what a map of headers is asked for; refuses a computed name of a step.
    fn key(&self, map: &IdedExpr, key: &mut IdedExpr) -> Result<(), Fault> {
        let Some(mut path) = self.path_of(map) else {
            return Ok(());
        };
        match self.scope.locate(&mut path.names)? {
            Shape::Steps => Err(Fault::new("a step by a name that is computed", "a constant: `steps.NAME`")),
            Shape::Headers => {
                match &mut key.expr {
                    Expr::Literal(LiteralValue::String(name)) => {
                        let lower = name.inner().to_ascii_lowercase();
                        key.expr = text(&lower);
                    }
                    Expr::Literal(_) => {}
                    _ => *key = calling(LOWER, None, std::mem::take(key)),
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// `'car' in steps` is `has(steps.car)`.
    fn step_in_steps(&self, key: &IdedExpr, map: &IdedExpr) -> Option<SelectExpr> {
        let path = self.path_of(map)?;
        let name = literal_text(key)?;
        (path.names == ["steps"]).then(|| SelectExpr {
            operand: Box::new(map.clone()),
            field: name.to_owned(),
            test: true,
        })
    }

    fn comprehension(&mut self, mut macro_: ComprehensionExpr) -> Result<Expr, Fault> {
        self.iterates = true;
        let range = self.expression(std::mem::take(&mut macro_.iter_range))?;
        macro_.iter_range = calling(ORDERED, Some(room(range.id)), range);
        macro_.accu_init = self.expression(macro_.accu_init)?;
        let outer = self.locals.len();
        self.locals.extend([macro_.iter_var.clone(), macro_.accu_var.clone()]);
        self.locals.extend(macro_.iter_var2.clone());
        macro_.loop_cond = self.expression(macro_.loop_cond)?;
        macro_.loop_step = counted(self.expression(macro_.loop_step)?);
        macro_.result = self.expression(macro_.result)?;
        self.locals.truncate(outer);
        Ok(Expr::Comprehension(Box::new(macro_)))
    }
}

fn calling(function: &str, room: Option<IdedExpr>, argument: IdedExpr) -> IdedExpr {
    let id = argument.id;
    let args = room.into_iter().chain([argument]).collect();
    let call = CallExpr { func_name: function.to_owned(), target: None, args };
    IdedExpr { id, expr: Expr::Call(call) }
}

fn room(id: u64) -> IdedExpr {
    IdedExpr { id, expr: Expr::Ident(ROOM.to_owned()) }
}

fn text(text: &str) -> Expr {
    Expr::Literal(LiteralValue::String(text.to_owned().into()))
}

fn literal_text(node: &IdedExpr) -> Option<&str> {
    match &node.expr {
        Expr::Literal(LiteralValue::String(text)) => Some(text.inner()),
        _ => None,
    }
}
