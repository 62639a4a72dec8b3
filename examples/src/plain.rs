//! Foreign text for a terminal.

use std::borrow::Cow;
use std::fmt::Write as _;

/// The text with each control character but line ends and tabs as `\u001b`, as JSON writes them: what came from a registry or an
/// image is not to speak to the terminal that it is shown on. A JSON document means the same as before.
///
/// ```
/// assert_eq!(longshore_examples::plain("\x1b[31mred\u{9b}0m\n"), "\\u001b[31mred\\u009b0m\n");
/// ```
pub fn plain(text: &str) -> Cow<'_, str> {
    if !text.contains(is_control) {
        return text.into();
    }
    let mut plain = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_control(c) {
            let _ = write!(plain, "\\u{:04x}", u32::from(c));
        } else {
            plain.push(c);
        }
    }
    plain.into()
}

/// Whether a terminal may take this for more than text.
pub fn is_control(c: char) -> bool {
    c.is_control() && !matches!(c, '\n' | '\t')
}
