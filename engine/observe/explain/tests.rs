//! The texts of decisions, and the history.

use super::*;
use crate::device::DeviceId;
use crate::memory::DomainId;

const GPU: DeviceId = DeviceId(0);
const OTHER: DeviceId = DeviceId(1);
const VRAM: DomainId = DomainId::Vram(GPU);
const SYSTEM: DomainId = DomainId::System;

fn decision(what: What, from: DomainId, to: DomainId, reason: Reason) -> Decision {
    Decision { what, when: 7, from, to, bytes: 8 << 20, reason }
}

fn wanted(by: Option<u64>) -> Reason {
    Reason::Wanted { bytes: 64 << 20, by, pick: Pick::LeastRecent, of: 12 }
}

/// One reason of each kind, with numbers that are kept exactly.
fn reasons() -> [Reason; 23] {
    [
        Reason::FirstChoice,
        Reason::Asked,
        wanted(Some(7)),
        wanted(None),
        Reason::NoRoom {
            budget: 256 << 20,
            used: 250 << 20,
            pinned: 248 << 20,
            by: Some(GPU),
            pins: 2,
        },
        Reason::NoRoom { budget: u64::MAX, used: 3, pinned: 0, by: None, pins: 0 },
        Reason::DriverOutOfMemory { device: OTHER },
        Reason::Pinned { by: Some(OTHER), pins: 3 },
        Reason::Mapped { by: OTHER },
        Reason::HostAccess,
        Reason::Busy { by: None },
        Reason::Throttled { moved: 1 << 20, allowed: 16 << 20 },
        Reason::Hysteresis { uses: 2, needed: 8 },
        Reason::Used { by: GPU },
        Reason::UsedMore { by: OTHER, times: 37, others: 2 },
        Reason::Reach { by: OTHER },
        Reason::Exported,
        Reason::All,
        Reason::DeviceLost { device: GPU },
        Reason::DriverFailed { device: OTHER },
        Reason::NotShareable,
        Reason::UsedLess,
        Reason::Rearranged,
    ]
}

#[test]
fn each_decision_is_a_sentence() {
    let no_room = reasons()[4];
    let texts = [
        (
            decision(What::Evicted, VRAM, SYSTEM, wanted(Some(7))),
            "evicted from VRAM of device 0 to system memory: 64 MiB were needed by buffer 7, least recently \
             used of 12",
        ),
        (
            decision(What::Stayed, SYSTEM, SYSTEM, Reason::Pinned { by: Some(OTHER), pins: 1 }),
            "stays in system memory: pinned by device 1",
        ),
        (
            decision(What::Stayed, SYSTEM, VRAM, Reason::Pinned { by: None, pins: 9999 }),
            "stays in system memory instead of VRAM of device 0: pinned by an export, 4095 or more times",
        ),
        (
            decision(What::FellBack, VRAM, SYSTEM, no_room),
            "fell back to system memory: VRAM of device 0 has 256 MiB budget, 250 MiB in use, 248 MiB pinned \
             by device 0 (2 pins)",
        ),
        (
            decision(What::Stayed, SYSTEM, VRAM, reasons()[5]),
            "stays in system memory instead of VRAM of device 0: VRAM of device 0 has 3 bytes in use",
        ),
        (
            decision(What::Purged, VRAM, VRAM, wanted(None)),
            "purged from VRAM of device 0: 64 MiB were needed, least recently used of 12",
        ),
        (
            decision(What::Restored, SYSTEM, VRAM, Reason::Used { by: GPU }),
            "restored to VRAM of device 0 from system memory: device 0 uses it",
        ),
        (
            decision(What::AutoMigrated, VRAM, DomainId::Vram(OTHER), reasons()[14]),
            "auto-migrated to VRAM of device 1 from VRAM of device 0: device 1 has used it 37 times, all others 2 \
             times",
        ),
        (
            decision(
                What::Stayed,
                SYSTEM,
                VRAM,
                Reason::Throttled { moved: 15 << 20, allowed: 16 << 20 },
            ),
            "stays in system memory instead of VRAM of device 0: 15 MiB of at most 16 MiB have moved at once",
        ),
        (
            decision(What::Lost, VRAM, VRAM, Reason::DeviceLost { device: GPU }),
            "lost with VRAM of device 0: device 0 is lost",
        ),
        (
            decision(What::Promoted, VRAM, SYSTEM, Reason::DeviceLost { device: GPU }),
            "promoted from its clean copy in system memory; it was in VRAM of device 0: device 0 is lost",
        ),
        (
            decision(What::FellBack, VRAM, SYSTEM, Reason::NotShareable),
            "fell back to system memory: memory there cannot be shared with all its users",
        ),
        (
            decision(What::Placed, VRAM, VRAM, Reason::FirstChoice),
            "placed in VRAM of device 0: the first choice",
        ),
        (
            decision(What::Migrated, VRAM, SYSTEM, Reason::Reach { by: OTHER }),
            "moved from VRAM of device 0 to system memory: device 1 could not reach it",
        ),
    ];
    for (decision, text) in texts {
        assert_eq!(decision.to_string(), text);
    }
}

