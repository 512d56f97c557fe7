//! Render passes: layouts at their begin and end, and what they read and write.

use std::sync::Arc;

use ash::vk;

use super::area::Rect;
use super::commands::{list, record};
use super::device::of_handle;
use super::lock;
use super::objects::{Objects, View};
use super::part::{Barrier, Use};
use super::places::Op;
use crate::layer::chain;

/// How a render pass uses an attachment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attachment {
    load: vk::AttachmentLoadOp,
    initial: vk::ImageLayout,
    last: vk::ImageLayout,
}

pub(super) unsafe extern "system" fn create_pass(
    raw: vk::Device,
    info: *const vk::RenderPassCreateInfo<'_>,
    allocator: *const vk::AllocationCallbacks<'_>,
    out: *mut vk::RenderPass,
) -> vk::Result {
    let device = of_handle(raw);
    let result = (device.fns.fp_v1_0().create_render_pass)(raw, info, allocator, out);
    if result == vk::Result::SUCCESS {
        let info = &*info;
        let all = list(info.p_attachments, info.attachment_count).iter().map(|one| Attachment {
            load: one.load_op,
            initial: one.initial_layout,
            last: one.final_layout,
        });
        lock(&device.objects).passes.insert(*out, all.collect());
    }
    result
}

pub(super) unsafe extern "system" fn create_pass2(
    raw: vk::Device,
    info: *const vk::RenderPassCreateInfo2<'_>,
    allocator: *const vk::AllocationCallbacks<'_>,
    out: *mut vk::RenderPass,
) -> vk::Result {
    let device = of_handle(raw);
    let Some(next) = device.next.create_pass2 else {
        return vk::Result::ERROR_EXTENSION_NOT_PRESENT;
    };
    let result = next(raw, info, allocator, out);
    if result == vk::Result::SUCCESS {
        let info = &*info;
        let all = list(info.p_attachments, info.attachment_count).iter().map(|one| Attachment {
            load: one.load_op,
            initial: one.initial_layout,
            last: one.final_layout,
        });
        lock(&device.objects).passes.insert(*out, all.collect());
    }
    result
}

pub(super) unsafe extern "system" fn destroy_pass(
    raw: vk::Device,
    pass: vk::RenderPass,
    allocator: *const vk::AllocationCallbacks<'_>,
) {
    let device = of_handle(raw);
    lock(&device.objects).passes.remove(&pass);
    (device.fns.fp_v1_0().destroy_render_pass)(raw, pass, allocator);
}

pub(super) unsafe extern "system" fn create_framebuffer(
    raw: vk::Device,
    info: *const vk::FramebufferCreateInfo<'_>,
    allocator: *const vk::AllocationCallbacks<'_>,
    out: *mut vk::Framebuffer,
) -> vk::Result {
    let device = of_handle(raw);
    let result = (device.fns.fp_v1_0().create_framebuffer)(raw, info, allocator, out);
    // One without images gets them at the begin of the pass.
    if result == vk::Result::SUCCESS
        && !(*info).flags.contains(vk::FramebufferCreateFlags::IMAGELESS)
    {
        let views = list((*info).p_attachments, (*info).attachment_count).to_vec();
        lock(&device.objects).framebuffers.insert(*out, views);
    }
    result
}

pub(super) unsafe extern "system" fn destroy_framebuffer(
    raw: vk::Device,
    framebuffer: vk::Framebuffer,
    allocator: *const vk::AllocationCallbacks<'_>,
) {
    let device = of_handle(raw);
    lock(&device.objects).framebuffers.remove(&framebuffer);
    (device.fns.fp_v1_0().destroy_framebuffer)(raw, framebuffer, allocator);
}

/// What an attachment of a pass does at its begin: the layout is checked, and texels are read or written.
fn load(
    view: &View,
    load: vk::AttachmentLoadOp,
    (layout, area): (Option<vk::ImageLayout>, Rect),
    command: &'static str,
) -> Op {
    let reads = load == vk::AttachmentLoadOp::LOAD;
    let (seen, parts) = (Arc::clone(&view.seen), view.parts.clone());
    let usage = Use { layout, reads, writes: true, rect: area };
    Op::Use { seen, parts, usage, command }
}

