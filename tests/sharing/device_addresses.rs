//! Buffer device addresses: a shader reads and writes buffers by their addresses alone.
#![expect(unsafe_code, reason = "a pipeline of the application, and what it records")]

use std::sync::Arc;

use ash::vk;
use peerbuf::{
    Access, BufferDescriptor, Device, Engine, Error, Fence, Mapping, Refault, Result, Scope,
};

use crate::common::app::App;
use crate::common::{LONG, Rig, bytes};

/// An instruction of SPIR-V.
fn op(code: u32, operands: &[u32]) -> Vec<u32> {
    let words = u32::try_from(1 + operands.len()).expect("a few words");
    [&[words << 16 | code], operands].concat()
}

/// A string in SPIR-V: its bytes, and at least one zero.
fn text(text: &str) -> Vec<u32> {
    let bytes = [text.as_bytes(), &[0; 4]].concat();
    bytes.as_chunks().0.iter().map(|word| u32::from_le_bytes(*word)).collect()
}

/// A compute shader that copies one word from the first address of its push constants to the second.
fn copy_by_address() -> Vec<u32> {
    const PUSH_CONSTANT: u32 = 9;
    const PHYSICAL: u32 = 5349;
    let [main, void, function, uint, pointer, block, to_block, push, zero, one, to_pointer] =
        std::array::from_fn(|id| 1 + id as u32);
    let [label, at_source, source, at_target, target, word] =
        std::array::from_fn(|id| 12 + id as u32);
    let header = vec![0x0723_0203, 0x0001_0300, 0, 18, 0];
    let instructions = [
        op(17, &[1]),                                      // OpCapability Shader
        op(17, &[5347]), // OpCapability PhysicalStorageBufferAddresses
        op(10, &text("SPV_KHR_physical_storage_buffer")), // OpExtension
        op(14, &[5348, 1]), // OpMemoryModel PhysicalStorageBuffer64 GLSL450
        op(15, &[&[5, main][..], &text("main")].concat()), // OpEntryPoint GLCompute
        op(16, &[main, 17, 1, 1, 1]), // OpExecutionMode LocalSize
        op(71, &[block, 2]), // OpDecorate Block
        op(72, &[block, 0, 35, 0]), // OpMemberDecorate Offset
        op(72, &[block, 1, 35, 8]), // OpMemberDecorate Offset
        op(19, &[void]), // OpTypeVoid
        op(33, &[function, void]), // OpTypeFunction
        op(21, &[uint, 32, 0]), // OpTypeInt
        op(32, &[pointer, PHYSICAL, uint]), // OpTypePointer
        op(30, &[block, pointer, pointer]), // OpTypeStruct
        op(32, &[to_block, PUSH_CONSTANT, block]), // OpTypePointer
        op(59, &[to_block, push, PUSH_CONSTANT]), // OpVariable
        op(43, &[uint, zero, 0]), // OpConstant
        op(43, &[uint, one, 1]), // OpConstant
        op(32, &[to_pointer, PUSH_CONSTANT, pointer]), // OpTypePointer
        op(54, &[void, main, 0, function]), // OpFunction
        op(248, &[label]), // OpLabel
        op(65, &[to_pointer, at_source, push, zero]), // OpAccessChain
        op(61, &[pointer, source, at_source]), // OpLoad
        op(65, &[to_pointer, at_target, push, one]), // OpAccessChain
        op(61, &[pointer, target, at_target]), // OpLoad
        op(61, &[uint, word, source, 2, 4]), // OpLoad Aligned 4
        op(62, &[target, word, 2, 4]), // OpStore Aligned 4
        op(253, &[]),    // OpReturn
        op(56, &[]),     // OpFunctionEnd
    ];
    [header, instructions.concat()].concat()
}

/// The shader's pipeline on a device.
struct Pipeline<'d> {
    device: &'d Device,
    module: vk::ShaderModule,
    layout: vk::PipelineLayout,
    raw: vk::Pipeline,
}

impl<'d> Pipeline<'d> {
    fn new(device: &'d Device) -> Self {
        let raw = device.raw();
        let code = copy_by_address();
        let info = vk::ShaderModuleCreateInfo::default().code(&code);
        // SAFETY: a valid module, whose capability the device has on.
        let module = unsafe { raw.create_shader_module(&info, None) }.expect("a module");
        let range =
            vk::PushConstantRange::default().stage_flags(vk::ShaderStageFlags::COMPUTE).size(16);
        let ranges = [range];
        let info = vk::PipelineLayoutCreateInfo::default().push_constant_ranges(&ranges);
        // SAFETY: 16 bytes are within every limit.
        let layout = unsafe { raw.create_pipeline_layout(&info, None) }.expect("a layout");
        let stage = vk::PipelineShaderStageCreateInfo::default()
            .stage(vk::ShaderStageFlags::COMPUTE)
            .module(module)
            .name(c"main");
        let info = [vk::ComputePipelineCreateInfo::default().stage(stage).layout(layout)];
        // SAFETY: module and layout are live and fit each other.
        let made = unsafe { raw.create_compute_pipelines(vk::PipelineCache::null(), &info, None) };
        let [pipeline] = made.expect("a pipeline")[..] else { unreachable!("one was asked for") };
        Self { device, module, layout, raw: pipeline }
    }

