//! Descriptions of images that other programs made: each kind of bad input has its error, which names the field, the
//! value and what would have been accepted.

use crate::image::{
    ForeignImage, ForeignImageError, ForeignPlane, Fourcc, ImageUsage, Limits, Modifier,
    ModifierOffer, Offer, Padding, PlaneError,
};

const Y_TILED_CCS: u64 = 0x0100_0000_0000_0006;
const AMD_DCC: u64 = 0x0200_0004_4051_ba01;

pub(super) fn offered(modifier: u64, planes: u8) -> ModifierOffer {
    ModifierOffer {
        modifier: Modifier::from_raw(modifier),
        planes,
        rank: 0,
        allows: ImageUsage::SAMPLED | ImageUsage::COPIED_FROM | ImageUsage::COPIED_TO,
        limits: Some(Limits { mips: 4, layers: 2, ..Limits::flat(16384) }),
        importable: true,
        exportable: true,
        dedicated: false,
    }
}

/// A device that imports `LINEAR`, and modifiers with planes of their own.
pub(super) fn importer(format_planes: u8) -> Offer {
    let modifiers = vec![
        offered(0, format_planes),
        offered(Y_TILED_CCS, 2 * format_planes),
        offered(AMD_DCC, 3),
    ];
    Offer { modifiers, ..Offer::default() }
}

fn rgb() -> ForeignImage {
    ForeignImage {
        fourcc: Fourcc::new(*b"AR24").raw(),
        modifier: 0,
        width: 64,
        height: 16,
        mips: 1,
        layers: 1,
        usage: ImageUsage::SAMPLED,
        planes: vec![ForeignPlane { fd: 0, offset: 0, pitch: 256 }],
        fds: vec![4096],
    }
}

fn nv12() -> ForeignImage {
    let plane = |offset| ForeignPlane { fd: 0, offset, pitch: 64 };
    ForeignImage {
        fourcc: Fourcc::new(*b"NV12").raw(),
        planes: vec![plane(0), plane(1024)],
        fds: vec![1536],
        ..rgb()
    }
}

/// The text of the refusal, after a change of an image that is accepted.
fn refused(mut image: ForeignImage, change: impl FnOnce(&mut ForeignImage)) -> String {
    let is_nv12 = image.planes.len() == 2;
    let offer = importer(if is_nv12 { 2 } else { 1 });
    assert!(image.check(&offer).is_ok(), "{:?}", image.check(&offer));
    change(&mut image);
    image.check(&offer).expect_err("refused").to_string()
}

#[test]
fn what_is_right_becomes_the_layout() {
    let layout = nv12().check(&importer(2)).expect("a layout");
    assert_eq!(
        layout.to_string(),
        "NV12 LINEAR 64×16, 64 bytes per row at 0 of fd 0, 64 bytes per row at 1024 of fd 0"
    );
    // The last row needs no padding, and planes may be in files of their own.
    let mut image = nv12();
    image.planes[1] = ForeignPlane { fd: 1, offset: 0, pitch: 128 };
    image.fds = vec![1024, 7 * 128 + 64];
    assert!(image.check(&importer(2)).is_ok());
    // Planes may come in any order in the file.
    image.planes = vec![
        ForeignPlane { fd: 0, offset: 512, pitch: 64 },
        ForeignPlane { fd: 0, offset: 0, pitch: 64 },
    ];
    image.fds = vec![1536];
    assert!(image.check(&importer(2)).is_ok());
}

#[test]
fn sizes_of_zero_and_absurd_ones_are_refused() {
    assert_eq!(refused(rgb(), |i| i.width = 0), "width is 0, accepted: 1 to 65536");
    assert_eq!(refused(rgb(), |i| i.height = 0), "height is 0, accepted: 1 to 65536");
    assert_eq!(
        refused(rgb(), |i| i.height = u32::MAX),
        "height is 4294967295, accepted: 1 to 65536"
    );
    assert_eq!(refused(rgb(), |i| i.width = 16385), "width is 16385, accepted: 1 to 16384");
    assert_eq!(refused(rgb(), |i| i.mips = 0), "mip levels is 0, accepted: 1 to 7");
    assert_eq!(refused(rgb(), |i| i.layers = 0), "array layers is 0, accepted: 1 to 65536");
    assert_eq!(refused(nv12(), |i| i.width = 63), "extent is 63×16, accepted: multiples of 2×2");
}

