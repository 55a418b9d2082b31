//! What must be known of a CEL source before the parser sees it: where it ends, and that it is small enough.
//!
//! The parser and the evaluator recurse, and the stack of a Wasm module is small: a source past these bounds would end
//! in a trap, not in an error.

use super::Fault;

/// Longest source of an expression, in bytes.
const MAX_BYTES: usize = 8192;
/// Most operators, dots and opening brackets in an expression: bounds chains such as `a.b.c` and `1 + 2 + 3`.
const MAX_OPERATORS: usize = 256;
/// Most brackets inside brackets.
const MAX_NESTING: usize = 32;
/// Most `?`: each one of a chain of conditions nests the next.
const MAX_CONDITIONS: usize = 32;

/// Length of the expression at the beginning of `text`, up to and without the `}` that ends it; none if nothing does.
///
/// Braces of map literals are matched; those in strings and comments do not count.
pub(super) fn length_of_expression(text: &str) -> Option<usize> {
    let mut open = 0_usize;
    for (at, byte) in Code::new(text) {
        match byte {
            b'{' => open += 1,
            b'}' if open == 0 => return Some(at),
            b'}' => open -= 1,
            _ => {}
        }
    }
    None
}

/// Whether every bracket of `source` is closed in it, and none before it was opened.
pub(super) fn is_balanced(source: &str) -> bool {
    let mut open = 0_usize;
    for (_, byte) in Code::new(source) {
        match byte {
            b'(' | b'[' | b'{' => open += 1,
            b')' | b']' | b'}' if open == 0 => return false,
            b')' | b']' | b'}' => open -= 1,
            _ => {}
        }
    }
    open == 0
}

/// Refuses a source that could exhaust the stack of the parser or of the evaluator.
pub(super) fn check_size(source: &str) -> Result<(), Fault> {
    if source.len() > MAX_BYTES {
        return Err(Fault::new(format!("{} bytes", source.len()), format!("at most {MAX_BYTES}")));
    }
    let (mut operators, mut nesting, mut deepest, mut conditions) = (0, 0_usize, 0, 0);
    for (_, byte) in Code::new(source) {
        match byte {
            b'(' | b'[' | b'{' => {
                nesting += 1;
                deepest = deepest.max(nesting);
                operators += 1;
            }
            b')' | b']' | b'}' => nesting = nesting.saturating_sub(1),
            b'?' => conditions += 1,
            b'.' | b'+' | b'-' | b'*' | b'/' | b'%' | b'!' | b'<' | b'>' | b'=' | b'&' | b'|' => operators += 1,
            _ => {}
        }
    }
    for (what, count, most) in [
        ("brackets inside brackets", deepest, MAX_NESTING),
        ("conditions (`?`)", conditions, MAX_CONDITIONS),
        ("operators", operators, MAX_OPERATORS),
    ] {
        if count > most {
            return Err(Fault::new(format!("{count} {what}"), format!("at most {most}")));
        }
    }
    Ok(())
}

/// The bytes of a CEL source that are in no string and no comment, with their positions.
struct Code<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Code<'a> {
    fn new(source: &'a str) -> Self {
        Code { bytes: source.as_bytes(), at: 0 }
    }

    fn byte(&self, at: usize) -> Option<u8> {
        self.bytes.get(at).copied()
    }

    fn before(&self, at: usize, steps: usize) -> Option<u8> {
        at.checked_sub(steps).and_then(|at| self.byte(at))
    }

    /// Whether the quote at `at` begins a raw string: `r'`, `br'`, `rb'`.
    fn is_raw(&self, at: usize) -> bool {
        let letter = |steps: usize| self.before(at, steps).map(|byte| byte.to_ascii_lowercase());
        matches!((letter(2), letter(1)), (_, Some(b'r')) | (Some(b'r'), Some(b'b')))
    }

    /// Moves past the string whose opening quote is at `self.at`; past the end if nothing closes it.
    fn skip_string(&mut self, quote: u8) {
        let raw = self.is_raw(self.at);
        let is_triple = |code: &Self, at: usize| (0..3).all(|offset| code.byte(at + offset) == Some(quote));
        let triple = is_triple(self, self.at);
        self.at += if triple { 3 } else { 1 };
        while let Some(byte) = self.byte(self.at) {
            if byte == b'\\' && !raw {
                self.at += 2;
            } else if triple && is_triple(self, self.at) {
                self.at += 3;
                return;
            } else if byte == quote && !triple {
                self.at += 1;
                return;
            } else {
                self.at += 1;
            }
        }
    }

    fn skip_line(&mut self) {
        while let Some(byte) = self.byte(self.at) {
            self.at += 1;
            if byte == b'\n' {
                return;
            }
        }
    }
}

impl Iterator for Code<'_> {
    type Item = (usize, u8);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let byte = self.byte(self.at)?;
            match byte {
                b'"' | b'\'' => self.skip_string(byte),
                b'/' if self.byte(self.at + 1) == Some(b'/') => self.skip_line(),
                _ => {
                    self.at += 1;
                    return Some((self.at - 1, byte));
                }
            }
        }
    }
}
