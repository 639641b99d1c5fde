//! Names in messages.

/// What an array is for: as messages call it, and the option that names another array.
pub(crate) struct Role {
    said: String,
    option: String,
}

impl Role {
    pub(crate) fn input(name: &str) -> Self {
        Role { said: format!("the model's input '{name}'"), option: format!("--map {name}=") }
    }

    pub(crate) fn target() -> Self {
        Role { said: "the target".to_owned(), option: "--target ".to_owned() }
    }

    pub(crate) fn weights() -> Self {
        Role { said: "the sample weights".to_owned(), option: "--weight ".to_owned() }
    }

    /// What to do where its array is not there; `near` is the one that may be meant.
    pub(crate) fn remedy(&self, near: Option<&str>) -> String {
        match near {
            Some(near) => format!("did you mean '{near}'? say {}{near}, or rename the array", self.option),
            None => format!("name the array so, or say {}ARRAY", self.option),
        }
    }
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.said)
    }
}

/// The names, as many as a line holds.
pub(crate) fn list(names: &[&str]) -> String {
    const SHOWN: usize = 20;
    match names.len() {
        0 => "nothing".to_owned(),
        n if n <= SHOWN => names.join(", "),
        n => format!("{} and {} more", names[..SHOWN].join(", "), n - SHOWN),
    }
}

/// The name that `name` is most likely meant to be, if one is near.
pub fn nearest<'a>(name: &str, names: &[&'a str]) -> Option<&'a str> {
    let near = names.iter().map(|n| (distance(&name.to_lowercase(), &n.to_lowercase()), *n));
    let length = name.chars().count();
    // A single letter in place of another is no misspelling.
    let most = if length < 2 { 0 } else { (length / 3).clamp(1, 3) };
    near.min_by_key(|(d, _)| *d).filter(|(d, _)| *d <= most).map(|(_, n)| n)
}

/// The number of characters to insert, remove or replace, and of neighbours to swap.
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().take(64).collect();
    let b: Vec<char> = b.chars().take(64).collect();
    let mut before: Vec<usize> = Vec::new();
    let mut line: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut next = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let mut least = (line[j] + usize::from(x != y)).min(line[j + 1] + 1).min(next[j] + 1);
            if i > 0 && j > 0 && x == &b[j - 1] && y == &a[i - 1] {
                least = least.min(before[j - 1] + 1);
            }
            next.push(least);
        }
        before = std::mem::replace(&mut line, next);
    }
    line.last().copied().unwrap_or(0)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn distances_count_edits() {
        assert_eq!(distance("scale", "sclae"), 1);
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("abc", ""), 3);
        assert_eq!(nearest("features", &["feature", "target"]), Some("feature"));
        assert_eq!(nearest("x", &["completely"]), None);
        assert_eq!(nearest("x", &["y"]), None);
        assert_eq!(nearest("x", &["X"]), Some("X"));
    }
}
