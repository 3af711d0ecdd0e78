//! How a parameter lies in a tensor of a checkpoint: the `axes` text of a weight map.
//!
//! `"(groups _@1/3 k) d"` lists the tensor's dimensions in order, each a product of items, slowest first.

/// One factor of a dimension.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// An axis of the parameter.
    Axis(String),
    /// A dimension of size 1.
    One,
    /// `_@I/N`: index I of N.
    Fixed {
        /// The index, an expression.
        index: String,
        /// Of how many, an expression.
        count: String,
    },
    /// `[a b]@OFF/TOTAL`: a part of TOTAL that starts at OFF.
    Part {
        /// The axes, slowest first.
        axes: Vec<String>,
        /// First element, an expression.
        start: String,
        /// Size of the whole, an expression.
        total: String,
    },
}

/// The dimensions of a tensor, each with its factors.
pub fn parse(text: &str) -> Result<Vec<Vec<Item>>, String> {
    let mut rest = text.trim_start();
    let mut dims = Vec::new();
    while !rest.is_empty() {
        let dim;
        (dim, rest) = match rest.strip_prefix('(') {
            Some(inner) => group(inner)?,
            None => item(rest).map(|(one, rest)| (vec![one], rest))?,
        };
        dims.push(dim);
        rest = rest.trim_start();
    }
    Ok(dims)
}

fn group(text: &str) -> Result<(Vec<Item>, &str), String> {
    let mut rest = text.trim_start();
    let mut items = Vec::new();
    loop {
        if let Some(after) = rest.strip_prefix(')') {
            return Ok((items, after));
        }
        if rest.is_empty() {
            return Err("`(` is not closed".into());
        }
        let one;
        (one, rest) = item(rest)?;
        items.push(one);
        rest = rest.trim_start();
    }
}

fn item(text: &str) -> Result<(Item, &str), String> {
    if let Some(inner) = text.strip_prefix('[') {
        let (names, rest) = inner.split_once(']').ok_or("`[` is not closed")?;
        let (start, total, rest) = place(rest)?;
        let axes = names.split_whitespace().map(str::to_string).collect();
        return Ok((Item::Part { axes, start, total }, rest));
    }
    if let Some(rest) = text.strip_prefix('_') {
        let (index, count, rest) = place(rest)?;
        return Ok((Item::Fixed { index, count }, rest));
    }
    let end = text.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '\'')).unwrap_or(text.len());
    match &text[..end] {
        "" => Err(format!("`{}` is not an axis", text.chars().take(1).collect::<String>())),
        "1" => Ok((Item::One, &text[end..])),
        name => Ok((Item::Axis(name.to_string()), &text[end..])),
    }
}

/// `@A/B`, up to a blank or the end of the group.
fn place(text: &str) -> Result<(String, String, &str), String> {
    let inner = text.strip_prefix('@').ok_or("`_` and `[…]` are followed by `@START/TOTAL`")?;
    let (mut depth, mut slash, mut end) = (0, None, inner.len());
    for (at, c) in inner.char_indices() {
        match c {
            '(' => depth += 1,
            ')' if depth > 0 => depth -= 1,
            '/' if depth == 0 && slash.is_none() => slash = Some(at),
            c if c == ')' || c.is_whitespace() => {
                end = at;
                break;
            }
            _ => {}
        }
    }
    match slash {
        Some(at) => Ok((inner[..at].to_string(), inner[at + 1..end].to_string(), &inner[end..])),
        None => Err(format!("`@{}` lacks `/TOTAL`", &inner[..end])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn axis(name: &str) -> Item {
        Item::Axis(name.into())
    }

    #[test]
    fn products_parts_and_indices() {
        let fixed = Item::Fixed { index: "1".into(), count: "3".into() };
        assert_eq!(parse("(groups _@1/3 k) d"), Ok(vec![vec![axis("groups"), fixed, axis("k")], vec![axis("d")]]));
        let part = Item::Part { axes: vec!["a".into(), "b".into()], start: "2*(n+1)".into(), total: "4*n".into() };
        assert_eq!(parse("[a b]@2*(n+1)/4*n 1"), Ok(vec![vec![part.clone()], vec![Item::One]]));
        assert_eq!(parse("(g [a b]@2*(n+1)/4*n) w"), Ok(vec![vec![axis("g"), part], vec![axis("w")]]));
        assert_eq!(parse(""), Ok(vec![]));
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, what) in [
            ("(a b", "`(` is not closed"),
            ("[a", "`[` is not closed"),
            ("_@1", "`@1` lacks `/TOTAL`"),
            ("[a] b", "`_` and `[…]` are followed by `@START/TOTAL`"),
            ("a, b", "`,` is not an axis"),
        ] {
            assert_eq!(parse(text), Err(what.to_string()), "{text}");
        }
    }
}
