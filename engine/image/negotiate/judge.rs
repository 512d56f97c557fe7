//! How each attachment takes part in a candidate, or what it has against it.

use std::cmp::Reverse;

use super::agreement::{AgreedLayout, Participation};
use super::candidate::{Candidate, Rung};
use super::entry::{self, Entry};
use super::evidence::Trial;
use super::objection::ObjectionReason;
use super::scene::{Group, Scene};
use crate::device::DeviceId;
use crate::image::layout::{ImageLayout, LinearLayout};
use crate::image::modifier::Modifier;
use crate::image::usage::ImageUsage;

/// A candidate, and what each group of attachments does with it.
pub(super) struct Judged {
    pub(super) candidate: Candidate,
    /// `None` if there is none.
    pub(super) layout: Option<AgreedLayout>,
    pub(super) exporter: Option<DeviceId>,
    pub(super) dedicated: bool,
    /// By group; `None` if the group cannot take part.
    pub(super) parts: Vec<Option<Participation>>,
    /// By group: why it does not use the image directly.
    pub(super) objections: Vec<(usize, ObjectionReason)>,
    /// Proofs that are missing.
    pub(super) untried: Vec<Trial>,
    /// How many devices could share it, be it one alone.
    reached: usize,
}

impl Judged {
    /// Whether all attachments can take part.
    pub(super) fn is_accepted(&self) -> bool {
        self.layout.is_some() && self.parts.iter().all(Option::is_some)
    }

    /// How many attachments are staged, and how many use an image of their own. The fewer the better, in this order.
    pub(super) fn cost(&self, scene: &Scene<'_>) -> (usize, usize) {
        let count = |counts: fn(Participation) -> bool| {
            let parts = self.parts.iter().zip(&scene.groups);
            let with = parts.filter(|(part, _)| part.is_some_and(counts));
            with.map(|(_, group)| group.ids.len()).sum()
        };
        (count(Participation::is_staged), count(Participation::copies))
    }
}

/// Judges a candidate, from the device that makes it best: the exporter, or the one whose memory is used.
pub(super) fn judge(candidate: Candidate, scene: &Scene<'_>) -> Judged {
    let entries: Vec<_> =
        scene.groups.iter().map(|group| entry::of(group, candidate, scene)).collect();
    let attempts = scene.devices.iter().map(|first| attempt(candidate, scene, &entries, *first));
    // Of equal ones the first: home, then the lowest number. If none is accepted, the one that came furthest says why.
    let best = attempts.reduce(|best, next| {
        let key =
            |judged: &Judged| (!judged.is_accepted(), judged.cost(scene), Reverse(judged.reached));
        if key(&next) < key(&best) { next } else { best }
    });
    best.unwrap_or_else(|| Attempt::new(candidate, scene).judged)
}

/// Judges a candidate that begins with one device.
fn attempt(
    candidate: Candidate,
    scene: &Scene<'_>,
    entries: &[Result<Entry, ObjectionReason>],
    first: DeviceId,
) -> Judged {
    let mut attempt = Attempt::new(candidate, scene);
    if candidate.rung() != Rung::Staged {
        let others = scene.devices.iter().filter(|device| **device != first);
        for device in std::iter::once(&first).chain(others) {
            attempt.admit(*device, first, entries);
        }
        attempt.send_away_if_alone();
    } else {
        for (group, entry) in entries.iter().enumerate() {
            if let Err(reason) = entry {
                attempt.object(group, reason.clone());
            }
        }
    }
    attempt.stage_the_rest(entries);
    attempt.lay_out();
    attempt.judged
}

/// A candidate while it is judged.
struct Attempt<'a, 'b> {
    scene: &'a Scene<'b>,
    judged: Judged,
    /// Devices that share the image or the buffer, the first one first.
    inside: Vec<DeviceId>,
    /// The groups of those, each with its entry.
    entries: Vec<(usize, Entry)>,
}

impl<'a, 'b> Attempt<'a, 'b> {
    fn new(candidate: Candidate, scene: &'a Scene<'b>) -> Self {
        let judged = Judged {
            candidate,
            layout: None,
            exporter: None,
            dedicated: false,
            parts: vec![None; scene.groups.len()],
            objections: vec![],
            untried: vec![],
            reached: 0,
        };
        Self { scene, judged, inside: vec![], entries: vec![] }
    }

