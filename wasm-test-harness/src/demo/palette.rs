//! Colours of a terminal. Nothing depends on them: every picture can be read without.

use std::io::IsTerminal;

/// What a piece of text is; the palette knows the colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Paint {
    /// As it is.
    Plain,
    /// A heading.
    Bold,
    /// What is there for orientation only.
    Faint,
    /// A transaction.
    Transaction,
    /// A compensation.
    Compensation,
    /// As it should be.
    Good,
    /// Refused, or wrong.
    Bad,
    /// Nobody knows.
    Unknown,
}

impl Paint {
    /// The parameter of "select graphic rendition" (ECMA-48, 8.3.117).
    fn code(self) -> Option<u8> {
        match self {
            Paint::Plain => None,
            Paint::Bold => Some(1),
            Paint::Faint => Some(2),
            Paint::Transaction => Some(36),
            Paint::Compensation => Some(33),
            Paint::Good => Some(32),
            Paint::Bad => Some(31),
            Paint::Unknown => Some(35),
        }
    }
}

/// Paints, or leaves everything plain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Palette {
    coloured: bool,
}

impl Palette {
    /// Leaves everything plain.
    pub fn plain() -> Palette {
        Palette { coloured: false }
    }

    /// Paints everything.
    pub fn coloured() -> Palette {
        Palette { coloured: true }
    }

    /// Paints where standard output is a terminal, unless `no_colour` or the environment's `NO_COLOR`
    /// (<https://no-color.org>) says otherwise.
    pub fn of_stdout(no_colour: bool) -> Palette {
        let forbidden = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Palette { coloured: !no_colour && !forbidden && std::io::stdout().is_terminal() }
    }

    /// `text`, painted.
    pub fn paint(self, paint: Paint, text: &str) -> String {
        match paint.code() {
            Some(code) if self.coloured && !text.is_empty() => format!("\x1b[{code}m{text}\x1b[0m"),
            _ => text.to_owned(),
        }
    }
}
