//! A program that shows frames: in a window by winit, or without a display.

use std::str::FromStr;
use std::sync::Arc;

use winit::application::ApplicationHandler;
use winit::dpi::PhysicalSize;
use winit::event::{ElementState, WindowEvent};
use winit::event_loop::{ActiveEventLoop, EventLoop};
use winit::keyboard::{KeyCode, PhysicalKey};
use winit::window::{Window, WindowId};

use crate::Result;
use crate::surface::Place;

/// A key that was pressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Key {
    /// A letter, in upper case.
    Letter(char),
    /// An arrow.
    Left,
    /// An arrow.
    Right,
    /// An arrow.
    Up,
    /// An arrow.
    Down,
}

/// A width and a height.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub [u32; 2]);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let read = || {
            let (width, height) = text.split_once('x')?;
            let size = [width.parse().ok()?, height.parse().ok()?];
            (1..=16384).contains(&size[0]).then_some(())?;
            (1..=16384).contains(&size[1]).then_some(Self(size))
        };
        read().ok_or_else(|| "two numbers from 1 to 16384, such as 1280x720".to_owned())
    }
}

/// What is shown, frame by frame.
pub trait Program {
    /// The size of its frames in texels.
    fn size(&self) -> [u32; 2];

    /// The size that it wants before its next frame, if that is to change.
    fn wanted_size(&self) -> Option<[u32; 2]>;

    /// Changes the size. It may wait for devices.
    ///
    /// # Errors
    ///
    /// Those end the program.
    fn resize(&mut self, size: [u32; 2]) -> Result<()>;

    /// Shows the next frame.
    ///
    /// # Errors
    ///
    /// As [`Program::resize`].
    fn next(&mut self) -> Result<()>;

    /// Whether the last frame was shown.
    fn is_over(&self) -> bool;

    /// Answers a key. **Q** and Escape end the program without a call.
    ///
    /// # Errors
    ///
    /// As [`Program::resize`].
    fn key(&mut self, key: Key) -> Result<()>;

    /// Ends it, before its window is closed.
    ///
    /// # Errors
    ///
    /// What was wrong with the run.
    fn close(self: Box<Self>) -> Result<()>;
}

/// Opens a program for a place to present.
type Open<'a> = Box<dyn FnOnce(Place) -> Result<Box<dyn Program>> + 'a>;

/// Runs a program without a display.
///
/// # Errors
///
/// Those of the program.
pub fn without_display(open: impl FnOnce(Place) -> Result<Box<dyn Program>>) -> Result<()> {
    let mut program = open(Place::Headless)?;
    let shown = (|| {
        while !program.is_over() {
            if let Some(wanted) = program.wanted_size() {
                program.resize(wanted)?;
            }
            program.next()?;
        }
        Ok(())
    })();
    let closed = program.close();
    shown.and(closed)
}

/// Runs a program in a window, until it is closed, Q is pressed, or the program is over.
///
/// # Errors
///
/// There is no display; those of the program.
pub fn in_window(
    title: &str,
    size: [u32; 2],
    open: impl FnOnce(Place) -> Result<Box<dyn Program>>,
) -> Result<()> {
    let events = EventLoop::new().map_err(|error| {
        // winit puts the place in its source before the reason.
        let error = error.to_string();
        let reason = error.rsplit(": ").next().unwrap_or_default();
        format!("no display: set WAYLAND_DISPLAY or DISPLAY, or pass --headless ({reason})")
    })?;
    let open: Open<'_> = Box::new(open);
    let (title, open) = (title.to_owned(), Some(open));
    let mut app = App { title, size, open, program: None, window: None, failed: None };
    events.run_app(&mut app)?;
    app.failed.map_or(Ok(()), Err)
}

struct App<'a> {
    title: String,
    size: [u32; 2],
    open: Option<Open<'a>>,
    // Closed before the window.
    program: Option<Box<dyn Program>>,
    window: Option<Arc<Window>>,
    failed: Option<Box<dyn std::error::Error>>,
}

impl App<'_> {
    fn open(&mut self, events: &ActiveEventLoop) -> Result<()> {
        let Some(open) = self.open.take() else { return Ok(()) };
        let attributes = Window::default_attributes()
            .with_title(&self.title)
            .with_inner_size(PhysicalSize::new(self.size[0], self.size[1]));
        let window = Arc::new(events.create_window(attributes)?);
        self.program = Some(open(Place::of(&*window)?)?);
        window.request_redraw();
        self.window = Some(window);
        Ok(())
    }

    /// One frame. A window without a size is not drawn.
    fn frame(&mut self, events: &ActiveEventLoop) -> Result<()> {
        let (Some(window), Some(program)) = (&self.window, &mut self.program) else {
            return Ok(());
        };
        let size: [u32; 2] = window.inner_size().into();
        if size.contains(&0) {
            return Ok(());
        }
        if let Some(wanted) = program.wanted_size() {
            // The answer comes as an event, or at once.
            let _ = window.request_inner_size(PhysicalSize::new(wanted[0], wanted[1]));
        }
        // Under Wayland a swapchain is never out of date.
        let size: [u32; 2] = window.inner_size().into();
        if !size.contains(&0) && size != program.size() {
            program.resize(size)?;
        }
        program.next()?;
        if program.is_over() {
            events.exit();
        } else {
            window.request_redraw();
        }
        Ok(())
    }

    fn key(&mut self, code: KeyCode, events: &ActiveEventLoop) -> Result<()> {
        let key = match code {
            KeyCode::KeyQ | KeyCode::Escape => {
                events.exit();
                return Ok(());
            }
            KeyCode::ArrowLeft => Key::Left,
            KeyCode::ArrowRight => Key::Right,
            KeyCode::ArrowUp => Key::Up,
            KeyCode::ArrowDown => Key::Down,
            // Their names are "KeyA" and so on.
            other => match format!("{other:?}").strip_prefix("Key").map(|name| name.parse()) {
                Some(Ok(letter)) => Key::Letter(letter),
                _ => return Ok(()),
            },
        };
        self.program.as_mut().map_or(Ok(()), |program| program.key(key))
    }

    /// Ends the program with an error.
    fn note(&mut self, result: Result<()>, events: &ActiveEventLoop) {
        if let Err(error) = result {
            self.failed = Some(error);
            events.exit();
        }
    }
}

impl ApplicationHandler for App<'_> {
    fn resumed(&mut self, events: &ActiveEventLoop) {
        let opened = self.open(events);
        self.note(opened, events);
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
        if let Some(program) = self.program.take() {
            let closed = program.close();
            if self.failed.is_none() {
                self.failed = closed.err();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_two_positive_numbers() {
        assert_eq!("1x16384".parse(), Ok(Size([1, 16384])));
        for wrong in ["", "0x1", "1x0", "1", "1x", "16385x1", "1x-1", "1xx1"] {
            assert!(wrong.parse::<Size>().is_err(), "{wrong}");
        }
    }
}