#[test]
fn pitches_that_are_too_small_or_unaligned_are_refused() {
    // lavapipe accepts the first, and rows overwrite each other.
    assert_eq!(
        refused(rgb(), |i| i.planes[0].pitch = 252),
        "plane 0: pitch is 252, accepted: at least 256, the bytes of a row"
    );
    assert_eq!(
        refused(rgb(), |i| (i.planes[0].pitch, i.fds) = (258, vec![1 << 20])),
        "plane 0: pitch is 258, accepted: multiples of 4; the next is 260"
    );
    assert_eq!(
        refused(rgb(), |i| i.planes[0].pitch = 1 << 32),
        "plane 0: pitch is 4294967296, accepted: 0 to 2147483647"
    );
    let needs = Padding { pitch: 128, rows: 1, offset: 64 };
    let offer = Offer { needs, ..importer(1) };
    let mut image = ForeignImage { fds: vec![1 << 20], ..rgb() };
    image.planes[0].pitch = 260;
    assert_eq!(
        image.check(&offer).expect_err("refused").to_string(),
        "plane 0: pitch is 260, accepted: multiples of 128; the next is 384"
    );
    image.planes[0] = ForeignPlane { fd: 0, offset: 32, pitch: 256 };
    assert_eq!(
        image.check(&offer).expect_err("refused").to_string(),
        "plane 0: offset is 32, accepted: multiples of 64; the next is 64"
    );
}

#[test]
fn offsets_within_a_texel_and_pitches_beyond_31_bits_are_refused() {
    let room = |i: &mut ForeignImage| i.fds = vec![1 << 40];
    let offset = |offset| {
        move |i: &mut ForeignImage| {
            room(i);
            i.planes.last_mut().expect("a plane").offset = offset;
        }
    };
    assert_eq!(
        refused(rgb(), offset(2)),
        "plane 0: offset is 2, accepted: multiples of 4; the next is 4"
    );
    assert_eq!(
        refused(nv12(), offset(1025)),
        "plane 1: offset is 1025, accepted: multiples of 2; the next is 1026"
    );
    // Of one row, no pitch is too large for the file.
    let one_row = ForeignImage { height: 1, ..rgb() };
    for pitch in [0xffff_fffc, 1 << 31] {
        assert_eq!(
            refused(one_row.clone(), |i| i.planes[0].pitch = pitch),
            format!("plane 0: pitch is {pitch}, accepted: 0 to 2147483647")
        );
    }
    let mut largest = one_row;
    largest.planes[0].pitch = (1 << 31) - 4;
    assert!(largest.check(&importer(1)).is_ok(), "{:?}", largest.check(&importer(1)));
    // Both what a texel needs and what a device needs.
    let needs = Padding { pitch: 6, rows: 1, offset: 6 };
    let offer = Offer { needs, ..importer(1) };
    let mut image = rgb();
    room(&mut image);
    image.planes[0] = ForeignPlane { fd: 0, offset: 6, pitch: 264 };
    assert_eq!(
        image.check(&offer).expect_err("refused").to_string(),
        "plane 0: offset is 6, accepted: multiples of 12; the next is 12"
    );
}

