//! A window that is taken off the screen and shown again, under Xvfb, by another client of the server.

use std::time::{Duration, Instant};

use peerbuf_apps::stamp::{self, CELL, CELLS};
use x11rb::connection::Connection;
use x11rb::protocol::Event;
use x11rb::protocol::xproto::{
    AtomEnum, ChangeWindowAttributesAux, ClientMessageEvent, ConnectionExt, EventMask, ImageFormat,
    MapState, Window,
};
use x11rb::rust_connection::RustConnection;

use crate::common::{self, json};
use crate::windows::{drivers, start, xvfb};

/// How long a window may take to appear or to show another frame. It is reached only if the program hangs.
const PATIENCE: Duration = Duration::from_secs(120);

/// Repeats a question until it has an answer.
fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(begun.elapsed() < PATIENCE, "{what} has not happened");
        std::thread::sleep(Duration::from_millis(5));
    }
}

struct Screen {
    server: RustConnection,
    root: Window,
}

impl Screen {
    fn connect(display: &str) -> Self {
        let (server, at) = x11rb::connect(Some(display)).expect("the server answers");
        let root = server.setup().roots[at].root;
        Self { server, root }
    }

    fn window(&self, title: &str) -> Window {
        until("a window", || {
            let tree = self.server.query_tree(self.root).ok()?.reply().ok()?;
            tree.children.into_iter().find(|window| {
                let name = AtomEnum::WM_NAME;
                let asked =
                    self.server.get_property(false, *window, name, AtomEnum::ANY, 0, 64).ok();
                let name = asked.and_then(|asked| asked.reply().ok());
                name.is_some_and(|name| name.value == title.as_bytes())
            })
        })
    }

    fn state(&self, window: Window) -> MapState {
        let asked = self.server.get_window_attributes(window).expect("a live window");
        asked.reply().expect("a live window").map_state
    }

    /// The number of the frame that a window shows, if it is on the screen and shows one.
    fn frame(&self, window: Window) -> Option<u32> {
        let width = u16::try_from(CELL * CELLS).expect("small");
        let format = ImageFormat::Z_PIXMAP;
        let asked = self.server.get_image(format, window, 0, 0, width, 1, !0).ok()?;
        Some(stamp::number(&asked.reply().ok()?.data))
    }

    /// A later frame than `frame`, once the window shows one.
    fn later(&self, window: Window, frame: u32) -> u32 {
        until("a later frame", || self.frame(window).filter(|shown| *shown > frame))
    }

    /// Asks the program to close its window.
    fn close(&self, window: Window) {
        let atom = |name: &[u8]| {
            self.server.intern_atom(false, name).expect("sent").reply().expect("an atom").atom
        };
        let (kind, close) = (atom(b"WM_PROTOCOLS"), atom(b"WM_DELETE_WINDOW"));
        let message = ClientMessageEvent::new(32, window, kind, [close, 0, 0, 0, 0]);
        self.server.send_event(false, window, EventMask::NO_EVENT, message).expect("sent");
        self.server.flush().expect("sent");
    }
}

#[test]
fn a_window_that_is_unmapped_goes_on_once_it_is_mapped_again_and_closes() {
    let Some(display) = xvfb() else { return };
    let [_, present] = drivers();
    let fixed = ["--size", "400x300", "--plain", "--verify", "--json", "--move-every", "7"];
    let program =
        start(common::prime(), &display, &[&fixed[..], &["--present", &present]].concat());
    let screen = Screen::connect(display.name());
    let window = screen.window("prime");
    let events = ChangeWindowAttributesAux::new().event_mask(EventMask::STRUCTURE_NOTIFY);
    screen.server.change_window_attributes(window, &events).expect("sent");
    let mut frame = screen.later(window, 10);
    for _ in 0..3 {
        screen.server.unmap_window(window).expect("sent").check().expect("unmapped");
        until("the unmapping", || {
            let event = screen.server.poll_for_event().expect("the server answers");
            matches!(event, Some(Event::UnmapNotify(_))).then_some(())
        });
        assert_eq!(screen.state(window), MapState::UNMAPPED);
        screen.server.map_window(window).expect("sent").check().expect("mapped");
        frame = screen.later(window, frame);
    }
    screen.close(window);
    let said = json(&program.wait_with_output().expect("it ends"), "closed");
    assert!(said["frames"].as_u64() > Some(frame.into()), "{said:#}");
    assert_eq!(said["wrong"], serde_json::json!([]), "{said:#}");
}
