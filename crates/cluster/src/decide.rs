//! What the leader does about what he sees: pure, so that any history can be played.

use std::collections::{BTreeMap, BTreeSet};

use wiredflow_core::engine::If;
use wiredflow_scale::placement::{Seat, choose};

use crate::documents::{
    Assignment, Deployed, FORMAT, NodeCard, PartSpec, Phase, Report, Wanted, Wish,
};

/// A flow and a part of it.
pub(crate) type PartName = (String, String);

/// What is known of the cluster.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct View {
    /// The nodes whose leases are good.
    pub nodes: BTreeMap<String, NodeCard>,
    /// Nodes of which nothing was heard of late, and whose leases may be good still: nothing of theirs is given to others.
    pub doubtful: BTreeSet<String>,
    /// The deployed flows, and which change has put them there.
    pub flows: BTreeMap<String, (Deployed, u64)>,
    /// Where parts stand, by flow and part, with their epochs.
    pub assignments: BTreeMap<PartName, (Assignment, u64)>,
    /// What nodes say of parts.
    pub reports: BTreeMap<PartName, Report>,
    /// Which nodes have the files of parts.
    pub homes: BTreeMap<PartName, String>,
    /// Whether nodes may be about to join, so that parts that stand nowhere wait a moment: else the first to come has all.
    pub is_settling: bool,
}

/// What the leader does: one write by compare and set.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Puts an assignment.
    Assign(PartName, Assignment, If),
    /// Removes an assignment, and the part's report with it.
    Remove(PartName, u64),
    /// Notes which node has the files of a part.
    Home(PartName, String),
    /// Stops a flow because of a failure.
    Fail(String, Box<Deployed>, u64),
}

/// What is to be done now. Done in this order, and seen again, nothing is left to do.
pub fn decide(view: &View) -> Vec<Action> {
    let mut deciding = Deciding {
        view,
        taken: taken(view),
        actions: Vec::new(),
    };
    for (flow, (deployed, revision)) in &view.flows {
        deciding.failures(flow, deployed, *revision);
    }
    for (name, (assignment, revision)) in &view.assignments {
        deciding.assigned(name, assignment, *revision);
    }
    for (flow, (deployed, _)) in &view.flows {
        if deployed.wanted == Wanted::Running && !view.is_settling {
            for part in &deployed.parts {
                deciding.unassigned(flow, deployed, part);
            }
        }
    }
    deciding.actions
}

/// The cores that parts take of each node.
fn taken(view: &View) -> BTreeMap<&str, f64> {
    let mut taken: BTreeMap<&str, f64> = BTreeMap::new();
    for ((flow, part), (assignment, _)) in &view.assignments {
        let spec = spec(view, flow, part);
        let declared = spec.map_or(0.0, |(_, spec)| spec.cores);
        let node = view.nodes.get(&assignment.node);
        let measured = node.and_then(|node| node.load.get(&format!("{flow}/{part}")));
        let cores = measured.copied().unwrap_or_default().max(declared);
        *taken.entry(&assignment.node).or_default() += cores;
    }
    taken
}

/// A part of a flow that is to run.
fn spec<'v>(view: &'v View, flow: &str, part: &str) -> Option<(&'v Deployed, &'v PartSpec)> {
    let (deployed, _) = view.flows.get(flow)?;
    let spec = deployed.parts.iter().find(|spec| spec.name == part)?;
    (deployed.wanted == Wanted::Running).then_some((deployed, spec))
}

struct Deciding<'v> {
    view: &'v View,
    taken: BTreeMap<&'v str, f64>,
    actions: Vec<Action>,
}

impl<'v> Deciding<'v> {
    /// A part that has failed stops its flow: if it runs, every part of it runs.
    fn failures(&mut self, flow: &str, deployed: &Deployed, revision: u64) {
        if deployed.wanted != Wanted::Running {
            return;
        }
        for part in &deployed.parts {
            let name = (flow.to_owned(), part.name.clone());
            let Some((assignment, epoch)) = self.view.assignments.get(&name) else {
                continue;
            };
            let report = self.view.reports.get(&name);
            let report = report.filter(|report| report.epoch == *epoch);
            let Some(Phase::Failed(why)) = report.map(|report| &report.phase) else {
                continue;
            };
            if assignment.version != deployed.version {
                continue;
            }
            let failed = Deployed {
                wanted: Wanted::Stopped,
                failure: Some(format!(
                    "`{}` on node `{}`: {why}",
                    part.name, assignment.node
                )),
                ..deployed.clone()
            };
            let action = Action::Fail(flow.to_owned(), Box::new(failed), revision);
            self.actions.push(action);
            return;
        }
    }

