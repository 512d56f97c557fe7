//! Offers of real drivers, as data, each with its source. What a source does not show is left out, or marked. Features
//! that a source does not state are those of [`ALL`], without storage for what is compressed; limits are made up.

use std::sync::Arc;

use ash::vk;

use crate::image::{
    Extent, Format, Fourcc, ImageOffer, ImageUsage, Limits, LinearLayout, Modifier, ModifierOffer,
    Offer, Padding, Shape, TilingOffer,
};

/// `features` of a modifier as drivers report them.
const DRAWN_AND_SAMPLED: u32 = 0xdd81;
/// The same and storage.
const ALL: u32 = 0xdd83;
/// Sampled with a filter, blitted and copied; not drawn into.
const SAMPLED_ONLY: u32 = 0xdc01;
/// V3D 7.1.7.0, `LINEAR`: everything but sampled and blitted from.
const V3D_LINEAR: u32 = 0xc980;

fn uses(features: u32) -> ImageUsage {
    ImageUsage::of_features(vk::FormatFeatureFlags::from_raw(features))
}

const FLAT: Limits = Limits::flat(16384);

/// Rows of a driver: modifier, memory planes, features. Best first.
type Rows = &'static [(u64, u8, u32)];

/// An offer of `rows`, with own images that can do everything.
fn of_rows(rows: Rows) -> Offer {
    let modifiers =
        rows.iter().enumerate().map(|(rank, &(modifier, planes, features))| ModifierOffer {
            modifier: Modifier::from_raw(modifier),
            planes,
            // CAST: short lists.
            rank: rank as u16,
            allows: uses(features),
            limits: Some(FLAT),
            importable: true,
            exportable: true,
            dedicated: false,
        });
    let own = ImageOffer { allows: uses(ALL), limits: Limits { mips: 15, layers: 2048, ..FLAT } };
    Offer { modifiers: modifiers.collect(), own_image: Some(own), ..Offer::default() }
}

/// RADV on Renoir (gfx9), XB24: swaywm/wlroots#2771, a log of 2021-06-29. It counts eight modifiers and the excerpt shows
/// four; `LINEAR`, with which Mesa's list of every generation ends, is added.
pub(super) fn radv_renoir() -> Offer {
    of_rows(&[
        (0x0200_0004_4051_ba01, 2, DRAWN_AND_SAMPLED),
        (0x0200_0004_4051_b901, 2, DRAWN_AND_SAMPLED),
        (0x0200_0004_4051_7901, 3, DRAWN_AND_SAMPLED),
        (0x0200_0000_0040_1a01, 1, DRAWN_AND_SAMPLED),
        (0, 1, ALL),
    ])
}

/// Radeon 780M (gfx11), AR24: ensky0/tildaz#277 names the modifier that was used and the presence of `LINEAR`;
/// pop-os/cosmic-comp#2782 the one of a Radeon 8060S. Planes and features are as for Renoir.
pub(super) fn radv_gfx11() -> Offer {
    of_rows(&[
        (0x0200_0000_186a_bb04, 2, DRAWN_AND_SAMPLED),
        (0x0200_0000_1040_1b04, 1, DRAWN_AND_SAMPLED),
        (0, 1, ALL),
    ])
}

/// NVIDIA's driver, BGRA8: russelltg/wl-screenrec#95 has the first four Vulkan rows, with one plane each and all
/// features; NVIDIA/egl-wayland#90 the others and `LINEAR` (545.23.06, by EGL: texture yes, render no).
pub(super) fn nvidia_545() -> Offer {
    of_rows(&[
        (0x0300_0000_0060_6015, 1, ALL),
        (0x0300_0000_0060_6014, 1, ALL),
        (0x0300_0000_0060_6013, 1, ALL),
        (0x0300_0000_0060_6012, 1, ALL),
        (0x0300_0000_0060_6011, 1, ALL),
        (0x0300_0000_0060_6010, 1, ALL),
        (0, 1, SAMPLED_ONLY),
    ])
}

/// RTX 3060 Ti, 610.43.03: ensky0/tildaz#277 counts twelve modifiers, uses 0x0300000000606010, and `LINEAR` is none of
/// them. The other rows are those of [`nvidia_545`].
pub(super) fn nvidia_610() -> Offer {
    let mut offer = nvidia_545();
    offer.modifiers.retain(|offered| !offered.modifier.is_linear());
    offer
}

/// ANV on Coffee Lake (gen9): the modifiers and their order of preference in Mesa's `src/intel/isl/isl_drm.c`. This is
/// the integrated GPU of pop-os/cosmic-comp#2664.
pub(super) fn anv_gen9() -> Offer {
    of_rows(&[
        (0x0100_0000_0000_0004, 2, DRAWN_AND_SAMPLED),
        (0x0100_0000_0000_0002, 1, ALL),
        (0x0100_0000_0000_0001, 1, ALL),
        (0, 1, ALL),
    ])
}

/// ANV on Tiger and Alder Lake (gen12): `isl_drm.c`; the same numbers in ensky0/tildaz#277 (Iris Xe).
pub(super) fn anv_gen12() -> Offer {
    of_rows(&[
        (0x0100_0000_0000_0008, 3, DRAWN_AND_SAMPLED),
        (0x0100_0000_0000_0006, 2, DRAWN_AND_SAMPLED),
        (0x0100_0000_0000_0002, 1, ALL),
        (0x0100_0000_0000_0001, 1, ALL),
        (0, 1, ALL),
    ])
}

