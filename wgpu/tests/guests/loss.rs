//! A guest whose device is lost. The driver's behaviour is simulated, in a process of its own.

use std::path::Path;
use std::process::Command;

use driver_sim::{Control, Simulation};
use peerbuf::Access;
use peerbuf_wgpu::Error;

use crate::rig::{LONG, Rig, assert_texels, open, write};
use crate::silent::unknown_messages;

/// Set in the process whose devices are lost.
const INSIDE: &str = "GUEST_LOSS_TEST";

#[test]
fn a_guest_whose_device_is_lost_is_closed_and_leaves_nothing() {
    if std::env::var_os(INSIDE).is_some() {
        return lose_and_close();
    }
    let name = "loss::a_guest_whose_device_is_lost_is_closed_and_leaves_nothing";
    let control = Path::new(env!("CARGO_TARGET_TMPDIR")).join("guest-loss.control");
    let _ = std::fs::remove_file(&control);
    let simulation = Simulation::new("").expect("the layer is built");
    let output = simulation
        .below_validation()
        .controlled_by(control)
        .apply(&mut Command::new(std::env::current_exe().expect("this program")))
        .env(INSIDE, "")
        .args(["--exact", name, "--nocapture"])
        .output()
        .expect("it starts");
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "{said}\n{errors}");
    let unknown = unknown_messages(&said);
    assert!(unknown.is_empty(), "{unknown:#?}");
}

fn lose_and_close() {
    let control = Control::of_this_process().expect("a control file");
    let engine = open();
    let find = |name: &str| engine.adapters().iter().position(|one| one.name().contains(name));
    let [lost, other] =
        ["llvmpipe", "SwiftShader"].map(|name| find(name).expect("both drivers are there"));
    let mut fds = vec![];
    for _ in 0..4 {
        let mut rig = Rig::new(engine.clone(), (lost, other));
        let ((image, mut texture), (buffer, mut ours)) = (rig.image(), rig.buffer());
        write(&rig, &mut texture, 1);
        rig.fill(&buffer, 1);
        rig.other().submitted().expect("a fence").wait(LONG).expect("it ends");
        assert_texels(&image, 1);
        control.set("llvmpipe=+lost_at_submit=1").expect("written");
        let is_lost = |error: &Error| match error {
            Error::Engine(error) => error.is_device_lost(),
            _ => false,
        };
        let mut frame = rig.guest().frame();
        frame.texture(&mut texture, Access::Write).expect("a texture");
        frame.buffer(&mut ours, Access::Write).expect("a buffer");
        let error = frame.submit([]).expect_err("the device is lost");
        assert!(is_lost(&error), "{error}");
        let error = rig.guest().with_queue(|_| ()).expect_err("the device is lost");
        assert!(is_lost(&error), "{error}");
        let error = rig.guest().poll().expect_err("the device is lost");
        assert!(is_lost(&error), "{error}");
        // Such as a surface.
        rig.guest().drop_in_queue(rig.guest().wgpu().clone());
        drop((texture, ours, image, buffer));
        let guest = rig.guest.take().expect("a guest");
        drop(rig);
        if let Err((_, error)) = guest.close() {
            panic!("everything is dropped: {error}");
        }
        control.set("").expect("written");
        engine.trim();
        fds.push(std::fs::read_dir("/proc/self/fd").expect("procfs").count());
    }
    // The first one opens what drivers keep.
    assert!(fds[1..].windows(2).all(|pair| pair[0] == pair[1]), "{fds:?}");
}
