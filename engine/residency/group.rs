//! Client groups: who has which number.
//!
//! Kernel counterpart: the dmem cgroup controller's `dmem_cgroup_pool_state`s.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::memory::GroupId;

/// A client group. What it has and may have is in the ledgers.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) id: GroupId,
    pub(crate) name: Box<str>,
    /// Buffers of it that are alive.
    buffers: AtomicUsize,
}

/// All groups of an engine. A number is given again when the last handle, buffer and byte of its group is
/// gone.
#[derive(Debug, Default)]
pub(crate) struct Groups(Mutex<List>);

#[derive(Debug, Default)]
struct List {
    /// The n-th has number n + 1.
    groups: Vec<Arc<Group>>,
    /// Positions of those that nobody has any more.
    vacant: Vec<usize>,
    /// At how many groups somebody looks for such.
    look_at: usize,
}

/// Fewer groups are not looked through for those that nobody has any more.
const FEW: usize = 16;
const MOST: usize = u16::MAX as usize;

impl Groups {
    /// A new group; `None` if there are 65,535. `is_unused` says whether nothing is on the account of one,
    /// and from then on the account is a new one's.
    pub(crate) fn make(
        &self,
        name: &str,
        is_unused: impl Fn(GroupId) -> bool,
    ) -> Option<Arc<Group>> {
        let mut list = self.lock();
        if list.vacant.is_empty() && list.groups.len() >= list.look_at.clamp(FEW, MOST) {
            list.look_around(is_unused);
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

    /// The group of a number that somebody has.
    pub(crate) fn get(&self, id: GroupId) -> Option<Arc<Group>> {
        let at = usize::from(id.0).checked_sub(1)?;
        self.lock().groups.get(at).cloned()
    }

    /// A buffer of that group is made.
    pub(crate) fn entered(&self, id: GroupId) {
        self.count(id, |buffers| _ = buffers.fetch_add(1, Ordering::Relaxed));
    }

    /// A buffer of that group is gone.
    pub(crate) fn left(&self, id: GroupId) {
        self.count(id, |buffers| _ = buffers.fetch_sub(1, Ordering::Relaxed));
    }

    /// All that are known, those that nobody has any more among them.
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
    fn look_around(&mut self, is_unused: impl Fn(GroupId) -> bool) {
        for (at, group) in self.groups.iter().enumerate() {
            // Whoever has a handle can make buffers, and a buffer can give a handle.
            let is_left =
                Arc::strong_count(group) == 1 && group.buffers.load(Ordering::Relaxed) == 0;
            if is_left && is_unused(group.id) {
                self.vacant.push(at);
            }
        }
        // So that looking costs each new group a bounded time.
        self.look_at = (self.groups.len() - self.vacant.len()) * 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_given_again_when_nobody_has_it_any_more() {
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
    fn there_are_65535_at_once_and_no_more() {
        let groups = Groups::default();
        let mut all: Vec<_> = (0..MOST).map(|_| groups.make("a", |_| true).expect("one")).collect();
        assert!(groups.make("a", |_| true).is_none());
        let last = all.pop().map(|group| group.id);
        assert_eq!(groups.make("a", |_| true).map(|group| group.id), last);
    }
}
