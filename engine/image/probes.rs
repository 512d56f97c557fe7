//! The image that a probe of a candidate makes, in the numbers of Vulkan, and what its result means.

use ash::vk;

use super::extent::{Extent, Shape};
use super::format::{Format, FormatPlane};
use super::layout::{LinearLayout, MemoryPlane};
use super::negotiate::{Candidate, ProbeRefusal, Rung};
use super::padding::Padding;
use super::usage::ImageUsage;
use super::verdict::{ImageProof, ImageUntried};
use crate::memory::{ImageSpec, PlaneStart, Tiling};
use crate::transfer::{ImageFault, ImagePasses, ImageProbe, ImageRead, ProbePlane};

/// An odd size, of rows that are no multiple of anything. Drivers that pad rows place them elsewhere than others do.
const ODD: Extent = Extent::new(61, 19);
/// Sizes at which drivers that pad rows to 64, 128 or 256 bytes, and heights to 4 or 8 rows, place all rows alike. They are
/// tried for images whose rows the drivers place.
const REGULAR: [Extent; 2] = [Extent::new(192, 24), Extent::new(512, 64)];

/// The most bytes of an image that is made only to ask where its planes are.
const MOST_ASKED: u64 = 256 << 20;

/// The extent of the image that drivers are asked about. Memory for it is allocated, since the places of several planes
/// are known only once memory is bound. Of one plane, the first byte is the first row, and the pitch is that of few
/// rows.
pub(super) fn asked_extent(format: &'static Format, shape: Shape) -> Result<Extent, ImageUntried> {
    const ROWS: u32 = 64;
    let Extent { width, height } = shape.extent;
    if format.planes().len() == 1 {
        return Ok(Extent::new(width, height.min(ROWS)));
    }
    let flat = Shape::new(width, height);
    let linear = LinearLayout::new(format.fourcc(), flat, Padding::NONE);
    let bytes = linear.map_or(u64::MAX, |linear| linear.bytes());
    let most = MOST_ASKED;
    if bytes > most { Err(ImageUntried::TooLarge { bytes, most }) } else { Ok(shape.extent) }
}

/// The image of a probe.
#[derive(Clone, Debug)]
pub(super) struct OwnedProbe {
    pub(super) extent: Extent,
    format: vk::Format,
    views: &'static [vk::Format],
    planes: Vec<ProbePlane>,
    /// Where planes are stated to be; `None` if the drivers place them.
    starts: Option<Vec<PlaneStart>>,
    /// A tiled modifier, and its memory planes, which the first driver places.
    tiled: Option<(u64, u32)>,
    bytes: u64,
    usages: [ImageUsage; 2],
    sampled: bool,
}

impl OwnedProbe {
    /// An image with linear tiling, or of the modifier `LINEAR` with planes as in `layout`.
    ///
    /// `usages` are those of the image on the device that writes, and on the one that reads.
    pub(super) fn new(
        format: &Format,
        extent: Extent,
        layout: Option<&LinearLayout>,
        usages: [ImageUsage; 2],
    ) -> Self {
        let starts = layout.map(|layout| {
            let planes = layout.image_layout();
            let start = |plane: &MemoryPlane| PlaneStart {
                offset: plane.offset,
                pitch: plane.pitch.into(),
            };
            planes.planes().iter().map(start).collect()
        });
        Self {
            extent,
            format: format.vulkan().format,
            views: format.plane_views(),
            planes: planes(format, extent),
            starts,
            tiled: None,
            bytes: layout.map_or(0, LinearLayout::bytes),
            usages,
            sampled: usages[1].contains(ImageUsage::SAMPLED) && is_read_by_texels(format),
        }
    }

    pub(super) fn probe(&self) -> ImageProbe<'_> {
        let tiling = match (&self.starts, self.tiled) {
            (Some(planes), _) => Tiling::Modifier { modifier: 0, planes },
            (None, Some((modifier, planes))) => Tiling::Listed { modifier, planes },
            (None, None) => Tiling::Linear,
        };
        let Extent { width, height } = self.extent;
        let usages = self.usages.map(ImageUsage::vulkan);
        let spec = ImageSpec {
            format: self.format,
            plane_formats: self.views,
            extent: vk::Extent2D { width, height },
            mips: 1,
            layers: 1,
            usage: usages[1],
            tiling,
        };
        let (planes, bytes, sampled) = (&self.planes, self.bytes, self.sampled);
        ImageProbe { spec, usages, planes, bytes, sampled }
    }
}

/// The images to try for a candidate that is shared, best first. A tiled modifier has so many memory planes.
pub(super) fn of_candidate(
    candidate: Candidate,
    memory_planes: u8,
    format: &Format,
    usages: [ImageUsage; 2],
) -> Vec<OwnedProbe> {
    let odd = whole(format, ODD);
    match candidate.rung() {
        Rung::SharedLinear => {
            let shape = Shape::new(odd.width, odd.height);
            // So small an image of a format that is known can be laid out.
            let layout = LinearLayout::new(format.fourcc(), shape, candidate.padding()).ok();
            layout.iter().map(|of| OwnedProbe::new(format, odd, Some(of), usages)).collect()
        }
        Rung::LinearTiling => {
            let extents = [odd].into_iter().chain(REGULAR);
            extents.map(|extent| OwnedProbe::new(format, extent, None, usages)).collect()
        }
        Rung::SharedTiled => {
            let tiled = Some((candidate.modifier().raw(), memory_planes.into()));
            vec![OwnedProbe { tiled, ..OwnedProbe::new(format, odd, None, usages) }]
        }
        _ => vec![],
    }
}