    fn assigned(&mut self, name: &PartName, assignment: &'v Assignment, revision: u64) {
        let view = self.view;
        let node = view.nodes.get(&assignment.node);
        let report = view.reports.get(name);
        let report = report.filter(|report| report.epoch == revision);
        let has_ended = report.is_some_and(|report| {
            matches!(report.phase, Phase::Left | Phase::Done | Phase::Failed(_))
        });
        let is_gone = node.is_none() && !view.doubtful.contains(&assignment.node);
        let Some((deployed, spec)) = spec(view, &name.0, &name.1) else {
            // It is not wanted any more.
            if is_gone || has_ended {
                self.actions.push(Action::Remove(name.clone(), revision));
            } else if assignment.wish == Wish::Run {
                self.leave(name, assignment, revision);
            }
            return;
        };
        let has_left = assignment.wish == Wish::Leave && has_ended;
        if has_left || (is_gone && !assignment.pinned) {
            match self.seat(name, spec) {
                Some(seat) => self.assign(name, (deployed, spec), seat, If::Revision(revision)),
                None if has_left => self.actions.push(Action::Remove(name.clone(), revision)),
                None => {}
            }
            return;
        }
        let Some(node) = node.filter(|_| assignment.wish == Wish::Run) else {
            return;
        };
        let may_move = spec.pinned_by.is_empty();
        if may_move && (node.drains || !spec.labels.is_subset(&node.labels)) {
            self.leave(name, assignment, revision);
        } else if assignment.version != deployed.version || assignment.pinned == may_move {
            self.assign(
                name,
                (deployed, spec),
                &assignment.node,
                If::Revision(revision),
            );
        }
    }

    fn unassigned(&mut self, flow: &str, deployed: &'v Deployed, part: &'v PartSpec) {
        let name = (flow.to_owned(), part.name.clone());
        if self.view.assignments.contains_key(&name) {
            return;
        }
        if let Some(seat) = self.seat(&name, part) {
            self.assign(&name, (deployed, part), seat, If::Absent);
        }
    }

    /// Where a part goes: where its files are, or where there is the most room.
    fn seat(&self, name: &PartName, part: &PartSpec) -> Option<&'v str> {
        let view = self.view;
        if !part.pinned_by.is_empty()
            && let Some(home) = view.homes.get(name)
        {
            let (home, card) = view.nodes.get_key_value(home)?;
            return (!card.drains).then_some(home);
        }
        let able = view.nodes.iter().filter(|(_, card)| !card.drains);
        let seats: Vec<Seat<'v>> = able
            .map(|(name, card)| Seat {
                name,
                labels: &card.labels,
                capacity: card.capacity(),
                taken: self.taken.get(name.as_str()).copied().unwrap_or_default(),
            })
            .collect();
        choose(&seats, &part.labels, part.cores).map(|seat| seat.name)
    }

    fn assign(
        &mut self,
        name: &PartName,
        (deployed, part): (&Deployed, &PartSpec),
        node: &'v str,
        condition: If,
    ) {
        let pinned = !part.pinned_by.is_empty();
        // First: a part whose files are somewhere must be known to be there before they are.
        if pinned && self.view.homes.get(name).map(String::as_str) != Some(node) {
            self.actions
                .push(Action::Home(name.clone(), node.to_owned()));
        }
        let assignment = Assignment {
            format: FORMAT,
            node: node.to_owned(),
            version: deployed.version.clone(),
            pipelines: part.pipelines.clone(),
            wish: Wish::Run,
            pinned,
        };
        self.actions
            .push(Action::Assign(name.clone(), assignment, condition));
        *self.taken.entry(node).or_default() += part.cores;
    }

    fn leave(&mut self, name: &PartName, assignment: &Assignment, revision: u64) {
        let assignment = Assignment {
            wish: Wish::Leave,
            ..assignment.clone()
        };
        let condition = If::Revision(revision);
        self.actions
            .push(Action::Assign(name.clone(), assignment, condition));
    }
}

#[cfg(test)]
mod tests;
