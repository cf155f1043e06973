//! Strangers' text on a terminal: nothing in it may move the cursor, ring, or turn the line around; and it has to line up,
//! whatever its characters are.

use unicode_segmentation::UnicodeSegmentation;
use unicode_width::UnicodeWidthStr;

/// What stands for a character that is not shown.
const HIDDEN: char = '\u{fffd}';
/// Characters of one grapheme: enough for every emoji that is in use, too few to paint over the lines above.
const MAX_CLUSTER: usize = 12;
/// Columns of a tab.
const TAB: &str = "    ";

/// Text of somebody else in one line.
pub fn clean(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\r' | '\u{2028}' | '\u{2029}' => out.push(' '),
            c => push(&mut out, c),
        }
    }
    tamed(out)
}

/// Text of somebody else, line by line; always at least one.
pub fn clean_lines(text: &str) -> Vec<String> {
    let text = text.replace("\r\n", "\n");
    let lines = text.split(['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}']);
    lines.map(clean).collect()
}

fn push(out: &mut String, c: char) {
    match c {
        '\t' => out.push_str(TAB),
        // Control characters have pictures of their own.
        '\u{0}'..='\u{1f}' => out.push(char::from_u32(0x2400 + u32::from(c)).unwrap_or(HIDDEN)),
        '\u{7f}' => out.push('\u{2421}'),
        '\u{80}'..='\u{9f}' => out.push(HIDDEN),
        // What turns the direction of writing could make a message look like another one, and its line like two.
        '\u{200e}' | '\u{200f}' | '\u{61c}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
            out.push(HIDDEN);
        }
        // No width, no use in a terminal, but good for hiding something.
        '\u{ad}' | '\u{200b}' | '\u{2060}'..='\u{2064}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' => {}
        c => out.push(c),
    }
}

/// Cuts heaps of combining marks down.
fn tamed(text: String) -> String {
    if text.is_ascii() {
        return text;
    }
    let long = |cluster: &str| cluster.chars().nth(MAX_CLUSTER).is_some();
    if !text.graphemes(true).any(long) {
        return text;
    }
    text.graphemes(true).flat_map(|cluster| cluster.chars().take(MAX_CLUSTER)).collect()
}

/// Columns that a text takes.
pub fn width(text: &str) -> usize {
    text.graphemes(true).map(UnicodeWidthStr::width).sum()
}

/// At most so many columns of a text; `…` tells that there was more.
pub fn cut(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    let mut out = String::new();
    let mut used = 0;
    for cluster in text.graphemes(true) {
        let wide = cluster.width();
        if used + wide + 1 > columns {
            break;
        }
        out.push_str(cluster);
        used += wide;
    }
    if columns > 0 {
        out.push('…');
    }
    out
}

/// Exactly so many columns of a text, filled up with spaces.
pub fn fit(text: &str, columns: usize) -> String {
    let mut out = cut(text, columns);
    let used = width(&out);
    out.extend(std::iter::repeat_n(' ', columns.saturating_sub(used)));
    out
}

/// Breaks one line into several of at most so many columns, between words where it can; always at least one.
pub fn wrap(line: &str, columns: usize) -> Vec<String> {
    let columns = columns.max(2);
    let mut lines = Vec::new();
    let mut current = String::new();
    let mut used = 0;
    for word in line.split_word_bounds() {
        let wide = width(word);
        if used + wide <= columns {
            current.push_str(word);
            used += wide;
            continue;
        }
        if word.trim().is_empty() {
            // A space at the end of a line is not seen.
            continue;
        }
        if wide <= columns {
            lines.push(std::mem::take(&mut current).trim_end().to_owned());
            current.push_str(word);
            used = wide;
            continue;
        }
        for cluster in word.graphemes(true) {
            let wide = cluster.width();
            if used + wide > columns && !current.is_empty() {
                lines.push(std::mem::take(&mut current));
                used = 0;
            }
            current.push_str(cluster);
            used += wide;
        }
    }
    lines.push(current);
    lines
}

/// The web addresses in a text.
pub fn links(text: &str) -> Vec<String> {
    let words = text.split(|c: char| c.is_whitespace() || matches!(c, '<' | '>' | '"' | '`'));
    words
        .map(|word| word.trim_matches(['(', ')', '[', ']', ',', '.', ';', '!', '?', '\'']))
        .filter(|word| {
            let rest = word.strip_prefix("https://").or_else(|| word.strip_prefix("http://"));
            rest.is_some_and(|rest| !rest.is_empty()) && !word.contains(char::is_control)
        })
        .map(str::to_owned)
        .collect()
}

/// A size as people read it.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KB", "MB", "GB", "TB"];
    #[allow(clippy::cast_precision_loss, reason = "one decimal is shown")]
    let mut value = n as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{n} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nothing_hostile_is_left() {
        assert_eq!(clean("a\x1b[2Jb"), "a␛[2Jb");
        assert_eq!(clean("\x1b]52;c;aGk=\x07"), "␛]52;c;aGk=␇");
        assert_eq!(clean("\u{9b}31m"), "\u{fffd}31m");
        assert_eq!(clean("pay \u{202e}001"), "pay \u{fffd}001");
        assert_eq!(clean("a\u{200b}b\u{feff}"), "ab");
        assert_eq!(clean("a\nb\r\nc"), "a b  c");
        assert_eq!(clean_lines("a\r\nb\u{2028}c"), ["a", "b", "c"]);
        let heap = format!("a{}", "\u{301}".repeat(500));
        assert_eq!(clean(&heap).chars().count(), MAX_CLUSTER);
    }

    #[test]
    fn wide_and_combining_characters_count_as_they_are_shown() {
        assert_eq!(width("日本"), 4);
        assert_eq!(width("e\u{301}"), 1);
        assert_eq!(width("👩‍👩‍👧"), 2);
        assert_eq!(cut("日本語", 5), "日本…");
        assert_eq!(cut("日本語", 4), "日…");
        assert_eq!(fit("日", 4), "日  ");
        assert_eq!(wrap("日本語", 4), ["日本", "語"]);
        assert_eq!(wrap("one two three", 8), ["one two", "three"]);
        assert_eq!(wrap("", 8), [""]);
    }

    #[test]
    fn only_web_addresses_are_links() {
        let text = "see (https://a.example/x), file:///etc/passwd http:// and http://b.example.";
        assert_eq!(links(text), ["https://a.example/x", "http://b.example"]);
    }

    proptest! {
        #[test]
        fn cleaned_text_has_no_controls_and_keeps_its_columns(text in any::<String>(), columns in 2usize..40) {
            for line in clean_lines(&text) {
                prop_assert!(!line.contains(char::is_control));
                prop_assert_eq!(clean(&line), line.clone());
                for part in wrap(&line, columns) {
                    // One grapheme may be wider than everything that there is.
                    prop_assert!(width(&part) <= columns || part.graphemes(true).count() == 1, "{part:?}");
                }
                prop_assert!(width(&cut(&line, columns)) <= columns);
            }
        }
    }
}
