//! Bodies: any JSON whose strings are templates.

use std::fmt;

use serde_json::{Map, Value as Json};

use super::text::{Part, parts};
use super::{Expression, Facts, Place, Reads, RenderError, Scope, Template, TemplateError, shortened};

/// A body whose strings are templates.
///
/// An object or a list, a number, a boolean or null is sent as JSON; a string as text. Within JSON, a string that is
/// one `${...}` and nothing else keeps the type of its value. Names of fields are no templates.
#[derive(Clone, Debug)]
pub struct BodyTemplate {
    source: Json,
    node: Node,
    reads: Reads,
}

#[derive(Clone, Debug)]
enum Node {
    Constant(Json),
    /// At the top: the body is text. Below: a JSON string.
    Text(Template),
    Value(Expression),
    List(Vec<Node>),
    Object(Vec<(String, Node)>),
}

/// Everything that is wrong with a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BodyError {
    /// Where in the body (`.guest`, `[0].seat`, `["a b"]`, empty for the body itself), and what. Never empty.
    pub errors: Vec<(String, TemplateError)>,
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (path, error)) in self.errors.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}body{path}: {error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for BodyError {}

/// A body as it is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Body {
    /// JSON text, or the text itself.
    pub bytes: Vec<u8>,
    /// Whether it is JSON (`content-type: application/json`).
    pub is_json: bool,
}

impl BodyTemplate {
    /// Compiles `source`, whose expressions may read what `scope` says.
    ///
    /// # Errors
    ///
    /// Those of [`Template::compile`] and [`Expression::compile`], all of them.
    pub fn compile(source: &Json, scope: &Scope) -> Result<BodyTemplate, BodyError> {
        let mut compiler = Compiler { scope, reads: Reads::default(), errors: Vec::new() };
        let node = match source {
            Json::String(text) => compiler.text(text, ""),
            other => compiler.node(other, ""),
        };
        if compiler.errors.is_empty() {
            Ok(BodyTemplate { source: source.clone(), node, reads: compiler.reads })
        } else {
            Err(BodyError { errors: compiler.errors })
        }
    }

    /// The paths that its expressions read.
    pub fn reads(&self) -> &Reads {
        &self.reads
    }

    /// As configured.
    pub fn source(&self) -> &Json {
        &self.source
    }

    /// The body.
    ///
    /// # Errors
    ///
    /// An expression that cannot be evaluated, or whose value its place cannot hold.
    pub fn render(&self, facts: &Facts) -> Result<Body, RenderError> {
        if let Node::Text(template) = &self.node {
            return Ok(Body { bytes: template.render(facts)?.into_bytes(), is_json: false });
        }
        // Printed by the library, so that no value can change the structure.
        Ok(Body { bytes: self.node.render(facts)?.to_string().into_bytes(), is_json: true })
    }
}

impl Node {
    fn render(&self, facts: &Facts) -> Result<Json, RenderError> {
        Ok(match self {
            Node::Constant(json) => json.clone(),
            Node::Text(template) => Json::String(template.render(facts)?),
            Node::Value(expression) => expression.evaluate_json(facts)?,
            Node::List(items) => Json::Array(items.iter().map(|item| item.render(facts)).collect::<Result<_, _>>()?),
            Node::Object(fields) => {
                let mut object = Map::new();
                for (name, node) in fields {
                    object.insert(name.clone(), node.render(facts)?);
                }
                Json::Object(object)
            }
        })
    }
}

/// The path of a field. A name that is no plain word is quoted, and one line: paths go into logs.
fn below(path: &str, name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    if !name.is_empty() && name.bytes().all(plain) {
        format!("{path}.{name}")
    } else {
        format!("{path}[{}]", shortened(&Json::from(name).to_string()))
    }
}

struct Compiler<'a> {
    scope: &'a Scope,
    reads: Reads,
    errors: Vec<(String, TemplateError)>,
}

impl Compiler<'_> {
    fn node(&mut self, source: &Json, path: &str) -> Node {
        match source {
            Json::String(text) => match parts(text, self.scope).as_deref() {
                Ok([Part::Value(expression)]) => {
                    self.reads.extend(expression.reads());
                    Node::Value(expression.clone())
                }
                _ => self.text(text, path),
            },
            Json::Array(items) => {
                let items = items.iter().enumerate();
                Node::List(items.map(|(index, item)| self.node(item, &format!("{path}[{index}]"))).collect())
            }
            Json::Object(fields) => {
                let fields = fields.iter();
                Node::Object(fields.map(|(name, value)| (name.clone(), self.node(value, &below(path, name)))).collect())
            }
            other => Node::Constant(other.clone()),
        }
    }

    fn text(&mut self, source: &str, path: &str) -> Node {
        match Template::compile(source, Place::Text, self.scope) {
            Ok(template) => {
                self.reads.extend(template.reads());
                Node::Text(template)
            }
            Err(error) => {
                self.errors.push((path.to_owned(), error));
                Node::Constant(Json::Null)
            }
        }
    }
}
