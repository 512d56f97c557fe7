//! Pieces of HTML.

use std::fmt::Display;

/// Text that is no markup.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            '\'' => escaped += "&#39;",
            other => escaped.push(other),
        }
    }
    escaped
}

/// A table that scrolls by itself where the screen is narrow. Headings and fields are text; the columns after the first
/// `text` ones are numbers.
pub(super) fn table(headings: &[&str], text: usize, rows: &[Vec<String>]) -> String {
    let class = |column: usize| if column < text { "" } else { " class=\"n\"" };
    let cells = |tag: &str, cells: &mut dyn Iterator<Item = &str>| {
        let cell = |(column, text): (usize, &str)| {
            format!("<{tag}{}>{}</{tag}>", class(column), escape(text))
        };
        cells.enumerate().map(cell).collect::<String>()
    };
    let head = cells("th", &mut headings.iter().copied());
    let row = |row: &Vec<String>| {
        format!("<tr>{}</tr>\n", cells("td", &mut row.iter().map(String::as_str)))
    };
    let rows: String = rows.iter().map(row).collect();
    format!("<div class=\"scroll\"><table>\n<tr>{head}</tr>\n{rows}</table></div>\n")
}

/// Something that is shown on request.
pub(super) fn details(summary: &str, content: &str) -> String {
    format!("<details><summary>{}</summary>\n{content}</details>\n", escape(summary))
}

/// A value, or a dash.
pub(super) fn or_dash(value: Option<impl Display>) -> String {
    value.map_or_else(|| "–".to_owned(), |value| value.to_string())
}
