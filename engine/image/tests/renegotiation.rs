//! When images negotiate again.

use std::time::Duration;

use crate::image::ImageLayout;
use crate::image::negotiate::{Renegotiation, When};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn an_attachment_that_could_not_use_the_image_does_not_wait() {
    let mut image = Renegotiation::new();
    assert_eq!(image.attached(SECOND, false), When::Now);
    image.negotiated(SECOND, true);
    assert_eq!(image.attached(SECOND, false), When::Now, "however short ago the last change was");
}

#[test]
fn a_better_layout_waits_until_the_attachments_are_the_same_for_a_second() {
    let mut image = Renegotiation::new();
    assert!(!image.is_due(SECOND * 100), "without a wish nothing is due, in no frame");
    assert!(!image.has_wish());
    assert_eq!(image.attached(SECOND * 5, true), When::At(SECOND * 6));
    assert!(!image.is_due(SECOND * 5) && image.has_wish());
    assert_eq!(image.detached(SECOND * 5 + SECOND / 2), When::At(SECOND * 6 + SECOND / 2));
    assert!(!image.is_due(SECOND * 6), "put off");
    assert!(image.is_due(SECOND * 7));
    image.negotiated(SECOND * 7, false);
    assert!(!image.is_due(SECOND * 8), "asked once");
}

#[test]
fn changes_for_the_better_become_rarer() {
    let mut image = Renegotiation::new();
    let mut now = Duration::ZERO;
    let mut changes = 0;
    // A device that attaches and detaches all day, ten times a second.
    while now < SECOND * 86_400 {
        let _ = image.attached(now, true);
        if image.is_due(now + SECOND) {
            changes += 1;
            image.negotiated(now + SECOND, true);
        }
        now += SECOND / 10;
    }
    assert!(changes < 360, "{changes}");
    assert!(changes > 300, "it never ends altogether: {changes}");
}

#[test]
fn what_an_image_keeps_beside_its_buffer_is_small() {
    let bytes = size_of::<Renegotiation>() + size_of::<ImageLayout>();
    assert!(bytes <= 112, "{bytes}: `image_bytes` allows 128");
}

#[test]
fn times_beyond_the_clock_never_come() {
    let mut image = Renegotiation::new();
    let When::At(due) = image.attached(Duration::MAX, true) else { panic!("it takes part") };
    assert!(due > SECOND * 60 * 60 * 24 * 365 * 13);
    assert!(!image.is_due(SECOND));
}

#[test]
fn a_change_that_changes_nothing_does_not_make_the_next_one_later() {
    let mut image = Renegotiation::new();
    for round in 0..10 {
        let now = SECOND * 10 * round;
        assert_eq!(image.detached(now), When::At(now + SECOND));
        image.negotiated(now + SECOND, false);
    }
}

#[test]
fn a_wish_that_is_put_off_stays_and_is_due_later_and_later() {
    let mut image = Renegotiation::new();
    let _ = image.attached(SECOND, true);
    let mut now = SECOND * 2;
    for doubling in 0..12 {
        assert!(image.is_due(now), "{doubling}");
        let pause = (SECOND * (1 << doubling)).min(Renegotiation::LONGEST_PAUSE);
        assert_eq!(image.put_off(now), When::At(now + pause));
        assert!(!image.is_due(now + pause - SECOND / 10), "{doubling}");
        now += pause;
    }
    assert_eq!(image.attached(now, true), When::At(now + SECOND), "what keeps it may have gone");
    assert_eq!(image.put_off(now + SECOND), When::At(now + SECOND * 2));
    image.negotiated(now + SECOND * 2, false);
    assert!(!image.is_due(now + SECOND * 1000));
}

#[test]
fn an_attachment_that_cannot_use_the_image_makes_a_negotiation_due_at_once() {
    let mut image = Renegotiation::new();
    image.negotiated(SECOND, true);
    assert_eq!(image.attached(SECOND, false), When::Now);
    assert!(image.is_due(Duration::ZERO));
    assert_eq!(image.attached(SECOND, true), When::Now, "another one does not put it off");
    assert!(image.is_due(SECOND));
    assert_eq!(image.put_off(SECOND), When::At(SECOND * 3), "it is tried, and not at each mapping");
}
