//! What wgpu draws.

use peerbuf::{Access, Fence};
use peerbuf_wgpu::Guest;

use crate::Result;
use crate::shared::Shared;

/// The pipeline, and the bind group of the present buffer and picture.
pub(crate) struct Drawing {
    pipeline: wgpu::RenderPipeline,
    layout: wgpu::BindGroupLayout,
    group: Option<([u64; 2], wgpu::BindGroup)>,
    /// How often the bind group was made.
    pub(crate) groups: u32,
}

impl Drawing {
    pub(crate) fn new(device: &wgpu::Device, format: wgpu::TextureFormat) -> Self {
        let shader = device.create_shader_module(wgpu::include_wgsl!("draw.wgsl"));
        let entry = |binding, ty| wgpu::BindGroupLayoutEntry {
            binding,
            visibility: wgpu::ShaderStages::FRAGMENT,
            ty,
            count: None,
        };
        let numbers = wgpu::BindingType::Buffer {
            ty: wgpu::BufferBindingType::Storage { read_only: true },
            has_dynamic_offset: false,
            min_binding_size: None,
        };
        let picture = wgpu::BindingType::Texture {
            sample_type: wgpu::TextureSampleType::Float { filterable: false },
            view_dimension: wgpu::TextureViewDimension::D2,
            multisampled: false,
        };
        let layout = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
            label: None,
            entries: &[entry(0, numbers), entry(1, picture)],
        });
        let pipeline_layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: None,
            bind_group_layouts: &[Some(&layout)],
            ..Default::default()
        });
        let pipeline = device.create_render_pipeline(&wgpu::RenderPipelineDescriptor {
            label: None,
            layout: Some(&pipeline_layout),
            vertex: wgpu::VertexState {
                module: &shader,
                entry_point: Some("corner"),
                compilation_options: Default::default(),
                buffers: &[],
            },
            primitive: Default::default(),
            depth_stencil: None,
            multisample: Default::default(),
            fragment: Some(wgpu::FragmentState {
                module: &shader,
                entry_point: Some("texel"),
                compilation_options: Default::default(),
                targets: &[Some(format.into())],
            }),
            multiview_mask: None,
            cache: None,
        });
        Self { pipeline, layout, group: None, groups: 0 }
    }

    /// Draws a frame. Waits for nothing.
    pub(crate) fn draw(&mut self, guest: &Guest, shared: &mut Shared) -> Result<Fence> {
        let mut frame = guest.frame();
        let numbers = frame.buffer(&mut shared.numbers.buffer, Access::Read)?;
        let picture = frame.texture(&mut shared.picture.texture, Access::Read)?;
        let target = frame.texture(&mut shared.frame.texture, Access::Write)?;
        let device = guest.wgpu();
        // What was made of a buffer or texture of before is of no use.
        let versions = [numbers.version(), picture.version()];
        let group = match self.group.take() {
            Some((made_for, group)) if made_for == versions => group,
            _ => {
                self.groups += 1;
                let view = picture.create_view(&Default::default());
                device.create_bind_group(&wgpu::BindGroupDescriptor {
                    label: None,
                    layout: &self.layout,
                    entries: &[
                        wgpu::BindGroupEntry { binding: 0, resource: numbers.as_entire_binding() },
                        wgpu::BindGroupEntry {
                            binding: 1,
                            resource: wgpu::BindingResource::TextureView(&view),
                        },
                    ],
                })
            }
        };
        let view = target.create_view(&Default::default());
        let mut encoder = device.create_command_encoder(&Default::default());
        let mut pass = encoder.begin_render_pass(&wgpu::RenderPassDescriptor {
            color_attachments: &[Some(wgpu::RenderPassColorAttachment {
                view: &view,
                depth_slice: None,
                resolve_target: None,
                ops: wgpu::Operations {
                    load: wgpu::LoadOp::Clear(wgpu::Color::BLACK),
                    store: wgpu::StoreOp::Store,
                },
            })],
            ..Default::default()
        });
        pass.set_pipeline(&self.pipeline);
        pass.set_bind_group(0, &group, &[]);
        pass.draw(0..3, 0..1);
        drop(pass);
        let done = frame.submit([encoder.finish()])?;
        self.group = Some((versions, group));
        Ok(done)
    }
}
