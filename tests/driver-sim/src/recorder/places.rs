//! The images of all devices, each known by the bytes that it lies on.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use ash::vk;

use super::area::Rect;
use super::bytes::{Origin, StoreId, Stores};
use super::clock::Clock;
use super::part::{Barrier, Found, Mark, Part, Rule, Scene, Use};

/// The number of an image in memory, which may be a `VkImage` of several devices.
pub(super) type PlaceId = u64;

/// A `VkImage` that is bound.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) place: PlaceId,
    pub(super) extent: [u32; 2],
    pub(super) levels: u32,
    pub(super) layers: u32,
    pub(super) format: vk::Format,
    /// Its planes have sizes of their own, so which texels were written is not counted.
    pub(super) has_planes: bool,
    /// `VK_SHARING_MODE_CONCURRENT`.
    pub(super) shares_families: bool,
}

/// Levels and layers of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Parts {
    pub(super) levels: Range<u32>,
    pub(super) layers: Range<u32>,
}

impl Parts {
    /// Those of a range, in which the rest may be named as such.
    pub(super) fn of(range: &vk::ImageSubresourceRange, seen: &Seen) -> Self {
        let end = |first: u32, count: u32, all: u32| match count {
            vk::REMAINING_MIP_LEVELS => all,
            count => first.saturating_add(count).min(all),
        };
        Self {
            levels: range.base_mip_level..end(range.base_mip_level, range.level_count, seen.levels),
            layers: range.base_array_layer
                ..end(range.base_array_layer, range.layer_count, seen.layers),
        }
    }

    /// Those of a region of a copy.
    pub(super) fn of_layers(layers: &vk::ImageSubresourceLayers, seen: &Seen) -> Self {
        Self::of(
            &vk::ImageSubresourceRange {
                aspect_mask: layers.aspect_mask,
                base_mip_level: layers.mip_level,
                level_count: 1,
                base_array_layer: layers.base_array_layer,
                layer_count: layers.layer_count,
            },
            seen,
        )
    }
}

/// What a command does to images, in the order of a command buffer.
#[derive(Clone, Debug)]
pub(super) enum Op {
    Barrier {
        seen: Arc<Seen>,
        parts: Parts,
        barrier: Barrier,
        command: &'static str,
    },
    Use {
        seen: Arc<Seen>,
        parts: Parts,
        usage: Use,
        command: &'static str,
    },
    /// A use of bytes as those of a buffer.
    Bytes {
        store: StoreId,
        range: Range<u64>,
        writes: bool,
        command: &'static str,
    },
}

#[derive(Debug)]
struct Place {
    store: StoreId,
    range: Range<u64>,
    levels: u32,
    layers: u32,
    /// How many `VkImage`s lie there.
    images: u32,
    parts: Vec<Part>,
}

/// What was found, with the image.
#[derive(Debug)]
pub(super) struct Finding {
    pub(super) device: u32,
    pub(super) rule: Rule,
    pub(super) text: String,
}

/// All images.
#[derive(Debug, Default)]
pub(super) struct Places {
    all: HashMap<PlaceId, Place>,
    by_store: HashMap<StoreId, Vec<PlaceId>>,
    last: PlaceId,
}

/// Where and when commands run.
#[derive(Debug)]
pub(super) struct Running<'a> {
    /// The mark of a command, but for its name.
    pub(super) mark: Mark,
    pub(super) clock: &'a Clock,
    pub(super) names: &'a [String],
    pub(super) gone: &'a HashSet<u32>,
}

impl Places {
    /// An image is bound to bytes: that of another device if one lies there, or a new one.
    pub(super) fn bind(
        &mut self,
        origin: Origin,
        bytes: u64,
        (levels, layers): (u32, u32),
    ) -> PlaceId {
        let here = self.by_store.entry(origin.store).or_default();
        for id in here.iter() {
            let Some(known) = self.all.get_mut(id) else { continue };
            if (known.range.start, known.levels, known.layers) == (origin.at, levels, layers) {
                known.images += 1;
                known.range.end = known.range.end.max(origin.at.saturating_add(bytes));
                return *id;
            }
        }
        self.last += 1;
        here.push(self.last);
        self.all.insert(
            self.last,
            Place {
                store: origin.store,
                range: origin.at..origin.at.saturating_add(bytes),
                levels,
                layers,
                images: 1,
                parts: (0..levels * layers).map(|_| Part::new()).collect(),
            },
        );
        self.last
    }

