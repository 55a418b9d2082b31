//! Bodies that are written as text: forms, JSON, XML, and texts of which nothing is known.
//!
//! A value stays one value: it is encoded for the place where its placeholder stands. Which place that is, is read out of
//! the text around it when the definition is compiled.
//!
//! | body | placeholder | value |
//! | --- | --- | --- |
//! | form | anywhere | percent-encoded |
//! | JSON | inside of a string | text, escaped |
//! | JSON | elsewhere | any value, as JSON |
//! | XML | text, value of an attribute | text, escaped |
//! | any other | `${raw(...)}` | text, as it is |

use percent_encoding::utf8_percent_encode;
use serde_json::Value as Json;

use super::body_kind::BodyKind;
use super::part::{ENCODED, Mark, Part, parts};
use super::{Expression, Facts, Fault, Place, RenderError, Scope, TemplateError};

/// See the module's text.
#[derive(Clone, Debug)]
pub(super) struct TextBody(Vec<Piece>);

#[derive(Clone, Debug)]
enum Piece {
    Literal(String),
    Value(Expression, Encoding),
}

/// How a value gets into the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encoding {
    AsItIs,
    Percent,
    InJsonString,
    JsonValue,
    Xml,
}

impl TextBody {
    /// Compiles `source`.
    ///
    /// # Errors
    ///
    /// Those of [`super::Template::compile`]; a placeholder where no value can stand; JSON that is none.
    pub(super) fn compile(source: &str, kind: BodyKind, scope: &Scope) -> Result<TextBody, TemplateError> {
        let refuse = |fault| TemplateError::new(source, None, fault);
        let mut reader = Reader::of(kind);
        let mut pieces = Vec::new();
        for part in parts(source, scope)? {
            pieces.push(match part {
                Part::Literal(literal) => {
                    reader.literal(&literal);
                    Piece::Literal(literal)
                }
                Part::Value(expression, mark)
                    if kind == BodyKind::Plain && (mark == Mark::Raw || !scope.is_judged()) =>
                {
                    Piece::Value(expression, Encoding::AsItIs)
                }
                Part::Value(expression, mark) => {
                    if let Some(fault) = mark.fault_at(Place::Text) {
                        return Err(refuse(fault));
                    }
                    let encoding = reader.value().map_err(refuse)?;
                    Piece::Value(expression, encoding)
                }
            });
        }
        let body = TextBody(pieces);
        if kind == BodyKind::Json && scope.is_judged() {
            body.check_json().map_err(refuse)?;
        }
        Ok(body)
    }

    /// Its expressions.
    pub(super) fn expressions(&self) -> impl Iterator<Item = &Expression> {
        self.0.iter().filter_map(|piece| match piece {
            Piece::Value(expression, _) => Some(expression),
            Piece::Literal(_) => None,
        })
    }

    /// The text.
    ///
    /// # Errors
    ///
    /// An expression that cannot be evaluated, or whose value its place cannot hold.
    pub(super) fn render(&self, facts: &Facts) -> Result<String, RenderError> {
        let mut text = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Literal(literal) => text.push_str(literal),
                Piece::Value(expression, Encoding::JsonValue) => {
                    text.push_str(&expression.evaluate_json(facts)?.to_string());
                }
                Piece::Value(expression, encoding) => {
                    let value = expression.evaluate_text(facts)?;
                    match encoding {
                        Encoding::AsItIs | Encoding::JsonValue => text.push_str(&value),
                        Encoding::Percent => text.extend(utf8_percent_encode(&value, ENCODED)),
                        Encoding::InJsonString => text.push_str(in_json_string(&Json::from(value).to_string())),
                        Encoding::Xml => push_xml(&mut text, &value).map_err(|reason| expression.error(&reason))?,
                    }
                }
            }
        }
        Ok(text)
    }

    /// Whether it is JSON, whatever the values are.
    fn check_json(&self) -> Result<(), Fault> {
        let mut sample = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Literal(literal) => sample.push_str(literal),
                Piece::Value(_, Encoding::JsonValue) => sample.push_str("null"),
                Piece::Value(..) => sample.push('x'),
            }
        }
        let read: Result<Json, _> = serde_json::from_str(&sample);
        match read {
            Ok(_) => Ok(()),
            Err(why) => Err(Fault::new(format!("a text that is no JSON ({why})"), "JSON around the `${...}`")),
        }
    }
}