#[test]
fn what_is_not_in_its_file_is_refused() {
    // lavapipe accepts the first, and the process dies at the first write.
    assert_eq!(
        refused(rgb(), |i| i.planes[0].offset = 1 << 30),
        "plane 0: offset is 1073741824, accepted: below 4096, the size of the fd"
    );
    assert_eq!(
        refused(rgb(), |i| i.planes[0].offset = 4),
        "plane 0: its last row ends at 4100, accepted: up to 4096, the size of the fd (height % 1)"
    );
    assert_eq!(
        refused(nv12(), |i| i.fds = vec![1535]),
        "plane 1: its last row ends at 1536, accepted: up to 1535, the size of the fd (height % 1)"
    );
    assert_eq!(
        refused(rgb(), |i| i.planes[0].fd = 1),
        "fd 0 has no plane, accepted: fds that a plane is in"
    );
    assert_eq!(
        refused(nv12(), |i| i.planes[1].fd = 7),
        "plane 1: fd index is 7, accepted: below 1"
    );
    // A driver that pads the height (Apollo-Linux#22) gets its rows, or the image is refused here.
    let offer = Offer { needs: Padding { pitch: 1, rows: 32, offset: 1 }, ..importer(1) };
    assert_eq!(
        rgb().check(&offer).expect_err("refused").to_string(),
        "plane 0: its last row ends at 8192, accepted: up to 4096, the size of the fd (height % 32)"
    );
}

#[test]
fn planes_that_overlap_are_refused() {
    assert_eq!(
        refused(nv12(), |i| i.planes[1].offset = 1022),
        "plane 1 begins at 1022, accepted: not in plane 0, which ends at 1024"
    );
    assert_eq!(
        refused(nv12(), |i| i.planes[1].offset = 0),
        "plane 1 begins at 0, accepted: not in plane 0, which ends at 1024"
    );
    let same = |i: &mut ForeignImage| {
        i.modifier = AMD_DCC;
        i.planes = vec![ForeignPlane { fd: 0, offset: 8, pitch: 1 }; 3];
    };
    assert!(refused(rgb(), same).contains("plane 1 begins at 8"), "whatever the modifier is");
}

#[test]
fn products_that_overflow_are_refused() {
    let overflow = |i: &mut ForeignImage| {
        i.planes[0] = ForeignPlane { fd: 0, offset: u64::MAX - 7, pitch: 256 };
        i.fds = vec![u64::MAX];
    };
    assert_eq!(
        refused(rgb(), overflow),
        "plane 0: offset is 18446744073709551608 and pitch 256, accepted: a last row that ends below 2^64"
    );
    let offer = Offer { needs: Padding { offset: 1 << 31, ..Padding::NONE }, ..importer(1) };
    let mut image = rgb();
    overflow(&mut image);
    let error = image.check(&offer);
    assert!(matches!(
        error,
        Err(ForeignImageError::Plane { plane: 0, error: PlaneError::Overflow { .. } })
    ));
}

#[test]
fn wrong_numbers_of_planes_and_fds_are_refused() {
    let more = |i: &mut ForeignImage| i.planes.push(i.planes[0]);
    assert_eq!(refused(rgb(), more), "2 memory planes, accepted with LINEAR: 1");
    assert_eq!(
        refused(nv12(), |i| i.planes.truncate(1)),
        "1 memory planes, accepted with LINEAR: 2"
    );
    assert_eq!(refused(rgb(), |i| i.planes.clear()), "0 memory planes, accepted with LINEAR: 1");
    // AMD sends three memory planes for an image of one format plane (xdph#427).
    assert_eq!(
        refused(rgb(), |i| i.modifier = AMD_DCC),
        "1 memory planes, accepted with AMD 0x020000044051ba01: 3"
    );
    assert_eq!(
        refused(rgb(), |i| i.modifier = Y_TILED_CCS),
        "1 memory planes, accepted with INTEL Y_TILED_GEN12_RC_CCS: 2"
    );
    assert_eq!(
        refused(rgb(), |i| i.fds.push(4096)),
        "2 fds, accepted: 1 to 1, the number of memory planes"
    );
    assert_eq!(
        refused(rgb(), |i| i.fds.clear()),
        "0 fds, accepted: 1 to 1, the number of memory planes"
    );
}

