//! The guarantees of the ledger, one by one.

use std::sync::Arc;

use super::*;
use crate::device::DeviceId;
use crate::memory::group_account::GroupId;

fn domain() -> Domain {
    Domain::new(DomainId::System, 100)
}

#[test]
fn a_full_domain_refuses_charges() {
    let domain = domain();
    domain.charge(60).expect("room").spend();
    assert!(domain.charge(41).is_none());
    assert!(domain.charge(u64::MAX).is_none(), "no overflow");
    domain.charge(40).expect("room").spend();
    domain.credit(100);
    let usage = domain.usage();
    assert_eq!((usage.used, usage.peak), (0, 100));
}

#[test]
fn room_that_is_not_spent_is_uncharged() {
    let domain = domain();
    let room = domain.charge(100).expect("room");
    assert!(domain.charge(1).is_none());
    drop(room);
    assert_eq!(domain.used(), 0);
}

#[test]
fn freed_bytes_go_to_the_first_claim() {
    let domain = domain();
    domain.charge(80).expect("room").spend();
    let (first, second) = (domain.claim(60), domain.claim(30));
    assert_eq!((first.short_of().all, second.short_of().all), (40, 70));
    domain.credit(40);
    assert!(domain.charge(1).is_none(), "a charge without a claim comes last");
    assert!(second.take().is_none(), "the free bytes are reserved for the first claim");
    first.take().expect("its bytes").spend();
    drop(first);
    assert_eq!(second.short_of().all, 30);
    domain.credit(30);
    second.take().expect("its bytes").spend();
    drop(second);
    assert_eq!(domain.used(), 100);
}

#[test]
fn a_dropped_claim_reserves_nothing() {
    let domain = domain();
    drop(domain.claim(100));
    assert!(domain.charge(100).is_some());
    assert!(domain.could_hold(100) && !domain.could_hold(101));
}

#[test]
fn taken_bytes_are_no_longer_claimed() {
    let domain = domain();
    let (first, second) = (domain.claim(60), domain.claim(60));
    first.take().expect("its bytes").spend();
    assert_eq!(second.short_of().all, 20, "counted once, while the claim still exists");
    assert!(first.take().is_none(), "a claim can be taken once");
    let third = domain.claim(1);
    drop(first);
    assert_eq!(
        (second.short_of().all, third.short_of().all),
        (20, 21),
        "the other claims are still queued"
    );
    assert!(domain.charge(1).is_none());
}

#[test]
fn huge_claims_do_not_overflow() {
    let domain = domain();
    let claims = [domain.claim(u64::MAX), domain.claim(u64::MAX)];
    assert!(domain.charge(1).is_none() && claims[1].take().is_none());
    assert_eq!(claims[1].short_of().all, u64::MAX - 100);
    drop(claims);
    assert!(domain.charge(1).is_some());
}

#[test]
fn allocated_free_bytes_do_not_shrink_the_budget() {
    let domain = domain();
    domain.hold(80).expect("the heap has as much");
    for used in [60, 30, 0] {
        let room = domain.charge(used).expect("room");
        // The process has allocated 90 bytes, 10 of them outside this engine.
        domain.reported(95, 90);
        assert_eq!(domain.budget(), 85, "with {used} in use");
        drop(room);
    }
}

#[test]
fn the_least_limit_applies_and_may_change() {
    let domain = domain();
    domain.charge(50).expect("room").spend();
    domain.set_cap(Some(40));
    assert_eq!((domain.budget(), domain.excess()), (40, 10));
    domain.set_cap(None);
    // The process has allocated 90 bytes, 40 of them outside this engine.
    domain.reported(95, 90);
    assert_eq!(domain.budget(), 55);
    domain.reported(95, 50);
    assert_eq!(domain.budget(), 95);
    domain.model(60);
    assert_eq!(domain.budget(), 60);
}

#[test]
fn allocations_are_limited_by_the_real_heap() {
    let domain = domain();
    domain.model(10);
    assert_eq!(domain.hold(100), Ok(()), "a modelled size does not limit slabs");
    assert_eq!(domain.hold(1), Err(100));
    domain.release(100);
    assert_eq!(domain.usage().held, 0);
}

