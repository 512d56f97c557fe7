//! Slabs on GPUs, whose kernel drivers move and pin what another device imports, a slab as a whole.

use ash::vk::DeviceMemory;
use peerbuf::device::{AdapterKind, Call};
use peerbuf::{Access, BufferDescriptor, Device, Placement, SharedBuffer, SlabGrouping};

use crate::common::{Rig, bytes, wait_idle};
use crate::under;

const GPU: &str = "[[device]]\ndriver = 'llvmpipe'\nswitches.identity.kind = 'discrete'\n";

#[test]
fn on_gpus_a_reader_imports_slabs_of_its_own_buffers() {
    under(GPU, || {
        let rig = Rig::with(|descriptor| descriptor.slabs(SlabGrouping::Auto));
        let Some(near) = rig.lavapipe() else { return };
        assert_eq!(near.adapter().kind(), AdapterKind::Discrete);
        let far = rig.open(&near.adapter().clone());
        rig.engine().prove_routes(&[near.clone(), far.clone()]).expect("routes");
        let create = |seed| {
            let descriptor = BufferDescriptor::new(4096).placement(Placement::Vram);
            let buffer = rig.engine().create_buffer(&near, descriptor).expect("there is room");
            bytes::write(&buffer, seed);
            buffer
        };
        let own: Vec<_> = (0..100).map(create).collect();
        let shared = create(100);
        let before = rig.engine().calls().made(Call::ImportMemory);
        let attachment = shared.attach(&far).expect("it moves to a slab of both");
        wait_idle(&[&near, &far]);
        assert_eq!(rig.engine().calls().made(Call::ImportMemory), before + 1);
        let imported = memory(&shared, &near);
        for (seed, buffer) in (0..).zip(&own) {
            assert_ne!(memory(buffer, &near), imported, "buffer {seed} is in the imported slab");
            bytes::assert_sequence(buffer, seed, "not shared");
        }
        bytes::assert_sequence(&shared, 100, "shared");
        drop(attachment);
    });
}

fn memory(buffer: &SharedBuffer, device: &Device) -> DeviceMemory {
    let mapping = buffer.attach(device).and_then(|attachment| attachment.map(Access::Read));
    mapping.and_then(|mapping| mapping.view()).expect("its home device maps it").memory
}