#[test]
fn a_driver_that_counts_planes_against_the_definition_is_not_believed() {
    let offer = Offer { modifiers: vec![offered(0, 1)], ..Offer::default() };
    let error = nv12().check(&offer).expect_err("refused");
    assert_eq!(error.to_string(), "2 memory planes, accepted with LINEAR: 1");
}

#[test]
fn formats_and_modifiers_that_are_not_offered_are_refused() {
    assert_eq!(
        refused(rgb(), |i| i.fourcc = Fourcc::new(*b"Q123").raw()),
        "Q123 is not a format that images are shared in"
    );
    assert!(
        refused(rgb(), |i| i.fourcc = Fourcc::new(*b"BG24").raw()).contains("convert it to XB24")
    );
    assert_eq!(
        refused(rgb(), |i| i.modifier = 0x0300_0000_0060_6015),
        "modifier is NVIDIA 0x0300000000606015, accepted: LINEAR, INTEL Y_TILED_GEN12_RC_CCS, AMD \
         0x020000044051ba01"
    );
    assert!(refused(rgb(), |i| i.modifier = Modifier::INVALID.raw()).contains("GBM_BO_USE_LINEAR"));
    let error = rgb().check(&Offer::default()).expect_err("refused").to_string();
    assert!(error.ends_with("none, the device imports no images of this format"), "{error}");
    let mut listed_only = importer(1);
    listed_only.modifiers[0].limits = None;
    assert!(matches!(
        rgb().check(&listed_only),
        Err(ForeignImageError::ModifierNotOffered { offered, .. }) if offered.len() == 2
    ));
    let mut exports_only = importer(1);
    exports_only.modifiers[0].importable = false;
    assert!(rgb().check(&exports_only).is_err());
}

#[test]
fn uses_levels_and_layers_that_the_layout_has_not_are_refused() {
    assert_eq!(
        refused(rgb(), |i| i.usage = ImageUsage::SAMPLED | ImageUsage::DRAWN),
        "usage has drawn into, accepted with LINEAR: copied from, copied to, sampled"
    );
    assert_eq!(refused(rgb(), |i| i.mips = 4), "mip levels is 4, accepted: 1 to 1");
    assert_eq!(refused(rgb(), |i| i.layers = 2), "array layers is 2, accepted: 1 to 1");
    let tiled = |i: &mut ForeignImage| {
        i.modifier = AMD_DCC;
        let plane = |offset| ForeignPlane { fd: 0, offset, pitch: 256 };
        i.planes = vec![plane(0), plane(2048), plane(3072)];
        i.mips = 5;
    };
    assert_eq!(refused(rgb(), tiled), "mip levels is 5, accepted: 1 to 4");
}

#[test]
fn of_several_offers_one_has_to_allow_all_uses() {
    let for_use = |allows| {
        let mut offer = importer(1);
        offer.modifiers.iter_mut().for_each(|of| of.allows = allows);
        offer
    };
    let offers = [for_use(ImageUsage::SAMPLED), for_use(ImageUsage::DRAWN)];
    let used = |usage| ForeignImage { usage, ..rgb() }.check_any(&offers);
    assert!(used(ImageUsage::SAMPLED).is_ok() && used(ImageUsage::DRAWN).is_ok());
    let both = used(ImageUsage::SAMPLED | ImageUsage::DRAWN).expect_err("neither allows both");
    assert_eq!(both.to_string(), "usage has sampled, accepted with LINEAR: drawn into");
    assert!(rgb().check_any(&[]).is_err(), "no offer");
}

#[test]
fn planes_beside_the_texels_only_have_to_begin_in_the_file() {
    let mut image = ForeignImage { modifier: Y_TILED_CCS, fds: vec![8192], ..rgb() };
    image.planes.push(ForeignPlane { fd: 0, offset: 4096, pitch: 64 });
    assert!(image.check(&importer(1)).is_ok(), "{:?}", image.check(&importer(1)));
    image.planes[1].offset = 8192;
    assert!(image.check(&importer(1)).is_err());
    image.planes[1].offset = 4092;
    assert!(image.check(&importer(1)).is_err(), "in the rows of the main surface");
}