const A: GroupId = GroupId(1);
const B: GroupId = GroupId(2);

#[test]
fn a_group_and_its_domain_are_charged_together_or_not_at_all() {
    let domain = domain();
    domain.set_group_cap(A, Some(30));
    domain.charge((30, A)).expect("room").spend();
    assert!(domain.charge((1, A)).is_none(), "the group is at its cap");
    domain.charge((20, B)).expect("another group has room").spend();
    domain.charge(50).expect("a charge without a group has room").spend();
    domain.set_group_cap(A, None);
    assert!(domain.charge((1, A)).is_none(), "the domain is full");
    assert_eq!(domain.group(A).used, 30, "nothing was charged");
    domain.credit((30, A));
    domain.credit((20, B));
    let (a, b) = (domain.group(A), domain.group(B));
    assert_eq!((a.used, a.peak, a.cap), (0, 30, None));
    assert_eq!((b.used, b.peak, domain.used()), (0, 20, 50));
    assert_eq!(domain.group(GroupId(9)).used, 0, "an unknown group");
}

#[test]
fn a_groups_excess_is_separate_from_the_domains() {
    let domain = domain();
    domain.charge((30, A)).expect("room").spend();
    domain.set_group_cap(A, Some(10));
    assert_eq!((domain.group_excess(A), domain.group_excess(B), domain.excess()), (20, 0, 0));
    assert!(domain.is_beyond_cap((1, A)) && !domain.is_beyond_cap((100, B)));
    assert!(domain.could_hold((10, A)) && !domain.could_hold((11, A)));
    assert!(domain.has_room((70, B)) && !domain.has_room((0, A)));
    assert!(!domain.close_group_account(A), "it is in use");
    domain.credit((30, A));
    assert!(domain.close_group_account(A));
    assert_eq!((domain.group(A).cap, domain.group(A).peak), (None, 0));
}

/// What a group at its cap frees is reserved for it, and its claim does not block other charges.
#[test]
fn a_group_that_makes_room_for_itself_blocks_no_others_and_loses_nothing() {
    let domain = domain();
    domain.set_group_cap(A, Some(40));
    domain.charge((40, A)).expect("room").spend();
    domain.charge(50).expect("room").spend();
    let first = domain.claim((20, A));
    assert_eq!(first.short_of(), Short { all: 10, own: 20, beneath: 0 });
    // The ten free bytes are no use to the group, so others may have them.
    domain.charge((10, B)).expect("room").spend();
    assert!(domain.charge(1).is_none());
    // What the group's own buffers free is reserved for the group.
    domain.credit((10, A));
    assert_eq!(first.short_of(), Short { all: 10, own: 10, beneath: 0 });
    assert!(domain.charge(1).is_none() && domain.charge((1, B)).is_none());
    let second = domain.claim((5, A));
    assert_eq!(second.short_of(), Short { all: 5, own: 15, beneath: 0 }, "behind the first claim");
    domain.credit((10, A));
    assert!(second.take().is_none() && domain.charge(1).is_none());
    first.take().expect("its bytes").spend();
    drop((first, second));
    assert_eq!((domain.group(A).used, domain.used()), (40, 100));
}

#[test]
fn a_group_beyond_its_cap_takes_nothing_from_other_claims() {
    let domain = domain();
    domain.charge((60, A)).expect("room").spend();
    domain.charge(40).expect("room").spend();
    domain.set_group_cap(A, Some(50));
    let (own, other) = (domain.claim((10, A)), domain.claim(10));
    assert_eq!(own.short_of(), Short { all: 10, own: 20, beneath: 0 });
    assert_eq!(other.short_of(), Short { all: 10, own: 0, beneath: 0 });
    domain.credit((20, A));
    // Ten bytes for each claim.
    other.take().expect("there is room").spend();
    assert!(domain.charge(1).is_none());
    own.take().expect("there is room").spend();
    drop((own, other));
    assert_eq!((domain.used(), domain.group(A).used), (100, 50));
}

