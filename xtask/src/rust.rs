//! Rust source as tokens: no comments, and no text inside literals, so that a word in a sentence is never code.

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// A word, a punctuation mark or a bracket; a literal is an empty text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    /// The text.
    pub(crate) text: String,
    /// Line, counted from 1.
    pub(crate) line: usize,
}

/// All tokens in order. Doc comments appear as the attribute `#[doc = …]` with an empty literal.
pub(crate) fn tokens(source: &str) -> Result<Vec<Token>, String> {
    let stream: TokenStream = source.parse().map_err(|e: proc_macro2::LexError| e.to_string())?;
    let mut out = Vec::new();
    flatten(stream, &mut out);
    Ok(out)
}

fn flatten(stream: TokenStream, out: &mut Vec<Token>) {
    for tree in stream {
        let line = tree.span().start().line;
        let mut push = |text: String, line| out.push(Token { text, line });
        match tree {
            TokenTree::Ident(word) => push(word.to_string(), line),
            TokenTree::Punct(mark) => push(mark.as_char().to_string(), line),
            TokenTree::Literal(_) => push(String::new(), line),
            TokenTree::Group(group) => {
                let (open, close) = match group.delimiter() {
                    Delimiter::Parenthesis => ("(", ")"),
                    Delimiter::Brace => ("{", "}"),
                    Delimiter::Bracket => ("[", "]"),
                    Delimiter::None => ("", ""),
                };
                push(open.into(), line);
                flatten(group.stream(), out);
                out.push(Token { text: close.into(), line: group.span_close().start().line });
            }
        }
    }
}

/// Where the words `wanted` follow each other: the lines.
pub(crate) fn find(tokens: &[Token], wanted: &[&str]) -> Vec<usize> {
    let hit = |window: &&[Token]| window.iter().zip(wanted).all(|(token, word)| token.text == *word);
    tokens.windows(wanted.len()).filter(hit).map(|window| window[0].line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_not_code() {
        let source = "//! unsafe\n/// unsafe\nfn f<'a>() -> char { /* unsafe */ let _ = \"unsafe\"; let _ = r#\"unsafe\"#; 'u' }\n";
        let tokens = tokens(source).unwrap();
        assert!(find(&tokens, &["unsafe"]).is_empty());
        assert_eq!(find(&tokens, &["fn", "f"]), [3]);
        assert_eq!(find(&tokens, &["let", "_"]), [3, 3]);
        assert!(super::tokens("fn f( {").is_err());
    }
}
