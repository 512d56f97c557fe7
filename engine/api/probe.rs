//! The child process that proves routes for another engine.

use std::io::Write;

use super::descriptor::EngineDescriptor;
use super::engine::Engine;
use crate::device::{Adapter, Device};
use crate::error::{Error, Result};
use crate::transfer::{self, Request};

/// # Proving routes for another process
impl Engine {
    /// Proves the routes that another engine asks for, and writes the answer: what a program does that
    /// [`EngineDescriptor::probe_program`] names. `arguments` are those of the program after the word `probe`.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] if the arguments are not those of such a call; [`Error::Os`] if the answer cannot be
    /// written; those of [`Engine::open`] and [`Engine::open_device`].
    pub fn answer_probe(arguments: &[String], answer: &mut impl Write) -> Result<()> {
        let request = Request::parse(arguments).ok_or_else(|| Error::Unsupported {
            device: "the program".into(),
            missing: "the arguments of a call by another engine".into(),
        })?;
        let mut write = |line: &str| {
            let written = writeln!(answer, "{line}").and_then(|()| answer.flush());
            written.map_err(|error| {
                let errno = error.raw_os_error().unwrap_or(0);
                Error::os("write", rustix::io::Errno::from_raw_os_error(errno))
            })
        };
        write(&transfer::first_line())?;
        let (_engine, [from, to]) = match Self::open_for(&request) {
            Ok(opened) => opened,
            Err(error) => {
                write(&transfer::other_line())?;
                return Err(error);
            }
        };
        transfer::answer(&request, (&from.0, &to.0), write)
    }

    /// Opens an engine with the devices of a request.
    fn open_for(request: &Request) -> Result<(Self, [Device; 2])> {
        let engine = Self::open(&EngineDescriptor::new().timeout(request.limit))?;
        let open = |index| -> Result<Device> {
            let adapter =
                engine.adapters().iter().find(|adapter: &&Adapter| adapter.index() == index);
            adapter.map_or_else(
                || Err(Error::ForeignEngine { what: "the adapter" }),
                |adapter| engine.open_device(adapter),
            )
        };
        let from = open(request.from)?;
        let to = if request.same { from.clone() } else { open(request.to)? };
        Ok((engine, [from, to]))
    }
}
