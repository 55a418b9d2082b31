//! Bodies: any JSON whose strings are templates.

use std::fmt;

use percent_encoding::utf8_percent_encode;
use serde_json::{Map, Value as Json};

use super::body_kind::{BodyKind, FORM, JSON};
use super::part::{ENCODED, Mark, Part, parts};
use super::text_body::TextBody;
use super::{Expression, Facts, Fault, Place, Reads, RenderError, Scope, Template, TemplateError, shortened};

/// A body whose strings are templates.
///
/// An object or a list, a number, a boolean or null is sent as JSON; a string as text of its [`BodyKind`]. A string that
/// is one `${...}` and nothing else keeps the type of its value: within JSON, and as a whole body, where an object or a
/// list becomes JSON. Names of fields are no templates.
#[derive(Clone, Debug)]
pub struct BodyTemplate {
    source: Json,
    kind: BodyKind,
    content: Content,
    reads: Reads,
}

#[derive(Clone, Debug)]
enum Content {
    Json(Node),
    Text(TextBody),
    /// One placeholder is the whole body.
    Whole(Expression),
    Fields(Vec<(String, Template)>),
}

#[derive(Clone, Debug)]
enum Node {
    Constant(Json),
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
    /// What it is, where no header says so. None: nothing is known of it.
    pub content_type: Option<&'static str>,
}

impl Body {
    fn json(value: &Json) -> Body {
        Body { bytes: value.to_string().into_bytes(), content_type: Some(JSON) }
    }

    fn text(text: String) -> Body {
        Body { bytes: text.into_bytes(), content_type: None }
    }
}

impl BodyTemplate {
    /// Compiles `source`, whose expressions may read what `scope` says. If it is text, it is one of this `kind`.
    ///
    /// # Errors
    ///
    /// Those of [`Template::compile`] and [`Expression::compile`], all of them; a placeholder in text where no value can
    /// stand.
    pub fn compile(source: &Json, kind: BodyKind, scope: &Scope) -> Result<BodyTemplate, BodyError> {
        let mut compiler = Compiler { scope, reads: Reads::default(), errors: Vec::new() };
        let content = match source {
            Json::Object(fields) if kind == BodyKind::Fields => Content::Fields(compiler.fields(fields)),
            Json::String(text) => compiler.whole_text(text, kind),
            other => Content::Json(compiler.node(other, "")),
        };
        if compiler.errors.is_empty() {
            Ok(BodyTemplate { source: source.clone(), kind, content, reads: compiler.reads })
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

    /// What kind of text it is, if it is text.
    pub fn kind(&self) -> BodyKind {
        self.kind
    }

    /// The body.
    ///
    /// # Errors
    ///
    /// An expression that cannot be evaluated, or whose value its place cannot hold.
    pub fn render(&self, facts: &Facts) -> Result<Body, RenderError> {
        match &self.content {
            // Printed by the library, so that no value can change the structure.
            Content::Json(node) => Ok(Body::json(&node.render(facts)?)),
            Content::Text(text) => text.render(facts).map(Body::text),
            Content::Whole(expression) => match expression.evaluate_json(facts)? {
                value if self.kind == BodyKind::Json || value.is_object() || value.is_array() => Ok(Body::json(&value)),
                _ => expression.evaluate_text(facts).map(Body::text),
            },
            Content::Fields(fields) => {
                let mut form = String::new();
                for (name, template) in fields {
                    let separator = if form.is_empty() { "" } else { "&" };
                    let (name, value) = (utf8_percent_encode(name, ENCODED), template.render(facts)?);
                    form.push_str(&format!("{separator}{name}={}", utf8_percent_encode(&value, ENCODED)));
                }
                Ok(Body { bytes: form.into_bytes(), content_type: Some(FORM) })
            }
        }
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

/// Whether one placeholder is all of the body, and no part of a text that it could change: a body of somebody that is
/// passed on, or a value where nothing is around it. As the only text of a form or of XML a value is encoded as any.
fn is_whole_body(expression: &Expression, kind: BodyKind) -> bool {
    let is_passed_on =
        expression.source().trim() == "request.body" || expression.source().trim().ends_with(".response.body");
    match kind {
        BodyKind::Plain | BodyKind::Json => true,
        BodyKind::Form | BodyKind::Xml => is_passed_on,
        BodyKind::Fields => false,
    }
}

struct Compiler<'a> {
    scope: &'a Scope,
    reads: Reads,
    errors: Vec<(String, TemplateError)>,
}

impl Compiler<'_> {
    /// A string that is the whole body.
    fn whole_text(&mut self, source: &str, kind: BodyKind) -> Content {
        match parts(source, self.scope).as_deref() {
            Ok([Part::Value(expression, Mark::None)]) if is_whole_body(expression, kind) => {
                self.reads.extend(expression.reads());
                return Content::Whole(expression.clone());
            }
            _ => {}
        }
        match TextBody::compile(source, kind, self.scope) {
            Ok(text) => {
                text.expressions().for_each(|expression| self.reads.extend(expression.reads()));
                Content::Text(text)
            }
            Err(error) => {
                self.errors.push((String::new(), error));
                Content::Json(Node::Constant(Json::Null))
            }
        }
    }

    /// Fields of a form: texts, numbers and booleans.
    fn fields(&mut self, fields: &Map<String, Json>) -> Vec<(String, Template)> {
        let mut compiled = Vec::new();
        for (name, value) in fields {
            let source = match value {
                Json::String(text) => text.clone(),
                Json::Number(_) | Json::Bool(_) => value.to_string(),
                Json::Null | Json::Array(_) | Json::Object(_) => {
                    let fault = Fault::new(value.to_string(), "a text, a number or a boolean: a field of a form");
                    self.errors.push((below("", name), TemplateError::new(&value.to_string(), None, fault)));
                    continue;
                }
            };
            match Template::compile(&source, Place::Text, self.scope) {
                Ok(template) => {
                    self.reads.extend(template.reads());
                    compiled.push((name.clone(), template));
                }
                Err(error) => self.errors.push((below("", name), error)),
            }
        }
        compiled
    }

    fn node(&mut self, source: &Json, path: &str) -> Node {
        match source {
            Json::String(text) => match parts(text, self.scope).as_deref() {
                Ok([Part::Value(expression, Mark::None)]) => {
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
