//! Linear layouts, computed; padding, and its evidence.

use std::mem::size_of;

use super::Random;
use crate::image::ImageUsage;
use crate::image::{
    Extent, ForeignImage, Format, Fourcc, ImageLayout, LayoutError, Limits, LinearLayout,
    MAX_PLANES, MemoryPlane, Modifier, ModifierOffer, Offer, PADDING_EVIDENCE, Padding, Shape,
    ShapeError,
};

fn fourcc(name: &[u8; 4]) -> Fourcc {
    Fourcc::new(*name)
}

fn planes(name: &[u8; 4], shape: Shape, padding: Padding) -> (Vec<(u64, u32)>, u64) {
    let linear = LinearLayout::new(fourcc(name), shape, padding).expect("a layout");
    let layout = linear.image_layout();
    (layout.planes().iter().map(|plane| (plane.offset, plane.pitch)).collect(), linear.bytes())
}

#[test]
fn the_smallest_layout_has_rows_one_after_the_other() {
    let shape = Shape::new(62, 18);
    assert_eq!(planes(b"AR24", shape, Padding::NONE), (vec![(0, 248)], 248 * 18));
    assert_eq!(planes(b"R8  ", shape, Padding::NONE), (vec![(0, 62)], 62 * 18));
    let nv12 = vec![(0, 62), (62 * 18, 62)];
    assert_eq!(planes(b"NV12", shape, Padding::NONE), (nv12, 62 * 27));
    let yu12 = vec![(0, 62), (62 * 18, 31), (62 * 18 + 31 * 9, 31)];
    assert_eq!(planes(b"YU12", shape, Padding::NONE), (yu12, 62 * 27));
}

#[test]
fn what_lavapipe_lays_out_is_a_padding_of_64_bytes_and_4_rows() {
    // Measured (2026-11, Mesa 25.0.7): 62×18, pitch 256 and 64, the second plane of NV12 at 1280.
    let lavapipe = Padding { pitch: 64, rows: 4, offset: 1 };
    let shape = Shape::new(62, 18);
    assert_eq!(planes(b"AR24", shape, lavapipe).0, [(0, 256)]);
    assert_eq!(planes(b"R8  ", shape, lavapipe).0, [(0, 64)]);
    assert_eq!(planes(b"NV12", shape, lavapipe).0, [(0, 64), (1280, 64)]);
}

#[test]
fn what_crosses_devices_has_256_bytes_and_16_rows() {
    let shape = Shape::new(1600, 1068);
    let (planes, bytes) = planes(b"XR24", shape, Padding::CROSSING);
    assert_eq!(planes, [(0, 6400)]);
    assert_eq!(bytes, 6400 * 1072, "the height that radeonsi counts with (Apollo-Linux#22)");
    for row in PADDING_EVIDENCE {
        assert!(Padding::CROSSING.satisfies(row.needs), "{}: {}", row.driver, row.evidence);
    }
    assert!(Padding::WIDE.satisfies(Padding::CROSSING));
}

#[test]
fn levels_and_layers_are_apart_and_inside() {
    let shape = Shape::new(256, 255).with_mips(9).with_layers(3);
    for padding in [Padding::NONE, Padding::CROSSING, Padding { pitch: 12, rows: 5, offset: 7 }] {
        let linear = LinearLayout::new(fourcc(b"AR24"), shape, padding).expect("a layout");
        let mut end = 0;
        for layer in 0..3 {
            for level in 0..9 {
                let span = linear.level_span(0, level, layer).expect("a level");
                let extent = shape.extent.at_level(level);
                assert!(span.offset >= end, "{padding:?}: level {level} of layer {layer}");
                assert_eq!(span.offset % u64::from(padding.offset), 0);
                assert_eq!(span.pitch % padding.pitch, 0);
                assert_eq!(
                    (span.row_bytes, span.rows),
                    (u64::from(extent.width) * 4, extent.height.into())
                );
                assert!(span.bytes >= u64::from(span.pitch) * span.rows);
                end = span.offset + span.bytes;
            }
        }
        assert!(end <= linear.bytes());
        assert_eq!(linear.level_span(0, 9, 0), None);
        assert_eq!(linear.level_span(0, 0, 3), None);
        assert_eq!(linear.level_span(1, 0, 0), None);
    }
}