    /// Copies a word by addresses.
    fn copy(&self, engine: &Engine, from: &Mapping, to: &Mapping) -> Result<Fence> {
        let addresses = [from.device_address()?, to.device_address()?];
        let (device, layout, pipeline) = (self.device.raw(), self.layout, self.raw);
        engine.submit(self.device, |submission| {
            submission.uses(from, Access::Read, Scope::COMPUTE)?;
            submission.uses(to, Access::Write, Scope::COMPUTE)?;
            let record = move |commands| {
                let bytes = addresses.map(u64::to_ne_bytes).concat();
                let (point, stage) =
                    (vk::PipelineBindPoint::COMPUTE, vk::ShaderStageFlags::COMPUTE);
                // SAFETY: being recorded; the pipeline is live until the queue is idle.
                unsafe { device.cmd_bind_pipeline(commands, point, pipeline) };
                // SAFETY: as above, within the layout's range.
                unsafe { device.cmd_push_constants(commands, layout, stage, 0, &bytes) };
                // SAFETY: as above; both addresses are those of declared buffers of a word or more.
                unsafe { device.cmd_dispatch(commands, 1, 1, 1) };
            };
            // SAFETY: it records valid commands on what was declared.
            unsafe { submission.record(record) };
            Ok(())
        })
    }
}

impl Drop for Pipeline<'_> {
    fn drop(&mut self) {
        crate::common::wait_idle(&[self.device]);
        let raw = self.device.raw();
        // SAFETY: the queue is idle.
        unsafe { raw.destroy_pipeline(self.raw, None) };
        // SAFETY: as above.
        unsafe { raw.destroy_pipeline_layout(self.layout, None) };
        // SAFETY: as above.
        unsafe { raw.destroy_shader_module(self.module, None) };
    }
}

/// Copies by addresses between buffers of `home` on `device`, before and after a move.
fn check(engine: &Engine, home: &Device, device: &Device) {
    let pipeline = Pipeline::new(device);
    let [from, to] = [1, 2].map(|seed| {
        let buffer = engine.create_buffer(home, BufferDescriptor::new(4096)).expect("a buffer");
        bytes::write(&buffer, seed);
        buffer
    });
    let attach = |buffer: &peerbuf::SharedBuffer| {
        buffer.attach_dynamic(device, Arc::new(Refault::new())).expect("attached")
    };
    let [near, far] = [attach(&from), attach(&to)];
    let [source, target] =
        [&near, &far].map(|attachment| attachment.map(Access::ReadWrite).expect("mapped"));
    let address = |mapping: &Mapping| mapping.device_address().expect("on request");
    assert!(address(&source).abs_diff(address(&target)) >= 4096, "they do not overlap");
    let copied = pipeline.copy(engine, &source, &target).and_then(|fence| fence.wait(LONG));
    copied.expect("it ends");
    assert_eq!(bytes::read(&to)[..4], bytes::read(&from)[..4], "by address");
    assert_eq!(bytes::read(&to)[4..8], bytes::sequence(2, 4096)[4..8], "and no other word");
    // An address belongs to its mapping's generation.
    let before = address(&source);
    from.relocate().expect("not held");
    bytes::write(&from, 3);
    assert!(matches!(source.device_address(), Err(Error::Stale { .. })));
    drop(source);
    let source = near.map(Access::Read).expect("mapped");
    assert_ne!(address(&source), before, "the buffer is elsewhere");
    let copied = pipeline.copy(engine, &source, &target).and_then(|fence| fence.wait(LONG));
    copied.expect("it ends");
    assert_eq!(bytes::read(&to)[..4], bytes::sequence(3, 4096)[..4], "where it is now");
}

#[test]
fn a_shader_reads_and_writes_by_address_on_every_device_and_after_a_move() {
    let rig = Rig::with(|descriptor| descriptor.device_addresses(true));
    let mut met = 0;
    for home in rig.all() {
        if !home.adapter().has_device_addresses() {
            continue;
        }
        met += 1;
        let peer = rig.open(&home.adapter().clone());
        check(rig.engine(), &home, &home);
        // By an import.
        check(rig.engine(), &home, &peer);
    }
    assert!(met > 0, "some driver has the feature");
}

#[test]
fn an_adopted_device_says_whether_its_buffers_have_addresses() {
    let rig = Rig::new();
    for twin in rig.all() {
        let able = twin.adapter().has_device_addresses();
        for stated in [false, true] {
            let app = App::new(&rig, twin.adapter(), |_| true);
            let engine = rig.external_engine();
            let joined = app.try_join(&rig, &engine, |facts| facts.device_addresses = stated);
            let device = match joined {
                Ok(device) => device,
                Err(error) => {
                    assert!(stated && !able, "{error}");
                    assert!(matches!(error, Error::Unsupported { .. }), "{error:?}");
                    continue;
                }
            };
            if stated {
                check(&engine, &device, &device);
                continue;
            }
            let buffer = engine.create_buffer(&device, BufferDescriptor::new(64)).expect("one");
            let attachment = buffer.attach(&device).expect("attached");
            let mapping = attachment.map(Access::Read).expect("mapped");
            let error = mapping.device_address().expect_err("not asked for");
            assert!(matches!(error, Error::Unsupported { .. }), "{error:?}");
        }
    }
}

/// Its memory has one structure for the flags of an allocation, which the validation layer counts.
#[test]
fn private_memory_has_addresses() {
    let rig = Rig::with(|descriptor| descriptor.device_addresses(true));
    let all = rig.all();
    let able = || all.iter().filter(|device| device.adapter().has_device_addresses());
    assert!(able().next().is_some(), "some driver has the feature");
    for device in able() {
        let descriptor = BufferDescriptor::new(4096).placement(peerbuf::Placement::Vram).private();
        let buffer = rig.engine().create_buffer(device, descriptor).expect("a buffer");
        let attachment = buffer.attach(device).expect("attached");
        let mapping = attachment.map(Access::ReadWrite).expect("mapped");
        assert!(matches!(buffer.provider(), peerbuf::Provider::Private { .. }));
        assert_ne!(mapping.device_address().expect("current"), 0);
    }
}
