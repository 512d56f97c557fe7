//! Screenshots against pictures that are kept: `tests/reference`. `WRITE_PICTURES=1` writes those anew, by lavapipe.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::{devices, prime, stream};

/// How far a colour may be off, of 255, and how many texels of a thousand may be further off: drivers place the edges of
/// triangles and blits differently.
const COLOUR: u8 = 8;
const PERMILLE: usize = 5;

/// Rows of three bytes for each texel.
struct Picture {
    size: [usize; 2],
    rgb: Vec<u8>,
}

impl Picture {
    fn read(file: &Path) -> Self {
        let open = std::fs::File::open(file);
        let open =
            std::io::BufReader::new(open.unwrap_or_else(|error| panic!("{file:?}: {error}")));
        let mut reader = png::Decoder::new(open).read_info().expect("a PNG");
        let mut rgb = vec![0; reader.output_buffer_size().expect("a size")];
        let info = reader.next_frame(&mut rgb).expect("its texels");
        assert_eq!(info.color_type, png::ColorType::Rgb);
        Self { size: [info.width as usize, info.height as usize], rgb }
    }

    /// The texels in the middle.
    fn middle(&self, size: [usize; 2]) -> Vec<u8> {
        let first = [0, 1].map(|axis| (self.size[axis] - size[axis]) / 2);
        let row = |y: usize| ((first[1] + y) * self.size[0] + first[0]) * 3;
        (0..size[1]).flat_map(|y| &self.rgb[row(y)..][..size[0] * 3]).copied().collect()
    }

    /// How many texels of a thousand differ from those in the middle of another picture.
    fn differs(&self, other: &Self) -> usize {
        let middle = other.middle(self.size);
        let pairs = self.rgb.chunks(3).zip(middle.chunks(3));
        let is_off =
            |(a, b): &(&[u8], &[u8])| a.iter().zip(*b).any(|(a, b)| a.abs_diff(*b) > COLOUR);
        pairs.filter(is_off).count() * 1000 / (self.rgb.len() / 3)
    }
}

/// The picture that a program writes. Without a display SwiftShader presents 1280×720 texels whatever is asked for.
fn shot(program: &mut Command, arguments: &[&str]) -> Picture {
    let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("shot.png");
    let _ = std::fs::remove_file(&file);
    let fixed = ["--headless", "--size", "1280x720", "--plain", "--screenshot"];
    let output = program.args(fixed).arg(&file).args(arguments).output().expect("it starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Picture::read(&file)
}

/// The picture that is kept, or the middle of `new` if it is to be written.
fn reference(name: &str, size: [u32; 2], new: impl Fn() -> Picture) -> Picture {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference").join(name);
    if std::env::var_os("WRITE_PICTURES").is_some() {
        let rgb = new().middle(size.map(|texels| texels as usize));
        let bgra: Vec<u8> =
            rgb.chunks(3).flat_map(|texel| [texel[2], texel[1], texel[0], 255]).collect();
        peerbuf_apps::picture::write_png(&file, size, &bgra).expect("written");
    }
    Picture::read(&file)
}

#[test]
fn the_scene_is_that_of_the_reference_on_every_pair_and_either_way() {
    let devices = devices();
    let picture = |pair: [&str; 2], more: &[&str]| {
        let pair = ["--render", pair[0], "--present", pair[1]];
        shot(&mut prime(), &[&pair[..], more].concat())
    };
    let lavapipe = devices.iter().find(|one| one.name.contains("llvmpipe")).expect("lavapipe");
    let lavapipe = [lavapipe.number.as_str(); 2];
    let frames = ["--frames", "20"];
    let reference = reference("prime.png", [1280, 720], || picture(lavapipe, &frames));
    for render in &devices {
        for present in &devices {
            for way in [&[][..], &["--staged"]] {
                let pair = [render.number.as_str(), present.number.as_str()];
                let differs = reference.differs(&picture(pair, &[&frames[..], way].concat()));
                let what = format!("{} → {}, {way:?}", render.name, present.name);
                assert!(differs <= PERMILLE, "{what}: {differs} of 1000 texels differ");
            }
        }
    }
    // The tolerance tells frames apart.
    let another = reference.differs(&picture(lavapipe, &["--frames", "24"]));
    assert!(another > PERMILLE, "{another} of 1000 texels differ four frames later");
}

#[test]
fn the_map_is_that_of_the_reference_on_every_device() {
    let devices = devices();
    let picture = |device: &str, frames: &str| {
        // Everything has room, so that no coarser tile stands in. The last of six frames is over the finest level.
        let fixed = ["--levels", "4", "--per-frame", "65536", "--budget", "256"];
        shot(&mut stream(), &[&fixed[..], &["--frames", frames, "--device", device]].concat())
    };
    let lavapipe = devices.iter().find(|one| one.name.contains("llvmpipe")).expect("lavapipe");
    let reference = reference("stream.png", [256, 144], || picture(&lavapipe.number, "6"));
    for device in &devices {
        let differs = reference.differs(&picture(&device.number, "6"));
        assert!(differs <= PERMILLE, "{}: {differs} of 1000 texels differ", device.name);
    }
    // The tolerance tells places apart.
    let another = reference.differs(&picture(&lavapipe.number, "7"));
    assert!(another > PERMILLE, "{another} of 1000 texels differ at another place");
}
