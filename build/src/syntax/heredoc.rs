use crate::expand::Expander;

/// A here-document of `RUN`, `COPY` or `ADD`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Heredoc {
    /// The delimiter; for `COPY` the name of the file as well.
    pub name: String,
    /// No part of the word is quoted: variables in it are replaced (by the shell in `RUN`).
    pub expand: bool,
    /// `<<-`: leading tabs are taken off each line.
    pub chomp: bool,
    /// File descriptor before `<<`; 0 where there is none.
    pub fd: u32,
    /// The lines, as written.
    pub content: String,
}

impl Heredoc {
    /// The lines, without leading tabs if it was `<<-`.
    pub fn text(&self) -> String {
        if !self.chomp {
            return self.content.clone();
        }
        self.content.split_inclusive('\n').map(|line| line.trim_start_matches('\t')).collect()
    }
}

/// The here-documents that a line announces, in order.
pub(super) fn announced(line: &str, escape: char) -> Vec<Heredoc> {
    let none = |_: &str| None;
    let words = Expander::new(escape, &none).raw().words(line).unwrap_or_default();
    words.iter().filter_map(|w| word(w)).collect()
}

/// A word `[fd]<<[-]name`.
pub(super) fn word(text: &str) -> Option<Heredoc> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let rest = text[digits..].strip_prefix("<<")?;
    let (chomp, rest) = rest.strip_prefix('-').map_or((false, rest), |r| (true, r));
    if rest.is_empty() || rest.contains('<') {
        return None;
    }
    let none = |_: &str| None;
    let plain = Expander::new('\\', &none).keep_unset();
    let unquoted = single(plain.words(rest).ok()?)?;
    let quoted = single(plain.raw().words(rest).ok()?)?;
    let fd = if digits == 0 { 0 } else { text[..digits].parse().ok()? };
    Some(Heredoc { expand: unquoted == quoted, name: unquoted, chomp, fd, content: String::new() })
}

fn single(words: Vec<String>) -> Option<String> {
    let mut words = words.into_iter();
    match (words.next(), words.next()) {
        (Some(word), None) if !word.is_empty() => Some(word),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words() {
        let all = announced("RUN cat <<EOF 3<<-'X Y' a<<b <<\"Q\"", '\\');
        let names: Vec<_> = all.iter().map(|h| (h.name.as_str(), h.expand, h.chomp, h.fd)).collect();
        assert_eq!(names, [("EOF", true, false, 0), ("X Y", false, true, 3), ("Q", false, false, 0)]);
        assert_eq!(word("<<<x"), None);
        assert_eq!(word("<<"), None);
    }

    #[test]
    fn tabs_go_with_a_dash() {
        let h =
            Heredoc { name: "E".into(), expand: true, chomp: true, fd: 0, content: "\ta\n\t\tb\nc\n".into() };
        assert_eq!(h.text(), "a\nb\nc\n");
    }
}
