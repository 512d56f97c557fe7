//! Safe functions make no invalid calls, whatever they are given. The rig reports each message of the validation layer.

use std::sync::Arc;

use crate::common::app::App;
use crate::common::commands::record_fill_of;
use crate::common::{LONG, Rig};
use ash::vk;
use peerbuf::{Access, BufferDescriptor, Device, Engine, Error, Mapping, Scope};

fn map(engine: &Engine, device: &Device) -> Mapping {
    let buffer = engine.create_buffer(device, BufferDescriptor::new(4096)).expect("a buffer");
    let attachment = buffer.attach(device).expect("attached");
    attachment.map(Access::Write).expect("mapped")
}

#[test]
fn own_buffer_takes_any_usage() {
    use vk::BufferUsageFlags as Usage;
    let rig = Rig::new();
    let engine = rig.engine();
    for device in rig.all() {
        let mapping = Arc::new(map(engine, &device));
        for usage in [
            Usage::empty(),
            Usage::SHADER_DEVICE_ADDRESS,
            Usage::STORAGE_BUFFER | Usage::VIDEO_DECODE_SRC_KHR,
            Usage::ACCELERATION_STRUCTURE_STORAGE_KHR,
            Usage::from_raw(1 << 30),
        ] {
            let refused = mapping.aliased_buffer(usage);
            assert!(matches!(refused, Err(Error::Unsupported { .. })), "{usage:?}");
        }
        let core = Usage::from_raw((1 << 9) - 1);
        match mapping.aliased_buffer(core) {
            Ok(_) => {}
            Err(Error::Unsupported { missing, .. }) => assert!(missing.contains("second buffer")),
            Err(other) => panic!("{other}"),
        }
    }
}

#[test]
fn a_scope_whose_accesses_are_not_its_stages() {
    use vk::{AccessFlags as A, PipelineStageFlags as S};
    let rig = Rig::new();
    let engine = rig.engine();
    for device in rig.all() {
        let mapping = map(engine, &device);
        for access in [A::SHADER_WRITE, A::HOST_READ | A::TRANSFER_WRITE, A::INDEX_READ, A::empty()]
        {
            // Its fields are public.
            let scope = Scope { stages: S::TRANSFER, access };
            let submitted = engine.submit(&device, |submission| {
                submission.uses(&mapping, Access::Write, scope)?;
                record_fill_of(submission, &device, &mapping, 0..4096, 7)
            });
            submitted.and_then(|fence| fence.wait(LONG)).expect("it runs");
        }
    }
}

/// An application says which further stages it has enabled.
#[test]
fn an_adopted_device_has_the_stages_that_its_application_names() {
    let rig = Rig::new();
    for twin in rig.all() {
        let app = App::new(&rig, twin.adapter(), |_| true);
        let engine = rig.external_engine();
        let geometry = vk::PipelineStageFlags::GEOMETRY_SHADER;
        let without = app.join(&rig, &engine);
        let scope = Scope::new(geometry, vk::AccessFlags::SHADER_READ);
        let mapping = map(&engine, &without);
        let refused = engine.submit(&without, |submission| {
            submission.uses(&mapping, Access::Write, scope).map(drop)
        });
        assert!(matches!(refused, Err(Error::Unsupported { .. })));
        let with = app.try_join(&rig, &engine, |facts| facts.stages = geometry).expect("adopted");
        let mapping = map(&engine, &with);
        // Declared only, and then refused: the application of this test has no such shader.
        let declared = engine.submit(&with, |submission| {
            submission.uses(&mapping, Access::Write, scope)?;
            submission.uses(&mapping, Access::Read, scope).map(drop)
        });
        assert!(matches!(declared, Err(Error::WrongAccess { .. })), "{declared:?}");
    }
}
