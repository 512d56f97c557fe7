//! Calls that fail on the way of an image: reported, and nothing is left or lost.

use ash::vk;
use peerbuf::device::Call;
use peerbuf::{Access, Device, Engine, Result, SharedImage};

use crate::common::{LONG, Rig};
use crate::texels::{assert_host_reads, image, write_by_host};

const CALLS: [Call; 9] = [
    Call::CreateImage,
    Call::BindImageMemory,
    Call::CreateBuffer,
    Call::BindBufferMemory,
    Call::AllocateMemory,
    Call::ImportMemory,
    Call::Mmap,
    Call::BeginCommandBuffer,
    Call::QueueSubmit,
];

/// Attaches all devices, uses the image on each, and moves it into another layout.
fn journey(engine: &Engine, image: &SharedImage, devices: &[Device]) -> Result<()> {
    let attach = |device| image.attach(device);
    let attachments = devices.iter().map(attach).collect::<Result<Vec<_>>>()?;
    for round in 0..2 {
        for (device, attachment) in devices.iter().zip(&attachments) {
            let mapping = attachment.map(Access::ReadWrite)?;
            mapping.view()?;
            let used = engine.submit(device, |submission| mapping.write(submission).map(drop))?;
            used.wait(LONG)?;
        }
        if round == 0 {
            image.relayout()?;
        }
    }
    Ok(())
}

#[test]
fn a_call_that_fails_leaves_every_texel_where_it_was() {
    let rig = Rig::new();
    let Some([lavapipe, swiftshader]) = rig.two_drivers() else { return };
    let second = rig.open(&lavapipe.adapter().clone());
    let devices = [swiftshader, lavapipe, second];
    let make = || {
        let made = rig.engine().create_image(&devices[0], image("AR24", (62, 18), 1));
        let made = made.expect("an image");
        write_by_host(&made, 1);
        made
    };
    // Routes are proved.
    journey(rig.engine(), &make(), &devices).expect("nothing fails");
    for call in CALLS {
        const MOST: u64 = 40;
        let mut reached = 0;
        for nth in 1..=MOST {
            let image = make();
            let code = vk::Result::ERROR_OUT_OF_HOST_MEMORY;
            rig.engine().calls().fail_nth(call, nth, code);
            let ended = journey(rig.engine(), &image, &devices);
            let pending = rig.engine().calls().clear_faults();
            assert_host_reads(&image, 1, &format!("{call:?} {nth}: {ended:?}"));
            if pending {
                ended.unwrap_or_else(|error| panic!("{call:?} {nth}: {error}"));
                break;
            }
            journey(rig.engine(), &image, &devices)
                .unwrap_or_else(|error| panic!("{call:?} {nth}, again: {error}"));
            assert_host_reads(&image, 1, &format!("{call:?} {nth}, again"));
            reached = nth;
        }
        assert!(reached < MOST, "{call:?}: more calls than the test looks at");
    }
}
