//! The Dockerfile language: a lossless syntax tree with byte spans, error recovery and suggestions.
//!
//! [`parse`] never fails: what is wrong is told in [`Dockerfile::errors`], and the instructions around it are still
//! there, so that editors and linters work on half-written files. The items tile the source: putting their spans side by
//! side gives the file back byte by byte.

mod flags;
mod heredoc;
mod scan;
mod suggest;
mod typed;
mod words;

use std::ops::Range;

pub use heredoc::Heredoc;
pub use typed::{CommandForm, CopyOp, CopySource, HealthcheckOp, Op, RunOp};

pub(crate) use suggest::nearest;

use crate::{Error, Result};

/// Largest Dockerfile in bytes.
pub const MAX_FILE: usize = 4 << 20;
/// Longest line in bytes, here-documents apart; BuildKit's scanner has the same limit.
pub const MAX_LINE: usize = (64 << 10) - 1;

/// A parsed Dockerfile.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Dockerfile {
    source: String,
    /// The escape character: a backslash, or a backtick if the directive says so.
    pub escape: char,
    /// The directives `# name=value` at the top.
    pub directives: Vec<Directive>,
    /// Everything in the file, in order; the spans tile it.
    pub items: Vec<Item>,
    /// What is wrong, in the order of the file.
    pub errors: Vec<SyntaxError>,
}

/// `# syntax=...`, `# escape=...`, `# check=...`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Directive {
    /// Lower-case name.
    pub name: String,
    /// Value, trimmed.
    pub value: String,
    /// 1-based line.
    pub line: usize,
}

/// One thing in a Dockerfile, with the bytes that it covers, line ends included.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Item {
    /// Bytes in the source.
    pub span: Range<usize>,
    /// 1-based line on which it starts.
    pub line: usize,
    /// What it is.
    pub kind: ItemKind,
}

/// See [`Item`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ItemKind {
    /// An empty line.
    Blank,
    /// A comment or directive on a line of its own.
    Comment,
    /// An instruction, its continuation lines and here-documents included.
    Instruction(Box<Instruction>),
}

/// One instruction.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Instruction {
    /// 1-based first line.
    pub line: usize,
    /// 1-based last line, here-documents included.
    pub end_line: usize,
    /// The word as written, in the source.
    pub keyword: Range<usize>,
    /// The instruction in upper case.
    pub name: String,
    /// The whole logical line: continuations joined, comments inside taken out, here-documents not in it.
    pub text: String,
    /// `--name=value` words after the keyword.
    pub flags: Vec<Flag>,
    /// What follows the flags, trimmed.
    pub arguments: String,
    /// Here-documents, in the order of their words.
    pub heredocs: Vec<Heredoc>,
    /// There is an empty line between its continuation lines.
    pub empty_continuation: bool,
    /// Comment lines directly above it, without `#`.
    pub comments: Vec<String>,
    /// What it means; `None` where [`Dockerfile::errors`] says why not.
    pub op: Option<Op>,
}

/// A flag of an instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Flag {
    /// Name without dashes.
    pub name: String,
    /// Text after `=`.
    pub value: Option<String>,
}

/// Something wrong in a Dockerfile.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SyntaxError {
    /// 1-based line.
    pub line: usize,
    /// Bytes of the item at fault.
    pub span: Range<usize>,
    /// What is wrong.
    pub message: String,
}

/// Parses a Dockerfile.
///
/// ```
/// let file = longshore_build::syntax::parse("FROM debian\nRUN echo hello \\\n  world\nCOYP a b\n");
/// assert_eq!(file.instructions().count(), 3);
/// assert_eq!(file.errors[0].message, "unknown instruction: COYP (did you mean COPY?)");
/// assert_eq!(file.errors[0].line, 4);
/// ```
pub fn parse(source: &str) -> Dockerfile {
    scan::scan(source)
}

impl Dockerfile {
    /// The file as it was parsed.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The instructions in order.
    pub fn instructions(&self) -> impl Iterator<Item = &Instruction> {
        self.items.iter().filter_map(|item| match &item.kind {
            ItemKind::Instruction(instruction) => Some(&**instruction),
            _ => None,
        })
    }

    /// A directive's value.
    pub fn directive(&self, name: &str) -> Option<&str> {
        self.directives.iter().find(|d| d.name == name).map(|d| d.value.as_str())
    }

    /// Ends in the first of [`Dockerfile::errors`].
    pub fn check(&self) -> Result<()> {
        match self.errors.first() {
            Some(e) => Err(Error::Parse { line: e.line, message: e.message.clone() }),
            None => Ok(()),
        }
    }
}

/// Prints the file as it was written.
impl std::fmt::Display for Dockerfile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.items.iter().try_for_each(|item| f.write_str(&self.source[item.span.clone()]))
    }
}

/// Parses the trigger of an `ONBUILD` that an image carries.
pub(crate) fn parse_trigger(text: &str, escape: char) -> Result<Instruction, String> {
    let source = if escape == '`' { format!("# escape=`\n{text}\n") } else { format!("{text}\n") };
    let file = scan::scan_fragment(&source);
    if let Some(e) = file.errors.first() {
        return Err(e.message.clone());
    }
    let mut instructions = file.items.into_iter().filter_map(|item| match item.kind {
        ItemKind::Instruction(i) => Some(*i),
        _ => None,
    });
    match (instructions.next(), instructions.next()) {
        (Some(i), None) => Ok(i),
        _ => Err("a trigger must be one instruction".to_owned()),
    }
}
