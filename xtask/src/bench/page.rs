//! BENCHMARKS.md: a head, and a part for each kind of measurement. Parts that were not measured stay as they are,
//! and so does one that is written by hand.

use super::machine;
use crate::{Result, tree};

const FILE: &str = "BENCHMARKS.md";

const HEAD: &str = "\
# Benchmarks

Written by `cargo xtask bench`, which builds everything, runs the tool and loops written by hand in turns on one machine,
and replaces the parts that it has measured; *Peers* is written by hand. Only ratios within one part mean something: another
machine, or the same one with other work to do, gives other figures.
";

/// One kind of measurement.
pub(super) struct Part {
    pub(super) title: &'static str,
    pub(super) text: String,
}

/// Puts the part in the place of an older one of its title.
pub(super) fn write(part: &Part) -> Result {
    let path = tree::root().join(FILE);
    let old = std::fs::read_to_string(&path).unwrap_or_default();
    let measured = machine::describe();
    let text = format!("{measured}\n\n{}", part.text.trim());
    let new = [(part.title.to_owned(), text)];
    std::fs::write(&path, joined(&old, &new))
        .map_err(|error| format!("cannot write `{FILE}`: {error}"))?;
    println!("wrote {FILE}");
    Ok(())
}

fn joined(old: &str, new: &[(String, String)]) -> String {
    let mut parts: Vec<(String, String)> = old
        .split("\n## ")
        .skip(1)
        .filter_map(|part| part.split_once('\n'))
        .map(|(title, text)| (title.to_owned(), text.trim().to_owned()))
        .collect();
    for (title, text) in new {
        match parts.iter_mut().find(|(known, _)| known == title) {
            Some(part) => part.1.clone_from(text),
            None => parts.push((title.clone(), text.clone())),
        }
    }
    let parts: String = parts
        .iter()
        .map(|(title, text)| format!("\n## {title}\n\n{text}\n"))
        .collect();
    format!("{HEAD}{parts}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_as_it_would_be_written_and_a_part_written_by_hand_stays() {
        let page = std::fs::read_to_string(tree::root().join(FILE)).unwrap();
        assert!(page.contains("\n## Peers\n"));
        assert_eq!(joined(&page, &[]), page);
    }

    #[test]
    fn a_part_takes_the_place_of_its_older_self() {
        let part = |title: &str, text: &str| (title.to_owned(), text.to_owned());
        let first = joined(
            "",
            &[part("A", "old\n\n### QoS 0\n\nx"), part("B", "stays")],
        );
        let second = joined(&first, &[part("A", "new"), part("C", "last")]);
        assert_eq!(
            second,
            format!("{HEAD}\n## A\n\nnew\n\n## B\n\nstays\n\n## C\n\nlast\n")
        );
    }
}
