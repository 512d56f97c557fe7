//! `ttm_resource_test.c`, `ttm_device_test.c`, `ttm_tt_test.c` and `ttm_pool_test.c` of
//! `drivers/gpu/drm/ttm/tests`.
//!
//! | | upstream | here |
//! |---|---|---|
//! | TD-1 | `ttm_device_init_basic` | [`a_new_domain_is_empty`]; `Engine::new`: `tests/process/devices.rs` at the root |
//! | TD-2 | `ttm_device_init_multiple` | [`domains_of_different_engines_are_independent`]; engines share nothing (`tests/process/teardown_order.rs`) |
//! | TD-3 | `ttm_device_fini_basic` | `tests/process/teardown_order.rs`, `tests/sharing/memory.rs`: all counters return to their initial values |
//! | TD-4 | `ttm_device_init_no_vma_man` | does not apply: there is no address space for mapping offsets |
//! | TD-5 | `ttm_device_init_pools` | `engine/memory/pool.rs`: a pool per provider, made at its first use |
//! | TR-1 | `ttm_resource_init_basic` | [`a_new_buffer_is_charged_and_last_in_order`] |
//! | TR-2 | `ttm_resource_init_pinned` | [`a_pinned_buffer_is_in_no_order`] |
//! | TR-3 | `ttm_resource_fini_basic` | [`a_destroyed_buffer_leaves_nothing_behind`] |
//! | TR-4 | `ttm_resource_manager_init_basic` | [`a_new_domain_is_empty`] |
//! | TR-5 | `ttm_resource_manager_usage_basic` | [`a_new_buffer_is_charged_and_last_in_order`] |
//! | TR-6 | `ttm_resource_manager_set_used_basic` | [`a_domain_with_a_cap_of_zero_takes_no_buffer_and_keeps_its_own`] |
//! | TR-7, TR-8 | `ttm_sys_man_alloc_basic`, `_free_basic` | [`a_domain_without_evictions_has_a_ledger`] |
//! | TT-1, TT-2 | `ttm_tt_init_*` | rounding is to slots: `engine/memory/size_class.rs` |
//! | TT-3, TT-4 | `ttm_tt_fini_*`, `ttm_tt_create_*` | memory is an allocation: `tests/sharing/memory.rs`, `tests/move_faults` |
//! | TT-5 | `ttm_tt_populate_*`, `ttm_tt_swapin_basic` | does not apply: memory is allocated with the buffer, and nothing is swapped |
//! | TP-1 | `ttm_pool_*` | `engine/memory/pool.rs`, `slab.rs`, and `tests/sharing/memory.rs`: only memory of the same class, provider and kind is reused, scrubbed |

use super::UNIT;
use super::world::{Buffer, Fake, Refused, Validated};
use super::{limits, places};
use crate::memory::GroupId;
use crate::memory::{Domain, DomainId};
use crate::residency::domain_state::DomainState;
use crate::residency::policy;
use crate::residency::priority::Priority;
use crate::residency::room::fit;

/// upstream: `ttm_resource_manager_init_basic`, `ttm_device_init_basic`
#[test]
fn a_new_domain_is_empty() {
    let store = DomainState::<u32>::new(Domain::new(DomainId::System, 64 * UNIT), policy::lru);
    let usage = store.ledger.usage();
    assert_eq!((usage.capacity, usage.budget), (64 * UNIT, 64 * UNIT));
    assert_eq!((usage.used, usage.peak, usage.held), (0, 0, 0));
    assert!(store.eviction_list.residents().is_empty());
    assert!(store.eviction_list.victims(u64::MAX, Priority::Highest, &|_| false).is_empty());
    assert_eq!((store.eviction_list.parked(), store.eviction_list.footprint()), (0, 0));
}

/// upstream: `ttm_device_init_multiple`
#[test]
fn domains_of_different_engines_are_independent() {
    let worlds = [(); 3].map(|()| Fake::chain(policy::lru, &[4 * UNIT, 4 * UNIT]));
    let buffer = worlds[0].create(4 * UNIT, 0);
    for world in &worlds[1..] {
        assert_eq!((world.used(0), world.order(0).len()), (0, 0));
        assert_eq!(world.create(4 * UNIT, 0), 0, "there is room");
        world.check();
    }
    assert_eq!(worlds[0].at(buffer), Some(0));
}

