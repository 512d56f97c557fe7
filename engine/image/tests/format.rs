//! The table of formats, and the names of modifiers.

use ash::vk;
use drm_fourcc::{DrmFourcc, DrmModifier};

use crate::image::{
    Alpha, Extent, Format, FormatGap, Fourcc, ImageUsage, Modifier, VulkanFormatGap, fourcc_of,
};

fn fourcc(name: &[u8; 4]) -> Fourcc {
    Fourcc::new(*name)
}

#[test]
fn every_format_has_a_vulkan_format_with_as_many_planes() {
    for format in Format::all() {
        let vulkan = format.vulkan();
        assert_ne!(vulkan.format, vk::Format::UNDEFINED, "{}", format.fourcc());
        assert_eq!(vulkan.alpha_is_one, format.alpha() == Alpha::Ignored, "{}", format.fourcc());
        let name = format!("{:?}", vulkan.format);
        let planes = ["_2PLANE_", "_3PLANE_"].iter().position(|part| name.contains(part));
        assert_eq!(format.planes().len(), planes.map_or(1, |at| at + 2), "{name}");
        let is_known = Format::of(format.fourcc()) == Ok(format);
        assert!(is_known, "{} is listed once", format.fourcc());
    }
}

#[test]
fn a_vulkan_format_leads_back_to_the_fourcc_with_alpha() {
    for format in Format::all() {
        let back = fourcc_of(format.vulkan().format).expect("a fourcc");
        if format.alpha() == Alpha::Ignored {
            let other = Format::of(back).expect("in the table");
            assert_eq!(other.alpha(), Alpha::Present);
            assert_eq!(other.planes(), format.planes());
        } else {
            assert_eq!(back, format.fourcc());
        }
    }
}

#[test]
fn bytes_of_texels_are_those_of_drm_fourcc_h() {
    /// A fourcc, and bytes of a row and rows of each plane, in an image of 8×4 texels.
    type Row = (&'static [u8; 4], &'static [(u64, u64)]);
    let rows: [Row; 10] = [
        (b"R8  ", &[(8, 4)]),
        (b"GR88", &[(16, 4)]),
        (b"RG16", &[(16, 4)]),
        (b"AR24", &[(32, 4)]),
        (b"AB4H", &[(64, 4)]),
        (b"YUYV", &[(16, 4)]),
        (b"NV12", &[(8, 4), (8, 2)]),
        (b"P010", &[(16, 4), (16, 2)]),
        (b"NV16", &[(8, 4), (8, 4)]),
        (b"YU12", &[(8, 4), (4, 2), (4, 2)]),
    ];
    for (name, planes) in rows {
        let format = Format::of(fourcc(name)).expect("in the table");
        let extent = Extent::new(8, 4);
        let sizes =
            format.planes().iter().map(|plane| (plane.row_bytes(extent), plane.rows(extent)));
        assert_eq!(sizes.collect::<Vec<_>>(), planes, "{}", format.fourcc());
    }
}

#[test]
fn a_code_outside_of_the_table_is_answered_with_the_reason() {
    let gap = |name| Format::of(fourcc(name)).expect_err("a gap").to_string();
    assert_eq!(
        gap(b"RG24"),
        "RG24 has 24 bits per texel, of which drivers make no images; convert it to XR24"
    );
    assert!(gap(b"NV21").contains("Cr before Cb; describe it as NV12"));
    assert!(gap(b"RA24").contains("nearest is AB24"));
    assert!(gap(b"zzzz").contains("zzzz is not a format"));
    let big = Fourcc::from_raw(fourcc(b"AR24").raw() | 1 << 31);
    assert_eq!(Format::of(big), Err(FormatGap::BigEndian(big)));
    assert_eq!(Format::of(Fourcc::from_raw(0)), Err(FormatGap::Unknown(Fourcc::from_raw(0))));
    assert_eq!(Fourcc::from_raw(7).to_string(), "0x00000007");
}

#[test]
fn what_a_gap_advises_is_in_the_table() {
    // All codes of the characters that occur in the gaps.
    let alphabet = b"ABGRXVYUNP0123468H";
    let mut gaps = 0;
    for a in alphabet {
        for b in alphabet {
            for c in alphabet {
                for d in alphabet {
                    let instead = match Format::of(Fourcc::new([*a, *b, *c, *d])) {
                        Err(
                            FormatGap::Packed24 { instead, .. }
                            | FormatGap::Swizzled { instead, .. }
                            | FormatGap::ChromaSwapped { instead, .. },
                        ) => instead,
                        _ => continue,
                    };
                    gaps += 1;
                    assert!(Format::of(instead).is_ok(), "{instead}");
                }
            }
        }
    }
    assert_eq!(gaps, 25, "every row of the gaps is met");
}

