//! The routes that do not work, each reason once.

use std::collections::BTreeMap;

use comfy_table::Table;

use super::text::{lines, table};
use crate::report::RouteFacts;

/// Each reason once, with its routes and its pairs of devices.
pub(super) fn refusals(routes: &[RouteFacts]) -> Table {
    let mut groups: Vec<Group<'_>> = Vec::new();
    for pair in routes {
        let refused = pair.refused.iter().chain(&pair.untried);
        let refused = refused.map(|refusal| (refusal.route, refusal.reason.as_str()));
        let error = pair.error.as_deref().map(|error| ("any", error));
        for (route, reason) in refused.chain(error) {
            let known = groups.iter_mut().find(|g| g.routes == [route] && g.reason == reason);
            match known {
                Some(group) => group.pairs.push((pair.from, pair.to)),
                None => groups.push(Group {
                    routes: vec![route],
                    pairs: vec![(pair.from, pair.to)],
                    reason,
                }),
            }
        }
    }
    let mut table = table(["route", "pairs", "reason"]);
    for Group { routes: refused, pairs, reason } in merge(groups) {
        let pairs = if pairs.len() == routes.len() { "all".to_owned() } else { compact(&pairs) };
        table.add_row([lines(refused), pairs, reason.to_owned()]);
    }
    table
}

/// Routes refused for the same reason between the same pairs.
struct Group<'a> {
    routes: Vec<&'a str>,
    pairs: Vec<(usize, usize)>,
    reason: &'a str,
}

/// Joins groups that have the same reason and pairs, and puts those of one route side by side.
fn merge(groups: Vec<Group<'_>>) -> Vec<Group<'_>> {
    let mut merged: Vec<Group<'_>> = Vec::new();
    for group in groups {
        let same = |m: &&mut Group<'_>| m.reason == group.reason && m.pairs == group.pairs;
        if let Some(known) = merged.iter_mut().find(same) {
            known.routes.extend(group.routes);
            continue;
        }
        let after = merged.iter().rposition(|m| m.routes[0] == group.routes[0]);
        merged.insert(after.map_or(merged.len(), |at| at + 1), group);
    }
    merged
}

/// Pairs by their first device: `0 → 1, 2`, one line each.
pub(super) fn compact(pairs: &[(usize, usize)]) -> String {
    let mut by_first: BTreeMap<usize, Vec<String>> = BTreeMap::new();
    for (from, to) in pairs {
        by_first.entry(*from).or_default().push(to.to_string());
    }
    lines(by_first.into_iter().map(|(from, to)| format!("{from} → {}", to.join(", "))))
}