/// ANV on DG2 (Arc): `isl_drm.c`. Its control data is outside of the memory, so compressed images have one plane.
pub(super) fn anv_dg2() -> Offer {
    of_rows(&[
        (0x0100_0000_0000_000c, 2, DRAWN_AND_SAMPLED),
        (0x0100_0000_0000_000a, 1, DRAWN_AND_SAMPLED),
        (0x0100_0000_0000_0009, 1, ALL),
        (0x0100_0000_0000_0001, 1, ALL),
        (0, 1, ALL),
    ])
}

/// PanVK: Mesa's `panvk_vX_physical_device.c` lists `LINEAR` alone, unless AFBC is asked for; such images have one layer
/// (`panvk_image_get_explicit_mod`).
pub(super) fn panvk() -> Offer {
    of_rows(&[(0, 1, ALL)])
}

/// PanVK with `PANVK_DEBUG=wsi_afbc`: the AFBC modifiers of `PAN_SUPPORTED_MODIFIERS`, not for storage.
pub(super) fn panvk_afbc() -> Offer {
    of_rows(&[
        (0x0800_0000_0000_0072, 1, DRAWN_AND_SAMPLED),
        (0x0800_0000_0000_0351, 1, DRAWN_AND_SAMPLED),
        (0, 1, ALL),
    ])
}

/// Turnip: SnowNF/wra#4, a log of wlroots' Vulkan renderer, R8 to XR24.
pub(super) fn turnip() -> Offer {
    of_rows(&[(0x0500_0000_0000_0001, 1, DRAWN_AND_SAMPLED), (0, 1, DRAWN_AND_SAMPLED)])
}

/// V3D 7.1.7.0 (Pi 5), BGRA8: toyota-connected/ivi-homescreen#597.
pub(super) fn v3dv() -> Offer {
    of_rows(&[(0x0700_0000_0000_0006, 1, ALL), (0, 1, V3D_LINEAR)])
}

/// lavapipe of Mesa 25.0.7, with dma-bufs (measured 2026-11): `LINEAR` only, for everything but YUV, which the list has
/// and the image query refuses.
pub(super) fn lavapipe_dma_buf(fourcc: Fourcc) -> Offer {
    let mut offer = of_rows(&[(0, 1, ALL)]);
    let planes = Format::of(fourcc).expect("a format").planes().len();
    for offered in &mut offer.modifiers {
        offered.planes = planes as u8;
        let deep = Limits { extent: Extent::new(32768, 32768), mips: 15, layers: 2048 };
        offered.limits = if planes == 1 { Some(deep) } else { None };
    }
    offer
}

/// The places that a driver chooses for linear tiling.
fn tiling(
    fourcc: Fourcc,
    shape: Shape,
    padding: Padding,
    features: u32,
    limits: Limits,
) -> TilingOffer {
    let linear = LinearLayout::new(fourcc, shape, padding).expect("a layout");
    TilingOffer {
        image: ImageOffer { allows: uses(features), limits },
        planes: linear.image_layout().planes().to_vec(),
        takes_any: false,
    }
}

/// lavapipe of Mesa 25.0.7, natively (measured 2026-11): no modifiers; host memory in linear tiling, rows of 64 bytes and
/// 4 rows.
pub(super) fn lavapipe(fourcc: Fourcc, shape: Shape) -> Offer {
    let padding = Padding { pitch: 64, rows: 4, offset: 1 };
    let limits = Limits { extent: Extent::new(32768, 32768), mips: 15, layers: 2048 };
    let linear_tiling = Some(tiling(fourcc, shape, padding, ALL, limits));
    Offer { linear_tiling, ..of_rows(&[]) }
}

/// SwiftShader of Chromium 156 (measured 2026-11): no modifiers; host memory in linear tiling, packed tightly, for
/// sampling and copies only, with one level.
pub(super) fn swiftshader(fourcc: Fourcc, shape: Shape) -> Offer {
    let padding = Padding { pitch: 1, rows: 1, offset: 1 };
    let linear_tiling = Some(tiling(fourcc, shape, padding, SAMPLED_ONLY, FLAT));
    Offer { linear_tiling, ..of_rows(&[]) }
}

/// All drivers with modifiers, by name.
pub(super) fn all() -> Vec<(&'static str, Arc<Offer>)> {
    let all: [(&str, Offer); 12] = [
        ("radv renoir", radv_renoir()),
        ("radv gfx11", radv_gfx11()),
        ("nvidia 545", nvidia_545()),
        ("nvidia 610", nvidia_610()),
        ("anv gen9", anv_gen9()),
        ("anv gen12", anv_gen12()),
        ("anv dg2", anv_dg2()),
        ("panvk", panvk()),
        ("panvk afbc", panvk_afbc()),
        ("turnip", turnip()),
        ("v3dv", v3dv()),
        ("lavapipe", lavapipe_dma_buf(Fourcc::new(*b"AR24"))),
    ];
    all.into_iter().map(|(name, offer)| (name, Arc::new(offer))).collect()
}
