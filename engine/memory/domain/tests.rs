//! The ledger's promises, one by one.

use super::*;

fn domain() -> Domain {
    Domain::new(DomainId::System, 100)
}

#[test]
fn a_full_domain_takes_nothing() {
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
fn room_that_nobody_spends_is_given_back() {
    let domain = domain();
    let room = domain.charge(100).expect("room");
    assert!(domain.charge(1).is_none());
    drop(room);
    assert_eq!(domain.used(), 0);
}

#[test]
fn what_becomes_free_is_for_the_first_who_claimed_it() {
    let domain = domain();
    domain.charge(80).expect("room").spend();
    let (first, second) = (domain.claim(60), domain.claim(30));
    assert_eq!((first.short_of().all, second.short_of().all), (40, 70));
    domain.credit(40);
    assert!(domain.charge(1).is_none(), "who has no claim comes last");
    assert!(second.take().is_none(), "what is free is the first one's");
    first.take().expect("its bytes").spend();
    drop(first);
    assert_eq!(second.short_of().all, 30);
    domain.credit(30);
    second.take().expect("its bytes").spend();
    drop(second);
    assert_eq!(domain.used(), 100);
}

#[test]
fn a_claim_that_is_given_up_holds_nobody_up() {
    let domain = domain();
    drop(domain.claim(100));
    assert!(domain.charge(100).is_some());
    assert!(domain.could_hold(100) && !domain.could_hold(101));
}

#[test]
fn what_was_taken_is_claimed_no_longer() {
    let domain = domain();
    let (first, second) = (domain.claim(60), domain.claim(60));
    first.take().expect("its bytes").spend();
    assert_eq!(second.short_of().all, 20, "counted once, while its claim is still there");
    assert!(first.take().is_none(), "once");
    let third = domain.claim(1);
    drop(first);
    assert_eq!(
        (second.short_of().all, third.short_of().all),
        (20, 21),
        "the others are still in line"
    );
    assert!(domain.charge(1).is_none());
}

#[test]
fn claims_beyond_all_measure_do_not_overflow() {
    let domain = domain();
    let claims = [domain.claim(u64::MAX), domain.claim(u64::MAX)];
    assert!(domain.charge(1).is_none() && claims[1].take().is_none());
    assert_eq!(claims[1].short_of().all, u64::MAX - 100);
    drop(claims);
    assert!(domain.charge(1).is_some());
}

#[test]
fn what_is_allocated_and_free_is_ours() {
    let domain = domain();
    domain.hold(80).expect("there is as much");
    for used in [60, 30, 0] {
        let room = domain.charge(used).expect("room");
        // In the process there are 90 bytes; 10 of them are others'.
        domain.reported(95, 90);
        assert_eq!(domain.budget(), 85, "with {used} in use");
        drop(room);
    }
}

#[test]
fn the_least_limit_holds_and_is_alive() {
    let domain = domain();
    domain.charge(50).expect("room").spend();
    domain.set_cap(Some(40));
    assert_eq!((domain.budget(), domain.excess()), (40, 10));
    domain.set_cap(None);
    // Of 90 bytes in use in the process 50 are ours.
    domain.reported(95, 90);
    assert_eq!(domain.budget(), 55);
    domain.reported(95, 50);
    assert_eq!(domain.budget(), 95);
    domain.model(60);
    assert_eq!(domain.budget(), 60);
}

#[test]
fn what_is_allocated_is_limited_by_what_there_is() {
    let domain = domain();
    domain.model(10);
    assert_eq!(domain.hold(100), Ok(()), "a model says nothing about slabs");
    assert_eq!(domain.hold(1), Err(100));
    domain.let_go(100);
    assert_eq!(domain.usage().held, 0);
}

const A: GroupId = GroupId(1);
const B: GroupId = GroupId(2);

#[test]
fn a_group_is_charged_with_its_domain_or_not_at_all() {
    let domain = domain();
    domain.set_group_cap(A, Some(30));
    domain.charge((30, A)).expect("room").spend();
    assert!(domain.charge((1, A)).is_none(), "that is all that it may have");
    domain.charge((20, B)).expect("others may").spend();
    domain.charge(50).expect("and those without a group").spend();
    domain.set_group_cap(A, None);
    assert!(domain.charge((1, A)).is_none(), "the domain is full");
    assert_eq!(domain.group(A).used, 30, "and nothing was charged");
    domain.credit((30, A));
    domain.credit((20, B));
    let (a, b) = (domain.group(A), domain.group(B));
    assert_eq!((a.used, a.peak, a.cap), (0, 30, None));
    assert_eq!((b.used, b.peak, domain.used()), (0, 20, 50));
    assert_eq!(domain.group(GroupId(9)).used, 0, "of a group that nobody knows");
}

#[test]
fn a_caps_excess_is_its_own() {
    let domain = domain();
    domain.charge((30, A)).expect("room").spend();
    domain.set_group_cap(A, Some(10));
    assert_eq!((domain.group_excess(A), domain.group_excess(B), domain.excess()), (20, 0, 0));
    assert!(domain.is_beyond_cap((1, A)) && !domain.is_beyond_cap((100, B)));
    assert!(domain.could_hold((10, A)) && !domain.could_hold((11, A)));
    assert!(domain.has_room((70, B)) && !domain.has_room((0, A)));
    assert!(!domain.close_account(A), "it is in use");
    domain.credit((30, A));
    assert!(domain.close_account(A));
    assert_eq!((domain.group(A).cap, domain.group(A).peak), (None, 0));
}

/// What a group at its cap makes free is for nobody else, and what it waits for is in nobody's way.
#[test]
fn a_group_that_makes_room_for_itself_holds_up_nobody_and_loses_nothing() {
    let domain = domain();
    domain.set_group_cap(A, Some(40));
    domain.charge((40, A)).expect("room").spend();
    domain.charge(50).expect("room").spend();
    let first = domain.claim((20, A));
    assert_eq!(first.short_of(), Short { all: 10, own: 20 });
    // The ten bytes that are free will not do for the group, and are free.
    domain.charge((10, B)).expect("room").spend();
    assert!(domain.charge(1).is_none());
    // What the group's own leave is not.
    domain.credit((10, A));
    assert_eq!(first.short_of(), Short { all: 10, own: 10 });
    assert!(domain.charge(1).is_none() && domain.charge((1, B)).is_none());
    let second = domain.claim((5, A));
    assert_eq!(second.short_of(), Short { all: 5, own: 15 }, "behind the first");
    domain.credit((10, A));
    assert!(second.take().is_none() && domain.charge(1).is_none());
    first.take().expect("its bytes").spend();
    drop((first, second));
    assert_eq!((domain.group(A).used, domain.used()), (40, 100));
}

#[test]
fn a_group_beyond_its_cap_takes_nothing_from_who_waits_for_the_domain() {
    let domain = domain();
    domain.charge((60, A)).expect("room").spend();
    domain.charge(40).expect("room").spend();
    domain.set_group_cap(A, Some(50));
    let (own, other) = (domain.claim((10, A)), domain.claim(10));
    assert_eq!(own.short_of(), Short { all: 10, own: 20 });
    assert_eq!(other.short_of(), Short { all: 10, own: 0 });
    domain.credit((20, A));
    // Ten for each.
    other.take().expect("there is room").spend();
    assert!(domain.charge(1).is_none());
    own.take().expect("there is room").spend();
    drop((own, other));
    assert_eq!((domain.used(), domain.group(A).used), (100, 50));
}

#[test]
fn many_at_once_never_have_more_than_their_group_may() {
    let domain = Domain::new(DomainId::System, 1000);
    domain.set_group_cap(A, Some(7));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..2000 {
                    let (mine, other) = (domain.charge((3, A)), domain.charge((3, B)));
                    assert!(other.is_some(), "there is room for all of these");
                    drop((mine, other));
                }
            });
        }
    });
    let (a, b) = (domain.group(A), domain.group(B));
    assert!((3..=7).contains(&a.peak) && b.peak <= 12, "{a:?}, {b:?}");
    assert_eq!((a.used, b.used, domain.used()), (0, 0, 0));
}
