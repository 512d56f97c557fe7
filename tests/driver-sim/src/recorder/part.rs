//! The state of one level and layer of an image, over all devices, and the rules.

use std::collections::HashSet;

use ash::vk::{self, ImageLayout as Layout};

use super::area::{Rect, subtract};
use super::clock::{Clock, QueueId};

/// What a program got wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rule {
    Undefined,
    Acquire,
    Ownership,
    Unfinished,
    Layout,
}

impl Rule {
    /// The id of its messages.
    pub(super) fn id(self) -> &'static std::ffi::CStr {
        match self {
            Self::Undefined => c"RECORDER-undefined-over-content",
            Self::Acquire => c"RECORDER-acquire-without-its-release",
            Self::Ownership => c"RECORDER-use-without-ownership",
            Self::Unfinished => c"RECORDER-beside-unfinished-use",
            Self::Layout => c"RECORDER-other-layout",
        }
    }
}

/// A command of a submission.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark {
    pub(super) device: u32,
    pub(super) family: u32,
    pub(super) queue: QueueId,
    /// The number of the submission in its queue.
    pub(super) number: u64,
    pub(super) command: &'static str,
    /// Whether the device knows `FOREIGN_EXT`.
    pub(super) foreign: bool,
}

/// The surroundings in which a command is judged.
#[derive(Debug)]
pub(super) struct Scene<'a> {
    /// What the submission waited for.
    pub(super) clock: &'a Clock,
    /// Names of devices.
    pub(super) names: &'a [String],
    /// Devices that are lost or destroyed: they own nothing, and nothing of theirs runs.
    pub(super) gone: &'a HashSet<u32>,
}

impl Scene<'_> {
    fn name(&self, mark: &Mark) -> String {
        let device = self.names.get(mark.device as usize).map_or("?", String::as_str);
        format!("{device} (queue family {}, {})", mark.family, mark.command)
    }

    fn is_gone(&self, mark: &Mark) -> bool {
        self.gone.contains(&mark.device)
    }

    /// Whether what `earlier` marks may still run.
    fn is_unfinished(&self, earlier: &Mark, now: &Mark) -> bool {
        earlier.queue != now.queue
            && !self.is_gone(earlier)
            && self.clock.reached(earlier.queue) < earlier.number
    }
}

/// A barrier of an image.
#[derive(Clone, Copy, Debug)]
pub(super) struct Barrier {
    pub(super) old: Layout,
    pub(super) new: Layout,
    pub(super) src: u32,
    pub(super) dst: u32,
}

impl Barrier {
    fn changes_layout(&self) -> bool {
        self.old != self.new
    }
}

/// What a barrier does to ownership.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Transfer {
    None,
    Acquire,
    Release,
    /// The halves of a transfer between two families of one device.
    ReleaseInside,
    AcquireInside,
}

impl Transfer {
    fn of(barrier: &Barrier, family: u32) -> Self {
        match (is_outside(barrier.src), is_outside(barrier.dst)) {
            (true, false) => Self::Acquire,
            (false, true) => Self::Release,
            _ if barrier.src == barrier.dst => Self::None,
            _ if barrier.src == vk::QUEUE_FAMILY_IGNORED => Self::None,
            _ if barrier.src == family => Self::ReleaseInside,
            _ => Self::AcquireInside,
        }
    }
}

fn is_outside(family: u32) -> bool {
    matches!(family, vk::QUEUE_FAMILY_EXTERNAL | vk::QUEUE_FAMILY_FOREIGN_EXT)
}

/// The name of a queue family.
fn family(index: u32) -> String {
    match index {
        vk::QUEUE_FAMILY_EXTERNAL => "EXTERNAL".into(),
        vk::QUEUE_FAMILY_FOREIGN_EXT => "FOREIGN_EXT".into(),
        vk::QUEUE_FAMILY_IGNORED => "IGNORED".into(),
        index => format!("family {index}"),
    }
}

/// Who may use the texels.
#[derive(Clone, Debug)]
enum Owner {
    /// Nothing has used them yet, as far as is known.
    Unknown,
    /// Devices that have acquired them, each with whether it has written since. Several may read.
    Devices(Vec<(Mark, bool)>),
    /// An external family, since a release.
    Outside(Mark, Barrier),
    /// Released by one family of a device for another one.
    Inside(Mark, Barrier),
}