/// The extent, rounded up to whole blocks of chroma.
fn whole(format: &Format, extent: Extent) -> Extent {
    let unit = format.granularity();
    Extent::new(
        extent.width.next_multiple_of(unit.width),
        extent.height.next_multiple_of(unit.height),
    )
}

fn planes(format: &Format, extent: Extent) -> Vec<ProbePlane> {
    let bits = bits(format.vulkan().format);
    let plane = |plane: &FormatPlane| {
        let divide = [plane.divide_x, plane.divide_y].map(u32::from);
        ProbePlane {
            width: extent.width.div_ceil(divide[0]),
            height: extent.height.div_ceil(divide[1]),
            block_bytes: plane.block_bytes.into(),
            block_width: plane.block_width.into(),
            divide,
            bits,
        }
    };
    format.planes().iter().map(plane).collect()
}

/// The bits of each 16-bit word that are written and compared.
fn bits(format: vk::Format) -> u16 {
    match format {
        vk::Format::G10X6_B10X6R10X6_2PLANE_420_UNORM_3PACK16
        | vk::Format::G10X6_B10X6R10X6_2PLANE_422_UNORM_3PACK16 => 0xffc0,
        vk::Format::G12X4_B12X4R12X4_2PLANE_420_UNORM_3PACK16 => 0xfff0,
        // Numbers below 2: a shader need not keep the bits of others.
        vk::Format::R16G16B16A16_SFLOAT => 0xbfff,
        _ => u16::MAX,
    }
}

/// Whether shaders read it texel by texel. Formats with two texels in a block are read through a conversion, which mixes
/// texels.
fn is_read_by_texels(format: &Format) -> bool {
    format.planes().iter().all(|plane| plane.block_width == 1)
}

/// What a probe of these has proved.
pub(super) fn proof(passes: ImagePasses, probes: &[OwnedProbe]) -> ImageProof {
    let ImagePasses { route, probe, texels, copied, sampled } = passes;
    let extent = probes.get(probe).map_or(Extent::new(0, 0), |probe| probe.extent);
    ImageProof { route, extent, texels, copied, sampled }
}

/// Why a probe refused a way to share images.
pub(super) fn refusal(fault: ImageFault) -> ProbeRefusal {
    match fault {
        ImageFault::WrongTexels { read: ImageRead::Copied, wrong, texels, first: [x, y] } => {
            ProbeRefusal::WrongTexels { wrong, texels, x, y }
        }
        ImageFault::WrongTexels { read: ImageRead::Sampled, wrong, texels, first: [x, y] } => {
            ProbeRefusal::WrongSamples { wrong, texels, x, y }
        }
        ImageFault::OtherPlace { plane, near, far } => ProbeRefusal::OtherPlace {
            plane,
            pitch: near.pitch,
            offset: near.offset,
            other_pitch: far.pitch,
            other_offset: far.offset,
        },
        ImageFault::NoMemory => ProbeRefusal::NoMemory,
        ImageFault::Refused(reason) => ProbeRefusal::Memory(reason),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{Fourcc, Padding};

    #[test]
    fn a_probe_is_odd_and_whole() {
        for format in Format::all() {
            let odd = whole(format, ODD);
            let unit = format.granularity();
            assert_eq!((odd.width % unit.width, odd.height % unit.height), (0, 0));
            assert!(!odd.width.is_power_of_two() && !odd.height.is_power_of_two());
            for plane in format.planes() {
                assert_ne!(
                    plane.row_bytes(odd) % 64,
                    0,
                    "{}: a padded row is longer",
                    format.fourcc()
                );
            }
            assert_eq!(planes(format, odd).len(), format.planes().len());
        }
    }

    #[test]
    fn rows_of_regular_sizes_need_no_padding() {
        for (format, extent) in Format::all().iter().flat_map(|f| REGULAR.map(|extent| (f, extent)))
        {
            assert_eq!(whole(format, extent), extent, "{}", format.fourcc());
            for plane in format.planes() {
                assert_eq!(plane.row_bytes(extent) % 32, 0, "{}", format.fourcc());
            }
        }
    }

    #[test]
    fn candidates_that_peerbuf_lays_out_are_probed_with_their_padding() {
        let format = Format::of(Fourcc::new(*b"NV12")).expect("in the table");
        let usages = [ImageUsage::COPIED_TO, ImageUsage::COPIED_FROM | ImageUsage::SAMPLED];
        let linear = Candidate::linear(Padding::CROSSING.pitch);
        let probes = of_candidate(linear, 1, format, usages);
        let [only] = &probes[..] else { panic!("one size suffices: {probes:?}") };
        let starts = only.starts.as_ref().expect("planes are stated");
        let expected =
            [PlaneStart { offset: 0, pitch: 256 }, PlaneStart { offset: 8192, pitch: 256 }];
        assert_eq!(starts[..], expected);
        assert!(only.sampled);
        let tiled = Candidate::tiled(crate::image::Modifier::from_raw(1));
        let probes = of_candidate(tiled, 3, format, usages);
        let [only] = &probes[..] else { panic!("one size suffices: {probes:?}") };
        // Memory planes are not planes of the format.
        assert_eq!(only.probe().spec.tiling, Tiling::Listed { modifier: 1, planes: 3 });
        assert_eq!(only.probe().planes.len(), 2);
    }
}