/// The inside of a JSON string.
fn in_json_string(quoted: &str) -> &str {
    quoted.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(quoted)
}

/// What XML parsers would read as markup, or as another space, is written by its number.
fn push_xml(text: &mut String, value: &str) -> Result<(), String> {
    for character in value.chars() {
        match character {
            '&' => text.push_str("&amp;"),
            '<' => text.push_str("&lt;"),
            '>' => text.push_str("&gt;"),
            '"' => text.push_str("&quot;"),
            '\'' => text.push_str("&apos;"),
            '\t' | '\n' | '\r' => text.push_str(&format!("&#{};", u32::from(character))),
            '\0'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => {
                return Err(format!("gives the character {character:?}, which XML cannot hold"));
            }
            other => text.push(other),
        }
    }
    Ok(())
}

/// Follows a text up to its next placeholder.
enum Reader {
    Plain,
    Form,
    Json { in_string: bool, is_escaped: bool },
    Xml(Markup),
}

/// Where in XML.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Markup {
    /// Between tags.
    Text,
    /// In a tag, but in no value of an attribute.
    Tag,
    /// In a value of an attribute, up to this quote.
    Attribute(char),
    /// In a comment, a processing instruction, CDATA or a declaration, up to this.
    Other(&'static str),
}

impl Reader {
    fn of(kind: BodyKind) -> Reader {
        match kind {
            BodyKind::Plain | BodyKind::Fields => Reader::Plain,
            BodyKind::Form => Reader::Form,
            BodyKind::Json => Reader::Json { in_string: false, is_escaped: false },
            BodyKind::Xml => Reader::Xml(Markup::Text),
        }
    }

    fn literal(&mut self, text: &str) {
        match self {
            Reader::Plain | Reader::Form => {}
            Reader::Json { in_string, is_escaped } => {
                for character in text.chars() {
                    match character {
                        _ if *is_escaped => *is_escaped = false,
                        '\\' if *in_string => *is_escaped = true,
                        '"' => *in_string = !*in_string,
                        _ => {}
                    }
                }
            }
            Reader::Xml(markup) => *markup = markup.after(text),
        }
    }

    /// How a value gets in here, or why none can stand here.
    fn value(&self) -> Result<Encoding, Fault> {
        match self {
            Reader::Form => Ok(Encoding::Percent),
            Reader::Json { in_string: true, is_escaped: false } => Ok(Encoding::InJsonString),
            Reader::Json { is_escaped: true, .. } => {
                Err(Fault::new("`${...}` after a backslash", "a whole escape before it"))
            }
            Reader::Json { in_string: false, .. } => Ok(Encoding::JsonValue),
            Reader::Xml(Markup::Text | Markup::Attribute(_)) => Ok(Encoding::Xml),
            Reader::Xml(Markup::Tag | Markup::Other(_)) => {
                let found = "`${...}` in a tag, a comment, CDATA, a declaration or a processing instruction";
                Err(Fault::new(found, "it in text or in the quoted value of an attribute"))
            }
            Reader::Plain => Err(Fault::new(
                "`${...}` in a text whose content type does not say how a value is encoded",
                "`${raw(...)}`, which puts it in as it is; or a `content-type` of a form, of JSON or of XML; or `form`",
            )),
        }
    }
}

impl Markup {
    fn after(self, text: &str) -> Markup {
        let (mut markup, mut rest) = (self, text);
        while let Some(character) = rest.chars().next() {
            let mut read = character.len_utf8();
            markup = match markup {
                Markup::Text if character == '<' => {
                    let known = [("<!--", "-->"), ("<![CDATA[", "]]>"), ("<?", "?>"), ("<!", ">")];
                    match known.into_iter().find(|(begin, _)| rest.starts_with(begin)) {
                        Some((begin, end)) => {
                            read = begin.len();
                            Markup::Other(end)
                        }
                        None => Markup::Tag,
                    }
                }
                Markup::Tag if character == '>' => Markup::Text,
                Markup::Tag if matches!(character, '"' | '\'') => Markup::Attribute(character),
                Markup::Attribute(quote) if character == quote => Markup::Tag,
                Markup::Other(end) if rest.starts_with(end) => {
                    read = end.len();
                    Markup::Text
                }
                same => same,
            };
            rest = rest.get(read..).unwrap_or_default();
        }
        markup
    }
}
