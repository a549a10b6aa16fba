//! Which machine takes a piece of work: the one that is then the least busy.

use std::collections::BTreeSet;

/// A machine that can take work.
#[derive(Clone, Debug, PartialEq)]
pub struct Seat<'a> {
    /// Its name.
    pub name: &'a str,
    /// What it can: `gpu`.
    pub labels: &'a BTreeSet<String>,
    /// Its cores, in cores of a machine of speed 1; more than 0.
    pub capacity: f64,
    /// What of that is taken.
    pub taken: f64,
}

impl Seat<'_> {
    /// What share of it is taken with so much more.
    pub fn share_with(&self, cores: f64) -> f64 {
        (self.taken + cores) / self.capacity
    }
}

/// The seat that takes work of so many cores, of those that have all of its labels: the one that is the least busy then, the first
/// by name of equal ones.
pub fn choose<'s, 'a>(
    seats: &'s [Seat<'a>],
    labels: &BTreeSet<String>,
    cores: f64,
) -> Option<&'s Seat<'a>> {
    let able = seats.iter().filter(|seat| labels.is_subset(seat.labels));
    able.min_by(|one, other| {
        let shares = (one.share_with(cores), other.share_with(cores));
        shares.0.total_cmp(&shares.1).then(one.name.cmp(other.name))
    })
}

/// A piece of work that may be moved.
#[derive(Clone, Debug, PartialEq)]
pub struct Piece<'a> {
    /// Its name.
    pub name: &'a str,
    /// The seat that has it, by its place in the list.
    pub seat: usize,
    /// Labels that its seat must have.
    pub labels: &'a BTreeSet<String>,
    /// The cores that it keeps busy.
    pub cores: f64,
}

/// A move, and the share of the busiest seat before and after it.
#[derive(Clone, Debug, PartialEq)]
pub struct Move {
    /// The piece, by its place in the list.
    pub piece: usize,
    /// Where to, by its place in the list.
    pub seat: usize,
    /// The share of the busiest seat now.
    pub before: f64,
    /// What it would be.
    pub after: f64,
}

/// The busiest seat must be this busy for a move to be worth its interruption.
const BUSY: f64 = 0.7;

/// So much must be gained.
const GAIN: f64 = 0.15;

/// The one move that helps the busiest seat most, if it is busy and one helps much: all taken shares count in full, so `taken`
/// of each seat must hold what its pieces use.
pub fn rebalance(seats: &[Seat<'_>], pieces: &[Piece<'_>]) -> Option<Move> {
    let share = |seat: &Seat<'_>| seat.taken / seat.capacity;
    let busiest = (0..seats.len()).max_by(|one, other| {
        let shares = (share(&seats[*one]), share(&seats[*other]));
        shares.0.total_cmp(&shares.1).then(other.cmp(one))
    })?;
    let before = share(&seats[busiest]);
    if before < BUSY {
        return None;
    }
    // The second busiest bounds what any move can gain.
    let others = seats
        .iter()
        .enumerate()
        .filter(|(seat, _)| *seat != busiest);
    let rest = others.map(|(_, seat)| share(seat)).fold(0.0, f64::max);
    let mut best: Option<Move> = None;
    for (piece, work) in pieces.iter().enumerate() {
        if work.seat != busiest {
            continue;
        }
        let left = (seats[busiest].taken - work.cores) / seats[busiest].capacity;
        for (seat, taker) in seats.iter().enumerate() {
            if seat == busiest || !work.labels.is_subset(taker.labels) {
                continue;
            }
            let after = left.max(taker.share_with(work.cores)).max(rest);
            // Of equal gains the smaller piece, and the seat with more room.
            let rank = |after: f64, piece: usize, seat: usize| {
                let cores = pieces[piece].cores;
                [after, cores, seats[seat].share_with(cores)]
            };
            let is_better =
                |best: &Move| rank(after, piece, seat) < rank(best.after, best.piece, best.seat);
            if best.as_ref().is_none_or(is_better) {
                best = Some(Move {
                    piece,
                    seat,
                    before,
                    after,
                });
            }
        }
    }
    best.filter(|best| best.before - best.after >= GAIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(words: &[&str]) -> BTreeSet<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn the_seat_that_is_the_least_busy_then_takes_it() {
        let (none, gpu) = (labels(&[]), labels(&["gpu"]));
        let seat = |name, labels, capacity, taken| Seat {
            name,
            labels,
            capacity,
            taken,
        };
        let seats = [
            seat("a", &none, 2.0, 1.0),
            seat("b", &none, 8.0, 3.0),
            seat("c", &gpu, 4.0, 3.9),
        ];
        let chosen =
            |labels: &BTreeSet<String>, cores| choose(&seats, labels, cores).map(|seat| seat.name);
        assert_eq!(chosen(&none, 1.0), Some("b"));
        assert_eq!(chosen(&gpu, 1.0), Some("c"));
        assert_eq!(chosen(&labels(&["gpu", "big"]), 1.0), None);
        let equal = [seat("y", &none, 1.0, 0.0), seat("x", &none, 1.0, 0.0)];
        assert_eq!(choose(&equal, &none, 0.5).unwrap().name, "x");
    }

    #[test]
    fn one_move_is_made_where_the_busiest_gains_much_by_it() {
        let none = labels(&[]);
        let seats = |taken: [f64; 3]| {
            let seat = |(name, taken)| Seat {
                name,
                labels: &none,
                capacity: 4.0,
                taken,
            };
            ["a", "b", "c"]
                .into_iter()
                .zip(taken)
                .map(seat)
                .collect::<Vec<_>>()
        };
        let piece = |name, seat, cores| Piece {
            name,
            seat,
            labels: &none,
            cores,
        };
        let pieces = [
            piece("big", 0, 3.0),
            piece("small", 0, 1.0),
            piece("other", 1, 1.0),
        ];
        let found = rebalance(&seats([4.0, 1.0, 0.0]), &pieces).unwrap();
        assert_eq!((pieces[found.piece].name, found.seat), ("small", 2));
        assert_eq!((found.before, found.after), (1.0, 0.75));
        // It is not busy; nothing would be gained; all are busy.
        assert_eq!(rebalance(&seats([2.0, 0.0, 0.0]), &pieces), None);
        assert_eq!(
            rebalance(&seats([4.0, 1.0, 0.0]), &[piece("all", 0, 4.0)]),
            None
        );
        assert_eq!(rebalance(&seats([4.0, 4.0, 4.0]), &pieces), None);
    }
}
