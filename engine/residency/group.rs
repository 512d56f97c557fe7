//! Client groups and their numbers.
//!
//! Kernel counterpart: the dmem cgroup controller's `dmem_cgroup_pool_state`s.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::memory::GroupId;

/// A client group. Its usage and its caps are in the ledgers.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) id: GroupId,
    pub(crate) name: Box<str>,
    /// The number of its live buffers.
    buffers: AtomicUsize,
}

/// All groups of an engine. A number is reused after the last handle, buffer and byte of its group is gone.
#[derive(Debug, Default)]
pub(crate) struct Groups(Mutex<List>);

#[derive(Debug, Default)]
struct List {
    /// The n-th group has number n + 1.
    groups: Vec<Arc<Group>>,
    /// Positions of groups that are no longer in use.
    vacant: Vec<usize>,
    /// At this number of groups, unused ones are searched for.
    scan_at: usize,
}

/// Among fewer groups, unused ones are not searched for.
const FEW: usize = 16;
const MOST: usize = u16::MAX as usize;

impl Groups {
    /// Makes a new group; `None` if there are 65,535. `is_unused` tells whether no byte is charged to a group
    /// number, and clears the accounts of that number for its next group.
    pub(crate) fn make(
        &self,
        name: &str,
        is_unused: impl Fn(GroupId) -> bool,
    ) -> Option<Arc<Group>> {
        let mut list = self.lock();
        if list.vacant.is_empty() && list.groups.len() >= list.scan_at.clamp(FEW, MOST) {
            list.find_vacant(is_unused);
        }
        let at = list.vacant.pop().unwrap_or(list.groups.len());
        let id = GroupId(u16::try_from(at + 1).ok()?);
        let group = Arc::new(Group { id, name: name.into(), buffers: AtomicUsize::new(0) });
        match list.groups.get_mut(at) {
            Some(vacant) => *vacant = Arc::clone(&group),
            None => list.groups.push(Arc::clone(&group)),
        }
        Some(group)
    }

    /// The group of a number that is in use.
    pub(crate) fn get(&self, id: GroupId) -> Option<Arc<Group>> {
        let at = usize::from(id.0).checked_sub(1)?;
        self.lock().groups.get(at).cloned()
    }

    /// Counts a new buffer of that group.
    pub(crate) fn entered(&self, id: GroupId) {
        self.count(id, |buffers| _ = buffers.fetch_add(1, Ordering::Relaxed));
    }

    /// A buffer of that group was destroyed.
    pub(crate) fn left(&self, id: GroupId) {
        self.count(id, |buffers| _ = buffers.fetch_sub(1, Ordering::Relaxed));
    }

    /// All known groups; some may no longer be in use.
    pub(crate) fn all(&self) -> Vec<Arc<Group>> {
        self.lock().groups.clone()
    }

    fn count(&self, id: GroupId, count: impl Fn(&AtomicUsize)) {
        if let Some(at) = usize::from(id.0).checked_sub(1) {
            count(&self.lock().groups[at].buffers);
        }
    }

    fn lock(&self) -> MutexGuard<'_, List> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl List {
    fn find_vacant(&mut self, is_unused: impl Fn(GroupId) -> bool) {
        for (at, group) in self.groups.iter().enumerate() {
            // A handle can make buffers, and a buffer can give a handle.
            let is_left =
                Arc::strong_count(group) == 1 && group.buffers.load(Ordering::Relaxed) == 0;
            if is_left && is_unused(group.id) {
                self.vacant.push(at);
            }
        }
        // So that the search costs amortised constant time per new group.
        self.scan_at = (self.groups.len() - self.vacant.len()) * 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_reused_after_its_group_is_gone() {
        let groups = Groups::default();
        let make = || groups.make("a", |id| id != GroupId(3)).expect("few");
        let kept: Vec<_> = (0..FEW).map(|_| make()).collect();
        assert_eq!(kept[0].id, GroupId(1));
        groups.entered(GroupId(2));
        drop(kept);
        let numbers: Vec<_> = (0..FEW).map(|_| make()).collect();
        let numbers: Vec<_> = numbers.iter().map(|group| group.id.0).collect();
        let again: Vec<_> = (1..=16).rev().filter(|number| ![2, 3].contains(number)).collect();
        assert_eq!(numbers[..14], again, "2 has a buffer, and 3 bytes");
        assert_eq!(numbers[14..], [17, 18]);
        groups.left(GroupId(2));
        assert_eq!(groups.get(GroupId(2)).map(|group| group.id), Some(GroupId(2)));
        assert!(groups.get(GroupId::NONE).is_none());
    }

    #[test]
    fn there_are_at_most_65535_groups_at_once() {
        let groups = Groups::default();
        let mut all: Vec<_> = (0..MOST).map(|_| groups.make("a", |_| true).expect("one")).collect();
        assert!(groups.make("a", |_| true).is_none());
        let last = all.pop().map(|group| group.id);
        assert_eq!(groups.make("a", |_| true).map(|group| group.id), last);
    }
}
