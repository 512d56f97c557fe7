//! The window, by winit.

use std::sync::Arc;

use peerbuf_apps::Result;
use peerbuf_apps::surface::Place;
use winit::application::ApplicationHandler;
use winit::dpi::PhysicalSize;
use winit::event::{ElementState, WindowEvent};
use winit::event_loop::{ActiveEventLoop, EventLoop};
use winit::keyboard::{KeyCode, PhysicalKey};
use winit::window::{Window, WindowId};

use crate::args::Args;
use crate::prime::{Prime, Wish};
use crate::run::{self, Session};

/// Runs until the window is closed, Q is pressed, or enough frames were shown.
pub(crate) fn run(args: &Args) -> Result<()> {
    let events = EventLoop::new().map_err(|error| {
        // winit puts the place in its source before the reason.
        let error = error.to_string();
        let reason = error.rsplit(": ").next().unwrap_or_default();
        format!("no display: set WAYLAND_DISPLAY or DISPLAY, or pass --headless ({reason})")
    })?;
    let mut app = App { args: args.clone(), session: None, window: None, failed: None };
    events.run_app(&mut app)?;
    app.failed.map_or(Ok(()), Err)
}

struct App {
    args: Args,
    // Dropped before the window.
    session: Option<Session>,
    window: Option<Arc<Window>>,
    failed: Option<Box<dyn std::error::Error>>,
}

impl App {
    fn open(&mut self, events: &ActiveEventLoop) -> Result<()> {
        let [width, height] = self.args.size.0;
        let attributes = Window::default_attributes()
            .with_title("prime")
            .with_inner_size(PhysicalSize::new(width, height));
        let window = Arc::new(events.create_window(attributes)?);
        self.session = Some(Session::open(&self.args, Place::of(&*window)?)?);
        window.request_redraw();
        self.window = Some(window);
        Ok(())
    }

    /// One frame. A window without a size is not drawn.
    fn frame(&mut self, events: &ActiveEventLoop) -> Result<()> {
        let (Some(window), Some(session)) = (&self.window, &mut self.session) else {
            return Ok(());
        };
        let size: [u32; 2] = window.inner_size().into();
        if size.contains(&0) {
            return Ok(());
        }
        if let Some(wanted) = run::size_by_plan(&self.args, session.prime()) {
            // The answer comes as an event, or at once.
            let _ = window.request_inner_size(PhysicalSize::new(wanted[0], wanted[1]));
        }
        // Under Wayland a swapchain is never out of date.
        let size: [u32; 2] = window.inner_size().into();
        if !size.contains(&0) && size != session.prime().size() {
            session.prime().resize(size)?;
        }
        session.prime().next()?;
        if run::is_over(&self.args, session.prime()) {
            events.exit();
        } else {
            window.request_redraw();
        }
        Ok(())
    }

    fn key(&mut self, key: KeyCode, events: &ActiveEventLoop) -> Result<()> {
        let wish = match key {
            KeyCode::KeyS => Wish::Switch,
            KeyCode::KeyM => Wish::Move,
            KeyCode::KeyE => Wish::Evict,
            KeyCode::KeyB => Wish::Budget,
            KeyCode::KeyQ | KeyCode::Escape => {
                events.exit();
                return Ok(());
            }
            _ => return Ok(()),
        };
        self.session.as_mut().map_or(Ok(()), |session| session.prime().wish(wish))
    }

    /// Ends the program with an error.
    fn note(&mut self, result: Result<()>, events: &ActiveEventLoop) {
        if let Err(error) = result {
            self.failed = Some(error);
            events.exit();
        }
    }
}

impl ApplicationHandler for App {
    fn resumed(&mut self, events: &ActiveEventLoop) {
        if self.window.is_none() {
            let opened = self.open(events);
            self.note(opened, events);
        }
    }

    fn window_event(&mut self, events: &ActiveEventLoop, _: WindowId, event: WindowEvent) {
        match event {
            WindowEvent::CloseRequested => events.exit(),
            WindowEvent::Resized(_) => {
                if let Some(window) = &self.window {
                    window.request_redraw();
                }
            }
            WindowEvent::RedrawRequested => {
                let shown = self.frame(events);
                self.note(shown, events);
            }
            WindowEvent::KeyboardInput { event, .. } if event.state == ElementState::Pressed => {
                if let PhysicalKey::Code(code) = event.physical_key {
                    let done = self.key(code, events);
                    self.note(done, events);
                }
            }
            _ => {}
        }
    }

    fn exiting(&mut self, _: &ActiveEventLoop) {
        if let Some(session) = self.session.take() {
            let closed = session.close(&self.args);
            if self.failed.is_none() {
                self.failed = closed.err();
            }
        }
    }
}

/// For the type of a prime behind a session.
impl Session {
    fn prime(&mut self) -> &mut Prime {
        &mut self.prime
    }
}