#[test]
fn names_are_supplied_by_the_caller() {
    let evicted = decision(What::Evicted, VRAM, SYSTEM, wanted(Some(7)));
    let text = evicted.describe(|number| (number == 7).then(|| "texture 7".into())).to_string();
    assert!(
        text.ends_with(": 64 MiB were needed by \"texture 7\", least recently used of 12"),
        "{text}"
    );
}

#[test]
fn every_decision_is_read_back_as_recorded() {
    let domains = [VRAM, SYSTEM, DomainId::Vram(DeviceId(1022))];
    let whats = [
        What::Evicted,
        What::Restored,
        What::Migrated,
        What::AutoMigrated,
        What::FellBack,
        What::Stayed,
        What::Purged,
        What::Lost,
        What::Promoted,
        What::Placed,
    ];
    for reason in reasons() {
        for what in whats {
            for (from, to) in domains.into_iter().flat_map(|from| domains.map(|to| (from, to))) {
                let made = decision(what, from, to, reason);
                let mut history = History::default();
                history.record(&made);
                let ordinary = what == What::Placed && reason == Reason::FirstChoice;
                let expected: &[Decision] = if ordinary { &[] } else { &[made] };
                assert!(history.decisions(made.bytes).eq(expected.iter().copied()), "{made:?}");
            }
        }
    }
}

#[test]
fn every_pick_is_read_back() {
    let picks = [
        Pick::Rule,
        Pick::LeastRecent,
        Pick::MostRecent,
        Pick::FurthestUse,
        Pick::NextInLine,
        Pick::LowestPriority,
        Pick::Cheapest,
    ];
    for pick in picks {
        let reason = Reason::Wanted { bytes: 1, by: None, pick, of: 1 };
        let mut history = History::default();
        history.record(&decision(What::Purged, VRAM, VRAM, reason));
        assert_eq!(
            history.decisions(0).map(|decision| decision.reason).collect::<Vec<_>>(),
            [reason]
        );
    }
}

#[test]
fn the_last_four_are_kept_latest_first() {
    let mut history = History::default();
    for when in 0..10 {
        let (what, from, to) = if when % 2 == 0 {
            (What::Evicted, VRAM, SYSTEM)
        } else {
            (What::Restored, SYSTEM, VRAM)
        };
        history.record(&Decision { when, ..decision(what, from, to, Reason::Asked) });
    }
    let whens: Vec<_> = history.decisions(1).map(|decision| decision.when).collect();
    assert_eq!(whens, [9, 8, 7, 6]);
}

#[test]
fn staying_again_for_the_same_reason_replaces_the_previous_decision() {
    let mut history = History::default();
    let stays = |when, by, pins| Decision {
        when,
        ..decision(What::Stayed, SYSTEM, VRAM, Reason::Pinned { by, pins })
    };
    history.record(&decision(What::Evicted, VRAM, SYSTEM, Reason::Asked));
    (10..1000).for_each(|when| history.record(&stays(when, Some(OTHER), 1)));
    history.record(&stays(1000, None, 2));
    let decisions: Vec<_> = history.decisions(8 << 20).collect();
    let evicted = decision(What::Evicted, VRAM, SYSTEM, Reason::Asked);
    assert_eq!(decisions, [stays(1000, None, 2), evicted]);
    // Another reason is another decision.
    history.record(&decision(What::Stayed, SYSTEM, VRAM, Reason::HostAccess));
    assert_eq!(history.decisions(1).count(), 3);
}

#[test]
fn only_a_buffer_with_decisions_pays_for_them() {
    assert_eq!(size_of::<History>(), 8);
    let mut history = History::default();
    let placed = decision(What::Placed, VRAM, VRAM, Reason::FirstChoice);
    history.record(&placed);
    assert_eq!(history.footprint(), 0);
    history.record(&decision(What::FellBack, VRAM, SYSTEM, Reason::Asked));
    assert_eq!(history.footprint(), 64, "four decisions of sixteen bytes");
}