    fn object(&mut self, group: usize, reason: ObjectionReason) {
        self.judged.objections.push((group, reason));
    }

    fn groups_of(&self, device: DeviceId) -> impl Iterator<Item = usize> + use<'a, 'b> {
        let groups = self.scene.groups.iter().enumerate();
        groups.filter(move |(_, group)| group.device == device).map(|(index, _)| index)
    }

    /// Lets a device's attachments share the image, if all devices inside can share it with them.
    fn admit(
        &mut self,
        device: DeviceId,
        first: DeviceId,
        entries: &[Result<Entry, ObjectionReason>],
    ) {
        let mut joining = vec![];
        for group in self.groups_of(device) {
            let entry = entries.get(group).cloned();
            let entry = entry.unwrap_or(Err(ObjectionReason::NotOffered));
            match entry.and_then(|entry| self.compatible(&entry, device, first).map(|()| entry)) {
                Ok(entry) => joining.push((group, entry)),
                Err(reason) => self.object(group, reason),
            }
        }
        if joining.is_empty() {
            return;
        }
        match self.proofs(device, &joining) {
            Ok(untried) => self.judged.untried.extend(untried),
            Err(reason) => {
                for (group, _) in joining {
                    self.object(group, reason.clone());
                }
                return;
            }
        }
        for (group, entry) in &joining {
            if let Some(reason) = &entry.copies_because {
                self.object(*group, reason.clone());
            }
            if let Some(part) = self.judged.parts.get_mut(*group) {
                *part = Some(entry.part);
            }
        }
        self.inside.push(device);
        self.entries.extend(joining);
    }

    /// Whether a device has to export the image.
    fn needs_exporter(&self) -> bool {
        match self.judged.candidate.rung() {
            Rung::SharedTiled => true,
            Rung::SharedLinear => !self.scene.system_dma_bufs,
            _ => false,
        }
    }

    /// Whether a device can share the image with those inside, as far as offers say.
    fn compatible(
        &self,
        entry: &Entry,
        device: DeviceId,
        first: DeviceId,
    ) -> Result<(), ObjectionReason> {
        let rung = self.judged.candidate.rung();
        let needs_exporter = self.needs_exporter();
        if needs_exporter && device == first {
            // A single device exports nothing.
            if !entry.exportable && self.scene.devices.len() > 1 {
                return Err(ObjectionReason::NoExporter);
            }
        } else if needs_exporter && self.inside.is_empty() {
            return Err(ObjectionReason::NoExporter);
        } else if rung.is_shared() && !entry.importable {
            return Err(ObjectionReason::NotImportable);
        }
        if matches!(rung, Rung::LinearTiling | Rung::SharedBuffer) {
            let apart = |with: &&DeviceId| !self.scene.evidence.has_common_memory(device, **with);
            if let Some(with) = self.inside.iter().find(apart) {
                return Err(ObjectionReason::NoCommonMemory { with: *with });
            }
        }
        for (_, agreed) in &self.entries {
            entry.agrees_with(agreed)?;
        }
        Ok(())
    }

    /// The proofs that are missing for a device to join; or what a probe refused.
    fn proofs(
        &self,
        device: DeviceId,
        joining: &[(usize, Entry)],
    ) -> Result<Vec<Trial>, ObjectionReason> {
        let candidate = self.judged.candidate;
        let mut untried = vec![];
        if !candidate.rung().is_shared() {
            // Routes of buffers are proved elsewhere.
            return Ok(untried);
        }
        let groups = &self.scene.groups;
        let usage = |of: &mut dyn Iterator<Item = usize>| {
            let each = of.filter_map(|index| groups.get(index)).map(|group| group.usage);
            each.fold(ImageUsage::NONE, ImageUsage::union)
        };
        let own = usage(&mut joining.iter().map(|(group, _)| *group));
        for (position, other) in self.inside.iter().enumerate() {
            let members = self.entries.iter().map(|(group, _)| *group);
            let mut of_other = members
                .filter(|index| groups.get(*index).is_some_and(|group| group.device == *other));
            let theirs = usage(&mut of_other);
            // The first device writes what is there before an attachment writes.
            let pairs = [
                (*other, device, position == 0 || (theirs.writes() && own.reads())),
                (device, *other, own.writes() && theirs.reads()),
            ];
            for (from, to, _) in pairs.into_iter().filter(|(.., needed)| *needed) {
                let trial = Trial::new(candidate, from, to);
                match self.scene.evidence.said(trial) {
                    Some(Ok(())) => {}
                    Some(Err(why)) => {
                        return Err(ObjectionReason::Refused { from, to, why: why.clone() });
                    }
                    None => untried.push(trial),
                }
            }
        }
        Ok(untried)
    }

