//! A new layout is no choice of where an image is.

use peerbuf::observe::{MoveCause, Reason};
use peerbuf::{Access, DomainId, Migration};

use crate::common::Rig;
use crate::common::recorder::Recorder;
use crate::relayout::three;
use crate::texels::{assert_host_reads, image, write_by_host};

#[test]
fn a_new_layout_is_no_choice_of_a_domain_and_has_a_cause_of_its_own() {
    let rig = Rig::new();
    let engine = rig.engine();
    let Some(devices) = three(&rig) else { return };
    let image = engine.create_image(&devices[0], image("AR24", (62, 18), 1)).expect("an image");
    write_by_host(&image, 1);
    let attach = |device| image.attach_dynamic(device, image.usage(), Recorder::new(true));
    let at_home = attach(&devices[0]).expect("it attaches");
    let preferred = DomainId::Vram(devices[0].id());
    assert_eq!(image.domain(), preferred);
    image.evict().expect("nothing keeps it");
    // They do not reach the memory of the home device, so the image stays where it is.
    let others = [1, 2].map(|at| attach(&devices[at]).expect("it attaches"));
    let explained = image.explain().buffer;
    assert_eq!((explained.domain, explained.preferred), (DomainId::System, preferred));
    let moved = image.relayout().expect("nothing keeps it");
    assert!(matches!(moved, Migration::Done { .. }), "{moved:?}");
    let explained = image.explain().buffer;
    assert_eq!((explained.domain, explained.preferred), (DomainId::System, preferred));
    assert_eq!(explained.decisions[0].reason, Reason::Rearranged, "{explained}");
    assert_eq!(engine.moved(MoveCause::Rearranged).moves, 1);
    assert_eq!(engine.moved(MoveCause::Asked).moves, 0);
    assert_host_reads(&image, 1, "laid out anew");
    drop(others);
    const ROUNDS: u32 = 64;
    let mut rounds = 0..ROUNDS;
    let returns = || {
        drop(at_home.map(Access::Read).expect("it maps"));
        image.domain() == preferred
    };
    assert!(rounds.any(|_| returns()), "{}", image.explain());
    assert_host_reads(&image, 1, "back");
}
