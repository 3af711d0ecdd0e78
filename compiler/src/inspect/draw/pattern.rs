//! What repeats in a list of layers.

/// Equal layers one after another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The first one.
    pub first: usize,
    /// How many.
    pub length: usize,
}

/// A pattern that comes several times, and what is left after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stack {
    /// Runs of the first time.
    pub pattern: Vec<Run>,
    /// How often.
    pub times: usize,
    /// Runs after the last whole pattern.
    pub rest: Vec<Run>,
}

/// The shortest pattern that fills the list from its start, at most one pattern's length left over.
pub fn stack(list: &[&str]) -> Stack {
    let repeats = |period: &usize| {
        let whole = list.len() / period * period;
        (whole / period > 1 || *period == list.len()) && (0..whole).all(|at| list[at] == list[at % period])
    };
    let period = (1..=list.len()).find(repeats).unwrap_or(list.len());
    let times = list.len().checked_div(period).unwrap_or(1).max(1);
    Stack { pattern: runs(list, 0, period), times, rest: runs(list, period * times, list.len()) }
}

fn runs(list: &[&str], from: usize, to: usize) -> Vec<Run> {
    let mut found: Vec<Run> = Vec::new();
    for at in from..to {
        match found.last_mut() {
            Some(run) if list[run.first] == list[at] => run.length += 1,
            _ => found.push(Run { first: at, length: 1 }),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        let text = |s: &str| {
            let letters: Vec<String> = s.chars().map(String::from).collect();
            let letters: Vec<&str> = letters.iter().map(String::as_str).collect();
            let stack = stack(&letters);
            let say = |runs: &[Run]| runs.iter().map(|r| format!("{}{}", letters[r.first], r.length)).collect::<String>();
            format!("{}x {}+{}", stack.times, say(&stack.pattern), say(&stack.rest))
        };
        assert_eq!(["aaaa", "aabaab", "ababa", "aab", ""].map(text), ["4x a1+", "2x a2b1+", "2x a1b1+a1", "1x a2b1+", "1x +"]);
    }
}