    /// A device shares nothing with itself alone, if there are others.
    fn send_away_if_alone(&mut self) {
        self.judged.reached = self.inside.len();
        if self.scene.devices.len() == 1 || self.inside.len() != 1 {
            return;
        }
        for (group, _) in std::mem::take(&mut self.entries) {
            self.object(group, ObjectionReason::Alone);
            if let Some(part) = self.judged.parts.get_mut(group) {
                *part = None;
            }
        }
        self.inside.clear();
    }

    /// Attachments that are not inside use staging memory, if a device inside can copy for them.
    fn stage_the_rest(&mut self, entries: &[Result<Entry, ObjectionReason>]) {
        let rung = self.judged.candidate.rung();
        if rung != Rung::Staged && self.inside.is_empty() {
            return;
        }
        let mut needed = ImageUsage::NONE;
        let mut staged = vec![];
        for (index, group) in self.scene.groups.iter().enumerate() {
            if self.entries.iter().any(|(inside, _)| *inside == index) {
                continue;
            }
            if rung == Rung::Staged && entries.get(index).is_some_and(Result::is_err) {
                continue;
            }
            match entry::own_image(group, group.usage, self.scene.shape) {
                Ok(copies) => {
                    needed = needed.union(entry::copied(copies));
                    staged.push((index, Participation::Staged(copies)));
                }
                Err(reason) => self.object(index, reason),
            }
        }
        let copies_for_them = |(_, entry): &(usize, Entry)| entry.allows.contains(needed);
        let is_carried = rung == Rung::Staged || self.entries.iter().any(copies_for_them);
        for (index, part) in staged {
            if !is_carried {
                self.object(index, ObjectionReason::NoCopier);
            } else if let Some(slot) = self.judged.parts.get_mut(index) {
                *slot = Some(part);
            }
        }
    }

    /// Sets the layout, if there is one.
    fn lay_out(&mut self) {
        let candidate = self.judged.candidate;
        self.judged.dedicated = self.entries.iter().any(|(_, entry)| entry.dedicated);
        let first = self.inside.first().copied();
        if self.needs_exporter() && self.scene.devices.len() > 1 {
            self.judged.exporter = first;
        }
        self.judged.layout = match candidate.rung() {
            Rung::Private => first.map(AgreedLayout::Private),
            Rung::SharedTiled => self.entries.first().map(|(_, entry)| AgreedLayout::Tiled {
                modifier: candidate.modifier(),
                planes: entry.planes,
            }),
            Rung::LinearTiling => first.and_then(|_| self.tiling()),
            Rung::SharedLinear | Rung::SharedBuffer => {
                first.and_then(|_| self.padded()).map(AgreedLayout::Linear)
            }
            Rung::Staged => self.padded().map(AgreedLayout::Linear),
        };
        if self.judged.layout.is_none() && (first.is_some() || candidate.rung() == Rung::Staged) {
            for group in 0..self.scene.groups.len() {
                self.object(group, ObjectionReason::Padding);
            }
        }
    }

    /// Where the drivers place the planes; peerbuf's own layout if they take any.
    fn tiling(&self) -> Option<AgreedLayout> {
        let places = self.entries.iter().find_map(|(_, entry)| entry.places.as_ref());
        let Some(places) = places else { return self.padded().map(AgreedLayout::Linear) };
        let (fourcc, shape) = (self.scene.format.fourcc(), self.scene.shape);
        let layout = ImageLayout::new(fourcc, Modifier::LINEAR, shape, places);
        layout.ok().map(AgreedLayout::Placed)
    }

    /// A linear layout that is padded as all devices inside need it.
    fn padded(&self) -> Option<LinearLayout> {
        let groups: &[Group<'_>] = &self.scene.groups;
        let inside = self.entries.iter().filter_map(|(group, _)| groups.get(*group));
        let mut padding = self.judged.candidate.padding();
        for group in inside {
            padding = padding.and(group.offer.needs)?;
        }
        LinearLayout::new(self.scene.format.fourcc(), self.scene.shape, padding).ok()
    }
}
