//! What drivers say about images: asked once, and the query decides.

use std::sync::Arc;

use ash::vk;
use peerbuf::device::{ImageFormats, ImageRefusal, TilingImages};
use peerbuf::{Adapter, HandleType};

use crate::common::Rig;

/// Copied, sampled and drawn into.
const USAGE: vk::ImageUsageFlags = vk::ImageUsageFlags::from_raw(
    vk::ImageUsageFlags::TRANSFER_SRC.as_raw()
        | vk::ImageUsageFlags::TRANSFER_DST.as_raw()
        | vk::ImageUsageFlags::SAMPLED.as_raw()
        | vk::ImageUsageFlags::COLOR_ATTACHMENT.as_raw(),
);

const NV12: vk::Format = vk::Format::G8_B8R8_2PLANE_420_UNORM;

fn asked(adapter: &Adapter, format: vk::Format) -> Arc<ImageFormats> {
    let views: &[_] = match format {
        NV12 => &[NV12, vk::Format::R8_UNORM, vk::Format::R8G8_UNORM],
        _ => &[],
    };
    adapter.image_formats(format, USAGE, views)
}

/// Every tiling, with its name.
fn tilings(formats: &ImageFormats) -> Vec<(String, &TilingImages)> {
    let modifiers = formats.modifiers.iter().map(|of| (format!("{:#x}", of.modifier), &of.images));
    let others = [("linear".to_owned(), &formats.linear), ("optimal".to_owned(), &formats.optimal)];
    others.into_iter().chain(modifiers).collect()
}

#[test]
fn a_driver_is_asked_once_for_a_format_and_usage() {
    let rig = Rig::new();
    for device in rig.all() {
        let adapter = device.adapter();
        let first = asked(adapter, vk::Format::B8G8R8A8_UNORM);
        assert!(Arc::ptr_eq(&first, &asked(adapter, vk::Format::B8G8R8A8_UNORM)));
        let usage = vk::ImageUsageFlags::SAMPLED;
        let other = adapter.image_formats(vk::Format::B8G8R8A8_UNORM, usage, &[]);
        assert!(!Arc::ptr_eq(&first, &other), "another usage is another question");
    }
}

#[test]
fn what_the_features_do_not_allow_is_named_and_not_asked_for() {
    let rig = Rig::new();
    let formats =
        [vk::Format::B8G8R8A8_UNORM, vk::Format::R8_UNORM, NV12, vk::Format::R8G8B8_UNORM];
    for device in rig.all() {
        for format in formats {
            let said = asked(device.adapter(), format);
            for (name, images) in tilings(&said) {
                let name = format!("{}: {format:?} {name}: {images:?}", device.name());
                assert!(!images.usage.intersects(images.missing), "{name}");
                assert_eq!((images.usage | images.missing) & USAGE, USAGE, "{name}");
                match images.limits {
                    Ok(limits) => {
                        assert!(!images.usage.is_empty(), "{name}");
                        assert!(limits.width >= 61 && limits.height >= 19, "{name}");
                        assert!(limits.mips >= 1 && limits.layers >= 1, "{name}");
                    }
                    Err(ImageRefusal::NoFeatures) => assert!(images.features.is_empty(), "{name}"),
                    Err(ImageRefusal::Usage(missing)) => assert_eq!(missing, USAGE, "{name}"),
                    Err(_) => {}
                }
                for row in &images.external {
                    let works = row.importable || row.exportable;
                    assert!(!works || row.limits.is_ok(), "{name}");
                    assert_eq!(images.external(row.handle).handle, row.handle);
                }
            }
        }
        // No driver makes images of 24 bits per texel (images.md, 1.1).
        let packed = asked(device.adapter(), vk::Format::R8G8B8_UNORM);
        assert_eq!(packed.optimal.limits, Err(ImageRefusal::NoFeatures), "{}", device.name());
    }
}

#[test]
fn the_two_drivers_differ_in_what_linear_images_are_used_for() {
    let rig = Rig::new();
    let Some([lavapipe, swiftshader]) = rig.two_drivers() else { return };
    let drawn = vk::ImageUsageFlags::COLOR_ATTACHMENT;
    let [first, second] =
        [&lavapipe, &swiftshader].map(|device| asked(device.adapter(), vk::Format::B8G8R8A8_UNORM));
    assert!(first.linear.usage.contains(drawn) && first.linear.missing.is_empty());
    // SwiftShader samples and copies linear images, and draws into none.
    assert_eq!(second.linear.missing, drawn);
    assert!(second.optimal.usage.contains(drawn));
    for said in [&first, &second] {
        // By the query, or by a quirk with its evidence.
        assert!(said.linear.external(HandleType::HostPointer).importable, "{said:?}");
        let opaque = said.linear.external(HandleType::OpaqueFd);
        assert!(opaque.importable && opaque.exportable && !opaque.dedicated, "{said:?}");
    }
    let mips = [&first, &second].map(|said| said.linear.limits.expect("linear images").mips);
    assert!(mips[0] > 1 && mips[1] == 1, "{mips:?}");
}

#[test]
fn a_modifier_that_is_listed_counts_once_the_query_has_accepted_it() {
    let rig = Rig::new();
    let Some(lavapipe) = rig.lavapipe() else { return };
    let adapter = lavapipe.adapter();
    let extension = ash::ext::image_drm_format_modifier::NAME;
    let has_modifiers = adapter.device_extensions().contains(&extension);
    for format in [vk::Format::B8G8R8A8_UNORM, NV12] {
        let said = asked(adapter, format);
        assert_eq!(!said.modifiers.is_empty(), has_modifiers, "{said:?}");
        for of in &said.modifiers {
            assert_eq!(of.modifier, 0, "LINEAR alone: {said:?}");
            assert_eq!(of.planes, if format == NV12 { 2 } else { 1 });
            let by_fd = of.images.external(HandleType::DmaBuf);
            if format == NV12 {
                assert!(matches!(by_fd.limits, Err(ImageRefusal::Query(_))), "{said:?}");
                assert!(!by_fd.importable && !by_fd.exportable);
            } else {
                assert!(by_fd.importable && by_fd.exportable, "{said:?}");
            }
        }
    }
}

#[test]
fn formats_that_vulkan_does_not_have_are_not_asked_about() {
    let rig = Rig::new();
    for device in rig.all() {
        let unknown = vk::Format::from_raw(12_345);
        let known = vk::Format::R8_UNORM;
        for (format, views) in
            [(unknown, &[][..]), (known, &[known, unknown]), (vk::Format::UNDEFINED, &[])]
        {
            let said = device.adapter().image_formats(format, USAGE, views);
            assert!(said.modifiers.is_empty(), "{format:?} {views:?} on {}", device.name());
            for (_, images) in tilings(&said) {
                assert_eq!(images.limits, Err(ImageRefusal::NoFeatures), "{format:?} {views:?}");
            }
        }
    }
}