/// How a command uses texels.
#[derive(Clone, Copy, Debug)]
pub(super) struct Use {
    pub(super) layout: Option<Layout>,
    pub(super) reads: bool,
    pub(super) writes: bool,
    pub(super) rect: Rect,
}

/// One level and layer of an image.
#[derive(Debug)]
pub(super) struct Part {
    layout: Option<(Layout, Option<Mark>)>,
    owner: Owner,
    has_content: bool,
    /// Texels that a transition from `UNDEFINED` has discarded, and which are not written yet.
    missing: Vec<Rect>,
    discarded: Option<Mark>,
    written: Option<Mark>,
    /// The last read of each queue since it was written.
    reads: Vec<Mark>,
}

/// What was found, without the image.
pub(super) type Found = Vec<(Rule, String)>;

impl Part {
    pub(super) fn new() -> Self {
        Self {
            layout: None,
            owner: Owner::Unknown,
            has_content: false,
            missing: Vec::new(),
            discarded: None,
            written: None,
            reads: Vec::new(),
        }
    }

    /// The last image over it is no more. What a device has not released is gone with it, and the bytes may become another
    /// image.
    pub(super) fn left(&mut self) {
        if matches!(self.owner, Owner::Devices(_) | Owner::Inside(..)) {
            *self = Self::new();
        }
    }