    /// A `VkImage` is no more. What is known of bytes that outlive it stays, if its last owner has released them.
    pub(super) fn unbind(&mut self, id: PlaceId, stores: &Stores) {
        let Some(place) = self.all.get_mut(&id) else { return };
        place.images = place.images.saturating_sub(1);
        if place.images > 0 {
            return;
        }
        if stores.outlives_its_objects(place.store) {
            place.parts.iter_mut().for_each(Part::left);
            return;
        }
        if let Some(place) = self.all.remove(&id)
            && let Some(here) = self.by_store.get_mut(&place.store)
        {
            here.retain(|known| *known != id);
        }
    }

    /// The bytes are no more.
    pub(super) fn forget(&mut self, store: StoreId) {
        for id in self.by_store.remove(&store).unwrap_or_default() {
            self.all.remove(&id);
        }
    }

    /// Judges a command, and keeps what it does.
    pub(super) fn run(&mut self, op: &Op, running: &Running<'_>, findings: &mut Vec<Finding>) {
        let Running { clock, names, gone, .. } = *running;
        let scene = Scene { clock, names, gone };
        let mut found = Found::new();
        match op {
            Op::Barrier { seen, parts, barrier, command } => {
                let now = Mark { command, ..running.mark };
                self.each(seen, parts, &mut found, |part, level, found| {
                    let whole = Rect::of_level(seen.extent, level);
                    part.barrier((&scene, now), *barrier, (whole, seen.shares_families), found);
                });
                report(seen, running, found, findings);
            }
            Op::Use { seen, parts, usage, command } => {
                let now = Mark { command, ..running.mark };
                let mut usage = *usage;
                if seen.has_planes {
                    usage.rect = Rect::ALL;
                }
                self.each(seen, parts, &mut found, |part, _, found| {
                    part.touch((&scene, now), &usage, seen.shares_families, found);
                });
                report(seen, running, found, findings);
            }
            Op::Bytes { store, range, writes, command } => {
                let now = Mark { command, ..running.mark };
                for id in self.by_store.get(store).into_iter().flatten() {
                    let Some(place) = self.all.get_mut(id) else { continue };
                    if place.range.start >= range.end || range.start >= place.range.end {
                        continue;
                    }
                    for part in &mut place.parts {
                        part.touch_bytes((&scene, now), *writes, &mut found);
                    }
                    for (rule, text) in found.drain(..).take(1) {
                        let text = format!("the bytes of an image ({:?}): {text}", place.range);
                        findings.push(Finding { device: running.mark.device, rule, text });
                    }
                }
            }
        }
    }

    fn each(
        &mut self,
        seen: &Seen,
        parts: &Parts,
        found: &mut Found,
        mut judge: impl FnMut(&mut Part, u32, &mut Found),
    ) {
        let Some(place) = self.all.get_mut(&seen.place) else { return };
        for level in parts.levels.clone() {
            for layer in parts.layers.clone() {
                let before = found.len();
                if let Some(part) = place.parts.get_mut((layer * place.levels + level) as usize) {
                    judge(part, level, found);
                }
                for (_, text) in &mut found[before..] {
                    *text = format!("level {level} of layer {layer}: {text}");
                }
            }
        }
    }
}

/// Reports a command once, however many parts of the image it is about.
fn report(seen: &Seen, running: &Running<'_>, found: Found, findings: &mut Vec<Finding>) {
    let mut said: Vec<Rule> = Vec::new();
    for (rule, text) in found {
        if !said.contains(&rule) {
            said.push(rule);
            let [width, height] = seen.extent;
            let text =
                format!("image {} of {width} x {height} {:?}, {text}", seen.place, seen.format);
            findings.push(Finding { device: running.mark.device, rule, text });
        }
    }
}
