//! What kind of text a body is: how a value in it has to be encoded so that it stays one value.

use serde::{Deserialize, Serialize};

/// See the module's text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BodyKind {
    /// A text of which nothing more is known. Values go in as they are: a definition says so with `${raw(...)}`.
    #[default]
    Plain,
    /// JSON written as text. A placeholder in a string is a part of it, one outside of strings is a whole value.
    Json,
    /// `application/x-www-form-urlencoded`, written as text.
    Form,
    /// XML: a placeholder stands in text, or in the value of an attribute.
    Xml,
    /// The fields of a form, each by its name.
    Fields,
}

/// The content type of forms.
pub const FORM: &str = "application/x-www-form-urlencoded";

/// The content type of JSON.
pub const JSON: &str = "application/json";

impl BodyKind {
    /// The kind of a text with this `content-type`, if it has any. None: `multipart`, which no template can build.
    pub fn of(content_type: Option<&str>) -> Option<BodyKind> {
        let media_type = content_type.unwrap_or_default().split(';').next().unwrap_or_default().trim();
        let media_type = media_type.to_ascii_lowercase();
        let subtype = media_type.split_once('/').map_or("", |(_, subtype)| subtype);
        Some(match media_type.as_str() {
            FORM => BodyKind::Form,
            _ if media_type.starts_with("multipart/") => return None,
            _ if subtype == "json" || subtype.ends_with("+json") => BodyKind::Json,
            _ if subtype == "xml" || subtype.ends_with("+xml") => BodyKind::Xml,
            _ => BodyKind::Plain,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_content_type_says_what_kind_of_text_it_is() {
        for (content_type, kind) in [
            ("application/x-www-form-urlencoded", Some(BodyKind::Form)),
            ("Application/X-WWW-Form-Urlencoded ; charset=utf-8", Some(BodyKind::Form)),
            ("application/json", Some(BodyKind::Json)),
            ("application/problem+json; charset=utf-8", Some(BodyKind::Json)),
            ("text/xml", Some(BodyKind::Xml)),
            ("application/soap+xml;action=book", Some(BodyKind::Xml)),
            ("multipart/form-data; boundary=x", None),
            ("text/plain", Some(BodyKind::Plain)),
            ("application/x-jsonlines", Some(BodyKind::Plain)),
            ("", Some(BodyKind::Plain)),
        ] {
            assert_eq!(BodyKind::of(Some(content_type)), kind, "{content_type}");
        }
        assert_eq!(BodyKind::of(None), Some(BodyKind::Plain));
    }
}
