//! Licence expressions: `MIT OR (Apache-2.0 AND BSD-3-Clause)`, and the old form `MIT/Apache-2.0`.

use crate::Result;

/// True when the licences that `allowed` says yes to are enough for `expression`.
///
/// A licence with an exception is asked for as a whole (`Apache-2.0 WITH LLVM-exception`). An
/// expression that cannot be read is an error.
pub(crate) fn satisfied(expression: &str, allowed: &mut dyn FnMut(&str) -> bool) -> Result<bool> {
    let spaced = expression
        .replace('(', " ( ")
        .replace(')', " ) ")
        .replace('/', " OR ");
    let mut words = spaced.split_whitespace().peekable();
    let answer = any_of(&mut words, allowed)
        .filter(|_| words.peek().is_none())
        .ok_or_else(|| format!("cannot read the licence expression `{expression}`"))?;
    Ok(answer)
}

type Words<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

fn any_of(words: &mut Words<'_>, allowed: &mut dyn FnMut(&str) -> bool) -> Option<bool> {
    let mut answer = all_of(words, allowed)?;
    while words.next_if_eq(&"OR").is_some() {
        answer |= all_of(words, allowed)?;
    }
    Some(answer)
}

fn all_of(words: &mut Words<'_>, allowed: &mut dyn FnMut(&str) -> bool) -> Option<bool> {
    let mut answer = one(words, allowed)?;
    while words.next_if_eq(&"AND").is_some() {
        answer &= one(words, allowed)?;
    }
    Some(answer)
}

fn one(words: &mut Words<'_>, allowed: &mut dyn FnMut(&str) -> bool) -> Option<bool> {
    match words.next()? {
        "(" => {
            let answer = any_of(words, allowed)?;
            words.next_if_eq(&")").map(|_| answer)
        }
        ")" | "OR" | "AND" | "WITH" => None,
        licence if words.next_if_eq(&"WITH").is_some() => {
            Some(allowed(&format!("{licence} WITH {}", words.next()?)))
        }
        licence => Some(allowed(licence)),
    }
}

#[cfg(test)]
mod tests {
    use super::satisfied;

    #[track_caller]
    fn check(expression: &str, expected: std::result::Result<bool, ()>) {
        let mut allowed = |licence: &str| ["MIT", "Apache-2.0", "ISC"].contains(&licence);
        assert_eq!(
            satisfied(expression, &mut allowed).map_err(drop),
            expected,
            "{expression}"
        );
    }

    #[test]
    fn one_allowed_choice_is_enough() {
        check("MIT", Ok(true));
        check("GPL-3.0-only", Ok(false));
        check("GPL-3.0-only OR MIT", Ok(true));
        check("Unlicense/MIT", Ok(true));
        check("Apache-2.0 / MIT", Ok(true));
    }

    #[test]
    fn what_is_joined_by_and_needs_every_part() {
        check("MIT AND BSD-3-Clause", Ok(false));
        check("(MIT OR BSD-3-Clause) AND ISC", Ok(true));
        check("MIT AND BSD-3-Clause OR ISC", Ok(true));
        check("ISC OR MIT AND BSD-3-Clause", Ok(true));
        check("(ISC OR MIT) AND BSD-3-Clause", Ok(false));
    }

    #[test]
    fn an_exception_makes_another_licence() {
        check("Apache-2.0 WITH LLVM-exception", Ok(false));
        check("Apache-2.0 WITH LLVM-exception OR MIT", Ok(true));
    }

    #[test]
    fn a_broken_expression_is_refused() {
        for broken in [
            "", "MIT OR", "MIT ISC", "(MIT", "MIT)", "OR MIT", "MIT WITH",
        ] {
            check(broken, Err(()));
        }
    }
}