#[test]
fn concurrent_charges_stay_within_the_cap() {
    let domain = Domain::new(DomainId::System, 1000);
    domain.set_group_cap(A, Some(7));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..2000 {
                    let (mine, other) = (domain.charge((3, A)), domain.charge((3, B)));
                    assert!(other.is_some(), "this group has no cap");
                    drop((mine, other));
                }
            });
        }
    });
    let (a, b) = (domain.group(A), domain.group(B));
    assert!((3..=7).contains(&a.peak) && b.peak <= 12, "{a:?}, {b:?}");
    assert_eq!((a.used, b.used, domain.used()), (0, 0, 0));
}

#[test]
fn the_memory_of_an_integrated_device_is_a_part_of_system_memory() {
    let system = Arc::new(Domain::new(DomainId::System, 100));
    let part = Domain::new(DomainId::Vram(DeviceId(0)), 80).part_of(&system);
    system.charge(40).expect("there is room").spend();
    assert_eq!((part.budget(), part.has_room(60), part.has_room(61)), (60, true, false));
    let room = part.charge(50).expect("there is room in both");
    assert_eq!((system.used(), part.used(), part.budget()), (90, 50, 60));
    assert!(system.charge(20).is_none() && part.charge(11).is_none());
    drop(room);
    assert_eq!((system.used(), part.used()), (40, 0));
    system.credit(40);
    // What is allocated is counted once for each.
    assert_eq!((part.hold(70), system.hold(40)), (Ok(()), Err(70)));
    assert_eq!((part.hold(11), system.hold(30)), (Err(70), Ok(())));
    part.release(70);
    system.release(30);
    assert_eq!((system.usage().held, part.usage().held), (0, 0));
}

/// A charge of the part and its claim see what is promised in system memory, and so do their shortages.
#[test]
fn a_part_is_short_of_what_system_memory_has_promised() {
    let system = Arc::new(Domain::new(DomainId::System, 100));
    let part = Domain::new(DomainId::Vram(DeviceId(0)), 80).part_of(&system);
    let promised = system.claim(70);
    let claim = part.claim(50);
    assert!(claim.take().is_none(), "30 bytes are not promised");
    assert_eq!(claim.short_of(), Short { all: 0, own: 0, beneath: 20 });
    assert!(part.move_gains_nothing(50) && !part.has_room(50));
    drop(promised);
    assert_eq!(claim.short_of(), Short { all: 0, own: 0, beneath: 0 });
    drop(claim.take().expect("nothing is promised"));
}

/// A move to system memory frees what the part's own limits or a group's cap are short of.
#[test]
fn a_move_out_of_a_part_gains_what_its_own_limits_are_short_of() {
    let system = Arc::new(Domain::new(DomainId::System, 100));
    let part = Domain::new(DomainId::Vram(DeviceId(0)), 80).part_of(&system);
    part.charge((40, A)).expect("there is room").spend();
    assert!(!part.move_gains_nothing(60), "nothing is short, whatever the driver says");
    part.set_cap(Some(50));
    assert!(!part.move_gains_nothing(20), "the cap is short");
    part.set_cap(None);
    system.charge(40).expect("there is room").spend();
    assert!(part.move_gains_nothing(30), "system memory is short");
    part.set_group_cap(A, Some(45));
    assert!(!part.move_gains_nothing((30, A)) && part.move_gains_nothing(30));
    // What is in use beneath may be freed.
    assert!(part.could_hold(80) && !part.could_hold(81));
    system.set_cap(Some(70));
    assert!(part.could_hold(70) && !part.could_hold(71));
    part.credit((40, A));
    system.credit(40);
}

#[test]
fn what_is_allocated_counts_against_the_drivers_budget() {
    let domain = domain();
    domain.hold(40).expect("within the heap");
    domain.reported(70, 60);
    assert_eq!(domain.driver_budget(), 50, "20 bytes are used by others");
    let allowed = |bytes| domain.check_driver_budget(bytes);
    assert_eq!((allowed(11), allowed(10), allowed(u64::MAX)), (Err(40), Ok(()), Err(40)));
    domain.release(40);
}
