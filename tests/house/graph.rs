//! Circles of files: which there are, and the shortest way around one.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use crate::modules::Edge;

/// The sets of files of which each knows each, directly or not; largest first. A file alone is none.
pub(crate) fn circles(edges: &[Edge]) -> Vec<BTreeSet<String>> {
    let forward = reachable_by(edges, |edge| (&edge.from, &edge.to));
    let backward = reachable_by(edges, |edge| (&edge.to, &edge.from));
    let mut circles: Vec<BTreeSet<String>> = vec![];
    for file in forward.keys() {
        if circles.iter().any(|circle| circle.contains(*file)) {
            continue;
        }
        let (ahead, behind) = (reach(&forward, file), reach(&backward, file));
        let circle: BTreeSet<_> =
            ahead.intersection(&behind).map(|file| (*file).to_owned()).collect();
        if circle.len() > 1 {
            circles.push(circle);
        }
    }
    circles.sort_by_key(|circle| std::cmp::Reverse(circle.len()));
    circles
}

/// The shortest way from `start` back to it inside `circle`, as the edges to follow.
pub(crate) fn way_around<'a>(
    edges: &'a [Edge],
    circle: &BTreeSet<String>,
    start: &str,
) -> Vec<&'a Edge> {
    let inside = |edge: &&Edge| circle.contains(&edge.from) && circle.contains(&edge.to);
    let mut came_by: HashMap<&str, &Edge> = HashMap::new();
    let mut next = VecDeque::from([start]);
    while let Some(file) = next.pop_front() {
        for edge in edges.iter().filter(inside).filter(|edge| edge.from == file) {
            if !came_by.contains_key(edge.to.as_str()) {
                came_by.insert(&edge.to, edge);
                next.push_back(&edge.to);
            }
        }
    }
    let mut way = vec![];
    let mut file = start;
    while let Some(edge) = came_by.get(file) {
        way.push(*edge);
        file = &edge.from;
        if file == start {
            break;
        }
    }
    way.reverse();
    way
}

type Neighbours<'a> = BTreeMap<&'a str, Vec<&'a str>>;

fn reachable_by<'a>(
    edges: &'a [Edge],
    ends: impl Fn(&'a Edge) -> (&'a String, &'a String),
) -> Neighbours<'a> {
    let mut neighbours = Neighbours::new();
    for edge in edges {
        let (from, to) = ends(edge);
        neighbours.entry(from).or_default().push(to);
    }
    neighbours
}

/// What can be reached from `start`, itself included.
fn reach<'a>(neighbours: &Neighbours<'a>, start: &'a str) -> BTreeSet<&'a str> {
    let mut seen = BTreeSet::from([start]);
    let mut next = vec![start];
    while let Some(file) = next.pop() {
        for neighbour in neighbours.get(file).into_iter().flatten() {
            if seen.insert(neighbour) {
                next.push(neighbour);
            }
        }
    }
    seen
}