fn transition(
    view: &View,
    (old, new): (vk::ImageLayout, vk::ImageLayout),
    command: &'static str,
) -> Op {
    let ignored = vk::QUEUE_FAMILY_IGNORED;
    let (seen, parts) = (Arc::clone(&view.seen), view.parts.clone());
    Op::Barrier { seen, parts, barrier: Barrier { old, new, src: ignored, dst: ignored }, command }
}

unsafe fn begin_pass(
    commands: vk::CommandBuffer,
    info: *const vk::RenderPassBeginInfo<'_>,
    command: &'static str,
) -> Arc<super::device::Device> {
    let info = &*info;
    let given = chain::find::<vk::RenderPassAttachmentBeginInfo<'_>>(info.p_next);
    let mut at_end = Vec::new();
    let device = record(commands, |objects: &Objects| {
        let area = Rect::new(info.render_area.offset, info.render_area.extent);
        let views = objects.framebuffers.get(&info.framebuffer).map(Vec::as_slice);
        let views = views
            .or_else(|| given.map(|given| list(given.p_attachments, given.attachment_count)))
            .unwrap_or_default();
        let mut ops = Vec::new();
        for (raw, used) in
            views.iter().zip(objects.passes.get(&info.render_pass).into_iter().flatten())
        {
            let Some(view) = objects.view(*raw) else { continue };
            // Layouts within the pass follow from the pass, which the driver carries out.
            if used.initial == vk::ImageLayout::UNDEFINED {
                ops.push(transition(view, (used.initial, used.last), command));
                ops.push(load(view, used.load, (None, area), command));
            } else {
                ops.push(load(view, used.load, (Some(used.initial), area), command));
            }
            let from = match used.initial {
                vk::ImageLayout::UNDEFINED => used.last,
                initial => initial,
            };
            at_end.push(transition(view, (from, used.last), "vkCmdEndRenderPass"));
        }
        ops
    });
    lock(&device.objects).commands.entry(commands).or_default().at_end = at_end;
    device
}

pub(super) unsafe extern "system" fn begin(
    commands: vk::CommandBuffer,
    info: *const vk::RenderPassBeginInfo<'_>,
    contents: vk::SubpassContents,
) {
    let device = begin_pass(commands, info, "vkCmdBeginRenderPass");
    (device.fns.fp_v1_0().cmd_begin_render_pass)(commands, info, contents);
}

pub(super) unsafe extern "system" fn begin2(
    commands: vk::CommandBuffer,
    info: *const vk::RenderPassBeginInfo<'_>,
    subpass: *const vk::SubpassBeginInfo<'_>,
) {
    let device = begin_pass(commands, info, "vkCmdBeginRenderPass2");
    if let Some(next) = device.next.begin_pass2 {
        next(commands, info, subpass);
    }
}

unsafe fn end_pass(commands: vk::CommandBuffer) -> Arc<super::device::Device> {
    let device = of_handle(commands);
    let mut objects = lock(&device.objects);
    let recording = objects.commands.entry(commands).or_default();
    let ops = std::mem::take(&mut recording.at_end);
    recording.add(ops);
    drop(objects);
    device
}

pub(super) unsafe extern "system" fn end(commands: vk::CommandBuffer) {
    let device = end_pass(commands);
    (device.fns.fp_v1_0().cmd_end_render_pass)(commands);
}

pub(super) unsafe extern "system" fn end2(
    commands: vk::CommandBuffer,
    info: *const vk::SubpassEndInfo<'_>,
) {
    let device = end_pass(commands);
    if let Some(next) = device.next.end_pass2 {
        next(commands, info);
    }
}

pub(super) unsafe extern "system" fn begin_rendering(
    commands: vk::CommandBuffer,
    info: *const vk::RenderingInfo<'_>,
) {
    let device = record(commands, |objects| {
        let info = &*info;
        let area = Rect::new(info.render_area.offset, info.render_area.extent);
        let others = [info.p_depth_attachment.as_ref(), info.p_stencil_attachment.as_ref()];
        let colors = list(info.p_color_attachments, info.color_attachment_count).iter();
        let used = colors.chain(others.into_iter().flatten()).filter_map(move |used| {
            let view = objects.view(used.image_view)?;
            Some(load(view, used.load_op, (Some(used.image_layout), area), "vkCmdBeginRendering"))
        });
        used.collect()
    });
    if let Some(next) = device.next.begin_rendering {
        next(commands, info);
    }
}
