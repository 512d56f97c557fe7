//! Cost of looking up a mapping, and of pinning a buffer, while other threads do the same.

use std::collections::HashMap;
use std::hint::black_box;
use std::sync::{Mutex, PoisonError};

use peerbuf::{Access, Attachment, Mapping, RawView, SharedBuffer};

use crate::Outcome;
use crate::figure::Figure;
use crate::setup::Setup;
use crate::share::{create_on, fill};
use crate::threads::compare;

const BUFFERS: u16 = 10_000;
const SIZE: u64 = 4096;

/// The baseline: a table of the same facts by buffer number, which all threads share.
type Table<T> = Mutex<HashMap<u64, T>>;

/// `resolve_mapping`: `Mapping::view` of a buffer that has not moved.
pub(crate) fn mapping(setup: &Setup) -> Outcome<Vec<Figure>> {
    let shared = Shared::new(setup)?;
    let mappings = shared.mappings()?;
    let facts = shared.table(&mappings, |facts| facts)?;
    shared.check(setup, &mappings)?;
    let compared = compare(
        BUFFERS,
        |index| {
            black_box(mappings[index].view()?);
            Ok(())
        },
        |index| {
            let table = facts.lock().unwrap_or_else(PoisonError::into_inner);
            let facts = *table.get(&(index as u64)).ok_or("not in the table")?;
            drop(table);
            if facts.mapped != facts.current {
                return Err("stale".into());
            }
            black_box(facts.view);
            Ok(())
        },
    )?;
    Ok(vec![Figure::speed(
        "resolve_mapping",
        "look up a mapping, 2 threads, 10,000 buffers",
        "Mutex<HashMap>",
        Some(40.0),
        compared,
    )])
}

/// `pin_unpin`: `Attachment::pin` and the drop of the pin.
pub(crate) fn pin(setup: &Setup) -> Outcome<Vec<Figure>> {
    let shared = Shared::new(setup)?;
    let mappings = shared.mappings()?;
    let pins = shared.table(&mappings, |facts| Pinned { facts, pins: 0, reason: "" })?;
    drop(mappings);
    let compared = compare_pins(&shared, &pins)?;
    setup.engine.set_pin_quota(&setup.far, u64::MAX - 1)?;
    let limited = compare_pins(&shared, &pins)?;
    setup.engine.set_pin_quota(&setup.far, u64::MAX)?;
    Ok(vec![
        Figure::speed(
            "pin_unpin",
            "pin and unpin, 2 threads, 10,000 buffers",
            "Mutex<HashMap>, looked up twice",
            Some(12.0),
            compared,
        ),
        Figure::speed(
            "pin_unpin_quota",
            "the same, on a device with a quota",
            "the same",
            None,
            limited,
        ),
    ])
}

fn compare_pins(shared: &Shared, pins: &Table<Pinned>) -> Outcome<crate::measure::Compared> {
    compare(
        BUFFERS,
        |index| {
            drop(black_box(shared.attachments[index].pin("scanout")?));
            Ok(())
        },
        |index| {
            let change = |by: i32, reason| -> Outcome<()> {
                let mut table = pins.lock().unwrap_or_else(PoisonError::into_inner);
                let pinned = table.get_mut(&(index as u64)).ok_or("not in the table")?;
                if pinned.facts.mapped != pinned.facts.current {
                    return Err("stale".into());
                }
                pinned.pins += by;
                pinned.reason = reason;
                Ok(())
            };
            change(1, "scanout")?;
            change(-1, "")
        },
    )
}

/// The values that [`Mapping::view`] returns, and the ones that it compares.
#[derive(Clone, Copy)]
struct Facts {
    view: RawView,
    mapped: u32,
    current: u32,
}

struct Pinned {
    facts: Facts,
    pins: i32,
    reason: &'static str,
}

/// Buffers of one device, attached by the other one.
struct Shared {
    buffers: Vec<SharedBuffer>,
    attachments: Vec<Attachment>,
}

impl Shared {
    fn new(setup: &Setup) -> Outcome<Self> {
        let mut this = Self { buffers: vec![], attachments: vec![] };
        for _ in 0..BUFFERS {
            let buffer = create_on(setup, &setup.near, SIZE)?;
            this.attachments.push(buffer.attach(&setup.far)?);
            this.buffers.push(buffer);
        }
        Ok(this)
    }

    fn mappings(&self) -> Outcome<Vec<Mapping>> {
        self.attachments.iter().map(|attachment| Ok(attachment.map(Access::ReadWrite)?)).collect()
    }

    fn table<T>(&self, mappings: &[Mapping], make: impl Fn(Facts) -> T) -> Outcome<Table<T>> {
        let mut table = HashMap::new();
        for ((mapping, buffer), number) in mappings.iter().zip(&self.buffers).zip(0..) {
            let (mapped, current) = (mapping.generation(), buffer.generation());
            table.insert(number, make(Facts { view: mapping.view()?, mapped, current }));
        }
        Ok(Mutex::new(table))
    }

    /// Checks that some of the mappings show what the home device wrote.
    fn check(&self, setup: &Setup, mappings: &[Mapping]) -> Outcome<()> {
        for (buffer, seed) in self.buffers.iter().zip(0..).step_by(997) {
            fill(buffer, &setup.near, seed)?;
            let report = mappings[seed as usize].verify(seed)?;
            if !report.is_clean() {
                return Err(format!("buffer {seed}: wrong bytes: {report:?}").into());
            }
        }
        Ok(())
    }
}
