//! Uses that replace old mappings themselves: no caller has to handle `Error::Stale`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::common::Rig;
use peerbuf::{
    Access, Attachment, BufferDescriptor, Device, DomainId, Error, Mapping, Refault, SharedBuffer,
};

/// A buffer that moves back and forth, with a mapping that is old after each move.
struct Traveller {
    buffer: SharedBuffer,
    attachment: Attachment,
    mapping: Mapping,
    home: Device,
}

impl Traveller {
    fn new(rig: &Rig, home: &Device) -> Self {
        let descriptor = BufferDescriptor::new(4096);
        let buffer = rig.engine().create_buffer(home, descriptor).expect("a buffer");
        let attachment =
            buffer.attach_dynamic(home, Arc::new(Refault::default())).expect("an attachment");
        let mapping = attachment.map(Access::ReadWrite).expect("a mapping");
        Self { buffer, attachment, mapping, home: home.clone() }
    }

    fn go_on(&self) {
        let to = match self.buffer.domain() {
            DomainId::System => DomainId::Vram(self.home.id()),
            _ => DomainId::System,
        };
        self.buffer.migrate(to).expect("a move");
        assert!(matches!(self.mapping.view(), Err(Error::Stale { .. })));
    }
}

#[test]
fn passes_replace_mappings_that_are_old() {
    let rig = Rig::new();
    let [home, _] = rig.two_of_one_adapter();
    let mut one = Traveller::new(&rig, &home);
    one.go_on();
    one.attachment.fill_remapped(&mut one.mapping, 7).expect("a pass");
    one.go_on();
    let report = one.attachment.verify_remapped(&mut one.mapping, 7).expect("a pass");
    assert!(report.is_clean(), "{report:?}");
    let sum = one.mapping.checksum().expect("a pass");
    one.go_on();
    assert_eq!(one.attachment.checksum_remapped(&mut one.mapping).expect("a pass"), sum);
    let mut other = Traveller::new(&rig, &home);
    one.go_on();
    other.go_on();
    let target = (&other.attachment, &mut other.mapping);
    one.attachment.copy_to_remapped(&mut one.mapping, target).expect("a pass");
    assert!(other.mapping.verify(7).expect("a pass").is_clean());
}

#[test]
fn a_use_is_repeated_when_the_buffer_moves_during_it() {
    let rig = Rig::new();
    let [home, _] = rig.two_of_one_adapter();
    let Traveller { buffer, attachment, mut mapping, home } = Traveller::new(&rig, &home);
    let calls = AtomicU32::new(0);
    let generation = attachment
        .remapped(&mut mapping, |current| {
            if calls.fetch_add(1, Ordering::Relaxed) < 2 {
                let to = match buffer.domain() {
                    DomainId::System => DomainId::Vram(home.id()),
                    _ => DomainId::System,
                };
                buffer.migrate(to).expect("a move");
            }
            current.fill(3).map(|()| current.generation())
        })
        .expect("the third call meets a buffer that stays");
    assert_eq!((calls.into_inner(), generation, buffer.generation()), (3, 2, 2));
    assert!(mapping.verify(3).expect("a pass").is_clean());
}

#[test]
fn other_errors_end_it() {
    let rig = Rig::new();
    let [home, _] = rig.two_of_one_adapter();
    let (one, mut other) = (Traveller::new(&rig, &home), Traveller::new(&rig, &home));
    let mut reader = one.attachment.map(Access::Read).expect("a mapping");
    one.go_on();
    let error = one.attachment.fill_remapped(&mut reader, 1).expect_err("mapped to read");
    assert!(matches!(error, Error::WrongAccess { .. }), "{error}");
    other.go_on();
    let error = one.attachment.fill_remapped(&mut other.mapping, 1).expect_err("another buffer");
    assert!(matches!(error, Error::ForeignMapping { .. }), "{error}");
}

#[test]
fn a_mapping_of_another_buffer_is_refused_although_it_is_current() {
    let rig = Rig::new();
    let [home, _] = rig.two_of_one_adapter();
    let (mut one, mut other) = (Traveller::new(&rig, &home), Traveller::new(&rig, &home));
    other.mapping.fill(3).expect("a pass");
    let refused = one.attachment.fill_remapped(&mut other.mapping, 7);
    assert!(matches!(refused, Err(Error::ForeignMapping { .. })), "{refused:?}");
    let crossed = (&one.attachment, &mut other.mapping);
    let refused = one.attachment.copy_to_remapped(&mut one.mapping, crossed);
    assert!(matches!(refused, Err(Error::ForeignMapping { .. })), "{refused:?}");
    assert!(other.mapping.verify(3).expect("a pass").is_clean(), "nothing was written");
}
