//! What the clocks cost: the engine with and without them, in turns.

use super::Plan;
use super::figures::{Figures, Ratio};
use super::ingest::{Contender, Outcome, run_once};
use super::page::Part;
use crate::Result;

/// With the clocks, and without.
const CONTENDERS: [Contender; 2] = [
    Contender::Engine { clocks: true },
    Contender::Engine { clocks: false },
];

/// CPU of MQTT at QoS 1 to jsonl, the engine as a library.
pub(super) fn measure(plan: &Plan) -> Result<Part> {
    let load = super::machine::load();
    let mut rounds: Vec<[Outcome; 2]> = Vec::new();
    for number in 0..plan.pairs {
        // Each is the first of a pair as often as the other.
        let mut order = CONTENDERS;
        order.rotate_left(number % 2);
        let mut round = [run_once(plan, order[0], 1)?, run_once(plan, order[1], 1)?];
        round.rotate_left(number % 2);
        let [with, without] = round;
        println!(
            "{} of {}: {:.3} CPU s with the clocks, {:.3} without, {} and {} lost",
            number + 1,
            plan.pairs,
            with.cpu,
            without.cpu,
            with.lost,
            without.lost
        );
        rounds.push(round);
    }
    let column = |place: usize, pick: fn(&Outcome) -> f64| {
        Figures::of(rounds.iter().map(|round| pick(&round[place])))
    };
    let ratio = |pick: fn(&Outcome) -> f64| {
        Ratio::of(
            rounds
                .iter()
                .map(|[with, without]| (pick(with), pick(without))),
        )
    };
    let mut text = format!(
        "{} messages at QoS 1 to jsonl, by the engine as a library, once with the clocks, histograms and queue times of each stage \
         and once with none of them, in turns. CPU seconds (user and system) for 100,000 messages; median of {} pairs \
         [least … most]; load average {load} before.\n\n| | CPU s | stored/s |\n|---|---|---|\n",
        plan.messages, plan.pairs
    );
    for (place, contender) in CONTENDERS.into_iter().enumerate() {
        text.push_str(&format!(
            "| {} | {:.3} | {:.0} |\n",
            contender.name(),
            column(place, |run| run.cpu),
            column(place, |run| run.per_second)
        ));
    }
    let cpu = ratio(|run| run.cpu);
    text.push_str(&format!(
        "\nWith the clocks as a part of without: CPU {:.3} ({:.3} to {:.3}{}).\n",
        cpu.median,
        cpu.low,
        cpu.high,
        cpu.certainty
            .map_or_else(String::new, |sure| format!(", {sure} % sure")),
    ));
    print!("{text}");
    Ok(Part {
        title: "What the clocks cost",
        text,
    })
}
