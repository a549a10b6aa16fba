//! Tables that fit.

use crate::paint::{Ink, Paint, cut, printable, width};

/// Between two columns.
const GAP: &str = "  ";
/// The narrowest that the last column is cut to.
const NARROWEST: usize = 8;

/// Where the cells of a column stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Right,
}

/// A table: cells are made printable; a column without any text is left out; the last one is cut where the
/// terminal ends.
#[derive(Debug)]
pub(crate) struct Table {
    head: Vec<(&'static str, Align)>,
    rows: Vec<Vec<Cell>>,
}

/// One cell.
#[derive(Debug)]
pub(crate) struct Cell {
    text: String,
    ink: Option<Ink>,
}

impl<T: AsRef<str>> From<T> for Cell {
    fn from(text: T) -> Self {
        let text = printable(text.as_ref()).into_owned();
        Self { text, ink: None }
    }
}

impl Cell {
    /// A number; zero is dim, so that what has happened stands out.
    pub(crate) fn count(number: u64) -> Self {
        let ink = (number == 0).then_some(Ink::Dim);
        Self {
            ink,
            ..Self::from(number.to_string())
        }
    }

    /// A text in a colour.
    pub(crate) fn inked(text: &str, ink: Ink) -> Self {
        Self {
            ink: Some(ink),
            ..Self::from(text)
        }
    }
}

impl Table {
    /// A table with these column heads.
    pub(crate) fn new(head: &[(&'static str, Align)]) -> Self {
        Self {
            head: head.to_vec(),
            rows: Vec::new(),
        }
    }

    /// Adds a row; it has as many cells as there are heads.
    pub(crate) fn row(&mut self, cells: Vec<Cell>) {
        self.rows.push(cells);
    }

    /// The lines, the head's first; none is wider than `columns`, if that is known.
    pub(crate) fn lines(mut self, columns: Option<usize>, paint: Paint) -> Vec<String> {
        self.without_empty();
        let head: Vec<Cell> = self
            .head
            .iter()
            .map(|(text, _)| Cell::inked(text, Ink::Bold))
            .collect();
        let widths = self.widths(&head, columns);
        std::iter::once(&head)
            .chain(&self.rows)
            .map(|row| self.line(row, &widths, paint))
            .collect()
    }

    /// The table without the columns that are empty in every row.
    fn without_empty(&mut self) {
        for column in (0..self.head.len()).rev() {
            if self.rows.iter().all(|row| row[column].text.is_empty()) {
                self.head.remove(column);
                self.rows
                    .iter_mut()
                    .for_each(|row| drop(row.remove(column)));
            }
        }
    }

    fn widths(&self, head: &[Cell], columns: Option<usize>) -> Vec<usize> {
        let rows = || std::iter::once(head).chain(self.rows.iter().map(Vec::as_slice));
        let widest = |column: usize| rows().map(|row| width(&row[column].text)).max();
        let mut widths: Vec<usize> = (0..head.len()).filter_map(widest).collect();
        if let (Some(columns), Some((last, others))) = (columns, widths.split_last_mut()) {
            let taken: usize = others.iter().map(|width| width + GAP.len()).sum();
            let room = columns.saturating_sub(taken);
            *last = (*last).min(room.max(NARROWEST));
        }
        if let Some(columns) = columns {
            // A terminal too narrow for the figures: the first column, the names, gives way.
            let all: usize =
                widths.iter().sum::<usize>() + GAP.len() * widths.len().saturating_sub(1);
            let over = all.saturating_sub(columns);
            if let Some(first) = widths.first_mut() {
                *first = first.saturating_sub(over).max(NARROWEST.min(*first));
            }
        }
        widths
    }

    fn line(&self, row: &[Cell], widths: &[usize], paint: Paint) -> String {
        let mut line = String::new();
        let last = widths.len().saturating_sub(1);
        for (column, (cell, width_here)) in row.iter().zip(widths).enumerate() {
            let text = cut(&cell.text, *width_here);
            let space = " ".repeat(width_here.saturating_sub(width(&text)));
            let inked = match cell.ink {
                Some(ink) => paint.with(ink, &text),
                None => text.into_owned(),
            };
            match self.head[column].1 {
                Align::Right => line.push_str(&(space + &inked)),
                Align::Left if column == last => line.push_str(&inked),
                Align::Left => line.push_str(&(inked + &space)),
            }
            if column < last {
                line.push_str(GAP);
            }
        }
        line.truncate(line.trim_end().len());
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Table {
        let mut table = Table::new(&[
            ("NAME", Align::Left),
            ("IN", Align::Right),
            ("LAST ERROR", Align::Left),
        ]);
        table.row(vec!["a".into(), Cell::count(12), "".into()]);
        table.row(vec![
            "numbers".into(),
            Cell::count(0),
            "away:\nsince an hour ago".into(),
        ]);
        table
    }

    #[test]
    fn columns_stand_under_their_heads() {
        assert_eq!(
            sample().lines(None, Paint::Plain),
            [
                "NAME     IN  LAST ERROR",
                "a        12",
                "numbers   0  away:\\nsince an hour ago"
            ]
        );
    }

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        for columns in [24, 30, 80] {
            for line in sample().lines(Some(columns), Paint::Plain) {
                assert!(width(&line) <= columns, "{line:?} at {columns}");
            }
        }
        let lines = sample().lines(Some(24), Paint::Plain);
        assert_eq!(lines[2], "numbers   0  away:\\nsin…");
    }

    #[test]
    fn a_column_without_any_text_is_left_out() {
        let mut table = Table::new(&[("NAME", Align::Left), ("LAST ERROR", Align::Left)]);
        table.row(vec!["a".into(), "".into()]);
        assert_eq!(table.lines(None, Paint::Plain), ["NAME", "a"]);
    }

    #[test]
    fn colours_take_no_room() {
        let lines = sample().lines(None, Paint::Colours);
        assert_eq!(lines[1], "a        12");
        assert_eq!(
            lines[2],
            "numbers   \x1b[2m0\x1b[0m  away:\\nsince an hour ago"
        );
    }
}
