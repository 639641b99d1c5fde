//! Names in messages.

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
pub(crate) fn nearest<'a>(name: &str, names: &[&'a str]) -> Option<&'a str> {
    let near = names.iter().map(|n| (distance(&name.to_lowercase(), &n.to_lowercase()), *n));
    near.min_by_key(|(d, _)| *d).filter(|(d, _)| *d <= (name.chars().count() / 3).max(1)).map(|(_, n)| n)
}

/// The number of characters to insert, remove or replace.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(64).collect();
    let mut line: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().take(64).enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        if let Some(first) = line.first_mut() {
            *first = left;
        }
        for (slot, y) in line.iter_mut().skip(1).zip(&b) {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = *slot;
            left = replaced.min(diagonal + 1).min(left + 1);
            *slot = left;
        }
    }
    line.last().copied().unwrap_or(0)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_levenshtein() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("abc", ""), 3);
        assert_eq!(nearest("features", &["feature", "target"]), Some("feature"));
        assert_eq!(nearest("x", &["completely"]), None);
    }
}
