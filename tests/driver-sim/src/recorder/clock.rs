//! Vector clocks: what is known to have ended before something else begins.

/// The number of a queue, unique in the process.
pub(super) type QueueId = u32;

/// For each queue the last submission that is known to have ended.
#[derive(Clone, Debug, Default)]
pub(super) struct Clock(Vec<(QueueId, u64)>);

impl Clock {
    /// The last submission of `queue` that has ended; 0 if none has.
    pub(super) fn reached(&self, queue: QueueId) -> u64 {
        self.0.iter().find(|(known, _)| *known == queue).map_or(0, |(_, reached)| *reached)
    }

    /// Submission `number` of `queue` has ended, and all before it.
    pub(super) fn raise(&mut self, queue: QueueId, number: u64) {
        match self.0.iter_mut().find(|(known, _)| *known == queue) {
            Some((_, reached)) => *reached = number.max(*reached),
            None => self.0.push((queue, number)),
        }
    }

    /// What has ended for `other` has ended here, too.
    pub(super) fn join(&mut self, other: &Self) {
        for (queue, number) in &other.0 {
            self.raise(*queue, *number);
        }
    }

    /// The queue is no more.
    pub(super) fn forget(&mut self, queue: QueueId) {
        self.0.retain(|(known, _)| *known != queue);
    }
}