/// upstream: `ttm_resource_init_basic`, `ttm_resource_manager_usage_basic`
#[test]
fn a_new_buffer_is_charged_and_last_in_order() {
    for at in 0..2 {
        for &priority in Priority::ALL {
            let world = Fake::chain(policy::lru, &[64 * UNIT; 2]);
            let mut used = 0;
            for units in 1..5 {
                let buffer = world.add(Buffer::new(units * UNIT).of(priority));
                let there = world.validate(buffer, &places(&[at]), &limits());
                assert_eq!(there, Ok(Validated::Moved));
                used += units * UNIT;
                assert_eq!(world.used(at), used);
                assert_eq!(world.order(at).last(), Some(&buffer));
                world.check();
            }
        }
    }
}

/// upstream: `ttm_resource_init_basic`, for the list of each priority
#[test]
fn each_priority_has_its_own_order() {
    let world = Fake::chain(policy::lru, &[64 * UNIT; 2]);
    let highest_first = Priority::ALL.iter().copied().rev();
    for priority in highest_first.clone().chain(highest_first) {
        let buffer = world.add(Buffer::new(UNIT).of(priority));
        world.validate(buffer, &places(&[0]), &limits()).expect("room");
    }
    assert_eq!(world.order(0), [3, 7, 2, 6, 1, 5, 0, 4]);
    world.set_priority(7, Priority::Highest);
    assert_eq!(world.order(0), [3, 2, 6, 1, 5, 0, 4, 7]);
    world.touch(0);
    assert_eq!(world.order(0), [3, 2, 6, 1, 5, 4, 7, 0], "a use changes no priority");
    world.check();
}

/// upstream: `ttm_resource_init_pinned`
#[test]
fn a_pinned_buffer_is_in_no_order() {
    let world = Fake::chain(policy::lru, &[UNIT, UNIT]);
    let buffer = world.create(UNIT, 0);
    world.with(buffer, |buffer| buffer.pins = 1);
    let other = world.add(Buffer::new(UNIT));
    world.validate(other, &places(&[0]), &limits()).expect_err("pinned");
    assert_eq!((world.order(0).len(), world.site(0).eviction_list.parked()), (0, 1));
    assert_eq!(world.site(0).eviction_list.residents().len(), 1, "it is resident nevertheless");
    world.check();
    // Destroyed while it is parked, it leaves nothing behind.
    world.drop_buffer(buffer);
    assert!(world.site(0).eviction_list.residents().is_empty());
    assert_eq!(world.validate(other, &places(&[0]), &limits()), Ok(Validated::Moved));
    assert_eq!(world.order(0), [other]);
    world.check();
}

/// upstream: `ttm_resource_fini_basic`
#[test]
fn a_destroyed_buffer_leaves_nothing_behind() {
    let world = Fake::chain(policy::lru, &[8 * UNIT; 2]);
    for _ in 0..3 {
        let buffers: Vec<_> = (0..8).map(|_| world.create(UNIT, 0)).collect();
        for buffer in buffers {
            world.drop_buffer(buffer);
            assert!(!world.order(0).contains(&buffer));
            world.check();
        }
    }
    world.create(8 * UNIT, 0);
    assert_eq!((world.used(0), world.site(0).ledger.usage().peak), (8 * UNIT, 8 * UNIT));
}

/// upstream: `ttm_resource_manager_set_used_basic`
#[test]
fn a_domain_with_a_cap_of_zero_takes_no_buffer_and_keeps_its_own() {
    let world = Fake::chain(policy::lru, &[8 * UNIT; 2]);
    let buffer = world.create(UNIT, 0);
    world.with(buffer, |buffer| buffer.pins = 1);
    world.site(0).ledger.set_cap(Some(0));
    world.site(0).budget_changed();
    assert_eq!(fit(&world, super::world::site(0), GroupId::NONE, &limits()).moved, 0);
    let other = world.add(Buffer::new(UNIT));
    let refused = world.validate(other, &places(&[0]), &limits());
    assert!(matches!(refused, Err(Refused::NoRoom { .. })), "{refused:?}");
    assert_eq!((world.at(buffer), world.at(other)), (Some(0), None));
    world.check();
    world.site(0).ledger.set_cap(None);
    assert_eq!(world.validate(other, &places(&[0]), &limits()), Ok(Validated::Moved));
    world.check();
}

/// upstream: `ttm_sys_man_alloc_basic`, `ttm_sys_man_free_basic`
#[test]
fn a_domain_without_evictions_has_a_ledger() {
    let store = DomainState::<u32>::new(Domain::new(DomainId::System, 2 * UNIT), policy::lru);
    store.ledger.charge(2 * UNIT).expect("room").spend();
    assert!(store.ledger.charge(1).is_none());
    assert!(store.eviction_list.victims(UNIT, Priority::Highest, &|_| false).is_empty());
    store.ledger.credit(2 * UNIT);
    assert_eq!(store.ledger.used(), 0);
}