    /// A barrier. `whole` are the texels that `UNDEFINED` discards; `shares_families`: whether ownership between families
    /// of one device does not matter.
    pub(super) fn barrier(
        &mut self,
        (scene, now): (&Scene<'_>, Mark),
        barrier: Barrier,
        (whole, shares_families): (Rect, bool),
        found: &mut Found,
    ) {
        let transfer = Transfer::of(&barrier, now.family);
        match transfer {
            Transfer::Acquire => self.acquire(scene, now, barrier, found),
            Transfer::AcquireInside => self.acquire_inside(scene, now, barrier, found),
            Transfer::Release => self.check_release(scene, now, barrier, found),
            Transfer::None | Transfer::ReleaseInside => {
                self.check_owner((scene, now), barrier.changes_layout(), shares_families, found);
            }
        }
        if transfer == Transfer::ReleaseInside {
            // The layout changes once, at the acquire.
            self.owner = Owner::Inside(now, barrier);
            return;
        }
        self.change_layout((scene, now), barrier, transfer, whole, found);
        if transfer == Transfer::Release {
            self.check_missing(scene, now, Rect::ALL, found);
            self.release(scene, now, barrier);
        }
    }

    fn acquire(&mut self, scene: &Scene<'_>, now: Mark, barrier: Barrier, found: &mut Found) {
        let mut owners = vec![(now, false)];
        match &mut self.owner {
            Owner::Unknown => {}
            Owner::Outside(released, release) => {
                // Of two devices that know FOREIGN_EXT, both name it, or neither.
                if release.dst != barrier.src && released.foreign && now.foreign {
                    found.push((
                        Rule::Acquire,
                        format!(
                            "{} acquires it from {}, and {} released it to {}",
                            scene.name(&now),
                            family(barrier.src),
                            scene.name(released),
                            family(release.dst)
                        ),
                    ));
                }
            }
            Owner::Inside(released, release) => found.push((
                Rule::Acquire,
                format!(
                    "{} acquires it from {}, and {} released it to {}",
                    scene.name(&now),
                    family(barrier.src),
                    scene.name(released),
                    family(release.dst)
                ),
            )),
            Owner::Devices(known) => {
                known.retain(|(owner, _)| !scene.is_gone(owner));
                // Several devices may read at once, each of which has acquired what the others have not released.
                let other =
                    known.iter().find(|(_, wrote)| *wrote || barrier.changes_layout()).cloned();
                match other {
                    Some((owner, wrote)) => found.push((
                        Rule::Acquire,
                        format!(
                            "{} acquires it from {} in {:?} for {:?}, and {} has not released it{}",
                            scene.name(&now),
                            family(barrier.src),
                            barrier.old,
                            barrier.new,
                            scene.name(&owner),
                            if wrote { ", having written it" } else { "" }
                        ),
                    )),
                    None => owners.append(known),
                }
            }
        }
        self.owner = Owner::Devices(owners);
    }

    fn acquire_inside(
        &mut self,
        scene: &Scene<'_>,
        now: Mark,
        barrier: Barrier,
        found: &mut Found,
    ) {
        let matches = match &self.owner {
            Owner::Inside(released, release) => {
                released.device == now.device
                    && (release.src, release.dst) == (barrier.src, barrier.dst)
                    && (release.old, release.new) == (barrier.old, barrier.new)
            }
            Owner::Unknown => true,
            Owner::Devices(_) | Owner::Outside(..) => false,
        };
        if !matches {
            let text = format!(
                "{} acquires it from {}, and {}",
                scene.name(&now),
                family(barrier.src),
                self.present(scene)
            );
            found.push((Rule::Acquire, text));
        }
        self.owner = Owner::Devices(vec![(now, false)]);
    }

    fn check_release(&mut self, scene: &Scene<'_>, now: Mark, barrier: Barrier, found: &mut Found) {
        let owns = match &self.owner {
            Owner::Unknown => true,
            Owner::Devices(owners) => owners.iter().any(|(owner, _)| owner.device == now.device),
            Owner::Outside(..) | Owner::Inside(..) => false,
        };
        if !owns {
            let text = format!(
                "{} releases it to {}, and {}",
                scene.name(&now),
                family(barrier.dst),
                self.present(scene)
            );
            found.push((Rule::Ownership, text));
        }
    }

    fn release(&mut self, scene: &Scene<'_>, now: Mark, barrier: Barrier) {
        if let Owner::Devices(owners) = &mut self.owner {
            if let Some(at) = owners.iter().position(|(owner, _)| owner.device == now.device) {
                owners.remove(at);
            }
            owners.retain(|(owner, _)| !scene.is_gone(owner));
            if !owners.is_empty() {
                return;
            }
        }
        self.owner = Owner::Outside(now, barrier);
    }

    /// A device uses it that has to own it; alone, if it writes.
    fn check_owner(
        &mut self,
        (scene, now): (&Scene<'_>, Mark),
        writes: bool,
        shares_families: bool,
        found: &mut Found,
    ) {
        let is_own = |owner: &Mark| {
            owner.device == now.device && (shares_families || owner.family == now.family)
        };
        let verb = if writes { "writes" } else { "uses" };
        match &mut self.owner {
            Owner::Unknown => self.owner = Owner::Devices(vec![(now, writes)]),
            Owner::Devices(owners) if owners.iter().any(|(owner, _)| is_own(owner)) => {
                owners.retain(|(owner, _)| !scene.is_gone(owner) || is_own(owner));
                let other = owners.iter().find(|(owner, _)| owner.device != now.device).cloned();
                for (_, wrote) in owners.iter_mut().filter(|(owner, _)| is_own(owner)) {
                    *wrote |= writes;
                }
                if let Some((other, _)) = other.filter(|_| writes) {
                    let (now, other) = (scene.name(&now), scene.name(&other));
                    let text = format!("{now} {verb} it, and {other} owns it, too");
                    found.push((Rule::Ownership, text));
                }
            }
            Owner::Devices(owners) if owners.iter().all(|(owner, _)| scene.is_gone(owner)) => {
                self.owner = Owner::Devices(vec![(now, writes)]);
            }
            Owner::Devices(_) | Owner::Outside(..) | Owner::Inside(..) => {
                let text = format!("{} {verb} it, and {}", scene.name(&now), self.present(scene));
                found.push((Rule::Ownership, text));
                self.owner = Owner::Devices(vec![(now, writes)]);
            }
        }
    }

    /// The owner, in words.
    fn present(&self, scene: &Scene<'_>) -> String {
        match &self.owner {
            Owner::Unknown => "nothing has used it".into(),
            Owner::Devices(owners) => {
                let names: Vec<_> = owners.iter().map(|(owner, _)| scene.name(owner)).collect();
                format!("{} owns it", names.join(", "))
            }
            Owner::Outside(released, release) | Owner::Inside(released, release) => {
                format!("{} released it to {}", scene.name(released), family(release.dst))
            }
        }
    }

    fn change_layout(
        &mut self,
        (scene, now): (&Scene<'_>, Mark),
        barrier: Barrier,
        transfer: Transfer,
        whole: Rect,
        found: &mut Found,
    ) {
        if barrier.old == Layout::UNDEFINED {
            if self.has_content {
                self.missing = vec![whole];
                self.discarded = Some(now);
            }
        } else {
            let rule = if transfer == Transfer::Acquire { Rule::Acquire } else { Rule::Layout };
            self.check_layout((scene, now), barrier.old, rule, found);
        }
        if barrier.changes_layout() {
            self.check_order(scene, now, true, found);
            self.layout = Some((barrier.new, Some(now)));
        } else if self.layout.is_none_or(|(layout, _)| layout != barrier.new) {
            self.layout = Some((barrier.new, Some(now)));
        }
    }

    fn check_layout(
        &self,
        (scene, now): (&Scene<'_>, Mark),
        named: Layout,
        rule: Rule,
        found: &mut Found,
    ) {
        let Some((layout, since)) = self.layout.filter(|(layout, _)| *layout != named) else {
            return;
        };
        let last = since.map_or("nothing".into(), |mark| scene.name(&mark));
        let now = scene.name(&now);
        let text = format!("{now} names the layout {named:?}, and {last} left it in {layout:?}");
        found.push((rule, text));
    }

    /// Texels that are read, or released, exist.
    fn check_missing(&mut self, scene: &Scene<'_>, now: Mark, rect: Rect, found: &mut Found) {
        if !self.missing.iter().any(|missing| missing.overlaps(&rect)) {
            return;
        }
        let texels: u64 = self.missing.iter().map(Rect::texels).sum();
        let by = self.discarded.map_or("?".into(), |mark| scene.name(&mark));
        let before = self.written.map_or(String::new(), |mark| {
            format!("; they were last written by {}", scene.name(&mark))
        });
        found.push((
            Rule::Undefined,
            format!(
                "{by} took it out of UNDEFINED over content, and {texels} of its texels are not written before {} \
                 reads or releases it{before}",
                scene.name(&now)
            ),
        ));
        self.missing.clear();
    }

    /// A command other than a barrier.
    pub(super) fn touch(
        &mut self,
        (scene, now): (&Scene<'_>, Mark),
        usage: &Use,
        shares_families: bool,
        found: &mut Found,
    ) {
        self.check_owner((scene, now), usage.writes, shares_families, found);
        if let Some(layout) = usage.layout {
            self.check_layout((scene, now), layout, Rule::Layout, found);
            if self.layout.is_none() {
                self.layout = Some((layout, Some(now)));
            }
        }
        if usage.reads {
            self.check_missing(scene, now, usage.rect, found);
        }
        if usage.writes {
            self.has_content = true;
            subtract(&mut self.missing, &usage.rect);
        }
        self.check_order(scene, now, usage.writes, found);
    }

    /// A command that uses the same bytes as those of a buffer.
    pub(super) fn touch_bytes(
        &mut self,
        (scene, now): (&Scene<'_>, Mark),
        writes: bool,
        found: &mut Found,
    ) {
        if writes {
            self.has_content = true;
            self.missing.clear();
        }
        self.check_order(scene, now, writes, found);
    }

    /// A write waits for all earlier uses, a read for the last write.
    fn check_order(&mut self, scene: &Scene<'_>, now: Mark, writes: bool, found: &mut Found) {
        let mut unfinished = |earlier: &Mark, what: &str| {
            if scene.is_unfinished(earlier, &now) {
                let verb = if writes { "writes" } else { "reads" };
                let (now, earlier) = (scene.name(&now), scene.name(earlier));
                let text = format!("{now} {verb} it beside an unfinished {what} by {earlier}");
                found.push((Rule::Unfinished, text));
            }
        };
        if let Some(written) = &self.written {
            unfinished(written, "write");
        }
        if writes {
            for read in &self.reads {
                unfinished(read, "read");
            }
            self.reads.clear();
            self.written = Some(now);
        } else {
            self.reads.retain(|read| read.queue != now.queue);
            self.reads.push(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GENERAL: Layout = Layout::GENERAL;
    const SRC: Layout = Layout::TRANSFER_SRC_OPTIMAL;
    const EXTERNAL: u32 = vk::QUEUE_FAMILY_EXTERNAL;
    const FOREIGN: u32 = vk::QUEUE_FAMILY_FOREIGN_EXT;

    /// Judges barriers one after the other, each with the device and family of its queue. All have ended before the next.
    fn judge(part: &mut Part, gone: &[u32], all: &[(u32, u32, Barrier)]) -> Vec<Rule> {
        let names: Vec<String> = (0..4).map(|device| format!("device {device}")).collect();
        let (mut clock, gone) = (Clock::default(), gone.iter().copied().collect());
        let mut found = Found::new();
        for (number, (device, family, barrier)) in (1..).zip(all) {
            let (queue, command) = (device * 8 + family, "a barrier");
            let now =
                Mark { device: *device, family: *family, queue, number, command, foreign: true };
            let scene = Scene { clock: &clock, names: &names, gone: &gone };
            part.barrier((&scene, now), *barrier, (Rect::ALL, false), &mut found);
            clock.raise(queue, number);
        }
        found.into_iter().map(|(rule, _)| rule).collect()
    }

    fn barrier([old, new]: [Layout; 2], [src, dst]: [u32; 2]) -> Barrier {
        Barrier { old, new, src, dst }
    }

    #[test]
    fn both_sides_name_the_same_external_family() {
        let handed_on = |to, from| {
            let (release, acquire) =
                (barrier([GENERAL; 2], [0, to]), barrier([GENERAL; 2], [from, 0]));
            judge(&mut Part::new(), &[], &[(0, 0, release), (1, 0, acquire)])
        };
        assert_eq!(handed_on(EXTERNAL, EXTERNAL), []);
        assert_eq!(handed_on(FOREIGN, FOREIGN), []);
        assert_eq!(handed_on(FOREIGN, EXTERNAL), [Rule::Acquire]);
        assert_eq!(handed_on(EXTERNAL, FOREIGN), [Rule::Acquire]);
    }

    #[test]
    fn a_transfer_within_a_device_has_two_halves_that_say_the_same() {
        let first = (0, 0, barrier([Layout::UNDEFINED, GENERAL], [vk::QUEUE_FAMILY_IGNORED; 2]));
        let half = barrier([GENERAL, SRC], [0, 1]);
        let used = (0, 1, barrier([SRC, SRC], [vk::QUEUE_FAMILY_IGNORED; 2]));
        let both = [first, (0, 0, half), (0, 1, half), used];
        assert_eq!(judge(&mut Part::new(), &[], &both), []);
        let other = barrier([GENERAL, GENERAL], [0, 1]);
        let differ = [first, (0, 0, half), (0, 1, other)];
        assert_eq!(judge(&mut Part::new(), &[], &differ), [Rule::Acquire]);
        assert_eq!(judge(&mut Part::new(), &[], &[first, (0, 1, half)]), [Rule::Acquire]);
        let without = [first, (0, 1, barrier([GENERAL; 2], [vk::QUEUE_FAMILY_IGNORED; 2]))];
        assert_eq!(judge(&mut Part::new(), &[], &without), [Rule::Ownership]);
    }

    #[test]
    fn a_device_that_is_gone_owns_nothing() {
        let mut part = Part::new();
        let draws = barrier([Layout::UNDEFINED, GENERAL], [vk::QUEUE_FAMILY_IGNORED; 2]);
        let acquires = barrier([GENERAL, GENERAL], [EXTERNAL, 0]);
        assert_eq!(judge(&mut part, &[], &[(0, 0, draws)]), []);
        assert_eq!(judge(&mut part, &[0], &[(1, 0, acquires)]), []);
        let mut part = Part::new();
        assert_eq!(judge(&mut part, &[], &[(0, 0, draws), (1, 0, acquires)]), [Rule::Acquire]);
    }
}