#[test]
fn srgb_depth_and_others_have_no_fourcc_and_say_so() {
    assert!(matches!(
        fourcc_of(vk::Format::B8G8R8A8_SRGB),
        Err(VulkanFormatGap::Srgb { share_as, .. }) if share_as == fourcc(b"AR24")
    ));
    assert!(matches!(
        fourcc_of(vk::Format::D32_SFLOAT),
        Err(VulkanFormatGap::DepthStencil(vk::Format::D32_SFLOAT))
    ));
    assert!(matches!(
        fourcc_of(vk::Format::BC1_RGB_UNORM_BLOCK),
        Err(VulkanFormatGap::NoFourcc(_))
    ));
}

#[test]
fn the_table_agrees_with_the_formats_that_devices_are_asked_for() {
    let codes = [
        DrmFourcc::R8,
        DrmFourcc::Gr88,
        DrmFourcc::Argb8888,
        DrmFourcc::Xrgb8888,
        DrmFourcc::Abgr8888,
        DrmFourcc::Xbgr8888,
        DrmFourcc::Argb2101010,
        DrmFourcc::Abgr2101010,
        DrmFourcc::Abgr16161616f,
        DrmFourcc::Nv12,
    ];
    for code in codes {
        if let Some(format) = crate::device::vulkan_format(code) {
            let own = Format::of(code.into()).expect("in the table");
            assert_eq!(own.vulkan().format, format, "{code}");
        }
    }
}

#[test]
fn usages_and_features_of_vulkan_map_to_uses() {
    let used = ImageUsage::SAMPLED | ImageUsage::BLENDED | ImageUsage::COPIED_TO;
    let flags = used.vulkan();
    let expected = vk::ImageUsageFlags::SAMPLED
        | vk::ImageUsageFlags::COLOR_ATTACHMENT
        | vk::ImageUsageFlags::TRANSFER_DST;
    assert_eq!(flags, expected);
    // LINEAR of V3D 7.1 (toyota-connected/ivi-homescreen#597): the features of the modifier.
    let features = ImageUsage::of_features(vk::FormatFeatureFlags::from_raw(0xc980));
    assert!(features.contains(ImageUsage::DRAWN | ImageUsage::BLENDED));
    assert!(features.contains(ImageUsage::COPIED_FROM | ImageUsage::COPIED_TO));
    assert!(!features.contains(ImageUsage::SAMPLED));
    // SwiftShader's LINEAR is copied, and never blitted.
    let copies = vk::FormatFeatureFlags::TRANSFER_SRC | vk::FormatFeatureFlags::TRANSFER_DST;
    let copied = ImageUsage::of_features(copies);
    assert_eq!(copied, ImageUsage::COPIED_FROM | ImageUsage::COPIED_TO);
    assert_eq!(ImageUsage::BLITTED_FROM.vulkan(), vk::ImageUsageFlags::TRANSFER_SRC);
    assert_eq!(used.to_string(), "copied to, sampled, blended");
    assert_eq!(ImageUsage::NONE.to_string(), "nothing");
}

#[test]
fn modifiers_have_names_and_an_unknown_one_is_a_number() {
    let name = |raw| Modifier::from_raw(raw).to_string();
    assert_eq!(name(0), "LINEAR");
    assert_eq!(name(0x00ff_ffff_ffff_ffff), "INVALID");
    assert_eq!(name(0x0100_0000_0000_0006), "INTEL Y_TILED_GEN12_RC_CCS");
    // cosmic-comp#2658: taken for LINEAR by its reporter.
    assert_eq!(name(72_057_594_037_927_951), "INTEL 4_TILED_MTL_RC_CCS_CC");
    // cosmic-comp#2782: `Unrecognized`, and the device was refused for it.
    assert_eq!(name(144_115_188_485_503_748), "AMD 0x02000000186abb04");
    assert_eq!(name(0xfe00_0000_0000_0001), "vendor ? 0xfe00000000000001");
    for raw in [0, 1 << 56 | 9, 0x0300_0000_0060_6015, u64::MAX] {
        let modifier = Modifier::from_raw(raw);
        let crates = DrmModifier::from(modifier);
        assert_eq!(Modifier::from(crates), modifier, "through the crate's enum and back");
    }
}

#[test]
fn memory_planes_follow_from_the_modifier_where_it_is_defined() {
    let planes = |raw, format_planes| Modifier::from_raw(raw).memory_planes(format_planes);
    assert_eq!(planes(0, 2), Some(2), "LINEAR has the planes of the format");
    assert_eq!(planes(0x0100_0000_0000_0006, 1), Some(2), "RC_CCS has a plane of control data");
    assert_eq!(planes(0x0100_0000_0000_0008, 1), Some(3), "RC_CCS_CC has a clear colour, too");
    assert_eq!(planes(0x0100_0000_0000_0007, 2), Some(4), "MC_CCS of NV12 has two of each");
    assert_eq!(planes(0x0100_0000_0000_000c, 1), Some(2), "DG2 keeps control data elsewhere");
    assert_eq!(planes(0x0300_0000_0060_6015, 1), Some(1));
    assert_eq!(planes(0x0200_0004_4051_ba01, 1), None, "AMD's driver knows");
}