#[test]
fn sizes_that_no_image_has_are_refused_with_the_field() {
    let error =
        |name, shape| LinearLayout::new(fourcc(name), shape, Padding::NONE).expect_err("refused");
    let text = |name, shape| error(name, shape).to_string();
    assert_eq!(text(b"AR24", Shape::new(0, 4)), "width is 0, accepted: 1 to 65536");
    assert_eq!(
        text(b"AR24", Shape::new(4, u32::MAX)),
        "height is 4294967295, accepted: 1 to 65536"
    );
    assert_eq!(text(b"AR24", Shape::new(4, 4).with_mips(4)), "mip levels is 4, accepted: 1 to 3");
    assert_eq!(text(b"NV12", Shape::new(4, 4).with_mips(2)), "mip levels is 2, accepted: 1 to 1");
    assert_eq!(text(b"NV12", Shape::new(5, 4)), "extent is 5×4, accepted: multiples of 2×2");
    assert_eq!(
        text(b"NV16", Shape::new(4, 5).with_layers(0)),
        "array layers is 0, accepted: 1 to 1"
    );
    assert!(matches!(error(b"RG24", Shape::new(4, 4)), LayoutError::Format(_)));
    assert!(matches!(
        error(b"YUYV", Shape::new(3, 3)),
        LayoutError::Shape(ShapeError::NotMultiple { .. })
    ));
}

#[test]
fn products_that_overflow_are_errors() {
    let large = Shape::new(1 << 16, 1 << 16).with_layers(1 << 16);
    let padding = Padding { pitch: 1 << 31, rows: 1 << 31, offset: 1 << 31 };
    let overflow = LinearLayout::new(fourcc(b"AB4H"), large, padding);
    assert_eq!(overflow, Err(LayoutError::Overflow { plane: 0 }));
    let zero = Padding { pitch: 0, ..Padding::NONE };
    assert!(LinearLayout::new(fourcc(b"R8  "), Shape::new(1, 1), zero).is_err());
    assert_eq!(padding.and(Padding { pitch: 3, ..Padding::NONE }), None);
    assert_eq!(Padding::NONE.and(zero), None);
    assert_eq!(
        Padding { pitch: 96, rows: 6, offset: 4 }.and(Padding::CROSSING),
        Some(Padding { pitch: 768, rows: 48, offset: 4096 })
    );
}

#[test]
fn a_layout_is_small_and_refuses_more_planes_than_vulkan_takes() {
    assert!(size_of::<ImageLayout>() <= 96, "{}", size_of::<ImageLayout>());
    let make = |count| {
        let planes = vec![MemoryPlane::default(); count];
        ImageLayout::new(fourcc(b"AR24"), Modifier::LINEAR, Shape::new(1, 1), &planes)
    };
    assert_eq!(make(0), Err(LayoutError::PlaneCount(0)));
    assert_eq!(make(MAX_PLANES).map(|layout| layout.planes().len()), Ok(MAX_PLANES));
    assert_eq!(make(5), Err(LayoutError::PlaneCount(5)));
}

/// An importer that takes every linear image.
fn takes_linear(planes: u8) -> Offer {
    let offered = ModifierOffer {
        modifier: Modifier::LINEAR,
        planes,
        rank: 0,
        allows: ImageUsage::SAMPLED,
        limits: Some(Limits::SANE),
        importable: true,
        exportable: false,
        dedicated: false,
    };
    Offer { modifiers: vec![offered], ..Offer::default() }
}

#[test]
fn a_layout_that_goes_out_and_comes_back_is_the_same() {
    let mut random = Random(1);
    for round in 0..20_000 {
        let format = random.pick(Format::all());
        let unit = format.granularity();
        // CAST: below 2^12.
        let mut size = |unit: u32| (random.below(1 << 12) as u32 + 1).next_multiple_of(unit);
        let shape =
            Shape { extent: Extent::new(size(unit.width), size(unit.height)), mips: 1, layers: 1 };
        // CAST: below 2^10.
        let mut align = || random.below(1 << 10) as u32 + 1;
        // Whole texels of every format: no texel has more than eight bytes.
        let padding = Padding { pitch: align() * 8, rows: align() + 1, offset: align() * 8 };
        let linear = LinearLayout::new(format.fourcc(), shape, padding).expect("a layout");
        let layout = linear.image_layout();
        let out = ForeignImage { fds: vec![linear.bytes()], ..layout.into() };
        // CAST: at most four planes.
        let back = out.check(&takes_linear(format.planes().len() as u8));
        assert_eq!(back, Ok(layout), "round {round}, {padding:?}");
        let padded = Offer { needs: padding, ..takes_linear(format.planes().len() as u8) };
        assert_eq!(out.check(&padded), Ok(layout), "an importer that needs the same padding");
        let last = linear.level_span(format.planes().len() - 1, 0, 0).expect("a level");
        let short = ForeignImage { fds: vec![last.offset + last.bytes - 1], ..out };
        assert!(short.check(&padded).is_err(), "round {round}: one byte less is refused");
    }
}
